//! Reading one segment: group after group, until something is not the record that should come.
//! Recovery, `dump` and `verify` read through this.

use kvorum_protocol::{LogIndex, Lsn};

use super::error::{Fault, Oddity};
use super::layout::{
    HeaderFault, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
    record_bytes,
};
use super::record::{BodyFault, KIND_MARK, RecordView, decode_body};
use super::state::LogState;
use crate::disk::BLOCK_BYTES;

/// A point of the log between two records, and all that the records before it add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last record.
    pub lsn: Lsn,
    /// Its header checksum, which the next one names.
    pub chain: u32,
    /// Highest index known to be committed.
    pub commit: LogIndex,
    /// Term, vote, and end of the replicated log.
    pub state: LogState,
}

impl Position {
    /// The point before the first record of a segment.
    #[must_use]
    pub fn at_start_of(header: &SegmentHeader) -> Position {
        Position {
            lsn: Lsn(header.first_lsn.0.saturating_sub(1)),
            chain: header.prev,
            commit: header.commit,
            state: header.state,
        }
    }
}

/// A record where it stands.
pub struct FoundRecord<'v> {
    /// Where in the segment.
    pub offset: usize,
    /// Its header.
    pub header: RecordHeader,
    /// What it says.
    pub record: RecordView<'v>,
}

/// What comes next in a segment.
pub enum Next {
    /// A whole group.
    Group,
    /// Nothing that can be used: the end, a torn write, or damage. Nothing of the group that
    /// starts at [`SegmentScan::offset`] counts.
    End(Stop),
}

/// Where and why reading stopped.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// Where in the segment.
    pub offset: usize,
    /// The record that should be there.
    pub lsn: Lsn,
    /// The first entry that would come.
    pub index: LogIndex,
    /// What is wrong.
    pub fault: Fault,
}

/// A whole record that makes no sense.
#[derive(Clone, Copy, Debug)]
pub struct NotUnderstood {
    /// Where in the segment.
    pub offset: usize,
    /// The record.
    pub lsn: Lsn,
    /// What is wrong.
    pub oddity: Oddity,
}

/// Reads one segment from its start.
pub struct SegmentScan<'v> {
    segment: &'v [u8],
    sequence: u64,
    incarnation: u64,
    /// Where the next group should start; a multiple of the block.
    offset: usize,
    /// Everything before this offset is known to have been durable.
    synced: usize,
    position: Position,
    ends_with_mark: bool,
}

impl<'v> SegmentScan<'v> {
    /// Starts behind the header.
    #[must_use]
    pub fn new(segment: &'v [u8], header: &SegmentHeader) -> SegmentScan<'v> {
        SegmentScan {
            segment,
            sequence: header.sequence,
            incarnation: header.identity.incarnation,
            offset: SEGMENT_HEADER_BYTES,
            // Not even the header is known to be: the first record will tell.
            synced: 0,
            position: Position::at_start_of(header),
            ends_with_mark: false,
        }
    }

    /// Where the next group should start.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Everything before this offset is known to have been durable.
    #[must_use]
    pub fn synced(&self) -> usize {
        self.synced
    }

    /// What the records so far add up to.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Whether the last record is a mark, or there is none in this segment.
    #[must_use]
    pub fn ends_with_mark(&self) -> bool {
        self.ends_with_mark || self.offset == SEGMENT_HEADER_BYTES
    }

    /// Reads the next group into `group`, replacing what it held. A group counts as a whole or
    /// not at all: it was written, and synced, at once.
    ///
    /// # Errors
    /// A record is whole but makes no sense.
    pub fn next_group(&mut self, group: &mut Vec<FoundRecord<'v>>) -> Result<Next, NotUnderstood> {
        group.clear();
        let mut position = self.position;
        let mut offset = self.offset;
        loop {
            let found = match self.read(offset, &position) {
                Ok((found, crc)) => {
                    position.chain = crc;
                    found
                }
                Err(Unreadable::Stop(fault)) => {
                    let (lsn, index) = (position.lsn.next(), position.state.end.index.next());
                    return Ok(Next::End(Stop { offset, lsn, index, fault }));
                }
                Err(Unreadable::Odd(lsn, oddity)) => {
                    return Err(NotUnderstood { offset, lsn, oddity });
                }
            };
            let RecordHeader { lsn, commit, body_bytes, ends_group, synced, .. } = found.header;
            let followed = match &found.record {
                RecordView::Batch { header, .. } => position.state.batch(header),
                RecordView::TermVote { term, voted_for } => {
                    position.state.term_vote(*term, *voted_for)
                }
                RecordView::Truncate { end } => position.state.truncate(*end, position.commit),
                RecordView::Mark => Ok(()),
            };
            followed.map_err(|error| NotUnderstood {
                offset,
                lsn,
                oddity: Oddity::Order(error),
            })?;
            position.lsn = lsn;
            position.commit = position.commit.max(commit);
            let is_mark = found.record == RecordView::Mark;
            group.push(found);
            offset += record_bytes(body_bytes as usize);
            if ends_group {
                self.synced = self.synced.max(usize::try_from(synced).unwrap_or(0));
                self.offset = offset.next_multiple_of(BLOCK_BYTES);
                self.position = position;
                self.ends_with_mark = is_mark;
                return Ok(Next::Group);
            }
        }
    }

    #[inline]
    fn read(&self, offset: usize, before: &Position) -> Result<(FoundRecord<'v>, u32), Unreadable> {
        let rest = self.segment.get(offset..).unwrap_or_default();
        let (header, crc) = match RecordHeader::decode(rest) {
            Ok(decoded) => decoded,
            Err(HeaderFault::NoRecord) => return Err(Unreadable::Stop(Fault::NoRecord)),
            Err(HeaderFault::Checksum) => return Err(Unreadable::Stop(Fault::HeaderChecksum)),
        };
        if (header.segment, header.incarnation) != (self.sequence, self.incarnation) {
            return Err(Unreadable::Stop(Fault::OtherSegment));
        }
        let lsn = if header.kind == KIND_MARK { before.lsn } else { before.lsn.next() };
        if header.lsn != lsn || header.prev != before.chain {
            return Err(Unreadable::Stop(Fault::Chain));
        }
        let body = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_bytes as usize);
        let body = body.ok_or(Unreadable::Stop(Fault::Length))?;
        let record =
            decode_body(header.kind, header.body_crc, body).map_err(|fault| match fault {
                BodyFault::Checksum => Unreadable::Stop(Fault::BodyChecksum),
                BodyFault::Kind(kind) => Unreadable::Odd(lsn, Oddity::Kind(kind)),
                BodyFault::Content(error) => Unreadable::Odd(lsn, Oddity::Body(error)),
            })?;
        Ok((FoundRecord { offset, header, record }, crc))
    }

    /// After the last group: whether a record behind it says that what should stand at
    /// [`offset`](SegmentScan::offset) was durable. Then it is damaged; otherwise it was never
    /// finished, and nobody was told that it was.
    ///
    /// Groups start at blocks, so only blocks are looked at. Bytes that a client sent can not
    /// pass for a record there: they would have to name the incarnation, a secret of the node.
    #[must_use]
    pub fn durable_record_is_lost(&self) -> bool {
        self.blocks_behind(self.offset + BLOCK_BYTES).any(|block| {
            let Ok((header, _)) = RecordHeader::decode(&self.segment[block..]) else {
                return false;
            };
            (header.segment, header.incarnation) == (self.sequence, self.incarnation)
                && header.synced > self.offset as u64
        })
    }

    /// After the last group: the blocks that look like a record of this segment, or the torn rest
    /// of one. They must not be taken for records later.
    pub fn torn_blocks(&self) -> impl Iterator<Item = usize> + use<'_, 'v> {
        self.blocks_behind(self.offset).filter(|block| {
            RecordHeader::claims(&self.segment[*block..], self.incarnation, self.sequence)
        })
    }

    fn blocks_behind(&self, offset: usize) -> impl Iterator<Item = usize> + use<> {
        let last = self.segment.len().saturating_sub(RECORD_HEADER_BYTES);
        (offset..=last).step_by(BLOCK_BYTES)
    }
}

enum Unreadable {
    Stop(Fault),
    Odd(Lsn, Oddity),
}
