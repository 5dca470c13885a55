//! The log on a machine's disk: its records, what has become of those before them, and what of all
//! that would survive a crash.

use std::collections::BTreeMap;
use std::fmt::Write;

use kvorum::core::{Record, Recovery};
use kvorum::wal::LogState;
use kvorum_protocol::{Batch, LogIndex, Lsn, batch};

use super::words;

/// What a record says.
enum Content {
    Record(Record),
    /// What was behind it was damaged and is cut off; the log goes on with this state.
    Repair(LogState),
}

/// A record on the disk, or on its way there.
struct Written {
    lsn: Lsn,
    content: Content,
    /// What the node knew to be committed then; the log says so too.
    commit: LogIndex,
}

/// What the records add up to that are not on the disk any more.
#[derive(Default)]
struct Base {
    lsn: Lsn,
    state: LogState,
    commit: LogIndex,
}

#[derive(Default)]
pub struct Disk {
    base: Base,
    records: Vec<Written>,
    /// What survives a crash.
    durable: Lsn,
}

impl Disk {
    /// The records behind `kept` never reached the disk.
    pub fn crash(&mut self, kept: Option<Lsn>) -> String {
        let kept = kept.unwrap_or(self.durable);
        assert!(kept >= self.durable, "what is durable survives");
        let mut said = String::new();
        for lost in self.records.iter().filter(|written| written.lsn > kept) {
            said += &format!("lost {}", lost.words());
        }
        self.records.retain(|written| written.lsn <= kept);
        self.durable = kept;
        said
    }

    /// Tells what it holds.
    pub fn recover(&self, recovery: &mut Recovery) {
        let LogState { term, voted_for, end, former_end } = self.base.state;
        recovery.start(self.base.lsn, term, voted_for, end);
        recovery.once_ended(former_end);
        for Written { lsn, content, commit } in &self.records {
            recovery.committed(*commit);
            let record = match content {
                Content::Record(record) => record,
                Content::Repair(LogState { term, voted_for, former_end, .. }) => {
                    recovery.repair(*lsn, *term, *voted_for, *former_end);
                    continue;
                }
            };
            match record {
                Record::Batch(batch) => {
                    let header = batch::check(batch.bytes()).expect("sealed batches are sound");
                    recovery.batch(*lsn, &header, batch.bytes()).expect("a batch of this version");
                }
                Record::TermVote { term, voted_for } => {
                    recovery.term_vote(*lsn, *term, *voted_for);
                }
                Record::Truncate { end } => {
                    recovery.truncate(*lsn, *end).expect("what was decided is not taken back");
                }
                Record::Install { end } => {
                    recovery.install(*lsn, *end).expect("its snapshot is there");
                }
            }
        }
    }

    /// What stood behind the record at `kept` was damaged, and is cut off.
    pub fn repair(&mut self, kept: Lsn) -> String {
        let LogState { term, voted_for, end, former_end } = self.state();
        self.records.retain(|written| written.lsn <= kept);
        let former_end = end.id().max(former_end);
        let state = LogState { term, voted_for, end: self.state().end, former_end };
        let commit = self.records.last().map_or(self.base.commit, |last| last.commit);
        let repair = Written { lsn: kept.next(), content: Content::Repair(state), commit };
        let said = repair.words();
        self.durable = repair.lsn;
        self.records.push(repair);
        said
    }

    /// Takes what a node that knows `committed` hands out.
    pub fn write(&mut self, committed: LogIndex, records: &mut Vec<(Lsn, Record)>) -> String {
        let mut said = String::new();
        let mut state = self.state();
        let truncates = |(_, record): &(Lsn, Record)| {
            matches!(record, Record::Truncate { .. } | Record::Install { .. })
        };
        let mut commit = self.records.last().map_or(self.base.commit, |last| last.commit);
        if !records.iter().any(truncates) {
            // As the log does it: what comes with the entries that it commits is noted later.
            commit = commit.max(committed.min(state.end.index));
        }
        for (lsn, record) in records.drain(..) {
            said += &words::record(lsn, &record);
            let written = Written { lsn, content: Content::Record(record), commit };
            follow(&mut state, &written);
            self.records.push(written);
        }
        said
    }

    /// It has synced up to `upto`, or all that it was given; answers how far that is.
    pub fn sync(&mut self, upto: Option<Lsn>) -> Lsn {
        self.durable = upto.unwrap_or_else(|| self.written());
        self.durable
    }

    /// The records that entries up to `upto` need are given up.
    pub fn release(&mut self, upto: LogIndex) {
        let mut state = self.base.state;
        let mut gone = 0;
        for (position, written) in (1..).zip(&self.records) {
            follow(&mut state, written);
            if state.end.index <= upto && written.lsn <= self.durable {
                gone = position;
                self.base = Base { lsn: written.lsn, state, commit: written.commit };
            }
        }
        self.records.drain(..gone);
    }

    /// The position of the last record.
    pub fn written(&self) -> Lsn {
        self.records.last().map_or(self.base.lsn, |written| written.lsn)
    }

    /// Whether there is something to sync.
    pub fn is_behind(&self) -> bool {
        self.written() > self.durable
    }

    /// The log without what was taken back: batches by their first index.
    pub fn batches(&self) -> BTreeMap<LogIndex, &Batch> {
        let mut log = BTreeMap::new();
        for written in &self.records {
            let Content::Record(record) = &written.content else { continue };
            match record {
                Record::Batch(batch) => {
                    log.insert(batch.header().first_index, batch);
                }
                Record::Truncate { end } => log.retain(|first, _| *first <= end.index),
                Record::Install { .. } => log.clear(),
                Record::TermVote { .. } => {}
            }
        }
        log
    }

    /// All records, and how the batches hang together.
    pub fn words(&self) -> String {
        let mut said = String::new();
        for written in &self.records {
            let durable = if written.lsn <= self.durable { "durable" } else { "written" };
            write!(said, "{durable} {}", written.words()).unwrap();
            if let Content::Record(Record::Batch(batch)) = &written.content {
                let header = batch.header();
                writeln!(said, "  crc={:08x} prev={:08x}", header.crc, header.prev_crc).unwrap();
            }
        }
        said
    }

    /// What the log comes to.
    fn state(&self) -> LogState {
        let mut state = self.base.state;
        for (position, written) in (self.base.lsn.0 + 1..).zip(&self.records) {
            assert_eq!(written.lsn, Lsn(position), "positions have no gap");
            follow(&mut state, written);
        }
        state
    }
}

impl Written {
    fn words(&self) -> String {
        match &self.content {
            Content::Record(record) => words::record(self.lsn, record),
            Content::Repair(state) => words::repair(self.lsn, state),
        }
    }
}

/// What every log must be, whatever the script is about: the rules that recovery goes by.
fn follow(state: &mut LogState, written: &Written) {
    let record = match &written.content {
        Content::Record(record) => record,
        Content::Repair(repaired) => {
            return state.repair(repaired).expect("it forgets nothing");
        }
    };
    let continues = match record {
        Record::Batch(batch) => state.batch(batch.header()),
        Record::TermVote { term, voted_for } => state.term_vote(*term, *voted_for),
        Record::Truncate { end } => state.truncate(*end, written.commit),
        Record::Install { end } => state.install(*end, written.commit),
    };
    continues.expect("a record that can come next");
}
