//! How processes begin and end, and what their disks do meanwhile.

use std::fmt::Display;
use std::sync::Arc;

use kvorum::core::seeded::Bug;
use kvorum::core::{Fetch, Node, NodeConfig, Record, Recovery};
use kvorum::snapshot;
use kvorum::wal::{self, Fetcher, Identity, WalConfig, WalError};
use kvorum_protocol::{LogIndex, Op};

use crate::image::{LogImage, Observed};
use crate::invariants::{Checked, Violation, ensure};
use crate::log::{Log, Submitted};
use crate::members::PROMOTION_LAG_MAX;
use crate::memory_disk::Loss;
use crate::network::Place;
use crate::node::{Input, Process, id_of};
use crate::queue::{MICROSECOND, MILLISECOND, Time};
use crate::snapshots::{CLUSTER, Snapshots};
use crate::turn::words_of_record;
use crate::world::{Event, World};

/// The state hash is noted so often: worlds are short.
const CHECKPOINT_ENTRIES: u64 = 16;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It is killed, or stops itself: what it has written is still there, and its connections are
    /// reset.
    Process,
    /// The power goes: what was not synced is lost like this, and nobody hears of it.
    Power(Loss),
}

impl World {
    // Birth and death

    /// A process starts from what its disk holds.
    pub fn start(&mut self, place: Place) -> Checked {
        if self.machines[place].is_up() || self.machines[place].is_out {
            return Ok(());
        }
        let before = self.checks.sealed(place).clone();
        let disk = self.machines[place].disk.handle();
        let hash_seed = self.chance.seed();
        let (kept, loaded) = match self.load_snapshot(place, &*disk) {
            Ok(found) => found,
            Err(error) => return self.does_not_start(place, &error),
        };
        let snapshot = loaded.as_ref().map(|(head, _)| head.end);
        if let Some((head, state)) = &loaded {
            self.checks.is_state_at(place, head, state)?;
        }
        let mut recovery = match loaded {
            Some((head, state)) => Recovery::from_snapshot(head, state),
            None => Recovery::with_session_bounds(hash_seed, self.options.sessions.bounds),
        }
        .of(id_of(place));
        recovery.applies_all = self.bug == Some(Bug::RecoveryAppliesAll);
        recovery.loses_vote = self.bug == Some(Bug::VoteLostAtInstall);
        recovery.repair_loses_vote = self.bug == Some(Bug::RepairForgetsVote);
        let mut observed = Observed { recovery, image: LogImage::default(), before: &before };
        let snapshot_index = snapshot.map_or(LogIndex(0), |end| end.index);
        let config = WalConfig { snapshot_index, ..self.wal_config(place) };
        let opened = wal::open(Arc::clone(&disk), config, &mut observed);
        let Observed { recovery, image, .. } = observed;
        let (writer, recovered) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.does_not_start(place, &error),
        };
        self.note_node(place, || {
            let (end, term, cut) = (image.end(), image.term, recovered.cut.is_some());
            format!("starts: term={term} last={end} cut={cut}")
        });
        let log = Log::new(writer, self.epoch, image.end());
        self.checks.recovers(place, image, snapshot.as_ref())?;
        let config = NodeConfig {
            quorum_timeout: self.options.quorum_timeout,
            heartbeat: self.options.heartbeat,
            election_timeout: self.options.election_timeout,
            // This network loses messages of connections that stand.
            resend_timeout: self.options.election_timeout,
            joins: place >= usize::from(self.options.members()),
            promotion_lag_max: PROMOTION_LAG_MAX,
            checkpoint_entries: CHECKPOINT_ENTRIES,
            seed: self.chance.seed(),
            ..NodeConfig::new(id_of(place), self.members.clone())
        };
        let mut core = Node::new(config, recovery, log.standing().room_bytes);
        if let Some(bug) = self.bug {
            core.seed_bug(bug);
        }
        let fetcher = Fetcher::new(self.machines[place].disk.handle());
        let part_bytes = self.options.snapshots.as_ref().map_or(4096, |options| options.part_bytes);
        let snapshots = Snapshots::new(disk, kept, part_bytes);
        let process = Process::new(core, log, fetcher, snapshots);
        self.machines[place].process = Some(Box::new(process));
        self.machines[place].turn_at = Time::MAX;
        self.wake(place);
        let life = self.machines[place].life;
        self.tend(place, life)?;
        for other in 0..self.machines.len() {
            if other != place {
                self.connect_soon(place, other);
            }
        }
        Ok(())
    }

    fn wal_config(&self, place: Place) -> WalConfig {
        let identity = Identity { cluster: CLUSTER, node: id_of(place), incarnation: place as u64 };
        WalConfig {
            segment_bytes_min: self.options.segment_bytes / 2,
            segment_bytes_max: self.options.segment_bytes,
            batch_bytes_max: 8 << 10,
            reserve_bytes: 4 << 10,
            prepare_in_background: false,
            ..WalConfig::new(identity)
        }
    }

    /// The log can not be opened. That is right when the disk is damaged, and else only while the
    /// disk fails or is full.
    fn does_not_start(&mut self, place: Place, error: &dyn Display) -> Checked {
        self.note_node(place, || format!("does not start: {error}"));
        let machine = &mut self.machines[place];
        if machine.is_doomed {
            return self.die(place, Death::Process, 10 * MILLISECOND);
        }
        if machine.is_full {
            self.queue.schedule(self.now + 100 * MILLISECOND, Event::Start(place));
            return Ok(());
        }
        if machine.is_damaged {
            return self.repair(place);
        }
        let what = format!("n{}: {error}", place + 1);
        Err(Violation { rule: "a sound log opens", what })
    }

    /// An operator has it give up what is bad, if what it has promised can be told.
    fn repair(&mut self, place: Place) -> Checked {
        let disk = self.machines[place].disk.handle();
        let newest = snapshot::list(&*disk).ok().and_then(|listed| listed.first().cloned());
        let covered = newest.map_or(LogIndex(0), |newest| newest.index);
        let repaired = wal::diagnose(&*disk, covered, LogIndex(0));
        let ordered = repaired.and_then(|found| found.map(|found| found.order(&*disk)).transpose());
        match ordered {
            Ok(Some(())) => {
                self.note_node(place, || "is repaired".to_owned());
                self.tally.repairs += 1;
                self.checks.gives_up(place);
                self.machines[place].is_damaged = false;
                self.queue.schedule(self.now + MILLISECOND, Event::Start(place));
            }
            Ok(None) => {
                let what = format!("n{}: the log has not opened", place + 1);
                return Err(Violation { rule: "what is refused has a reason", what });
            }
            Err(error) => {
                self.note_node(place, || format!("can not be repaired: {error}"));
                self.machines[place].is_out = true;
            }
        }
        Ok(())
    }

    /// A process ends, and comes back after a while.
    pub fn die(&mut self, place: Place, death: Death, down: Time) -> Checked {
        self.note_node(place, || format!("dies: {death:?}"));
        self.tally.crashes += 1;
        let seed = self.chance.seed();
        let machine = &mut self.machines[place];
        // A disk that was told to fail and an armed power cut look the same to the process.
        let power_is_gone = machine.is_doomed && machine.disk.has_crashed();
        let loss = match death {
            Death::Power(loss) => Some(loss),
            Death::Process => power_is_gone.then_some(Loss::Torn),
        };
        machine.life += 1;
        machine.paused_until = 0;
        machine.turn_at = Time::MAX;
        machine.is_doomed = false;
        match loss {
            Some(loss) => machine.disk = machine.disk.after_power_cut(loss, seed),
            None => machine.disk.heal(),
        }
        if let Some(process) = machine.process.take() {
            let lost = process.waiting.keys().chain(&process.requests);
            let lost: Vec<_> = lost.chain(process.backlog.iter().map(|(op, _)| op)).collect();
            for op in lost {
                let at = self.now + self.clients.delay(&mut self.chance);
                self.queue.schedule(at, Event::Broken(*op));
            }
        }
        for other in 0..self.machines.len() {
            self.network.disconnect(place, other);
            // Whoever connects again is refused, if the machine is still there to do so.
            let hears = loss.is_none() && self.network.can_connect(place, other);
            if other != place && hears && self.machines[other].is_up() {
                let at = self.now + self.chance.between(100, 2000) * MICROSECOND;
                let life = self.machines[other].life;
                self.queue.schedule(at, Event::Refused { place: other, gone: place, life });
            }
        }
        self.queue.schedule(self.now + down.max(MILLISECOND), Event::Start(place));
        Ok(())
    }

    /// The log of a process has failed: it stops itself.
    fn log_failed(&mut self, place: Place, error: &WalError) -> Checked {
        self.note_node(place, || format!("stops: {error}"));
        if !self.machines[place].is_doomed {
            let what = format!("n{}: {error}", place + 1);
            return Err(Violation { rule: "a sound disk is enough", what });
        }
        let down = self.chance.wait(500 * MILLISECOND);
        self.die(place, Death::Process, down)
    }

    // The log

    /// Writes what the last turn has made, if nothing is on its way to the disk.
    pub fn submit(&mut self, place: Place) -> Checked {
        let Some(process) = &mut self.machines[place].process else { return Ok(()) };
        match process.log.submit() {
            Ok(submitted) => self.begin_sync(place, submitted),
            Err(error) => self.log_failed(place, &error),
        }
    }

    fn begin_sync(&mut self, place: Place, submitted: Submitted) -> Checked {
        let life = self.machines[place].life;
        match submitted {
            Submitted::Nothing => {}
            Submitted::LacksRoom => {
                self.lacks_room(place)?;
                self.tend_at(place, self.now + MILLISECOND);
            }
            Submitted::Written => {
                let disk = self.options.disk.clone();
                let mut takes = 20 * MICROSECOND + self.chance.wait(disk.sync);
                let fills_up = self.fill_at_roll(place);
                if fills_up || self.chance.happens(disk.slow_share) {
                    takes += self.chance.between(0, disk.slow_sync);
                }
                self.queue.schedule(self.now + takes, Event::Synced(place, life));
            }
        }
        Ok(())
    }

    /// On a full disk only that waits for room which has to be written whether there is any or not.
    /// Whatever else a node took would stand before its next vote.
    fn lacks_room(&self, place: Place) -> Checked {
        let process = self.machines[place].process.as_ref().expect("its log has just spoken");
        let is_optional = |record: &&Record| match record {
            Record::Batch(batch) => batch.entries().any(|(_, command)| command.op != Op::Noop),
            Record::TermVote { .. } | Record::Truncate { .. } | Record::Install { .. } => false,
        };
        let optional = process.log.lacking().find(is_optional);
        ensure(optional.is_none(), "no vote waits for room", || {
            format!(
                "n{} waits with {}",
                place + 1,
                optional.map_or_else(String::new, words_of_record)
            )
        })
    }

    pub fn synced(&mut self, place: Place, life: u32) -> Checked {
        if self.machines[place].life != life {
            return Ok(());
        }
        let process = self.machines[place].process.as_mut().expect("this life goes on");
        match process.log.synced() {
            Ok(records) => self.checks.syncs(place, &records),
            Err(error) => return self.log_failed(place, &error),
        }
        self.note_node(place, || "sync".to_owned());
        self.wake(place);
        self.tend(place, life)?;
        self.submit(place)
    }

    pub fn tend(&mut self, place: Place, life: u32) -> Checked {
        if self.machines[place].life != life {
            return Ok(());
        }
        let process = self.machines[place].process.as_mut().expect("this life goes on");
        if process.tend_at.is_some_and(|at| at <= self.now) {
            process.tend_at = None;
        }
        match process.log.tend(self.now) {
            Ok((submitted, again)) => {
                if process.told != Some(process.log.standing()) {
                    self.wake(place);
                }
                self.begin_sync(place, submitted)?;
                if let Some(at) = again {
                    self.tend_at(place, at.max(self.now + MILLISECOND));
                }
                Ok(())
            }
            Err(error) => self.log_failed(place, &error),
        }
    }

    /// A part of the log is read back, beside the writer.
    pub fn read_back(&mut self, place: Place, life: u32, fetch: &Fetch) -> Checked {
        let machine = &mut self.machines[place];
        if machine.life != life {
            return Ok(());
        }
        let process = machine.process.as_mut().expect("this life goes on");
        let read = process.fetcher.fetch(fetch);
        // A snapshot may have taken its place meanwhile.
        let is_given_up = fetch.from <= process.core.log_floor();
        self.note_node(place, || {
            let count = read.as_ref().map(Vec::len);
            format!("reads {}..{} for n{}: {count:?}", fetch.from, fetch.end, fetch.member)
        });
        let batches = match read {
            Ok(batches) => {
                self.checks.reads_back(place, fetch, &batches)?;
                batches
            }
            Err(error) => {
                let machine = &self.machines[place];
                let may_fail = machine.is_doomed || machine.is_damaged || is_given_up;
                ensure(may_fail, "a sound log is read", || format!("n{}: {error}", place + 1))?;
                Vec::new()
            }
        };
        self.give(place, Input::Fetched(fetch.member, fetch.from, batches));
        Ok(())
    }

    fn tend_at(&mut self, place: Place, at: Time) {
        let machine = &mut self.machines[place];
        let Some(process) = &mut machine.process else { return };
        if process.tend_at.is_none_or(|known| at < known) {
            process.tend_at = Some(at);
            self.queue.schedule(at, Event::Tend(place, machine.life));
        }
    }
}
