//! From the words that people type to values. Each function returns, as its error, what it
//! accepts: the end of the sentence "'x' is not ...".

use std::path::PathBuf;

use kvorum_protocol::{Member, NodeId, Quorum, Role};

use super::Fsync;

pub(super) fn node_id(word: &str) -> Result<NodeId, String> {
    match word.parse() {
        Ok(id @ 1..) => Ok(NodeId(id)),
        _ => Err("a node id, a number from 1 to 65535".into()),
    }
}

/// A number from 1 to `max`.
pub(super) fn number(word: &str, max: u64) -> Result<u64, String> {
    match word.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(format!("a number from 1 to {max}")),
    }
}

/// A size in bytes from 1 to `max`, with the units of redis.conf and of IEC 80000-13, in any case:
/// `k`, `m`, `g` are powers of 1000; `kb`, `mb`, `gb` and `kib`, `mib`, `gib` are powers of 1024.
pub(super) fn size(word: &str, max: u64) -> Result<u64, String> {
    let accepted = || match max {
        u64::MAX => "a size in bytes, such as 536870912, 512mb or 4GiB".to_owned(),
        _ => format!("a size from 1 to {max} bytes, such as 1024, 64kb or 1MiB"),
    };
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (count, unit) = word.split_at(digits);
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        _ => return Err(accepted()),
    };
    let bytes = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    bytes.filter(|bytes| (1..=max).contains(bytes)).ok_or_else(accepted)
}

pub(super) fn fsync(word: &str) -> Result<Fsync, String> {
    match word {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        _ => number(word, super::TIMEOUT_MS_MAX)
            .map(Fsync::EveryMs)
            .map_err(|_| "'always', 'never' or a number of milliseconds from 1".into()),
    }
}

pub(super) fn write_quorum(word: &str) -> Result<Quorum, String> {
    word.parse().map_err(|_| "'majority', 'all' or a number of voters from 1".into())
}

/// R = all would let one dead voter stop every read, and adds nothing to what a majority sees.
pub(super) fn read_quorum(word: &str) -> Result<Quorum, String> {
    match word.parse() {
        Ok(quorum @ (Quorum::Majority | Quorum::Count(_))) => Ok(quorum),
        _ => Err("'majority' or a number of voters from 1".into()),
    }
}

pub(super) fn directory(word: &str) -> Result<PathBuf, String> {
    if word.is_empty() { Err("a directory".into()) } else { Ok(word.into()) }
}

pub(super) fn file(word: &str) -> Result<PathBuf, String> {
    if word.is_empty() { Err("a file".into()) } else { Ok(word.into()) }
}

pub(super) fn boolean(word: &str) -> Result<bool, String> {
    word.parse().map_err(|_| "'true' or 'false'".into())
}

/// `HOST:PORT`; the port may be 0.
pub(super) fn address(word: &str) -> Result<String, String> {
    split_address(word)
        .map(|_| word.to_owned())
        .ok_or_else(|| "HOST:PORT, such as 127.0.0.1:6379 or [::1]:6379".into())
}

/// `ID=CLIENT/PEER`. Others must find the node there, so no port is 0; a node that is alone needs
/// no peer address.
pub(super) fn member(word: &str, role: Role) -> Result<Member, String> {
    let reachable = |address: &String| split_address(address).is_some_and(|(_, port)| port != 0);
    match Member::parse(word, role) {
        Ok(member)
            if reachable(&member.client) && (member.peer.is_empty() || reachable(&member.peer)) =>
        {
            Ok(member)
        }
        _ => Err("ID=CLIENT/PEER, such as 1=127.0.0.1:6381/127.0.0.1:7381".into()),
    }
}

/// Whether other machines can reach an address that is a number. Of a name it shows later.
pub(super) fn is_open(address: &str) -> bool {
    address.parse().is_ok_and(|address: std::net::SocketAddr| !address.ip().is_loopback())
}

/// Host and port. An IPv6 address stands in brackets, so that its colons are not the port's.
fn split_address(word: &str) -> Option<(&str, u16)> {
    let (host, port) = word.rsplit_once(':')?;
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    let valid = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            !host.is_empty() && host.bytes().all(of_a_name)
        }
    };
    valid.then_some((host, port))
}
