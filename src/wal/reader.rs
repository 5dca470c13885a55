//! Reading all segments of a directory in order, checking that they are one unbroken log.
//! Recovery, `dump` and `verify` differ in what they do with what is found.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::sync_channel;

use kvorum_protocol::{LogIndex, Lsn};

use super::error::{Fault, Oddity, WalError};
use super::identity::{self, IDENTITY_NAME, IDENTITY_TMP_NAME, Identity};
use super::layout::{
    FileName, HeaderBlock, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name,
};
use super::record::RecordView;
use super::repair::REPAIR_TMP_NAME;
use super::scan::{FoundRecord, Next, NotUnderstood, Position, SegmentScan, Stop};
use super::spare::SPARE_TMP_NAME;
use super::writer::Sealed;
use crate::core::ReplayError;
use crate::disk::{BLOCK_BYTES, Contents, Disk};

pub(super) struct Files {
    /// Of the segments, without a gap.
    pub sequences: Vec<u64>,
    /// Files that a crash left before they got their name.
    pub strays: Vec<String>,
}

/// How far a log is whole, from its beginning.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    /// The last segment of which anything is whole.
    pub sequence: u64,
    /// Where in it the whole records end.
    pub offset: usize,
    /// What they add up to.
    pub position: Position,
}

/// The files of the log.
pub(super) fn list(disk: &dyn Disk) -> Result<Files, WalError> {
    let files = list_files(disk)?;
    check_gaps(disk, &files.sequences)?;
    Ok(files)
}

/// Without a look at whether a segment is missing.
pub(super) fn list_files(disk: &dyn Disk) -> Result<Files, WalError> {
    let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    let mut sequences = Vec::new();
    let mut strays = Vec::new();
    for name in names {
        match FileName::parse(&name) {
            FileName::Segment(sequence) => sequences.push(sequence),
            FileName::NoSegment => {
                return Err(WalError::StrangeFile { path: disk.path(&name) });
            }
            FileName::Other if STRAYS.contains(&name.as_str()) => strays.push(name),
            FileName::Other => {}
        }
    }
    sequences.sort_unstable();
    Ok(Files { sequences, strays })
}

/// Whether no segment is missing between the first and the last.
pub(super) fn check_gaps(disk: &dyn Disk, sequences: &[u64]) -> Result<(), WalError> {
    match sequences.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(WalError::Missing { path: disk.path(&segment_name(pair[0] + 1)) }),
        None => Ok(()),
    }
}

/// What a crash can leave without a name.
const STRAYS: [&str; 3] = [SPARE_TMP_NAME, IDENTITY_TMP_NAME, REPAIR_TMP_NAME];

/// Whose data a directory holds; `None` when it is not in use.
///
/// # Errors
/// Its identity can not be read.
pub fn read_identity(disk: &dyn Disk) -> Result<Option<Identity>, WalError> {
    identity::read(disk).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => WalError::IdentityDamaged { path: disk.path(IDENTITY_NAME) },
        _ => io_error(disk, "read", IDENTITY_NAME, source),
    })
}

/// How often progress is told, in bytes.
const PROGRESS_BYTES: usize = 1 << 20;

/// Who looks at what is found.
pub(super) trait Visitor {
    /// A segment in use comes next.
    ///
    /// # Errors
    /// Ends the reading.
    fn segment(&mut self, header: &SegmentHeader) -> io::Result<()>;

    /// The next record, in a segment named before.
    ///
    /// # Errors
    /// Ends the reading.
    fn record(&mut self, found: &FoundRecord<'_>) -> Result<(), VisitError>;

    /// So many bytes were read, of about so many.
    fn progress(&mut self, done_bytes: u64, total_bytes: u64);
}

/// Why a visitor wants no more.
pub(super) enum VisitError {
    /// The state machine rejects the record.
    Replay(ReplayError),
    /// What was found can not be printed.
    Output(io::Error),
}

/// What reading all segments has told.
pub(super) struct ReadLog {
    pub sealed: VecDeque<Sealed>,
    /// The last segment that is in use.
    pub last: LastSegment,
    /// Prepared and not used: sequence numbers and lengths.
    pub spares: Vec<(u64, u64)>,
    pub bytes: u64,
}

pub(super) struct LastSegment {
    pub sequence: u64,
    pub contents: Contents,
    /// What the log adds up to.
    pub position: Position,
    /// Where the log ends.
    pub end: usize,
    /// What stands before this offset is known to have been durable.
    pub synced: usize,
    /// What was found at the end.
    pub stop: Stop,
    /// Blocks behind the end that look like records.
    pub torn_blocks: Vec<usize>,
    pub ends_with_mark: bool,
    pub last_index: LogIndex,
}

impl LastSegment {
    pub fn sealed(&self) -> Sealed {
        let LastSegment { sequence, last_index, .. } = *self;
        Sealed { sequence, bytes: self.contents.len() as u64, last_index }
    }
}

/// Reads everything. `snapshot_index` is where the log may start behind, because a snapshot covers
/// what comes before.
pub(super) fn read_segments(
    disk: &dyn Disk,
    identity: &Identity,
    sequences: &[u64],
    snapshot_index: LogIndex,
    visitor: &mut dyn Visitor,
) -> Result<ReadLog, WalError> {
    read_with(&mut Reader::new(disk, identity, snapshot_index, visitor), sequences)
}

/// The same up to the first damage: how far the log is whole, if it is anywhere, and what is
/// damaged behind that.
pub(super) fn read_whole_part(
    disk: &dyn Disk,
    identity: &Identity,
    sequences: &[u64],
    snapshot_index: LogIndex,
    visitor: &mut dyn Visitor,
) -> Result<(Option<Whole>, Option<WalError>), WalError> {
    let mut reader = Reader::new(disk, identity, snapshot_index, visitor);
    match read_with(&mut reader, sequences) {
        Ok(_) => Ok((reader.whole, None)),
        Err(error) if error.is_damage() => Ok((reader.whole, Some(error))),
        Err(error) => Err(error),
    }
}

fn read_with(reader: &mut Reader<'_>, sequences: &[u64]) -> Result<ReadLog, WalError> {
    let disk = reader.disk;
    // One segment is read ahead while the one before is replayed: on a second core, this takes
    // the page faults, and the waiting for a cold disk, off the way.
    std::thread::scope(|scope| {
        let (send, segments) = sync_channel(1);
        scope.spawn(move || {
            for sequence in sequences {
                if send.send((*sequence, read(disk, *sequence))).is_err() {
                    return;
                }
            }
        });
        for (behind, (sequence, contents)) in (0..sequences.len()).rev().zip(segments) {
            let name = segment_name(sequence);
            let contents = contents.map_err(|source| io_error(disk, "read", &name, source))?;
            reader.segment(sequence, contents, behind)?;
        }
        Ok(())
    })?;
    match reader.log.take() {
        Some(log) => Ok(log),
        // The header of the first segment is durable before the identity is.
        None => {
            let first = sequences.first().copied().unwrap_or(1);
            Err(WalError::Missing { path: disk.path(&segment_name(first)) })
        }
    }
}

pub(super) fn read(disk: &dyn Disk, sequence: u64) -> io::Result<Contents> {
    let contents = disk.read(&segment_name(sequence))?;
    // Of a spare little is looked at.
    if SegmentHeader::decode(&contents) != HeaderBlock::Unused {
        contents.read_ahead()?;
    }
    Ok(contents)
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    identity: &'a Identity,
    snapshot_index: LogIndex,
    visitor: &'a mut dyn Visitor,
    /// Where and why the segment before ended.
    previous: Option<(u64, Stop)>,
    log: Option<ReadLog>,
    /// How far the log is whole, as far as it was read.
    whole: Option<Whole>,
    read_bytes: u64,
}

impl<'a> Reader<'a> {
    fn new(
        disk: &'a dyn Disk,
        identity: &'a Identity,
        snapshot_index: LogIndex,
        visitor: &'a mut dyn Visitor,
    ) -> Reader<'a> {
        Reader {
            disk,
            identity,
            snapshot_index,
            visitor,
            previous: None,
            log: None,
            whole: None,
            read_bytes: 0,
        }
    }

    /// Reads a segment with `behind` more of them to come.
    fn segment(
        &mut self,
        sequence: u64,
        contents: Contents,
        behind: usize,
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
        self.check_start(&header)?;
        let told = self.visitor.segment(&header);
        told.map_err(|source| WalError::Output { source })?;
        let last = self.replay(contents, &header, behind)?;
        self.append(last);
        Ok(())
    }

    /// A prepared segment: nothing may follow it.
    fn unused(&mut self, sequence: u64, contents: &Contents) -> Result<(), WalError> {
        let is_spare = is_spare(contents, self.identity, sequence);
        let Some(log) = self.log.as_mut().filter(|_| is_spare) else {
            return Err(self.corrupt(sequence, 0, Fault::SegmentHeader));
        };
        log.spares.push((sequence, contents.len() as u64));
        Ok(())
    }

    /// Whether a segment starts exactly where the one before ended.
    fn check_start(&self, header: &SegmentHeader) -> Result<(), WalError> {
        let Some(log) = &self.log else {
            if header.sequence == 1 && Position::at_start_of(header) != Position::default() {
                return Err(self.corrupt(1, 0, Fault::SegmentHeader));
            }
            if header.state.check_commit(header.commit).is_err() {
                return Err(self.corrupt(header.sequence, 0, Fault::SegmentHeader));
            }
            // What came before must be in a snapshot.
            if header.state.end.index > self.snapshot_index {
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
            let (start, position) = (scan.offset(), *scan.position());
            self.whole = Some(Whole { sequence, offset: start, position });
            let next = scan.next_group(&mut group).map_err(|odd| self.odd(sequence, odd))?;
            if let Next::End(stop) = next {
                break stop;
            }
            last_index = last_index.max(self.tell(sequence, &group, scan.position())?);
            self.read_bytes += (scan.offset() - start) as u64;
            if scan.offset() - told >= PROGRESS_BYTES {
                told = scan.offset();
                let left = (behind + 1) * contents.len() - told;
                self.visitor.progress(self.read_bytes, self.read_bytes + left as u64);
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
        for found in group {
            if let RecordView::Batch { header, .. } = &found.record {
                last_index = last_index.max(header.last_index());
            }
            self.visitor.record(found).map_err(|error| match error {
                VisitError::Output(source) => WalError::Output { source },
                VisitError::Replay(error) => {
                    let (offset, lsn) = (found.offset, found.header.lsn);
                    let oddity = Oddity::Replay(error);
                    self.odd(sequence, NotUnderstood { offset, lsn, oddity })
                }
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

/// Whether a segment without a header is a prepared one: no record of its own may be in it, because
/// when the first was written, the header was durable. All blocks are looked at, because a file
/// system or a disk that loses a stretch of zeros does not stop at the first record.
pub(super) fn is_spare(contents: &[u8], identity: &Identity, sequence: u64) -> bool {
    let behind = contents.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
    let mut blocks = behind.chunks(BLOCK_BYTES);
    !blocks.any(|block| RecordHeader::claims(block, identity.incarnation, sequence))
}

pub(super) fn io_error(
    disk: &dyn Disk,
    action: &'static str,
    name: &str,
    source: io::Error,
) -> WalError {
    WalError::Io { action, path: disk.path(name), source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::Recovery;
    use crate::core::log::LogEnd;
    use crate::disk::FileDisk;
    use crate::wal::{Identity, WalConfig, open};

    #[test]
    fn a_log_can_not_begin_in_the_middle() {
        let directory = tempfile::tempdir().unwrap();
        let config = WalConfig {
            segment_bytes_min: 64 << 10,
            batch_bytes_max: 4 << 10,
            prepare_in_background: false,
            ..WalConfig::new(Identity::random(kvorum_protocol::NodeId(1), None))
        };
        let open = || {
            let disk = FileDisk::open(directory.path(), false).unwrap();
            open(Arc::new(disk), config.clone(), &mut Recovery::new(1))
        };
        drop(open().unwrap());
        let path = directory.path().join(segment_name(1));
        let mut segment = std::fs::read(&path).unwrap();
        let HeaderBlock::Valid(mut header) = SegmentHeader::decode(&segment) else { panic!() };
        header.state.end = LogEnd { index: LogIndex(5), ..LogEnd::default() };
        let bytes = header.encode();
        segment[..bytes.len()].copy_from_slice(&bytes);
        std::fs::write(&path, segment).unwrap();
        let error = open().err().expect("there is nothing before the first segment");
        let fault = Fault::SegmentHeader;
        assert!(matches!(error, WalError::Corrupt { fault: f, .. } if f == fault), "{error}");
    }
}
