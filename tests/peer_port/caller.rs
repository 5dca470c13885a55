//! A caller that speaks the peer protocol, and may lie.

use std::fs;

use bytes::Bytes;
use kvorum_protocol::peer::frame::{Phase, frame_bytes};
use kvorum_protocol::peer::handshake::{Dialer, Failure, Step};
use kvorum_protocol::peer::{Introduction, Lane};
use kvorum_protocol::{LogIndex, NodeId, Term};

use crate::support::child::Ends as _;
use crate::support::client::Raw;
use crate::support::cluster::Cluster;
use crate::support::server::kvorum;

/// What member `from` would say to member `to`, which runs.
pub fn introduction(cluster: &Cluster, from: usize, to: usize) -> Introduction {
    let members = cluster.member_list();
    let id = |id| NodeId(u16::try_from(id).expect("a node id"));
    Introduction {
        from: id(from),
        to: id(to),
        lane: Lane::Control,
        cluster: members.cluster_id(),
        incarnation: incarnation(cluster, from),
        boot: rand::random(),
        epoch: 1,
        members: members.fingerprint(),
        members_index: LogIndex(1),
        address: cluster.peer_address(from).to_owned(),
        term: term(cluster, from),
        durable: LogIndex(cluster.node(to).status_number("last")),
        has_secret: false,
        nonce: [1; 16],
        known: Vec::new(),
    }
}

/// The highest that a node remembers. It must not be told another: whoever hears of a higher one
/// does not let the real node in again.
pub fn term(cluster: &Cluster, id: usize) -> Term {
    if cluster.running().any(|running| running == id) {
        return Term(cluster.node(id).status_number("term"));
    }
    let output = kvorum().args(["wal", "dump", "--brief"]).arg(cluster.data(id)).output_in_time();
    let dump = String::from_utf8(output.expect("a dump").stdout).expect("words");
    let word = dump.rsplit_once(" TERM term=").expect("a term").1.split_whitespace().next();
    Term(word.expect("a number").parse().expect("a number"))
}

/// That of a node's data directory.
fn incarnation(cluster: &Cluster, id: usize) -> u64 {
    let text = fs::read_to_string(cluster.data(id).join("identity")).expect("an identity");
    let found = text.lines().find_map(|line| line.strip_prefix("incarnation "));
    u64::from_str_radix(found.expect("an incarnation"), 16).expect("a number")
}

/// A connection to a peer port, after a handshake that went well.
pub fn call(cluster: &Cluster, own: Introduction) -> Result<Raw, Failure> {
    let to = usize::from(own.to.0);
    let mut socket = Raw::connect(cluster.peer_address(to));
    match introduce(&mut socket, own) {
        Ok(()) => Ok(socket),
        Err(failure) => {
            assert_eq!(socket.rest(), b"", "a refusal is the last word");
            Err(failure)
        }
    }
}

/// The handshake alone.
pub fn introduce(socket: &mut Raw, own: Introduction) -> Result<(), Failure> {
    let (mut dialer, proof) = greet(socket, own)?;
    finish(socket, &mut dialer, &proof)
}

/// The handshake up to the proof that the caller owes, which is not sent.
pub fn greet(socket: &mut Raw, own: Introduction) -> Result<(Dialer, Vec<u8>), Failure> {
    let mut out = Vec::new();
    let mut dialer = Dialer::new(own, None, &mut out);
    socket.send(&std::mem::take(&mut out));
    while dialer.receive(&next_frame(socket), &mut out)? == Step::Wait {}
    dialer.accept(&mut out);
    Ok((dialer, out))
}

/// The rest of the handshake.
pub fn finish(socket: &mut Raw, dialer: &mut Dialer, proof: &[u8]) -> Result<(), Failure> {
    socket.send(proof);
    let step = dialer.receive(&next_frame(socket), &mut Vec::new())?;
    assert_eq!(step, Step::Ready);
    Ok(())
}

fn next_frame(socket: &mut Raw) -> Bytes {
    let mut frame = Vec::new();
    loop {
        match frame_bytes(&frame, Phase::Handshake).expect("nodes speak the protocol") {
            Some(length) if length == frame.len() => return frame.into(),
            Some(length) => frame.extend(socket.bytes(length - frame.len())),
            None => frame.extend(socket.bytes(1)),
        }
    }
}
