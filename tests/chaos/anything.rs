//! Whatever may happen, in any order, several things at a time; and a proof that the verdict would
//! notice.

use std::panic::catch_unwind;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::proxy::Fault;
use crate::trial::{Plan, Trial, Wires};

/// How often something happens in one run.
const EVENTS: usize = 25;

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    Kill,
    Start,
    Pause,
    Resume,
    CutOneWay,
    CutBothWays,
    Delay,
    Corrupt,
    BlackHole,
    SlowDrain,
    HalfClose,
    Heal,
}

const EVERYTHING: [Event; 12] = [
    Event::Kill,
    Event::Start,
    Event::Pause,
    Event::Resume,
    Event::CutOneWay,
    Event::CutBothWays,
    Event::Delay,
    Event::Corrupt,
    Event::BlackHole,
    Event::SlowDrain,
    Event::HalfClose,
    Event::Heal,
];

/// What state the nodes are in.
struct Nodes {
    running: Vec<usize>,
    paused: Vec<usize>,
    dead: Vec<usize>,
}

impl Nodes {
    /// A minority may be away at the same time.
    fn may_lose_one(&self) -> bool {
        self.paused.len() + self.dead.len() < 2
    }
}

fn take(from: &mut Vec<usize>, rng: &mut StdRng) -> Option<usize> {
    (!from.is_empty()).then(|| from.swap_remove(rng.random_range(0..from.len())))
}

fn happen(event: Event, trial: &mut Trial<'_>, nodes: &mut Nodes, rng: &mut StdRng) {
    let mut pair: Vec<usize> = (1..=5).collect();
    let one = take(&mut pair, rng).expect("five nodes");
    let other = take(&mut pair, rng).expect("five nodes");
    let (mean, spread) = (Duration::from_millis(75), Duration::from_millis(50));
    match event {
        Event::Kill if nodes.may_lose_one() => {
            let node = take(&mut nodes.running, rng).expect("a majority runs");
            trial.cluster.kill(node);
            nodes.dead.push(node);
        }
        Event::Pause if nodes.may_lose_one() => {
            let node = take(&mut nodes.running, rng).expect("a majority runs");
            trial.cluster.pause(node);
            nodes.paused.push(node);
        }
        Event::Kill | Event::Start => {
            let Some(node) = take(&mut nodes.dead, rng) else { return };
            trial.cluster.start_node(node);
            nodes.running.push(node);
        }
        Event::Pause | Event::Resume => {
            let Some(node) = take(&mut nodes.paused, rng) else { return };
            trial.cluster.resume(node);
            nodes.running.push(node);
        }
        Event::CutOneWay => trial.proxies().set(one, other, Fault::BlackHole),
        Event::CutBothWays => {
            trial.proxies().set(one, other, Fault::BlackHole);
            trial.proxies().set(other, one, Fault::BlackHole);
        }
        Event::Delay => trial.proxies().set_all(Fault::Delay { mean, spread }),
        Event::Corrupt => trial.proxies().set_all(Fault::Corrupt { share: 0.02 }),
        Event::BlackHole => {
            pair.iter().for_each(|&peer| trial.proxies().set(one, peer, Fault::BlackHole));
        }
        Event::SlowDrain => {
            trial.proxies().set(one, other, Fault::SlowDrain { bytes_per_second: 10_000 });
        }
        Event::HalfClose => trial.proxies().half_close_all(),
        Event::Heal => trial.proxies().set_all(Fault::Clean),
    }
}

/// Requests need not be answered all the time: two nodes that are away and a cut link may leave no
/// majority. But they are when everything is well again.
#[test]
fn anything_may_happen_to_five_nodes() {
    let plan =
        Plan { voters: 5, wires: Wires::Proxies, ..Plan::new("anything, to five nodes at once") };
    plan.run(|trial| {
        let seed = rand::random();
        println!("the events are chosen by seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut nodes = Nodes { running: (1..=5).collect(), paused: Vec::new(), dead: Vec::new() };
        for _ in 0..EVENTS {
            let event = *EVERYTHING.choose(&mut rng).expect("there are some");
            println!("{event:?}");
            happen(event, trial, &mut nodes, &mut rng);
            trial.traffic.last(Duration::from_millis(rng.random_range(50..=600)));
        }
        trial.proxies().set_all(Fault::Clean);
        nodes.paused.iter().for_each(|&node| trial.cluster.resume(node));
        nodes.dead.iter().for_each(|&node| trial.cluster.start_node(node));
        trial.traffic.writes(100);
        trial.cluster.leader();
    });
}

/// With R = 1 a leader that was cut off answers what is out of date, which is what R = 1 means.
/// The verdict must say so, or it would not be worth much.
#[test]
fn the_verdict_notices_a_stale_read() {
    let plan = Plan {
        wires: Wires::Network,
        arguments: &["--read-quorum", "1", "--election-timeout-ms", "600"],
        ..Plan::new("stale reads on purpose, to be noticed")
    };
    let verdict = catch_unwind(|| {
        plan.run(|trial| {
            let old = trial.cluster.leader();
            let others = trial.cluster.followers();
            others.iter().for_each(|&other| trial.network().cut(old, other));
            trial.traffic.writes(100);
            trial.traffic.look(old);
            trial.network().heal();
            trial.cluster.leader();
        })
    });
    match verdict {
        Ok(was_tested) => assert!(!was_tested, "nobody noticed that reads were out of date"),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().expect("a verdict in words");
            assert!(words.contains("is not linearizable"), "{words}");
        }
    }
}
