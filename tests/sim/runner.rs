//! Runs worlds, several at once, and tells of the first that fails.

use std::cell::RefCell;
use std::fmt;
use std::ops::{AddAssign, Range};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use kvorum::core::seeded::Bug;

use crate::invariants::Violation;
use crate::queue::SECOND;
use crate::trace::Trace;
use crate::world::{Tally, World};

/// A world that broke a rule.
#[derive(Debug)]
pub struct Failed {
    pub seed: u64,
    pub violation: Violation,
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics of worlds are findings, to be told with their seed; others are shown as ever.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let show = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_world = thread::current().name().is_some_and(|name| name.starts_with(WORLDS));
            if is_world {
                PANIC.with_borrow_mut(|said| *said = info.to_string());
            } else {
                show(info);
            }
        }));
    });
}

/// Names the threads that run worlds.
const WORLDS: &str = "worlds";

/// Runs one world. A broken assertion of the code under test is a broken rule too.
fn live(seed: u64, bug: Option<Bug>, trace: Trace) -> (Result<Tally, Violation>, World) {
    let mut world = World::new(seed, bug, trace);
    let lived = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = lived.unwrap_or_else(|_| {
        let what = PANIC.with_borrow(Clone::clone);
        Err(Violation { rule: "no assertion fails", what })
    });
    (result, world)
}

/// Runs the closure on a thread whose panics are findings.
fn among_worlds<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    catch_panics();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(WORLDS.to_owned()).spawn_scoped(scope, run);
        thread.expect("a thread more").join().expect("worlds catch their panics")
    })
}

/// Runs one seed for people: what it is, how it ends, and so many of the last events before.
pub fn replay(seed: u64, bug: Option<Bug>, lines_max: usize) -> Story {
    among_worlds(|| {
        let (result, world) = live(seed, bug, Trace::of_lines(lines_max));
        Story {
            seed,
            result,
            options: format!("{:#?}", world.options),
            trace: world.trace.text(),
            hash: world.trace.hash(),
        }
    })
}

/// All that there is to tell of one world.
#[derive(Debug)]
pub struct Story {
    pub seed: u64,
    pub result: Result<Tally, Violation>,
    options: String,
    trace: String,
    /// Two runs with the same hash went through the same events.
    pub hash: u64,
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed;
        write!(f, "{}\n\n{}\nseed {seed}: ", self.options, self.trace)?;
        match &self.result {
            Ok(tally) => write!(f, "all rules hold; {tally:?}")?,
            Err(Violation { rule, what }) => write!(f, "BROKEN: {rule}\n{what}")?,
        }
        write!(f, "\ntrace hash {:016x}", self.hash)?;
        write!(f, "\nagain: KVORUM_SIM_SEED={seed} cargo test --test sim -- --nocapture replay")
    }
}

/// Runs all seeds, as many at once as there are processors. Stops at the first that fails, which is
/// the lowest: all before it have begun by then, and are brought to their end.
pub fn run(
    seeds: Range<u64>,
    bug: Option<Bug>,
    mut progress: impl FnMut(&Total) + Send,
) -> Result<Total, Failed> {
    catch_panics();
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = std::sync::Mutex::new((Total::default(), None::<Failed>, &mut progress));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            let work = || {
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let (result, _) = live(seed, bug, Trace::default());
                    let mut total = total.lock().expect("nobody panics with it");
                    let (sum, failed, progress) = &mut *total;
                    match result {
                        Ok(tally) => {
                            *sum += tally;
                            progress(sum);
                        }
                        Err(violation) => {
                            stop.store(true, Relaxed);
                            if failed.as_ref().is_none_or(|failed| seed < failed.seed) {
                                *failed = Some(Failed { seed, violation });
                            }
                        }
                    }
                }
            };
            let thread = thread::Builder::new().name(WORLDS.to_owned()).spawn_scoped(scope, work);
            thread.expect("a thread more");
        }
    });
    let (total, failed, _) = total.into_inner().expect("nobody panics with it");
    failed.map_or(Ok(total), Err)
}

/// What many worlds have been through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub seeds: u64,
    tally: Tally,
}

impl AddAssign<Tally> for Total {
    fn add_assign(&mut self, more: Tally) {
        self.seeds += 1;
        let sum = &mut self.tally;
        sum.events += more.events;
        sum.crashes += more.crashes;
        sum.repairs += more.repairs;
        sum.faults += more.faults;
        sum.answers += more.answers;
        sum.elections += more.elections;
        sum.undecided += more.undecided;
        sum.time += more.time;
    }
}

impl Total {
    /// How long all worlds together lasted, in their own time.
    #[must_use]
    pub fn hours(&self) -> f64 {
        (self.tally.time / SECOND) as f64 / 3600.0
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { events, crashes, repairs, faults, answers, elections, undecided, .. } =
            self.tally;
        write!(
            f,
            "{} seeds, {:.1} virtual hours of whole clusters, {answers} answers checked, \
             {elections} elections, {crashes} crashes, {repairs} repairs, {faults} faults, \
             {events} events, {undecided} histories undecided",
            self.seeds,
            self.hours()
        )
    }
}
