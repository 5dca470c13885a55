//! What is asked: kinds of operations in a given mix, on keys of a given distribution.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::keys::KeyChooser;

/// The operations that the generator sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Read a value.
    Get,
    /// Store a value.
    Set,
    /// Remove a key.
    Delete,
}

impl Kind {
    /// In the order of their discriminants.
    pub(crate) const ALL: [Kind; 3] = [Kind::Get, Kind::Set, Kind::Delete];

    /// As the reports call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Set => "set",
            Kind::Delete => "delete",
        }
    }
}

/// Which requests of a workload somebody takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of them.
    All,
    /// Those that change nothing.
    Reads,
    /// The others.
    Writes,
}

/// How often each kind comes, relative to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// Weight of GET.
    pub(crate) get: u16,
    /// Weight of SET.
    pub(crate) set: u16,
    /// Weight of DELETE.
    pub(crate) delete: u16,
}

impl Mix {
    /// Nothing but `kind`.
    pub(crate) fn only(kind: Kind) -> Mix {
        let weight = |this| u16::from(this == kind);
        Mix { get: weight(Kind::Get), set: weight(Kind::Set), delete: weight(Kind::Delete) }
    }

    /// Whether it both reads and writes.
    pub(crate) fn has_both(self) -> bool {
        self.get > 0 && (self.set > 0 || self.delete > 0)
    }

    /// How many of so many connections should read when each either reads or writes; at least one
    /// for each that there is, as long as there are two.
    pub(crate) fn readers(self, connections: usize) -> usize {
        let writes = usize::from(self.set) + usize::from(self.delete);
        let (reads, all) = (usize::from(self.get), usize::from(self.get) + writes);
        let share = (connections * reads + all / 2) / all;
        let most = connections - usize::from(writes > 0);
        share.max(usize::from(reads > 0)).min(most)
    }

    /// Whether it never asks for anything.
    pub(crate) fn is_empty(self) -> bool {
        self.get == 0 && self.set == 0 && self.delete == 0
    }
}

/// An endless, reproducible sequence of requests.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    keys: KeyChooser,
    rng: SmallRng,
    /// A random `u32` below the first bound is a GET, below the second a SET.
    get_below: u64,
    set_below: u64,
}

impl Workload {
    /// The sequence that belongs to this seed.
    ///
    /// # Panics
    /// When the mix is empty.
    pub(crate) fn new(mix: Mix, keys: KeyChooser, seed: u64) -> Workload {
        assert!(!mix.is_empty());
        let (get, set, delete) = (u64::from(mix.get), u64::from(mix.set), u64::from(mix.delete));
        let total = get + set + delete;
        Workload {
            keys,
            rng: SmallRng::seed_from_u64(seed),
            get_below: (get << 32) / total,
            set_below: ((get + set) << 32) / total,
        }
    }

    /// Whether it has requests of this part.
    #[inline]
    pub(crate) fn has(&self, part: Part) -> bool {
        match part {
            Part::All => true,
            Part::Reads => self.get_below > 0,
            Part::Writes => self.get_below < 1 << 32,
        }
    }

    /// The next request of a part that it [has](Workload::has).
    #[inline]
    pub(crate) fn draw(&mut self, part: Part) -> (Kind, u32) {
        let random = u64::from(self.rng.random::<u32>());
        let random = match part {
            Part::All => random,
            Part::Reads => 0,
            Part::Writes => self.get_below + ((random * ((1 << 32) - self.get_below)) >> 32),
        };
        let kind = if random < self.get_below {
            Kind::Get
        } else if random < self.set_below {
            Kind::Set
        } else {
            Kind::Delete
        };
        (kind, self.keys.draw(&mut self.rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mix: Mix) -> [u32; 3] {
        let mut workload = Workload::new(mix, KeyChooser::Uniform(100), 3);
        let mut counts = [0; 3];
        for _ in 0..100_000 {
            counts[workload.draw(Part::All).0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_mix_is_kept() {
        for kind in Kind::ALL {
            assert_eq!(counts(Mix::only(kind))[kind as usize], 100_000);
        }
        let [get, set, delete] = counts(Mix { get: 90, set: 9, delete: 1 });
        assert!((89_000..91_000).contains(&get), "{get}");
        assert!((8_500..9_500).contains(&set), "{set}");
        assert!((800..1_200).contains(&delete), "{delete}");
        assert_eq!(counts(Mix { get: u16::MAX, set: 0, delete: 0 })[0], 100_000);
    }

    #[test]
    fn a_part_has_its_share_of_the_mix_and_nothing_else() {
        let mix = Mix { get: 5, set: 3, delete: 1 };
        let mut workload = Workload::new(mix, KeyChooser::Uniform(100), 3);
        assert!([Part::All, Part::Reads, Part::Writes].iter().all(|part| workload.has(*part)));
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            assert_eq!(workload.draw(Part::Reads).0, Kind::Get);
            counts[workload.draw(Part::Writes).0 as usize] += 1;
        }
        assert_eq!(counts[Kind::Get as usize], 0);
        assert!((7_300..7_700).contains(&counts[Kind::Set as usize]), "{counts:?}");
        let writes = Workload::new(Mix::only(Kind::Set), KeyChooser::Uniform(100), 3);
        assert_eq!((writes.has(Part::Reads), writes.has(Part::Writes)), (false, true));
        let reads = Workload::new(Mix::only(Kind::Get), KeyChooser::Uniform(100), 3);
        assert_eq!((reads.has(Part::Reads), reads.has(Part::Writes)), (true, false));
    }

    #[test]
    fn connections_are_shared_out_as_the_mix_says_and_nobody_is_left_out() {
        let readers = |get, set, connections| Mix { get, set, delete: 0 }.readers(connections);
        assert_eq!((readers(90, 10, 50), readers(1, 1, 5)), (45, 3));
        assert_eq!((readers(999, 1, 2), readers(1, 999, 2)), (1, 1));
        assert_eq!((readers(1, 0, 3), readers(0, 1, 3)), (3, 0));
    }

    #[test]
    fn a_seed_names_one_sequence() {
        let mix = Mix { get: 1, set: 1, delete: 1 };
        let draw = |seed| {
            let mut workload = Workload::new(mix, KeyChooser::Uniform(1000), seed);
            (0..100).map(|_| workload.draw(Part::All)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
