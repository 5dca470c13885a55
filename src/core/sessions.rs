//! The table of client sessions: for every session the outcomes of its last writes, so that a
//! write which is sent again is answered instead of applied (Ongaro, "Consensus: bridging theory
//! and practice", section 6.3).
//!
//! It is a part of the replicated state. What it decides (who is over, whose turn it is to make
//! room, which sequences are too old) follows from the entries alone: time is the log's, and use is
//! an entry's index. So all nodes that have applied as much say the same, whenever they started.
//!
//! ```text
//! one session, window 8            first                    highest sequence seen
//!                                    v                        v
//!   sequences   ... 11  12  13  14 | 15  16  17  18  19  20  21 |
//!               too old              ok   ?  ok  ok   ?   ?  ok   ? has not come, and may
//! ```

use std::cmp::Reverse;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::collections::vec_deque::VecDeque;

use kvorum_protocol::limits::{SESSION_IDLE_MAX_MS, SESSION_SLOTS_MAX, SESSIONS_MAX};
use kvorum_protocol::{LogIndex, LogTimeMs, SessionSequence};

use super::digest::{self, Sum};
use super::outcome::{Applied, Outcome};

use table::{Place, Table};
use walk::{AtCut, Walk};

pub use encoded::{ALL_SESSIONS_BYTES_MAX, SESSION_BYTES_MAX};
pub use walk::SessionSlice;

mod encoded;
mod table;
mod walk;

/// How much is remembered. The same on all nodes of a cluster, or their states would differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBounds {
    /// The most sessions.
    pub sessions: usize,
    /// The most that their windows may be together.
    pub slots: usize,
    /// A session that was not used for longer is over; milliseconds of log time.
    pub idle_ms: u64,
}

impl Default for SessionBounds {
    fn default() -> SessionBounds {
        SessionBounds {
            sessions: SESSIONS_MAX,
            slots: SESSION_SLOTS_MAX,
            idle_ms: SESSION_IDLE_MAX_MS,
        }
    }
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// How many outcomes it keeps.
    pub window: u32,
    /// The last entry that used it: its own at first.
    pub last_used: LogIndex,
    /// Log time of that entry.
    pub last_time: LogTimeMs,
    /// The lowest sequence that is not too old; 1 at first.
    pub first: u64,
    /// The outcomes from `first` on, up to the highest sequence seen; `None` where none has come.
    /// At most `window`, and room for no more.
    pub outcomes: VecDeque<Option<Outcome>>,
}

impl Session {
    fn new(window: u32, index: LogIndex, time: LogTimeMs) -> Session {
        let (last_used, last_time) = (index, time);
        Session { window, last_used, last_time, first: 1, outcomes: VecDeque::new() }
    }

    /// Where the outcome of a sequence stands, after the window has moved up to it if need be;
    /// `None` when the window has left it behind. `at_cut` is told what it leaves behind now.
    fn place(
        &mut self,
        name: SessionSequence,
        digest: &mut Sum,
        at_cut: Option<AtCut<'_>>,
    ) -> Option<usize> {
        let ahead = name.sequence.checked_sub(self.first)?;
        let moves = ahead.saturating_sub(u64::from(self.window) - 1);
        if moves > 0 {
            let forgotten = usize::try_from(moves).unwrap_or(usize::MAX).min(self.outcomes.len());
            self.terms_of(LogIndex(name.session), forgotten).for_each(|term| digest.subtract(term));
            let left = self.outcomes.drain(..forgotten);
            if let Some(at_cut) = at_cut {
                at_cut.keep(left);
            }
            self.first += moves;
        }
        let place = usize::try_from(ahead - moves).expect("within a window");
        if place >= self.outcomes.len() {
            self.grow(place + 1);
        }
        Some(place)
    }

    /// The terms of its first outcomes in the state hash.
    fn terms_of(&self, id: LogIndex, count: usize) -> impl Iterator<Item = u64> {
        let known = (self.first..=u64::MAX).zip(self.outcomes.iter().take(count));
        known.filter_map(move |(sequence, outcome)| {
            let name = SessionSequence { session: id.0, sequence };
            outcome.as_ref().map(|outcome| digest::outcome(name, outcome))
        })
    }

    /// All that it adds to the state hash.
    #[must_use]
    pub fn digest(&self, id: LogIndex) -> Sum {
        let mut sum = Sum::default();
        sum.add(digest::session(id, self));
        self.terms_of(id, self.outcomes.len()).for_each(|term| sum.add(term));
        sum
    }

    fn grow(&mut self, len: usize) {
        const FIRST_CAPACITY: usize = 4;
        let capacity = self.outcomes.capacity();
        if len > capacity {
            let window = self.window as usize;
            let wanted = len.max(2 * capacity).max(FIRST_CAPACITY).min(window);
            self.outcomes.reserve_exact(wanted - self.outcomes.len());
        }
        self.outcomes.resize(len, None);
    }
}

/// When a session was used, as far as the queue of all has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    index: LogIndex,
    time: LogTimeMs,
    session: LogIndex,
}

/// All sessions of a cluster.
pub struct Sessions {
    bounds: SessionBounds,
    /// By the index of the entry that opened each.
    table: Table,
    /// Who was longest without use. A write does not touch it: what it says of a session may be
    /// long ago, and is brought up to date when the session comes to its front. At least one entry
    /// for each session.
    by_use: BinaryHeap<Reverse<Use>>,
    sums: Sums,
    /// The sessions of an earlier index are being handed out.
    walk: Option<Walk>,
}

/// What all sessions come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    /// Of all windows.
    slots: usize,
    /// How many outcomes there is room for.
    room: usize,
    /// The part of all sessions in the state hash.
    digest: Sum,
}

impl Sums {
    fn add(&mut self, id: LogIndex, session: &Session) {
        self.slots += session.window as usize;
        self.room += session.outcomes.capacity();
        self.digest = self.digest.and(session.digest(id));
    }

    fn subtract(&mut self, id: LogIndex, session: &Session) {
        self.slots -= session.window as usize;
        self.room -= session.outcomes.capacity();
        self.digest = self.digest.without(session.digest(id));
    }
}

/// What is known of one write of a session.
pub struct Known<'a> {
    name: SessionSequence,
    outcome: &'a mut Option<Outcome>,
    digest: &'a mut Sum,
}

impl Known<'_> {
    /// Its outcome, when it came before.
    #[inline]
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        *self.outcome
    }

    /// It is applied now, for the first time.
    #[inline]
    pub fn note(self, outcome: Outcome) {
        debug_assert!(self.outcome.is_none(), "a write has one outcome");
        self.digest.add(digest::outcome(self.name, &outcome));
        *self.outcome = Some(outcome);
    }
}

impl Sessions {
    /// No session.
    #[must_use]
    pub fn new(bounds: SessionBounds) -> Sessions {
        Sessions {
            bounds,
            table: Table::new(),
            by_use: BinaryHeap::new(),
            sums: Sums::default(),
            walk: None,
        }
    }

    /// How many there are. Some may have been unused for too long already.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes asked of the allocator, what is kept for a walk included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes()
            + self.by_use.capacity() * size_of::<Use>()
            + self.sums.room * size_of::<Option<Outcome>>()
            + self.walk.as_ref().map_or(0, Walk::bytes)
    }

    /// The part of all sessions in the state hash.
    #[must_use]
    pub fn digest(&self) -> Sum {
        self.sums.digest
    }

    /// The same, summed up from nothing.
    #[must_use]
    pub fn digest_from_scratch(&self) -> Sum {
        let each = self.table.iter().map(|(id, session)| session.digest(id));
        each.fold(Sum::default(), Sum::and)
    }

    /// The entry at `index` opens a session of that name. Others end if they were unused for too
    /// long, or to make room.
    pub fn open(&mut self, index: LogIndex, time: LogTimeMs, window: u32) {
        self.make_room(time, window as usize);
        self.load(index, Session::new(window, index, time));
    }

    /// Takes over a session as it was in another table.
    pub fn load(&mut self, id: LogIndex, session: Session) {
        self.sums.add(id, &session);
        let (index, time) = (session.last_used, session.last_time);
        self.by_use.push(Reverse(Use { index, time, session: id }));
        self.table.insert(id, session);
    }

    /// All sessions with their names, in the order in which they were opened.
    #[must_use]
    pub fn in_order(&self) -> Vec<(LogIndex, &Session)> {
        let mut all: Vec<_> = self.table.iter().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// What is known of a write that the entry at `index` brings: its outcome, if it came before,
    /// and then that is to be answered. Otherwise the write is to be applied, and its outcome to be
    /// noted.
    ///
    /// # Errors
    /// What the write does instead, which is nothing, when its session or its sequence is over.
    #[inline]
    pub fn outcome_of(
        &mut self,
        name: SessionSequence,
        index: LogIndex,
        time: LogTimeMs,
    ) -> Result<Known<'_>, Applied> {
        let id = LogIndex(name.session);
        let place = self.table.place_of(id).ok_or(Applied::SessionExpired)?;
        if self.bounds.is_over(self.table.at(place).last_time, time) {
            self.end(place);
            return Err(Applied::SessionExpired);
        }
        let session = self.table.at_mut(place);
        let at_cut = match &mut self.walk {
            None => None,
            Some(walk) => walk.before_use(place, id, session),
        };
        let room = session.outcomes.capacity();
        let before = digest::session(id, session);
        let sums = &mut self.sums;
        let at = session.place(name, &mut sums.digest, at_cut).ok_or(Applied::SequenceTooOld)?;
        sums.room += session.outcomes.capacity() - room;
        (session.last_used, session.last_time) = (index, time);
        sums.digest.subtract(before);
        sums.digest.add(digest::session(id, session));
        Ok(Known { name, outcome: &mut session.outcomes[at], digest: &mut sums.digest })
    }

    /// A session is over.
    fn end(&mut self, place: Place) {
        let (id, session) = self.table.remove(place);
        self.sums.subtract(id, &session);
        if let Some(walk) = &mut self.walk {
            walk.take_ended(place, id, session);
        }
    }

    /// Forgets every session. A walk goes on, and finds none.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn forget_all(&mut self) {
        let cut = self.walk.as_ref().map(|walk| walk.cut);
        *self = Sessions::new(self.bounds);
        if let Some(cut) = cut {
            self.begin_walk(cut);
        }
    }

    /// Forgets that a write was applied.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn forget(&mut self, name: SessionSequence) {
        let Some(place) = self.table.place_of(LogIndex(name.session)) else { return };
        let session = self.table.at_mut(place);
        if let Some(at) = session.place(name, &mut self.sums.digest, None)
            && let Some(outcome) = session.outcomes[at].take()
        {
            self.sums.digest.subtract(digest::outcome(name, &outcome));
        }
    }

    /// Ends the sessions that were unused for too long at `time`, and as many more as it takes for
    /// a new one with this window.
    fn make_room(&mut self, time: LogTimeMs, window: usize) {
        loop {
            let Some(mut front) = self.by_use.peek_mut() else { return };
            let Reverse(told) = *front;
            let is_full = self.table.len() >= self.bounds.sessions
                || self.sums.slots + window > self.bounds.slots;
            if !is_full && !self.bounds.is_over(told.time, time) {
                return;
            }
            let Some(place) = self.table.place_of(told.session) else {
                PeekMut::pop(front);
                continue;
            };
            let &Session { last_used: index, last_time: time, .. } = self.table.at(place);
            if index > told.index {
                *front = Reverse(Use { index, time, session: told.session });
                continue;
            }
            PeekMut::pop(front);
            self.end(place);
        }
    }
}

impl SessionBounds {
    /// Whether what was used last at one log time is over at another.
    fn is_over(&self, last: LogTimeMs, now: LogTimeMs) -> bool {
        now.0.saturating_sub(last.0) > self.idle_ms
    }
}

#[cfg(test)]
mod tests;
