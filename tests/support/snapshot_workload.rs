//! A state, its snapshot in the making, and what comes back of it.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum::core::log::LogEnd;
use kvorum::core::outcome::{Applied, Outcome};
use kvorum::core::sessions::Session;
use kvorum::core::state::State;
use kvorum::core::store::EncodedItem;
use kvorum::core::{SessionBounds, SnapshotHead};
use kvorum::disk::Disk;
use kvorum::snapshot::{self, SnapshotError, SnapshotInfo, SnapshotWriter};
use kvorum_protocol::{ClusterId, LogIndex, LogTimeMs, MemberList, NodeId, SessionSequence, Term};

pub const CLUSTER: ClusterId = ClusterId(0xc1);

const HASH_SEED: u64 = 77;

/// All keys and all sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub pairs: BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)>,
    pub sessions: BTreeMap<LogIndex, Session>,
}

/// A state that goes on.
pub struct Living {
    pub state: State,
    next: LogIndex,
}

impl Living {
    /// With so many keys, and values up to so many bytes, and some sessions.
    pub fn new(keys: u64, value_bytes_max: u64) -> Living {
        let state = State::new(HASH_SEED, SessionBounds::default());
        let mut living = Living { state, next: LogIndex(1) };
        for window in [1, 5, 64] {
            let index = living.take_index();
            living.state.sessions.open(index, LogTimeMs(1000), window);
        }
        (0..keys).for_each(|key| living.set(key, key * 7919 % (value_bytes_max + 1)));
        living
    }

    fn take_index(&mut self) -> LogIndex {
        let index = self.next;
        self.next = index.next();
        index
    }

    /// Sets a key to a value of so many bytes that no other entry has set, in a session.
    pub fn set(&mut self, key: u64, value_bytes: u64) {
        let index = self.take_index();
        let mut value = vec![0; usize::try_from(value_bytes).unwrap()];
        for (byte, seed) in value.iter_mut().zip(index.0.to_le_bytes().into_iter().cycle()) {
            *byte = seed;
        }
        self.state.store.set(index, &key.to_be_bytes(), &value);
        let name = SessionSequence { session: 1 + key % 3, sequence: 1 + index.0 / 2 };
        let outcome = self.state.sessions.outcome_of(name, index, LogTimeMs(1000 + index.0));
        if let Ok(known) = outcome
            && known.outcome().is_none()
        {
            known.note(Outcome { version: index, applied: Applied::Written });
        }
    }

    pub fn delete(&mut self, key: u64) {
        self.take_index();
        self.state.store.delete(&key.to_be_bytes());
    }

    /// What a snapshot of now says of itself.
    pub fn head(&self) -> SnapshotHead {
        let index = LogIndex(self.next.0 - 1);
        SnapshotHead {
            end: LogEnd { index, term: Term(3), crc: 0x1234_5678, time: LogTimeMs(9_000_000) },
            members: MemberList::lone(NodeId(1), "127.0.0.1:6381").unwrap(),
            members_index: LogIndex(1),
            terms: vec![(LogIndex(1), Term(1)), (LogIndex(3), Term(3))],
            hash_seed: HASH_SEED,
            state_hash: self.state.hash(),
            keys: self.state.store.len() as u64,
        }
    }

    pub fn contents(&mut self) -> Contents {
        contents(&mut self.state)
    }

    /// Writes a snapshot of now, in slices of so many bytes, with changes between them.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write_snapshot(
        &mut self,
        disk: Arc<dyn Disk>,
        slice_bytes: usize,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let head = self.head();
        self.state.sessions.begin_walk(head.end.index);
        self.state.store.begin_walk(head.end.index);
        let written = self.write_parts(disk, &head, slice_bytes);
        self.state.sessions.end_walk();
        self.state.store.end_walk();
        written
    }

    fn write_parts(
        &mut self,
        disk: Arc<dyn Disk>,
        head: &SnapshotHead,
        slice_bytes: usize,
    ) -> Result<SnapshotInfo, SnapshotError> {
        let mut writer = SnapshotWriter::create(disk, CLUSTER, head)?;
        let mut round = 0;
        loop {
            let mut body = Vec::new();
            let slice = self.state.sessions.walk(1, usize::MAX, &mut body);
            writer.sessions(slice.sessions, &body)?;
            if slice.is_last {
                break;
            }
            // In the sessions that the walk has passed, and in those that it has not.
            (0..3).for_each(|change| self.set(head.keys + change, 10));
        }
        loop {
            let mut body = Vec::new();
            let slice = self.state.store.walk(usize::MAX, slice_bytes, &mut body);
            writer.items(slice.first_shard, slice.last_shard, slice.items, &body)?;
            if slice.is_last {
                break;
            }
            for change in 0..3 {
                let key = (round * 31 + change * 17) % head.keys.max(1);
                match change {
                    1 => self.delete(key),
                    _ => self.set(key, round % 50),
                }
                self.set(head.keys + round, 10);
            }
            while let Some((count, strays)) = self.state.store.take_strays() {
                writer.strays(count, &strays)?;
            }
            round += 1;
        }
        writer.finish()
    }
}

/// All sessions as they stand in a snapshot, and how many there are.
pub fn encoded_sessions(state: &State) -> (u32, Vec<u8>) {
    let mut encoded = Vec::new();
    let all = state.sessions.in_order();
    all.iter().for_each(|(id, session)| session.encode(*id, &mut encoded));
    (u32::try_from(all.len()).unwrap(), encoded)
}

/// Everything that a state holds.
pub fn contents(state: &mut State) -> Contents {
    let mut encoded = Vec::new();
    state.store.begin_walk(LogIndex(u64::MAX));
    assert!(state.store.walk(usize::MAX, usize::MAX, &mut encoded).is_last);
    state.store.end_walk();
    let mut pairs = BTreeMap::new();
    let mut rest = &encoded[..];
    while !rest.is_empty() {
        let (EncodedItem { version, key, value }, behind) = EncodedItem::decode(rest).unwrap();
        assert!(pairs.insert(key.to_vec(), (version, value.to_vec())).is_none());
        rest = behind;
    }
    assert_eq!(pairs.len(), state.store.len());
    let sessions = state.sessions.in_order().into_iter().map(|(id, one)| (id, one.clone()));
    Contents { pairs, sessions: sessions.collect() }
}

/// Loads a snapshot whole.
///
/// # Errors
/// What the loader says.
pub fn load(
    disk: &dyn Disk,
    info: &SnapshotInfo,
    threads: usize,
) -> Result<(SnapshotHead, Contents), SnapshotError> {
    let bounds = SessionBounds::default();
    let (head, mut state) = snapshot::load(disk, info, Some(CLUSTER), threads, bounds)?;
    let found = contents(&mut state);
    assert_eq!(found.pairs.len() as u64, head.keys);
    let items = found.pairs.iter().map(|(key, (_, value))| 12 + key.len() + value.len());
    assert!(state.store.bytes() >= items.sum());
    Ok((head, found))
}
