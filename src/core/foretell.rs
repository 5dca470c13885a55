//! What a write will answer, before it is committed: for W below a majority.
//!
//! A SET answers the same whatever the state is. A DELETE tells how many of its keys existed,
//! which depends on the entries before it that are not applied yet: they are looked through once,
//! in order.

use std::collections::BTreeMap;

use kvorum_protocol::{LogIndex, Op};

use super::log::Log;
use super::output::Answer;
use super::store::Store;

/// What the entries that are not applied will have done.
#[derive(Debug, Default)]
pub struct Foretold {
    /// The entries up to here are looked through, from the applied ones on.
    upto: LogIndex,
    /// Which keys will exist then, of those that these entries touch.
    exists: BTreeMap<Box<[u8]>, bool>,
    /// What the DELETEs among them will answer.
    deleted: BTreeMap<LogIndex, u32>,
}

impl Foretold {
    /// The answer of the write at `index`, which is sealed and may be applied or not.
    ///
    /// # Panics
    /// When it is applied already.
    pub fn answer(&mut self, log: &Log, store: &Store, index: LogIndex) -> Answer {
        assert!(index > log.applied(), "it has its answer");
        if self.upto <= log.applied() {
            *self = Foretold { upto: log.applied(), ..Foretold::default() };
        }
        for batch in log.unapplied() {
            if batch.header().last_index() <= self.upto || self.upto >= index {
                continue;
            }
            for (at, command) in batch.entries() {
                if at > self.upto {
                    self.look(store, at, &command.op);
                }
            }
            self.upto = batch.header().last_index();
        }
        match self.deleted.remove(&index) {
            Some(count) => Answer::Deleted { version: index, count },
            None => Answer::Written { version: index },
        }
    }

    fn look(&mut self, store: &Store, index: LogIndex, op: &Op<'_>) {
        match op {
            Op::Set { key, .. } => self.put(key),
            Op::SetMany(pairs) => pairs.iter().for_each(|(key, _)| self.put(key)),
            Op::Delete { key } => {
                let count = self.take(store, key);
                self.deleted.insert(index, count);
            }
            Op::DeleteMany(keys) => {
                let count = keys.iter().map(|key| self.take(store, key)).sum();
                self.deleted.insert(index, count);
            }
            Op::Noop | Op::Membership(_) => {}
        }
    }

    fn put(&mut self, key: &[u8]) {
        self.exists.insert(key.into(), true);
    }

    /// How many keys go: one or none.
    fn take(&mut self, store: &Store, key: &[u8]) -> u32 {
        let existed = match self.exists.get(key) {
            Some(existed) => *existed,
            None => store.get(key).is_some(),
        };
        self.exists.insert(key.into(), false);
        u32::from(existed)
    }
}
