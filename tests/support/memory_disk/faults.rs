//! Which operations of a disk fail, and how.

use std::io;

/// As Linux numbers it; the fuzz targets, which use this disk too, have no crate that knows it.
const EMFILE: i32 = 24;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO; a failed sync leaves the data readable and marks it clean, as Linux does.
    Io,
    /// ENOSPC.
    Full,
    /// Half of a write is done, then EIO.
    Short,
    /// EMFILE.
    Descriptors,
}

#[derive(Clone, Copy, Debug, Default)]
pub enum Plan {
    #[default]
    Run,
    /// The power goes at this operation, which may still be done in part.
    Crash {
        at: u64,
    },
    Fail {
        at: u64,
        how: Failure,
    },
}

/// What can be made to fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Write,
    /// Of a file.
    Sync,
    /// Renaming or removing a file.
    Name,
    SyncDirectory,
}

/// The next operation of some kind fails, or one after that.
#[derive(Clone, Copy, Debug)]
struct Trap {
    operation: Operation,
    /// So many go well before.
    after: u64,
    how: Failure,
}

impl Failure {
    pub fn error(self) -> io::Error {
        match self {
            Failure::Full => io::ErrorKind::StorageFull.into(),
            Failure::Io | Failure::Short => io::Error::other("EIO"),
            Failure::Descriptors => io::Error::from_raw_os_error(EMFILE),
        }
    }
}

/// What becomes of an operation.
pub enum Outcome {
    Good,
    Fails(Failure),
    /// It is under way when the power goes.
    PowerCut,
}

/// What is planned, and how far the process is.
#[derive(Default)]
pub struct Faults {
    plan: Plan,
    traps: Vec<Trap>,
    operations: u64,
}

impl Faults {
    /// Counts operations from now.
    pub fn plan(&mut self, plan: Plan) {
        (self.plan, self.operations) = (plan, 0);
    }

    pub fn set_trap(&mut self, operation: Operation, after: u64, how: Failure) {
        self.traps.push(Trap { operation, after, how });
    }

    /// Nothing is planned any more.
    pub fn heal(&mut self) {
        self.plan = Plan::Run;
        self.traps.clear();
    }

    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// The next operation is of this kind.
    pub fn next(&mut self, operation: Operation) -> Outcome {
        self.operations += 1;
        let trapped = self.spring(operation);
        match self.plan {
            Plan::Crash { at } if at == self.operations => Outcome::PowerCut,
            Plan::Fail { at, how } if at == self.operations => Outcome::Fails(how),
            _ => trapped.map_or(Outcome::Good, Outcome::Fails),
        }
    }

    /// Whether a trap is set for this very operation.
    fn spring(&mut self, operation: Operation) -> Option<Failure> {
        let mut sprung = None;
        self.traps.retain_mut(|trap| {
            let is_due = trap.operation == operation && trap.after == 0;
            if trap.operation == operation {
                trap.after = trap.after.saturating_sub(1);
            }
            if is_due {
                sprung = Some(trap.how);
            }
            !is_due
        });
        sprung
    }
}
