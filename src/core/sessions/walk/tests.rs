//! A walk against a copy of the cut: whatever happens between its slices, it hands out that.

use std::collections::BTreeMap;

use kvorum_protocol::SessionSequence;
use proptest::prelude::*;

use super::*;
use crate::core::outcome::Applied;
use crate::core::sessions::SessionBounds;

const BOUNDS: SessionBounds = SessionBounds { sessions: 12, slots: 60, idle_ms: 100 };

type Contents = BTreeMap<LogIndex, Session>;

/// A table, what it was at the cut, and what a walk has handed out.
struct Walked {
    sessions: Sessions,
    opened: Vec<LogIndex>,
    index: LogIndex,
    time: LogTimeMs,
    cut: Contents,
    found: Contents,
    is_through: bool,
}

impl Walked {
    fn new(bounds: SessionBounds) -> Walked {
        Walked {
            sessions: Sessions::new(bounds),
            opened: Vec::new(),
            index: LogIndex(0),
            time: LogTimeMs(0),
            cut: Contents::new(),
            found: Contents::new(),
            is_through: true,
        }
    }

    fn open(&mut self, window: u32) {
        self.index = self.index.next();
        self.sessions.open(self.index, self.time, window);
        self.opened.push(self.index);
    }

    /// A write in the session that was opened so many before the last.
    fn write(&mut self, back: usize, sequence: u64) {
        self.index = self.index.next();
        let at = self.opened.len().saturating_sub(1 + back);
        let Some(session) = self.opened.get(at) else { return };
        let name = SessionSequence { session: session.0, sequence };
        if let Ok(known) = self.sessions.outcome_of(name, self.index, self.time)
            && known.outcome().is_none()
        {
            known.note(Outcome { version: self.index, applied: Applied::Written });
        }
    }

    fn begin(&mut self) {
        let all = self.sessions.in_order().into_iter();
        self.cut = all.map(|(id, session)| (id, session.clone())).collect();
        self.sessions.begin_walk(self.index);
        (self.found, self.is_through) = (Contents::new(), false);
    }

    fn slice(&mut self, places_max: usize, bytes_max: usize) {
        if self.is_through {
            return;
        }
        let mut out = b"what was there".to_vec();
        let slice = self.sessions.walk(places_max, bytes_max, &mut out);
        self.is_through = slice.is_last;
        let mut rest = out.strip_prefix(b"what was there").unwrap();
        let (mut count, bytes, mut before_last) = (0, rest.len(), 0);
        while !rest.is_empty() {
            let (id, session, behind) = Session::decode(rest).unwrap();
            before_last = bytes - rest.len();
            rest = behind;
            count += 1;
            assert_eq!(self.found.insert(id, session), None, "handed out twice: {id}");
        }
        assert_eq!(count, slice.sessions as usize);
        assert!(count <= places_max && (count == 0 || before_last < bytes_max));
    }

    fn end(&mut self) {
        while !self.is_through {
            self.slice(3, 1000);
        }
        assert_eq!(self.found, self.cut);
        assert_eq!(self.sessions.bytes(), bytes_without_walk(&self.sessions));
    }
}

fn bytes_without_walk(sessions: &Sessions) -> usize {
    let room: usize = sessions.table.iter().map(|(_, one)| one.outcomes.capacity()).sum();
    sessions.table.bytes()
        + sessions.by_use.capacity() * size_of::<super::super::Use>()
        + room * size_of::<Option<Outcome>>()
}

/// What a walk keeps, counted one by one.
fn check_bytes(sessions: &Sessions) {
    let Some(walk) = &sessions.walk else { return };
    let ended = walk.ended.iter().map(|(_, session, before)| {
        let left = before.as_ref().map_or(0, |before| before.left.capacity());
        session.outcomes.capacity() + left
    });
    let used = walk.used.values().map(|before| before.left.capacity());
    assert_eq!(walk.room, ended.sum::<usize>() + used.sum::<usize>());
    assert_eq!(sessions.bytes(), bytes_without_walk(sessions) + walk.bytes());
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        window: u32,
    },
    Write {
        back: usize,
        sequence: u64,
    },
    /// So many sequences one after the other: what moves a window.
    WriteRun {
        back: usize,
        sequence: u64,
        count: u64,
    },
    Later {
        ms: u64,
    },
    Slice {
        places_max: usize,
        bytes_max: usize,
    },
    Begin,
}

fn step() -> impl Strategy<Value = Step> {
    let sequence = || prop_oneof![20 => 0..40u64, 1 => Just(u64::MAX), 1 => 1000..1004u64];
    let slice = (prop_oneof![0..5usize, Just(usize::MAX)], prop_oneof![1..300usize, Just(1 << 20)]);
    prop_oneof![
        3 => (1..=16u32).prop_map(|window| Step::Open { window }),
        10 => (0..12usize, sequence()).prop_map(|(back, sequence)| Step::Write { back, sequence }),
        4 => (0..12usize, sequence(), 1..20u64)
            .prop_map(|(back, sequence, count)| Step::WriteRun { back, sequence, count }),
        2 => prop_oneof![4 => 0..30u64, 1 => 90..120u64].prop_map(|ms| Step::Later { ms }),
        5 => slice.prop_map(|(places_max, bytes_max)| Step::Slice { places_max, bytes_max }),
        1 => Just(Step::Begin),
    ]
}

proptest! {
    #[test]
    fn every_session_of_the_cut_is_handed_out_once_and_as_it_was(
        windows in proptest::collection::vec(1..=16u32, 0..12),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut walked = Walked::new(BOUNDS);
        windows.into_iter().for_each(|window| walked.open(window));
        walked.begin();
        for step in steps {
            match step {
                Step::Open { window } => walked.open(window),
                Step::Write { back, sequence } => walked.write(back, sequence),
                Step::WriteRun { back, sequence, count } => {
                    let run = sequence..sequence.saturating_add(count);
                    run.for_each(|sequence| walked.write(back, sequence));
                }
                Step::Later { ms } => walked.time.0 += ms,
                Step::Slice { places_max, bytes_max } => walked.slice(places_max, bytes_max),
                Step::Begin => {
                    walked.end();
                    walked.begin();
                }
            }
            check_bytes(&walked.sessions);
        }
        walked.end();
    }
}

#[test]
fn a_walk_that_is_given_up_leaves_nothing() {
    let mut walked = Walked::new(BOUNDS);
    (0..5).for_each(|_| walked.open(8));
    (0..40).for_each(|write| walked.write(write % 5, 1 + write as u64 / 5));
    walked.begin();
    (0..40).for_each(|write| walked.write(write % 5, 9 + write as u64 / 5));
    walked.open(60);
    assert!(walked.sessions.bytes() > bytes_without_walk(&walked.sessions));
    walked.sessions.end_walk();
    assert_eq!(walked.sessions.bytes(), bytes_without_walk(&walked.sessions));
    walked.begin();
    walked.end();
}

/// However large the windows are, and however many uses there are in front of a slow walk: no more
/// is kept than the sessions were at the cut.
#[test]
fn what_is_kept_is_bounded_by_the_cut() {
    let bounds = SessionBounds { sessions: 8, slots: 8 * 1000, idle_ms: 100 };
    let mut walked = Walked::new(bounds);
    (0..8).for_each(|_| walked.open(1000));
    for sequence in 1..=1000 {
        (0..8).for_each(|back| walked.write(back, sequence));
    }
    let at_cut = walked.sessions.bytes();
    walked.begin();
    for sequence in 1001..=20_000 {
        (0..8).for_each(|back| walked.write(back, sequence));
        assert!(walked.sessions.bytes() < 2 * at_cut + 4096);
    }
    walked.end();
}

/// A window of which nothing is left behind costs nothing, and otherwise what is left behind.
#[test]
fn what_is_kept_is_what_was_left_behind() {
    let bounds = SessionBounds { sessions: 2, slots: 2 * 1000, idle_ms: 100 };
    let mut walked = Walked::new(bounds);
    walked.open(1000);
    (1..=1000).for_each(|sequence| walked.write(0, sequence));
    walked.begin();
    walked.write(0, 1000);
    let walk = walked.sessions.walk.as_ref().unwrap();
    assert_eq!((walk.used.len(), walk.room), (1, 0));
    (1001..=1010).for_each(|sequence| walked.write(0, sequence));
    let room = walked.sessions.walk.as_ref().unwrap().room;
    assert!((10..=20).contains(&room), "room for {room}");
    walked.end();
}

/// A session that came in the place of one that has ended is none of the cut.
#[test]
fn a_place_that_is_taken_again_is_not_handed_out() {
    let mut walked = Walked::new(SessionBounds { sessions: 2, ..BOUNDS });
    (0..2).for_each(|_| walked.open(4));
    walked.begin();
    for _ in 0..5 {
        walked.open(4);
        walked.write(0, 1);
    }
    walked.end();
    assert_eq!(walked.found.len(), 2);
}
