//! What the decided entries add up to, when every write of a session takes effect once.
//!
//! A second telling of the rules of sessions, by one who never forgets an outcome. The nodes, who
//! do, must agree: what they hold in the end is what is here, and so is all that clients are told.

use std::collections::{BTreeMap, BTreeSet};

use kvorum::core::SessionBounds;
use kvorum::core::sessions::Sessions;
use kvorum_protocol::{Batch, Command, LogIndex, LogTimeMs, Op, SessionSequence};

use super::{Checked, ensure};
use crate::clients::Told;

/// A session that is not over.
struct Alive {
    window: u32,
    last_used: LogIndex,
    last_time: LogTimeMs,
    /// The highest sequence seen.
    highest: u64,
}

pub struct Effects {
    bounds: SessionBounds,
    alive: BTreeMap<LogIndex, Alive>,
    /// The outcomes of all writes that ever took effect in a session.
    outcomes: BTreeMap<(u64, u64), Told>,
    /// The writes that did not.
    void: BTreeSet<LogIndex>,
    keys: BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)>,
}

impl Effects {
    pub fn new(bounds: SessionBounds) -> Effects {
        Effects {
            bounds,
            alive: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            void: BTreeSet::new(),
            keys: BTreeMap::new(),
        }
    }

    /// One more batch is decided.
    pub fn decided(&mut self, batch: &Batch) {
        let time = batch.header().log_time;
        for (index, command) in batch.entries() {
            match (command.op, command.session) {
                (Op::OpenSession { window }, _) => self.open(index, time, window),
                (_, None) => {
                    self.change(index, &command);
                }
                (_, Some(name)) if self.is_new(name, index, time) => {
                    let told = self.change(index, &command).expect("a write tells something");
                    self.outcomes.insert((name.session, name.sequence), told);
                }
                (_, Some(_)) => {
                    self.void.insert(index);
                }
            }
        }
    }

    fn open(&mut self, index: LogIndex, time: LogTimeMs, window: u32) {
        let idle_ms = self.bounds.idle_ms;
        self.alive.retain(|_, session| time.0 - session.last_time.0 <= idle_ms);
        let fits = |alive: &BTreeMap<LogIndex, Alive>| {
            let slots: usize = alive.values().map(|session| session.window as usize).sum();
            alive.len() < self.bounds.sessions && slots + window as usize <= self.bounds.slots
        };
        while !fits(&self.alive) {
            let oldest = self.alive.iter().min_by_key(|(_, session)| session.last_used);
            let Some((&oldest, _)) = oldest else { break };
            self.alive.remove(&oldest);
        }
        let session = Alive { window, last_used: index, last_time: time, highest: 0 };
        self.alive.insert(index, session);
    }

    /// Whether this entry is the one by which a write of a session takes effect.
    fn is_new(&mut self, name: SessionSequence, index: LogIndex, time: LogTimeMs) -> bool {
        let id = LogIndex(name.session);
        let Some(session) = self.alive.get_mut(&id) else { return false };
        if time.0 - session.last_time.0 > self.bounds.idle_ms {
            self.alive.remove(&id);
            return false;
        }
        if session.highest.saturating_sub(name.sequence) >= u64::from(session.window) {
            return false;
        }
        (session.last_used, session.last_time) = (index, time);
        session.highest = session.highest.max(name.sequence);
        !self.outcomes.contains_key(&(name.session, name.sequence))
    }

    fn change(&mut self, index: LogIndex, command: &Command<'_>) -> Option<Told> {
        match command.op {
            Op::Set { key, value } => {
                self.keys.insert(key.to_vec(), (index, value.to_vec()));
                Some(Told::Written(index))
            }
            Op::Delete { key } => Some(Told::Deleted(index, self.keys.remove(key).is_some())),
            _ => None,
        }
    }

    /// A node answers a write of a session.
    pub fn is_told(&self, name: SessionSequence, told: &Told) -> Checked {
        let known = self.outcomes.get(&(name.session, name.sequence));
        ensure(known == Some(told), "a write of a session is told its one outcome", || {
            format!("{name:?} is told {told:?}, what happened is {known:?}")
        })
    }

    /// A node says that a session is over.
    pub fn is_over(&self, name: SessionSequence) -> Checked {
        let is_over = !self.alive.contains_key(&LogIndex(name.session));
        ensure(is_over, "only a session that is over is called so", || format!("{name:?}"))
    }

    /// Whether the entry changed a key.
    pub fn took_effect(&self, index: LogIndex) -> bool {
        !self.void.contains(&index)
    }

    /// All keys, with the entry that changed each last.
    pub fn keys(&self) -> &BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)> {
        &self.keys
    }

    /// Whether a node that has applied all that is decided has these sessions.
    pub fn are_sessions(&self, sessions: &Sessions) -> bool {
        let known = self.alive.iter().map(|(id, session)| (*id, session.last_used));
        known.eq(sessions.in_order().into_iter().map(|(id, session)| (id, session.last_used)))
    }
}
