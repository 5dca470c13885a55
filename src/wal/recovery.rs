//! Opening a directory: first boot, or reading back what the log holds.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use kvorum_protocol::{LogIndex, Lsn};

use super::WalConfig;
use super::error::{Fault, Oddity, WalError};
use super::identity::{self, IDENTITY_NAME, IDENTITY_TMP_NAME, Identity};
use super::layout::{FileName, HeaderBlock, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::record::RecordView;
use super::scan::{FoundRecord, Next, NotUnderstood, Position, SegmentScan, Stop};
use super::spare::{self, SPARE_TMP_NAME, Spare};
use super::state::LogState;
use super::writer::{Active, Sealed, Writer, start_header, start_segment};
use crate::core::ReplayError;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Contents, Disk, DiskFile};

/// How often progress is told, in bytes.
const PROGRESS_BYTES: usize = 1 << 20;

/// Who is told what the log holds.
pub trait RecoverySink {
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
    let files = list(&*disk)?;
    let Some(identity) = read_identity(&*disk)? else {
        check_untouched(&*disk, &files.sequences)?;
        remove_strays(&*disk, &files)?;
        return first_boot(disk, config);
    };
    check_identity(&*disk, &identity, &config)?;
    let log = read_segments(&*disk, &identity, &files.sequences, &config, sink)?;
    remove_strays(&*disk, &files)?;
    resume(disk, config, identity, log)
}

pub(super) struct Files {
    /// Of the segments, without a gap.
    pub sequences: Vec<u64>,
    strays: Vec<String>,
}

/// The files of the log.
pub(super) fn list(disk: &dyn Disk) -> Result<Files, WalError> {
    let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    let mut sequences = Vec::new();
    let mut strays = Vec::new();
    for name in names {
        match FileName::parse(&name) {
            FileName::Segment(sequence) => sequences.push(sequence),
            FileName::NoSegment => {
                return Err(WalError::StrangeFile { path: disk.path(&name) });
            }
            FileName::Other if [SPARE_TMP_NAME, IDENTITY_TMP_NAME].contains(&name.as_str()) => {
                strays.push(name);
            }
            FileName::Other => {}
        }
    }
    sequences.sort_unstable();
    for pair in sequences.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(WalError::Missing { path: disk.path(&segment_name(pair[0] + 1)) });
        }
    }
    Ok(Files { sequences, strays })
}

pub(super) fn read_identity(disk: &dyn Disk) -> Result<Option<Identity>, WalError> {
    identity::read(disk).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => WalError::IdentityDamaged { path: disk.path(IDENTITY_NAME) },
        _ => io_error(disk, "read", IDENTITY_NAME, source),
    })
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

/// What reading all segments has told.
struct ReadLog {
    sealed: VecDeque<Sealed>,
    /// The last segment that is in use.
    last: LastSegment,
    /// Prepared and not used: sequence numbers and lengths.
    spares: Vec<(u64, u64)>,
    bytes: u64,
}

struct LastSegment {
    sequence: u64,
    contents: Contents,
    /// What the log adds up to.
    position: Position,
    /// Where the log ends.
    end: usize,
    /// What stands before this offset is known to have been durable.
    synced: usize,
    /// What was found at the end.
    stop: Stop,
    /// Blocks behind the end that look like records.
    torn_blocks: Vec<usize>,
    ends_with_mark: bool,
    last_index: LogIndex,
}

impl LastSegment {
    fn sealed(&self) -> Sealed {
        let LastSegment { sequence, last_index, .. } = *self;
        Sealed { sequence, bytes: self.contents.len() as u64, last_index }
    }
}

fn read_segments(
    disk: &dyn Disk,
    identity: &Identity,
    sequences: &[u64],
    config: &WalConfig,
    sink: &mut dyn RecoverySink,
) -> Result<ReadLog, WalError> {
    let mut reader = Reader { disk, identity, sink, previous: None, log: None, read_bytes: 0 };
    // One segment is read ahead while the one before is replayed: on a second core, this takes
    // the page faults, and the waiting for a cold disk, off the way.
    std::thread::scope(|scope| {
        let (send, segments) = sync_channel(1);
        scope.spawn(move || {
            for sequence in sequences {
                if send.send((*sequence, disk.read(&segment_name(*sequence)))).is_err() {
                    return;
                }
            }
        });
        for (behind, (sequence, contents)) in (0..sequences.len()).rev().zip(segments) {
            let name = segment_name(sequence);
            let contents = contents.map_err(|source| io_error(disk, "read", &name, source))?;
            reader.segment(sequence, contents, behind, config)?;
        }
        Ok(())
    })?;
    match reader.log {
        Some(log) => Ok(log),
        // The header of the first segment is durable before the identity is.
        None => {
            let first = sequences.first().copied().unwrap_or(1);
            Err(WalError::Missing { path: disk.path(&segment_name(first)) })
        }
    }
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    identity: &'a Identity,
    sink: &'a mut dyn RecoverySink,
    /// Where and why the segment before ended.
    previous: Option<(u64, Stop)>,
    log: Option<ReadLog>,
    read_bytes: u64,
}

impl Reader<'_> {
    /// Reads a segment with `behind` more of them to come.
    fn segment(
        &mut self,
        sequence: u64,
        contents: Contents,
        behind: usize,
        config: &WalConfig,
    ) -> Result<(), WalError> {
        let path = || self.disk.path(&segment_name(sequence));
        let header = match SegmentHeader::decode(&contents) {
            HeaderBlock::Valid(header) => header,
            HeaderBlock::Unused => return self.unused(sequence, &contents),
            HeaderBlock::Version(found) => return Err(WalError::Version { path: path(), found }),
            HeaderBlock::Damaged => return Err(self.corrupt(sequence, 0, Fault::SegmentHeader)),
        };
        if header.identity != *self.identity || header.sequence != sequence {
            return Err(WalError::ForeignSegment { path: path() });
        }
        if header.segment_bytes != contents.len() as u64 {
            let (expected, found) = (header.segment_bytes, contents.len() as u64);
            return Err(self.corrupt(sequence, 0, Fault::FileLength { expected, found }));
        }
        self.check_start(&header, config)?;
        let last = self.replay(contents, &header, behind)?;
        self.append(last);
        Ok(())
    }

    /// A prepared segment: nothing may follow it, and its first record must not be there either.
    fn unused(&mut self, sequence: u64, contents: &Contents) -> Result<(), WalError> {
        let would_be = SegmentHeader {
            identity: *self.identity,
            sequence,
            segment_bytes: contents.len() as u64,
            first_lsn: Lsn(0),
            prev: 0,
            commit: LogIndex(0),
            state: LogState::default(),
        };
        let has_records = SegmentScan::new(contents, &would_be).torn_blocks().next().is_some();
        let Some(log) = self.log.as_mut().filter(|_| !has_records) else {
            return Err(self.corrupt(sequence, 0, Fault::SegmentHeader));
        };
        log.spares.push((sequence, contents.len() as u64));
        Ok(())
    }

    /// Whether a segment starts exactly where the one before ended.
    fn check_start(&self, header: &SegmentHeader, config: &WalConfig) -> Result<(), WalError> {
        let Some(log) = &self.log else {
            // The first one: what came before must be in a snapshot.
            if header.sequence > 1 && header.state.end.index > config.snapshot_index {
                let missing = segment_name(header.sequence - 1);
                return Err(WalError::Missing { path: self.disk.path(&missing) });
            }
            return Ok(());
        };
        if let Some((unused, _)) = log.spares.first() {
            return Err(self.corrupt(*unused, 0, Fault::SegmentHeader));
        }
        if Position::at_start_of(header) == log.last.position {
            return Ok(());
        }
        // A segment is begun when all before it is durable, so what is missing was.
        let (sequence, stop) = self.previous.expect("a segment was read before");
        let fault = match stop.fault {
            Fault::NoRecord | Fault::OtherSegment => {
                Fault::RecordsMissing { next_segment_starts: header.first_lsn }
            }
            other => other,
        };
        Err(self.corrupt(sequence, stop.offset, fault))
    }

    fn replay(
        &mut self,
        contents: Contents,
        header: &SegmentHeader,
        behind: usize,
    ) -> Result<LastSegment, WalError> {
        let sequence = header.sequence;
        let mut scan = SegmentScan::new(&contents, header);
        let mut group = Vec::new();
        let mut last_index = header.state.end.index;
        let mut told = 0;
        let stop = loop {
            let start = scan.offset();
            let next = scan.next_group(&mut group).map_err(|odd| self.odd(sequence, odd))?;
            if let Next::End(stop) = next {
                break stop;
            }
            last_index = last_index.max(self.tell(sequence, &group, scan.position())?);
            self.read_bytes += (scan.offset() - start) as u64;
            if scan.offset() - told >= PROGRESS_BYTES {
                told = scan.offset();
                let left = (behind + 1) * contents.len() - told;
                self.sink.progress(self.read_bytes, self.read_bytes + left as u64);
            }
        };
        // Whether this end is damage is known when the next segment has been looked at; only the
        // records behind it can tell now.
        self.previous = Some((sequence, stop));
        if scan.durable_record_is_lost() {
            return Err(self.corrupt(sequence, stop.offset, stop.fault));
        }
        let (position, end, synced) = (*scan.position(), scan.offset(), scan.synced());
        let (torn_blocks, ends_with_mark) = (scan.torn_blocks().collect(), scan.ends_with_mark());
        Ok(LastSegment {
            sequence,
            contents,
            position,
            end,
            synced,
            stop,
            torn_blocks,
            ends_with_mark,
            last_index,
        })
    }

    /// The segment continues the log.
    fn append(&mut self, last: LastSegment) {
        let mut sealed = VecDeque::new();
        if let Some(before) = self.log.take() {
            sealed = before.sealed;
            sealed.push_back(before.last.sealed());
        }
        let bytes = self.read_bytes;
        self.log = Some(ReadLog { sealed, last, spares: Vec::new(), bytes });
    }

    /// Tells the records of a group; returns the highest index among them.
    fn tell(
        &mut self,
        sequence: u64,
        group: &[FoundRecord<'_>],
        after: &Position,
    ) -> Result<LogIndex, WalError> {
        let mut last_index = after.state.end.index;
        for FoundRecord { offset, header, record } in group {
            match record {
                RecordView::Mark => continue,
                RecordView::Batch { header, .. } => {
                    last_index = last_index.max(header.last_index());
                }
                RecordView::TermVote { .. } | RecordView::Truncate { .. } => {}
            }
            let told = self.sink.record(header.lsn, header.commit, record);
            told.map_err(|error| {
                let oddity = Oddity::Replay(error);
                self.odd(sequence, NotUnderstood { offset: *offset, lsn: header.lsn, oddity })
            })?;
        }
        Ok(last_index)
    }

    fn corrupt(&self, sequence: u64, offset: usize, fault: Fault) -> WalError {
        let (lsn, index) = match (&self.previous, &self.log) {
            (Some((at, stop)), _) if *at == sequence => (stop.lsn, stop.index),
            (_, Some(ReadLog { last: LastSegment { position, .. }, .. })) => {
                (position.lsn.next(), position.state.end.index.next())
            }
            (_, None) => (Lsn(1), LogIndex(1)),
        };
        let path = self.disk.path(&segment_name(sequence));
        WalError::Corrupt { path, offset: offset as u64, lsn, index, fault }
    }

    fn odd(&self, sequence: u64, odd: NotUnderstood) -> WalError {
        let NotUnderstood { offset, lsn, oddity } = odd;
        let path = self.disk.path(&segment_name(sequence));
        WalError::NotUnderstood { path, offset: offset as u64, lsn, oddity }
    }
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

fn io_error(disk: &dyn Disk, action: &'static str, name: &str, source: io::Error) -> WalError {
    WalError::Io { action, path: disk.path(name), source }
}
