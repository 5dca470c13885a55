//! What clients asked and were told, in the order in which it happened.

use std::fmt;

/// A moment: how many events came before it.
pub type Moment = u64;

/// Names an operation in its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(usize);

/// A call, and what is known of its outcome.
#[derive(Clone, Debug)]
pub struct Operation<C, R> {
    /// Who called; for people who read a trace.
    pub client: u32,
    pub call: C,
    pub called_at: Moment,
    pub outcome: Outcome<R>,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub enum Outcome<R> {
    /// No answer, or one that leaves it open: it may take effect at any time after the call, the
    /// far future included, or never.
    Open,
    /// It took effect between the call and this moment, with this answer.
    Returned(Moment, R),
    /// No answer, but its effect was seen by somebody who returned at this moment.
    Seen(Moment),
    /// It was refused, with the promise that it never takes effect.
    NotApplied,
}

impl<C, R> Operation<C, R> {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&R> {
        match &self.outcome {
            Outcome::Returned(_, answer) => Some(answer),
            Outcome::Seen(_) | Outcome::Open | Outcome::NotApplied => None,
        }
    }

    /// When it had taken effect at the latest; `None` if it may never have.
    pub fn settled_at(&self) -> Option<Moment> {
        match self.outcome {
            Outcome::Returned(at, _) | Outcome::Seen(at) => Some(at),
            Outcome::Open | Outcome::NotApplied => None,
        }
    }
}

/// Operations in the order of their calls.
#[derive(Debug)]
pub struct History<C, R> {
    operations: Vec<Operation<C, R>>,
    now: Moment,
    returned: usize,
}

impl<C, R> Default for History<C, R> {
    fn default() -> History<C, R> {
        History { operations: Vec::new(), now: 0, returned: 0 }
    }
}

impl<C: fmt::Debug, R: fmt::Debug> History<C, R> {
    /// A call begins; to be noted before anything is sent.
    pub fn call(&mut self, client: u32, call: C) -> OperationId {
        let called_at = self.tick();
        self.operations.push(Operation { client, call, called_at, outcome: Outcome::Open });
        OperationId(self.operations.len() - 1)
    }

    /// A call has returned; to be noted after the answer was received. A call without this, or the
    /// next, stays open.
    pub fn returned(&mut self, id: OperationId, answer: R) {
        let at = self.tick();
        self.settle(id, Outcome::Returned(at, answer));
        self.returned += 1;
    }

    /// A call was refused and will never take effect.
    pub fn not_applied(&mut self, id: OperationId) {
        self.settle(id, Outcome::NotApplied);
    }

    /// All operations, in the order of their calls.
    pub fn operations(&self) -> &[Operation<C, R>] {
        &self.operations
    }

    /// How many calls have returned.
    pub fn returned_count(&self) -> usize {
        self.returned
    }

    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn settle(&mut self, id: OperationId, outcome: Outcome<R>) {
        let operation = &mut self.operations[id.0];
        assert!(matches!(operation.outcome, Outcome::Open), "it is settled: {operation:?}");
        operation.outcome = outcome;
    }
}
