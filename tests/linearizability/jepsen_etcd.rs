//! Histories of etcd under Jepsen, a compare-and-set register each, with the verdicts of others:
//! Knossos and the checker of Horn and Kroening ("Faster linearizability checking via
//! P-compositionality", 2015). They come in the package of the crate `todc-utils` (MIT licence).

use std::collections::HashMap;
use std::fmt;

use crate::support::history::History;
use crate::support::linearizable::{Model, STEPS_MAX, Verdict, check};
use crate::support::package::package;

/// A register of etcd.
pub struct CasRegister;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write(u32),
    /// Replaces the first by the second.
    Cas(u32, u32),
}

#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Value(Option<u32>),
    Written,
    /// Whether the first value was there.
    Swapped(bool),
}

/// What is there; displayed in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held(Option<u32>);

impl Model for CasRegister {
    type State = Held;
    type Call = Call;
    type Return = Answer;

    fn initial(&self) -> Held {
        Held(None)
    }

    fn step(&self, held: &Held, call: &Call, answer: Option<&Answer>) -> Option<Held> {
        match (*call, answer) {
            (Call::Read, None) => Some(*held),
            (Call::Read, Some(Answer::Value(value))) => (held.0 == *value).then_some(*held),
            (Call::Write(value), None | Some(Answer::Written)) => Some(Held(Some(value))),
            (Call::Cas(from, to), answer) => {
                let is_there = held.0 == Some(from);
                let is_right = match answer {
                    None => true,
                    Some(Answer::Swapped(swapped)) => *swapped == is_there,
                    Some(_) => false,
                };
                is_right.then_some(if is_there { Held(Some(to)) } else { *held })
            }
            _ => None,
        }
    }

    fn are_twins(&self, one: &Call, other: &Call) -> bool {
        one == other
    }

    fn is_read(&self, call: &Call, answer: &Answer) -> bool {
        *call == Call::Read || matches!(answer, Answer::Swapped(false))
    }

    fn rank(&self, _: &Answer) -> Option<u64> {
        None
    }

    fn is_source(&self, call: &Call, answer: &Answer) -> bool {
        let (Call::Write(set) | Call::Cas(_, set)) = *call else { return false };
        matches!(answer, Answer::Value(Some(value)) if *value == set)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The history in a log of Jepsen, from lines like `INFO jepsen.util - 3 :invoke :cas [1 4]`.
fn read_log(log: &str) -> History<Call, Answer> {
    let mut history = History::default();
    let mut calling = HashMap::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "jepsen.util", _, process, kind, function, arguments @ ..] = &words[..] else {
            continue;
        };
        // The rest are the words of the nemesis.
        let Ok(process) = process.parse::<u32>() else { continue };
        let number = |position: usize| -> u32 {
            let word: &str = arguments[position];
            word.trim_matches(['[', ']']).parse().expect("a number")
        };
        if *kind == ":invoke" {
            let call = match *function {
                ":read" => Call::Read,
                ":write" => Call::Write(number(0)),
                ":cas" => Call::Cas(number(0), number(1)),
                other => panic!("what is {other}?"),
            };
            calling.insert(process, history.call(process, call));
            continue;
        }
        let id = calling.remove(&process).expect("an answer to a call");
        match (*kind, *function) {
            (":ok", ":read") if arguments[0] == "nil" => {
                history.returned(id, Answer::Value(None));
            }
            (":ok", ":read") => history.returned(id, Answer::Value(Some(number(0)))),
            (":ok", ":write") => history.returned(id, Answer::Written),
            (":ok", ":cas") => history.returned(id, Answer::Swapped(true)),
            (":fail", ":cas") => history.returned(id, Answer::Swapped(false)),
            // A read that timed out.
            (":fail", ":read") => history.not_applied(id),
            (":info", _) => {}
            _ => panic!("what is this: {line}"),
        }
    }
    history
}

/// The verdicts, from lines like `test_000: ("000", false),`.
fn verdicts(source: &str) -> Vec<(&str, bool)> {
    let lines = source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines
        .filter_map(|line| {
            let (_, pair) = line.split_once(": (\"")?;
            let (number, verdict) = pair.strip_suffix("),")?.split_once("\", ")?;
            Some((number, verdict.parse().expect("true or false")))
        })
        .collect()
}

#[test]
fn judges_etcd_as_others_do() {
    let folder = package("todc-utils").join("tests/linearizability");
    let source = std::fs::read_to_string(folder.join("etcd.rs")).expect("the verdicts");
    let verdicts = verdicts(&source);
    let good = verdicts.iter().filter(|(_, is_linearizable)| *is_linearizable).count();
    assert_eq!((verdicts.len(), good), (102, 23), "not the package that is known");
    let mut most_steps = 0;
    for (number, is_linearizable) in verdicts {
        let path = folder.join(format!("etcd/etcd_{number}.log"));
        let history = read_log(&std::fs::read_to_string(path).expect("a log"));
        assert!(history.returned_count() > 10, "log {number} has hardly a history");
        let operations: Vec<_> = history.operations().iter().collect();
        let (verdict, steps) = check(&CasRegister, &operations, STEPS_MAX);
        most_steps = most_steps.max(steps);
        match verdict {
            Verdict::Linearizable => assert!(is_linearizable, "log {number} was called good"),
            Verdict::NotLinearizable(example) => {
                assert!(!is_linearizable, "log {number} was called bad: {example}");
            }
            Verdict::OutOfSteps(_) => panic!("log {number} takes too many steps"),
        }
    }
    println!("at most {most_steps} steps for a history");
}
