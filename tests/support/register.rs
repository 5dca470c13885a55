//! A store as its clients see it: a register for each key, linearizable each on its own, and
//! versions that run through all of them. Every value must be set only once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::history::{History, Moment, Operation, Outcome};
use super::linearizable::{CounterExample, Model, Verdict, check};

/// A call on one key.
#[derive(Clone, Debug)]
pub struct Call {
    pub key: u32,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Set(u64),
    Delete,
}

/// An answer. The text protocol and RESP tell no versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a set.
    Written { version: Option<u64> },
    /// To a delete, and whether the key existed.
    Deleted { existed: bool, version: Option<u64> },
    /// To a get.
    Value { value: u64, version: Option<u64> },
    /// To a get.
    NotFound,
}

impl Answer {
    fn version(self) -> Option<u64> {
        match self {
            Answer::Written { version }
            | Answer::Deleted { version, .. }
            | Answer::Value { version, .. } => version,
            Answer::NotFound => None,
        }
    }
}

/// What a store's clients saw.
pub type StoreHistory = History<Call, Answer>;

type StoreOperation = Operation<Call, Answer>;

/// Why a history is not that of a linearizable store.
#[derive(Debug)]
pub enum Failure {
    /// The operations on one key.
    Key(u32, CounterExample),
    /// It would take longer to decide this key.
    OutOfSteps(u32, Option<CounterExample>),
    /// A version was given that is not above one that was known before the call; or given twice.
    Version { write: Box<StoreOperation>, known: Box<StoreOperation> },
}

/// Checks a whole store, with at most `steps` tries for each key. Tells how many tries it took.
pub fn check_store(history: &StoreHistory, steps: u64) -> Result<u64, Failure> {
    let mut keys: BTreeMap<u32, Vec<&StoreOperation>> = BTreeMap::new();
    for operation in history.operations() {
        keys.entry(operation.call.key).or_default().push(operation);
    }
    let mut taken = 0;
    for (key, operations) in keys {
        let (verdict, steps) = check_key(&operations, steps);
        match verdict {
            Verdict::Linearizable => taken += steps,
            Verdict::NotLinearizable(example) => return Err(Failure::Key(key, example)),
            Verdict::OutOfSteps(place) => return Err(Failure::OutOfSteps(key, place)),
        }
    }
    check_versions(history)?;
    Ok(taken)
}

/// Checks the operations on one key. Also tells how many tries it took.
///
/// What can be said beforehand spares the search its most expensive guesses: a get without an
/// answer matters to nobody, and a set without an answer whose value somebody read did take effect,
/// before that read returned.
pub fn check_key(operations: &[&StoreOperation], steps: u64) -> (Verdict, u64) {
    let mut first_seen: HashMap<u64, Moment> = HashMap::new();
    for operation in operations {
        if let Outcome::Returned(at, Answer::Value { value, .. }) = operation.outcome {
            let first = first_seen.entry(value).or_insert(at);
            *first = at.min(*first);
        }
    }
    let mut values = HashSet::new();
    let told: Vec<StoreOperation> = operations
        .iter()
        .map(|&operation| {
            let mut operation = operation.clone();
            let is_open = matches!(operation.outcome, Outcome::Open);
            if is_open && operation.call.action == Action::Get {
                operation.outcome = Outcome::NotApplied;
            }
            if let Action::Set(value) = operation.call.action {
                assert!(values.insert(value), "{value} is set twice");
                let seen = first_seen.get(&value).filter(|seen| **seen > operation.called_at);
                if let (true, Some(seen)) = (is_open, seen) {
                    operation.outcome = Outcome::Seen(*seen);
                }
            }
            operation
        })
        .collect();
    check(&Register, &told.iter().collect::<Vec<_>>(), steps)
}

/// Versions are positions in the one log. So a write, on whatever key, gets a higher one than all
/// that anybody was told before it was called, and one that nobody else gets.
fn check_versions(history: &StoreHistory) -> Result<(), Failure> {
    let mut told: Vec<(Moment, u64, &StoreOperation)> = Vec::new();
    for operation in history.operations() {
        if let Outcome::Returned(at, answer) = operation.outcome {
            told.extend(answer.version().map(|version| (at, version, operation)));
        }
    }
    told.sort_unstable_by_key(|(at, _, _)| *at);
    let mut writes: Vec<_> =
        told.iter().filter(|(_, _, operation)| operation.call.action != Action::Get).collect();
    let failure = |write: &StoreOperation, known: &StoreOperation| Failure::Version {
        write: Box::new(write.clone()),
        known: Box::new(known.clone()),
    };
    writes.sort_unstable_by_key(|(_, _, write)| write.called_at);
    let mut unknown = told.iter().peekable();
    let mut highest: Option<(u64, &StoreOperation)> = None;
    for &&(_, version, write) in &writes {
        while let Some((_, known, by)) = unknown.next_if(|(at, _, _)| *at < write.called_at) {
            if highest.is_none_or(|(highest, _)| highest < *known) {
                highest = Some((*known, by));
            }
        }
        if let Some((_, by)) = highest.filter(|(highest, _)| *highest >= version) {
            return Err(failure(write, by));
        }
    }
    writes.sort_unstable_by_key(|(_, version, _)| *version);
    match writes.windows(2).find(|pair| pair[0].1 == pair[1].1) {
        Some(pair) => Err(failure(pair[1].2, pair[0].2)),
        None => Ok(()),
    }
}

/// One key, when no open set was seen by anybody.
pub struct Register;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    value: Option<u64>,
    version: Version,
}

/// What is known of the version of a key: it only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Version {
    Is(u64),
    /// The last change told none.
    IsAbove(u64),
}

impl Version {
    /// The version after a change that told this one; `None` when it can not be.
    fn change(self, told: Option<u64>) -> Option<Version> {
        let (Version::Is(floor) | Version::IsAbove(floor)) = self;
        match told {
            None => Some(Version::IsAbove(floor)),
            Some(version) => (version > floor).then_some(Version::Is(version)),
        }
    }

    /// The version as a read told it; `None` when it can not be.
    fn read(self, told: Option<u64>) -> Option<Version> {
        let Some(told) = told else { return Some(self) };
        let fits = match self {
            Version::Is(version) => version == told,
            Version::IsAbove(floor) => told > floor,
        };
        fits.then_some(Version::Is(told))
    }
}

impl Model for Register {
    type State = Held;
    type Call = Call;
    type Return = Answer;

    fn initial(&self) -> Held {
        Held { value: None, version: Version::IsAbove(0) }
    }

    fn step(&self, held: &Held, call: &Call, answer: Option<&Answer>) -> Option<Held> {
        let Held { value: there, version } = *held;
        let (value, version) = match (call.action, answer) {
            (Action::Get, None) => return Some(held.clone()),
            (Action::Get, Some(Answer::NotFound)) if there.is_none() => return Some(held.clone()),
            (Action::Get, Some(Answer::Value { value, version: told })) => {
                let is_there = there == Some(*value);
                (there, version.read(*told).filter(|_| is_there)?)
            }
            (Action::Set(value), None) => (Some(value), version.change(None)?),
            (Action::Set(value), Some(Answer::Written { version: told })) => {
                (Some(value), version.change(*told)?)
            }
            (Action::Delete, None) => (None, version.change(None)?),
            (Action::Delete, Some(Answer::Deleted { existed, version: told })) => {
                (None, version.change(*told).filter(|_| *existed == there.is_some())?)
            }
            _ => return None,
        };
        Some(Held { value, version })
    }

    fn are_twins(&self, one: &Call, other: &Call) -> bool {
        match (one.action, other.action) {
            (Action::Set(_), Action::Set(_)) => true,
            (one, other) => one == other,
        }
    }

    fn is_read(&self, call: &Call, answer: &Answer) -> bool {
        call.action == Action::Get || matches!(answer, Answer::Deleted { existed: false, .. })
    }

    fn rank(&self, answer: &Answer) -> Option<u64> {
        answer.version()
    }

    fn is_source(&self, call: &Call, answer: &Answer) -> bool {
        matches!((call.action, answer),
            (Action::Set(set), Answer::Value { value, .. }) if set == *value)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match self.action {
            Action::Get => write!(f, "GET k{key}"),
            Action::Set(value) => write!(f, "SET k{key} {value}"),
            Action::Delete => write!(f, "DELETE k{key}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Written { .. } | Answer::Deleted { existed: true, .. } => f.write_str("OK")?,
            Answer::Value { value, .. } => write!(f, "VALUE {value}")?,
            Answer::NotFound | Answer::Deleted { existed: false, .. } => {
                f.write_str("NOT_FOUND")?
            }
        }
        match self.version() {
            Some(version) => write!(f, " (version {version})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "{value}")?,
            None => f.write_str("nothing")?,
        }
        match self.version {
            Version::Is(version) => write!(f, " (version {version})"),
            Version::IsAbove(0) => Ok(()),
            Version::IsAbove(floor) => write!(f, " (version above {floor})"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Key(key, example) => write!(f, "key k{key} is not linearizable: {example}"),
            Failure::OutOfSteps(key, place) => {
                write!(f, "key k{key} takes too many steps to decide")?;
                place.iter().try_for_each(|place| write!(f, "; so far, {place}"))
            }
            Failure::Version { write, known } => {
                write!(f, "this version was known or taken already:\n  {known}\n> {write}")
            }
        }
    }
}
