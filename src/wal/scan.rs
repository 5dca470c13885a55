//! Reading one segment: group after group, until something is not the record that should come.
//! Recovery, `dump` and `verify` read through this.

use kvorum_protocol::{DecodeError, LogIndex, Lsn};

use super::error::{Fault, Oddity};
use super::layout::{
    FLAG_END_OF_GROUP, HeaderFault, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentHeader, record_bytes,
};
use super::record::{BodyFault, RecordView, decode_body, repeats};
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

/// A place in the chain of records: what the next one in this segment has to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The segment.
    pub sequence: u64,
    /// Of the node's data.
    pub incarnation: u64,
    /// The last record.
    pub lsn: Lsn,
    /// Its header checksum.
    pub chain: u32,
}

impl Link {
    /// The header at the start of `bytes` and its checksum, if it is that of the next record.
    /// Nothing is known of its body yet.
    ///
    /// # Errors
    /// What is there instead.
    #[inline]
    pub fn next(&self, bytes: &[u8]) -> Result<(RecordHeader, u32), Fault> {
        let (header, crc) = match RecordHeader::decode(bytes) {
            Ok(decoded) => decoded,
            Err(HeaderFault::NoRecord) => return Err(Fault::NoRecord),
            Err(HeaderFault::Checksum) => return Err(Fault::HeaderChecksum),
        };
        if (header.segment, header.incarnation) != (self.sequence, self.incarnation) {
            return Err(Fault::OtherSegment);
        }
        let lsn = if repeats(header.kind) { self.lsn } else { self.lsn.next() };
        if header.lsn != lsn || header.prev != self.chain {
            return Err(Fault::Chain);
        }
        Ok((header, crc))
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

    /// Goes on behind damage: with the first group behind `offset` that ends with the state of the
    /// log. False when there is none; the scan is at its end then.
    ///
    /// Nothing is known of the records that were passed over. Those from there on follow from that
    /// state as all others do from theirs.
    pub fn resume_behind(&mut self, offset: usize) -> bool {
        let mut blocks = self.blocks_behind(offset);
        let found = blocks.find_map(|block| self.state_behind_group(block));
        let found = found.filter(|(_, position)| position.lsn >= self.position.lsn);
        let Some((offset, position)) = found else { return false };
        (self.offset, self.position) = (offset, position);
        true
    }

    /// The point behind the whole group at `block`, when it says what the log adds up to there.
    fn state_behind_group(&self, block: usize) -> Option<(usize, Position)> {
        let mut offset = block;
        let mut chain = None;
        loop {
            let bytes = self.segment.get(offset..)?;
            let (header, crc) = RecordHeader::decode(bytes).ok()?;
            let is_own = (header.segment, header.incarnation) == (self.sequence, self.incarnation);
            if !is_own || chain.is_some_and(|chain| header.prev != chain) {
                return None;
            }
            let body_bytes = header.body_bytes as usize;
            let end = offset.checked_add(record_bytes(body_bytes))?;
            if header.flags == FLAG_END_OF_GROUP {
                let body = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes)?;
                let record = decode_body(header.kind, header.body_crc, body).ok()?;
                let RecordView::State { state } = record else { return None };
                let RecordHeader { lsn, commit, .. } = header;
                let position = Position { lsn, chain: crc, commit, state };
                return Some((end.next_multiple_of(BLOCK_BYTES), position));
            }
            (offset, chain) = (end, Some(crc));
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
            let RecordHeader { lsn, commit, body_bytes, flags, synced, .. } = found.header;
            let followed = match &found.record {
                RecordView::Batch { header, .. } => position.state.batch(header),
                RecordView::TermVote { term, voted_for } => {
                    position.state.term_vote(*term, *voted_for)
                }
                RecordView::Truncate { end } => position.state.truncate(*end, position.commit),
                RecordView::Install { end } => position.state.install(*end, position.commit),
                RecordView::Repair { state } => position.state.repair(state),
                RecordView::State { state } => position.state.check(state),
                RecordView::Mark => Ok(()),
            };
            let followed = followed.and_then(|()| position.state.check_commit(commit));
            followed.map_err(|error| NotUnderstood {
                offset,
                lsn,
                oddity: Oddity::Order(error),
            })?;
            position.lsn = lsn;
            position.commit = position.commit.max(commit);
            group.push(found);
            offset += record_bytes(body_bytes as usize);
            if flags == FLAG_END_OF_GROUP {
                self.synced = self.synced.max(usize::try_from(synced).unwrap_or(0));
                self.offset = offset.next_multiple_of(BLOCK_BYTES);
                self.position = position;
                // Its header tells that everything before it is durable.
                self.ends_with_mark = group.len() == 1 && repeats(group[0].header.kind);
                return Ok(Next::Group);
            }
        }
    }

    #[inline]
    fn read(&self, offset: usize, before: &Position) -> Result<(FoundRecord<'v>, u32), Unreadable> {
        let rest = self.segment.get(offset..).unwrap_or_default();
        let link = Link {
            sequence: self.sequence,
            incarnation: self.incarnation,
            lsn: before.lsn,
            chain: before.chain,
        };
        let (header, crc) = link.next(rest).map_err(Unreadable::Stop)?;
        let lsn = header.lsn;
        // A sound checksum makes no sound number: recovery writes from there on.
        if header.synced > offset as u64 || !header.synced.is_multiple_of(BLOCK_BYTES as u64) {
            let error = DecodeError::Invalid("the durable mark of a record");
            return Err(Unreadable::Odd(lsn, Oddity::Body(error)));
        }
        if header.flags & !FLAG_END_OF_GROUP != 0 {
            return Err(Unreadable::Odd(lsn, Oddity::Flags(header.flags)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Record;
    use crate::disk::AlignedBuffer;
    use crate::wal::Identity;
    use crate::wal::record::{KIND_MARK, encode_body};
    use crate::wal::state::Discontinuity;
    use kvorum_protocol::{ClusterId, NodeId, Term};

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity { cluster: ClusterId(1), node: NodeId(1), incarnation: 7 },
            sequence: 3,
            segment_bytes: 16384,
            first_lsn: Lsn(10),
            prev: 99,
            commit: LogIndex(0),
            state: LogState::default(),
        }
    }

    /// Puts a vote in its own group at `block`, its header as `change` leaves it; returns its crc.
    fn put(segment: &mut [u8], block: usize, prev: u32, change: impl Fn(&mut RecordHeader)) -> u32 {
        let mut body = AlignedBuffer::new();
        let term = Term(block as u64);
        let vote = Record::TermVote { term, voted_for: Some(NodeId(1)) };
        let (kind, body_crc) = encode_body(&vote, &mut body);
        let mut header = RecordHeader {
            prev,
            body_bytes: 16,
            body_crc,
            kind,
            flags: FLAG_END_OF_GROUP,
            incarnation: 7,
            segment: 3,
            lsn: Lsn(9 + block as u64),
            synced: (block * BLOCK_BYTES) as u64,
            commit: LogIndex(0),
        };
        change(&mut header);
        let (bytes, crc) = header.encode();
        let at = block * BLOCK_BYTES;
        segment[at..at + RECORD_HEADER_BYTES].copy_from_slice(&bytes);
        segment[at + RECORD_HEADER_BYTES..][..16].copy_from_slice(body.as_slice());
        crc
    }

    /// Reads one good group and then one whose header is as `change` leaves it.
    fn second(change: impl Fn(&mut RecordHeader)) -> Result<Fault, Oddity> {
        let mut segment = vec![0; 16384];
        let crc = put(&mut segment, 1, 99, |_| {});
        put(&mut segment, 2, crc, change);
        let mut scan = SegmentScan::new(&segment, &segment_header());
        let mut group = Vec::new();
        assert!(matches!(scan.next_group(&mut group), Ok(Next::Group)));
        assert_eq!((group.len(), scan.position().lsn, scan.synced()), (1, Lsn(10), 4096));
        match scan.next_group(&mut group) {
            Ok(Next::Group) => panic!("was read"),
            Ok(Next::End(stop)) => {
                assert_eq!((stop.offset, stop.lsn, scan.offset()), (8192, Lsn(11), 8192));
                Ok(stop.fault)
            }
            Err(odd) => {
                assert_eq!((odd.offset, odd.lsn), (8192, Lsn(11)));
                Err(odd.oddity)
            }
        }
    }

    #[test]
    fn only_the_very_next_record_of_this_segment_is_read() {
        assert_eq!(second(|header| header.prev += 1), Ok(Fault::Chain));
        assert_eq!(second(|header| header.lsn = Lsn(12)), Ok(Fault::Chain));
        assert_eq!(second(|header| header.lsn = Lsn(10)), Ok(Fault::Chain));
        assert_eq!(second(|header| header.segment = 2), Ok(Fault::OtherSegment));
        assert_eq!(second(|header| header.incarnation = 8), Ok(Fault::OtherSegment));
        assert_eq!(second(|header| header.body_crc += 1), Ok(Fault::BodyChecksum));
        // The group goes on, but nothing comes.
        let mut segment = vec![0; 16384];
        put(&mut segment, 1, 99, |header| header.flags = 0);
        let mut scan = SegmentScan::new(&segment, &segment_header());
        let next = scan.next_group(&mut Vec::new()).unwrap_or_else(|odd| panic!("{odd:?}"));
        assert!(matches!(next, Next::End(Stop { fault: Fault::NoRecord, .. })));
        assert_eq!(scan.offset(), 4096, "the group counts as a whole or not at all");
    }

    #[test]
    fn lengths_are_bounded_by_the_segment() {
        for body_bytes in [8193, 1 << 20, u32::MAX] {
            assert_eq!(second(|header| header.body_bytes = body_bytes), Ok(Fault::Length));
        }
        assert_eq!(second(|header| header.body_bytes = 17), Ok(Fault::BodyChecksum));
        assert_eq!(second(|header| header.body_bytes = 0), Ok(Fault::BodyChecksum));
    }

    #[test]
    fn no_record_tells_of_what_comes_behind_it() {
        let odd = Oddity::Body(DecodeError::Invalid("the durable mark of a record"));
        for synced in [8, 8192 + 8, 12288, u64::MAX] {
            assert_eq!(second(|header| header.synced = synced), Err(odd));
        }
    }

    #[test]
    fn what_another_version_wrote_is_not_taken_for_a_torn_tail() {
        assert_eq!(second(|header| header.kind = 99), Err(Oddity::Kind(99)));
        assert_eq!(second(|header| header.flags = 3), Err(Oddity::Flags(3)));
        assert!(matches!(second(|header| header.kind = 3), Err(Oddity::Body(_))));
        let beyond = Discontinuity::Commit { commit: LogIndex(1), last: LogIndex(0) };
        assert_eq!(second(|header| header.commit = LogIndex(1)), Err(Oddity::Order(beyond)));
        // Without its own lsn, a mark could hide a record.
        assert_eq!(second(|header| header.kind = KIND_MARK), Ok(Fault::Chain));
    }
}
