//! The messages of raft-rs in ours, and ours in theirs.
//!
//! The two differ in these points, and in nothing else that matters:
//! - Our unit is the batch, theirs the entry. Here each batch holds one entry, so that indexes are
//!   the same. What bytes an entry of theirs has as a batch follows from the entries before it, as
//!   batches are a chain: that is settled when the entry enters the log of one of theirs.
//! - Our follower says how far it is in memory and how far durably, in one message for all; theirs
//!   says the latter, and answers heartbeats with another. Their leader sends something at each
//!   answer to a heartbeat, so no more of ours may pass for one than it has sent.
//! - Our leader names what is committed, and the follower takes that as far as its log is known to
//!   be the leader's. Theirs names to each follower no more than that one has acknowledged, and
//!   their follower relies on it.
//! - Our log begins with the member list, at index 1 in term 0; theirs behind a snapshot of that.

use std::collections::BTreeMap;

use kvorum_protocol::batch::BatchBuilder;
use kvorum_protocol::peer::{Append, Message};
use kvorum_protocol::{Batch, Command, LogIndex, NodeId, Op, Term};
use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{self, MessageType};

use crate::world::KEY;

/// The value that a batch of one entry sets; `None` for a no-op.
pub fn value_of(batch: &Batch) -> Option<u64> {
    let mut entries = batch.entries();
    let (_, command) = entries.next().expect("a batch has an entry");
    assert!(entries.next().is_none(), "a batch of one entry");
    match command.op {
        Op::Set { value, .. } => Some(u64::from_le_bytes(value.try_into().expect("a number"))),
        Op::Noop => None,
        other => panic!("nobody has written {other:?}"),
    }
}

/// Entries as batches, by index and term: that names an entry in all logs.
pub struct Dictionary {
    batches: BTreeMap<(u64, u64), Batch>,
}

impl Dictionary {
    /// `first` is the batch that all logs begin with.
    pub fn new(first: Batch) -> Dictionary {
        Dictionary { batches: BTreeMap::from([((1, 0), first)]) }
    }

    /// The entry has entered a log of theirs, behind the one of this term.
    pub fn learn(&mut self, prev_term: u64, entry: &eraftpb::Entry) {
        let before = *self.batches[&(entry.index - 1, prev_term)].header();
        let make = || {
            let mut builder = BatchBuilder::new(LogIndex(entry.index));
            let op = match entry.data.is_empty() {
                true => Op::Noop,
                false => Op::Set { key: KEY, value: &entry.data },
            };
            builder.push(&Command::new(op));
            let batch = builder.seal(Term(entry.term), before.log_time, before.crc);
            batch.expect("it holds an entry")
        };
        self.batches.entry((entry.index, entry.term)).or_insert_with(make);
    }

    fn batch(&self, entry: &eraftpb::Entry) -> Batch {
        self.batches[&(entry.index, entry.term)].clone()
    }

    fn entry(&mut self, batch: &Batch) -> eraftpb::Entry {
        let header = batch.header();
        let (index, term) = (header.first_index.0, header.term.0);
        self.batches.insert((index, term), batch.clone());
        let data = value_of(batch).map_or_else(Vec::new, |value| value.to_le_bytes().to_vec());
        eraftpb::Entry { index, term, data: data.into(), ..eraftpb::Entry::default() }
    }
}

/// What one node of theirs has acknowledged in its term.
#[derive(Clone, Copy, Default)]
pub struct Acknowledged {
    term: u64,
    index: u64,
}

impl Acknowledged {
    fn in_term(self, term: u64) -> u64 {
        if self.term == term { self.index } else { 0 }
    }

    fn note(&mut self, term: u64, index: u64) {
        *self = Acknowledged { term, index: self.in_term(term).max(index) };
    }
}

/// A message of ours in their words: none, one or two.
pub fn to_theirs(
    dictionary: &mut Dictionary,
    acknowledged: Acknowledged,
    answers_heartbeat: bool,
    from: NodeId,
    to: NodeId,
    message: &Message,
) -> Vec<eraftpb::Message> {
    let new = |kind, index: LogIndex, log_term: Term| eraftpb::Message {
        msg_type: kind,
        from: u64::from(from.0),
        to: u64::from(to.0),
        term: message.term().0,
        index: index.0,
        log_term: log_term.0,
        ..eraftpb::Message::default()
    };
    let (none, no_term) = (LogIndex(0), Term(0));
    let theirs = match message {
        Message::PreVoteRequest { last, last_term, .. } => {
            new(MessageType::MsgRequestPreVote, *last, *last_term)
        }
        Message::PreVoteReply { granted, .. } => eraftpb::Message {
            reject: !granted,
            ..new(MessageType::MsgRequestPreVoteResponse, none, no_term)
        },
        Message::VoteRequest { last, last_term, is_transfer, .. } => {
            let context = if *is_transfer { CAMPAIGN_TRANSFER } else { b"" };
            eraftpb::Message {
                context: context.into(),
                ..new(MessageType::MsgRequestVote, *last, *last_term)
            }
        }
        Message::VoteReply { granted, .. } => eraftpb::Message {
            reject: !granted,
            ..new(MessageType::MsgRequestVoteResponse, none, no_term)
        },
        Message::Append(append) => eraftpb::Message {
            commit: append.commit.0,
            entries: append.batches.iter().map(|batch| dictionary.entry(batch)).collect(),
            ..new(MessageType::MsgAppend, append.prev, append.prev_term)
        },
        Message::AppendReject { prev, hint, hint_term, .. } => eraftpb::Message {
            reject: true,
            reject_hint: hint.0,
            ..new(MessageType::MsgAppendResponse, *prev, *hint_term)
        },
        Message::Heartbeat { term, commit, round } => eraftpb::Message {
            commit: commit.0.min(acknowledged.in_term(term.0)),
            context: round.to_le_bytes().to_vec().into(),
            ..new(MessageType::MsgHeartbeat, none, no_term)
        },
        Message::Ack { durable, .. } => {
            let answer = new(MessageType::MsgHeartbeatResponse, none, no_term);
            let mut both = vec![new(MessageType::MsgAppendResponse, *durable, no_term)];
            both.extend(answers_heartbeat.then_some(answer));
            return both;
        }
        Message::TimeoutNow { .. } => new(MessageType::MsgTimeoutNow, none, no_term),
        // Nobody reads here.
        Message::ReadIndexRequest { .. }
        | Message::ReadIndexReply { .. }
        | Message::DurableRequest { .. }
        | Message::DurableReply { .. }
        | Message::SnapshotChunk(_)
        | Message::SnapshotAck { .. }
        | Message::StateHashRequest { .. }
        | Message::StateHashReply { .. }
        | Message::StateDiffers { .. } => return Vec::new(),
    };
    vec![theirs]
}

/// A message of theirs in ours.
pub fn to_ours(
    dictionary: &Dictionary,
    acknowledged: &mut Acknowledged,
    theirs: &eraftpb::Message,
) -> Message {
    let (term, index) = (Term(theirs.term), LogIndex(theirs.index));
    let (log_term, granted) = (Term(theirs.log_term), !theirs.reject);
    match theirs.msg_type {
        MessageType::MsgRequestPreVote => {
            Message::PreVoteRequest { term, last: index, last_term: log_term }
        }
        MessageType::MsgRequestPreVoteResponse => Message::PreVoteReply { term, granted },
        MessageType::MsgRequestVote => {
            let is_transfer = theirs.context == CAMPAIGN_TRANSFER;
            Message::VoteRequest { term, last: index, last_term: log_term, is_transfer }
        }
        MessageType::MsgRequestVoteResponse => Message::VoteReply { term, granted },
        MessageType::MsgAppend => {
            let batches = theirs.entries.iter().map(|entry| dictionary.batch(entry)).collect();
            let commit = LogIndex(theirs.commit);
            Message::Append(Append { term, prev: index, prev_term: log_term, commit, batches })
        }
        MessageType::MsgAppendResponse if theirs.reject => {
            let (hint, hint_term) = (LogIndex(theirs.reject_hint), log_term);
            Message::AppendReject { term, prev: index, hint, hint_term, is_repaired: false }
        }
        MessageType::MsgAppendResponse => {
            acknowledged.note(term.0, index.0);
            let known = LogIndex(acknowledged.in_term(term.0));
            Message::Ack { term, round: 0, matched: known, durable: known }
        }
        MessageType::MsgHeartbeat => {
            Message::Heartbeat { term, commit: LogIndex(theirs.commit), round: 0 }
        }
        MessageType::MsgHeartbeatResponse => {
            let round = theirs.context.as_ref().try_into().map_or(0, u64::from_le_bytes);
            let known = LogIndex(acknowledged.in_term(term.0));
            Message::Ack { term, round, matched: known, durable: known }
        }
        MessageType::MsgTimeoutNow => Message::TimeoutNow { term },
        other => panic!("no cluster of these says {other:?}"),
    }
}
