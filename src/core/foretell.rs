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
    /// Which keys will exist then, of those that these entries touch, and the last that does.
    exists: BTreeMap<Box<[u8]>, (bool, LogIndex)>,
    /// What the DELETEs among them will answer.
    deleted: BTreeMap<LogIndex, u32>,
    /// When the entries up to here are applied it is time to forget what the state knows by then.
    /// The end of what was looked through the last time: so each is looked at twice at most.
    forget_at: LogIndex,
}

impl Foretold {
    /// The answer of the write at `index`, which is sealed and may be applied or not.
    ///
    /// # Panics
    /// When it is applied already.
    pub fn answer(&mut self, log: &Log, store: &Store, index: LogIndex) -> Answer {
        assert!(index > log.applied(), "it has its answer");
        if self.forget_at <= log.applied() {
            self.forget(log.applied());
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

    /// The entries up to `applied` are in the state now.
    fn forget(&mut self, applied: LogIndex) {
        self.exists.retain(|_, (_, last)| *last > applied);
        self.deleted = self.deleted.split_off(&applied.next());
        self.upto = self.upto.max(applied);
        self.forget_at = self.upto;
    }

    fn look(&mut self, store: &Store, index: LogIndex, op: &Op<'_>) {
        match op {
            Op::Set { key, .. } => self.put(index, key),
            Op::SetMany(pairs) => pairs.iter().for_each(|(key, _)| self.put(index, key)),
            Op::Delete { key } => {
                let count = self.take(store, index, key);
                self.deleted.insert(index, count);
            }
            Op::DeleteMany(keys) => {
                let count = keys.iter().map(|key| self.take(store, index, key)).sum();
                self.deleted.insert(index, count);
            }
            Op::OpenSession { .. } | Op::Noop | Op::Membership(_) => {}
        }
    }

    fn put(&mut self, index: LogIndex, key: &[u8]) {
        self.exists.insert(key.into(), (true, index));
    }

    /// How many keys go: one or none.
    fn take(&mut self, store: &Store, index: LogIndex, key: &[u8]) -> u32 {
        let existed = match self.exists.get(key) {
            Some((existed, _)) => *existed,
            None => store.get(key).is_some(),
        };
        self.exists.insert(key.into(), (false, index));
        u32::from(existed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::apply::{Applied, apply, for_each_entry};
    use crate::core::log::LogStart;
    use kvorum_protocol::batch::BATCH_HEADER_BYTES;
    use kvorum_protocol::{Command, Term};
    use std::ops::ControlFlow;

    /// Always two writes ahead of what is applied, as with a steady load and W = 1.
    #[test]
    fn what_it_foretells_comes_true_and_what_is_applied_is_forgotten() {
        let (mut log, mut store) = (Log::new(LogStart::default(), 0), Store::new(1));
        let (mut foretold, mut counts) = (Foretold::default(), BTreeMap::new());
        for round in 0..500u64 {
            let (new, old) = (round.to_le_bytes(), round.saturating_sub(1).to_le_bytes());
            log.push(&Command::new(Op::Set { key: &new, value: b"" }));
            let index = log.push(&Command::new(Op::Delete { key: &old }));
            log.seal(Term(1), 0);
            let Answer::Deleted { count, .. } = foretold.answer(&log, &store, index) else {
                panic!("a DELETE is answered with a count");
            };
            counts.insert(index, count);
            if round == 0 {
                continue;
            }
            log.commit(LogIndex(index.0 - 2));
            let (batch, first) = (log.next_to_apply().unwrap().0, log.applied().next());
            let _ = for_each_entry(
                batch.bytes(),
                BATCH_HEADER_BYTES,
                first,
                &mut (&mut log, &mut store),
                |this| this.1,
                |this, entry| {
                    if let Applied::Deleted(count) = apply(this.1, entry) {
                        assert_eq!(counts.remove(&entry.index), Some(count));
                    }
                    this.0.mark_applied(entry.index, entry.end);
                    ControlFlow::Continue(())
                },
            );
            assert!(foretold.exists.len() + foretold.deleted.len() < 16, "it is bounded");
        }
        assert_eq!(counts.len(), 1);
    }
}
