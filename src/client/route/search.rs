//! The search for a server that takes a request, while others do not.

use std::time::{Duration, Instant};

use super::router::{NodeIndex, ReadFrom, Router};
use super::tried::Tried;

/// When all servers were asked in vain: how long to wait before the next round, doubling with each
/// round. An election takes a few milliseconds after a crash, and 300 to 600 after a silence.
const ROUND_WAIT: Duration = Duration::from_millis(2);
const ROUND_WAIT_MAX: Duration = Duration::from_millis(50);

/// Whom a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The leader, or whoever may know it.
    Leader,
    /// A server for a read.
    Read(ReadFrom),
}

/// What a search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Try this one. It is not found again in the same round.
    Node(NodeIndex),
    /// Nobody until then: ask again.
    Wait(Instant),
}

/// Rounds through the servers: each is tried at most once a round, and between two rounds there is
/// a wait, so that hints that point in a circle are not run after.
#[derive(Debug, Default)]
pub struct Search {
    /// Servers that were found in this round.
    tried: Tried,
    /// Rounds that found nobody.
    rounds: u32,
    /// Not before then.
    waits_until: Option<Instant>,
}

impl Search {
    /// The next server to try.
    pub fn next(&mut self, router: &mut Router, target: Target, now: Instant) -> Found {
        if let Some(until) = self.waits_until.filter(|until| *until > now) {
            return Found::Wait(until);
        }
        self.waits_until = None;
        let node = match target {
            Target::Leader => router.for_write(&self.tried, now),
            Target::Read(from) => router.for_read(from, &self.tried, now),
        };
        match node {
            Some(node) => {
                self.tried.insert(node);
                Found::Node(node)
            }
            None => Found::Wait(self.end_round(router, now)),
        }
    }

    /// All were tried, or it is of no use to try others: wait, and begin again with all.
    pub fn end_round(&mut self, router: &mut Router, now: Instant) -> Instant {
        let longest = (ROUND_WAIT * (1 << self.rounds.min(16))).min(ROUND_WAIT_MAX);
        let until = now + router.jitter(longest);
        self.rounds += 1;
        self.tried.clear();
        self.waits_until = Some(until);
        until
    }

    /// A server has taken the request: the next search begins anew.
    #[inline]
    pub fn succeeded(&mut self) {
        self.tried.clear();
        self.rounds = 0;
        self.waits_until = None;
    }
}
