//! Executing log entries on the state: the same code for recovery and for commits, total over
//! every command that a checked batch can hold.

use std::ops::ControlFlow;

use kvorum_protocol::{Command, LogIndex, LogTimeMs, Op, SessionSequence, batch};

use super::outcome::{Applied, Outcome};
#[cfg(feature = "seeded-bugs")]
use super::seeded::Bug;
#[cfg(feature = "seeded-bugs")]
use super::sessions::Known;
use super::state::State;
use super::store::{KeyHash, Store};

/// How many entries are looked at ahead, so that their cache misses overlap. Twice as many gained
/// nothing more, half as many cost a tenth of the throughput.
const LOOKAHEAD: usize = 16;

/// An entry on its way to the state.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Its index.
    pub index: LogIndex,
    /// What it does.
    pub command: Command<'a>,
    /// Where the next entry of the batch starts.
    pub end: usize,
    /// The hash of its key, when it has exactly one.
    hash: Option<KeyHash>,
}

/// Calls `each` for the entries of a batch from the one with `index` at `offset` on, until it
/// breaks or the batch ends. The items that the next entries touch are brought near before.
pub fn for_each_entry<'a, S>(
    bytes: &'a [u8],
    mut offset: usize,
    mut index: LogIndex,
    state: &mut S,
    store_of: impl Fn(&S) -> &Store,
    mut each: impl FnMut(&mut S, &Entry<'a>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let nothing = Entry { index, command: Command::new(Op::Noop), end: offset, hash: None };
    let mut ahead = [nothing; LOOKAHEAD];
    while offset < bytes.len() {
        let store = store_of(state);
        let mut count = 0;
        for slot in &mut ahead {
            if offset == bytes.len() {
                break;
            }
            let (command, end) = batch::entry_at(bytes, offset);
            let hash = match command.op {
                Op::Set { key, .. } | Op::Delete { key } => Some(store.hash(key)),
                _ => None,
            };
            *slot = Entry { index, command, end, hash };
            (offset, index) = (end, index.next());
            count += 1;
        }
        // A loop of its own, so short that the processor runs many rounds of it at once.
        for hash in ahead[..count].iter().filter_map(|entry| entry.hash) {
            store.prefetch(hash);
        }
        for entry in &ahead[..count] {
            each(state, entry)?;
        }
    }
    ControlFlow::Continue(())
}

/// Changes the state as `entry` says, whose log time is `time`.
#[inline]
pub fn apply(state: &mut State, time: LogTimeMs, entry: &Entry<'_>) -> Outcome {
    let version = entry.index;
    #[cfg(feature = "seeded-bugs")]
    if let Some(applied) = apply_oddly(state, entry) {
        return Outcome { version, applied };
    }
    match (entry.command.session, entry.command.op) {
        (Some(name), _) => apply_once(state, time, entry, name),
        (None, Op::OpenSession { window }) => {
            state.sessions.open(version, time, window);
            Outcome { version, applied: Applied::Written }
        }
        (None, _) => Outcome { version, applied: change(&mut state.store, entry) },
    }
}

/// The same for a write of a session, which may have been applied before.
fn apply_once(
    state: &mut State,
    time: LogTimeMs,
    entry: &Entry<'_>,
    name: SessionSequence,
) -> Outcome {
    let version = entry.index;
    let known = state.sessions.outcome_of(name, version, time);
    #[cfg(feature = "seeded-bugs")]
    if let Some(wrong) = apply_wrongly(state.bug, &mut state.store, entry, &known) {
        return wrong;
    }
    match known {
        Ok(known) => known.outcome().unwrap_or_else(|| {
            let applied = change(&mut state.store, entry);
            let outcome = Outcome { version, applied };
            known.note(outcome);
            outcome
        }),
        Err(applied) => Outcome { version, applied },
    }
}

/// What the bugs of one node make of a write without a session.
#[cfg(feature = "seeded-bugs")]
fn apply_oddly(state: &mut State, entry: &Entry<'_>) -> Option<Applied> {
    match (state.bug?, entry.command.op) {
        _ if entry.command.session.is_some() => None,
        (Bug::DeleteSkipped, Op::Delete { key }) => {
            Some(Applied::Deleted(u32::from(state.store.get(key).is_some())))
        }
        (Bug::DeleteSkipped, Op::DeleteMany(keys)) => {
            let there = keys.iter().filter(|key| state.store.get(key).is_some()).count();
            Some(Applied::Deleted(u32::try_from(there).expect("bounded by KEYS_PER_REQUEST_MAX")))
        }
        (Bug::VersionOff, Op::Set { key, value }) => {
            state.store.set(LogIndex(entry.index.0 - 1), key, value);
            Some(Applied::Written)
        }
        _ => None,
    }
}

/// What the bugs of these names make of a write of a session, where they do.
#[cfg(feature = "seeded-bugs")]
fn apply_wrongly(
    bug: Option<Bug>,
    store: &mut Store,
    entry: &Entry<'_>,
    known: &Result<Known<'_>, Applied>,
) -> Option<Outcome> {
    let version = entry.index;
    let first = known.as_ref().ok().and_then(Known::outcome);
    match (bug?, known, first) {
        (Bug::RetryRunsAgain, _, Some(first)) => {
            change(store, entry);
            Some(first)
        }
        (Bug::RetryTellsItself, _, Some(first)) => Some(Outcome { version, ..first }),
        (Bug::ExpiredSessionWrites, Err(Applied::SessionExpired), _)
        | (Bug::TooOldRunsAgain, Err(Applied::SequenceTooOld), _) => {
            let applied = change(store, entry);
            Some(Outcome { version, applied })
        }
        _ => None,
    }
}

/// Changes keys.
#[inline]
fn change(store: &mut Store, entry: &Entry<'_>) -> Applied {
    let index = entry.index;
    match entry.command.op {
        Op::Set { key, value } => {
            let hash = entry.hash.unwrap_or_else(|| store.hash(key));
            store.set_hashed(hash, index, key, value);
            Applied::Written
        }
        Op::Delete { key } => Applied::Deleted(u32::from(store.delete(key))),
        Op::SetMany(pairs) => {
            for (key, value) in pairs.iter() {
                store.set(index, key, value);
            }
            Applied::Written
        }
        Op::DeleteMany(keys) => {
            let deleted = keys.iter().filter(|key| store.delete(key)).count();
            Applied::Deleted(u32::try_from(deleted).expect("bounded by KEYS_PER_REQUEST_MAX"))
        }
        Op::OpenSession { .. } | Op::Noop | Op::Membership(_) => Applied::Nothing,
    }
}
