//! Changing the members: one voter at a time, and one change at a time (Raft thesis, chapter 4).

use std::fmt;
use std::time::Duration;

use kvorum_protocol::{
    Change, ChangeError, Command, ErrorCode, LogIndex, MemberList, NodeId, Op, Role as MemberRole,
};

use super::{KEPT_BYTES_MAX, Node, has_bug, refuse};
use crate::core::output::{Refusal, ReplyTo};
use crate::core::progress::Progress;
use crate::core::quorum::majority;
use crate::core::raft::Role;
use crate::core::rounds::Needed;
use crate::core::time::Now;

/// Why the members are not changed. Nothing is in the log then, and never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeRefusal {
    /// For a reason that all writes share.
    Refused(Refusal),
    /// The leader does not know yet what earlier leaders have committed.
    TooEarly,
    /// The last change is not committed yet.
    InFlight {
        /// The index of its list.
        index: LogIndex,
    },
    /// The list is another one than the change was made for.
    Base {
        /// The index of the list in force.
        index: LogIndex,
    },
    /// It makes no sense.
    Invalid(ChangeError),
    /// A learner is to be promoted that has not been heard of for an election timeout.
    Silent(NodeId),
    /// A learner is to be promoted that lacks much of the log.
    Behind {
        /// Which.
        member: NodeId,
        /// The last entry that it holds.
        has: LogIndex,
        /// The last entry of the log.
        last: LogIndex,
    },
    /// Too few of the voters would be there to commit the change, and to go on after it.
    NoMajority {
        /// Who has not been heard of for an election timeout.
        silent: Vec<NodeId>,
    },
    /// The leader's `--write-quorum` or `--read-quorum` asks for more voters than would be left.
    Quorum {
        /// How many would be left.
        voters: usize,
    },
}

impl ChangeRefusal {
    /// The code that every protocol reports.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            ChangeRefusal::Refused(refusal) => refusal.code(),
            // The same request may succeed soon.
            ChangeRefusal::TooEarly
            | ChangeRefusal::InFlight { .. }
            | ChangeRefusal::Silent(_)
            | ChangeRefusal::Behind { .. }
            | ChangeRefusal::NoMajority { .. } => ErrorCode::Busy,
            ChangeRefusal::Base { .. }
            | ChangeRefusal::Invalid(_)
            | ChangeRefusal::Quorum { .. } => ErrorCode::BadRequest,
        }
    }
}

/// For a person.
impl fmt::Display for ChangeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeRefusal::Refused(refusal) => f.write_str(refusal.message()),
            ChangeRefusal::TooEarly => {
                f.write_str("the leader has just been elected, nothing changed; try again soon")
            }
            ChangeRefusal::InFlight { index } => write!(
                f,
                "another change of the members is in flight (at index {index}), nothing changed; \
                 try again when that is done"
            ),
            ChangeRefusal::Base { index } => write!(
                f,
                "the members have changed meanwhile (at index {index}), nothing changed; look at \
                 the list again"
            ),
            ChangeRefusal::Invalid(error) => write!(f, "{error}; nothing changed"),
            ChangeRefusal::Silent(member) => write!(
                f,
                "member {member} has not been heard of, nothing changed; start it, then try again"
            ),
            ChangeRefusal::Behind { member, has, last } => write!(
                f,
                "member {member} has the log up to index {has} of {last}, nothing changed; try \
                 again when it has caught up"
            ),
            ChangeRefusal::NoMajority { silent } => {
                let silent: Vec<String> = silent.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "the voters that would be left have no majority while {} can not be reached, \
                     nothing changed; start or remove those first",
                    silent.join(", ")
                )
            }
            ChangeRefusal::Quorum { voters } => write!(
                f,
                "--write-quorum or --read-quorum asks for more than the {voters} voters that would \
                 be left, nothing changed; restart the nodes with other settings first"
            ),
        }
    }
}

impl std::error::Error for ChangeRefusal {}

impl Node {
    /// Changes the members, as one entry alone in its batch. It is in force at once; the answer
    /// comes through [`Output::replies`](crate::core::Output::replies) when it is committed, and
    /// names the index of the new list. `base` is the index of the list that the change was made
    /// for, if that matters.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn change_members(
        &mut self,
        now: &Now,
        to: ReplyTo,
        change: &Change,
        base: Option<LogIndex>,
        timeout: Option<Duration>,
    ) -> Result<LogIndex, ChangeRefusal> {
        self.now = now.monotonic;
        let list = self.changed_list(change, base)?;
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        let command = Command::new(Op::Membership(&bytes));
        if !self.room.holds_both(self.log.open_bytes(), command.encoded_len()) {
            let refusal = if self.room.is_last() { Refusal::DiskFull } else { Refusal::Busy };
            return Err(ChangeRefusal::Refused(refusal));
        }
        let index = self.append_members(now.wall_ms, &command, list);
        let deadline = now.monotonic.after(timeout.unwrap_or(self.config.quorum_timeout));
        self.writes.push(index, Needed::Majority, to, deadline);
        Ok(index)
    }

    /// A node that is alone says from now on where others find it, so that they can join. False
    /// when it is not alone, or has not begun to lead.
    pub fn move_lone(&mut self, now: &Now, client: &str, peer: &str) -> bool {
        let Role::Leader { first_index } = self.raft.role() else { return false };
        let is_ready = self.log.committed() >= first_index && self.membership.is_settled();
        if !self.is_alone() || !is_ready {
            return false;
        }
        let list = self.membership.list().moved(self.config.id, client, peer);
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        self.append_members(now.wall_ms, &Command::new(Op::Membership(&bytes)), list);
        true
    }

    /// The list that `change` makes, if it may be made now.
    fn changed_list(
        &self,
        change: &Change,
        base: Option<LogIndex>,
    ) -> Result<MemberList, ChangeRefusal> {
        let Role::Leader { first_index } = self.raft.role() else {
            return Err(ChangeRefusal::Refused(self.not_leader()));
        };
        if self.is_transferring() {
            return Err(ChangeRefusal::Refused(Refusal::Busy));
        }
        // An earlier leader may have changed the list where this one does not see it. Committing
        // an entry of its own term rules out that such a change is ever committed (the bug of 2015:
        // https://groups.google.com/g/raft-dev/c/t4xj6dJTP6E).
        if self.log.committed() < first_index && !has_bug!(self, ChangeBeforeOwnTerm) {
            return Err(ChangeRefusal::TooEarly);
        }
        let index = self.membership.index();
        if !self.membership.is_settled() && !has_bug!(self, TwoChangesInFlight) {
            return Err(ChangeRefusal::InFlight { index });
        }
        if base.is_some_and(|base| base != index) {
            return Err(ChangeRefusal::Base { index });
        }
        let list = self.membership.list().changed(change).map_err(ChangeRefusal::Invalid)?;
        match change {
            Change::Add(_) => return Ok(list),
            Change::Promote(id) if !has_bug!(self, PromotesBlank) => self.check_caught_up(*id)?,
            _ => {}
        }
        self.check_voters(&list)?;
        Ok(list)
    }

    fn is_recent(&self, member: &Progress) -> bool {
        let timeout = self.config.election_timeout;
        let is_heard = |heard_at| self.now.since(heard_at) < timeout;
        member.heard_at.is_some_and(is_heard) && !self.raft.is_lost(member.id)
    }

    /// A blank voter would hold up all commits that need it.
    fn check_caught_up(&self, id: NodeId) -> Result<(), ChangeRefusal> {
        let others = self.leading.iter().flat_map(|leading| &leading.members);
        let Some(member) = others.into_iter().find(|member| member.id == id) else {
            return Ok(());
        };
        if !self.is_recent(member) {
            return Err(ChangeRefusal::Silent(id));
        }
        let last = self.log.end().index;
        // What it lacks must be near, and little.
        let is_near = member.matched.next() >= self.log.first_in_memory();
        if !is_near || last.0 - member.matched.0 > self.config.promotion_lag_max {
            return Err(ChangeRefusal::Behind { member: id, has: member.matched, last });
        }
        Ok(())
    }

    /// Whether the voters of `list` would be able to go on.
    fn check_voters(&self, list: &MemberList) -> Result<(), ChangeRefusal> {
        let voters = list.voters().count();
        let quorums = [self.config.write_quorum, self.config.read_quorum];
        if quorums.iter().any(|quorum| quorum.size(voters).is_none()) {
            return Err(ChangeRefusal::Quorum { voters });
        }
        let leading = self.leading.as_ref().expect("a leader leads");
        let is_heard = |id: NodeId| {
            let mut others = leading.members.iter();
            id == self.config.id || others.any(|member| member.id == id && self.is_recent(member))
        };
        let silent: Vec<NodeId> =
            list.voters().map(|voter| voter.id).filter(|id| !is_heard(*id)).collect();
        if voters - silent.len() < majority(voters) {
            return Err(ChangeRefusal::NoMajority { silent });
        }
        Ok(())
    }

    /// Puts a list into the log, in a batch of its own: whoever reads the log later looks for it
    /// only there.
    pub(super) fn append_members(
        &mut self,
        wall_ms: u64,
        command: &Command<'_>,
        list: MemberList,
    ) -> LogIndex {
        let term = self.raft.term();
        self.seal_open(term, wall_ms);
        let index = self.log.push(command);
        self.seal_open(term, wall_ms);
        self.membership.append(index, list);
        self.follow_members();
        index
    }

    /// Counts by the list in force from now on.
    pub(super) fn follow_members(&mut self) {
        let list = self.membership.list();
        let voters: Vec<NodeId> = list.voters().map(|member| member.id).collect();
        self.writes.set_majority(majority(voters.len()));
        self.raft.set_voters(voters, self.membership.may_be_voter());
        self.log.set_kept_bytes_max(if self.membership.is_alone() { 0 } else { KEPT_BYTES_MAX });
        if let Some(leading) = &mut self.leading {
            let next = self.log.end().index.next();
            let own = self.config.id;
            let others = list.members().iter().filter(|member| member.id != own);
            leading.follow_members(others, next, self.now, self.config.election_timeout);
        }
    }

    /// The log was cut: so may have been a list.
    pub(super) fn take_back_members(&mut self) {
        if self.membership.truncate(self.log.end().index) {
            self.follow_members();
        }
    }

    /// More is committed: so may be the list.
    pub(super) fn settle_members(&mut self) {
        if self.membership.commit(self.log.committed()) {
            self.follow_members();
        }
    }

    /// Everything up to `index` came from elsewhere, and this list was in force there.
    pub fn adopt_members(&mut self, index: LogIndex, list: MemberList) {
        self.membership.replace(index, list);
        self.follow_members();
    }

    /// A leader that is no voter any more goes when that is decided, and all else that it has
    /// admitted (Raft thesis, section 4.2.2): to the best voter, so that nobody has to wait for an
    /// election.
    pub(super) fn leave_as_nonvoter(&mut self) {
        let is_over = self.raft.is_leader()
            && !self.raft.is_voter()
            && self.membership.is_settled()
            && !self.is_transferring();
        if is_over && self.transfer_to_best().is_err() {
            // None was heard of lately. Whoever comes back first stands for election.
            self.leave_office();
        }
    }

    /// The cluster has removed this node and talks to it no more: it asks nobody, stands for
    /// nothing, and sends its clients to whoever led when it last heard of that.
    pub fn retire(&mut self, now: &Now) {
        self.now = now.monotonic;
        self.leave_office();
        self.successor = self.raft.leader().or(self.successor);
        self.is_retired = true;
        self.raft.become_follower(None);
        let (refusal, replies) = (self.not_leader(), &mut self.replies);
        self.asks.void(|to| refuse(replies, to, refusal));
    }

    // Getters

    /// The members in force: the last list in the log, committed or not.
    #[must_use]
    pub fn members(&self) -> &MemberList {
        self.membership.list()
    }

    /// The index of the entry that names them; 0 before there is one.
    #[must_use]
    pub fn members_index(&self) -> LogIndex {
        self.membership.index()
    }

    /// The last list that is committed, and the index of its entry.
    #[must_use]
    pub fn committed_members(&self) -> (LogIndex, &MemberList) {
        self.membership.committed()
    }

    /// Changes whenever the members, or what is committed of them, do.
    #[inline]
    #[must_use]
    pub fn members_version(&self) -> u64 {
        self.membership.version()
    }

    /// Whether this node was removed from the cluster, and that is decided.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.membership.committed().1.is_retired(self.config.id)
    }

    /// Whether there is no other member.
    #[inline]
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.membership.is_alone()
    }
}

/// Whether a member votes.
pub(super) fn is_voter(role: MemberRole) -> bool {
    role == MemberRole::Voter
}
