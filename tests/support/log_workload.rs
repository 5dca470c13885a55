//! A log that is written, restarted and read back, beside a journal of everything that was sent to
//! it and of what it reported as durable.

use std::collections::BTreeMap;
use std::time::Instant;

use kvorum::core::log::LogEnd;
use kvorum::core::{Record, ReplayError};
use kvorum::wal::{
    self, Identity, LogState, RecordView, Recovered, RecoverySink, WalConfig, WalError, Writer,
};
use kvorum_protocol::{
    BatchBuilder, ClusterId, Command, LogIndex, LogTimeMs, Lsn, NodeId, Op, Term,
};

use crate::memory_disk::MemoryDisk;

/// Small enough that a few dozen records fill several segments.
pub fn config() -> WalConfig {
    let identity = Identity { cluster: ClusterId(0xc1), node: NodeId(1), incarnation: 0x1c };
    WalConfig {
        segment_bytes_min: 16 << 10,
        segment_bytes_max: 48 << 10,
        batch_bytes_max: 8 << 10,
        reserve_bytes: 4 << 10,
        prepare_in_background: false,
        ..WalConfig::new(identity)
    }
}

/// A record, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Batch(Vec<u8>),
    TermVote(Term, Option<NodeId>),
    Truncate(LogEnd),
    Install(LogEnd),
    Repair(LogState),
}

impl From<&Record> for Fact {
    fn from(record: &Record) -> Fact {
        match record {
            Record::Batch(batch) => Fact::Batch(batch.bytes().to_vec()),
            Record::TermVote { term, voted_for } => Fact::TermVote(*term, *voted_for),
            Record::Truncate { end } => Fact::Truncate(*end),
            Record::Install { end } => Fact::Install(*end),
        }
    }
}

/// Everything that recovery told.
#[derive(Default)]
pub struct Told {
    pub facts: BTreeMap<Lsn, Fact>,
}

impl RecoverySink for Told {
    fn record(
        &mut self,
        lsn: Lsn,
        _commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        let fact = match record {
            RecordView::Batch { bytes, .. } => Fact::Batch(bytes.to_vec()),
            RecordView::TermVote { term, voted_for } => Fact::TermVote(*term, *voted_for),
            RecordView::Truncate { end } => Fact::Truncate(*end),
            RecordView::Install { end } => Fact::Install(*end),
            RecordView::Repair { state } => Fact::Repair(*state),
            RecordView::State { .. } | RecordView::Mark => panic!("marks are not told"),
        };
        if let Some((last, _)) = self.facts.last_key_value() {
            assert_eq!(lsn, last.next(), "records come without gaps");
        }
        assert!(self.facts.insert(lsn, fact).is_none());
        Ok(())
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes <= total_bytes);
    }
}

/// What was sent to a log, and what it promised.
#[derive(Clone, Default)]
pub struct Journal {
    pub sent: BTreeMap<Lsn, Fact>,
    /// Everything up to here was reported as durable.
    pub durable: Lsn,
    /// Everything up to here may have been given up for a snapshot.
    pub released: LogIndex,
    /// What was called committed when each record was staged.
    commits: BTreeMap<Lsn, LogIndex>,
    /// What was called committed last.
    pub commit: LogIndex,
    /// Makes every value different from all others.
    counter: u64,
}

impl Journal {
    /// Compares what a recovery told with what was sent. What was sent and not told is forgotten:
    /// the log went on without it.
    pub fn check(&mut self, told: &Told, recovered: &Recovered) {
        let last = told.facts.last_key_value().map_or(recovered.last_lsn, |(lsn, _)| *lsn);
        assert_eq!(last, recovered.last_lsn);
        assert!(last >= self.durable, "durable up to {}, came back up to {last}", self.durable);
        for (lsn, fact) in &told.facts {
            assert_eq!(Some(fact), self.sent.get(lsn), "lsn {lsn} was changed, or never sent");
        }
        let first = told.facts.first_key_value().map_or(last.next(), |(lsn, _)| *lsn);
        for (lsn, fact) in self.sent.range(..first.min(self.durable.next())) {
            let Fact::Batch(bytes) = fact else { continue };
            let header = kvorum_protocol::batch::check(bytes).unwrap();
            assert!(header.last_index() <= self.released, "lsn {lsn} is gone too early");
        }
        self.sent.split_off(&last.next());
        self.commits.split_off(&last.next());
        let Summed { term, voted_for, ends } = self.summed();
        let state = &recovered.state;
        assert_eq!((state.term, state.voted_for), (term, voted_for));
        assert_eq!(Some(&state.end), ends.last());
        // A mark may have brought a newer one than the last record.
        let noted = self.commits.last_key_value().map_or(LogIndex(0), |(_, commit)| *commit);
        assert!(recovered.commit >= noted && recovered.commit <= self.commit);
        assert!(recovered.commit <= state.end.index, "a hint is never beyond the log");
        self.commit = recovered.commit;
        // Everything that was told is durable now.
        self.durable = last;
    }
}

/// What the records sent add up to.
pub struct Summed {
    pub term: Term,
    pub voted_for: Option<NodeId>,
    /// Of the batches that stand, and of the empty log before them.
    pub ends: Vec<LogEnd>,
}

impl Journal {
    pub fn summed(&self) -> Summed {
        let mut summed = Summed { term: Term(0), voted_for: None, ends: vec![LogEnd::default()] };
        for fact in self.sent.values() {
            match fact {
                Fact::Batch(bytes) => {
                    let header = kvorum_protocol::batch::check(bytes).unwrap();
                    summed.ends.push(LogEnd::of(&header));
                }
                Fact::TermVote(term, voted_for) => {
                    (summed.term, summed.voted_for) = (*term, *voted_for);
                }
                Fact::Truncate(end) => summed.ends.retain(|kept| kept.index <= end.index),
                Fact::Install(end) => summed.ends = vec![*end],
                Fact::Repair(_) => unreachable!("nobody stages one"),
            }
        }
        summed
    }
}

/// A running log and its journal.
pub struct Running {
    pub writer: Writer,
    pub recovered: Recovered,
    term: Term,
    /// Of the batches that stand, and of the empty log before them.
    ends: Vec<LogEnd>,
    lsn: Lsn,
}

impl Running {
    /// Opens the log and checks what it tells.
    pub fn open(disk: &MemoryDisk, journal: &mut Journal) -> Result<Running, WalError> {
        Running::open_with(disk, journal, config())
    }

    pub fn open_with(
        disk: &MemoryDisk,
        journal: &mut Journal,
        config: WalConfig,
    ) -> Result<Running, WalError> {
        let mut told = Told::default();
        let config = WalConfig { snapshot_index: journal.released, ..config };
        let (writer, recovered) = wal::open(disk.handle(), config, &mut told)?;
        journal.check(&told, &recovered);
        let Summed { term, ends, .. } = journal.summed();
        let lsn = recovered.last_lsn;
        Ok(Running { writer, recovered, term, ends, lsn })
    }

    fn end(&self) -> LogEnd {
        *self.ends.last().expect("the end of the empty log is always there")
    }

    fn stage(&mut self, journal: &mut Journal, record: &Record) {
        self.lsn = self.lsn.next();
        journal.sent.insert(self.lsn, Fact::from(record));
        journal.commits.insert(self.lsn, journal.commit);
        self.writer.stage(self.lsn, record);
    }

    /// Enters the next term, with a vote for this node.
    pub fn vote(&mut self, journal: &mut Journal) {
        self.term = Term(self.term.0 + 1);
        self.vote_for(journal, NodeId(1));
    }

    /// Enters the next term, without a vote.
    pub fn enter_term(&mut self, journal: &mut Journal) {
        self.term = Term(self.term.0 + 1);
        self.stage(journal, &Record::TermVote { term: self.term, voted_for: None });
    }

    /// Gives the vote of this term.
    pub fn vote_for(&mut self, journal: &mut Journal, node: NodeId) {
        self.stage(journal, &Record::TermVote { term: self.term, voted_for: Some(node) });
    }

    /// One batch with a value of this length.
    pub fn batch(&mut self, journal: &mut Journal, value_bytes: usize) {
        journal.counter += 1;
        let mut value = journal.counter.to_le_bytes().to_vec();
        value.resize(value_bytes.max(8), b'v');
        let end = self.end();
        let mut builder = BatchBuilder::new(end.index.next());
        builder.push(&Command::new(Op::Set { key: b"key", value: &value }));
        builder.push(&Command::new(Op::Delete { key: b"other" }));
        let batch = builder.seal(self.term, LogTimeMs(end.time.0 + 1), end.crc).unwrap();
        self.ends.push(LogEnd::of(batch.header()));
        self.stage(journal, &Record::Batch(batch));
    }

    /// Cuts so many of the last batches off, or as many as are there and not committed. As in a
    /// cluster, where another leader's entries take their place, the next term comes first.
    pub fn truncate(&mut self, journal: &mut Journal, batches: usize) {
        let committed = journal.commit.max(journal.released);
        let committed = self.ends.partition_point(|end| end.index <= committed);
        let keep = self.ends.len().saturating_sub(batches).max(committed).max(1);
        if keep == self.ends.len() {
            return;
        }
        self.enter_term(journal);
        self.ends.truncate(keep);
        self.stage(journal, &Record::Truncate { end: self.end() });
    }

    /// A snapshot that covers so many more entries takes the place of the log.
    #[allow(dead_code, reason = "not every test that writes logs does this")]
    pub fn install(&mut self, journal: &mut Journal, entries: u64) {
        let before = self.end();
        let index = LogIndex(before.index.0 + entries);
        let end = LogEnd { index, term: self.term, crc: 77, time: before.time };
        self.ends = vec![end];
        self.stage(journal, &Record::Install { end });
    }

    /// All batches but so many of the last ones are decided.
    pub fn commit(&mut self, journal: &mut Journal, open_batches: usize) {
        let last = self.ends.len().saturating_sub(open_batches + 1);
        journal.commit = journal.commit.max(self.ends[last].index);
        self.writer.set_commit(journal.commit);
    }

    pub fn sync(&mut self, journal: &mut Journal) -> Result<(), WalError> {
        let written = self.writer.write()?;
        assert_eq!(written, self.lsn);
        journal.durable = self.writer.sync()?;
        assert_eq!(journal.durable, self.lsn);
        Ok(())
    }

    pub fn tend(&mut self) -> Result<(), WalError> {
        self.writer.tend(Instant::now()).map(|_| ())
    }

    /// A snapshot covers everything that is durable now.
    pub fn release(&mut self, journal: &mut Journal) {
        self.commit(journal, 0);
        journal.released = journal.commit;
        self.writer.release(journal.released);
    }
}

/// Does what the log of a lone voter does, with restarts, until it is done or something fails.
pub fn run_script(disk: &MemoryDisk, journal: &mut Journal) -> Result<(), WalError> {
    let mut log = Running::open(disk, journal)?;
    log.vote(journal);
    log.sync(journal)?;
    log.tend()?;
    // Groups of one and of several records, small and of several blocks.
    for round in 0..6 {
        log.batch(journal, 20 + round * 700);
        log.batch(journal, 3000);
        log.sync(journal)?;
        log.tend()?;
    }
    // Written and not synced, then more behind it; across the end of a segment.
    for round in 0..4 {
        log.batch(journal, 100 + 2000 * round);
        log.writer.write()?;
        log.batch(journal, 5000);
        log.writer.write()?;
    }
    log.truncate(journal, 1);
    log.sync(journal)?;
    log.writer.mark()?;
    log.batch(journal, 50);
    log.sync(journal)?;
    // A restart after kill -9, with something written and not synced.
    log.batch(journal, 6000);
    log.writer.write()?;
    drop(log);
    let mut log = Running::open(disk, journal)?;
    log.vote(journal);
    log.batch(journal, 7000);
    log.sync(journal)?;
    // A snapshot: old segments come back as new ones.
    log.release(journal);
    for round in 0..8 {
        log.tend()?;
        log.batch(journal, 4000 + round * 400);
        log.batch(journal, 4000);
        log.batch(journal, 4000);
        log.sync(journal)?;
    }
    let lsn = log.writer.close()?;
    assert_eq!(lsn, journal.durable);
    // A clean restart.
    let mut log = Running::open(disk, journal)?;
    assert!(log.recovered.cut.is_none());
    log.tend()?;
    log.batch(journal, 10);
    log.sync(journal)
}

/// What a member of a cluster does beside that: its terms and votes change, other leaders' entries
/// take the place of its own, also from before a restart, and it learns what is decided.
pub fn run_cluster_script(disk: &MemoryDisk, journal: &mut Journal) -> Result<(), WalError> {
    let mut log = Running::open(disk, journal)?;
    // A term that was heard of, then the vote in it.
    log.enter_term(journal);
    log.sync(journal)?;
    log.vote_for(journal, NodeId(2));
    log.batch(journal, 100);
    log.sync(journal)?;
    // The entries of leader after leader, most of them void again. The truncation alone, with what
    // takes the place, across the end of a segment, not synced, and twice in one group.
    for round in 0..8 {
        log.batch(journal, 1500);
        log.batch(journal, 20);
        log.commit(journal, 2);
        log.batch(journal, 2500 + 300 * round);
        log.sync(journal)?;
        log.tend()?;
        log.truncate(journal, 1 + round % 3);
        match round % 4 {
            0 => log.sync(journal)?,
            1 => drop(log.writer.write()?),
            2 => {
                log.batch(journal, 10);
                log.truncate(journal, 2);
            }
            _ => {}
        }
        log.batch(journal, 3000);
        log.batch(journal, 7000);
        log.batch(journal, 10);
        log.sync(journal)?;
    }
    log.writer.mark()?;
    // Several truncations wait for the next segment.
    for round in 0..10 {
        log.batch(journal, 4000);
        log.truncate(journal, 1);
        log.batch(journal, 3000 + 10 * round);
    }
    log.writer.write()?;
    drop(log);
    // What stood there before the restart is replaced after it.
    let mut log = Running::open(disk, journal)?;
    log.truncate(journal, 5);
    log.vote_for(journal, NodeId(3));
    log.sync(journal)?;
    log.batch(journal, 30);
    log.sync(journal)?;
    // A snapshot gives up segments, also such as only hold what was void before.
    log.release(journal);
    for _ in 0..4 {
        log.tend()?;
        log.batch(journal, 5000);
        log.batch(journal, 5000);
        log.truncate(journal, 1);
        log.sync(journal)?;
    }
    log.truncate(journal, 9);
    log.writer.close()?;
    journal.durable = *journal.sent.last_key_value().expect("much was sent").0;
    Running::open(disk, journal).map(drop)
}

/// A sequence of everything that one log can do.
pub type Script = fn(&MemoryDisk, &mut Journal) -> Result<(), WalError>;

/// All of them.
pub const SCRIPTS: [Script; 2] = [run_script, run_cluster_script];

/// After whatever happened: the log comes back, takes more, and comes back again.
pub fn check_recovers(
    disk: &MemoryDisk,
    journal: &Journal,
    again: impl Fn(&MemoryDisk) -> MemoryDisk,
) {
    let mut journal = journal.clone();
    let mut log = Running::open(disk, &mut journal).expect("the log comes back");
    log.tend().unwrap();
    log.truncate(&mut journal, 1);
    log.vote(&mut journal);
    log.batch(&mut journal, 3000);
    log.sync(&mut journal).unwrap();
    log.batch(&mut journal, 10);
    log.sync(&mut journal).unwrap();
    drop(log);
    Running::open(&again(disk), &mut journal).expect("the log comes back again");
}
