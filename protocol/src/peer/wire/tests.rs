//! Frames as bytes, and bytes that are no frames.

use proptest::prelude::*;

use super::*;
use crate::batch::BatchBuilder;
use crate::command::{Command, Op};
use crate::peer::frame::{Phase, SMALL_FRAME_BYTES_MAX, frame_bytes};
use crate::types::LogTimeMs;

/// The message as it travels.
fn encoded(message: &Message) -> Bytes {
    let mut out = Vec::new();
    for batch in encode(message, &mut out) {
        out.extend_from_slice(batch.bytes());
    }
    out.into()
}

fn batch(first: u64, count: usize, term: u64, prev_crc: u32) -> Batch {
    let mut builder = BatchBuilder::new(LogIndex(first));
    for _ in 0..count {
        builder.push(&Command::new(Op::Set { key: b"key", value: b"value" }));
    }
    builder.seal(Term(term), LogTimeMs(first), prev_crc).unwrap()
}

/// `batches` batches of `count` entries behind `prev`.
fn append(prev: u64, batches: usize, count: usize) -> Append {
    let mut append = Append {
        term: Term(9),
        prev: LogIndex(prev),
        prev_term: Term(u64::from(prev > 0)),
        commit: LogIndex(prev),
        batches: Vec::new(),
    };
    let (mut next, mut prev_crc) = (prev + 1, 0);
    for at in 0..batches {
        let batch = batch(next, count, 1 + at as u64, prev_crc);
        (next, prev_crc) = (batch.header().last_index().0 + 1, batch.header().crc);
        append.batches.push(batch);
    }
    append
}

fn chunk() -> SnapshotChunk {
    SnapshotChunk {
        term: Term(5),
        index: LogIndex(12),
        index_term: Term(4),
        total_bytes: 1 << 33,
        file: 0xf11e,
        offset: 1 << 32,
        bytes: Bytes::from_static(b"part"),
    }
}

/// One message of each kind.
fn one_of_each() -> Vec<Message> {
    let (term, last, last_term) = (Term(5), LogIndex(12), Term(4));
    vec![
        Message::PreVoteRequest { term, last, last_term },
        Message::PreVoteReply { term, granted: true },
        Message::VoteRequest { term, last, last_term, is_transfer: true },
        Message::VoteReply { term, granted: false },
        Message::Append(append(12, 2, 3)),
        Message::AppendReject {
            term,
            prev: LogIndex(20),
            hint: last,
            hint_term: last_term,
            is_repaired: true,
        },
        Message::Heartbeat { term, commit: LogIndex(12), round: 3 },
        Message::Ack { term, round: 3, matched: LogIndex(14), durable: LogIndex(12) },
        Message::TimeoutNow { term },
        Message::ReadIndexRequest { term, id: 77 },
        Message::ReadIndexReply { term, id: 77, index: LogIndex(12) },
        Message::DurableRequest { term, id: 78 },
        Message::DurableReply { term, id: 78, last, last_term },
        Message::SnapshotChunk(chunk()),
        Message::SnapshotAck { term, index: last, file: 0xf11e, offset: 1 << 33 },
        Message::StateHashRequest { term, index: LogIndex(4096) },
        Message::StateHashReply { term, index: LogIndex(4096), hash: 0xa1 },
        Message::StateDiffers { term, index: LogIndex(4096), hash: 0xa1, is_majority: true },
    ]
}

#[test]
fn every_message_survives_and_prints_as_a_line() {
    let lines = [
        "PRE_VOTE_REQUEST term=5 candidate=2 last=12 last_term=4",
        "PRE_VOTE_REPLY term=5 from=2 granted=true",
        "VOTE_REQUEST term=5 candidate=2 last=12 last_term=4 transfer=true",
        "VOTE_REPLY term=5 from=2 granted=false",
        "APPEND term=9 leader=2 prev=12/1 commit=12 entries=13..18 batches=2 bytes=192",
        "APPEND_REJECT term=5 from=2 prev=20 hint=12/4 repaired=true",
        "HEARTBEAT term=5 leader=2 commit=12 round=3",
        "ACK term=5 from=2 round=3 matched=14 durable=12",
        "TIMEOUT_NOW term=5 leader=2",
        "READ_INDEX_REQUEST term=5 from=2 id=77",
        "READ_INDEX_REPLY term=5 leader=2 id=77 index=12",
        "DURABLE_REQUEST term=5 from=2 id=78",
        "DURABLE_REPLY term=5 from=2 id=78 last=12/4",
        "SNAPSHOT_CHUNK term=5 leader=2 index=12/4 file=0000f11e offset=4294967296 bytes=4 \
         of=8589934592",
        "SNAPSHOT_ACK term=5 from=2 index=12 file=0000f11e offset=8589934592",
        "STATE_HASH_REQUEST term=5 leader=2 index=4096",
        "STATE_HASH_REPLY term=5 from=2 index=4096 hash=00000000000000a1",
        "STATE_DIFFERS term=5 leader=2 index=4096 hash=00000000000000a1 majority=true",
    ];
    let messages = one_of_each();
    assert_eq!(messages.len(), lines.len());
    for (message, line) in messages.iter().zip(lines) {
        let frame = encoded(message);
        assert_eq!(frame_bytes(&frame, Phase::Open), Ok(Some(frame.len())));
        assert_eq!(decode(&frame), Ok(Frame::Message(message.clone())));
        assert_eq!(message.trace(crate::NodeId(2)).to_string(), line);
    }
    let empty = Message::Append(append(12, 0, 0));
    assert_eq!(decode(&encoded(&empty)), Ok(Frame::Message(empty.clone())));
    let line = "APPEND term=9 leader=2 prev=12/1 commit=12 batches=0 bytes=0";
    assert_eq!(empty.trace(crate::NodeId(2)).to_string(), line);
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let heartbeat = Message::Heartbeat { term: Term(5), commit: LogIndex(12), round: 3 };
    assert_eq!(
        hex(&encoded(&heartbeat)),
        "98625f8d240000001600000005000000000000000c000000000000000300000000000000"
    );
    let vote = Message::VoteReply { term: Term(6), granted: true };
    assert_eq!(hex(&encoded(&vote)), "07d0caa214000000130100000600000000000000");
    let mut durable = Vec::new();
    encode_durable(Term(7), LogIndex(12), &mut durable);
    assert_eq!(hex(&durable), "cdaa0bd71c0000002000000007000000000000000c00000000000000");
    let decoded = Frame::Durable { term: Term(7), last: LogIndex(12) };
    assert_eq!(decode(&durable.into()), Ok(decoded));
}

#[test]
fn batches_share_the_bytes_of_their_frame() {
    let frame = encoded(&Message::Append(append(12, 2, 3)));
    let Ok(Frame::Message(Message::Append(append))) = decode(&frame) else { panic!("no Append") };
    let inside = frame.as_ptr_range();
    for batch in append.batches {
        assert!(inside.contains(&batch.bytes().as_ptr()));
    }
}

#[test]
fn a_part_of_a_snapshot_stands_within_it_or_is_refused() {
    let refused = |change: fn(&mut SnapshotChunk)| {
        let mut chunk = chunk();
        change(&mut chunk);
        decode(&encoded(&Message::SnapshotChunk(chunk))).expect_err("must be refused")
    };
    let part = DecodeError::Invalid("part of a snapshot");
    assert_eq!(refused(|chunk| chunk.bytes = Bytes::new()), part);
    assert_eq!(refused(|chunk| chunk.total_bytes = (1 << 32) + 3), part);
    assert_eq!(refused(|chunk| chunk.offset = u64::MAX), part);
    assert_eq!(refused(|chunk| chunk.index_term = Term(6)), DecodeError::Invalid("entry term"));
}

#[test]
fn an_append_is_consecutive_or_refused() {
    let refused = |change: fn(&mut Append)| {
        let mut append = append(12, 3, 2);
        change(&mut append);
        decode(&encoded(&Message::Append(append))).expect_err("must be refused")
    };
    let invalid = DecodeError::Invalid;
    assert_eq!(refused(|append| append.prev = LogIndex(11)), invalid("batch index"));
    assert_eq!(refused(|append| drop(append.batches.remove(1))), invalid("batch chain"));
    assert_eq!(refused(|append| append.batches.swap(1, 2)), invalid("batch chain"));
    assert_eq!(refused(|append| append.term = Term(2)), invalid("batch term"));
    assert_eq!(refused(|append| append.prev_term = Term(2)), invalid("batch term"));
    assert_eq!(refused(|append| append.prev_term = Term(10)), invalid("entry term"));
    assert_eq!(refused(|append| append.term = Term(0)), invalid("entry term"));
    let gap = |append: &mut Append| {
        let before = append.batches[2].header().prev_crc;
        append.batches[2] = batch(99, 1, 3, before);
    };
    assert_eq!(refused(gap), invalid("batch index"));
    let back = |append: &mut Append| {
        let first = append.batches[2].header().first_index.0;
        append.batches[2] = batch(first, 1, 1, append.batches[1].header().crc);
    };
    assert_eq!(refused(back), invalid("batch term"));
    let nothing_before = |append: &mut Append| {
        append.batches.clear();
        append.prev = LogIndex(0);
    };
    assert_eq!(refused(nothing_before), invalid("entry term"));
}

#[test]
fn numbers_that_no_node_reaches_are_refused() {
    let beyond = Term(TERM_MAX + 1);
    let far = LogIndex(LOG_INDEX_MAX + 1);
    let at = LogIndex(1);
    for message in [
        Message::VoteReply { term: beyond, granted: true },
        Message::VoteRequest { term: beyond, last: at, last_term: Term(1), is_transfer: false },
        Message::VoteRequest { term: Term(0), last: at, last_term: Term(0), is_transfer: false },
        Message::Heartbeat { term: Term(u64::MAX), commit: at, round: 0 },
        Message::Heartbeat { term: Term(0), commit: at, round: 0 },
        Message::Heartbeat { term: Term(1), commit: far, round: 0 },
        Message::Ack { term: Term(1), round: 0, matched: far, durable: at },
        Message::Ack { term: Term(1), round: 0, matched: at, durable: LogIndex(2) },
        Message::AppendReject {
            term: Term(1),
            prev: at,
            hint: LogIndex(2),
            hint_term: Term(1),
            is_repaired: false,
        },
        Message::DurableReply { term: Term(1), id: 1, last: at, last_term: Term(2) },
        Message::TimeoutNow { term: Term(0) },
        Message::StateHashRequest { term: Term(0), index: at },
        Message::StateHashRequest { term: Term(1), index: far },
        Message::StateHashReply { term: Term(1), index: far, hash: 0 },
        Message::StateDiffers { term: Term(0), index: at, hash: 0, is_majority: false },
    ] {
        assert!(matches!(decode(&encoded(&message)), Err(DecodeError::Invalid(_))), "{message:?}");
    }
}

#[test]
fn a_length_is_judged_before_anything_waits_for_it() {
    let mut heartbeat =
        encoded(&Message::Heartbeat { term: Term(5), commit: LogIndex(1), round: 3 }).to_vec();
    let length = u32::try_from(SMALL_FRAME_BYTES_MAX + 1).unwrap();
    heartbeat[4..8].copy_from_slice(&length.to_le_bytes());
    let limit = SMALL_FRAME_BYTES_MAX;
    let too_large = Err(DecodeError::TooLarge { what: "frame", limit });
    assert_eq!(frame_bytes(&heartbeat, Phase::Open), too_large);
    heartbeat[4..8].copy_from_slice(&11_u32.to_le_bytes());
    let too_short = Err(DecodeError::Invalid("frame length"));
    assert_eq!(frame_bytes(&heartbeat, Phase::Open), too_short);

    let append = encoded(&Message::Append(append(12, 3, 3)));
    assert_eq!(frame_bytes(&append[..43], Phase::Open), Ok(None));
    assert_eq!(frame_bytes(&append[..44], Phase::Open), Ok(Some(append.len())));
    let mut claims = append.to_vec();
    claims[6] = 1;
    assert_eq!(frame_bytes(&claims[..44], Phase::Open), Err(DecodeError::Checksum));
    let kind = DecodeError::UnknownOpcode(kind::APPEND);
    assert_eq!(frame_bytes(&append, Phase::Handshake), Err(kind));
}

#[test]
fn no_flipped_bit_and_no_truncation_passes() {
    for message in one_of_each() {
        let frame = encoded(&message);
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes.into()).is_err(), "bit {bit} of {message:?}");
        }
        for length in 0..frame.len() {
            assert!(decode(&frame.slice(..length)).is_err(), "length {length} of {message:?}");
        }
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let number = || 1..TERM_MAX;
    (0..16_usize, number(), number(), number(), any::<bool>(), any::<u64>()).prop_map(
        |(which, a, b, c, flag, id)| {
            let term = Term(a.max(c));
            let (last, last_term) = (LogIndex(b), Term(a.min(c)));
            match which {
                0 => Message::PreVoteRequest { term, last, last_term },
                1 => Message::PreVoteReply { term, granted: flag },
                2 => Message::VoteRequest { term, last, last_term, is_transfer: flag },
                3 => Message::VoteReply { term, granted: flag },
                4 => {
                    let few = |number: u64| usize::try_from(number % 4).unwrap();
                    Message::Append(append(a % 1000, few(b), 1 + few(c)))
                }
                5 => Message::AppendReject {
                    term,
                    prev: LogIndex(b.max(c)),
                    hint: last,
                    hint_term: last_term,
                    is_repaired: flag,
                },
                6 => Message::Heartbeat { term, commit: last, round: id },
                7 => Message::Ack {
                    term,
                    round: id,
                    matched: LogIndex(b.max(c)),
                    durable: LogIndex(b.min(c)),
                },
                8 => Message::TimeoutNow { term },
                9 => Message::ReadIndexRequest { term, id },
                10 => Message::ReadIndexReply { term, id, index: last },
                11 => Message::DurableRequest { term, id },
                12 => Message::DurableReply { term, id, last, last_term },
                13 => Message::StateHashRequest { term, index: last },
                14 => Message::StateHashReply { term, index: last, hash: id },
                _ => Message::StateDiffers { term, index: last, hash: id, is_majority: flag },
            }
        },
    )
}

proptest! {
    /// Wherever the network cuts the stream, the same messages come out of it.
    #[test]
    fn a_stream_may_be_cut_anywhere(
        messages in proptest::collection::vec(any_message(), 1..6),
        piece in 1_usize..40,
    ) {
        let stream: Vec<u8> =
            messages.iter().flat_map(|message| encoded(message).to_vec()).collect();
        let (mut held, mut read) = (Vec::new(), Vec::new());
        for piece in stream.chunks(piece) {
            held.extend_from_slice(piece);
            while let Some(length) = frame_bytes(&held, Phase::Open).unwrap() {
                if length > held.len() {
                    break;
                }
                let frame: Vec<u8> = held.drain(..length).collect();
                read.push(decode(&frame.into()).unwrap());
            }
        }
        prop_assert!(held.is_empty());
        let expected: Vec<Frame> = messages.into_iter().map(Frame::Message).collect();
        prop_assert_eq!(read, expected);
    }

    /// Whatever a peer sends under a good checksum: it is a message that encodes to the same
    /// bytes, or an error.
    #[test]
    fn no_frame_is_too_strange(
        message in any_message(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = encoded(&message).to_vec();
        if byte % 2 == 0 {
            bytes.truncate(cut.index(bytes.len()).max(FRAME_HEAD_BYTES));
        }
        let end = bytes.len();
        bytes[8 + at.index(end - 8)] = byte;
        bytes[4..8].copy_from_slice(&u32::try_from(end).unwrap().to_le_bytes());
        let covered = if bytes[8] == kind::APPEND { end.min(APPEND_HEAD_BYTES) } else { end };
        let crc = crc32fast::hash(&bytes[4..covered]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        let bytes = Bytes::from(bytes);
        let _ = frame_bytes(&bytes, Phase::Open);
        match decode(&bytes) {
            Ok(Frame::Message(again)) => prop_assert_eq!(encoded(&again), bytes),
            Ok(Frame::Durable { term, last }) => {
                let mut again = Vec::new();
                encode_durable(term, last, &mut again);
                prop_assert_eq!(again, bytes);
            }
            Err(_) => {}
        }
    }
}
