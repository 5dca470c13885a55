//! Snapshots: cutting one, giving up the log that it covers, and handing it to members that lack
//! what was given up (Raft paper, section 7).
//!
//! The core says when a snapshot can be cut and walks the table for it; the shell writes the file.
//! It travels to a member in parts, each read from the leader's disk and written to the member's.
//! Only when the member's shell has the whole file, has checked every byte and has built the state
//! does [`Node::install`] put it in the place of the old one.

use kvorum_protocol::peer::{Message, SnapshotChunk};
use kvorum_protocol::{LogIndex, NodeId, Term};

use super::{Node, Violation, has_bug};
use crate::core::following::Parked;
use crate::core::log::LogEnd;
use crate::core::output::{Record, SnapshotFetch, SnapshotPart};
use crate::core::raft::Role;
use crate::core::sessions::SessionSlice;
use crate::core::snapshot::SnapshotHead;
use crate::core::state::State;
use crate::core::store::WalkSlice;
use crate::core::terms::Terms;
use crate::core::time::Now;

/// A member that was heard within so many election timeouts is within reach: the log is kept for
/// it.
const REACH_ELECTION_TIMEOUTS: u32 = 20;

impl Node {
    // Cutting

    /// Begins a snapshot of the state as it is now. `None` at a moment when the state is not that
    /// of the end of a batch: try again after the next [`poll`](Node::poll).
    ///
    /// # Panics
    /// While another one is going on.
    pub fn begin_snapshot(&mut self) -> Option<SnapshotHead> {
        if self.log.applied() != self.log.committed() {
            return None;
        }
        let end = match has_bug!(self, SnapshotOfLaterIndex) {
            true => *self.log.end(),
            false => *self.log.committed_end(),
        };
        self.state.sessions.begin_walk(end.index);
        self.state.store.begin_walk(end.index);
        let (members_index, members) = self.membership.committed();
        Some(SnapshotHead {
            end,
            members: members.clone(),
            members_index,
            terms: self.log.terms().between(LogIndex(1), end.index.next()),
            hash_seed: self.state.store.hash_seed(),
            state_hash: self.state.hash(),
            keys: self.state.store.len() as u64,
        })
    }

    /// Appends the next sessions of the snapshot, about `bytes_max` of them, from at most
    /// `places_max` places of their table. To be called until there are no more.
    pub fn walk_snapshot_sessions(
        &mut self,
        places_max: usize,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> SessionSlice {
        if has_bug!(self, SnapshotLosesSessions) {
            self.state.sessions.end_walk();
            return SessionSlice { sessions: 0, is_last: true };
        }
        #[cfg(feature = "seeded-bugs")]
        if has_bug!(self, SnapshotOfUsedSessions) {
            self.state.sessions.forget_cut();
        }
        self.state.sessions.walk(places_max, bytes_max, out)
    }

    /// Appends the next items of the snapshot, about `bytes_max` of them, from at most
    /// `buckets_max` places of the table.
    pub fn walk_snapshot(
        &mut self,
        buckets_max: usize,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> WalkSlice {
        self.state.store.walk(buckets_max, bytes_max, out)
    }

    /// Bytes of items that were changed before the walk has come to them, and are kept for it.
    #[must_use]
    pub fn stray_bytes(&self) -> usize {
        self.state.store.stray_bytes()
    }

    /// Takes some of these items: how many, and their encoding; `None` when there are none left.
    pub fn take_strays(&mut self) -> Option<(u32, Vec<u8>)> {
        if has_bug!(self, SnapshotMissesPreImage) {
            return None;
        }
        self.state.store.take_strays()
    }

    /// The snapshot is complete, or given up. Answers what was kept for it, which may take long to
    /// drop.
    pub fn end_snapshot(&mut self) -> impl Send + use<> {
        (self.state.sessions.end_walk(), self.state.store.end_walk())
    }

    // Giving up the log

    /// Snapshots cover everything up to `snapshot`, durably. Answers up to where the log may be
    /// given up: less, as long as members within reach need it, unless there is no room for that.
    pub fn compact(&mut self, snapshot: LogIndex, spares_members: bool) -> LogIndex {
        let reach = self.config.election_timeout * REACH_ELECTION_TIMEOUTS;
        let mut upto = snapshot.min(self.log.committed());
        if has_bug!(self, CompactsBeyondSnapshot) {
            upto = self.log.committed();
        }
        if let Some(leading) = self.leading.as_ref().filter(|_| spares_members) {
            for member in &leading.members {
                let is_within_reach = member.heard_at.is_some_and(|at| self.now.since(at) < reach);
                if is_within_reach {
                    upto = upto.min(member.spares());
                }
            }
        }
        self.log.raise_floor(upto);
        self.log.floor()
    }

    /// Entries up to here may be gone from the disk.
    #[must_use]
    pub fn log_floor(&self) -> LogIndex {
        self.log.floor()
    }

    // The leader's side of an install

    /// Has the next part of a snapshot read for a member, if one is due.
    pub(super) fn fetch_snapshot_for(&mut self, at: usize) {
        let member = &mut self.leading.as_mut().expect("a leader sends").members[at];
        let id = member.id;
        if self.fetching_snapshot.contains(&id) {
            return;
        }
        if let Some((index, offset)) = member.snapshot_part_due() {
            self.fetching_snapshot.push(id);
            self.snapshot_fetches.push(SnapshotFetch { member: id, index, offset });
        }
    }

    /// What a [`SnapshotFetch`] has brought; `None` when it can not be read.
    pub fn snapshot_fetched(&mut self, now: &Now, member: NodeId, part: Option<SnapshotPart>) {
        self.now = now.monotonic;
        self.fetching_snapshot.retain(|waits| *waits != member);
        let term = self.raft.term();
        let Some(leading) = &mut self.leading else { return };
        let Some(progress) = leading.member_mut(member) else { return };
        let Some(part) = part else {
            if progress.is_installing() {
                progress.install_fails(self.now);
            }
            return;
        };
        if progress.snapshot_part_sent(&part, self.now) {
            let SnapshotPart { index, index_term, total_bytes, file, offset, bytes } = part;
            let chunk = SnapshotChunk { term, index, index_term, total_bytes, file, offset, bytes };
            self.send(member, Message::SnapshotChunk(chunk));
        }
    }

    pub(super) fn on_snapshot_ack(
        &mut self,
        from: NodeId,
        index: LogIndex,
        file: u64,
        offset: u64,
    ) {
        let now = self.now;
        let Some(leading) = &mut self.leading else { return };
        let Some(member) = leading.member_mut(from) else { return };
        member.heard_at = Some(now);
        member.snapshot_acknowledged(index, file, offset, now);
    }

    // The member's side

    pub(super) fn on_snapshot_chunk(
        &mut self,
        from: NodeId,
        chunk: SnapshotChunk,
    ) -> Result<(), Violation> {
        let SnapshotChunk { index, index_term, .. } = chunk;
        if self.has(index, index_term) {
            // It came late, or for another's sake. The acknowledgement says what is here.
            self.following.owes_ack = true;
            return Ok(());
        }
        if index <= self.log.committed() {
            return Err(Violation("its snapshot contradicts committed entries"));
        }
        self.snapshot_parts.push((from, chunk));
        Ok(())
    }

    /// The `file` of a leader's snapshot up to `index`, of which a part has come, is on the disk up
    /// to `offset`.
    pub fn snapshot_kept(&mut self, index: LogIndex, file: u64, offset: u64) {
        let Some(leader) = self.raft.leader().filter(|leader| *leader != self.config.id) else {
            return;
        };
        let term = self.raft.term();
        self.send(leader, Message::SnapshotAck { term, index, file, offset });
    }

    /// Whether a committed entry is in this log, so that all before it are the leader's too.
    fn has(&mut self, index: LogIndex, term: Term) -> bool {
        if self.log.terms().term_at(index) != Some(term) {
            return false;
        }
        if index > self.log.committed() {
            // A snapshot holds what is committed, and so the log up to there is every leader's.
            let batch = self.log.batch_with(index).expect("what is not committed is in memory");
            let end = batch.header().last_index();
            self.following.matched = self.following.matched.max(end);
        }
        true
    }

    /// Puts a snapshot, whose file is durable here, in the place of state and log. Answers the
    /// state that is not needed any more, which may take long to drop: the old one, or the new one
    /// when it has come too late.
    pub fn install(&mut self, now: &Now, head: SnapshotHead, state: State) -> State {
        #[cfg(feature = "seeded-bugs")]
        let state = State { bug: self.state.bug, ..state };
        self.now = now.monotonic;
        let SnapshotHead { end, terms, members, members_index, .. } = head;
        self.following.owes_ack = true;
        // No leader that was heard has cut one in a term to come.
        let is_foreign = end.term > self.raft.term() || self.raft.is_leader();
        if is_foreign || end.index <= self.log.committed() || self.has(end.index, end.term) {
            if has_bug!(self, LateSnapshotReplacesState) && !is_foreign {
                return std::mem::replace(&mut self.state, state);
            }
            return state;
        }
        if matches!(self.raft.role(), Role::PreCandidate | Role::Candidate) {
            // Whoever stands for election does so with the log that it had.
            self.raft.become_follower(None);
        }
        self.install_log(end, terms);
        if !has_bug!(self, InstallKeepsMembers) {
            self.adopt_members(members_index, members);
        }
        std::mem::replace(&mut self.state, state)
    }

    /// The snapshot that this node has started from knows more than its log.
    pub(super) fn go_on_behind_snapshot(&mut self, end: LogEnd) {
        if self.raft.term() < end.term {
            // Entered before the crash, in a record that was not durable yet: no vote was given.
            let vote_lsn = self.log.take_lsn();
            self.raft.enter_term(end.term, vote_lsn);
            self.write_vote();
        }
        let record = (self.log.take_lsn(), Record::Install { end });
        self.keep_record(record);
    }

    fn install_log(&mut self, end: LogEnd, terms: Vec<(LogIndex, Term)>) {
        let terms = Terms::from_firsts(terms, end.index).expect("a snapshot's head is checked");
        let record = self.log.install(end, terms);
        self.keep_record(record);
        self.following.parked = Parked::default();
        self.following.matched = end.index;
    }
}
