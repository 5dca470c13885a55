//! Reads at a node that does not lead. It asks which index to wait for: the leader for a
//! linearizable read (Raft thesis, section 6.4), or R voters for what they hold. All reads of a
//! turn share a question.

use std::time::Duration;

use kvorum_protocol::{LogIndex, NodeId, Read, Term};

use super::output::ReplyTo;
use super::pending::{LOOK_INTERVAL, OwnedRead};
use super::time::Instant;

/// Questions that may be without an answer at once. Further reads gather in the next one.
const UNDER_WAY_MAX: usize = 64;

/// How often the time for an answer doubles: up to far more than any link takes.
const DOUBLINGS_MAX: u32 = 4;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The leader, for what is committed.
    Leader,
    /// So many voters, for their last durable entry.
    Voters(usize),
}

/// A read that waits for an answer.
#[derive(Debug)]
pub struct AskedRead {
    /// Where its answer goes.
    pub to: ReplyTo,
    /// What it reads.
    pub read: OwnedRead,
    /// Its own condition: the state must have applied this.
    pub after: LogIndex,
    /// When it is given up.
    pub deadline: Instant,
}

/// One question.
#[derive(Debug)]
pub struct Ask {
    kind: Kind,
    /// Changes with each repetition, so that an answer to an earlier one, which may come from a
    /// leader that is none any more, never passes for this one's.
    id: Option<u64>,
    sent_at: Instant,
    /// How often it was sent to the same leader. Each time its answer may take twice as long.
    times: u32,
    reads: Vec<AskedRead>,
    /// The earliest deadline of the reads.
    earliest: Instant,
    /// Who has answered.
    heard: Vec<NodeId>,
    /// The entries that they hold: wait for each.
    targets: Vec<(Term, LogIndex)>,
}

/// The questions that have no complete answer.
#[derive(Debug)]
pub struct Asks {
    asks: Vec<Ask>,
    next_id: u64,
    len: usize,
    key_bytes: usize,
}

impl Asks {
    /// No question yet. `first_id` is drawn, so that no two lives of a node share a number.
    pub fn new(first_id: u64) -> Asks {
        Asks { asks: Vec::new(), next_id: first_id, len: 0, key_bytes: 0 }
    }

    /// Adds a read to the next question of this kind.
    pub fn push(&mut self, kind: Kind, to: ReplyTo, read: &Read<'_>, at: (LogIndex, Instant)) {
        let (after, deadline) = at;
        let read = AskedRead { to, read: OwnedRead::new(read), after, deadline };
        self.len += 1;
        self.key_bytes += read.read.key_bytes();
        if let Some(ask) = self.asks.iter_mut().find(|ask| ask.kind == kind && ask.id.is_none()) {
            ask.earliest = ask.earliest.min(read.deadline);
            ask.reads.push(read);
            return;
        }
        self.asks.push(Ask {
            kind,
            id: None,
            sent_at: Instant::default(),
            times: 0,
            earliest: read.deadline,
            reads: vec![read],
            heard: Vec::new(),
            targets: Vec::new(),
        });
    }

    /// Gives numbers to the questions that are new, or have been without an answer for
    /// `patience`; `send` sends them, if it can. Those of a kind become one.
    pub fn send(
        &mut self,
        now: Instant,
        patience: Duration,
        mut send: impl FnMut(Kind, u64) -> bool,
    ) {
        let is_due = |ask: &Ask| match ask.id {
            None => true,
            Some(_) => !ask.is_complete() && now >= ask.answer_due(patience),
        };
        let is_under_way = |ask: &&Ask| ask.id.is_some() && !ask.is_complete();
        let mut under_way = self.asks.iter().filter(is_under_way).count();
        let mut at = 0;
        while at < self.asks.len() {
            let (kind, is_new) = (self.asks[at].kind, self.asks[at].id.is_none());
            let is_too_many = is_new && under_way >= UNDER_WAY_MAX;
            if is_too_many || !is_due(&self.asks[at]) || !send(kind, self.next_id) {
                at += 1;
                continue;
            }
            under_way += usize::from(is_new);
            let is_same = |ask: &mut Ask| ask.kind == kind && is_due(ask);
            let others: Vec<Ask> = self.asks.extract_if(at + 1.., is_same).collect();
            let ask = &mut self.asks[at];
            for other in others {
                ask.reads.extend(other.reads);
                ask.earliest = ask.earliest.min(other.earliest);
            }
            ask.id = Some(self.next_id);
            ask.sent_at = now;
            ask.times += 1;
            ask.heard.clear();
            ask.targets.clear();
            self.next_id += 1;
            at += 1;
        }
    }

    /// Questions that were sent have to be sent again: the one who was asked leads no more.
    pub fn repeat(&mut self) {
        for ask in self.asks.iter_mut().filter(|ask| !ask.is_complete()) {
            (ask.id, ask.times) = (None, 0);
        }
    }

    /// `from` holds this entry, and says so to the question `id`.
    pub fn answer(&mut self, id: u64, from: NodeId, term: Term, index: LogIndex) {
        let Some(ask) = self.asks.iter_mut().find(|ask| ask.id == Some(id)) else { return };
        if !ask.is_complete() && !ask.heard.contains(&from) {
            ask.heard.push(from);
            ask.targets.push((term, index));
        }
    }

    /// Takes the reads of a question that is answered, and whose every entry `is_here` by now.
    pub fn take_ready(
        &mut self,
        is_here: impl Fn(Kind, Term, LogIndex) -> bool,
    ) -> Option<(Kind, Vec<AskedRead>, LogIndex)> {
        let is_ready = |ask: &Ask| {
            let here = |(term, index): &(Term, LogIndex)| is_here(ask.kind, *term, *index);
            ask.is_complete() && ask.targets.iter().all(here)
        };
        let at = self.asks.iter().position(is_ready)?;
        let ask = self.asks.remove(at);
        self.forget(&ask.reads);
        let index = ask.targets.iter().map(|(_, index)| *index).max();
        Some((ask.kind, ask.reads, index.unwrap_or_default()))
    }

    fn forget(&mut self, reads: &[AskedRead]) {
        self.len -= reads.len();
        self.key_bytes -= reads.iter().map(|read| read.read.key_bytes()).sum::<usize>();
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: Instant, mut refuse: impl FnMut(ReplyTo)) {
        for ask in self.asks.iter_mut().filter(|ask| ask.earliest <= now) {
            ask.reads.retain(|read| {
                let is_late = read.deadline <= now;
                if is_late {
                    refuse(read.to);
                    self.len -= 1;
                    self.key_bytes -= read.read.key_bytes();
                }
                !is_late
            });
            let earliest = ask.reads.iter().map(|read| read.deadline).min();
            ask.earliest = earliest.map_or(Instant::NEVER, |at| at.max(now.after(LOOK_INTERVAL)));
        }
        self.asks.retain(|ask| !ask.reads.is_empty());
    }

    /// Gives up everything.
    pub fn void(&mut self, mut refuse: impl FnMut(ReplyTo)) {
        for ask in std::mem::take(&mut self.asks) {
            ask.reads.iter().for_each(|read| refuse(read.to));
        }
        (self.len, self.key_bytes) = (0, 0);
    }

    /// When something should be sent again or given up.
    pub fn deadline(&self, patience: Duration) -> Instant {
        // What was never sent waits for somebody to ask, which is no matter of time.
        let repeat = |ask: &Ask| match ask.id {
            Some(_) if !ask.is_complete() => ask.answer_due(patience),
            _ => Instant::NEVER,
        };
        let due = |ask: &Ask| repeat(ask).min(ask.earliest);
        self.asks.iter().map(due).min().unwrap_or(Instant::NEVER)
    }

    /// How many reads wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the keys that they ask for.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }
}

impl Ask {
    /// When to ask again.
    fn answer_due(&self, patience: Duration) -> Instant {
        let doublings = self.times.saturating_sub(1).min(DOUBLINGS_MAX);
        self.sent_at.after(patience * (1 << doublings))
    }

    fn is_complete(&self) -> bool {
        let needed = match self.kind {
            Kind::Leader => 1,
            Kind::Voters(count) => count,
        };
        self.heard.len() >= needed
    }
}
