//! Whether a history is linearizable: whether each operation can be given one moment between its
//! call and its return so that, in the order of these moments, every answer is right (Herlihy and
//! Wing, "Linearizability: a correctness condition for concurrent objects", 1990).
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the
//! memory of Lowe ("Testing for linearizability", 2017): depth first over the orders, never twice
//! the same set of operations with the same state, nor more open ones for the same. Objects
//! compose, so a caller checks one object at a time and each search stays small.
//!
//! An operation whose outcome is open may come anywhere after its call, or not at all. Since every
//! one of them would double the work, the search takes an open operation only when the next one
//! would go differently without it, and only the first of several that nobody can tell apart. And
//! a read that is right at once is taken at once. That loses nothing: from an order that breaks
//! these rules, leave the open operation out, take the earlier twin for the later, move the read to
//! the front, and the order is still right.
//!
//! CAVEAT. The memory holds 64-bit hashes. With a million of them, the odds that two collide
//! anywhere are about 1 in 37 million; a collision could only turn a good history into a bad one.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::vec::IntoIter;

use super::history::{Moment, Operation, Outcome};

/// Far more than any history of our tests takes; the memory stays under about 100 MB.
pub const STEPS_MAX: u64 = 1_000_000;

/// What one object does when one client at a time uses it.
pub trait Model {
    type State: Clone + Eq + std::hash::Hash + fmt::Display;
    type Call: fmt::Display;
    type Return: fmt::Display;

    /// The state before the first call.
    fn initial(&self) -> Self::State;

    /// The state after a call that is answered like this, or `None` when that is no right answer in
    /// this state. A call that was not answered does what it does, whatever the answer.
    fn step(
        &self,
        state: &Self::State,
        call: &Self::Call,
        answer: Option<&Self::Return>,
    ) -> Option<Self::State>;

    /// Whether it makes no difference to anybody which of two calls, both with an open outcome, has
    /// taken effect.
    fn are_twins(&self, one: &Self::Call, other: &Self::Call) -> bool;

    /// Whether a call with this answer changes nothing, in whatever state it is right.
    fn is_read(&self, call: &Self::Call, answer: &Self::Return) -> bool;

    /// A number that never falls along a right order, if the answer tells one.
    fn rank(&self, answer: &Self::Return) -> Option<u64>;

    /// Whether this call may be where the answer comes from; for people who read a trace.
    fn is_source(&self, call: &Self::Call, answer: &Self::Return) -> bool;
}

type Op<M> = Operation<<M as Model>::Call, <M as Model>::Return>;

/// What the search has found.
#[derive(Debug)]
pub enum Verdict {
    Linearizable,
    NotLinearizable(CounterExample),
    /// It was not decided in so many steps. If it is not linearizable, then most likely because of
    /// the place that no order has passed so far.
    OutOfSteps(Option<CounterExample>),
}

/// Where every order of the operations ends.
#[derive(Debug)]
pub struct CounterExample {
    /// The position of the operation that no order explains: all that was called before it
    /// returned is a counter-example, and what had happened just before it returned is none.
    pub unexplained: usize,
    /// For people.
    trace: String,
}

impl fmt::Display for CounterExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.trace)
    }
}

/// Searches for an order of these operations, which are in the order of their calls, with at most
/// `steps` tries. Also tells how many tries it took.
pub fn check<M: Model>(model: &M, operations: &[&Op<M>], steps: u64) -> (Verdict, u64) {
    let mut search = Search::new(model, operations, steps);
    let verdict = search.run();
    (verdict, steps - search.steps_left)
}

/// A call or a return in the list of those that are not in the order yet.
#[derive(Clone, Copy)]
struct Event {
    at: Moment,
    operation: usize,
    is_return: bool,
}

/// How far an order has come.
struct Point<S> {
    state: S,
    /// The state without the operation before, when that one is open: the next has to tell.
    without: Option<S>,
    /// A hash of the set of operations in the order, but for the open ones.
    settled: u64,
    /// The open operations in the order, as bits.
    open: Vec<u64>,
}

/// A decision that can be taken back.
struct Choice<S> {
    operation: usize,
    from: Point<S>,
    /// What to try instead.
    others: IntoIter<usize>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    operations: &'a [&'a Op<M>],
    /// By time; the links below run through those that are not in the order, from the extra
    /// position at the end and back to it.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The positions in `events` of each operation's call and return.
    places: Vec<(usize, usize)>,
    /// The open operations, by their calls, each with its twin before it.
    open: Vec<(usize, Option<usize>)>,
    /// For each operation, the number of open ones before it.
    open_before: Vec<usize>,
    /// Whether the operation is in the order; used for open ones.
    is_taken: Vec<bool>,
    returns_left: usize,
    choices: Vec<Choice<M::State>>,
    /// The hashes of all points but for their open operations, and the smallest sets of these.
    seen: HashMap<u64, Vec<Vec<u64>>>,
    steps_left: u64,
    /// The furthest that any order has come: the operation whose return is next, and some of the
    /// states there.
    furthest: Option<(Moment, usize, Vec<M::State>)>,
}

/// How many states a trace shows.
const STATES_SHOWN: usize = 8;

/// How many operations a trace shows.
const OPERATIONS_SHOWN: usize = 24;

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &'a [&'a Op<M>], steps: u64) -> Search<'a, M> {
        let mut events = Vec::new();
        let mut open: Vec<(usize, Option<usize>)> = Vec::new();
        let mut open_before = Vec::new();
        for (position, operation) in operations.iter().enumerate() {
            open_before.push(open.len());
            let event = |at, is_return| Event { at, operation: position, is_return };
            match operation.outcome {
                Outcome::Returned(at, _) | Outcome::Seen(at) => {
                    events.extend([event(operation.called_at, false), event(at, true)]);
                }
                Outcome::Open => {
                    let is_twin =
                        |&other: &usize| model.are_twins(&operations[other].call, &operation.call);
                    let twin = open.iter().map(|(other, _)| *other).rev().find(is_twin);
                    open.push((position, twin));
                }
                Outcome::NotApplied => {}
            }
        }
        events.sort_unstable_by_key(|event| event.at);
        let mut places = vec![(0, 0); operations.len()];
        for (place, event) in events.iter().enumerate() {
            let (call, returned) = &mut places[event.operation];
            *(if event.is_return { returned } else { call }) = place;
        }
        let links = events.len() + 1;
        Search {
            model,
            operations,
            next: (0..links).map(|place| (place + 1) % links).collect(),
            previous: (0..links).map(|place| (place + links - 1) % links).collect(),
            returns_left: events.len() / 2,
            events,
            places,
            open,
            open_before,
            is_taken: vec![false; operations.len()],
            choices: Vec::new(),
            seen: HashMap::new(),
            steps_left: steps,
            furthest: None,
        }
    }

    fn run(&mut self) -> Verdict {
        let state = self.model.initial();
        let mut point = Point { state, without: None, settled: 0, open: Vec::new() };
        let mut candidates = self.candidates(&point.state);
        while self.returns_left > 0 {
            let Some(operation) = candidates.next() else {
                self.note_dead_end(&point);
                let Some(choice) = self.choices.pop() else {
                    return Verdict::NotLinearizable(self.counter_example());
                };
                self.put_back(choice.operation);
                (point, candidates) = (choice.from, choice.others);
                continue;
            };
            if self.steps_left == 0 {
                let furthest = self.furthest.is_some().then(|| self.counter_example());
                return Verdict::OutOfSteps(furthest);
            }
            self.steps_left -= 1;
            if let Some(to) = self.step(&point, operation).filter(|to| self.is_new(to)) {
                let from = std::mem::replace(&mut point, to);
                self.take(operation);
                let others = std::mem::replace(&mut candidates, self.candidates(&point.state));
                self.choices.push(Choice { operation, from, others });
            }
        }
        Verdict::Linearizable
    }

    /// What is to be tried next in the order, of all that was called before anything else returned:
    /// first what returned first, which is the most likely, and at last what is open.
    fn candidates(&self, state: &M::State) -> IntoIter<usize> {
        let mut candidates = Vec::new();
        let mut place = self.next[self.events.len()];
        let first_return = loop {
            // Past the last event: nothing is left to be put in order.
            let Some(event) = self.events.get(place) else { return candidates.into_iter() };
            if event.is_return {
                break event.at;
            }
            if self.is_right_read(state, event.operation) {
                return vec![event.operation].into_iter();
            }
            candidates.push(event.operation);
            place = self.next[place];
        };
        let rank = |&candidate: &usize| {
            self.operations[candidate].answer().and_then(|answer| self.model.rank(answer))
        };
        if let Some(lowest) = candidates.iter().filter_map(rank).min() {
            candidates.retain(|candidate| rank(candidate).is_none_or(|rank| rank == lowest));
        }
        candidates.sort_unstable_by_key(|&candidate| self.operations[candidate].settled_at());
        let open = self
            .open
            .iter()
            .take_while(|(operation, _)| self.operations[*operation].called_at < first_return);
        candidates.extend(open.filter_map(|&(operation, twin)| {
            let is_first_twin = twin.is_none_or(|twin| self.is_taken[twin]);
            (is_first_twin && !self.is_taken[operation]).then_some(operation)
        }));
        candidates.into_iter()
    }

    fn is_right_read(&self, state: &M::State, position: usize) -> bool {
        let Operation { call, .. } = self.operations[position];
        let answer = self.operations[position].answer();
        answer.is_some_and(|answer| self.model.is_read(call, answer))
            && self.model.step(state, call, answer).is_some_and(|after| after == *state)
    }

    /// Where the order comes with this operation next, if it is right there and needed.
    fn step(&self, from: &Point<M::State>, position: usize) -> Option<Point<M::State>> {
        let operation = self.operations[position];
        let answer = operation.answer();
        let state = self.model.step(&from.state, &operation.call, answer)?;
        if let Some(without) = &from.without {
            let same = self.model.step(without, &operation.call, answer);
            if same.is_some_and(|same| same == state) {
                return None;
            }
        }
        let is_open = operation.settled_at().is_none();
        if is_open && state == from.state {
            return None;
        }
        if !is_open {
            let settled = from.settled ^ hash_of_member(position);
            return Some(Point { state, without: None, settled, open: from.open.clone() });
        }
        let mut open = from.open.clone();
        let bit = self.open_before[position];
        open.resize(open.len().max(bit / 64 + 1), 0);
        open[bit / 64] |= 1 << (bit % 64);
        Some(Point { state, without: Some(from.state.clone()), settled: from.settled, open })
    }

    /// Whether nothing that was seen leads wherever this does; then it is seen.
    fn is_new(&mut self, point: &Point<M::State>) -> bool {
        let seen = self.seen.entry(hash(point)).or_default();
        if seen.iter().any(|seen| is_subset(seen, &point.open)) {
            return false;
        }
        seen.retain(|seen| !is_subset(&point.open, seen));
        seen.push(point.open.clone());
        true
    }

    fn take(&mut self, operation: usize) {
        self.is_taken[operation] = true;
        if self.operations[operation].settled_at().is_some() {
            let (call, returned) = self.places[operation];
            for place in [call, returned] {
                let (previous, next) = (self.previous[place], self.next[place]);
                self.next[previous] = next;
                self.previous[next] = previous;
            }
            self.returns_left -= 1;
        }
    }

    /// The reverse of `take`, in the reverse order.
    fn put_back(&mut self, operation: usize) {
        self.is_taken[operation] = false;
        if self.operations[operation].settled_at().is_some() {
            let (call, returned) = self.places[operation];
            for place in [returned, call] {
                self.next[self.previous[place]] = place;
                self.previous[self.next[place]] = place;
            }
            self.returns_left += 1;
        }
    }

    fn note_dead_end(&mut self, point: &Point<M::State>) {
        if point.without.is_some() {
            return;
        }
        let mut place = self.next[self.events.len()];
        while !self.events[place].is_return {
            place = self.next[place];
        }
        let Event { at, operation, .. } = self.events[place];
        match &mut self.furthest {
            Some((furthest, _, states)) if *furthest == at => {
                if states.len() < STATES_SHOWN && !states.contains(&point.state) {
                    states.push(point.state.clone());
                }
            }
            Some((furthest, _, _)) if *furthest > at => {}
            _ => self.furthest = Some((at, operation, vec![point.state.clone()])),
        }
    }

    fn counter_example(&self) -> CounterExample {
        let (end, unexplained, states) =
            self.furthest.as_ref().expect("a search fails at a return");
        let culprit = self.operations[*unexplained];
        // In flight at the end, or what returned last before it, or where the answer comes from.
        let mut around: Vec<usize> = (0..self.operations.len())
            .filter(|&position| {
                let operation = self.operations[position];
                operation.called_at < *end && !matches!(operation.outcome, Outcome::NotApplied)
            })
            .collect();
        let in_all = around.len();
        around.sort_by_key(|&position| {
            let operation = self.operations[position];
            let is_source = culprit
                .answer()
                .is_some_and(|answer| self.model.is_source(&operation.call, answer));
            let last_heard_of = operation.settled_at().unwrap_or(operation.called_at);
            let age = end.saturating_sub(last_heard_of);
            (!is_source && position != *unexplained, age)
        });
        around.truncate(OPERATIONS_SHOWN);
        around.sort_unstable();
        let mut trace = String::from("no order explains the answer marked with '>':\n");
        for &position in &around {
            let mark = if position == *unexplained { '>' } else { ' ' };
            trace.push_str(&format!("{mark} {}\n", self.operations[position]));
        }
        if around.len() < in_all {
            let hidden = in_all - around.len();
            trace.push_str(&format!("  ({hidden} operations further away are not shown)\n"));
        }
        let states: Vec<String> = states.iter().map(|state| state.to_string()).collect();
        trace.push_str(&format!("what was there at the last, by any order: {}", states.join("; ")));
        CounterExample { unexplained: *unexplained, trace }
    }
}

/// One line of a trace.
impl<C: fmt::Display, R: fmt::Display> fmt::Display for Operation<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, call, called_at, outcome } = self;
        match outcome {
            Outcome::Returned(at, answer) => {
                write!(f, "{called_at:>6}..{at:<6} client {client:<3} {call} -> {answer}")
            }
            Outcome::Seen(at) => {
                write!(f, "{called_at:>6}..?{at:<5} client {client:<3} {call} (seen by others)")
            }
            Outcome::Open => write!(f, "{called_at:>6}..?      client {client:<3} {call}"),
            Outcome::NotApplied => {
                write!(f, "{called_at:>6}..-      client {client:<3} {call} -> not applied")
            }
        }
    }
}

/// Sets are hashed as the exclusive or of their members' hashes (Zobrist).
fn hash_of_member(position: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    position.hash(&mut hasher);
    hasher.finish()
}

fn is_subset(one: &[u64], other: &[u64]) -> bool {
    let other = other.iter().copied().chain(std::iter::repeat(0));
    one.iter().zip(other).all(|(one, other)| one & !other == 0)
}

/// `without` does not count: what it forbids at one point is reached from the point before, with
/// one open operation less.
fn hash<S: std::hash::Hash>(point: &Point<S>) -> u64 {
    let mut hasher = DefaultHasher::new();
    point.settled.hash(&mut hasher);
    point.state.hash(&mut hasher);
    hasher.finish()
}
