//! How a world ends: all faults are healed, and then everything has to come right in time.
//!
//! Rules of safety alone would pass a cluster that does nothing.

use kvorum_protocol::{LogIndex, Term};

use crate::invariants::{Checked, ensure};
use crate::life::Death;
use crate::memory_disk::Loss;
use crate::network::Place;
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::world::{Event, Tally, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    Trouble,
    /// By then there must be one leader whom all follow, and all states must be equal.
    Settling {
        until: Time,
    },
    /// By then the last requests must be answered.
    Asking {
        until: Time,
        term: Term,
    },
    /// Until then nobody may stand for election.
    Quiet {
        until: Time,
        term: Term,
    },
    Over,
}

/// How often the ending is looked at.
const LOOK_INTERVAL: Time = 50 * MILLISECOND;

/// So long after all faults have ended, what a link has held back may still arrive.
const LATE_MAX: Time = 5 * SECOND;

/// How long it may take from the end of all faults until the cluster is whole.
const SETTLE_MAX: Time = 30 * SECOND;

/// How long the last requests may take.
const ASK_MAX: Time = 10 * SECOND;

/// How many election timeouts nobody may stand for election.
const QUIET_TIMEOUTS: u32 = 10;

impl World {
    /// All faults end; who is down starts.
    pub fn heal(&mut self) -> Checked {
        self.note("world", || "all faults end".to_owned());
        self.clients.are_quiet = true;
        self.network.heal();
        self.options.disk.slow_share = 0.0;
        for place in 0..self.machines.len() {
            self.free_space(place);
            self.machines[place].clock.wall_offset_ms = 0;
            self.machines[place].paused_until = self.now;
            self.wake(place);
            // An operation that is going to fail may be far away: let it be now.
            if self.machines[place].is_doomed && self.machines[place].is_up() {
                self.die(place, Death::Power(Loss::Some), SECOND)?;
            } else {
                // Whoever is down may have been going to stay so for very long.
                self.queue.schedule(self.now + SECOND, Event::Start(place));
            }
        }
        self.ending = Ending::Settling { until: self.now + SETTLE_MAX };
        self.queue.schedule(self.now + LATE_MAX, Event::Ending);
        Ok(())
    }

    pub fn go_on_ending(&mut self) -> Checked {
        match self.ending {
            Ending::Trouble | Ending::Over => unreachable!("nobody looks then"),
            Ending::Settling { until } => {
                if let Ok((leader, term)) = self.is_whole() {
                    self.note("world", || "the cluster is whole".to_owned());
                    self.ask_afresh(leader);
                    self.ending = Ending::Asking { until: self.now + ASK_MAX, term };
                } else {
                    ensure(self.now < until, "a healed cluster becomes whole", || self.shown())?;
                }
            }
            Ending::Asking { until, term } => {
                if self.clients.fresh_open == 0 {
                    let timeout = self.options.election_timeout * QUIET_TIMEOUTS;
                    let until = self.now + Time::try_from(timeout.as_nanos()).expect("short");
                    self.ending = Ending::Quiet { until, term };
                } else if let (false, Ok((leader, _))) = (self.clients.wait(), self.is_whole()) {
                    // Refused, as while a full disk finds that it has space again.
                    self.ask_afresh(leader);
                }
                ensure(self.now < until, "a healed cluster answers", || self.shown())?;
            }
            Ending::Quiet { until, term } => {
                let (_, now) = self.is_whole_or_applying();
                ensure(now == term, "a healed cluster stays calm", || {
                    format!("term {term} was followed by {now}: {}", self.shown())
                })?;
                if self.now >= until && self.is_whole().is_ok() {
                    self.ending = Ending::Over;
                }
                let latest = until + ASK_MAX;
                ensure(self.now < latest, "a healed cluster becomes whole", || self.shown())?;
            }
        }
        self.queue.schedule(self.now + LOOK_INTERVAL, Event::Ending);
        Ok(())
    }

    /// The leader and its term, when all live nodes follow it and have applied its whole log.
    fn is_whole(&self) -> Result<(Place, Term), ()> {
        let mut leaders = Vec::new();
        let mut states = Vec::new();
        for (place, machine) in self.machines.iter().enumerate() {
            if machine.is_out || !self.checks.is_member(place) {
                continue;
            }
            let process = machine.process.as_ref().ok_or(())?;
            let status = process.core.status();
            if process.core.is_ready() && status.leader == Some(machine.id) {
                leaders.push(place);
            }
            // A sync that has begun before may take a while longer.
            if status.durable != status.last {
                return Err(());
            }
            states.push((status.term, status.leader, status.applied, status.last));
        }
        let [leader] = leaders[..] else { return Err(()) };
        let first = states[0];
        let is_equal = states.iter().all(|state| *state == first) && first.2 == first.3;
        if is_equal { Ok((leader, first.0)) } else { Err(()) }
    }

    /// The highest term that anybody is in.
    fn is_whole_or_applying(&self) -> (usize, Term) {
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let terms: Vec<Term> = processes.map(|process| process.core.status().term).collect();
        (terms.len(), terms.into_iter().max().unwrap_or_default())
    }

    /// All nodes, for people.
    fn shown(&self) -> String {
        let shown = self.machines.iter().map(|machine| match &machine.process {
            Some(process) => format!("\n  n{}: {:?}", machine.id, process.core.status()),
            None => format!("\n  n{} is down, for good: {}", machine.id, machine.is_out),
        });
        shown.collect()
    }

    /// Everything that can only be judged at the end.
    pub fn finish(&mut self) -> Checked<Tally> {
        self.checks.finish()?;
        self.states_are_equal()?;
        self.judge_clients()?;
        self.tally.elections = self.checks.elections() as u64;
        self.tally.time = self.now;
        Ok(self.tally)
    }

    /// State machine safety: the state of every node is what the decided commands add up to, and
    /// each write of a session does so once.
    fn states_are_equal(&self) -> Checked {
        let ledger = self.checks.ledger();
        let (effects, end) = (ledger.effects(), ledger.end());
        for (place, machine) in self.machines.iter().enumerate() {
            let process = machine.process.as_ref().filter(|_| self.checks.is_member(place));
            let Some(process) = process else { continue };
            let (store, applied) = (process.core.store(), process.core.applied());
            let is_held = |(key, (index, value)): &(&Vec<u8>, &(LogIndex, Vec<u8>))| {
                store.get(key) == Some((*index, value.as_slice()))
            };
            let differs = effects.keys().iter().find(|item| !is_held(item));
            let is_equal =
                applied == end && store.len() == effects.keys().len() && differs.is_none();
            ensure(is_equal, "equal logs make equal states", || {
                format!("n{}: {applied} of {end} applied; {differs:?}", machine.id)
            })?;
            let state = process.core.state();
            ensure(state.hash() == state.hash_from_scratch(), "the state hash is kept", || {
                format!("n{}: {:016x}", machine.id, state.hash())
            })?;
            let sessions = process.core.sessions();
            ensure(effects.are_sessions(sessions), "equal logs make equal sessions", || {
                format!("n{}: {:?}", machine.id, sessions.in_order())
            })?;
        }
        Ok(())
    }
}
