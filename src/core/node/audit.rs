//! Comparing states: the leader asks for hashes and counts, the others answer
//! ([`core::audit`](crate::core::audit) has the rules).

use kvorum_protocol::peer::Message;
use kvorum_protocol::{LogIndex, NodeId};

use super::{Node, Violation};
use crate::core::audit::{Disagreement, Verdict};

impl Node {
    /// That nodes have different states, as far as the shell does not know yet. An
    /// [outvoted](Disagreement::Outvoted) node must neither answer nor send anything any more.
    pub fn take_disagreement(&mut self) -> Option<Disagreement> {
        self.disagreement.take()
    }

    // The leader

    /// Asks all for the hash at the last checkpoint, from time to time.
    pub(super) fn ask_for_hashes(&mut self) {
        let Some((index, own_hash)) = self.checkpoints.last() else { return };
        let (now, own) = (self.now, self.config.id);
        let Some(leading) = &mut self.leading else { return };
        if leading.members.is_empty() || !leading.audit.is_due(index, now) {
            return;
        }
        let voters = self.raft.voters();
        let unsettled = leading.audit.last().filter(|last| {
            last.is_disputed(voters) && !matches!(last.verdict(voters), Verdict::Majority(_))
        });
        let unsettled = unsettled.map(|question| question.index);
        leading.audit.ask(index, own, own_hash, now);
        self.send_to_others(&Message::StateHashRequest { term: self.raft.term(), index });
        if let Some(index) = unsettled {
            self.announce_split(index);
        }
    }

    pub(super) fn on_state_hash_reply(&mut self, from: NodeId, index: LogIndex, hash: u64) {
        let Some(leading) = &mut self.leading else { return };
        let Some(question) = leading.audit.answer(from, index, hash) else { return };
        match question.verdict(self.raft.voters()) {
            Verdict::Majority(majority) => {
                let (own, outvoted) = (question.own, question.take_outvoted(majority));
                outvoted.into_iter().for_each(|id| self.outvote(id, index, own, majority));
            }
            Verdict::Split => self.announce_split(index),
            Verdict::Open => {}
        }
    }

    fn outvote(&mut self, id: NodeId, index: LogIndex, own: u64, majority: u64) {
        if id == self.config.id {
            self.disagreement = Some(Disagreement::Outvoted { index, own, majority });
            return;
        }
        let term = self.raft.term();
        let message = Message::StateDiffers { term, index, hash: majority, is_majority: true };
        self.send(id, message);
    }

    /// Nobody can know who is right. Everybody shall say so.
    fn announce_split(&mut self, index: LogIndex) {
        let leading = self.leading.as_mut().expect("a leader announces");
        let Some(question) = leading.audit.tell_split(index) else { return };
        let own = question.own;
        let other = question.answers.iter().map(|(_, hash)| *hash).find(|hash| *hash != own);
        let other = other.expect("not all of them agree");
        let term = self.raft.term();
        self.send_to_others(&Message::StateDiffers { term, index, hash: own, is_majority: false });
        self.notice_split(index, own, other);
    }

    fn notice_split(&mut self, index: LogIndex, own: u64, other: u64) {
        if !std::mem::replace(&mut self.split_told, true) {
            self.disagreement = Some(Disagreement::Split { index, own, other });
        }
    }

    fn send_to_others(&mut self, message: &Message) {
        let leading = self.leading.as_ref().expect("a leader sends");
        let others: Vec<NodeId> = leading.members.iter().map(|member| member.id).collect();
        others.into_iter().for_each(|id| self.send(id, message.clone()));
    }

    // The others

    /// A member that is behind answers the first question, however many follow: or it would
    /// not answer any until it has caught up.
    pub(super) fn on_state_hash_request(&mut self, index: LogIndex) {
        self.following.asked_hash_at.get_or_insert(index);
    }

    /// Answers the leader's question, if the state is there.
    pub(super) fn tell_hash(&mut self) {
        let applied = self.log.applied();
        let Some(index) = self.following.asked_hash_at.take_if(|index| *index <= applied) else {
            return;
        };
        let (Some(leader), Some(hash)) = (self.raft.leader(), self.checkpoints.at(index)) else {
            return;
        };
        self.following.told_hash = Some((index, hash));
        let term = self.raft.term();
        self.send(leader, Message::StateHashReply { term, index, hash });
    }

    pub(super) fn on_state_differs(
        &mut self,
        index: LogIndex,
        hash: u64,
        is_majority: bool,
    ) -> Result<(), Violation> {
        // Without knowing its own it has nothing to say.
        let Some(own) = self.own_hash_at(index) else { return Ok(()) };
        match is_majority {
            true if own == hash => {
                return Err(Violation("it calls a state wrong that is that of the majority"));
            }
            true => self.disagreement = Some(Disagreement::Outvoted { index, own, majority: hash }),
            false => self.notice_split(index, own, hash),
        }
        Ok(())
    }

    /// What this node has said, or would say, of its state at `index`.
    fn own_hash_at(&self, index: LogIndex) -> Option<u64> {
        let told = self.following.told_hash.filter(|(at, _)| *at == index);
        told.map(|(_, hash)| hash).or_else(|| self.checkpoints.at(index))
    }
}
