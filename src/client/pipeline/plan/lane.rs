//! What is in flight to one server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::CONNECTION_ID;

use super::Taken;
use super::slots::SlotIndex;

/// A server that says nothing for so long, while an answer is due, is sent a PING.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// And if it does not answer that for so long, the connection is taken for broken.
const PONG_MAX: Duration = Duration::from_millis(500);

/// And so much longer each for every byte that left since the server was last heard: it hears the
/// PING only behind them.
const PATIENCE_PER_BYTE: Duration = Duration::from_micros(1);

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
    /// How many bytes have left since `heard_at`.
    on_the_way: usize,
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
            on_the_way: 0,
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
            self.heard(now);
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
        self.on_the_way = 0;
        std::mem::take(&mut self.entries)
    }

    /// The server has said something.
    #[inline]
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.pinged_at = None;
        self.on_the_way = 0;
    }

    /// The system has taken bytes. Where it had no room for them before, the server has taken some:
    /// one that says nothing for the length of an upload is there.
    #[inline]
    pub(super) fn taken(&mut self, taken: Taken, now: Instant) {
        if taken.was_full && taken.bytes > 0 {
            self.heard(now);
        }
        self.on_the_way += taken.bytes;
    }

    pub(super) fn pinged(&mut self, now: Instant) {
        self.pinged_at = Some(now);
    }

    /// `None` while nothing is due.
    pub(super) fn silence(&self, now: Instant) -> Option<Silence> {
        let heard_at = self.heard_at.filter(|_| !self.entries.is_empty())?;
        // What does not fit is more than an hour.
        let more = PATIENCE_PER_BYTE * u32::try_from(self.on_the_way).unwrap_or(u32::MAX);
        let (until, beyond) = match self.pinged_at {
            None => (heard_at + SILENCE_MAX + more, Silence::Long),
            Some(pinged_at) => (pinged_at + PONG_MAX + more, Silence::TooLong),
        };
        Some(if now >= until { beyond } else { Silence::Short(until) })
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

    #[test]
    fn a_server_that_takes_what_it_is_sent_is_there() {
        let start = Instant::now();
        let mut lane = Lane::new();
        lane.push(Entry::Request(0), start);
        lane.taken(Taken { bytes: 1_000_000, was_full: false }, start);
        let long = start + SILENCE_MAX + Duration::from_secs(1);
        assert_eq!(lane.silence(start), Some(Silence::Short(long)), "it has much to read first");
        lane.push(Entry::Ping, long);
        lane.pinged(long);
        let too_long = long + PONG_MAX + Duration::from_secs(1);
        assert_eq!(lane.silence(long), Some(Silence::Short(too_long)));
        lane.taken(Taken { bytes: 0, was_full: true }, too_long);
        assert_eq!(lane.silence(too_long), Some(Silence::TooLong), "nothing was taken");
        lane.taken(Taken { bytes: 500_000, was_full: true }, too_long);
        let long = too_long + SILENCE_MAX + Duration::from_millis(500);
        assert_eq!(lane.silence(too_long), Some(Silence::Short(long)));
    }
}
