//! What a message does: the rules on terms that all of them share (Raft paper, section 5.1), then
//! the one that is for it.

use kvorum_protocol::peer::Message;
use kvorum_protocol::{LogIndex, NodeId, Term};

use super::{Node, Violation};
use crate::core::log::EntryId;
use crate::core::time::Now;

/// No cluster holds so many elections between two messages: a term that is this much higher is
/// damage or an attack, and would soon leave no higher ones.
const TERM_JUMP_MAX: u64 = 1 << 32;

impl Node {
    /// A message came from another member. The shell has checked that it is one, and who it says:
    /// it may be one that this node's list does not name yet, or a learner there that has become a
    /// voter (Raft thesis, section 4.1).
    ///
    /// # Errors
    /// When no correct node sends such a message: its connection is to be closed.
    pub fn receive(&mut self, now: &Now, from: NodeId, message: Message) -> Result<(), Violation> {
        self.now = now.monotonic;
        if from == self.config.id {
            return Err(Violation("it comes from this node itself"));
        }
        if matches!(message, Message::PreVoteRequest { term: Term(0), .. }) {
            return Err(Violation("it asks for a pre-vote in term 0"));
        }
        let term = message.term();
        if term.0.saturating_sub(self.raft.term().0) > TERM_JUMP_MAX {
            return Err(Violation("its term is far beyond every term so far"));
        }
        match message {
            Message::PreVoteRequest { term, last, last_term } => {
                self.on_pre_vote_request(from, term, last, last_term);
                return Ok(());
            }
            Message::PreVoteReply { term, granted: true } => {
                self.on_pre_vote_granted(from, term);
                return Ok(());
            }
            // A node that was cut off must not unseat a leader that works.
            Message::VoteRequest { is_transfer: false, .. } if self.has_live_leader() => {
                return Ok(());
            }
            _ => {}
        }
        if term > self.raft.term() {
            self.enter_term(term);
        }
        if term < self.raft.term() {
            self.answer_old_term(from, message);
            return Ok(());
        }
        self.receive_in_term(from, message)
    }

    /// A sender of an earlier term learns of the current one, if it waits for an answer.
    fn answer_old_term(&mut self, from: NodeId, message: Message) {
        let term = self.raft.term();
        match message {
            Message::Append(_) | Message::Heartbeat { .. } | Message::SnapshotChunk(_) => {
                let none = LogIndex(0);
                self.send(from, Message::Ack { term, round: 0, matched: none, durable: none });
            }
            Message::VoteRequest { .. } => {
                self.send(from, Message::VoteReply { term, granted: false });
            }
            Message::DurableRequest { id, .. } => self.on_durable_request(from, id),
            Message::Ack { round, matched, durable, .. }
                if super::has_bug!(self, CountsStaleAcks) =>
            {
                let _ = self.on_ack(from, round, matched, durable);
            }
            _ => {}
        }
    }

    fn receive_in_term(&mut self, from: NodeId, message: Message) -> Result<(), Violation> {
        match message {
            Message::Append(append) => {
                self.check_leader(from)?;
                self.follow(from);
                self.on_append(from, append)
            }
            Message::Heartbeat { commit, round, .. } => {
                self.check_leader(from)?;
                self.follow(from);
                self.on_heartbeat(commit, round);
                Ok(())
            }
            Message::VoteRequest { last, last_term, .. } => {
                // Also when this node is no voter by its own list: the candidate may have a newer
                // one, and only the votes of that one's voters count.
                self.on_vote_request(from, last, last_term);
                Ok(())
            }
            Message::VoteReply { granted, .. } => {
                self.on_vote_reply(from, granted);
                Ok(())
            }
            Message::AppendReject { prev, hint, hint_term, is_repaired, .. } => {
                if is_repaired {
                    self.on_repaired(from);
                }
                self.on_append_reject(from, prev, hint, hint_term);
                Ok(())
            }
            Message::Ack { round, matched, durable, .. } => {
                self.on_ack(from, round, matched, durable)
            }
            Message::TimeoutNow { .. } => {
                self.on_timeout_now(from);
                Ok(())
            }
            Message::ReadIndexRequest { id, .. } => {
                self.on_read_index_request(from, id);
                Ok(())
            }
            Message::ReadIndexReply { term, id, index } => {
                self.asks.answer(id, from, term, index);
                Ok(())
            }
            Message::DurableRequest { id, .. } => {
                self.on_durable_request(from, id);
                Ok(())
            }
            Message::DurableReply { id, last, last_term, .. } => {
                self.asks.answer(id, from, last_term, last);
                Ok(())
            }
            Message::SnapshotChunk(chunk) => {
                self.check_leader(from)?;
                self.follow(from);
                self.on_snapshot_chunk(from, chunk)
            }
            Message::SnapshotAck { index, file, offset, .. } => {
                self.on_snapshot_ack(from, index, file, offset);
                Ok(())
            }
            Message::StateHashRequest { index, .. } => {
                self.check_leader(from)?;
                self.follow(from);
                self.on_state_hash_request(index);
                Ok(())
            }
            Message::StateHashReply { index, hash, .. } => {
                self.on_state_hash_reply(from, index, hash);
                Ok(())
            }
            Message::StateDiffers { index, hash, is_majority, .. } => {
                self.check_leader(from)?;
                self.follow(from);
                self.on_state_differs(index, hash, is_majority)
            }
            // Granted ones never come here, and the others have only brought their term.
            Message::PreVoteReply { .. } | Message::PreVoteRequest { .. } => Ok(()),
        }
    }

    /// A term has one leader (Raft paper, figure 3), and it never changes.
    fn check_leader(&self, from: NodeId) -> Result<(), Violation> {
        match self.raft.leader() {
            Some(leader) if leader != from => Err(Violation("its term has another leader")),
            _ => Ok(()),
        }
    }

    fn on_durable_request(&mut self, from: NodeId, id: u64) {
        let EntryId { term: last_term, index: last } = self.log.durable_claim();
        let term = self.raft.term();
        self.send(from, Message::DurableReply { term, id, last, last_term });
    }
}
