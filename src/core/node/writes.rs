//! Admitting writes, and answering them.

use kvorum_protocol::limits::{BATCH_BYTES_SOFT, COMMAND_BYTES_MAX};
use kvorum_protocol::{Command, Copies, LogIndex, Op, Quorum};

use super::{Node, Options, WriteOutcome, has_bug};
use crate::core::output::{Answer, Output, Refusal, Reply, ReplyTo};
use crate::core::quorum::majority;
use crate::core::rounds::Needed;
use crate::core::time::{Instant, Now};
use crate::core::waits::Wait;
use crate::core::writes::ALL_VOTERS;

/// Bytes of writes that may be open or on their way to the disk. Beyond it further writes wait at
/// their connections, and reads go on.
const LOG_BACKLOG_BYTES_MAX: usize = 64 << 20;

/// The same for writes that are not decided: a leader that has lost its followers takes no more.
const UNDECIDED_BYTES_MAX: usize = 64 << 20;

/// Requests that may wait for copies, of all connections together.
const PENDING_WAITS_MAX: usize = 1 << 16;

const _: () = assert!(COMMAND_BYTES_MAX < u32::MAX as usize);

impl Node {
    /// Admits a write into the log, or says why not.
    #[inline]
    pub fn write(
        &mut self,
        now: &Now,
        to: ReplyTo,
        command: &Command<'_>,
        options: &Options,
    ) -> WriteOutcome {
        let needed = match self.admit(command, options) {
            Ok(needed) => needed,
            Err(refusal) => return WriteOutcome::Refused(refusal),
        };
        if self.is_transferring() {
            return WriteOutcome::Later;
        }
        // Before the room is looked at: each record needs its own header and padding.
        if self.log.open_bytes() >= BATCH_BYTES_SOFT {
            self.seal_open(self.raft.term(), now.wall_ms);
        }
        if !self.room.holds(self.log.open_bytes() + command.encoded_len()) {
            return match self.room.is_last() {
                true => WriteOutcome::Refused(Refusal::DiskFull),
                false => WriteOutcome::Later,
            };
        }
        let open_bytes = self.log.open_bytes();
        if self.log.staged_bytes() + open_bytes > LOG_BACKLOG_BYTES_MAX
            || self.log.undecided_bytes() + open_bytes > UNDECIDED_BYTES_MAX
        {
            return WriteOutcome::Later;
        }
        let index = self.log.push(command);
        let timeout = options.timeout.unwrap_or(self.config.quorum_timeout);
        self.writes.push(index, needed, to, now.monotonic.after(timeout));
        WriteOutcome::Waiting(index)
    }

    /// How many durable copies the write waits for, if it may be admitted.
    #[inline]
    fn admit(&mut self, command: &Command<'_>, options: &Options) -> Result<Needed, Refusal> {
        if !self.raft.is_leader() {
            return Err(self.refuse_to_lead(command));
        }
        let quorum = options.quorum.unwrap_or(self.config.write_quorum);
        let voters = self.quorum_size(quorum)?;
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Refusal::RequestTooLarge);
        }
        // Sessions have bounds of their own, and who comes to delete may need one.
        let grows = matches!(command.op, Op::Set { .. } | Op::SetMany(_));
        if grows && self.config.memory_max.is_some_and(|max| self.memory_with(bytes) > max) {
            return Err(Refusal::MemoryLimit);
        }
        let majority = majority(self.raft.voters().len());
        // An answer before the commit could turn out wrong: a write that is lost with its leader,
        // and sent again, is applied later; and the name of a lost session goes to another.
        let is_kept = command.session.is_some() || matches!(command.op, Op::OpenSession { .. });
        let waits_for_commit = is_kept && !has_bug!(self, SessionAnswersBeforeCommit);
        Ok(match quorum {
            _ if waits_for_commit && voters < majority => Needed::Majority,
            _ if has_bug!(self, AnswersAtMajority) && voters > majority => Needed::Majority,
            Quorum::Majority => Needed::Majority,
            // Whoever is alone is all and a majority; of two or more, another one may join.
            Quorum::All if voters == 1 => Needed::Majority,
            Quorum::All => Needed::Count(ALL_VOTERS),
            Quorum::Count(_) => Needed::Count(voters),
        })
    }

    #[cold]
    fn refuse_to_lead(&mut self, _command: &Command<'_>) -> Refusal {
        #[cfg(feature = "seeded-bugs")]
        if has_bug!(self, RefusedButLogged)
            && self.raft.role() == crate::core::raft::Role::Candidate
        {
            self.log.push(_command);
        }
        self.not_leader()
    }

    /// What the state would hold if all that is admitted, and `bytes` more, were new to it.
    fn memory_with(&self, bytes: usize) -> u64 {
        let log_bytes = self.log.undecided_bytes().max(self.log.staged_bytes());
        (self.state.bytes() + log_bytes + self.log.open_bytes() + bytes) as u64
    }

    /// Answers the writes whose W is not a majority.
    pub(super) fn answer_other_writes(&mut self, out: &mut Output) {
        if !self.writes.has_others() || self.leading.is_none() {
            return;
        }
        let all = self.raft.voters().len();
        let held: Vec<_> = (1..=all).map(|voters| self.held_by(voters)).collect();
        // Of voters that are none any more nobody can say what they hold.
        let held_by = |voters| match voters {
            ALL_VOTERS => held[all - 1],
            voters => held.get(voters - 1).copied().unwrap_or_default(),
        };
        let leading = self.leading.as_mut().expect("a leader answers writes");
        let (log, store) = (&self.log, &self.state.store);
        while let Some((to, answer)) =
            self.writes.take_other(held_by, |index| leading.foretold.answer(log, store, index))
        {
            out.replies.push(Reply { to, answer });
        }
    }

    /// Who holds an entry durably: at once if that is enough, otherwise (`None`) through
    /// [`Output::replies`] as soon as it is, or when the time is over. Only a leader knows.
    ///
    /// # Errors
    /// A refusal.
    pub fn wait(&mut self, now: &Now, to: ReplyTo, wait: Wait) -> Result<Option<Copies>, Refusal> {
        if !self.raft.is_leader() {
            return Err(self.not_leader());
        }
        if self.waits.count() >= PENDING_WAITS_MAX {
            return Err(Refusal::Busy);
        }
        let others = wait.others.min(self.progress().count());
        let (wait, own) = (Wait { others, ..wait }, self.log.durable());
        let others = self.durable_elsewhere();
        Ok(self.waits.admit(now.monotonic, to, wait, own, &others))
    }

    /// Answers those that wait for copies: also those that have waited long enough at `now`.
    pub(super) fn answer_waits(&mut self, now: Option<Instant>) {
        if self.waits.count() == 0 {
            return;
        }
        if !self.raft.is_leader() {
            let answer = Answer::Refused(Refusal::LeaderChanged);
            self.replies.extend(self.waits.take_all().map(|to| Reply { to, answer }));
            return;
        }
        let own = self.log.durable();
        let others = self.durable_elsewhere();
        self.waits.answer(now, own, &others, |to, copies| {
            self.replies.push(Reply { to, answer: Answer::Copies(copies) });
        });
    }

    fn durable_elsewhere(&self) -> Vec<LogIndex> {
        self.progress().map(|member| member.durable).collect()
    }

    pub(super) fn not_leader(&self) -> Refusal {
        match self.raft.leader().or(self.successor) {
            Some(leader) => Refusal::NotLeader { leader },
            None => Refusal::NoLeader,
        }
    }
}
