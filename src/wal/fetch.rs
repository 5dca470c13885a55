//! Reading entries back from a log that is being written, for members that lack what is not in
//! memory any more.
//!
//! # Where an entry stands
//! Files only grow: a truncation is one more record, and the batches that it voids stay where they
//! are. So an index can stand in a log several times, and a leader wants the last one, which it
//! never truncated: the *valid* batch. Two things find it.
//!
//! *Its term.* Within a term one leader makes one batch for an index and no other, so batches of
//! the same first index and term are the same bytes, wherever they stand. The core says which term
//! each index has ([`Fetch::terms`]); a batch of another term is a leftover, and skipped.
//!
//! *Where to begin.* The header of a segment holds the end of the log before its first record. In
//! a segment that starts with an end before `from`, or behind it, stands the valid batch of `from`:
//! had it been written earlier, then the log would have reached `from` when the segment began,
//! because what is valid was never cut off again. The last such segment is the one to begin in;
//! each earlier one would do as well, with more to skip. Ends may go up and down from segment to
//! segment, because of truncations, so they are searched from the last one backwards.
//!
//! From there the valid batches come in the order of their indexes: each was written when the log
//! ended with the one before it, which was valid then already, in this or in another copy. For
//! the same reason a place stays good: whatever is valid behind an index when the place is reached
//! stands behind it or is written later, that is behind it too. So a member's next fetch goes on
//! where its last one ended, and each segment is read once.
//!
//! # Beside the writer
//! A fetch asks for what is durable, so the whole of it is in the files. Behind it the writer may
//! be at work: reading ends at the first thing that is not a whole record of the chain. A segment
//! that is recycled under the reader is such a thing too, since its records name their segment.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use kvorum_protocol::batch::BATCH_HEADER_BYTES;
use kvorum_protocol::{Batch, BatchHeader, LogIndex, Lsn, NodeId, Term};

use super::error::{Fault, WalError};
use super::layout::{
    FLAG_END_OF_GROUP, FileName, HeaderBlock, RECORD_HEADER_BYTES, RecordHeader,
    SEGMENT_HEADER_BYTES, SegmentHeader, record_bytes, segment_name,
};
use super::reader::io_error;
use super::record::KIND_BATCH;
use super::scan::Link;
use super::window::Window;
use crate::core::Fetch;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk};

/// What is read beside the batches that are asked for: headers, and the ends of blocks.
const HEADROOM_BYTES: usize = 32 << 10;

/// Answers fetches from the files of a log. Keeps no file open, and a few bytes for each member.
pub struct Fetcher {
    disk: Arc<dyn Disk>,
    /// Where the log ended before the first record of each segment in use that was looked at. That
    /// never changes.
    starts: BTreeMap<u64, LogIndex>,
    /// Where each member's last fetch ended.
    cursors: HashMap<NodeId, Cursor>,
}

/// Valid batches from `next` on stand behind `place`.
#[derive(Clone, Copy)]
struct Cursor {
    next: LogIndex,
    place: Place,
}

/// A point between two records of a segment.
#[derive(Clone, Copy)]
struct Place {
    link: Link,
    offset: u64,
    segment_bytes: u64,
}

impl Place {
    fn start_of(header: &SegmentHeader) -> Place {
        let link = Link {
            sequence: header.sequence,
            incarnation: header.identity.incarnation,
            lsn: Lsn(header.first_lsn.0.saturating_sub(1)),
            chain: header.prev,
        };
        let segment_bytes = header.segment_bytes;
        Place { link, offset: SEGMENT_HEADER_BYTES as u64, segment_bytes }
    }

    /// The point behind the record that stands here.
    fn behind(&self, record: &RecordHeader, crc: u32) -> Place {
        let mut offset = self.offset + record_bytes(record.body_bytes as usize) as u64;
        if record.flags & FLAG_END_OF_GROUP != 0 {
            offset = offset.next_multiple_of(BLOCK_BYTES as u64);
        }
        Place { link: Link { lsn: record.lsn, chain: crc, ..self.link }, offset, ..*self }
    }
}

impl Fetcher {
    /// Reads the log in the disk's directory, which [`open`](super::open) has accepted.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Fetcher {
        Fetcher { disk, starts: BTreeMap::new(), cursors: HashMap::new() }
    }

    /// Batches in order, from the one that holds [`Fetch::from`] on, as many as the fetch allows
    /// and the log holds: at least one, unless the first batch already holds [`Fetch::end`].
    ///
    /// # Errors
    /// There is not one: files do not read, or what was durable is damaged or gone. The error
    /// names the file and the place. What stands before damage is returned without an error.
    pub fn fetch(&mut self, fetch: &Fetch) -> Result<Vec<Batch>, WalError> {
        let mut wanted = Wanted::new(fetch);
        if wanted.is_complete() {
            return Ok(Vec::new());
        }
        let place = self.place(fetch)?;
        let disk = &*self.disk;
        // Little more than what the answer takes, so that little is read again for the next one.
        let read_bytes = fetch.bytes_max.saturating_add(HEADROOM_BYTES);
        let window = open(disk, place.link.sequence, read_bytes)?;
        let mut walk = Walk { disk, place, window, read_bytes };
        let walked = walk.run(&mut wanted);
        let cursor = Cursor { next: wanted.next, place: walk.place };
        self.cursors.insert(fetch.member, cursor);
        match walked {
            Err(error) if wanted.batches.is_empty() => Err(error),
            // If more is wanted, the next fetch begins at the error.
            _ => Ok(wanted.batches),
        }
    }

    /// Where to begin: where the member's last fetch ended, unless it has jumped.
    fn place(&mut self, fetch: &Fetch) -> Result<Place, WalError> {
        let cursor = self.cursors.get(&fetch.member).filter(|cursor| cursor.next <= fetch.from);
        let cursor = cursor.copied();
        if let Some(cursor) = cursor
            && cursor.next == fetch.from
        {
            return Ok(cursor.place);
        }
        let start = self.segment_start(fetch.from)?;
        match cursor {
            // It has jumped forward, and not beyond this segment.
            Some(Cursor { place, .. }) if place.link.sequence >= start.link.sequence => Ok(place),
            _ => Ok(start),
        }
    }

    /// The start of the last segment in which the log ended before `from` at its start.
    fn segment_start(&mut self, from: LogIndex) -> Result<Place, WalError> {
        let disk = &*self.disk;
        let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
        let mut sequences: Vec<u64> = names
            .iter()
            .filter_map(|name| match FileName::parse(name) {
                FileName::Segment(sequence) => Some(sequence),
                FileName::NoSegment | FileName::Other => None,
            })
            .collect();
        sequences.sort_unstable();
        let oldest = sequences.first().copied().unwrap_or(1);
        self.starts.retain(|sequence, _| *sequence >= oldest);
        for sequence in sequences.into_iter().rev() {
            if self.starts.get(&sequence).is_some_and(|end| *end >= from) {
                continue;
            }
            // One that is prepared, given up, or just being begun holds nothing that is wanted.
            let header = read_header(disk, sequence)?;
            let Some(HeaderBlock::Valid(header)) = header else { continue };
            self.starts.insert(sequence, header.state.end.index);
            if header.state.end.index < from {
                return Ok(Place::start_of(&header));
            }
        }
        Err(WalError::Missing { path: disk.path(&segment_name(oldest.saturating_sub(1).max(1))) })
    }
}

/// What a fetch has asked for, and what of it was found.
struct Wanted<'f> {
    fetch: &'f Fetch,
    /// The first entry that is still wanted.
    next: LogIndex,
    bytes: usize,
    batches: Vec<Batch>,
}

/// What to do with a batch.
enum Verdict {
    Take,
    Skip,
    /// It is the next one, and it is too much.
    Leave,
}

impl Wanted<'_> {
    fn new(fetch: &Fetch) -> Wanted<'_> {
        Wanted { fetch, next: fetch.from, bytes: 0, batches: Vec::new() }
    }

    fn is_complete(&self) -> bool {
        self.next >= self.fetch.end
    }

    /// The term of the next entry.
    fn term(&self) -> Option<Term> {
        let terms = &self.fetch.terms;
        let behind = terms.partition_point(|(first, _)| *first <= self.next);
        terms[..behind].last().map(|(_, term)| *term)
    }

    fn judge(&self, header: &BatchHeader, bytes: usize) -> Verdict {
        let follows = match self.batches.last() {
            None => header.first_index <= self.next && self.next <= header.last_index(),
            Some(last) => header.first_index == self.next && header.prev_crc == last.header().crc,
        };
        if !follows || self.term() != Some(header.term) {
            return Verdict::Skip;
        }
        let is_full = !self.batches.is_empty() && self.bytes + bytes > self.fetch.bytes_max;
        if is_full || header.last_index() >= self.fetch.end {
            return Verdict::Leave;
        }
        Verdict::Take
    }

    fn take(&mut self, batch: Batch) {
        self.next = batch.header().last_index().next();
        self.bytes += batch.bytes().len();
        self.batches.push(batch);
    }
}

/// Reading on from a place.
struct Walk<'d> {
    disk: &'d dyn Disk,
    place: Place,
    /// Of the segment that the place is in.
    window: Window,
    /// About how much will be read.
    read_bytes: usize,
}

enum Step {
    /// The place is behind the record.
    Done,
    /// The place is before a batch that does not belong to the answer any more.
    Full,
    /// This stands here instead of a record.
    Stop(Fault),
}

impl Walk<'_> {
    /// Finds what is wanted; an error when it is not all there.
    fn run(&mut self, wanted: &mut Wanted<'_>) -> Result<(), WalError> {
        while !wanted.is_complete() {
            match self.step(wanted)? {
                Step::Done => continue,
                Step::Full => break,
                Step::Stop(_) => {}
            }
            // The end, or only that of what was written when it was read. If the next segment is
            // in use when it is looked at now, then all of this one is there when it is looked at
            // once more, and what is still not a record never was one.
            let sequence = self.place.link.sequence + 1;
            let next = read_header(self.disk, sequence)?;
            self.window.forget();
            let fault = match self.step(wanted)? {
                Step::Done => continue,
                Step::Full => break,
                Step::Stop(fault) => fault,
            };
            match next {
                Some(HeaderBlock::Valid(header)) => self.enter(&header, wanted, fault)?,
                Some(HeaderBlock::Damaged | HeaderBlock::Version(_)) => {
                    return Err(self.corrupt(sequence, 0, wanted, Fault::SegmentHeader));
                }
                Some(HeaderBlock::Unused) | None => return Err(self.corrupt_here(wanted, fault)),
            }
        }
        Ok(())
    }

    /// Goes on in the next segment, if it starts where this one ends.
    fn enter(
        &mut self,
        header: &SegmentHeader,
        wanted: &Wanted<'_>,
        fault: Fault,
    ) -> Result<(), WalError> {
        let start = Place::start_of(header);
        if start.link != (Link { sequence: start.link.sequence, ..self.place.link }) {
            let fault = match fault {
                Fault::NoRecord | Fault::OtherSegment => {
                    Fault::RecordsMissing { next_segment_starts: header.first_lsn }
                }
                other => other,
            };
            return Err(self.corrupt_here(wanted, fault));
        }
        self.window = open(self.disk, start.link.sequence, self.read_bytes)?;
        self.place = start;
        Ok(())
    }

    /// Looks at the record that stands here.
    fn step(&mut self, wanted: &mut Wanted<'_>) -> Result<Step, WalError> {
        let stepped = self.try_step(wanted);
        stepped.map_err(|source| {
            io_error(self.disk, "read", &segment_name(self.place.link.sequence), source)
        })
    }

    fn try_step(&mut self, wanted: &mut Wanted<'_>) -> io::Result<Step> {
        let Place { link, offset, segment_bytes } = self.place;
        let head = self.window.bytes(offset, RECORD_HEADER_BYTES + BATCH_HEADER_BYTES)?;
        let (record, crc) = match link.next(head) {
            Ok(found) => found,
            Err(fault) => return Ok(Step::Stop(fault)),
        };
        let behind = self.place.behind(&record, crc);
        if behind.offset > segment_bytes {
            return Ok(Step::Stop(Fault::Length));
        }
        if record.kind == KIND_BATCH {
            let body_bytes = record.body_bytes as usize;
            // What is skipped was checked when the log was opened, or when it was written.
            let peeked = BatchHeader::peek(&head[RECORD_HEADER_BYTES..]);
            match peeked.map(|header| wanted.judge(&header, body_bytes)) {
                Ok(Verdict::Skip) => {}
                Ok(Verdict::Leave) => return Ok(Step::Full),
                Ok(Verdict::Take) => {
                    let record_bytes = RECORD_HEADER_BYTES + body_bytes;
                    let bytes = self.window.bytes(offset, record_bytes)?;
                    let body = bytes.get(RECORD_HEADER_BYTES..record_bytes).unwrap_or_default();
                    match Batch::copy_from(body) {
                        Ok(batch) if batch.header().crc == record.body_crc => wanted.take(batch),
                        _ => return Ok(Step::Stop(Fault::BodyChecksum)),
                    }
                }
                Err(_) => return Ok(Step::Stop(Fault::BodyChecksum)),
            }
        }
        self.place = behind;
        Ok(Step::Done)
    }

    fn corrupt_here(&self, wanted: &Wanted<'_>, fault: Fault) -> WalError {
        self.corrupt(self.place.link.sequence, self.place.offset, wanted, fault)
    }

    fn corrupt(&self, sequence: u64, offset: u64, wanted: &Wanted<'_>, fault: Fault) -> WalError {
        let path = self.disk.path(&segment_name(sequence));
        let lsn = self.place.link.lsn.next();
        WalError::Corrupt { path, offset, lsn, index: wanted.next, fault }
    }
}

fn open(disk: &dyn Disk, sequence: u64, read_bytes: usize) -> Result<Window, WalError> {
    let name = segment_name(sequence);
    let file = disk.open_to_read(&name).map_err(|source| io_error(disk, "read", &name, source))?;
    Ok(Window::new(file, read_bytes))
}

/// The first block of a segment; `None` when there is no such segment.
fn read_header(disk: &dyn Disk, sequence: u64) -> Result<Option<HeaderBlock>, WalError> {
    let name = segment_name(sequence);
    let mut block = AlignedBuffer::new();
    block.extend_zeros(SEGMENT_HEADER_BYTES);
    let file = match disk.open_to_read(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other,
    };
    let read = file.and_then(|file| file.read_at(0, block.as_mut_slice()));
    let count = read.map_err(|source| io_error(disk, "read", &name, source))?;
    Ok(Some(match SegmentHeader::decode(&block.as_slice()[..count]) {
        HeaderBlock::Valid(header) if header.sequence != sequence => HeaderBlock::Damaged,
        decoded => decoded,
    }))
}
