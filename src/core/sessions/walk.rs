//! Handing out the sessions of one index, a slice at a time, while later entries use, end and open
//! others.
//!
//! A walk passes over all places of the table once. What is named by an index behind the cut was
//! opened later, and is passed over. What the walk has not come to is changed in two ways only:
//!
//! - A session is **used**. Four numbers change, and are noted before the first time. An outcome is
//!   added, whose version tells that it is newer than the cut; and the window leaves others behind,
//!   which are kept until the walk has come. So a use costs no more than what it changes, however
//!   large the window is, in memory too.
//! - A session **ends**. It is set aside as it is, and handed out from there.
//!
//! ```text
//! at the cut         first [ a  b  .  d ]                 . none had come
//! used since                     first [ e  d  f  g ]     e, f, g are newer than the cut
//! noted              first, length 4; left behind: a  b
//! handed out         a  b  (e is newer: none)  d
//! ```

use std::collections::vec_deque::VecDeque;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use kvorum_protocol::{LogIndex, LogTimeMs};

use super::table::{Place, Table};
use super::{Outcome, Session, Sessions};

/// A walk that goes on.
pub(super) struct Walk {
    /// What has a higher name, or a higher version, came after the cut.
    pub(super) cut: LogIndex,
    /// The first place that it has not passed.
    next: Place,
    /// What sessions were that have been used, while the walk has not come to them. It grows as it
    /// fills: room for all of them from the start would weigh on a node whose sessions are hardly
    /// used, and moving even [`SESSIONS_MAX`](kvorum_protocol::limits::SESSIONS_MAX) of them is
    /// done in a few milliseconds.
    used: HashMap<LogIndex, Before, FixedState>,
    /// The sessions that have ended before the walk has come to them.
    ended: VecDeque<Ended>,
    /// How many outcomes there is room for in both.
    room: usize,
}

type Ended = (LogIndex, Session, Option<Before>);

/// What a session was at the cut, as far as it was changed since.
struct Before {
    last_used: LogIndex,
    last_time: LogTimeMs,
    first: u64,
    /// How many outcomes there were, those that had not come included.
    len: usize,
    /// The first of them, which the window has left behind since.
    left: VecDeque<Option<Outcome>>,
}

/// What a session was at the cut that is being used, to be told what it loses.
pub(super) struct AtCut<'a> {
    before: &'a mut Before,
    /// How many outcomes the walk has room for.
    room: &'a mut usize,
}

/// What a slice of a walk has handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSlice {
    /// How many sessions were appended.
    pub sessions: u32,
    /// There are no more, and the walk has ended.
    pub is_last: bool,
}

impl Sessions {
    /// Begins to hand out the sessions of `cut`: the index of the last entry that was applied.
    ///
    /// # Panics
    /// When a walk goes on.
    pub fn begin_walk(&mut self, cut: LogIndex) {
        assert!(self.walk.is_none(), "one walk at a time");
        self.walk = Some(Walk {
            cut,
            next: Place::FIRST,
            used: HashMap::with_hasher(FixedState::default()),
            ended: VecDeque::new(),
            room: 0,
        });
    }

    /// Appends the next sessions to `out`, in no order, each as [`Session::encode`] does: looks at
    /// no more than `places_max`, and stops behind the one that takes it past `bytes_max` bytes.
    ///
    /// # Panics
    /// When no walk goes on.
    pub fn walk(&mut self, places_max: usize, bytes_max: usize, out: &mut Vec<u8>) -> SessionSlice {
        let walk = self.walk.as_mut().expect("a walk goes on");
        let (mut sessions, mut left) = (0, places_max);
        let out_end = out.len().saturating_add(bytes_max);
        while left > 0 && out.len() < out_end && !walk.is_through(&self.table) {
            sessions += walk.step(&self.table, out);
            left -= 1;
        }
        let is_last = walk.is_through(&self.table);
        if is_last {
            self.walk = None;
        }
        SessionSlice { sessions, is_last }
    }

    /// Ends the walk before it is through; does nothing when none goes on. Answers what was kept
    /// for it, which may take long to drop.
    pub fn end_walk(&mut self) -> impl Send + use<> {
        self.walk.take()
    }

    /// Forgets what used sessions were at the cut.
    #[cfg(feature = "seeded-bugs")]
    pub(in crate::core) fn forget_cut(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.room -= walk.used.values().map(|before| before.left.capacity()).sum::<usize>();
            walk.used.clear();
        }
    }
}

impl Walk {
    /// Bytes asked of the allocator.
    pub fn bytes(&self) -> usize {
        self.used.allocation_size()
            + self.ended.capacity() * size_of::<Ended>()
            + self.room * size_of::<Option<Outcome>>()
    }

    /// Whether a session is still to be handed out.
    fn awaits(&self, place: Place, id: LogIndex) -> bool {
        place >= self.next && id <= self.cut
    }

    /// A session is about to be used: answers what has to be told which outcomes it loses.
    #[inline(never)]
    pub fn before_use(
        &mut self,
        place: Place,
        id: LogIndex,
        session: &Session,
    ) -> Option<AtCut<'_>> {
        if !self.awaits(place, id) {
            return None;
        }
        let before = self.used.entry(id).or_insert_with(|| Before::of(session));
        Some(AtCut { before, room: &mut self.room })
    }

    /// A session has ended that was kept at `place`.
    #[inline(never)]
    pub fn take_ended(&mut self, place: Place, id: LogIndex, session: Session) {
        if self.awaits(place, id) {
            let before = self.used.remove(&id);
            self.room += session.outcomes.capacity();
            self.ended.push_back((id, session, before));
        }
    }

    fn is_through(&self, table: &Table) -> bool {
        self.next == table.end() && self.ended.is_empty()
    }

    /// Hands one session out that has ended, or passes a place; returns how many it appended.
    fn step(&mut self, table: &Table, out: &mut Vec<u8>) -> u32 {
        if let Some((id, session, before)) = self.ended.pop_front() {
            self.room -= session.outcomes.capacity();
            self.hand_out(id, &session, before, out);
            return 1;
        }
        let passed = self.next;
        self.next = passed.next();
        match table.get(passed) {
            Some((id, session)) if *id <= self.cut => {
                let before = self.used.remove(id);
                self.hand_out(*id, session, before, out);
                1
            }
            _ => 0,
        }
    }

    fn hand_out(
        &mut self,
        id: LogIndex,
        session: &Session,
        before: Option<Before>,
        out: &mut Vec<u8>,
    ) {
        match before {
            None => session.encode(id, out),
            Some(before) => {
                self.room -= before.left.capacity();
                before.restore(session, self.cut).encode(id, out);
            }
        }
    }
}

impl AtCut<'_> {
    /// The window leaves its first outcomes behind.
    pub fn keep(self, left: impl ExactSizeIterator<Item = Option<Outcome>>) {
        let Before { len, left: kept, .. } = self.before;
        let count = left.len().min(*len - kept.len());
        let (room, wanted) = (kept.capacity(), kept.len() + count);
        if wanted > room {
            // Twice as much as before, that it need not move each time; but never more than all.
            kept.reserve_exact(wanted.max(2 * room).min(*len) - kept.len());
            *self.room += kept.capacity() - room;
        }
        kept.extend(left.take(count));
    }
}

impl Before {
    fn of(session: &Session) -> Before {
        let &Session { last_used, last_time, first, .. } = session;
        let len = session.outcomes.len();
        Before { last_used, last_time, first, len, left: VecDeque::new() }
    }

    /// What `now` was at the cut.
    fn restore(self, now: &Session, cut: LogIndex) -> Session {
        let Before { last_used, last_time, first, len, left: mut outcomes } = self;
        // While some of them are still there, they are the first ones.
        outcomes.extend(now.outcomes.iter().copied().take(len - outcomes.len()));
        for outcome in &mut outcomes {
            *outcome = outcome.filter(|outcome| outcome.version <= cut);
        }
        Session { window: now.window, last_used, last_time, first, outcomes }
    }
}

#[cfg(test)]
mod tests;
