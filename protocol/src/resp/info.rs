//! `INFO`: the sections and fields that Redis's clients and tools read, with the true values of
//! this node, and a section of kvorum's own.

use std::fmt::{self, Write};

use super::args::Arguments;
use super::encode::Reply;
use super::execute::{REDIS_VERSION, host_and_port};
use super::facts::{Facts, Fsync, Role};
use crate::types::NodeId;

type Print = fn(&mut String, &Facts<'_>) -> fmt::Result;

/// `# Server` stands first because redis-cli looks for a line end before `redis_version`.
const SECTIONS: [(&str, Print); 10] = [
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Kvorum", kvorum),
    ("Keyspace", keyspace),
];

/// `INFO [section ...]`; no section, `default`, `all` and `everything` print all of them.
pub(super) fn print(args: Arguments<'_>, facts: &Facts<'_>, reply: &mut Reply<'_>) {
    let asked = |name: &str| args.from(1).any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let all = args.len() == 1 || asked("default") || asked("all") || asked("everything");
    let mut text = String::new();
    for (name, section) in SECTIONS {
        if !all && !asked(name) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write!(text, "# {name}\r\n")
            .and_then(|()| section(&mut text, facts))
            .expect("a String takes everything");
    }
    reply.verbatim(&text);
}

fn server(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let server = &facts.server;
    write!(text, "redis_version:{REDIS_VERSION}\r\n")?;
    write!(text, "kvorum_version:{}\r\n", server.version)?;
    write!(text, "redis_mode:standalone\r\n")?;
    write!(text, "os:{} {}\r\n", std::env::consts::OS, std::env::consts::ARCH)?;
    write!(text, "arch_bits:{}\r\n", usize::BITS)?;
    write!(text, "process_id:{}\r\n", server.process_id)?;
    write!(text, "run_id:{}\r\n", server.run_id)?;
    write!(text, "tcp_port:{}\r\n", server.tcp_port)?;
    write!(text, "server_time_usec:{}\r\n", server.unix_time_us)?;
    write!(text, "uptime_in_seconds:{}\r\n", server.uptime_s)?;
    write!(text, "uptime_in_days:{}\r\n", server.uptime_s / 86_400)
}

fn clients(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    write!(text, "connected_clients:{}\r\n", facts.stats.connected_clients)?;
    write!(text, "maxclients:{}\r\n", facts.server.connections_max)?;
    write!(text, "blocked_clients:0\r\n")
}

fn memory(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let stats = &facts.stats;
    let memory_max = facts.server.memory_max.unwrap_or(0);
    write!(text, "used_memory:{}\r\n", stats.used_memory)?;
    write!(text, "used_memory_human:{}\r\n", Human(stats.used_memory))?;
    write!(text, "used_memory_rss:{}\r\n", stats.resident_memory)?;
    write!(text, "used_memory_rss_human:{}\r\n", Human(stats.resident_memory))?;
    write!(text, "maxmemory:{memory_max}\r\n")?;
    write!(text, "maxmemory_human:{}\r\n", Human(memory_max))?;
    write!(text, "maxmemory_policy:noeviction\r\n")
}

fn persistence(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    write!(text, "loading:{}\r\n", u8::from(facts.server.loading))?;
    let snapshots = &facts.stats.snapshots;
    let changes = facts.cluster.applied.0.saturating_sub(snapshots.index.0);
    write!(text, "rdb_changes_since_last_save:{changes}\r\n")?;
    write!(text, "rdb_bgsave_in_progress:{}\r\n", u8::from(snapshots.in_progress))?;
    write!(text, "rdb_last_save_time:{}\r\n", snapshots.saved_at_s)?;
    let status = if snapshots.has_failed { "err" } else { "ok" };
    write!(text, "rdb_last_bgsave_status:{status}\r\n")?;
    write!(text, "aof_enabled:1\r\n")?;
    // Were it not ok, this process would have stopped.
    write!(text, "aof_last_write_status:ok\r\n")
}

fn stats(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let stats = &facts.stats;
    write!(text, "total_connections_received:{}\r\n", stats.connections_total)?;
    write!(text, "total_commands_processed:{}\r\n", stats.commands_total)?;
    write!(text, "rejected_connections:{}\r\n", stats.connections_rejected)?;
    write!(text, "expired_keys:0\r\n")?;
    write!(text, "evicted_keys:0\r\n")?;
    write!(text, "keyspace_hits:{}\r\n", stats.hits)?;
    write!(text, "keyspace_misses:{}\r\n", stats.misses)?;
    write!(text, "sessions:{}\r\n", stats.sessions)
}

fn replication(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let cluster = &facts.cluster;
    if cluster.role == Role::Leader {
        write!(text, "role:master\r\n")?;
    } else {
        let (host, port) = cluster.leader.map_or(("", 0), |leader| host_and_port(leader.address));
        let connected = cluster.leader.is_some_and(|leader| leader.connected);
        write!(text, "role:slave\r\n")?;
        write!(text, "master_host:{host}\r\n")?;
        write!(text, "master_port:{port}\r\n")?;
        write!(text, "master_link_status:{}\r\n", if connected { "up" } else { "down" })?;
        if let Some(leader) = cluster.leader {
            write!(text, "master_last_io_seconds_ago:{}\r\n", leader.silent_s)?;
        }
        write!(text, "slave_repl_offset:{}\r\n", cluster.applied)?;
        write!(text, "slave_read_only:1\r\n")?;
    }
    let connected = cluster.replicas.iter().filter(|replica| replica.connected);
    write!(text, "connected_slaves:{}\r\n", connected.clone().count())?;
    for (number, replica) in connected.enumerate() {
        let (host, port) = host_and_port(replica.address);
        write!(text, "slave{number}:ip={host},port={port},state=online")?;
        write!(text, ",offset={},lag={}\r\n", replica.durable, replica.silent_s)?;
    }
    write!(text, "master_repl_offset:{}\r\n", cluster.commit)
}

fn cpu(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let (user, system) = (facts.stats.cpu_user_us, facts.stats.cpu_system_us);
    write!(text, "used_cpu_sys:{}.{:06}\r\n", system / 1_000_000, system % 1_000_000)?;
    write!(text, "used_cpu_user:{}.{:06}\r\n", user / 1_000_000, user % 1_000_000)
}

/// Redis Cluster is meant, which shares keys out among nodes; this is none.
fn cluster(text: &mut String, _: &Facts<'_>) -> fmt::Result {
    write!(text, "cluster_enabled:0\r\n")
}

fn kvorum(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    let cluster = &facts.cluster;
    let leader = cluster.leader.map_or(NodeId(0), |leader| leader.node_id);
    write!(text, "cluster_id:{:016x}\r\n", cluster.cluster_id.0)?;
    write!(text, "node_id:{}\r\n", cluster.node_id)?;
    write!(text, "node_role:{}\r\n", cluster.role.word())?;
    write!(text, "term:{}\r\n", cluster.term)?;
    write!(text, "leader_id:{leader}\r\n")?;
    write!(text, "commit_index:{}\r\n", cluster.commit)?;
    write!(text, "applied_index:{}\r\n", cluster.applied)?;
    write!(text, "last_index:{}\r\n", cluster.last)?;
    write!(text, "durable_index:{}\r\n", cluster.durable)?;
    write!(text, "voters:{}\r\n", List(cluster.voters))?;
    write!(text, "learners:{}\r\n", List(cluster.learners))?;
    write!(text, "write_quorum:{}\r\n", cluster.write_quorum)?;
    write!(text, "read_quorum:{}\r\n", cluster.read_quorum)?;
    match facts.server.fsync {
        Fsync::Always => write!(text, "fsync:always\r\n"),
        Fsync::EveryMs(interval) => write!(text, "fsync:{interval}\r\n"),
        Fsync::Never => write!(text, "fsync:never\r\n"),
    }?;
    write!(text, "relaxed:{}\r\n", cluster.relaxed.join(","))
}

/// No line for a database without keys, as in Redis.
fn keyspace(text: &mut String, facts: &Facts<'_>) -> fmt::Result {
    match facts.stats.keys {
        0 => Ok(()),
        keys => write!(text, "db0:keys={keys},expires=0,avg_ttl=0\r\n"),
    }
}

/// Node ids with commas between them.
struct List<'a>(&'a [NodeId]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, id) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{id}")?;
        }
        Ok(())
    }
}

/// Bytes as Redis prints them for people: `512B`, `1.72M`.
struct Human(u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{}B", self.0);
        }
        let (unit, shift) = match self.0 {
            0..0x10_0000 => ('K', 10),
            0x10_0000..0x4000_0000 => ('M', 20),
            0x4000_0000..0x100_0000_0000 => ('G', 30),
            _ => ('T', 40),
        };
        let hundredths = (u128::from(self.0) * 100) >> shift;
        write!(f, "{}.{:02}{unit}", hundredths / 100, hundredths % 100)
    }
}
