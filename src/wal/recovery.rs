//! Opening a directory: first boot, or reading back what the log holds.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvorum_protocol::{LogIndex, Lsn};

use super::WalConfig;
use super::error::{Fault, WalError};
use super::identity::{self, IDENTITY_NAME, Identity};
use super::layout::{HeaderBlock, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::reader::{
    Files, LastSegment, ReadLog, VisitError, Visitor, io_error, list, read_identity, read_segments,
};
use super::record::{RecordView, repeats};
use super::repair::{Order, REPAIR_NAME};
use super::scan::{FoundRecord, Position};
use super::spare::{self, Spare};
use super::state::LogState;
use super::writer::{Active, Sealed, Writer, start_header, start_segment};
use crate::core::{Recovery, ReplayError};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile};

/// Who is told what the log holds.
pub trait RecoverySink {
    /// What the records in segments that were given up add up to, the last of which was `lsn`:
    /// term, vote, and the batch before the first that will be told. Comes first, and only matters
    /// to who needs all of that.
    fn start(&mut self, _lsn: Lsn, _state: &LogState) {}

    /// The next record, whole and in order. Entries up to `commit` are known to be committed.
    /// Marks are not told.
    ///
    /// # Errors
    /// When the state machine can not use it; opening the log then fails.
    fn record(
        &mut self,
        lsn: Lsn,
        commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError>;

    /// How many bytes of how many have been read. Comes about once a megabyte.
    fn progress(&mut self, done_bytes: u64, total_bytes: u64);
}

/// Nobody is told.
impl RecoverySink for () {
    fn record(&mut self, _: Lsn, _: LogIndex, _: &RecordView<'_>) -> Result<(), ReplayError> {
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

/// A state is built from whatever the log holds, in silence.
impl RecoverySink for Recovery {
    fn start(&mut self, lsn: Lsn, state: &LogState) {
        Recovery::start(self, lsn, state.term, state.voted_for, state.end);
        self.once_ended(state.former_end);
    }

    fn record(
        &mut self,
        lsn: Lsn,
        commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        self.committed(commit);
        match record {
            RecordView::Batch { header, bytes } => self.batch(lsn, header, bytes),
            RecordView::TermVote { term, voted_for } => {
                self.term_vote(lsn, *term, *voted_for);
                Ok(())
            }
            RecordView::Truncate { end } => self.truncate(lsn, *end),
            RecordView::Install { end } => self.install(lsn, *end),
            RecordView::Repair { state } => {
                self.repair(lsn, state.term, state.voted_for, state.former_end);
                Ok(())
            }
            RecordView::State { .. } | RecordView::Mark => Ok(()),
        }
    }

    fn progress(&mut self, _done_bytes: u64, _total_bytes: u64) {}
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whose log this is.
    pub identity: Identity,
    /// Whether the directory was empty.
    pub first_boot: bool,
    /// The last record; the next one is staged with the `Lsn` after it.
    pub last_lsn: Lsn,
    /// Term, vote, and end of the replicated log.
    pub state: LogState,
    /// Highest index known to be committed; a hint, the truth may be higher.
    pub commit: LogIndex,
    /// What a crash left unfinished, and was cut off.
    pub cut: Option<Cut>,
    /// How many segments hold records.
    pub segments: usize,
    /// Bytes of records read, headers and padding included.
    pub bytes: u64,
}

/// A torn tail that was cut off: it was never reported as durable.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The segment.
    pub path: PathBuf,
    /// Where the log ends now.
    pub offset: u64,
    /// The first record that was not whole.
    pub lsn: Lsn,
    /// What was wrong with it.
    pub fault: Fault,
}

/// Opens the log in the disk's directory, or begins one if there is nothing. Everything that it
/// tells `sink` is durable when it returns.
///
/// # Errors
/// Anything that could mean that a durable record is gone; then nothing was changed on the disk.
/// Never falls back to less than what was there.
///
/// # Panics
/// Never on what stands on the disk.
pub fn open(
    disk: Arc<dyn Disk>,
    config: WalConfig,
    sink: &mut dyn RecoverySink,
) -> Result<(Writer, Recovered), WalError> {
    let Some(identity) = read_identity(&*disk)? else {
        let files = list(&*disk)?;
        check_untouched(&*disk, &files.sequences)?;
        remove_strays(&*disk, &files)?;
        return first_boot(disk, config);
    };
    check_identity(&*disk, &identity, &config)?;
    let order = Order::pending(&*disk, &identity)?;
    if let Some(order) = &order {
        order.cut(&*disk, &config, &identity)?;
    }
    let files = list(&*disk)?;
    let mut replay = Replay { sink, started: false };
    let log =
        read_segments(&*disk, &identity, &files.sequences, config.snapshot_index, &mut replay)?;
    remove_strays(&*disk, &files)?;
    let (mut writer, mut recovered) = resume(Arc::clone(&disk), config, identity, log)?;
    if let Some(order) = order {
        finish_repair(&*disk, &order, &mut writer, &mut recovered, sink)?;
    }
    Ok((writer, recovered))
}

/// The log goes on with the record of what it must not forget.
fn finish_repair(
    disk: &dyn Disk,
    order: &Order,
    writer: &mut Writer,
    recovered: &mut Recovered,
    sink: &mut dyn RecoverySink,
) -> Result<(), WalError> {
    let state = order.state_behind(&recovered.state);
    if recovered.state.repair(&state).is_err() {
        return Err(WalError::OrderDamaged { path: disk.path(REPAIR_NAME) });
    }
    let lsn = writer.stage_repair(&state);
    writer.write()?;
    writer.mark()?;
    recovered.last_lsn = lsn;
    let told = sink.record(lsn, recovered.commit, &RecordView::Repair { state });
    told.map_err(|error| order.refused(disk, lsn, error))?;
    Order::finish(disk)
}

/// Tells the sink what concerns it.
struct Replay<'a> {
    sink: &'a mut dyn RecoverySink,
    /// The sink knows what the log begins with.
    started: bool,
}

impl Visitor for Replay<'_> {
    fn segment(&mut self, header: &SegmentHeader) -> io::Result<()> {
        if !self.started {
            self.started = true;
            self.sink.start(Lsn(header.first_lsn.0.saturating_sub(1)), &header.state);
        }
        Ok(())
    }

    fn record(&mut self, found: &FoundRecord<'_>) -> Result<(), VisitError> {
        let FoundRecord { header, record, .. } = found;
        if repeats(header.kind) {
            return Ok(());
        }
        self.sink.record(header.lsn, header.commit, record).map_err(VisitError::Replay)
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.sink.progress(done_bytes, total_bytes);
    }
}

fn check_identity(
    disk: &dyn Disk,
    identity: &Identity,
    config: &WalConfig,
) -> Result<(), WalError> {
    let path = disk.path(IDENTITY_NAME);
    let (found, expected) = (identity.node, config.identity.node);
    if found != expected {
        return Err(WalError::OtherNode { path, found, expected });
    }
    match config.cluster {
        Some(expected) if expected != identity.cluster => {
            Err(WalError::OtherCluster { path, found: identity.cluster, expected })
        }
        _ => Ok(()),
    }
}

/// Without an identity there must be nothing, or what a first boot leaves that was interrupted
/// before its last step: the first segment, with nothing in it.
fn check_untouched(disk: &dyn Disk, sequences: &[u64]) -> Result<(), WalError> {
    let name = segment_name(1);
    let untouched = match sequences {
        [] => true,
        [1] => {
            let segment =
                disk.read(&name).map_err(|source| io_error(disk, "read", &name, source))?;
            segment.read_ahead().map_err(|source| io_error(disk, "read", &name, source))?;
            let begun = match SegmentHeader::decode(&segment) {
                HeaderBlock::Valid(header) => header.sequence == 1 && header.first_lsn == Lsn(1),
                HeaderBlock::Unused => true,
                HeaderBlock::Damaged | HeaderBlock::Version(_) => false,
            };
            begun && segment[SEGMENT_HEADER_BYTES..].iter().all(|byte| *byte == 0)
        }
        _ => false,
    };
    if untouched { Ok(()) } else { Err(WalError::Missing { path: disk.path(IDENTITY_NAME) }) }
}

/// Files that a crash left before they got their name.
fn remove_strays(disk: &dyn Disk, files: &Files) -> Result<(), WalError> {
    for name in &files.strays {
        disk.remove(name).map_err(|source| io_error(disk, "remove", name, source))?;
    }
    Ok(())
}

/// The identity comes last: as long as it is missing, a first boot simply begins again.
fn first_boot(disk: Arc<dyn Disk>, config: WalConfig) -> Result<(Writer, Recovered), WalError> {
    let identity = config.identity;
    let name = segment_name(1);
    let position = Position::default();
    let spare = spare::prepare(&*disk, 1, config.segment_bytes(1), None)
        .map_err(|source| io_error(&*disk, "create", &name, source))?;
    let header = start_header(&identity, &spare, &position);
    start_segment(&*spare.file, &header)
        .map_err(|source| io_error(&*disk, "write", &name, source))?;
    identity::write(&*disk, &identity)
        .map_err(|source| io_error(&*disk, "write", IDENTITY_NAME, source))?;
    let active = Active {
        file: spare.file,
        sequence: 1,
        bytes: spare.bytes,
        offset: SEGMENT_HEADER_BYTES as u64,
        synced: SEGMENT_HEADER_BYTES as u64,
        last_index: LogIndex(0),
    };
    let writer = Writer::resume(disk, config, identity, position, active, VecDeque::new(), None);
    let recovered = Recovered {
        identity,
        first_boot: true,
        last_lsn: Lsn(0),
        state: LogState::default(),
        commit: LogIndex(0),
        cut: None,
        segments: 1,
        bytes: 0,
    };
    Ok((writer, recovered))
}

/// Makes durable what was read, wipes what was cut, and opens the last segment for writing.
fn resume(
    disk: Arc<dyn Disk>,
    config: WalConfig,
    identity: Identity,
    log: ReadLog,
) -> Result<(Writer, Recovered), WalError> {
    let ReadLog { sealed, last, spares, bytes } = log;
    let (position, end, ends_with_mark) = (last.position, last.end, last.ends_with_mark);
    let Sealed { sequence, bytes: segment_bytes, last_index } = last.sealed();
    let name = segment_name(sequence);
    let cut = (!last.torn_blocks.is_empty()).then(|| Cut {
        path: disk.path(&name),
        offset: end as u64,
        lsn: last.stop.lsn,
        fault: last.stop.fault,
    });
    let file =
        settle(&*disk, &name, last).map_err(|source| io_error(&*disk, "write", &name, source))?;
    let spare = take_spares(&*disk, &spares)?;
    // A name that the process before could not sync must not carry what this one acknowledges.
    disk.sync_dir().map_err(|source| io_error(&*disk, "sync", "", source))?;
    let active = Active {
        file,
        sequence,
        bytes: segment_bytes,
        offset: end as u64,
        synced: end as u64,
        last_index,
    };
    let recovered = Recovered {
        identity,
        first_boot: false,
        last_lsn: position.lsn,
        state: position.state,
        commit: position.commit,
        cut,
        segments: sealed.len() + 1,
        bytes,
    };
    let mut writer = Writer::resume(disk, config, identity, position, active, sealed, spare);
    if !ends_with_mark {
        writer.mark_end()?;
    }
    Ok((writer, recovered))
}

/// Writes again what is not known to be durable: if a sync failed before the crash, the kernel
/// may hold these pages as clean though the disk never got them, and no later sync would write
/// them. Then wipes what looks like a record behind the end.
fn settle(disk: &dyn Disk, name: &str, last: LastSegment) -> io::Result<Box<dyn DiskFile>> {
    let mut tail = AlignedBuffer::new();
    tail.extend_from_slice(&last.contents[last.synced..last.end]);
    // Nobody reads the segment any more when it is opened for writing: `Contents` relies on it.
    drop(last.contents);
    let file = disk.open(name)?;
    if tail.is_empty() && last.torn_blocks.is_empty() {
        return Ok(file);
    }
    if !tail.is_empty() {
        file.write_at(last.synced as u64, tail.as_slice())?;
    }
    let mut zeros = AlignedBuffer::new();
    zeros.extend_zeros(BLOCK_BYTES);
    for block in &last.torn_blocks {
        file.write_at(*block as u64, zeros.as_slice())?;
    }
    file.sync()?;
    Ok(file)
}

/// The first prepared segment is the spare. There are never more, but if there are, they are
/// empty and in the way.
fn take_spares(disk: &dyn Disk, spares: &[(u64, u64)]) -> Result<Option<Spare>, WalError> {
    let Some(((sequence, bytes), more)) = spares.split_first() else { return Ok(None) };
    for (sequence, _) in more {
        let name = segment_name(*sequence);
        disk.remove(&name).map_err(|source| io_error(disk, "remove", &name, source))?;
    }
    let name = segment_name(*sequence);
    let file = disk.open(&name).map_err(|source| io_error(disk, "open", &name, source))?;
    Ok(Some(Spare { sequence: *sequence, bytes: *bytes, file }))
}
