//! A snapshot that nobody's writer has written: any chunks with good checksums, in any order, with
//! bodies of a fuzzer's choice. Whatever stands there, it is refused or loaded; what was loaded
//! makes a snapshot that loads the same.
#![no_main]

#[path = "../../support/memory_disk.rs"]
mod memory_disk;

use std::collections::BTreeMap;

use kvorum::core::digest::{self, Sum};
use kvorum::core::log::LogEnd;
use kvorum::core::sessions::Session;
use kvorum::core::state::State;
use kvorum::core::store::EncodedItem;
use kvorum::core::{SessionBounds, SnapshotHead};
use kvorum::snapshot::{self, Fault, SnapshotError, SnapshotInfo, SnapshotWriter};
use kvorum_fuzz::{bounded, choice, decoder_bytes};
use kvorum_protocol::{ClusterId, LogIndex, LogTimeMs, MemberList, NodeId, Term};
use libfuzzer_sys::fuzz_target;
use memory_disk::MemoryDisk;

const CLUSTER: ClusterId = ClusterId(0xc1);
const CUT: LogIndex = LogIndex(1000);

/// The empty tables of two states, and the files.
const MEMORY_BYTES: usize = 8 << 20;

// The format, written a second time from `src/snapshot/FORMAT.md`.

const BLOCK_BYTES: usize = 4096;
const KIND_HEAD: u8 = 1;
const KIND_SESSIONS: u8 = 2;
const KIND_ITEMS: u8 = 3;
const KIND_STRAYS: u8 = 4;
const KIND_END: u8 = 5;

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    prev: u32,
    chunks: u64,
    keys: u64,
    sessions: u64,
}

impl File {
    fn chunk(&mut self, kind: u8, first: u16, last: u16, items: u32, body: &[u8]) {
        let mut rest = Vec::new();
        for number in [self.prev, crc32fast::hash(body), body.len() as u32, items] {
            rest.extend(number.to_le_bytes());
        }
        rest.extend(first.to_le_bytes());
        rest.extend(last.to_le_bytes());
        rest.extend([kind, 0, 0, 0]);
        self.prev = crc32fast::hash(&rest);
        self.bytes.extend(b"KVS1");
        self.bytes.extend(self.prev.to_le_bytes());
        self.bytes.extend(rest);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        self.chunks += 1;
        match kind {
            KIND_SESSIONS => self.sessions += u64::from(items),
            KIND_ITEMS | KIND_STRAYS => self.keys += u64::from(items),
            _ => {}
        }
    }

    fn good_end(&mut self) {
        let bytes = (self.bytes.len() + BLOCK_BYTES) as u64;
        let totals = [self.chunks + 1, self.keys, self.sessions, bytes];
        let body: Vec<u8> = totals.into_iter().flat_map(u64::to_le_bytes).collect();
        self.chunk(KIND_END, 0, 0, 0, &body);
    }
}

fn head(keys: u64, state_hash: u64) -> SnapshotHead {
    SnapshotHead {
        end: LogEnd { index: CUT, term: Term(2), crc: 3, time: LogTimeMs(4) },
        members: MemberList::lone(NodeId(1), "a:1").expect("a good address"),
        members_index: LogIndex(1),
        terms: vec![(LogIndex(1), Term(2))],
        hash_seed: 5,
        state_hash,
        keys,
    }
}

/// A chunk as the recipe has it: a kind, a place among the shards, a count and a length, the body.
type Part<'a> = ([u8; 4], &'a [u8]);

fn parts(mut recipe: &[u8]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some((&[kind, first, last, items, length], behind)) = recipe.split_first_chunk() {
        let (body, behind) = behind.split_at(usize::from(length).min(behind.len()));
        parts.push(([kind, first, last, items], body));
        recipe = behind;
    }
    parts
}

/// The hash of a state with everything in these parts that can be read.
fn hash_of(parts: &[Part<'_>]) -> u64 {
    let (mut items, mut sessions) = (Sum::default(), Sum::default());
    for &([kind, .., count], mut body) in parts {
        for _ in 0..count {
            if kind == KIND_SESSIONS {
                let Ok((id, session, rest)) = Session::decode(body) else { break };
                sessions = sessions.and(session.digest(id));
                body = rest;
            } else {
                let Ok((item, rest)) = EncodedItem::decode(body) else { break };
                items.add(digest::item(digest::key(item.key), item.version, item.value));
                body = rest;
            }
        }
    }
    digest::state(items, sessions)
}

/// Writes what the recipe says: how many keys to claim, or no head at all, then the parts.
fn forge(recipe: &[u8]) -> Vec<u8> {
    let (keys, rest) = choice(recipe);
    let parts = parts(rest);
    let mut file = File::default();
    if keys < 0x80 {
        let mut body = 1_u32.to_le_bytes().to_vec();
        body.extend(CLUSTER.0.to_le_bytes());
        head(u64::from(keys), hash_of(&parts)).encode(&mut body);
        file.chunk(KIND_HEAD, 0, 0, 0, &body);
    }
    for ([kind, first, last, items], body) in parts {
        let shards = match kind {
            KIND_ITEMS => (u16::from(first) << 4, u16::from(last) << 4 | 15),
            _ => (0, 0),
        };
        file.chunk(kind, shards.0, shards.1, u32::from(items), body);
    }
    file.good_end();
    file.bytes
}

type Contents = (BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)>, BTreeMap<LogIndex, Session>);

fn contents(state: &mut State) -> (Vec<u8>, u32, Contents) {
    let mut encoded = Vec::new();
    state.store.begin_walk(CUT);
    let slice = state.store.walk(usize::MAX, usize::MAX, &mut encoded);
    assert!(slice.is_last && slice.items as usize == state.store.len());
    state.store.end_walk();
    let mut pairs = BTreeMap::new();
    let mut rest = &encoded[..];
    while !rest.is_empty() {
        let (item, behind) = EncodedItem::decode(rest).expect("the store encodes items");
        pairs.insert(item.key.to_vec(), (item.version, item.value.to_vec()));
        rest = behind;
    }
    let sessions = state.sessions.in_order();
    let sessions = sessions.into_iter().map(|(id, session)| (id, session.clone())).collect();
    (encoded, slice.items, (pairs, sessions))
}

fn load(disk: &MemoryDisk, info: &SnapshotInfo) -> Result<(SnapshotHead, State), SnapshotError> {
    snapshot::load(disk, info, Some(CLUSTER), 1, SessionBounds::default())
}

fuzz_target!(|input: &[u8]| {
    let bytes = forge(input);
    let disk = MemoryDisk::new();
    let name = snapshot::snapshot_name(CUT);
    let info = SnapshotInfo { index: CUT, bytes: bytes.len() as u64, path: name.clone().into() };
    disk.tamper(&name, bytes.clone());
    bounded(MEMORY_BYTES + decoder_bytes(&bytes), || {
        let verified = snapshot::verify(&disk, &name, Some(CLUSTER));
        match (load(&disk, &info), verified) {
            (Ok((head, state)), Ok(summary)) => {
                assert_eq!(summary.keys, state.store.len() as u64);
                assert_eq!(summary.sessions, state.sessions.len() as u64);
                check_again(head, state);
            }
            // Only who keeps all keys knows.
            (Err(SnapshotError::Corrupt { fault: Fault::Twice, .. }), _) => {}
            (Err(loaded), Err(verified)) => {
                assert!(!loaded.to_string().contains('\n') && !verified.to_string().contains('\n'));
            }
            (loaded, verified) => panic!("{:?} and {verified:?}", loaded.map(|_| ())),
        }
    });
});

/// Writes a snapshot of what was loaded, and loads it.
fn check_again(head: SnapshotHead, mut state: State) {
    let disk = MemoryDisk::new();
    let mut writer = SnapshotWriter::create(std::sync::Arc::new(disk.clone()), CLUSTER, &head)
        .expect("the disk takes it");
    let mut sessions = Vec::new();
    state.sessions.begin_walk(CUT);
    let slice = state.sessions.walk(usize::MAX, usize::MAX, &mut sessions);
    writer.sessions(slice.sessions, &sessions).expect("the disk takes it");
    let (items, count, expected) = contents(&mut state);
    writer.items(0, 4095, count, &items).expect("the disk takes it");
    let info = writer.finish().expect("the disk takes it");
    drop(state);
    let (head_again, mut again) = load(&disk, &info).expect("the writer writes what is read");
    assert_eq!(head_again, head);
    assert!(contents(&mut again).2 == expected);
}
