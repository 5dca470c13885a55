//! What a write will answer, before it is committed: for W below a majority.
//!
//! A SET answers the same whatever the state is. A DELETE tells how many of its keys existed,
//! which depends on the entries before it that are not applied yet: they are looked through once,
//! in order. Whether a write of a session among them takes effect shows only when it is applied.
//! It may leave open whether a key exists, and then a DELETE of that key has to wait, too.

use std::collections::BTreeMap;

use kvorum_protocol::{Command, LogIndex, Op};

use super::log::Log;
use super::output::Answer;
use super::store::Store;

/// What the entries that are not applied will have done.
#[derive(Debug, Default)]
pub struct Foretold {
    /// The entries up to here are looked through, from the applied ones on.
    upto: LogIndex,
    /// Which keys will exist then, of those that these entries touch (`None`: that is open), and
    /// the last that does.
    exists: BTreeMap<Box<[u8]>, (Option<bool>, LogIndex)>,
    /// What the DELETEs among them will answer; `None`: that is open.
    deleted: BTreeMap<LogIndex, Option<u32>>,
    /// When the entries up to here are applied it is time to forget what the state knows by then.
    /// The end of what was looked through the last time: so each is looked at twice at most.
    forget_at: LogIndex,
}

impl Foretold {
    /// The answer of the write at `index`, which is sealed, not applied, and of no session; `None`
    /// when only applying it will tell.
    ///
    /// # Panics
    /// When it is applied already.
    pub fn answer(&mut self, log: &Log, store: &Store, index: LogIndex) -> Option<Answer> {
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
                    self.look(store, at, &command);
                }
            }
            self.upto = batch.header().last_index();
        }
        Some(match self.deleted.get(&index) {
            Some(count) => Answer::Deleted { version: index, count: (*count)? },
            None => Answer::Written { version: index },
        })
    }

    /// The entries up to `applied` are in the state now.
    fn forget(&mut self, applied: LogIndex) {
        self.exists.retain(|_, (_, last)| *last > applied);
        self.deleted = self.deleted.split_off(&applied.next());
        self.upto = self.upto.max(applied);
        self.forget_at = self.upto;
    }

    fn look(&mut self, store: &Store, index: LogIndex, command: &Command<'_>) {
        let touch = Touch { store, index, is_certain: command.session.is_none() };
        match command.op {
            Op::Set { key, .. } => self.put(&touch, key),
            Op::SetMany(pairs) => pairs.iter().for_each(|(key, _)| self.put(&touch, key)),
            Op::Delete { key } => {
                let count = self.take(&touch, key);
                self.deleted.insert(index, count);
            }
            Op::DeleteMany(keys) => {
                // All of them, also behind one whose count is open.
                let add = |sum: Option<u32>, one: Option<u32>| Some(sum? + one?);
                let count = keys.iter().map(|key| self.take(&touch, key)).fold(Some(0), add);
                self.deleted.insert(index, count);
            }
            Op::OpenSession { .. } | Op::Noop | Op::Membership(_) => {}
        }
    }

    fn put(&mut self, touch: &Touch<'_>, key: &[u8]) {
        self.leave(touch, key, true);
    }

    /// How many keys go: one or none.
    fn take(&mut self, touch: &Touch<'_>, key: &[u8]) -> Option<u32> {
        let existed = self.existence(touch.store, key);
        self.leave(touch, key, false);
        existed.map(u32::from)
    }

    /// The key exists or not behind an entry that is certain to take effect; behind another, if it
    /// was so before.
    fn leave(&mut self, touch: &Touch<'_>, key: &[u8], exists: bool) {
        let is_known = touch.is_certain || self.existence(touch.store, key) == Some(exists);
        self.exists.insert(key.into(), (is_known.then_some(exists), touch.index));
    }

    fn existence(&self, store: &Store, key: &[u8]) -> Option<bool> {
        match self.exists.get(key) {
            Some((exists, _)) => *exists,
            None => Some(store.get(key).is_some()),
        }
    }
}

/// What an entry has to do with its keys.
struct Touch<'a> {
    store: &'a Store,
    index: LogIndex,
    /// It takes effect whatever the state is.
    is_certain: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::apply::{apply, for_each_entry};
    use crate::core::log::LogStart;
    use crate::core::outcome::Applied;
    use crate::core::sessions::SessionBounds;
    use crate::core::state::State;
    use kvorum_protocol::batch::BATCH_HEADER_BYTES;
    use kvorum_protocol::{Command, Term};
    use std::ops::ControlFlow;

    /// Always two writes ahead of what is applied, as with a steady load and W = 1.
    #[test]
    fn what_it_foretells_comes_true_and_what_is_applied_is_forgotten() {
        let mut log = Log::new(LogStart::default(), 0);
        let mut state = State::new(1, SessionBounds::default());
        let (mut foretold, mut counts) = (Foretold::default(), BTreeMap::new());
        for round in 0..500u64 {
            let (new, old) = (round.to_le_bytes(), round.saturating_sub(1).to_le_bytes());
            log.push(&Command::new(Op::Set { key: &new, value: b"" }));
            let index = log.push(&Command::new(Op::Delete { key: &old }));
            log.seal(Term(1), 0);
            let answer = foretold.answer(&log, &state.store, index);
            let Some(Answer::Deleted { count, .. }) = answer else {
                panic!("a DELETE is answered with a count");
            };
            counts.insert(index, count);
            if round == 0 {
                continue;
            }
            log.commit(LogIndex(index.0 - 2));
            let (batch, first) = (log.next_to_apply().unwrap().0, log.applied().next());
            let time = batch.header().log_time;
            let _ = for_each_entry(
                batch.bytes(),
                BATCH_HEADER_BYTES,
                first,
                &mut (&mut log, &mut state),
                |this| &this.1.store,
                |this, entry| {
                    if let Applied::Deleted(count) = apply(this.1, time, entry).applied {
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
