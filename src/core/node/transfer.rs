//! Handing leadership over (Raft thesis, section 3.10): on request, and when the own disk stalls.

use std::time::Duration;

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::Message;

use super::{Node, TransferError};
use crate::core::progress::Progress;
use crate::core::time::{Instant, Now};

/// A disk that has not answered for so long is as good as gone: another leads better.
const STALL_MAX: Duration = Duration::from_secs(1);

/// Leadership on its way to another voter. Meanwhile no writes are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Which.
    pub to: NodeId,
    /// When it is given up.
    pub deadline: Instant,
    /// The voter was told to stand.
    is_told: bool,
}

impl Node {
    /// Hands leadership to `to`, or to the voter that is furthest. Whether it has gone there shows
    /// in the [`status`](Node::status); writes wait meanwhile. After an election timeout the node
    /// gives up and goes on.
    ///
    /// # Errors
    /// Why it can not.
    pub fn transfer(&mut self, now: &Now, to: Option<NodeId>) -> Result<(), TransferError> {
        self.now = now.monotonic;
        if self.leading.is_none() {
            return Err(TransferError::NotLeader(self.raft.leader()));
        }
        let to = match to {
            Some(to) if !self.raft.voters().contains(&to) => {
                return Err(TransferError::NotVoter(to));
            }
            Some(to) if to == self.config.id => return Ok(()),
            Some(to) if !self.live_voters().any(|member| member.id == to) => {
                return Err(TransferError::Silent(to));
            }
            Some(to) => to,
            None if self.is_lone_voter() => return Err(TransferError::Alone),
            None => return self.transfer_to_best(),
        };
        self.begin_transfer(to);
        Ok(())
    }

    /// Hands leadership to the voter that is furthest.
    pub(super) fn transfer_to_best(&mut self) -> Result<(), TransferError> {
        let best = self.live_voters().max_by_key(|member| member.matched);
        let to = best.ok_or(TransferError::AllSilent)?.id;
        self.begin_transfer(to);
        Ok(())
    }

    /// The other voters that were heard within an election timeout.
    fn live_voters(&self) -> impl Iterator<Item = &Progress> {
        let (now, timeout) = (self.now, self.config.election_timeout);
        let is_recent = move |heard_at: Instant| now.since(heard_at) < timeout;
        let members = self.leading.iter().flat_map(|leading| &leading.members);
        members.filter(move |member| member.is_voter && member.heard_at.is_some_and(is_recent))
    }

    fn begin_transfer(&mut self, to: NodeId) {
        let deadline = self.now.after(self.config.election_timeout);
        let leading = self.leading.as_mut().expect("a leader leads");
        leading.transfer = Some(Transfer { to, deadline, is_told: false });
    }

    /// Whether writes have to wait.
    #[inline]
    pub(super) fn is_transferring(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.transfer.is_some())
    }

    /// Tells the voter to stand once it has everything.
    pub(super) fn go_on_transferring(&mut self) {
        let last = self.log.end().index;
        // Who is no voter any more has nothing to hurry for, and waits for the last answers.
        let may_wait = !self.raft.is_voter() && self.log.committed() < last;
        if self.log.open_bytes() > 0 || may_wait {
            return;
        }
        let leading = self.leading.as_mut().expect("a leader leads");
        let Some(transfer) = leading.transfer.filter(|transfer| !transfer.is_told) else { return };
        let has_all = leading.member_mut(transfer.to).is_some_and(|member| member.matched == last);
        if has_all {
            leading.transfer = Some(Transfer { is_told: true, ..transfer });
            let term = self.raft.term();
            self.send(transfer.to, Message::TimeoutNow { term });
        }
    }

    /// Gives up a transfer that takes too long; begins one when the disk does.
    pub(super) fn tick_transfer(&mut self) {
        let (now, durable) = (self.now, self.log.durable_lsn());
        let is_idle = self.log.staged_bytes() == 0;
        let leading = self.leading.as_mut().expect("a leader leads");
        let is_late = leading.transfer.is_some_and(|transfer| now >= transfer.deadline);
        if is_late && !self.raft.is_voter() {
            self.leave_office();
            return;
        }
        leading.transfer = leading.transfer.filter(|_| !is_late);
        if is_idle || leading.durable_since.0 != durable {
            leading.durable_since = (durable, now);
            return;
        }
        if leading.transfer.is_some() || now.since(leading.durable_since.1) < STALL_MAX {
            return;
        }
        // Another voter is no better if its disk is stuck, too.
        let own = self.log.durable();
        let better = self.live_voters().filter(|member| member.durable > own);
        let best = better.max_by_key(|member| member.durable).map(|member| member.id);
        if let Some(best) = best {
            // The next attempt comes after another while.
            let leading = self.leading.as_mut().expect("a leader leads");
            leading.durable_since = (durable, now);
            self.begin_transfer(best);
        }
    }
}
