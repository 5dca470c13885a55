//! The newtypes that keep one kind of number from being taken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A node of a cluster, 1 to 2^16-1. Never reused for another data directory.
    NodeId(u16)
);
number!(
    /// A Raft term (Raft paper, section 5.1). Zero means "before any election".
    Term(u64)
);
number!(
    /// The position of an entry in the replicated log; the first entry has index 1. As the
    /// *version* of a key it is the index of the entry that last changed it.
    LogIndex(u64)
);
number!(
    /// The position of a record in one node's own log file: local, never reused, never going
    /// back. A log *index* can be rewritten after a truncation, an `Lsn` cannot, so an old sync
    /// can never confirm a rewritten index.
    Lsn(u64)
);
number!(
    /// A cluster's identity, drawn at random when its first node boots.
    ClusterId(u64)
);
number!(
    /// Milliseconds of log time: `max(previous, the leader's clock)`, so it never goes back.
    LogTimeMs(u64)
);

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

impl Lsn {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// How many voters an operation involves: W for a write, R for a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quorum {
    /// More than half of the voters.
    #[default]
    Majority,
    /// Every voter.
    All,
    /// Exactly this many voters; at least 1.
    Count(u8),
}

impl Quorum {
    /// How many of `voters` this asks for; `None` when it asks for more than there are, or none.
    #[must_use]
    pub fn size(self, voters: usize) -> Option<usize> {
        let size = match self {
            Quorum::Majority => voters / 2 + 1,
            Quorum::All => voters,
            Quorum::Count(n) => usize::from(n),
        };
        (1..=voters).contains(&size).then_some(size)
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quorum::Majority => f.write_str("majority"),
            Quorum::All => f.write_str("all"),
            Quorum::Count(n) => n.fmt(f),
        }
    }
}

impl std::str::FromStr for Quorum {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Quorum, Self::Err> {
        if word.eq_ignore_ascii_case("majority") {
            return Ok(Quorum::Majority);
        }
        if word.eq_ignore_ascii_case("all") {
            return Ok(Quorum::All);
        }
        match word.parse::<u8>() {
            Ok(n) if (1..=crate::limits::VOTERS_MAX).contains(&n) => Ok(Quorum::Count(n)),
            _ => Err("is not 'majority', 'all' or a number of voters"),
        }
    }
}
