//! The table against a model that remembers everything, and its bounds one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BOUNDS: SessionBounds = SessionBounds { sessions: 4, slots: 12, idle_ms: 100 };

/// What the model knows of a session: all outcomes ever.
#[derive(Clone)]
struct Remembered {
    window: u32,
    last_used: LogIndex,
    last_time: LogTimeMs,
    highest: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// The rules, word for word, without a thought for speed.
#[derive(Clone, Default)]
struct Model {
    sessions: BTreeMap<LogIndex, Remembered>,
}

impl Model {
    fn open(&mut self, index: LogIndex, time: LogTimeMs, window: u32) {
        self.sessions.retain(|_, session| time.0 - session.last_time.0 <= BOUNDS.idle_ms);
        let slots =
            |model: &Model| model.sessions.values().map(|s| s.window as usize).sum::<usize>();
        while self.sessions.len() >= BOUNDS.sessions || slots(self) + window as usize > BOUNDS.slots
        {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used);
            let Some((&oldest, _)) = oldest else { break };
            self.sessions.remove(&oldest);
        }
        let (last_used, last_time) = (index, time);
        let outcomes = BTreeMap::new();
        let session = Remembered { window, last_used, last_time, highest: 0, outcomes };
        self.sessions.insert(index, session);
    }

    fn write(&mut self, name: SessionSequence, index: LogIndex, time: LogTimeMs) -> Outcome {
        let nothing = |applied| Outcome { version: index, applied };
        let id = LogIndex(name.session);
        let Some(session) = self.sessions.get_mut(&id) else {
            return nothing(Applied::SessionExpired);
        };
        if time.0 - session.last_time.0 > BOUNDS.idle_ms {
            self.sessions.remove(&id);
            return nothing(Applied::SessionExpired);
        }
        let window = u64::from(session.window);
        if name.sequence == 0 || session.highest.saturating_sub(name.sequence) >= window {
            return nothing(Applied::SequenceTooOld);
        }
        (session.last_used, session.last_time) = (index, time);
        session.highest = session.highest.max(name.sequence);
        *session.outcomes.entry(name.sequence).or_insert(nothing(Applied::Written))
    }
}

/// What the next entry does, and how much later it is.
#[derive(Clone, Debug)]
enum Step {
    Open {
        window: u32,
    },
    /// In one of the sessions ever opened, or one that never was.
    Write {
        session: usize,
        sequence: u64,
    },
    /// The table is written out and read back, as into a snapshot and from it.
    Reload,
}

fn step() -> impl Strategy<Value = (Step, u64)> {
    let sequence = prop_oneof![20 => 0..12u64, 1 => Just(u64::MAX), 1 => 1_000_000..1_000_004u64];
    let step = prop_oneof![
        2 => (1..=8u32).prop_map(|window| Step::Open { window }),
        12 => (0..12usize, sequence)
            .prop_map(|(session, sequence)| Step::Write { session, sequence }),
        1 => Just(Step::Reload),
    ];
    (step, prop_oneof![8 => 0..10u64, 1 => 80..120u64])
}

/// Applies a write whose effect is [`Applied::Written`].
fn write(sessions: &mut Sessions, name: SessionSequence, index: LogIndex, time: u64) -> Outcome {
    match sessions.outcome_of(name, index, LogTimeMs(time)) {
        Ok(known) => known.outcome().unwrap_or_else(|| {
            let outcome = Outcome { version: index, applied: Applied::Written };
            known.note(outcome);
            outcome
        }),
        Err(applied) => Outcome { version: index, applied },
    }
}

fn reload(sessions: &Sessions) -> Sessions {
    let mut again = Sessions::new(sessions.bounds);
    for (id, session) in sessions.in_order() {
        again.load(id, session.clone());
    }
    again
}

fn check_sums(sessions: &Sessions) {
    let mut sums = Sums::default();
    for (id, session) in sessions.table.iter() {
        assert!(session.outcomes.capacity() <= session.window as usize);
        sums.add(id, session);
    }
    assert_eq!(sessions.sums, sums);
    assert_eq!(sessions.digest(), sessions.digest_from_scratch());
}

proptest! {
    #[test]
    fn the_table_does_what_the_rules_say(steps in prop::collection::vec(step(), 1..200)) {
        let (mut sessions, mut model) = (Sessions::new(BOUNDS), Model::default());
        let (mut opened, mut time) = (vec![LogIndex(u64::MAX)], 0);
        for (index, (step, later)) in (1..).map(LogIndex).zip(steps) {
            time += later;
            match step {
                Step::Open { window } => {
                    sessions.open(index, LogTimeMs(time), window);
                    model.open(index, LogTimeMs(time), window);
                    opened.push(index);
                }
                Step::Write { session, sequence } => {
                    // The latest ones: the others are over.
                    let session = opened[opened.len() - 1 - session.min(opened.len() - 1)].0;
                    let name = SessionSequence { session, sequence };
                    let outcome = write(&mut sessions, name, index, time);
                    prop_assert_eq!(outcome, model.write(name, index, LogTimeMs(time)));
                }
                Step::Reload => sessions = reload(&sessions),
            }
            check_sums(&sessions);
            let all = sessions.in_order();
            prop_assert!(all.iter().map(|(id, _)| id).eq(model.sessions.keys()));
            for (id, session) in all {
                prop_assert_eq!(session.last_used, model.sessions[&id].last_used);
            }
        }
    }
}

fn name(session: u64, sequence: u64) -> SessionSequence {
    SessionSequence { session, sequence }
}

#[test]
fn a_jump_over_all_sequences_takes_no_longer_than_a_window() {
    let mut sessions = Sessions::new(SessionBounds::default());
    sessions.open(LogIndex(1), LogTimeMs(0), 8192);
    for (index, sequence) in [(2, 1), (3, 8192), (4, u64::MAX)] {
        assert_eq!(write(&mut sessions, name(1, sequence), LogIndex(index), 0).version.0, index);
    }
    let old = write(&mut sessions, name(1, u64::MAX - 8192), LogIndex(5), 0);
    assert_eq!(old.applied, Applied::SequenceTooOld);
    assert_eq!(write(&mut sessions, name(1, u64::MAX), LogIndex(6), 0).version, LogIndex(4));
    check_sums(&sessions);
}

#[test]
fn a_full_window_needs_no_more_memory() {
    let mut sessions = Sessions::new(SessionBounds::default());
    assert_eq!(sessions.bytes(), 0, "who has no sessions pays nothing");
    sessions.open(LogIndex(1), LogTimeMs(0), 1000);
    let mut bytes = Vec::new();
    for sequence in 1..=5000 {
        write(&mut sessions, name(1, sequence), LogIndex(1 + sequence), 0);
        bytes.push(sessions.bytes());
    }
    assert!(bytes[1000..].iter().all(|now| *now == bytes[999]));
    let outcomes = 1000 * size_of::<Outcome>();
    assert!((outcomes..outcomes + 1000).contains(&bytes[999]), "{} bytes", bytes[999]);
}

/// However long sessions come and go, no trace of the old ones stays: neither of those that are
/// found to be over, nor of those that nobody asks for again.
#[test]
fn what_is_over_is_forgotten() {
    let bounds = SessionBounds { sessions: 8, slots: 1 << 20, idle_ms: 10 };
    let mut sessions = Sessions::new(bounds);
    for (index, time) in (0..10_000).map(|round| (3 * round, 20 * round)) {
        if index % 2 == 1 {
            let over = write(&mut sessions, name(index - 2, 2), LogIndex(index), time);
            assert_eq!(over.applied, Applied::SessionExpired);
        }
        sessions.open(LogIndex(index + 1), LogTimeMs(time), 4);
        let used = write(&mut sessions, name(index + 1, 1), LogIndex(index + 2), time + 5);
        assert_eq!(used.applied, Applied::Written);
        assert_eq!((sessions.len(), sessions.by_use.len()), (1, 1));
        check_sums(&sessions);
    }
}
