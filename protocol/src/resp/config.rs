//! `CONFIG GET`: the settings that clients and tools ask for, under the names of Redis,
//! and W and R, which Redis does not have.

use super::args::Arguments;
use super::encode::Reply;
use super::facts::{Facts, Fsync};
use super::glob;

/// `CONFIG GET pattern [pattern ...]`: the settings that match any of the patterns, once each.
pub(super) fn get(args: Arguments<'_>, facts: &Facts<'_>, reply: &mut Reply<'_>) {
    let mut settings = settings(facts);
    settings.retain(|(name, _)| {
        args.from(2).any(|pattern| glob::matches_ignore_case(pattern, name.as_bytes()))
    });
    reply.map(settings.len());
    for (name, value) in settings {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

fn settings(facts: &Facts<'_>) -> Vec<(&'static str, String)> {
    let server = &facts.server;
    // The log is an append-only file, whatever its fsync policy.
    let fsync = match server.fsync {
        Fsync::Always => "always",
        Fsync::EveryMs(_) => "everysec",
        Fsync::Never => "no",
    };
    vec![
        ("appendfsync", fsync.to_owned()),
        ("appendonly", "yes".to_owned()),
        ("cluster-enabled", "no".to_owned()),
        ("databases", "1".to_owned()),
        ("dir", server.data_dir.to_owned()),
        ("maxclients", server.connections_max.to_string()),
        ("maxmemory", server.memory_max.unwrap_or(0).to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", server.tcp_port.to_string()),
        ("proto-max-bulk-len", server.value_bytes_max.to_string()),
        ("read-quorum", facts.cluster.read_quorum.to_string()),
        ("replica-read-only", "yes".to_owned()),
        ("save", String::new()),
        ("slave-read-only", "yes".to_owned()),
        ("timeout", "0".to_owned()),
        ("write-quorum", facts.cluster.write_quorum.to_string()),
    ]
}
