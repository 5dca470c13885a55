//! What the RESP tests share: a node's facts that never change, and a reader of replies.
#![allow(dead_code, reason = "each test binary uses its part")]

use kvorum_protocol::resp::{
    ClientFacts, ClusterFacts, Facts, Fsync, LeaderFacts, ReplicaFacts, Role, ServerFacts, Session,
    SnapshotFacts, StatsFacts,
};
use kvorum_protocol::{ClusterId, LogIndex, NodeId, Quorum, Term};

/// The leader of a cluster of three, as `protocol/vectors/resp.txt` describes it.
pub fn facts() -> Facts<'static> {
    Facts {
        client: client(7),
        other_clients: &|visit| visit(client(8), &Session::default()),
        cluster: ClusterFacts {
            cluster_id: ClusterId(0xabc),
            node_id: NodeId(1),
            role: Role::Leader,
            term: Term(5),
            leader: Some(LeaderFacts {
                node_id: NodeId(1),
                address: "10.0.0.1:6379",
                connected: true,
                silent_s: 0,
            }),
            commit: LogIndex(12),
            applied: LogIndex(12),
            last: LogIndex(14),
            durable: LogIndex(13),
            voters: &[NodeId(1), NodeId(2), NodeId(3)],
            learners: &[],
            replicas: &[
                ReplicaFacts {
                    address: "10.0.0.2:6379",
                    durable: LogIndex(12),
                    connected: true,
                    silent_s: 2,
                },
                ReplicaFacts {
                    address: "10.0.0.3:6379",
                    durable: LogIndex(2),
                    connected: false,
                    silent_s: 90,
                },
            ],
            write_quorum: Quorum::Majority,
            read_quorum: Quorum::Count(1),
            relaxed: &["r"],
        },
        server: ServerFacts {
            version: "0.1.0",
            run_id: "0123456789abcdef0123456789abcdef01234567",
            process_id: 99,
            tcp_port: 6379,
            unix_time_us: 1_700_000_000_000_042,
            uptime_s: 100_000,
            fsync: Fsync::Always,
            data_dir: "/data",
            connections_max: 10_000,
            memory_max: None,
            value_bytes_max: 8 << 20,
            loading: false,
        },
        stats: StatsFacts {
            keys: 3,
            used_memory: 1_800_000,
            snapshots: SnapshotFacts { saved_at_s: 1_700_000_000, ..SnapshotFacts::default() },
            ..StatsFacts::default()
        },
    }
}

fn client(id: u64) -> ClientFacts<'static> {
    ClientFacts {
        id,
        address: "10.0.0.9:50000",
        local_address: "10.0.0.1:6379",
        age_s: 60,
        idle_s: 1,
    }
}

/// One reply, read strictly by the RESP3 specification.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i128),
    Bulk(Vec<u8>),
    Null,
    Verbatim(String),
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

/// Reads one reply and returns what is behind it; `None` for bytes that are no reply.
pub fn read_reply(bytes: &[u8]) -> Option<(Value, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &rest[..end];
    let rest = &rest[end + 2..];
    if line.contains(&b'\r') || line.contains(&b'\n') {
        return None;
    }
    let text = String::from_utf8_lossy(line).into_owned();
    let value = match kind {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Integer(text.parse().ok()?),
        b'_' if text.is_empty() => Value::Null,
        b'$' if text == "-1" => Value::Null,
        b'$' | b'=' => {
            let (content, rest) = rest.split_at_checked(text.parse().ok()?)?;
            let rest = rest.strip_prefix(b"\r\n")?;
            let value = if kind == b'$' {
                Value::Bulk(content.to_vec())
            } else {
                let content = content.strip_prefix(b"txt:")?;
                Value::Verbatim(String::from_utf8(content.to_vec()).ok()?)
            };
            return Some((value, rest));
        }
        b'*' | b'~' | b'%' => {
            let count: usize = text.parse().ok()?;
            let mut items = Vec::new();
            let mut rest = rest;
            for _ in 0..count * if kind == b'%' { 2 } else { 1 } {
                let item;
                (item, rest) = read_reply(rest)?;
                items.push(item);
            }
            let value = match kind {
                b'*' => Value::Array(items),
                b'~' => Value::Set(items),
                _ => Value::Map(
                    items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
                ),
            };
            return Some((value, rest));
        }
        _ => return None,
    };
    Some((value, rest))
}
