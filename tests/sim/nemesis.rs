//! What goes wrong, and when.

use kvorum::core::NextSegment;
use kvorum::disk::{BLOCK_BYTES, Disk};
use kvorum_protocol::MemberList;

use crate::invariants::Checked;
use crate::life::Death;
use crate::memory_disk::{Failure, Loss};
use crate::network::Place;
use crate::node::place_of;
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::world::{Event, World};

/// A class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Crash,
    Pause,
    Partition,
    Clog,
    Reset,
    WallJump,
    DiskError,
    FullDisk,
    Transfer,
    Damage,
    Members,
}

use Fault::{
    Clog, Crash, Damage, DiskError, FullDisk, Members, Partition, Pause, Reset, Transfer, WallJump,
};

impl World {
    pub fn begin_trouble(&mut self) {
        for fault in [
            Crash, Pause, Partition, Clog, Reset, WallJump, DiskError, FullDisk, Transfer, Damage,
            Members,
        ] {
            self.schedule_fault(fault);
        }
    }

    fn schedule_fault(&mut self, fault: Fault) {
        let faults = &self.options.faults;
        let every = match fault {
            Crash => faults.crash.as_ref().map(|crash| crash.every),
            Pause => faults.pause,
            Partition => faults.partition,
            Clog => faults.clog,
            Reset => faults.reset,
            WallJump => faults.wall_jump,
            DiskError => faults.disk_error,
            FullDisk => faults.full_disk,
            Transfer => faults.transfer,
            Damage => faults.damage,
            Members => faults.members,
        };
        if let Some(every) = every {
            let at = self.now + self.chance.wait(every);
            if at < self.options.trouble {
                self.queue.schedule(at, Event::Fault(fault));
            }
        }
    }

    pub fn strike(&mut self, fault: Fault) -> Checked {
        self.schedule_fault(fault);
        self.tally.faults += 1;
        let place = self.victim();
        match fault {
            Crash => return self.crash(place),
            Pause => self.pause(place),
            Partition => self.partition(),
            Clog => self.clog(),
            Reset => self.reset(),
            WallJump => {
                let hours = self.chance.fraction(-1.0, 1.0);
                #[allow(clippy::cast_possible_truncation)]
                let ms = (hours * 3_600_000.0) as i64;
                self.note_node(place, || format!("wall clock is off by {ms} ms"));
                self.machines[place].clock.wall_offset_ms = ms;
            }
            DiskError => self.fail_disk(place),
            FullDisk => self.fill_disk(place),
            Transfer => self.ask_for_transfer(place),
            Damage => return self.damage(place),
            Members => self.ask_for_change(place),
        }
        Ok(())
    }

    /// Whom it hits: the leader more often than others, since most rules are about leaders.
    fn victim(&mut self) -> Place {
        let anybody = self.chance.below(self.machines.len());
        let hits_leader = self.chance.happens(0.4);
        self.some_leader().filter(|_| hits_leader).unwrap_or(anybody)
    }

    fn somebody_else(&mut self, than: Place) -> Option<Place> {
        let nodes = self.machines.len();
        (nodes > 1).then(|| (than + 1 + self.chance.below(nodes - 1)) % nodes)
    }

    // Processes

    fn crash(&mut self, place: Place) -> Checked {
        let crashes = self.options.faults.crash.clone().expect("there are crashes");
        let victims: Vec<Place> = if self.chance.happens(crashes.all_share) {
            (0..self.machines.len()).collect()
        } else if self.chance.happens(0.2) {
            (0..self.machines.len()).filter(|_| self.chance.happens(0.5)).collect()
        } else {
            vec![place]
        };
        // In a blackout all go the same way.
        let is_power = self.chance.happens(crashes.power_share);
        for place in victims {
            let down = self.chance.wait(crashes.down);
            if !self.machines[place].is_up() {
                continue;
            }
            if is_power && self.chance.happens(0.3) {
                // In the middle of something.
                let at = self.chance.between(1, 6);
                self.note_node(place, || format!("loses power at disk operation {at}"));
                self.machines[place].disk.crash_at(at);
                self.machines[place].is_doomed = true;
                continue;
            }
            let death = match is_power {
                true => Death::Power(self.chance.one_of(&Loss::EACH)),
                false => Death::Process,
            };
            self.die(place, death, down)?;
        }
        Ok(())
    }

    fn pause(&mut self, place: Place) {
        let pause = self.chance.wait(SECOND).min(10 * SECOND);
        self.note_node(place, || format!("is stopped for {} ms", pause / MILLISECOND));
        let machine = &mut self.machines[place];
        machine.paused_until = machine.paused_until.max(self.now + pause);
    }

    // The network

    fn partition(&mut self) {
        let nodes = self.machines.len();
        let Some(other) = self.somebody_else(0) else { return };
        self.network.mend();
        let shape = self.chance.weighted(&[(3, 0), (2, 1), (1, 2), (1, 3)]);
        let (name, alone): (_, Vec<Place>) = match shape {
            0 => ("isolates", vec![self.victim()]),
            1 => ("divides", (0..nodes).filter(|_| self.chance.happens(0.5)).collect()),
            2 => ("leaves a ring", Vec::new()),
            _ => ("cuts one pair", vec![0, other]),
        };
        let one_way = self.chance.one_of(&[None, None, Some(true), Some(false)]);
        for from in 0..nodes {
            for to in 0..nodes {
                let outward = match shape {
                    0 | 1 if alone.contains(&from) != alone.contains(&to) => alone.contains(&from),
                    2 if !(from + 1 == to || to + 1 == from || from.abs_diff(to) == nodes - 1) => {
                        from < to
                    }
                    3 if alone.contains(&from) && alone.contains(&to) => from < to,
                    _ => continue,
                };
                if from != to && one_way.is_none_or(|way| way == outward) {
                    self.network.cut(from, to);
                }
            }
        }
        self.note("net", || format!("{name} {alone:?} (from 0), one way: {one_way:?}"));
        self.partitions += 1;
        let until = self.now + self.chance.wait(2 * SECOND);
        self.queue.schedule(until, Event::Mend(self.partitions));
    }

    fn clog(&mut self) {
        let from = self.victim();
        let Some(to) = self.somebody_else(from) else { return };
        let clog = self.chance.between(0, 5 * SECOND);
        self.note("net", || format!("n{} -> n{} is stuck {clog} ns", from + 1, to + 1));
        self.network.clog(from, to, self.now + clog);
    }

    fn reset(&mut self) {
        let one = self.victim();
        let Some(other) = self.somebody_else(one) else { return };
        self.note("net", || format!("n{} - n{} is reset", one + 1, other + 1));
        self.network.disconnect(one, other);
        self.connect_soon(one, other);
    }

    // Disks

    fn fail_disk(&mut self, place: Place) {
        let machine = &mut self.machines[place];
        if machine.is_doomed || !machine.is_up() {
            return;
        }
        let at = self.chance.between(1, 6);
        let how = self.chance.one_of(&[Failure::Io, Failure::Io, Failure::Short]);
        machine.disk.fail_at(at, how);
        machine.is_doomed = true;
        self.note_node(place, || format!("disk operation {at} will fail: {how:?}"));
    }

    /// Any time, or just when nobody knows whether there is space for the next segment.
    fn fill_disk(&mut self, place: Place) {
        if self.chance.happens(0.5) {
            self.machines[place].fills_at_roll = true;
        } else {
            self.fill_disk_now(place);
        }
    }

    /// The log has just written: the time may have come. Then it also takes long, so that much
    /// happens before anybody knows that there is no space.
    pub fn fill_at_roll(&mut self, place: Place) -> bool {
        let machine = &self.machines[place];
        let next = machine.process.as_ref().map(|process| process.log.standing().next_segment);
        let fills_up = machine.fills_at_roll && next == Some(NextSegment::Coming);
        if fills_up {
            self.fill_disk_now(place);
        }
        fills_up
    }

    fn fill_disk_now(&mut self, place: Place) {
        self.note_node(place, || "disk is full".to_owned());
        self.machines[place].is_full = true;
        self.machines[place].fills_at_roll = false;
        self.machines[place].disk.set_space(Some(0));
        let until: Time = self.now + self.chance.wait(3 * SECOND);
        self.queue.schedule(until, Event::Space(place));
    }

    pub fn free_space(&mut self, place: Place) {
        self.note_node(place, || "disk has space".to_owned());
        self.machines[place].is_full = false;
        self.machines[place].fills_at_roll = false;
        self.machines[place].disk.set_space(None);
    }

    /// Whether a majority of the voters of a list has sound disks, even without the disk of this
    /// machine.
    pub fn is_sound(&self, list: &MemberList, without: Option<Place>) -> bool {
        let is_bad = |place: Place| self.machines[place].is_damaged || without == Some(place);
        let bad = list.voters().filter(|voter| is_bad(place_of(voter.id))).count();
        2 * bad < list.voters().count()
    }

    /// A sector of a minority's disks goes bad while the node is down.
    fn damage(&mut self, place: Place) -> Checked {
        if !self.may_be_damaged(place) || self.machines[place].is_damaged {
            return Ok(());
        }
        if self.machines[place].is_up() {
            let down = self.chance.wait(SECOND);
            self.die(place, Death::Process, down)?;
        }
        let Some((name, offset)) = self.some_old_block(place) else { return Ok(()) };
        let machine = &mut self.machines[place];
        machine.is_damaged = true;
        let mut bytes = machine.disk.contents(&name);
        bytes[offset] ^= 1 << self.chance.below(8);
        machine.disk.tamper(&name, bytes);
        self.note_node(place, || format!("{name} is damaged at {offset}"));
        Ok(())
    }

    /// Whether all lists that may be in force would have a majority without this machine.
    fn may_be_damaged(&self, place: Place) -> bool {
        let alive = (0..self.machines.len()).filter(|place| !self.machines[*place].is_out);
        let decided = self.checks.ledger().members().unwrap_or(&self.members);
        let mut lists = self.checks.lists_in(alive).chain([decided]);
        lists.all(|list| self.is_sound(list, Some(place)))
    }

    /// A byte of the log that is known to be durable from what stands behind it: a later segment
    /// has begun. In the last segment the last group may be large, and damage there can not be told
    /// from a torn write (see the caveats of [`kvorum::wal`]).
    fn some_old_block(&mut self, place: Place) -> Option<(String, usize)> {
        let disk = &self.machines[place].disk;
        let mut names = disk.list().expect("the disk works");
        names.retain(|name| name.starts_with("segment-"));
        names.sort();
        let is_used = |block: &[u8]| block.iter().any(|byte| *byte != 0);
        names.retain(|name| is_used(&disk.contents(name)[..BLOCK_BYTES]));
        names.pop();
        let mut blocks = Vec::new();
        for name in &names {
            for (number, block) in disk.contents(name).chunks(BLOCK_BYTES).enumerate() {
                if is_used(block) {
                    blocks.push((name.clone(), number * BLOCK_BYTES));
                }
            }
        }
        if blocks.is_empty() {
            return None;
        }
        let (name, block) = blocks.swap_remove(self.chance.below(blocks.len()));
        Some((name, block + self.chance.below(64)))
    }
}
