//! Small histories of one key, and what the checker must make of them.

use crate::support::history::History;
use crate::support::linearizable::STEPS_MAX;
use crate::support::register::{Action, Answer, Call, Failure, StoreHistory, check_store};

const WRITTEN: Answer = Answer::Written { version: None };
const DELETED: Answer = Answer::Deleted { existed: true, version: None };
const NOTHING_DELETED: Answer = Answer::Deleted { existed: false, version: None };

fn written(version: u64) -> Answer {
    Answer::Written { version: Some(version) }
}

fn value(value: u64) -> Answer {
    Answer::Value { value, version: None }
}

fn value_at(value: u64, version: u64) -> Answer {
    Answer::Value { value, version: Some(version) }
}

/// What happens to a client that has one call at a time. One that calls again without a return
/// never learns what became of the first call.
enum Event {
    Call(u32, Action),
    Return(u32, Answer),
    NotApplied(u32),
}

use Action::{Delete, Get, Set};
use Event::{Call as C, NotApplied as N, Return as R};

fn history(events: &[Event]) -> StoreHistory {
    let mut history = History::default();
    let mut calling = std::collections::HashMap::new();
    for event in events {
        match *event {
            C(client, action) => {
                calling.insert(client, history.call(client, Call { key: 0, action }));
            }
            R(client, answer) => history.returned(calling[&client], answer),
            N(client) => history.not_applied(calling[&client]),
        }
    }
    history
}

#[track_caller]
fn good(events: &[Event]) {
    if let Err(failure) = check_store(&history(events), STEPS_MAX) {
        panic!("{failure}");
    }
}

#[track_caller]
fn bad(events: &[Event]) -> String {
    check_store(&history(events), STEPS_MAX).expect_err("this is not linearizable").to_string()
}

#[test]
fn one_client_at_a_time() {
    good(&[]);
    good(&[
        C(1, Get),
        R(1, Answer::NotFound),
        C(1, Set(7)),
        R(1, WRITTEN),
        C(2, Get),
        R(2, value(7)),
    ]);
    good(&[
        C(1, Delete),
        R(1, NOTHING_DELETED),
        C(1, Set(7)),
        R(1, WRITTEN),
        C(1, Delete),
        R(1, DELETED),
    ]);
    bad(&[C(1, Delete), R(1, DELETED)]);
    bad(&[C(1, Set(7)), R(1, WRITTEN), C(1, Delete), R(1, NOTHING_DELETED)]);
    bad(&[C(1, Set(7)), R(1, value(7))]);
}

#[test]
fn a_stale_read() {
    let trace = bad(&[
        C(1, Set(1)),
        R(1, WRITTEN),
        C(1, Set(2)),
        R(1, WRITTEN),
        C(2, Get),
        R(2, value(1)),
        C(2, Get),
        R(2, value(2)),
    ]);
    let expected = "\
        key k0 is not linearizable: no order explains the answer marked with '>':\n  \
        \x20    1..2      client 1   SET k0 1 -> OK\n  \
        \x20    3..4      client 1   SET k0 2 -> OK\n> \
        \x20    5..6      client 2   GET k0 -> VALUE 1\n\
        what was there at the last, by any order: 2";
    assert_eq!(trace, expected);
}

#[test]
fn a_lost_update() {
    bad(&[C(1, Set(1)), R(1, WRITTEN), C(2, Get), R(2, Answer::NotFound)]);
    // Refused, and then it was there after all.
    bad(&[C(1, Set(1)), N(1), C(2, Get), R(2, value(1))]);
    good(&[C(1, Set(1)), N(1), C(2, Get), R(2, Answer::NotFound)]);
}

#[test]
fn a_value_that_nobody_wrote() {
    bad(&[C(1, Set(1)), R(1, WRITTEN), C(2, Get), R(2, value(2))]);
    // Nor before it was asked for.
    bad(&[C(2, Get), R(2, value(2)), C(1, Set(2)), R(1, WRITTEN)]);
}

#[test]
fn reads_during_a_write_may_see_it_but_not_unsee_it() {
    let write = || [C(1, Set(1)), R(1, WRITTEN), C(1, Set(2))];
    let seen = |first, second| {
        let reads = [C(2, Get), R(2, value(first)), C(3, Get), R(3, value(second))];
        write().into_iter().chain(reads).chain([R(1, WRITTEN)]).collect::<Vec<_>>()
    };
    good(&seen(1, 1));
    good(&seen(1, 2));
    good(&seen(2, 2));
    bad(&seen(2, 1));
}

#[test]
fn an_open_write_takes_effect_late_or_never_and_at_most_once() {
    let open = || vec![C(1, Set(1)), R(1, WRITTEN), C(2, Set(2))];
    let then = |more: Vec<Event>| open().into_iter().chain(more).collect::<Vec<_>>();
    good(&then(vec![C(3, Get), R(3, value(1))]));
    good(&then(vec![C(3, Get), R(3, value(2))]));
    good(&then(vec![C(3, Set(3)), R(3, WRITTEN), C(3, Get), R(3, value(2))]));
    bad(&then(vec![C(3, Get), R(3, value(2)), C(3, Get), R(3, value(1))]));
    // Twice.
    bad(&then(vec![
        C(3, Get),
        R(3, value(2)),
        C(3, Set(3)),
        R(3, WRITTEN),
        C(3, Get),
        R(3, value(2)),
    ]));
    // The second delete finds something: only an open write explains it, and only once.
    let twice = || vec![C(3, Delete), R(3, DELETED), C(3, Delete), R(3, DELETED)];
    good(&then(twice()));
    bad(&then(twice().into_iter().chain([C(3, Delete), R(3, DELETED)]).collect()));
    // Not before it was called.
    bad(&[C(3, Get), R(3, value(2)), C(2, Set(2))]);
}

#[test]
fn open_writes_that_nobody_read_cost_nothing() {
    // Two hundred of them, deletes that find something, and a stale read: there would be far too
    // many ways to try and explain it with the open writes.
    let mut events = vec![C(1, Set(1)), R(1, WRITTEN)];
    for client in 10..210 {
        events.push(C(client, Set(u64::from(client))));
    }
    events.extend([C(1, Delete), R(1, DELETED), C(1, Delete), R(1, DELETED), C(1, Get)]);
    events.push(R(1, value(1)));
    let history = history(&events);
    let failure = check_store(&history, 100_000).expect_err("1 was deleted");
    assert!(matches!(failure, Failure::Key(0, _)), "{failure}");
}

#[test]
fn a_search_that_takes_too_long_is_given_up() {
    let sets = (0..40).map(|client| C(client, Set(u64::from(client))));
    let answers = (0..40).map(|client| R(client, WRITTEN));
    let read = [C(99, Get), R(99, value(99))];
    let events: Vec<Event> = sets.chain(answers).chain(read).collect();
    let failure = check_store(&history(&events), 10_000).expect_err("99 was never written");
    assert!(matches!(failure, Failure::OutOfSteps(0, _)), "{failure}");
}

#[test]
fn versions_rise_and_belong_to_their_value() {
    let set = |version| [C(1, Set(1)), R(1, written(version))];
    let after =
        |version, more: [Event; 2]| set(version).into_iter().chain(more).collect::<Vec<_>>();
    good(&after(5, [C(2, Get), R(2, value_at(1, 5))]));
    bad(&after(5, [C(2, Get), R(2, value_at(1, 6))]));
    good(&after(5, [C(2, Set(2)), R(2, written(6))]));
    bad(&after(5, [C(2, Set(2)), R(2, written(5))]));
    bad(&after(5, [C(2, Delete), R(2, Answer::Deleted { existed: true, version: Some(4) })]));
    // An open write has some version above the last, the same for all who read it.
    let open = |first, second| {
        let reads = [C(3, Get), R(3, value_at(2, first)), C(3, Get), R(3, value_at(2, second))];
        set(5).into_iter().chain([C(2, Set(2))]).chain(reads).collect::<Vec<_>>()
    };
    good(&open(7, 7));
    bad(&open(7, 8));
    bad(&open(5, 5));
}

#[test]
fn versions_rise_through_all_keys() {
    let two_keys = |first, second| {
        let mut history = StoreHistory::default();
        for (key, version) in [(1, first), (2, second)] {
            let call = Call { key, action: Set(u64::from(key)) };
            let id = history.call(1, call);
            history.returned(id, written(version));
        }
        check_store(&history, STEPS_MAX)
    };
    assert!(two_keys(5, 6).is_ok());
    assert!(matches!(two_keys(5, 4), Err(Failure::Version { .. })));
    let at_once = |first, second| {
        let mut history = StoreHistory::default();
        let ids = [1, 2].map(|key| history.call(key, Call { key, action: Set(u64::from(key)) }));
        history.returned(ids[0], written(first));
        history.returned(ids[1], written(second));
        check_store(&history, STEPS_MAX)
    };
    assert!(at_once(6, 5).is_ok());
    assert!(matches!(at_once(5, 5), Err(Failure::Version { .. })));
}
