//! The core against a model, over random histories: requests of several connections, a disk that
//! syncs when it likes, timeouts, a log without room, and crashes at any point.
//!
//! The model is the log itself: the state after each index, as a map. Then the promises are short:
//! - an answered write is durable, and has done what the entry at its index does;
//! - a read sees the state at one index: at exactly its connection's last write if it had to wait,
//!   else at one that holds every write answered so far, and nothing that a crash could take back;
//! - every request is answered at most once, and exactly once when nothing crashes;
//! - a restart has everything that was durable, and nothing that was not on the disk.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum::core::raft::Role;
use kvorum::core::{
    Asker, Instant, NextSegment, Node, NodeConfig, Now, Options, Output, ReadOutcome, Record,
    Recovery, Refusal, ReplyTo, WriteOutcome,
};
use kvorum::wal::LogState;
use kvorum_protocol::{
    Batch, Command, KeyList, Limits, LogIndex, Lsn, MemberList, NodeId, Op, PairList, Read,
    Response,
};
use proptest::prelude::*;

const CONNECTIONS: usize = 3;
const KEYS: [&[u8]; 5] = [b"a", b"b", b"c", b"longer key", b""];

/// A value this long makes `poll` speak in portions when it is read a few times.
const HUGE_BYTES: usize = 1500 << 10;

#[derive(Clone, Debug)]
enum Step {
    Set {
        connection: usize,
        key: usize,
        bytes: usize,
    },
    SetMany {
        connection: usize,
        keys: Vec<usize>,
    },
    Delete {
        connection: usize,
        keys: Vec<usize>,
    },
    Get {
        connection: usize,
        key: usize,
    },
    GetMany {
        connection: usize,
        keys: Vec<usize>,
    },
    Count {
        connection: usize,
        keys: Vec<usize>,
    },
    Length {
        connection: usize,
        key: usize,
    },
    Tick {
        ms: u64,
    },
    WallJump {
        ms: u64,
    },
    Poll,
    Seal,
    /// So many of the records on their way become durable.
    Durable {
        records: usize,
    },
    Room {
        bytes: u64,
        next: NextSegment,
    },
    /// So many of the records that were not known to be durable survive.
    Crash {
        kept: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let connection = 0..CONNECTIONS;
    let key = 0..KEYS.len();
    let keys = || prop::collection::vec(0..KEYS.len(), 1..5);
    let bytes = prop_oneof![40 => 0usize..30, 1 => Just(HUGE_BYTES)];
    let next_segment = prop_oneof![Just(NextSegment::Coming), Just(NextSegment::Lacking)];
    prop_oneof![
        16 => (connection.clone(), key.clone(), bytes)
            .prop_map(|(connection, key, bytes)| Step::Set { connection, key, bytes }),
        3 => (connection.clone(), keys())
            .prop_map(|(connection, keys)| Step::SetMany { connection, keys }),
        5 => (connection.clone(), keys())
            .prop_map(|(connection, keys)| Step::Delete { connection, keys }),
        16 => (connection.clone(), key.clone())
            .prop_map(|(connection, key)| Step::Get { connection, key }),
        3 => (connection.clone(), keys())
            .prop_map(|(connection, keys)| Step::GetMany { connection, keys }),
        1 => (connection.clone(), keys())
            .prop_map(|(connection, keys)| Step::Count { connection, keys }),
        1 => (connection, key).prop_map(|(connection, key)| Step::Length { connection, key }),
        6 => (0u64..400).prop_map(|ms| Step::Tick { ms }),
        1 => (0u64..10_000).prop_map(|ms| Step::WallJump { ms }),
        14 => Just(Step::Poll),
        10 => Just(Step::Seal),
        12 => (0usize..4).prop_map(|records| Step::Durable { records }),
        1 => (0u64..40_000, next_segment)
            .prop_map(|(bytes, next)| Step::Room { bytes, next }),
        1 => (0usize..4).prop_map(|kept| Step::Crash { kept }),
    ]
}

type State = BTreeMap<Vec<u8>, (LogIndex, Rc<[u8]>)>;

/// What the log says: the state after each index, and how many keys the entry there deleted.
struct Model {
    states: Vec<State>,
    deleted: Vec<u32>,
}

impl Model {
    fn new() -> Model {
        Model { states: vec![State::new()], deleted: vec![0] }
    }

    fn last(&self) -> LogIndex {
        LogIndex(self.states.len() as u64 - 1)
    }

    fn at(&self, index: LogIndex) -> &State {
        &self.states[usize::try_from(index.0).unwrap()]
    }

    fn push(&mut self, index: LogIndex, op: &Op<'_>) {
        assert_eq!(index, self.last().next());
        let mut state = self.at(self.last()).clone();
        let mut deleted = 0;
        match op {
            Op::Noop | Op::Membership(_) | Op::OpenSession { .. } => {}
            Op::Set { key, value } => {
                state.insert(key.to_vec(), (index, Rc::from(*value)));
            }
            Op::SetMany(pairs) => {
                for (key, value) in pairs.iter() {
                    state.insert(key.to_vec(), (index, Rc::from(value)));
                }
            }
            Op::Delete { key } => deleted += u32::from(state.remove(*key).is_some()),
            Op::DeleteMany(keys) => {
                deleted = keys.iter().map(|key| u32::from(state.remove(key).is_some())).sum();
            }
        }
        self.states.push(state);
        self.deleted.push(deleted);
    }

    /// A crash took what was behind `index`.
    fn truncate(&mut self, index: LogIndex) {
        let len = usize::try_from(index.0).unwrap() + 1;
        self.states.truncate(len);
        self.deleted.truncate(len);
    }

    fn check_write(&self, index: LogIndex, response: &Response<'_>) {
        match *response {
            Response::Written { version } => assert_eq!(version, index),
            Response::Deleted { version, count } => {
                assert_eq!(
                    (version, count),
                    (index, self.deleted[usize::try_from(index.0).unwrap()])
                );
            }
            ref other => panic!("a write is not answered with {other:?}"),
        }
    }

    fn check_read(&self, index: LogIndex, question: &Question, response: &Response<'_>) {
        let state = self.at(index);
        let found =
            |key: &usize| state.get(KEYS[*key]).map(|(version, value)| (*version, value.as_ref()));
        match (question, response) {
            (Question::Get(key), Response::Value { version, value }) => {
                assert_eq!(found(key), Some((*version, *value)), "at {index}");
            }
            (Question::Get(key), Response::NotFound) => assert_eq!(found(key), None, "at {index}"),
            (Question::GetMany(keys), Response::Values(values)) => {
                assert!(values.iter().eq(keys.iter().map(found)), "at {index}");
            }
            (Question::Count(keys), Response::Number(count)) => {
                assert_eq!(*count, keys.iter().filter_map(found).count() as u64, "at {index}");
            }
            (Question::Length(key), Response::Number(length)) => {
                assert_eq!(*length, found(key).map_or(0, |(_, v)| v.len() as u64), "at {index}");
            }
            other => panic!("question and answer do not fit: {other:?}"),
        }
    }
}

/// A read, as the model remembers it; keys by their number.
#[derive(Clone, Debug)]
enum Question {
    Get(usize),
    GetMany(Vec<usize>),
    Count(Vec<usize>),
    Length(usize),
}

/// A request whose answer is due.
#[derive(Debug)]
enum Waiting {
    Write(LogIndex),
    Read(LogIndex, Question),
}

struct World {
    node: Node,
    now: Now,
    out: Output,
    model: Model,
    /// What the disk holds or is on its way there.
    records: Vec<(Lsn, Record)>,
    /// What recovery makes of them; a record that it would refuse is an error.
    log: LogState,
    durable: Lsn,
    /// Commands that were admitted and are not sealed.
    open: BTreeMap<LogIndex, Vec<u8>>,
    waiting: BTreeMap<u32, Waiting>,
    next_tag: u32,
    /// Of each connection.
    last_write: [LogIndex; CONNECTIONS],
    /// The highest index of an answered write, over all crashes.
    acknowledged: LogIndex,
    /// Makes every value another.
    writes: u64,
}

impl World {
    fn new() -> World {
        World {
            node: start(&[]),
            now: Now { monotonic: Instant(0), wall_ms: 1000 },
            out: Output::default(),
            model: Model::new(),
            records: Vec::new(),
            log: LogState::default(),
            durable: Lsn(0),
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_tag: 0,
            last_write: Default::default(),
            acknowledged: LogIndex(0),
            writes: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Set { connection, key, bytes } => {
                let value = self.value(*bytes);
                self.write(*connection, Op::Set { key: KEYS[*key], value: &value });
            }
            Step::SetMany { connection, keys } => {
                let values: Vec<_> = keys.iter().map(|_| self.value(9)).collect();
                let pairs = keys.iter().zip(&values).map(|(key, v)| (KEYS[*key], v.as_slice()));
                let mut scratch = Vec::new();
                let pairs = PairList::encode(pairs, &Limits::default(), &mut scratch).unwrap();
                self.write(*connection, Op::SetMany(pairs));
            }
            Step::Delete { connection, keys } if keys.len() == 1 => {
                self.write(*connection, Op::Delete { key: KEYS[keys[0]] });
            }
            Step::Delete { connection, keys } => {
                let mut scratch = Vec::new();
                self.write(*connection, Op::DeleteMany(list(keys, &mut scratch)));
            }
            Step::Get { connection, key } => self.read(*connection, Question::Get(*key)),
            Step::GetMany { connection, keys } => {
                self.read(*connection, Question::GetMany(keys.clone()));
            }
            Step::Count { connection, keys } => {
                self.read(*connection, Question::Count(keys.clone()));
            }
            Step::Length { connection, key } => self.read(*connection, Question::Length(*key)),
            Step::Tick { ms } => self.tick(*ms),
            Step::WallJump { ms } => self.now.wall_ms = *ms,
            Step::Poll => {
                self.poll();
            }
            Step::Seal => self.seal(),
            Step::Durable { records } => self.make_durable(*records),
            Step::Room { bytes, next } => {
                self.node.set_log_room(self.written(), *bytes, *next);
            }
            Step::Crash { kept } => self.crash(*kept),
        }
    }

    /// A value that no other write has.
    fn value(&mut self, bytes: usize) -> Vec<u8> {
        self.writes += 1;
        let mut value = self.writes.to_le_bytes().to_vec();
        value.resize(8 + bytes, b'.');
        value
    }

    fn next_request(&mut self, connection: usize) -> ReplyTo {
        self.next_tag += 1;
        ReplyTo { connection: connection as u64, tag: self.next_tag }
    }

    // Requests

    fn write(&mut self, connection: usize, op: Op<'_>) {
        let to = self.next_request(connection);
        let command = Command::new(op);
        match self.node.write(&self.now, to, &command, &Options::default()) {
            WriteOutcome::Waiting(index) => {
                assert!(index > self.acknowledged, "real-time order is the order of the log");
                let mut bytes = Vec::new();
                command.encode(&mut bytes);
                assert!(self.open.insert(index, bytes).is_none(), "an index is given once");
                assert!(self.waiting.insert(to.tag, Waiting::Write(index)).is_none());
                self.last_write[connection] = index;
            }
            WriteOutcome::Later => assert!(self.leads()),
            WriteOutcome::Refused(refusal) => match refusal {
                Refusal::NoLeader => assert!(!self.leads()),
                Refusal::DiskFull => assert!(self.leads()),
                other => panic!("{other:?} has no reason here"),
            },
        }
    }

    fn read(&mut self, connection: usize, question: Question) {
        let to = self.next_request(connection);
        let after = self.last_write[connection];
        let (mut keys, mut scratch) = (Vec::new(), Vec::new());
        let read = match &question {
            Question::Get(key) => Read::Get(KEYS[*key]),
            Question::Length(key) => Read::Length(KEYS[*key]),
            Question::GetMany(many) => Read::GetMany(list(many, &mut keys)),
            Question::Count(many) => Read::Exists(list(many, &mut keys)),
        };
        let asker = Asker { to, after, hash: None, options: Options::default() };
        let (is_ready, applied) = (self.node.is_ready(), self.node.applied());
        let durable = self.durable_index();
        match self.node.read(&self.now, &asker, &read, &mut scratch) {
            Ok(ReadOutcome::Ready(response)) => {
                assert!(applied >= after, "a connection reads its own writes");
                assert!(applied >= self.acknowledged, "a read sees every answered write");
                assert!(applied <= durable, "a read sees nothing that may be lost");
                self.model.check_read(applied, &question, &response);
            }
            Ok(ReadOutcome::Waiting { .. }) => {
                let Role::Leader { first_index } = self.node.status().role else {
                    panic!("a lone node asks nobody");
                };
                // Nothing is answered before the no-op of the term is committed.
                let after = if is_ready { after } else { after.max(first_index) };
                assert!(applied < after);
                let waiting = Waiting::Read(after, question);
                assert!(self.waiting.insert(to.tag, waiting).is_none());
            }
            Ok(ReadOutcome::Later) => panic!("so few reads never fill the queue"),
            Err(refusal) => assert!(refusal == Refusal::NoLeader && !is_ready),
        }
    }

    // Events

    fn tick(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic.after(Duration::from_millis(ms));
        self.now.wall_ms += ms;
        self.node.tick(&self.now);
    }

    fn make_durable(&mut self, records: usize) {
        self.durable = self.written().min(Lsn(self.durable.0 + records as u64));
        self.node.durable(self.durable);
    }

    fn crash(&mut self, kept: usize) {
        let kept = self.written().min(Lsn(self.durable.0 + kept as u64));
        self.records.retain(|(lsn, _)| *lsn <= kept);
        self.log = LogState::default();
        self.records.iter().for_each(|(_, record)| follow(&mut self.log, record));
        self.durable = kept;
        self.model.truncate(self.durable_index());
        assert!(self.model.last() >= self.acknowledged, "an answered write survives");
        self.open.clear();
        self.waiting.clear();
        self.last_write = Default::default();
        self.out = Output::default();
        self.node = start(&self.records);
        assert_eq!(self.node.applied(), self.model.last());
        self.check_state();
    }

    // Speech

    fn poll(&mut self) -> bool {
        let more = self.node.poll(&mut self.out);
        for reply in &self.out.replies {
            let due = self.waiting.remove(&reply.to.tag);
            let due = due.expect("only what is due is answered, and once");
            let response = self.out.response(&reply.answer, self.node.members());
            if let Response::Error { code, .. } = response {
                assert_eq!(code, kvorum_protocol::ErrorCode::QuorumTimeout);
                continue;
            }
            match due {
                Waiting::Write(index) => {
                    assert!(index <= self.durable_index(), "durable before it is answered");
                    assert!(index > self.acknowledged, "answered in the order of the log");
                    self.acknowledged = index;
                    self.model.check_write(index, &response);
                }
                Waiting::Read(index, question) => {
                    assert!(index <= self.durable_index());
                    self.model.check_read(index, &question, &response);
                }
            }
        }
        self.out.clear();
        more
    }

    fn seal(&mut self) {
        self.node.seal(&self.now, &mut self.out);
        for (lsn, record) in self.out.records.drain(..) {
            assert_eq!(lsn.0, self.records.len() as u64 + 1, "positions have no gap");
            follow(&mut self.log, &record);
            if let Record::Batch(batch) = &record {
                for (index, command) in batch.entries() {
                    if !matches!(command.op, Op::Noop | Op::Membership(_)) {
                        let mut bytes = Vec::new();
                        command.encode(&mut bytes);
                        assert_eq!(self.open.remove(&index), Some(bytes), "as it was admitted");
                    }
                    self.model.push(index, &command.op);
                }
            }
            self.records.push((lsn, record));
        }
        assert!(self.open.is_empty(), "all that is admitted is sealed");
        assert!(!self.node.has_records());
    }

    /// The disk keeps up, and no timer runs: then nothing is left open.
    fn settle(&mut self) {
        self.tick(0);
        loop {
            while self.poll() {}
            self.seal();
            if self.written() == self.durable {
                break;
            }
            self.make_durable(usize::MAX >> 1);
        }
        assert!(self.waiting.is_empty(), "without an answer: {:?}", self.waiting);
        assert!(self.node.is_ready());
        assert_eq!(self.node.applied(), self.model.last());
        self.check_state();
    }

    // Looks

    fn leads(&self) -> bool {
        self.node.status().leader.is_some()
    }

    fn written(&self) -> Lsn {
        self.records.last().map_or(Lsn(0), |(lsn, _)| *lsn)
    }

    /// The index up to which the disk would give the log back.
    fn durable_index(&self) -> LogIndex {
        let durable = self.records.iter().rev().filter(|(lsn, _)| *lsn <= self.durable);
        let mut batches = durable.filter_map(|(_, record)| match record {
            Record::Batch(batch) => Some(batch.header().last_index()),
            _ => None,
        });
        batches.next().unwrap_or(LogIndex(0))
    }

    /// The whole state of the node is the model's.
    fn check_state(&self) {
        let state = self.model.at(self.node.applied());
        assert_eq!(self.node.store().len(), state.len());
        for (key, (version, value)) in state {
            assert_eq!(self.node.store().get(key), Some((*version, value.as_ref())));
        }
    }
}

fn list<'a>(keys: &[usize], scratch: &'a mut Vec<u8>) -> KeyList<'a> {
    let keys = keys.iter().map(|key| KEYS[*key]);
    KeyList::encode(keys, &Limits::default(), scratch).unwrap()
}

fn follow(log: &mut LogState, record: &Record) {
    let continues = match record {
        Record::Batch(batch) => log.batch(batch.header()),
        Record::TermVote { term, voted_for } => log.term_vote(*term, *voted_for),
        Record::Truncate { .. } | Record::Install { .. } => {
            panic!("a lone voter takes nothing back")
        }
    };
    continues.expect("a record that can come next");
}

fn start(records: &[(Lsn, Record)]) -> Node {
    let mut recovery = Recovery::new(1).of(NodeId(1));
    for (lsn, record) in records {
        match record {
            Record::Batch(batch) => {
                let batch = Batch::decode(batch.bytes().clone()).expect("sealed batches are sound");
                recovery.batch(*lsn, batch.header(), batch.bytes()).unwrap();
            }
            Record::TermVote { term, voted_for } => recovery.term_vote(*lsn, *term, *voted_for),
            Record::Truncate { .. } | Record::Install { .. } => {
                panic!("a lone voter takes nothing back")
            }
        }
    }
    let members = MemberList::lone(NodeId(1), "localhost:6379").unwrap();
    let config = NodeConfig {
        quorum_timeout: Duration::from_secs(2),
        ..NodeConfig::new(NodeId(1), members)
    };
    Node::new(config, recovery, 1 << 40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_history_keeps_the_promises(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        world.settle();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }

    #[test]
    fn a_first_boot_may_be_interrupted_anywhere(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
