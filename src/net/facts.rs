//! What INFO, HELLO, ROLE and CLIENT LIST tell, gathered when they ask.

use kvorum_protocol::NodeId;
use kvorum_protocol::resp::{
    ClientFacts, ClusterFacts, Facts, Fsync, LeaderFacts, ReplicaFacts, ServerFacts,
    Session as RespState, StatsFacts,
};

use super::session::{Session, Turn};
use super::status;
use crate::config;

/// What the kernel knows of this process.
#[derive(Debug, Default)]
struct ProcessUse {
    resident_bytes: u64,
    cpu_user_us: u64,
    cpu_system_us: u64,
}

impl ProcessUse {
    fn read() -> ProcessUse {
        let (cpu_user_us, cpu_system_us) = cpu_micros().unwrap_or_default();
        let resident_bytes = resident_bytes().unwrap_or_default();
        ProcessUse { resident_bytes, cpu_user_us, cpu_system_us }
    }
}

/// Calls `tell` with the facts as they are now; those of the process, which cost two files to
/// read, only if it wants them.
pub fn with_facts<R>(
    session: &Session,
    addresses: [&str; 2],
    turn: &Turn<'_>,
    wants_process: bool,
    tell: impl FnOnce(&Facts<'_>) -> R,
) -> R {
    let others = |visit: &mut dyn FnMut(ClientFacts<'_>, &RespState)| {
        for connection in turn.clients.iter().filter_map(|(_, slot)| slot.as_deref()) {
            let Some(resp) = connection.resp() else { continue };
            let addresses = [resp.peer_address(), resp.local_address()];
            visit(client_facts(connection.session(), addresses, turn), resp.state());
        }
    };
    let process = if wants_process { ProcessUse::read() } else { ProcessUse::default() };
    let status = turn.node.status();
    let node = turn.node.config();
    let data_dir = turn.server.config.data.to_string_lossy();
    // A leader is known for as long as it is heard, which is far less than a second.
    let leader = status.leader.and_then(|node_id| {
        let address = status::client_address(turn, node_id)?;
        Some(LeaderFacts { node_id, address, connected: true, silent_s: 0 })
    });
    let learners: Vec<NodeId> = turn.node.members().learners().map(|member| member.id).collect();
    let relaxed: Vec<&str> = status::relaxed(turn).iter().map(|relaxed| relaxed.word()).collect();
    tell(&Facts {
        client: client_facts(session, addresses, turn),
        other_clients: &others,
        cluster: ClusterFacts {
            cluster_id: turn.server.cluster_id,
            node_id: node.id,
            role: status::role(turn),
            term: status.term,
            leader,
            commit: status.committed,
            applied: status.applied,
            last: status.last,
            durable: status.durable,
            voters: turn.node.voters(),
            learners: &learners,
            replicas: &replicas(turn),
            write_quorum: node.write_quorum,
            read_quorum: node.read_quorum,
            relaxed: &relaxed,
        },
        server: server_facts(turn, &data_dir),
        stats: stats_facts(turn, &process),
    })
}

/// Who copies from this node; nobody unless it leads.
fn replicas<'t>(turn: &'t Turn<'_>) -> Vec<ReplicaFacts<'t>> {
    let replicas = turn.node.progress().filter_map(|member| {
        let silent = member.heard_at.map(|heard_at| turn.now.monotonic.since(heard_at));
        Some(ReplicaFacts {
            address: status::client_address(turn, member.id)?,
            durable: member.durable,
            connected: silent.is_some_and(|silent| silent < turn.node.config().election_timeout),
            silent_s: silent.unwrap_or_default().as_secs(),
        })
    });
    replicas.collect()
}

fn client_facts<'a>(
    session: &Session,
    [address, local_address]: [&'a str; 2],
    turn: &Turn<'_>,
) -> ClientFacts<'a> {
    let now = turn.now.monotonic;
    ClientFacts {
        id: session.number,
        address,
        local_address,
        age_s: now.since(session.since).as_secs(),
        idle_s: now.since(session.served_at).as_secs(),
    }
}

fn server_facts<'a>(turn: &'a Turn<'_>, data_dir: &'a str) -> ServerFacts<'a> {
    let config = &turn.server.config;
    let port = turn.server.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    ServerFacts {
        version: env!("CARGO_PKG_VERSION"),
        run_id: &turn.server.run_id,
        process_id: std::process::id(),
        tcp_port: port.unwrap_or_default(),
        unix_time_us: turn.now.wall_ms * 1000,
        uptime_s: turn.now.monotonic.since(crate::core::Instant::default()).as_secs(),
        fsync: match config.fsync {
            config::Fsync::Always => Fsync::Always,
            config::Fsync::EveryMs(ms) => Fsync::EveryMs(ms),
            config::Fsync::Never => Fsync::Never,
        },
        data_dir,
        connections_max: turn.server.connections_max,
        memory_max: config.memory_bytes_max,
        value_bytes_max: config.limits.value_bytes_max,
        loading: false,
    }
}

fn stats_facts(turn: &Turn<'_>, process: &ProcessUse) -> StatsFacts {
    let status = turn.node.status();
    StatsFacts {
        keys: status.keys as u64,
        sessions: status.sessions as u64,
        snapshots: turn.server.snapshots,
        used_memory: (status.memory_bytes + turn.server.buffer_bytes) as u64,
        resident_memory: process.resident_bytes,
        connected_clients: turn.clients.len() as u64,
        connections_total: turn.server.connections_total,
        connections_rejected: turn.server.connections_rejected,
        commands_total: turn.server.requests_total,
        hits: status.reads_found,
        misses: status.reads_missed,
        cpu_user_us: process.cpu_user_us,
        cpu_system_us: process.cpu_system_us,
    }
}

/// See proc_pid_statm(5).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// User and system time of the process; see proc_pid_stat(5), fields 14 and 15.
fn cpu_micros() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process may hold anything, but the last parenthesis closes it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut micros = || {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
    };
    Some((micros()?, micros()?))
}
