//! Reads at the leader: answered from the state at once, and held back until a round of
//! heartbeats that began after they came has shown that the node still leads (Raft paper, section
//! 8; thesis, section 6.4). One round confirms all reads of a turn.
//!
//! Taking the answer at once and not after the round keeps the order of a connection: a write
//! behind the read does not change what the read has seen. And it is linearizable: nobody else
//! can have led, and answered a write, before the read came, if a majority still followed this
//! leader after it came.

use std::collections::VecDeque;

use kvorum_protocol::{LogIndex, NodeId};

use super::output::{Answer, Output, Refusal, Reply, ReplyTo};
use super::pending::LOOK_INTERVAL;
use super::time::Instant;

/// What confirms a read: so many voters, in this round or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The round.
    pub round: u64,
    /// How many voters.
    pub voters: Needed,
}

/// How many voters have to confirm something, the leader included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// A majority of those that are voters by then: one of an earlier list could miss that others
    /// have elected another leader.
    Majority,
    /// This many.
    Count(usize),
}

/// A follower that wants to know what to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who.
    pub by: NodeId,
    /// The number of its question.
    pub id: u64,
    /// The answer.
    pub index: LogIndex,
}

/// What waits for one condition.
#[derive(Debug)]
struct Held {
    condition: Condition,
    replies: Vec<(Reply, Instant)>,
    /// The bytes that the replies refer to.
    values: Vec<u8>,
    asked: Vec<Asked>,
    /// The earliest deadline of the replies.
    earliest: Instant,
}

/// The rounds of one leadership.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The last round that was begun.
    begun: u64,
    /// In the order in which they came.
    held: VecDeque<Held>,
    replies: usize,
    value_bytes: usize,
    /// Room for the next one.
    spare: Option<Held>,
}

impl Rounds {
    /// The condition of a read that comes now: no round that has begun already is good enough.
    pub fn condition(&self, voters: Needed) -> Condition {
        Condition { round: self.begun + 1, voters }
    }

    /// Where an answer under this condition is put: its bytes go to the returned buffer.
    fn held(&mut self, condition: Condition) -> &mut Held {
        let at = self.held.iter().rposition(|held| held.condition == condition);
        let at = at.unwrap_or_else(|| {
            let mut held = self.spare.take().unwrap_or_else(|| Held {
                condition,
                replies: Vec::new(),
                values: Vec::new(),
                asked: Vec::new(),
                earliest: Instant::NEVER,
            });
            held.condition = condition;
            held.earliest = Instant::NEVER;
            self.held.push_back(held);
            self.held.len() - 1
        });
        &mut self.held[at]
    }

    /// Holds an answer back; `write` puts its bytes together.
    pub fn hold(
        &mut self,
        condition: Condition,
        to: ReplyTo,
        deadline: Instant,
        write: impl FnOnce(&mut Vec<u8>) -> Answer,
    ) -> Answer {
        let held = self.held(condition);
        let before = held.values.len();
        let answer = write(&mut held.values);
        held.replies.push((Reply { to, answer }, deadline));
        held.earliest = held.earliest.min(deadline);
        let bytes = held.values.len() - before;
        self.replies += 1;
        self.value_bytes += bytes;
        answer
    }

    /// Holds the answer to a follower back.
    pub fn hold_asked(&mut self, condition: Condition, asked: Asked) {
        self.held(condition).asked.push(asked);
    }

    /// The round to begin now, if anything waits for one that has not begun.
    pub fn begin(&mut self) -> Option<u64> {
        let waits = self.held.iter().any(|held| held.condition.round > self.begun);
        if !waits {
            return None;
        }
        self.begun += 1;
        Some(self.begun)
    }

    /// The last round that was begun.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Releases what is confirmed, as `is_confirmed` judges. True when `out` is full before the
    /// end.
    pub fn release(
        &mut self,
        out: &mut Output,
        value_bytes_max: usize,
        is_confirmed: impl Fn(Condition) -> bool,
        mut answer_asked: impl FnMut(Asked),
    ) -> bool {
        let mut at = 0;
        while at < self.held.len() {
            if !is_confirmed(self.held[at].condition) {
                at += 1;
                continue;
            }
            if out.values.len() >= value_bytes_max {
                return true;
            }
            let mut held = self.held.remove(at).expect("within the length");
            self.replies -= held.replies.len();
            self.value_bytes -= held.values.len();
            let offset = out.values.len();
            out.values.append(&mut held.values);
            out.replies.extend(held.replies.drain(..).map(|(reply, _)| reply.shifted(offset)));
            held.asked.drain(..).for_each(&mut answer_asked);
            self.spare = Some(held);
        }
        false
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many answers are held back.
    pub fn len(&self) -> usize {
        self.replies
    }

    /// The bytes of their values.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// When the first of them has waited too long.
    pub fn deadline(&self) -> Instant {
        self.held.iter().map(|held| held.earliest).min().unwrap_or(Instant::NEVER)
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: Instant, mut refuse: impl FnMut(ReplyTo)) {
        for held in self.held.iter_mut().filter(|held| held.earliest <= now) {
            held.earliest = Instant::NEVER;
            held.replies.retain(|(reply, deadline)| {
                if *deadline <= now {
                    refuse(reply.to);
                    self.replies -= 1;
                    return false;
                }
                held.earliest = held.earliest.min((*deadline).max(now.after(LOOK_INTERVAL)));
                true
            });
        }
    }

    /// Everything that is held back, as the node does not lead any more.
    pub fn void(self, mut refuse: impl FnMut(ReplyTo, Refusal)) {
        for held in self.held {
            for (reply, _) in held.replies {
                refuse(reply.to, Refusal::NoLeader);
            }
        }
    }
}
