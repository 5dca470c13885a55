//! The requests of one connection whose answers have not come, or were not fetched.

use std::thread::{self, Thread};

use kvorum_protocol::binary::CONNECTION_ID;

use crate::client::reply::Reply;

/// How many requests may be without an answer although nobody waits for it any more.
const ABANDONED_MAX: usize = 256;

/// Frames beyond this are the only ones that a server may call too long.
const FRAME_BYTES_SURE: u64 = 1 << 20;

/// Who wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A caller, who comes for it.
    ByCaller,
    /// Whoever comes first: it concerns all.
    AsNews,
    /// Nobody, or nobody any more.
    ByNobody,
}

#[derive(Debug)]
struct Waiter {
    id: u32,
    /// Where the request begins and ends in the stream of all bytes to the server.
    bytes: (u64, u64),
    wanted: Wanted,
    reply: Option<Reply>,
    /// Of a caller who sleeps and was not woken.
    sleeper: Option<Thread>,
}

/// What was asked and is not over. There are few on one connection, at most one for each thread
/// and some that nobody waits for: looking through them all is cheaper than any index.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: Vec<Waiter>,
    next_id: u32,
}

/// How the wait for an answer ends when its connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// All of the request had been handed to the system.
    pub may_have_arrived: bool,
    /// It is certainly the one that a server has called too long.
    pub is_too_long: bool,
}

impl Waiting {
    /// Takes a request in, and gives the number that it is sent with.
    pub(super) fn add(&mut self, wanted: Wanted) -> u32 {
        let id = self.next_id;
        // The reserved number is the last one.
        self.next_id = (self.next_id + 1) % CONNECTION_ID;
        self.waiters.push(Waiter { id, bytes: (0, 0), wanted, reply: None, sleeper: None });
        id
    }

    /// The request that was added last takes this place in the stream.
    pub(super) fn placed(&mut self, from: u64, to: u64) {
        self.waiters.last_mut().expect("a request was added").bytes = (from, to);
    }

    /// An answer has come: who wanted it, and the thread to wake, if it sleeps. `None` for an
    /// answer that nobody has asked for.
    pub(super) fn deliver(&mut self, id: u32, reply: Reply) -> Option<(Delivered, Option<Thread>)> {
        let is_open = |waiter: &Waiter| waiter.id == id && waiter.reply.is_none();
        let at = self.waiters.iter().position(is_open)?;
        let waiter = &mut self.waiters[at];
        match waiter.wanted {
            Wanted::ByCaller => {
                waiter.reply = Some(reply);
                Some((Delivered::ToCaller, waiter.sleeper.take()))
            }
            Wanted::AsNews => {
                self.waiters.swap_remove(at);
                Some((Delivered::News(reply), None))
            }
            Wanted::ByNobody => {
                self.waiters.swap_remove(at);
                Some((Delivered::ToNobody, None))
            }
        }
    }

    /// The answer to a caller's request, which is over with that.
    pub(super) fn take(&mut self, id: u32) -> Option<Reply> {
        let at = self.position(id);
        let reply = self.waiters[at].reply.take()?;
        self.waiters.swap_remove(at);
        Some(reply)
    }

    /// Its caller waits no longer. False: there are too many like this.
    pub(super) fn abandon(&mut self, id: u32) -> bool {
        let at = self.position(id);
        self.waiters[at].wanted = Wanted::ByNobody;
        self.waiters[at].sleeper = None;
        let abandoned = self.waiters.iter().filter(|waiter| waiter.wanted == Wanted::ByNobody);
        abandoned.count() <= ABANDONED_MAX
    }

    /// The connection has broken when the server had been sent this much.
    pub(super) fn end(&self, id: u32, sent: u64) -> Ended {
        let at = self.position(id);
        let is_long = |waiter: &Waiter| waiter.bytes.1 - waiter.bytes.0 > FRAME_BYTES_SURE;
        let is_only_long = self.waiters.iter().filter(|waiter| is_long(waiter)).count() == 1;
        let waiter = &self.waiters[at];
        // It stays: the others have to know that there was another long one.
        Ended {
            may_have_arrived: waiter.bytes.1 <= sent,
            is_too_long: is_long(waiter) && is_only_long,
        }
    }

    /// Its caller is about to sleep.
    pub(super) fn sleeps(&mut self, id: u32) {
        let at = self.position(id);
        self.waiters[at].sleeper = Some(thread::current());
    }

    /// One of those who sleep without an answer, to be woken.
    pub(super) fn successor(&mut self) -> Option<Thread> {
        let mut waiters = self.waiters.iter_mut().filter(|waiter| waiter.reply.is_none());
        waiters.find_map(|waiter| waiter.sleeper.take())
    }

    /// All who sleep, to be woken.
    pub(super) fn everybody(&mut self) -> impl Iterator<Item = Thread> + use<'_> {
        self.waiters.iter_mut().filter_map(|waiter| waiter.sleeper.take())
    }

    /// Whether an answer is to come.
    pub(super) fn is_expecting(&self) -> bool {
        self.waiters.iter().any(|waiter| waiter.reply.is_none())
    }

    fn position(&self, id: u32) -> usize {
        let is_it = |waiter: &Waiter| waiter.id == id && waiter.wanted == Wanted::ByCaller;
        self.waiters.iter().position(is_it).expect("a caller takes its answer once")
    }
}

/// Where an answer has gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It waits for its caller.
    ToCaller,
    /// It concerns all.
    News(Reply),
    /// Nobody wants it.
    ToNobody,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(waiting: &mut Waiting, id: u32) -> Option<Delivered> {
        waiting.deliver(id, Reply::Ok).map(|(delivered, _)| delivered)
    }

    #[test]
    fn each_answer_goes_to_its_request_once() {
        let mut waiting = Waiting::default();
        let [first, second] = [Wanted::ByCaller; 2].map(|wanted| waiting.add(wanted));
        let ping = waiting.add(Wanted::ByNobody);
        assert!(waiting.is_expecting());
        let number = |n| Reply::Number(n);
        assert!(waiting.deliver(second, number(2)).is_some());
        assert!(waiting.deliver(second, number(2)).is_none(), "a second answer");
        assert!(waiting.deliver(99, number(2)).is_none(), "never asked");
        assert_eq!(waiting.take(first), None);
        assert_eq!(waiting.take(second), Some(number(2)));
        assert_eq!(deliver(&mut waiting, ping), Some(Delivered::ToNobody));
        assert!(waiting.deliver(first, number(1)).is_some());
        assert!(!waiting.is_expecting());
        assert_eq!(waiting.take(first), Some(number(1)));
    }

    #[test]
    fn an_answer_that_comes_too_late_is_known_but_not_kept() {
        let mut waiting = Waiting::default();
        let id = waiting.add(Wanted::ByCaller);
        assert!(waiting.abandon(id));
        assert!(waiting.is_expecting());
        assert_eq!(deliver(&mut waiting, id), Some(Delivered::ToNobody));
        assert!(!waiting.is_expecting());
        let abandon = |waiting: &mut Waiting| {
            let id = waiting.add(Wanted::ByCaller);
            waiting.abandon(id)
        };
        assert!((0..ABANDONED_MAX).all(|_| abandon(&mut waiting)));
        assert!(!abandon(&mut waiting), "a server that never answers fills no memory");
    }

    #[test]
    fn what_was_not_sent_to_its_end_has_not_arrived() {
        let mut waiting = Waiting::default();
        let mut add = |from, to| {
            let id = waiting.add(Wanted::ByCaller);
            waiting.placed(from, to);
            id
        };
        let ids = [add(0, 100), add(100, 2_000_000), add(2_000_000, 2_000_100)];
        let ended = ids.map(|id| waiting.end(id, 1_999_999));
        assert_eq!(ended.map(|ended| ended.may_have_arrived), [true, false, false]);
        assert_eq!(ended.map(|ended| ended.is_too_long), [false, true, false]);
        waiting.add(Wanted::ByCaller);
        waiting.placed(3_000_000, 6_000_000);
        assert!(!waiting.end(ids[1], 7_000_000).is_too_long, "it may be the other one");
    }
}
