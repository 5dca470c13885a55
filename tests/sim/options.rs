//! What one seed is about: the cluster, its clients, and which faults there are at all.
//!
//! Drawing first *which* faults exist, and only then how hard they hit ("swarm testing", Groce et
//! al., 2012), finds more than every fault a little in every run: some bugs hide behind the
//! restarts that others need.

use std::time::Duration;

use crate::chance::Chance;
use crate::queue::{MICROSECOND, MILLISECOND, SECOND, Time};
use crate::sessions::SessionOptions;
use crate::snapshots::SnapshotOptions;

/// A message that went astray arrives at the latest after so long.
pub const STRAY_MAX: Time = 5 * SECOND;

/// A world, before it begins.
#[derive(Clone, Debug)]
pub struct Options {
    pub voters: u16,
    pub learners: u16,
    /// Machines that are no members at first.
    pub spares: u16,
    pub heartbeat: Duration,
    pub election_timeout: Duration,
    pub quorum_timeout: Duration,
    /// How long faults last; then everything is healed.
    pub trouble: Time,
    pub segment_bytes: u64,
    /// `None`: logs are kept whole.
    pub snapshots: Option<SnapshotOptions>,
    pub clients: ClientOptions,
    pub sessions: SessionOptions,
    pub network: NetworkOptions,
    pub disk: DiskOptions,
    pub faults: Faults,
}

#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub count: u32,
    /// Keys whose operations must be linearizable.
    pub keys: u32,
    /// As many more keys for operations with a W or R below a majority.
    pub relaxed: bool,
    /// How many requests a client sends before it waits.
    pub depth: usize,
    /// How long every second value is at least, so that logs fill up.
    pub large_bytes: usize,
    /// Mean time between two requests of a client.
    pub think: Time,
    /// How long a client waits for an answer before it gives up.
    pub patience: Time,
    /// Of 100 operations, how many are reads.
    pub reads_percent: u64,
    /// How often a read asks anybody instead of the leader, as far as the client knows.
    pub roaming_reads: f64,
    /// How often a write does.
    pub roaming_writes: f64,
}

#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Mean time that a message takes beyond the least.
    pub delay: Time,
    /// Whether a message may overtake another.
    pub reorders: bool,
    pub loss: f64,
    pub duplication: f64,
    /// How often a message takes up to [`STRAY_MAX`].
    pub strays: f64,
    /// How often some bits of a message are changed.
    pub flips: f64,
}

#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Mean time of a sync.
    pub sync: Time,
    /// How often a sync takes up to `slow_sync` instead.
    pub slow_share: f64,
    pub slow_sync: Time,
}

/// Mean times between faults of each class; `None` where the class does not exist.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub crash: Option<Crashes>,
    pub pause: Option<Time>,
    pub partition: Option<Time>,
    /// One link holds everything back for a while.
    pub clog: Option<Time>,
    /// A connection breaks and is made anew.
    pub reset: Option<Time>,
    pub wall_jump: Option<Time>,
    /// How far monotonic clocks run apart, in thousandths.
    pub drift: u64,
    /// An operation of a disk fails.
    pub disk_error: Option<Time>,
    pub full_disk: Option<Time>,
    pub transfer: Option<Time>,
    /// A node that is down finds a damaged sector when it comes back.
    pub damage: Option<Time>,
    /// An operator changes the members.
    pub members: Option<Time>,
}

#[derive(Clone, Debug)]
pub struct Crashes {
    pub every: Time,
    /// How long a node stays down, in the mean.
    pub down: Time,
    /// How often it is the power that fails, not the process.
    pub power_share: f64,
    /// How often all nodes go at once.
    pub all_share: f64,
}

impl Options {
    pub fn draw(chance: &mut Chance) -> Options {
        let voters = chance.weighted(&[(2, 1), (1, 2), (8, 3), (1, 4), (5, 5)]);
        let learners = chance.weighted(&[(4, 0), (2, 1), (1, 2)]);
        let (heartbeat, election) = chance.one_of(&[(20, 100), (50, 300), (50, 300), (100, 1000)]);
        let mut options = Options {
            spares: 0,
            voters,
            learners,
            heartbeat: Duration::from_millis(heartbeat),
            election_timeout: Duration::from_millis(election),
            quorum_timeout: Duration::from_millis(chance.one_of(&[300, 1000, 2000, 5000])),
            trouble: chance.between(30, 60) * SECOND,
            segment_bytes: chance.one_of(&[32 << 10, 64 << 10, 256 << 10]),
            snapshots: SnapshotOptions::draw(chance),
            clients: ClientOptions::draw(chance),
            sessions: SessionOptions::draw(chance),
            network: NetworkOptions::draw(chance),
            disk: DiskOptions::draw(chance),
            faults: Faults::draw(chance),
        };
        if options.faults.members.is_some() {
            options.spares = chance.one_of(&[1, 2, 3]);
        }
        options
    }

    /// Those of the first boot.
    pub fn members(&self) -> u16 {
        self.voters + self.learners
    }

    pub fn machines(&self) -> u16 {
        self.members() + self.spares
    }

    /// As many voters as there can ever be.
    pub fn voters_max(&self) -> u16 {
        if self.faults.members.is_some() { self.machines() } else { self.voters }
    }
}

impl ClientOptions {
    fn draw(chance: &mut Chance) -> ClientOptions {
        let count = u32::try_from(chance.between(1, 8)).expect("it is small");
        ClientOptions {
            count,
            keys: chance.one_of(&[1, 1, 2, 3, 5, 8]),
            relaxed: chance.happens(0.5),
            depth: chance.one_of(&[1, 1, 2, 4, 8]),
            large_bytes: chance.one_of(&[0, 0, 3000]),
            // All clients together, so that histories and logs stay of one size.
            think: u64::from(count) * chance.magnitude(8, 60) * MILLISECOND,
            patience: chance.between(200, 6000) * MILLISECOND,
            reads_percent: chance.one_of(&[20, 50, 50, 80]),
            roaming_reads: chance.one_of(&[0.3, 0.9]),
            roaming_writes: chance.one_of(&[0.05, 0.4]),
        }
    }
}

impl NetworkOptions {
    fn draw(chance: &mut Chance) -> NetworkOptions {
        let slow = chance.happens(0.5);
        let delay = if slow { chance.between(1, 100) * MILLISECOND } else { 100 * MICROSECOND };
        let reorders = chance.happens(0.5);
        let strays = if reorders && chance.happens(0.5) { chance.fraction(0.0, 0.05) } else { 0.0 };
        NetworkOptions {
            delay,
            reorders,
            strays,
            loss: if chance.happens(0.5) { chance.fraction(0.0, 0.3) } else { 0.0 },
            flips: if chance.happens(0.3) { chance.fraction(0.0, 0.02) } else { 0.0 },
            duplication: if chance.happens(0.5) { chance.fraction(0.0, 0.5) } else { 0.0 },
        }
    }
}

impl DiskOptions {
    fn draw(chance: &mut Chance) -> DiskOptions {
        let stalls = chance.happens(0.5);
        DiskOptions {
            sync: chance.between(100, 20_000) * MICROSECOND,
            slow_share: if stalls { chance.fraction(0.0, 0.05) } else { 0.0 },
            slow_sync: chance.between(100, 3000) * MILLISECOND,
        }
    }
}

impl Faults {
    fn draw(chance: &mut Chance) -> Faults {
        // Each order of magnitude as likely as the others.
        let class = |chance: &mut Chance| {
            chance.happens(0.5).then(|| chance.magnitude(200 * MILLISECOND, 15 * SECOND))
        };
        Faults {
            crash: class(chance).map(|every| Crashes {
                every,
                down: chance.one_of(&[20, 200, 1000, 4000]) * MILLISECOND,
                power_share: chance.one_of(&[0.0, 0.5, 1.0]),
                all_share: chance.one_of(&[0.0, 0.1, 0.3]),
            }),
            pause: class(chance),
            partition: class(chance),
            clog: class(chance),
            reset: class(chance),
            wall_jump: class(chance),
            drift: if chance.happens(0.5) { chance.between(1, 200) } else { 0 },
            disk_error: class(chance),
            full_disk: class(chance),
            transfer: class(chance),
            damage: class(chance),
            members: class(chance),
        }
    }
}
