//! The checker against one without any cleverness, on random histories of a few operations.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::jepsen_etcd::{self, CasRegister};
use crate::support::history::{History, Operation, Outcome};
use crate::support::linearizable::{Model, STEPS_MAX, Verdict, check};
use crate::support::register::{Action, Answer, Call, Register, check_key};

type Op<M> = Operation<<M as Model>::Call, <M as Model>::Return>;

/// Tries all orders.
fn has_an_order<M: Model>(model: &M, operations: &[&Op<M>]) -> bool {
    fn search<M: Model>(model: &M, state: &M::State, left: &[&Op<M>]) -> bool {
        let Some(first_return) = left.iter().filter_map(|op| op.settled_at()).min() else {
            return true;
        };
        (0..left.len()).any(|position| {
            let operation = left[position];
            operation.called_at < first_return
                && model.step(state, &operation.call, operation.answer()).is_some_and(|state| {
                    let mut left = left.to_vec();
                    left.remove(position);
                    search(model, &state, &left)
                })
        })
    }
    search(model, &model.initial(), operations)
}

/// Compares a verdict with the truth. A counter-example must be one, and end where it becomes one.
fn compare<M>(model: &M, operations: &[&Op<M>], verdict: &Verdict) -> TestCaseResult
where
    M: Model,
    M::Call: Clone,
    M::Return: Clone,
{
    let expected = has_an_order(model, operations);
    prop_assert_eq!(matches!(verdict, Verdict::Linearizable), expected, "{:?}", verdict);
    if let Verdict::NotLinearizable(example) = verdict {
        let end = operations[example.unexplained].settled_at().expect("it has returned");
        let before = |operation: &&&Op<M>| operation.called_at < end;
        let prefix: Vec<_> = operations.iter().filter(before).copied().collect();
        prop_assert!(!has_an_order(model, &prefix));
        let cut: Vec<_> = prefix.iter().map(|operation| as_it_stood(operation, end)).collect();
        prop_assert!(has_an_order(model, &cut.iter().collect::<Vec<_>>()));
    }
    Ok(())
}

/// The operation just before this moment.
fn as_it_stood<C: Clone, R: Clone>(operation: &Operation<C, R>, end: u64) -> Operation<C, R> {
    let outcome = match operation.outcome.clone() {
        Outcome::Returned(at, _) if at >= end => Outcome::Open,
        outcome => outcome,
    };
    Operation { outcome, ..operation.clone() }
}

/// An event of a random history.
#[derive(Clone, Debug)]
struct Event {
    client: usize,
    /// Steers which call is made, or whether the client gives up the call that it has made.
    kind: u8,
    /// Steers the values.
    number: u8,
    /// Steers the version.
    version: u8,
}

/// Up to some ten operations of four clients.
fn random_events() -> impl Strategy<Value = Vec<Event>> {
    let event = (0..4_usize, 0..6_u8, 0..5_u8, 0..8_u8);
    let event =
        event.prop_map(|(client, kind, number, version)| Event { client, kind, number, version });
    prop::collection::vec(event, 1..22)
}

/// A client that has called returns with its next event, or never.
fn random_history<C: Clone + std::fmt::Debug, R: std::fmt::Debug>(
    events: &[Event],
    call: impl Fn(&Event, usize) -> C,
    answer: impl Fn(&Event, &C) -> R,
) -> History<C, R> {
    let mut history = History::default();
    let mut calling = [const { None }; 4];
    for event in events {
        let slot = &mut calling[event.client];
        match slot.take() {
            None => {
                let call = call(event, history.operations().len());
                *slot = Some((history.call(0, call.clone()), call));
            }
            Some(_) if event.kind >= 4 => {}
            Some((id, call)) => history.returned(id, answer(event, &call)),
        }
    }
    history
}

/// Values are set once: they are positions in the history.
fn store_call(event: &Event, position: usize) -> Call {
    let action = match event.kind {
        0..=2 => Action::Get,
        3 | 4 => Action::Set(position as u64),
        _ => Action::Delete,
    };
    Call { key: 0, action }
}

/// Often nearly right.
fn store_answer(event: &Event, call: &Call) -> Answer {
    let version = (event.version < 6).then_some(u64::from(event.version));
    match call.action {
        Action::Get if event.number == 4 => Answer::NotFound,
        Action::Get => Answer::Value { value: u64::from(event.number), version },
        Action::Set(_) => Answer::Written { version },
        Action::Delete => Answer::Deleted { existed: event.number > 2, version },
    }
}

/// Few values, so that they come again and again.
fn cas_call(event: &Event, _: usize) -> jepsen_etcd::Call {
    let number = u32::from(event.number) % 2;
    match event.kind {
        0 | 1 => jepsen_etcd::Call::Read,
        2 | 3 => jepsen_etcd::Call::Write(number),
        _ => jepsen_etcd::Call::Cas(number, u32::from(event.version) % 3),
    }
}

fn cas_answer(event: &Event, call: &jepsen_etcd::Call) -> jepsen_etcd::Answer {
    match call {
        jepsen_etcd::Call::Read => {
            jepsen_etcd::Answer::Value((event.number < 4).then_some(u32::from(event.number) % 3))
        }
        jepsen_etcd::Call::Write(_) => jepsen_etcd::Answer::Written,
        jepsen_etcd::Call::Cas(..) => jepsen_etcd::Answer::Swapped(event.number < 3),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_key_is_judged_as_by_trying_all_orders(events in random_events()) {
        let history = random_history(&events, store_call, store_answer);
        let operations: Vec<_> = history.operations().iter().collect();
        let (verdict, _) = check_key(&operations, STEPS_MAX);
        compare(&Register, &operations, &verdict)?;
    }

    #[test]
    fn a_cas_register_is_judged_as_by_trying_all_orders(events in random_events()) {
        let history = random_history(&events, cas_call, cas_answer);
        let operations: Vec<_> = history.operations().iter().collect();
        let (verdict, _) = check(&CasRegister, &operations, STEPS_MAX);
        compare(&CasRegister, &operations, &verdict)?;
    }
}
