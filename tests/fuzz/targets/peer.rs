//! A peer that may send anything, before the handshake and after it: nothing panics, and what is
//! taken for a message encodes to the bytes that it came in.

#![no_main]

use std::sync::OnceLock;

use kvorum_protocol::peer::frame::{Phase, frame_bytes};
use kvorum_protocol::peer::handshake::{Acceptor, Dialer, Step};
use kvorum_protocol::peer::wire::{self, Frame};
use kvorum_protocol::peer::{Introduction, Lane, Secret};
use kvorum_protocol::{ClusterId, LogIndex, Member, MemberList, NodeId, Role, Term};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    // A fuzzer does not guess checksums: half of the inputs get good ones.
    let mut stream = input.to_vec();
    if choice & 1 == 1 {
        mend(&mut stream);
    }
    if choice & 2 == 0 { messages(&stream) } else { handshake(&stream, choice & 4 == 4) }
});

fn messages(mut stream: &[u8]) {
    while let Ok(Some(length)) = frame_bytes(stream, Phase::Open) {
        let Some((frame, rest)) = stream.split_at_checked(length) else { return };
        let frame = frame.to_vec().into();
        match wire::decode(&frame) {
            Ok(Frame::Message(message)) => {
                let mut again = Vec::new();
                for batch in wire::encode(&message, &mut again) {
                    again.extend_from_slice(batch.bytes());
                }
                assert_eq!(again, frame);
                assert!(!message.trace(NodeId(1)).to_string().contains('\n'));
            }
            Ok(Frame::Durable { term, last }) => {
                let mut again = Vec::new();
                wire::encode_durable(term, last, &mut again);
                assert_eq!(again, frame);
            }
            Err(_) => return,
        }
        stream = rest;
    }
}

/// Nobody who does not have the secret is ever judged, let alone let in.
fn handshake(mut stream: &[u8], dials: bool) {
    let secret = Secret::new(b"only the cluster knows this".to_vec());
    let mut out = Vec::new();
    let mut dialer = Dialer::new(introduction(), secret.clone(), &mut out);
    let mut acceptor = Acceptor::new(introduction(), secret);
    while let Ok(Some(length)) = frame_bytes(stream, Phase::Handshake) {
        let Some((frame, rest)) = stream.split_at_checked(length) else { return };
        let step = match dials {
            true => dialer.receive(frame, &mut out),
            false => acceptor.receive(frame, members(), &mut out),
        };
        match step {
            Ok(Step::Wait) => stream = rest,
            Ok(step) => panic!("let in: {step:?}"),
            Err(_) => return,
        }
    }
}

fn members() -> &'static MemberList {
    static MEMBERS: OnceLock<MemberList> = OnceLock::new();
    MEMBERS.get_or_init(|| {
        let member = |id| Member::parse(&format!("{id}=a:{id}/b:{id}"), Role::Voter);
        let members = (1..=3).map(|id| member(id).expect("a member"));
        MemberList::new(members.collect()).expect("a list of members")
    })
}

fn introduction() -> Introduction {
    Introduction {
        from: NodeId(1),
        to: NodeId(2),
        lane: Lane::Control,
        cluster: ClusterId(1),
        incarnation: 1,
        boot: 1,
        epoch: 1,
        members: members().fingerprint(),
        members_index: LogIndex(1),
        address: "b:1".to_owned(),
        term: Term(1),
        durable: LogIndex(1),
        has_secret: true,
        nonce: [0; 16],
        known: vec![(NodeId(3), 1)],
    }
}

/// Gives the first frames, and the batches in them, lengths that fit and good checksums.
fn mend(stream: &mut [u8]) {
    const APPEND: u8 = 0x14;
    const APPEND_HEAD_BYTES: usize = 44;
    let mut at = 0;
    while at + 12 <= stream.len() {
        let rest = stream.len() - at;
        let claimed = u32::from_le_bytes([stream[at + 4], stream[at + 5], 0, 0]) as usize;
        let length = claimed.clamp(12, rest);
        let frame = &mut stream[at..at + length];
        frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        let covered = match frame[8] {
            APPEND if length > APPEND_HEAD_BYTES => {
                mend_batches(&mut frame[APPEND_HEAD_BYTES..]);
                APPEND_HEAD_BYTES
            }
            _ => length,
        };
        let crc = crc32fast::hash(&frame[4..covered]);
        frame[..4].copy_from_slice(&crc.to_le_bytes());
        at += length;
    }
}

fn mend_batches(mut batches: &mut [u8]) {
    while batches.len() >= 48 {
        let claimed = u32::from_le_bytes([batches[4], batches[5], 0, 0]) as usize;
        let length = claimed.clamp(48, batches.len());
        let (batch, rest) = batches.split_at_mut(length);
        batch[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        let crc = crc32fast::hash(&batch[4..]);
        batch[..4].copy_from_slice(&crc.to_le_bytes());
        batches = rest;
    }
}
