//! What the body of a record says.

use kvorum_protocol::{BatchHeader, DecodeError, LogIndex, LogTimeMs, NodeId, Term, batch};

use super::layout::{put_u32, put_u64, u32_at, u64_at};
use super::state::LogState;
use crate::core::Record;
use crate::core::log::{EntryId, LogEnd};
use crate::disk::AlignedBuffer;

pub(super) const KIND_BATCH: u8 = 1;
const KIND_TERM_VOTE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
pub(super) const KIND_MARK: u8 = 4;
const KIND_INSTALL: u8 = 5;
pub(super) const KIND_STATE: u8 = 6;
pub(super) const KIND_REPAIR: u8 = 7;

const TERM_VOTE_BYTES: usize = 16;
const END_BYTES: usize = 32;
pub(super) const STATE_BYTES: usize = 64;

/// A record as it is read back, borrowed from the segment: [`Record`], and what only the log
/// itself uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordView<'a> {
    /// Entries of the replicated log, accepted by [`batch::check`].
    Batch {
        /// The fixed fields.
        header: BatchHeader,
        /// All bytes of the batch; [`batch::entries`] walks them.
        bytes: &'a [u8],
    },
    /// The term was entered, or the vote given.
    TermVote {
        /// The term.
        term: Term,
        /// Who got the vote.
        voted_for: Option<NodeId>,
    },
    /// The replicated log was cut back.
    Truncate {
        /// The last batch that stands.
        end: LogEnd,
    },
    /// A snapshot took the place of the log.
    Install {
        /// The last batch that it covers.
        end: LogEnd,
    },
    /// What was damaged here was cut off.
    Repair {
        /// The state from here on.
        state: LogState,
    },
    /// What all records so far add up to. From here on a log can be read though it is damaged
    /// before. Takes no `Lsn` of its own.
    State {
        /// The state.
        state: LogState,
    },
    /// Nothing. Takes no `Lsn` of its own. Earlier versions wrote it where a [`State`] of its own
    /// group stands now.
    ///
    /// [`State`]: RecordView::State
    Mark,
}

/// Whether records of this kind say nothing that is new, and take no `Lsn` of their own.
#[inline]
pub(super) fn repeats(kind: u8) -> bool {
    matches!(kind, KIND_MARK | KIND_STATE)
}

/// Why a body can not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Its checksum does not match: torn, or damaged.
    Checksum,
    /// It is whole, but no kind of record that this program knows.
    Kind(u8),
    /// It is whole, but says nothing that this program understands.
    Content(DecodeError),
}

/// Appends the body; returns its kind and the checksum that it begins with.
pub(super) fn encode_body(record: &Record, out: &mut AlignedBuffer) -> (u8, u32) {
    match record {
        Record::Batch(batch) => {
            out.extend_from_slice(batch.bytes());
            (KIND_BATCH, batch.header().crc)
        }
        Record::TermVote { term, voted_for } => {
            let mut body = [0; TERM_VOTE_BYTES];
            body[4..6].copy_from_slice(&voted_for.map_or(0, |node| node.0).to_le_bytes());
            put_u64(&mut body, 8, term.0);
            (KIND_TERM_VOTE, append_summed(&mut body, out))
        }
        Record::Truncate { end } => (KIND_TRUNCATE, encode_end(end, out)),
        Record::Install { end } => (KIND_INSTALL, encode_end(end, out)),
    }
}

fn encode_end(end: &LogEnd, out: &mut AlignedBuffer) -> u32 {
    let mut body = [0; END_BYTES];
    put_u32(&mut body, 4, end.crc);
    put_u64(&mut body, 8, end.index.0);
    put_u64(&mut body, 16, end.term.0);
    put_u64(&mut body, 24, end.time.0);
    append_summed(&mut body, out)
}

/// Appends a state; returns the checksum that it begins with.
pub(super) fn encode_state(state: &LogState, out: &mut AlignedBuffer) -> u32 {
    let LogState { term, voted_for, end, former_end } = state;
    let mut body = [0; STATE_BYTES];
    put_u32(&mut body, 4, end.crc);
    put_u64(&mut body, 8, end.index.0);
    put_u64(&mut body, 16, end.term.0);
    put_u64(&mut body, 24, end.time.0);
    put_u64(&mut body, 32, term.0);
    put_u64(&mut body, 40, former_end.index.0);
    put_u64(&mut body, 48, former_end.term.0);
    body[56..58].copy_from_slice(&voted_for.map_or(0, |node| node.0).to_le_bytes());
    append_summed(&mut body, out)
}

fn decode_state(body: &[u8]) -> LogState {
    LogState {
        term: Term(u64_at(body, 32)),
        voted_for: decode_vote(&body[56..58]),
        end: decode_end(body),
        former_end: EntryId { index: LogIndex(u64_at(body, 40)), term: Term(u64_at(body, 48)) },
    }
}

fn decode_vote(bytes: &[u8]) -> Option<NodeId> {
    Some(NodeId(u16::from_le_bytes([bytes[0], bytes[1]]))).filter(|node| node.0 != 0)
}

fn decode_end(body: &[u8]) -> LogEnd {
    LogEnd {
        index: LogIndex(u64_at(body, 8)),
        term: Term(u64_at(body, 16)),
        crc: u32_at(body, 4),
        time: LogTimeMs(u64_at(body, 24)),
    }
}

fn append_summed(body: &mut [u8], out: &mut AlignedBuffer) -> u32 {
    let crc = crc32fast::hash(&body[4..]);
    put_u32(body, 0, crc);
    out.extend_from_slice(body);
    crc
}

/// Checks and reads a body whose record header promised `kind` and `crc`. The bytes are summed
/// once.
#[inline]
pub(super) fn decode_body(kind: u8, crc: u32, body: &[u8]) -> Result<RecordView<'_>, BodyFault> {
    if kind == KIND_MARK && body.is_empty() && crc == 0 {
        return Ok(RecordView::Mark);
    }
    if body.len() < 4 || u32_at(body, 0) != crc {
        return Err(BodyFault::Checksum);
    }
    if kind == KIND_BATCH {
        return match batch::check(body) {
            Ok(header) => Ok(RecordView::Batch { header, bytes: body }),
            // Which check failed first says nothing about what is wrong: only a whole body that
            // makes no sense was written so.
            Err(_) if crc32fast::hash(&body[4..]) != crc => Err(BodyFault::Checksum),
            Err(error) => Err(BodyFault::Content(error)),
        };
    }
    if crc32fast::hash(&body[4..]) != crc {
        return Err(BodyFault::Checksum);
    }
    match (kind, body.len()) {
        (KIND_TERM_VOTE, TERM_VOTE_BYTES) => {
            let voted_for = decode_vote(&body[4..6]);
            Ok(RecordView::TermVote { term: Term(u64_at(body, 8)), voted_for })
        }
        (KIND_TRUNCATE, END_BYTES) => Ok(RecordView::Truncate { end: decode_end(body) }),
        (KIND_INSTALL, END_BYTES) => Ok(RecordView::Install { end: decode_end(body) }),
        (KIND_STATE, STATE_BYTES) => Ok(RecordView::State { state: decode_state(body) }),
        (KIND_REPAIR, STATE_BYTES) => Ok(RecordView::Repair { state: decode_state(body) }),
        (KIND_TERM_VOTE..=KIND_REPAIR, _) => {
            Err(BodyFault::Content(DecodeError::Invalid("record length")))
        }
        _ => Err(BodyFault::Kind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::{BatchBuilder, Command, Op};

    fn records() -> Vec<Record> {
        let mut builder = BatchBuilder::new(LogIndex(5));
        builder.push(&Command::new(Op::Set { key: b"k", value: b"v" }));
        let batch = builder.seal(Term(3), LogTimeMs(9), 0xab).unwrap();
        let end =
            LogEnd { index: LogIndex(4), term: Term(2), crc: 0xab, time: LogTimeMs(u64::MAX) };
        vec![
            Record::Batch(batch),
            Record::TermVote { term: Term(3), voted_for: None },
            Record::TermVote { term: Term(3), voted_for: Some(NodeId(u16::MAX)) },
            Record::Truncate { end },
            Record::Install { end },
        ]
    }

    fn body(record: &Record) -> (u8, u32, Vec<u8>) {
        let mut out = AlignedBuffer::new();
        let (kind, crc) = encode_body(record, &mut out);
        (kind, crc, out.as_slice().to_vec())
    }

    #[test]
    fn bodies_survive_and_no_flipped_bit_passes() {
        for record in records() {
            let (kind, crc, mut bytes) = body(&record);
            match (decode_body(kind, crc, &bytes).unwrap(), &record) {
                (RecordView::Batch { header, bytes }, Record::Batch(batch)) => {
                    assert_eq!((&header, bytes), (batch.header(), &batch.bytes()[..]));
                }
                (
                    RecordView::TermVote { term, voted_for },
                    Record::TermVote { term: t, voted_for: v },
                ) => {
                    assert_eq!((term, voted_for), (*t, *v));
                }
                (RecordView::Truncate { end }, Record::Truncate { end: expected })
                | (RecordView::Install { end }, Record::Install { end: expected }) => {
                    assert_eq!(end, *expected);
                }
                (found, expected) => panic!("{expected:?} was read as {found:?}"),
            }
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode_body(kind, crc, &bytes), Err(BodyFault::Checksum), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn what_is_whole_but_unknown_is_told_from_what_is_torn() {
        let (_, crc, bytes) = body(&records()[1]);
        assert_eq!(decode_body(77, crc, &bytes), Err(BodyFault::Kind(77)));
        let content = BodyFault::Content(DecodeError::Invalid("record length"));
        assert_eq!(decode_body(KIND_TRUNCATE, crc, &bytes), Err(content));
        let garbage = decode_body(KIND_BATCH, crc, &bytes);
        assert!(matches!(garbage, Err(BodyFault::Content(_))), "{garbage:?}");
        assert_eq!(decode_body(77, crc, &[]), Err(BodyFault::Checksum));
        assert_eq!(decode_body(KIND_MARK, 0, &[]), Ok(RecordView::Mark));
    }
}
