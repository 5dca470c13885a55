//! The commands that wait until everything before them on their connection is answered, because
//! they show the node's state or change the connection's.

use super::args::Arguments;
use super::dispatch::check_user;
use super::encode::{Reply, Version};
use super::facts::{Facts, Role};
use super::refusal::Refusal;
use super::session::{Name, Session, check_name};
use super::spec::Verb;
use super::table;
use super::{client, config, info};

/// The version of Redis whose commands these are. Clients use newer commands when it is higher.
pub(super) const REDIS_VERSION: &str = "7.2.0";

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// It goes on.
    Continue,
    /// It goes on, and the node begins a snapshot, of which this connection hears no more.
    Snapshot,
    /// Close it when all its replies are sent.
    Close,
}

/// Carries out a command for which [`dispatch`](super::dispatch()) has returned
/// [`Barrier`](super::Action::Barrier), and appends its reply to `out`.
pub fn execute(
    session: &mut Session,
    args: Arguments<'_>,
    facts: &Facts<'_>,
    out: &mut Vec<u8>,
) -> After {
    let mut reply = Reply { out, version: session.version() };
    match run(session, args, facts, &mut reply) {
        Ok(after) => after,
        Err(refusal) => {
            refusal.write(&mut reply);
            After::Continue
        }
    }
}

fn run<'a>(
    session: &mut Session,
    args: Arguments<'a>,
    facts: &Facts<'_>,
    reply: &mut Reply<'_>,
) -> Result<After, Refusal<'a>> {
    match table::resolve(args)?.verb {
        Verb::Hello => hello(session, args, facts, reply)?,
        Verb::Reset => {
            session.reset();
            reply.version = session.version();
            reply.simple("RESET");
        }
        verb @ (Verb::Readonly | Verb::Readwrite) => {
            session.set_read_only(verb == Verb::Readonly);
            reply.simple("OK");
        }
        Verb::Quit => {
            reply.simple("OK");
            return Ok(After::Close);
        }
        Verb::ClientSetname => {
            session.set_name(Name::Connection, connection_name(args.get(2))?);
            reply.simple("OK");
        }
        Verb::ClientGetname => client::name(session, reply),
        Verb::ClientSetinfo => client::set_info(session, args, reply)?,
        Verb::ClientId => reply.unsigned(facts.client.id),
        Verb::ClientInfo => client::info(session, facts, reply),
        Verb::ClientList => client::list(session, args, facts, reply)?,
        Verb::ConfigGet => config::get(args, facts, reply),
        Verb::Info => info::print(args, facts, reply),
        Verb::Dbsize => reply.unsigned(facts.stats.keys),
        Verb::Bgsave => return save(args, facts, reply),
        Verb::Lastsave => reply.unsigned(facts.stats.snapshots.saved_at_s),
        Verb::Role => role(facts, reply),
        Verb::Time => time(facts, reply),
        other => unreachable!("{other:?} needs nothing of the node and is never a barrier"),
    }
    Ok(After::Continue)
}

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`. Nothing changes unless all of it is right.
fn hello<'a>(
    session: &mut Session,
    args: Arguments<'a>,
    facts: &Facts<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Refusal<'a>> {
    let mut words = args.from(1);
    let mut version = session.version();
    if let Some(word) = words.next() {
        let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<i64>().ok());
        version = match number.ok_or(Refusal::ProtocolVersion)? {
            2 => Version::Resp2,
            3 => Version::Resp3,
            _ => return Err(Refusal::NoProtocol),
        };
    }
    let mut name = None;
    while let Some(option) = words.next() {
        if option.eq_ignore_ascii_case(b"AUTH") && words.len() >= 2 {
            return Err(words.next().map_or(Refusal::NoPassword, check_user));
        } else if option.eq_ignore_ascii_case(b"SETNAME") {
            let word = words.next().ok_or(Refusal::HelloOption(option))?;
            name = Some(connection_name(word)?);
        } else {
            return Err(Refusal::HelloOption(option));
        }
    }
    session.set_version(version);
    if let Some(name) = name {
        session.set_name(Name::Connection, name);
    }
    reply.version = version;
    print_hello(facts, reply);
    Ok(())
}

/// In this order, and with bulk strings as keys: redis-cli insists on both.
fn print_hello(facts: &Facts<'_>, reply: &mut Reply<'_>) {
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.unsigned(u64::from(reply.version.number()));
    reply.bulk(b"id");
    reply.unsigned(facts.client.id);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(if facts.cluster.role == Role::Leader { b"master" } else { b"replica" });
    reply.bulk(b"modules");
    reply.array(0);
}

fn connection_name(name: &[u8]) -> Result<&str, Refusal<'_>> {
    check_name(name).map_err(|error| Refusal::Name { what: "Client names", error })
}

/// `BGSAVE [SCHEDULE]`. There is nothing else that a snapshot would have to wait for.
fn save<'a>(
    args: Arguments<'a>,
    facts: &Facts<'_>,
    reply: &mut Reply<'_>,
) -> Result<After, Refusal<'a>> {
    if args.len() > 2 || args.from(1).any(|word| !word.eq_ignore_ascii_case(b"SCHEDULE")) {
        return Err(Refusal::Syntax);
    }
    if facts.stats.snapshots.in_progress {
        return Err(Refusal::SaveInProgress);
    }
    reply.simple("Background saving started");
    Ok(After::Snapshot)
}

/// `master`, offset, replicas; or `slave`, the leader's host and port, the state, the offset.
/// The offset is the commit index.
fn role(facts: &Facts<'_>, reply: &mut Reply<'_>) {
    let cluster = &facts.cluster;
    if cluster.role == Role::Leader {
        reply.array(3);
        reply.bulk(b"master");
        reply.unsigned(cluster.commit.0);
        reply.array(cluster.replicas.iter().filter(|replica| replica.connected).count());
        for replica in cluster.replicas.iter().filter(|replica| replica.connected) {
            let (host, port) = host_and_port(replica.address);
            reply.array(3);
            reply.bulk(host.as_bytes());
            reply.bulk(port.to_string().as_bytes());
            reply.bulk(replica.durable.0.to_string().as_bytes());
        }
        return;
    }
    let (host, port) = cluster.leader.map_or(("", 0), |leader| host_and_port(leader.address));
    let connected = cluster.leader.is_some_and(|leader| leader.connected);
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(host.as_bytes());
    reply.unsigned(u64::from(port));
    reply.bulk(if connected { b"connected" } else { b"connect" });
    reply.unsigned(cluster.commit.0);
}

/// Seconds, and microseconds of the second.
fn time(facts: &Facts<'_>, reply: &mut Reply<'_>) {
    let now = facts.server.unix_time_us;
    reply.array(2);
    reply.bulk((now / 1_000_000).to_string().as_bytes());
    reply.bulk((now % 1_000_000).to_string().as_bytes());
}

/// Splits `host:port`; the brackets of an IPv6 address stay outside.
pub(super) fn host_and_port(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host, port.parse().unwrap_or(0))
}
