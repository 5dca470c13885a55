//! Both sides of a handshake, driven frame by frame.

use super::*;
use crate::membership::{Change, Member, Role};
use crate::peer::Lane;
use crate::peer::frame::{Phase, frame_bytes};
use crate::types::{ClusterId, LogIndex, Term};

fn members(ids: &[u16]) -> MemberList {
    let member = |id| Member::parse(&format!("{id}=a:{id}/b:{id}"), Role::Voter).unwrap();
    MemberList::new(ids.iter().map(member).collect()).unwrap()
}

fn introduction_of(from: u16, to: u16) -> Introduction {
    Introduction {
        from: NodeId(from),
        to: NodeId(to),
        lane: Lane::Bulk,
        cluster: ClusterId(7),
        incarnation: u64::from(from) * 100,
        boot: u64::from(from),
        epoch: 1,
        members: members(&[1, 2, 3]).fingerprint(),
        members_index: LogIndex(8),
        address: format!("b:{from}"),
        term: Term(5),
        durable: LogIndex(12),
        has_secret: false,
        nonce: [u8::try_from(from).unwrap(); 16],
        known: vec![(NodeId(3), 300)],
    }
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.as_bytes().to_vec()).unwrap())
}

/// Cuts a stream into frames.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(length) = frame_bytes(bytes, Phase::Handshake).unwrap() {
        frames.push(bytes[..length].to_vec());
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty());
    frames
}

/// What the two sides came to: how the first to give up failed, or whom they met.
#[derive(Debug, PartialEq)]
enum Outcome {
    Met { dialer: Box<Introduction>, acceptor: Box<Introduction> },
    DialerRefuses(Reason, Failure),
    AcceptorRefuses(Reason, Failure),
}

fn meet(
    [dialer, acceptor]: [Introduction; 2],
    [dialer_secret, acceptor_secret]: [Option<Secret>; 2],
    list: &MemberList,
) -> Outcome {
    let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
    let mut dialer = Dialer::new(dialer, dialer_secret, &mut to_acceptor);
    let mut acceptor = Acceptor::new(acceptor, acceptor_secret);
    let (mut met_acceptor, mut met_dialer) = (None, None);
    loop {
        for frame in frames(&std::mem::take(&mut to_acceptor)) {
            match acceptor.receive(&frame, list, &mut to_dialer) {
                Ok(Step::Wait) => {}
                Ok(Step::Judge(theirs)) => {
                    met_dialer = Some(theirs);
                    acceptor.accept(&mut to_dialer);
                }
                Ok(Step::Ready) => unreachable!("an acceptor is ready when it accepts"),
                Err(Failure::Refuses(refusal)) => {
                    let frame = &frames(&to_dialer)[0];
                    let heard = dialer.receive(frame, &mut Vec::new()).unwrap_err();
                    return Outcome::AcceptorRefuses(refusal.reason, heard);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        for frame in frames(&std::mem::take(&mut to_dialer)) {
            match dialer.receive(&frame, &mut to_acceptor) {
                Ok(Step::Wait) => {}
                Ok(Step::Judge(theirs)) => {
                    met_acceptor = Some(theirs);
                    dialer.accept(&mut to_acceptor);
                }
                Ok(Step::Ready) => {
                    let [dialer, acceptor] =
                        [met_dialer, met_acceptor].map(|met| Box::new(met.unwrap()));
                    return Outcome::Met { dialer, acceptor };
                }
                Err(Failure::Refuses(refusal)) => {
                    let frame = &frames(&to_acceptor)[0];
                    let heard = acceptor.receive(frame, list, &mut Vec::new()).unwrap_err();
                    return Outcome::DialerRefuses(refusal.reason, heard);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn two_nodes_of_a_cluster_meet_with_and_without_a_secret() {
    for with in [None, secret("correct horse battery staple")] {
        let [one, two] = [introduction_of(1, 2), introduction_of(2, 2)];
        let met =
            meet([one.clone(), two.clone()], [with.clone(), with.clone()], &members(&[1, 2, 3]));
        let has_secret = with.is_some();
        let expected = Outcome::Met {
            dialer: Box::new(Introduction { has_secret, ..one }),
            acceptor: Box::new(Introduction { has_secret, to: NodeId(1), ..two }),
        };
        assert_eq!(met, expected);
    }
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let mut hello = Vec::new();
    let _ = Dialer::new(introduction_of(1, 2), None, &mut hello);
    let expected: Vec<u8> = [
        &[120, 35, 141, 80, 116, 0, 0, 0, 1, 0, 0, 0][..],
        // Version, flags, lane, from, to.
        &[3, 0, 0, 1, 1, 0, 2, 0],
        // Cluster, incarnation, boot, epoch.
        &[7_u64, 100, 1, 1].map(u64::to_le_bytes).concat(),
        &members(&[1, 2, 3]).fingerprint().to_le_bytes(),
        // Term, durable.
        &[5_u64, 12].map(u64::to_le_bytes).concat(),
        &[1; 16],
        &8_u64.to_le_bytes(),
        // One is known.
        &[1, 0],
        b"\x03b:1",
        &[3, 0],
        &300_u64.to_le_bytes(),
    ]
    .concat();
    assert_eq!(hello, expected);
}

#[test]
fn each_difference_has_its_reason_and_both_sides_hear_it() {
    let good = || [introduction_of(1, 2), introduction_of(2, 1)];
    let change = |change: fn(&mut Introduction)| {
        let mut both = good();
        change(&mut both[0]);
        both
    };
    let (none, a, b) = (None, secret("aaaaaaaaaaaaaaaa"), secret("bbbbbbbbbbbbbbbb"));
    for (both, secrets, reason) in [
        (change(|one| one.cluster.0 += 1), [none.clone(), none.clone()], Reason::Cluster),
        (change(|one| one.members += 1), [none.clone(), none.clone()], Reason::Members),
        (change(|one| one.to.0 = 3), [none.clone(), none.clone()], Reason::WrongNode),
        (change(|one| one.from.0 = 9), [none.clone(), none.clone()], Reason::NotMember),
        (change(|one| one.from.0 = 2), [none.clone(), none.clone()], Reason::NotMember),
        (good(), [a.clone(), none.clone()], Reason::Secret),
        (good(), [none.clone(), a.clone()], Reason::Secret),
    ] {
        match meet(both, secrets, &members(&[1, 2, 3])) {
            Outcome::AcceptorRefuses(said, Failure::Refused { refusal, is_authentic: proved }) => {
                assert_eq!((said, refusal.reason, proved), (reason, reason, false));
                assert!(refusal.sentence.contains("node"), "{refusal}");
            }
            other => panic!("{reason:?}: {other:?}"),
        }
    }
    match meet(good(), [a, b], &members(&[1, 2, 3])) {
        Outcome::DialerRefuses(Reason::Secret, Failure::Refused { refusal, is_authentic }) => {
            assert_eq!((refusal.reason, is_authentic), (Reason::Secret, false));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists_may_differ_while_they_change() {
    let both = |at: u64| {
        let newer = Introduction {
            members: members(&[1, 2, 3, 4]).fingerprint(),
            members_index: LogIndex(at),
            ..introduction_of(4, 2)
        };
        [newer, introduction_of(2, 2)]
    };
    let list = members(&[1, 2, 3]);
    assert!(matches!(meet(both(9), [None, None], &list), Outcome::Met { .. }));
    for (at, reason) in [(7, Reason::NotMember), (8, Reason::Members)] {
        match meet(both(at), [None, None], &list) {
            Outcome::AcceptorRefuses(said, _) => assert_eq!(said, reason),
            other => panic!("{other:?}"),
        }
    }
    let after = members(&[1, 2, 3, 4]).changed(&Change::Remove(NodeId(4))).unwrap();
    match meet(both(7), [None, None], &after) {
        Outcome::Met { dialer, .. } => assert_eq!(dialer.from, NodeId(4), "for the caller to say"),
        other => panic!("{other:?}"),
    }
}

/// Brings a dialer and an acceptor with a secret to where the dialer judges.
fn up_to_the_judgement() -> (Dialer, Acceptor, Introduction) {
    let with = secret("correct horse battery staple");
    let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
    let mut dialer = Dialer::new(introduction_of(1, 2), with.clone(), &mut to_acceptor);
    let mut acceptor = Acceptor::new(introduction_of(2, 2), with);
    let list = members(&[1, 2, 3]);
    assert_eq!(acceptor.receive(&to_acceptor, &list, &mut to_dialer), Ok(Step::Wait));
    let frames = frames(&to_dialer);
    assert_eq!(dialer.receive(&frames[0], &mut to_acceptor), Ok(Step::Wait));
    match dialer.receive(&frames[1], &mut to_acceptor) {
        Ok(Step::Judge(theirs)) => (dialer, acceptor, theirs),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_judgement_is_proved_to_the_other_side_and_can_not_be_forged() {
    let (mut dialer, mut acceptor, theirs) = up_to_the_judgement();
    let refusal = Refusal::amnesia(NodeId(1), theirs.from);
    let mut out = Vec::new();
    dialer.refuse(&refusal, &mut out);
    let heard = acceptor.receive(&out, &members(&[1, 2, 3]), &mut Vec::new());
    assert_eq!(heard, Err(Failure::Refused { refusal: refusal.clone(), is_authentic: true }));

    let (_, mut acceptor, _) = up_to_the_judgement();
    let stranger = Transcript { secret: None, hello: Vec::new(), welcome: Vec::new() };
    let mut out = Vec::new();
    stranger.put_refusal(&refusal, &mut out);
    let heard = acceptor.receive(&out, &members(&[1, 2, 3]), &mut Vec::new());
    assert_eq!(heard, Err(Failure::Refused { refusal, is_authentic: false }));
}

#[test]
fn a_proof_of_another_handshake_is_worth_nothing() {
    let (mut dialer, _, _) = up_to_the_judgement();
    let mut proof = Vec::new();
    dialer.accept(&mut proof);

    let with = secret("correct horse battery staple");
    let (mut hello, mut out) = (Vec::new(), Vec::new());
    let _ = Dialer::new(introduction_of(1, 2), with.clone(), &mut hello);
    let fresh = Introduction { nonce: [9; 16], ..introduction_of(2, 2) };
    let mut acceptor = Acceptor::new(fresh, with);
    let list = members(&[1, 2, 3]);
    assert_eq!(acceptor.receive(&hello, &list, &mut out), Ok(Step::Wait));
    let replayed = acceptor.receive(&proof, &list, &mut out);
    assert!(matches!(replayed, Err(Failure::Refuses(Refusal { reason: Reason::Secret, .. }))));
}

#[test]
fn another_version_is_told_whatever_else_it_says() {
    let mut hello = Vec::new();
    let start = frame::begin(&mut hello, kind::HELLO, 0);
    hello.extend_from_slice(&[9, 0, b'?']);
    frame::finish(&mut hello, start, 0);
    let mut out = Vec::new();
    let mut acceptor = Acceptor::new(introduction_of(2, 2), None);
    match acceptor.receive(&hello, &members(&[1, 2]), &mut out) {
        Err(Failure::Refuses(Refusal { reason: Reason::Version, sentence })) => {
            assert!(sentence.contains("version 9"), "{sentence}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(out[8], kind::REFUSED);
}

#[test]
fn a_sentence_of_a_peer_is_one_printable_line() {
    let transcript = Transcript { secret: None, hello: Vec::new(), welcome: Vec::new() };
    let sentence = "a\nb\x1b[31m".to_owned();
    let mut out = Vec::new();
    transcript.put_refusal(&Refusal { reason: Reason::Other(99), sentence }, &mut out);
    let mut dialer = Dialer::new(introduction_of(1, 2), None, &mut Vec::new());
    match dialer.receive(&out, &mut Vec::new()) {
        Err(Failure::Refused { refusal, .. }) => {
            assert_eq!(
                (refusal.reason, refusal.sentence.as_str()),
                (Reason::Other(99), "a b [31m")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_out_of_turn_end_the_handshake() {
    let (mut dialer, mut acceptor, _) = up_to_the_judgement();
    let mut hello = Vec::new();
    let _ = Dialer::new(introduction_of(1, 2), None, &mut hello);
    let list = members(&[1, 2, 3]);
    let expected = Err(Failure::Malformed(DecodeError::UnknownOpcode(kind::HELLO)));
    assert_eq!(acceptor.receive(&hello, &list, &mut Vec::new()), expected);
    assert_eq!(acceptor.receive(&hello, &list, &mut Vec::new()), expected);
    assert_eq!(dialer.receive(&hello, &mut Vec::new()), expected);
}

proptest::proptest! {
    /// No bytes of a stranger stop a node, and none make it take the stranger for a member.
    #[test]
    fn no_stranger_passes(
        noise in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        kind in 0_u8..8,
        at in 0_usize..200,
        bit in 0_u8..8,
    ) {
        let mut stream = Vec::new();
        let start = frame::begin(&mut stream, kind, 0);
        stream.extend_from_slice(&noise);
        frame::finish(&mut stream, start, 0);
        let with = secret("correct horse battery staple");
        let mut hello = Vec::new();
        let _ = Dialer::new(introduction_of(1, 2), with.clone(), &mut hello);
        let mut changed = hello.clone();
        let end = changed.len();
        changed[at.min(end - 1)] ^= 1 << bit;
        for first in [stream.clone(), changed, hello] {
            let mut acceptor = Acceptor::new(introduction_of(2, 2), with.clone());
            for frame in [&first, &stream] {
                let step = acceptor.receive(frame, &members(&[1, 2, 3]), &mut Vec::new());
                proptest::prop_assert!(!matches!(step, Ok(Step::Judge(_) | Step::Ready)));
            }
        }
    }
}
