//! Handing leadership over (Raft thesis, section 3.10): on request, and when the own disk stalls.

use std::time::Duration;

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::Message;

use super::{Node, TransferError};
use crate::core::time::{Instant, Now};

/// A disk that has not answered for so long is as good as gone: another leads better.
const STALL_MAX: Duration = Duration::from_secs(1);

/// Leadership on its way to another voter. Meanwhile no writes are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    to: NodeId,
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
        let Some(leading) = &self.leading else {
            return Err(TransferError::NotLeader(self.raft.leader()));
        };
        let to = match to {
            Some(to) if !self.raft.voters().contains(&to) => {
                return Err(TransferError::NotVoter(to));
            }
            Some(to) if to == self.config.id => return Ok(()),
            Some(to) => to,
            None => {
                let voters = leading.members.iter().filter(|member| member.is_voter);
                let best = voters.max_by_key(|member| (member.heard_at, member.matched));
                best.ok_or(TransferError::Alone)?.id
            }
        };
        self.begin_transfer(to);
        Ok(())
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
        if self.log.open_bytes() > 0 {
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
        let timeout = self.config.election_timeout;
        let leading = self.leading.as_mut().expect("a leader leads");
        leading.transfer = leading.transfer.filter(|transfer| now < transfer.deadline);
        if is_idle || leading.durable_since.0 != durable {
            leading.durable_since = (durable, now);
            return;
        }
        if leading.transfer.is_some() || now.since(leading.durable_since.1) < STALL_MAX {
            return;
        }
        let heard = |heard_at: Instant| now.since(heard_at) < timeout;
        let voters = leading.members.iter().filter(|member| member.is_voter);
        let alive = voters.filter(|member| member.heard_at.is_some_and(heard));
        let best = alive.max_by_key(|member| member.durable).map(|member| member.id);
        if let Some(best) = best {
            // The next attempt comes after another while.
            leading.durable_since = (durable, now);
            self.begin_transfer(best);
        }
    }
}
