//! A log that is written, restarted and read back, beside a journal of everything that was sent to
//! it and of what it reported as durable.

use std::collections::BTreeMap;
use std::time::Instant;

use kvorum::core::log::LogEnd;
use kvorum::core::{Record, ReplayError};
use kvorum::wal::{
    self, Identity, RecordView, Recovered, RecoverySink, WalConfig, WalError, Writer,
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
}

impl From<&Record> for Fact {
    fn from(record: &Record) -> Fact {
        match record {
            Record::Batch(batch) => Fact::Batch(batch.bytes().to_vec()),
            Record::TermVote { term, voted_for } => Fact::TermVote(*term, *voted_for),
            Record::Truncate { end } => Fact::Truncate(*end),
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
            RecordView::Mark => panic!("marks are not told"),
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
    /// Makes every value different from all others.
    counter: u64,
}

impl Journal {
    /// Compares what a recovery told with what was sent. What was sent and not told is forgotten:
    /// the log went on without it.
    pub fn check(&mut self, told: &Told, recovered: &Recovered) {
        assert!(recovered.commit <= recovered.state.end.index);
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
        // Everything that was told is durable now.
        self.durable = last;
    }
}

/// A running log and its journal.
pub struct Running {
    pub writer: Writer,
    pub recovered: Recovered,
    term: Term,
    end: LogEnd,
    /// Ends of earlier batches that can still be cut back to.
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
        let (term, end) = (recovered.state.term, recovered.state.end);
        let lsn = recovered.last_lsn;
        Ok(Running { writer, recovered, term, end, ends: Vec::new(), lsn })
    }

    fn stage(&mut self, journal: &mut Journal, record: &Record) {
        self.lsn = self.lsn.next();
        journal.sent.insert(self.lsn, Fact::from(record));
        self.writer.stage(self.lsn, record);
    }

    pub fn vote(&mut self, journal: &mut Journal) {
        self.term = Term(self.term.0 + 1);
        let record = Record::TermVote { term: self.term, voted_for: Some(NodeId(1)) };
        self.stage(journal, &record);
    }

    /// One batch with a value of this length.
    pub fn batch(&mut self, journal: &mut Journal, value_bytes: usize) {
        journal.counter += 1;
        let mut value = journal.counter.to_le_bytes().to_vec();
        value.resize(value_bytes.max(8), b'v');
        let mut builder = BatchBuilder::new(self.end.index.next());
        builder.push(&Command::new(Op::Set { key: b"key", value: &value }));
        builder.push(&Command::new(Op::Delete { key: b"other" }));
        let time = LogTimeMs(self.end.time.0 + 1);
        let batch = builder.seal(self.term, time, self.end.crc).unwrap();
        let header = *batch.header();
        self.ends.push(self.end);
        self.end = LogEnd {
            index: header.last_index(),
            term: header.term,
            crc: header.crc,
            time: header.log_time,
        };
        self.stage(journal, &Record::Batch(batch));
    }

    /// Cuts the last batch off, if this run has written one.
    pub fn truncate(&mut self, journal: &mut Journal) {
        let Some(end) = self.ends.pop() else { return };
        self.end = end;
        self.stage(journal, &Record::Truncate { end });
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
        journal.released = self.end.index;
        self.ends.clear();
        self.writer.set_commit(journal.released);
        self.writer.release(journal.released);
    }
}

/// Does everything that a log can do, with restarts, until it is done or something fails.
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
    log.truncate(journal);
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

/// After whatever happened: the log comes back, takes more, and comes back again.
pub fn check_recovers(
    disk: &MemoryDisk,
    journal: &Journal,
    again: impl Fn(&MemoryDisk) -> MemoryDisk,
) {
    let mut journal = journal.clone();
    let mut log = Running::open(disk, &mut journal).expect("the log comes back");
    log.tend().unwrap();
    log.vote(&mut journal);
    log.batch(&mut journal, 3000);
    log.sync(&mut journal).unwrap();
    log.batch(&mut journal, 10);
    log.sync(&mut journal).unwrap();
    drop(log);
    Running::open(&again(disk), &mut journal).expect("the log comes back again");
}
