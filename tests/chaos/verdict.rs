//! What must be true when the trouble is over: clients saw one store, every node holds the same,
//! and every acknowledged write stands in every log where the client was told.

use std::collections::BTreeMap;
use std::path::Path;

use super::traffic::{KEYS, key_name};
use super::trial::Trial;
use crate::support::child::Ends as _;
use crate::support::cluster::Cluster;
use crate::support::history::Operation;
use crate::support::linearizable::STEPS_MAX;
use crate::support::register::{Action, Answer, Call, check_store};
use crate::support::server::kvorum;
use crate::support::until;

/// Judges a cluster whose nodes all run, and ends them.
pub fn judge(trial: &mut Trial<'_>) {
    let Trial { cluster, traffic, .. } = trial;
    let nodes: Vec<usize> = cluster.running().collect();
    for &node in &nodes {
        traffic.look(node);
    }
    traffic.recorder.with_history(|history| {
        check_store(history, STEPS_MAX).unwrap_or_else(|failure| panic!("{failure}"));
    });
    until("all nodes hold the same", || are_equal(cluster, &nodes).then_some(()));
    for &node in &nodes {
        let exit = cluster.terminate(node);
        assert_eq!(exit.code, Some(0), "node {node} does not end well: {exit:?}");
    }
    let logs: Vec<Log> = nodes.iter().map(|&node| Log::read(&cluster.data(node))).collect();
    for (node, log) in nodes.iter().zip(&logs) {
        logs[0].must_agree_with(log, *node);
        traffic.recorder.with_history(|history| {
            history.operations().iter().for_each(|operation| log.must_have(operation, *node));
        });
    }
}

/// Whether nodes that are left alone have applied the same and hold the same.
fn are_equal(cluster: &Cluster, nodes: &[usize]) -> bool {
    let held = nodes.iter().map(|&node| {
        let [applied, keys] = ["applied", "keys"].map(|name| cluster.node(node).status(name));
        let mut client = cluster.text(node);
        assert_eq!(client.ask("QUORUM r=1"), "OK");
        let values = (0..KEYS).map(|key| client.ask(&format!("GET {}", key_name(key))));
        (applied, keys, values.collect::<Vec<_>>())
    });
    let held: Vec<_> = held.collect();
    held.windows(2).all(|pair| pair[0] == pair[1])
}

/// The log of a node that has ended.
struct Log {
    /// Term and command, by index.
    entries: BTreeMap<u64, (u64, String)>,
    committed: u64,
}

impl Log {
    fn read(directory: &Path) -> Log {
        let output =
            kvorum().args(["wal", "dump"]).arg(directory).output_in_time().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("a dump is UTF-8");
        let mut log = Log { entries: BTreeMap::new(), committed: 0 };
        let mut term = 0;
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix("  ") {
                let (index, command) = entry.split_once(' ').expect("index and command");
                let index = index.parse().expect("an index");
                log.entries.insert(index, (term, command.to_owned()));
                continue;
            }
            log.committed = log.committed.max(number(line, "commit=").unwrap_or(0));
            if line.contains(" BATCH ") {
                term = number(line, "term=").expect("batches have a term");
            } else if line.contains(" TRUNCATE ") {
                let last = number(line, "last=").expect("truncations say what stays");
                log.entries.split_off(&(last + 1));
            }
        }
        log
    }

    /// Two logs are the same as far as both know that it is committed.
    fn must_agree_with(&self, other: &Log, node: usize) {
        let committed = self.committed.min(other.committed);
        for (index, entry) in self.entries.range(..=committed) {
            let there = other.entries.get(index);
            assert_eq!(there, Some(entry), "node {node} has another entry {index} than the first");
        }
    }

    /// A write that was acknowledged stands where its client was told.
    fn must_have(&self, operation: &Operation<Call, Answer>, node: usize) {
        let key = key_name(operation.call.key);
        let (version, words) = match (operation.call.action, operation.answer()) {
            (Action::Set(value), Some(Answer::Written { version })) => {
                (version, format!("SET {key} {value}"))
            }
            (Action::Delete, Some(Answer::Deleted { version, existed: true })) => {
                (version, format!("DELETE {key}"))
            }
            _ => return,
        };
        let version = version.expect("the binary protocol tells versions");
        let command = self.entries.get(&version).map(|(_, command)| command.as_str());
        let rest = command.and_then(|command| command.strip_prefix(words.as_str()));
        let is_there = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
        assert!(is_there, "node {node} has {command:?} as entry {version} instead of {words}");
    }
}

/// The number behind a name in a line of a dump.
fn number(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split(' ');
    words.find_map(|word| word.strip_prefix(name)).and_then(|number| number.parse().ok())
}
