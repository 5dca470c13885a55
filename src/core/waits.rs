//! Requests that wait until other members hold an entry durably: `WAIT` and `WAITAOF`.

use std::time::Duration;

use kvorum_protocol::{Copies, LogIndex};

use super::output::ReplyTo;
use super::time::Instant;

/// For whom to wait.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// The entry.
    pub index: LogIndex,
    /// This node has to hold it durably.
    pub here: bool,
    /// So many others have to; more than there are means all of them.
    pub others: usize,
    /// After this time the answer is what is so then; `None`: there is no hurry.
    pub timeout: Option<Duration>,
}

impl Wait {
    /// Who of a cluster holds the entry, when its members hold these entries durably.
    fn copies(&self, own: LogIndex, others: &[LogIndex]) -> Copies {
        Copies {
            here: own >= self.index,
            elsewhere: others.iter().filter(|durable| **durable >= self.index).count(),
        }
    }

    fn is_fulfilled_by(&self, copies: &Copies) -> bool {
        (copies.here || !self.here) && copies.elsewhere >= self.others
    }
}

#[derive(Debug)]
struct PendingWait {
    to: ReplyTo,
    wait: Wait,
    deadline: Instant,
}

/// All that wait.
#[derive(Debug, Default)]
pub struct Waits {
    pending: Vec<PendingWait>,
    /// Their first deadline; `None` when none of them has one.
    earliest: Option<Instant>,
}

impl Waits {
    /// What is so, if that is enough or there is no time; otherwise `to` waits from now on.
    pub fn admit(
        &mut self,
        now: Instant,
        to: ReplyTo,
        wait: Wait,
        own: LogIndex,
        others: &[LogIndex],
    ) -> Option<Copies> {
        let copies = wait.copies(own, others);
        if wait.is_fulfilled_by(&copies) {
            return Some(copies);
        }
        let deadline = wait.timeout.map_or(Instant::NEVER, |timeout| now.after(timeout));
        self.pending.push(PendingWait { to, wait, deadline });
        self.earliest = Some(self.deadline().min(deadline));
        None
    }

    /// Answers those that are fulfilled, and those whose time is over at `now`.
    pub fn answer(
        &mut self,
        now: Option<Instant>,
        own: LogIndex,
        others: &[LogIndex],
        mut answer: impl FnMut(ReplyTo, Copies),
    ) {
        let mut earliest = Instant::NEVER;
        self.pending.retain(|pending| {
            let copies = pending.wait.copies(own, others);
            let is_over = now.is_some_and(|now| pending.deadline <= now);
            if is_over || pending.wait.is_fulfilled_by(&copies) {
                answer(pending.to, copies);
                return false;
            }
            earliest = earliest.min(pending.deadline);
            true
        });
        self.earliest = (earliest < Instant::NEVER).then_some(earliest);
    }

    /// Takes all that wait, whoever holds what.
    pub fn take_all(&mut self) -> impl Iterator<Item = ReplyTo> {
        self.earliest = None;
        self.pending.drain(..).map(|pending| pending.to)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.pending.len()
    }

    /// When the first of them has waited long enough.
    pub fn deadline(&self) -> Instant {
        self.earliest.unwrap_or(Instant::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: ReplyTo = ReplyTo { connection: 1, tag: 2 };

    fn wait(here: bool, others: usize, timeout_ms: Option<u64>) -> Wait {
        let timeout = timeout_ms.map(Duration::from_millis);
        Wait { index: LogIndex(7), here, others, timeout }
    }

    fn at(ms: u64) -> Instant {
        Instant::default().after(Duration::from_millis(ms))
    }

    /// What is told when this node and two others are so far.
    fn told(waits: &mut Waits, now: Option<Instant>, own: u64, others: [u64; 2]) -> Vec<Copies> {
        let mut told = Vec::new();
        waits.answer(now, LogIndex(own), &others.map(LogIndex), |to, copies| {
            assert_eq!(to, TO);
            told.push(copies);
        });
        told
    }

    #[test]
    fn copies_are_counted_where_they_are_durable() {
        let mut waits = Waits::default();
        let mut admit =
            |wait, own| waits.admit(at(0), TO, wait, LogIndex(own), &[LogIndex(7), LogIndex(6)]);
        assert_eq!(admit(wait(false, 1, None), 6), Some(Copies { here: false, elsewhere: 1 }));
        assert_eq!(admit(wait(true, 0, None), 7), Some(Copies { here: true, elsewhere: 1 }));
        assert_eq!(admit(wait(true, 1, None), 6), None);
        assert_eq!(admit(wait(false, 2, None), 9), None);
        assert_eq!((waits.count(), waits.deadline()), (2, Instant::NEVER));
        assert_eq!(told(&mut waits, None, 6, [7, 6]), []);
        let copies = [Copies { here: true, elsewhere: 1 }];
        assert_eq!(told(&mut waits, None, 7, [7, 6]), copies);
        let copies = [Copies { here: true, elsewhere: 2 }];
        assert_eq!(told(&mut waits, None, 7, [7, 8]), copies);
        assert_eq!(waits.count(), 0);
    }

    #[test]
    fn when_the_time_is_over_the_answer_is_what_is_so() {
        let mut waits = Waits::default();
        for timeout_ms in [Some(50), None, Some(20)] {
            assert_eq!(waits.admit(at(10), TO, wait(false, 2, timeout_ms), LogIndex(9), &[]), None);
        }
        assert_eq!(waits.deadline(), at(30));
        assert_eq!(told(&mut waits, Some(at(29)), 9, [9, 0]), []);
        let copies = Copies { here: true, elsewhere: 1 };
        assert_eq!(told(&mut waits, Some(at(30)), 9, [9, 0]), [copies]);
        assert_eq!(waits.deadline(), at(60));
        assert_eq!(told(&mut waits, Some(at(60)), 9, [9, 0]), [copies]);
        assert_eq!((waits.count(), waits.deadline()), (1, Instant::NEVER));
        assert_eq!(waits.take_all().collect::<Vec<_>>(), [TO]);
    }
}
