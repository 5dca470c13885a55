//! What is in flight to one server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::CONNECTION_ID;

use super::slots::SlotIndex;

/// A server that says nothing for so long, while an answer is due, is sent a PING.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// And if it does not answer that for so long, the connection is taken for broken.
const PONG_MAX: Duration = Duration::from_millis(500);

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nobody waits for an answer (any more).
    Gone,
    /// A request.
    Request(SlotIndex),
    /// What opens the session.
    OpenSession,
    /// A question whether anybody is there.
    Ping,
    /// A question who is in the cluster.
    Members,
}

/// The entries in flight to one server, in the order of sending. Each has an id; ids go up by one,
/// round and round, through all that the protocol allows.
#[derive(Debug)]
pub(super) struct Lane {
    entries: VecDeque<Entry>,
    /// The id of the first entry, which is not [`Entry::Gone`].
    first_id: u32,
    /// One request whose round trip is being measured.
    measured: Option<(u32, Instant)>,
    /// When the server was last heard, or began to owe an answer.
    heard_at: Option<Instant>,
    /// When it was asked whether it is there.
    pinged_at: Option<Instant>,
}

/// What to do about a server that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Wait until then.
    Short(Instant),
    /// Ask whether it is there.
    Long,
    /// Give the connection up.
    TooLong,
}

impl Lane {
    pub(super) fn new() -> Lane {
        Lane {
            entries: VecDeque::new(),
            first_id: 0,
            measured: None,
            heard_at: None,
            pinged_at: None,
        }
    }

    /// Whether an answer is due.
    pub(super) fn is_asking(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Adds what is sent now; its id.
    #[inline]
    pub(super) fn push(&mut self, entry: Entry, now: Instant) -> u32 {
        if self.entries.is_empty() {
            self.heard_at = Some(now);
        }
        let mut id = self.id_at(self.entries.len());
        if id == CONNECTION_ID {
            if self.entries.is_empty() {
                self.first_id = 0;
            } else {
                self.entries.push_back(Entry::Gone);
            }
            id = 0;
        }
        self.entries.push_back(entry);
        if self.measured.is_none() {
            self.measured = Some((id, now));
        }
        id
    }

    /// What has this id; `None` if nobody waits for it.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<Entry> {
        let entry = *self.entries.get(self.position(id))?;
        (entry != Entry::Gone).then_some(entry)
    }

    /// Takes out what has this id, and says how long it was under way if that was measured.
    #[inline]
    pub(super) fn answered(&mut self, id: u32, now: Instant) -> Option<Duration> {
        self.remove(id);
        let (_, since) = self.measured.take_if(|(measured, _)| *measured == id)?;
        Some(now.saturating_duration_since(since))
    }

    /// Nobody waits any more for what has this id.
    pub(super) fn forget(&mut self, id: u32) {
        self.remove(id);
        self.measured.take_if(|(measured, _)| *measured == id);
    }

    #[inline]
    fn remove(&mut self, id: u32) {
        let at = self.position(id);
        self.entries[at] = Entry::Gone;
        while self.entries.pop_front_if(|entry| *entry == Entry::Gone).is_some() {
            self.first_id = self.first_id.wrapping_add(1);
        }
    }

    /// The connection is gone: all that was in flight, in the order of sending.
    pub(super) fn lost(&mut self) -> VecDeque<Entry> {
        self.first_id = match self.id_at(self.entries.len()) {
            CONNECTION_ID => 0,
            id => id,
        };
        (self.measured, self.heard_at, self.pinged_at) = (None, None, None);
        std::mem::take(&mut self.entries)
    }

    /// The server has said something.
    #[inline]
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.pinged_at = None;
    }

    pub(super) fn pinged(&mut self, now: Instant) {
        self.pinged_at = Some(now);
    }

    /// `None` while nothing is due.
    pub(super) fn silence(&self, now: Instant) -> Option<Silence> {
        let heard_at = self.heard_at.filter(|_| !self.entries.is_empty())?;
        Some(match self.pinged_at {
            None if now >= heard_at + SILENCE_MAX => Silence::Long,
            None => Silence::Short(heard_at + SILENCE_MAX),
            Some(pinged_at) if now >= pinged_at + PONG_MAX => Silence::TooLong,
            Some(pinged_at) => Silence::Short(pinged_at + PONG_MAX),
        })
    }

    fn id_at(&self, position: usize) -> u32 {
        let position = u32::try_from(position).expect("memory ends before four billion requests");
        self.first_id.wrapping_add(position)
    }

    fn position(&self, id: u32) -> usize {
        id.wrapping_sub(self.first_id) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round_and_leave_the_reserved_one_out() {
        let now = Instant::now();
        for before in 0..4 {
            let mut lane = Lane { first_id: CONNECTION_ID - before, ..Lane::new() };
            let ids: Vec<u32> = (0..6).map(|n| lane.push(Entry::Request(n), now)).collect();
            assert!(!ids.contains(&CONNECTION_ID), "{ids:?}");
            for (n, id) in (0..6).zip(&ids) {
                assert_eq!(lane.get(*id), Some(Entry::Request(n)));
            }
            for id in ids {
                lane.answered(id, now);
                assert_eq!(lane.get(id), None);
            }
            assert!(lane.entries.is_empty());
        }
        let mut lane = Lane { first_id: CONNECTION_ID - 1, ..Lane::new() };
        lane.push(Entry::Ping, now);
        lane.lost();
        assert_eq!(lane.push(Entry::Ping, now), 0);
    }

    #[test]
    fn answers_may_come_in_any_order_and_late_ones_are_nobodys() {
        let now = Instant::now();
        let mut lane = Lane::new();
        let [a, b, c] = [0, 1, 2].map(|n| lane.push(Entry::Request(n), now));
        assert_eq!(lane.answered(b, now), None);
        lane.forget(a);
        assert_eq!(lane.get(a), None);
        assert_eq!(lane.get(c), Some(Entry::Request(2)));
        assert_eq!(lane.lost(), [Entry::Request(2)]);
        assert_eq!(lane.get(c), None);
        let d = lane.push(Entry::Ping, now);
        assert_eq!(lane.answered(d, now + PONG_MAX), Some(PONG_MAX));
    }

    #[test]
    fn a_silent_server_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut lane = Lane::new();
        assert_eq!(lane.silence(start), None);
        lane.push(Entry::Request(0), start);
        let long = start + SILENCE_MAX;
        assert_eq!(lane.silence(start), Some(Silence::Short(long)));
        assert_eq!(lane.silence(long), Some(Silence::Long));
        let ping = lane.push(Entry::Ping, long);
        lane.pinged(long);
        assert_eq!(lane.silence(long), Some(Silence::Short(long + PONG_MAX)));
        assert_eq!(lane.silence(long + PONG_MAX), Some(Silence::TooLong));
        lane.heard(long);
        lane.answered(ping, long);
        assert_eq!(lane.silence(long), Some(Silence::Short(long + SILENCE_MAX)));
    }
}
