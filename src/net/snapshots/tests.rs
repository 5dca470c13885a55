//! What comes late of a snapshot that was given up: the test stands in for the thread.

use std::sync::mpsc::{Receiver, Sender};

use kvorum_protocol::{LogTimeMs, MemberList, Term};

use super::*;
use crate::core::log::LogEnd;
use crate::core::state::State;
use crate::core::{NodeConfig, Recovery, SessionBounds, SnapshotHead};
use crate::disk::FileDisk;
use crate::snapshot::SnapshotError;

const FIRST: ReplyTo = ReplyTo { connection: 1, tag: 0 };
const SECOND: ReplyTo = ReplyTo { connection: 2, tag: 0 };

struct Stage {
    _directory: tempfile::TempDir,
    node: Node,
    snapshots: Snapshots,
    jobs: Receiver<Job>,
    done: Sender<Done>,
}

impl Stage {
    fn new() -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(directory.path(), false).unwrap());
        let (thread, jobs, done) = SnapshotThread::detached();
        let trigger = Trigger { log_percent: 100, log_bytes_min: 1 << 30 };
        let config = SnapshotsConfig { disk, trigger, kept: Vec::new(), log_bytes: 0 };
        let snapshots = Snapshots::with_thread(thread, config, &Now::default());
        let members = MemberList::lone(NodeId(1), "a:1").unwrap();
        let config = NodeConfig::new(NodeId(1), members);
        let node = Node::new(config, Recovery::new(1).of(NodeId(1)), 1 << 30);
        Stage { _directory: directory, node, snapshots, jobs, done }
    }

    /// All of a snapshot was walked, for everybody who waits.
    fn finishing(&mut self, index: u64) {
        self.snapshots.waiting = std::mem::take(&mut self.snapshots.wanted);
        self.snapshots.phase = Phase::Finishing(LogIndex(index));
    }

    /// The thread says this; returns what clients are told.
    fn tell(&mut self, done: Done) -> Vec<Reply> {
        let mut replies = Vec::new();
        self.done.send(done).unwrap();
        self.snapshots.take_results(&Now::default(), &mut self.node, &mut replies);
        replies
    }
}

fn info(index: u64) -> SnapshotInfo {
    SnapshotInfo { index: LogIndex(index), bytes: 4096, path: "snapshot".into() }
}

fn installed(index: u64) -> Done {
    let head = SnapshotHead {
        end: LogEnd { index: LogIndex(index), term: Term(1), crc: 0, time: LogTimeMs(0) },
        members: MemberList::lone(NodeId(1), "a:1").unwrap(),
        members_index: LogIndex(1),
        terms: vec![(LogIndex(1), Term(1))],
        hash_seed: 1,
        state_hash: 0,
        keys: 0,
    };
    let state = State::new(1, SessionBounds::default());
    Done::Installed(info(index), Box::new((head, state)))
}

fn failed(index: u64) -> Done {
    let error = SnapshotError::NotSnapshot { path: "snapshot".into() };
    Done::Failed { index: LogIndex(index), error }
}

#[test]
fn who_waits_is_answered_by_the_one_that_is_being_made() {
    let mut stage = Stage::new();
    stage.snapshots.demand(FIRST);
    stage.finishing(5);
    assert_eq!(stage.tell(installed(9)), [], "nothing has failed");
    assert!(!stage.snapshots.is_taking());
    assert!(stage.jobs.try_iter().any(|job| matches!(job, Job::GiveUp)));

    stage.snapshots.demand(SECOND);
    stage.finishing(12);
    assert_eq!(stage.tell(Done::Written(info(5))), [], "it is of an earlier state");
    assert_eq!(stage.tell(failed(5)), []);
    assert!(stage.snapshots.is_taking());
    let answer = Answer::Number(12);
    let expected = [Reply { to: FIRST, answer }, Reply { to: SECOND, answer }];
    assert_eq!(stage.tell(Done::Written(info(12))), expected);
    assert!(!stage.snapshots.is_taking());
}

#[test]
fn a_failure_is_told_to_all_who_wait() {
    let mut stage = Stage::new();
    stage.snapshots.demand(FIRST);
    stage.finishing(5);
    stage.snapshots.demand(SECOND);
    let answer = Answer::Refused(Refusal::SnapshotFailed);
    let expected = [Reply { to: FIRST, answer }, Reply { to: SECOND, answer }];
    assert_eq!(stage.tell(failed(5)), expected);
    assert!(stage.snapshots.facts().has_failed);
    assert!(!stage.snapshots.is_taking());
}
