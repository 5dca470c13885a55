//! What a machine's disk holds of snapshots, and what is on its way there. The keys come from the
//! real walk; the file is a plain row of what it has to hold, because the core does not know what
//! files look like.

use bytes::Bytes;
use kvorum::core::sessions::Session;
use kvorum::core::snapshot::SnapshotHead;
use kvorum::core::state::State;
use kvorum::core::store::EncodedItem;
use kvorum::core::{Node, SessionBounds, SnapshotFetch, SnapshotPart};
use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::{LogIndex, NodeId};

use super::words::Shown;

/// A whole snapshot.
#[derive(Clone)]
pub struct Snapshot {
    pub head: SnapshotHead,
    file: Bytes,
}

/// One that is being made.
pub struct Making {
    head: SnapshotHead,
    /// Once they were walked.
    sessions: Option<Vec<u8>>,
    items: Vec<u8>,
}

/// Which snapshot: its index, its length, its file.
type Name = (LogIndex, u64, u64);

#[derive(Default)]
pub struct Snapshots {
    /// The newest one, durable. It has taken the place of those before it.
    newest: Option<Snapshot>,
    making: Option<Making>,
    arriving: Option<(Name, Vec<u8>)>,
    arrived: Option<Name>,
    /// Those of a leader that are whole, and not installed yet.
    loaded: Option<Snapshot>,
    /// What the node has asked for, and what has come for it.
    pub fetches: Vec<SnapshotFetch>,
    pub parts: Vec<(NodeId, SnapshotChunk)>,
}

impl Snapshot {
    /// Reads a file as [`Making::finish`] makes it.
    fn read(file: Bytes) -> Snapshot {
        let (head, _) = section(&file);
        Snapshot { head: SnapshotHead::decode(head).expect("a head of this version"), file }
    }

    /// Builds the state.
    ///
    /// # Panics
    /// When it is not the one that the head names.
    pub fn load(&self, bounds: SessionBounds) -> State {
        let mut state = State::new(self.head.hash_seed, bounds);
        let (_, rest) = section(&self.file);
        let (mut sessions, mut items) = section(rest);
        while !sessions.is_empty() {
            let (id, session, rest) = Session::decode(sessions).expect("a whole session");
            state.sessions.load(id, session);
            sessions = rest;
        }
        while !items.is_empty() {
            let (item, rest) = EncodedItem::decode(items).expect("a whole item");
            assert!(state.store.get(item.key).is_none(), "every key is there once");
            state.store.set(item.version, item.key, item.value);
            items = rest;
        }
        assert_eq!(state.store.len() as u64, self.head.keys, "no key is missing");
        assert_eq!(state.hash(), self.head.state_hash, "it is the state at the cut");
        state
    }

    /// What it holds, in words.
    fn words(&self) -> String {
        let SnapshotHead { end, members_index, keys, .. } = &self.head;
        let (_, rest) = section(&self.file);
        let (mut sessions, mut items) = section(rest);
        let mut lines = Vec::new();
        while !sessions.is_empty() {
            let (id, session, rest) = Session::decode(sessions).expect("a whole session");
            let Session { last_used, first, outcomes, .. } = session;
            let known = outcomes.iter().flatten().map(|outcome| outcome.version.to_string());
            let known = known.collect::<Vec<_>>().join(",");
            lines.push(format!("  session {id} used={last_used} first={first} known={known}\n"));
            sessions = rest;
        }
        while !items.is_empty() {
            let (item, rest) = EncodedItem::decode(items).expect("a whole item");
            let (key, value, version) = (Shown(item.key), Shown(item.value), item.version);
            lines.push(format!("  {key} {value} version={version}\n"));
            items = rest;
        }
        // The order is that of the table, which is nobody's business.
        lines.sort_unstable();
        let (index, term) = (end.index, end.term);
        format!("snapshot index={index} term={term} members={members_index} keys={keys}\n")
            + &lines.concat()
    }
}

impl Making {
    fn finish(self) -> Snapshot {
        let mut head = Vec::new();
        self.head.encode(&mut head);
        let mut file = Vec::new();
        let sessions = self.sessions.expect("they were walked first");
        for section in [&head, &sessions] {
            let bytes = u32::try_from(section.len()).expect("scripts are small");
            file.extend_from_slice(&bytes.to_le_bytes());
            file.extend_from_slice(section);
        }
        file.extend_from_slice(&self.items);
        Snapshot { head: self.head, file: file.into() }
    }
}

/// The section at the start of `bytes`, and what comes behind it.
fn section(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    rest.split_at(u32::from_le_bytes(*length) as usize)
}

impl Snapshots {
    /// Only what is durable survives.
    pub fn crash(&mut self) {
        *self = Snapshots { newest: self.newest.take(), ..Snapshots::default() };
    }

    pub fn newest(&self) -> Option<&Snapshot> {
        self.newest.as_ref()
    }

    /// A new one is durable: it takes the place of an older one.
    fn add(&mut self, snapshot: Snapshot) {
        let known = self.newest.as_ref().map_or(LogIndex(0), |known| known.head.end.index);
        if known <= snapshot.head.end.index {
            self.newest = Some(snapshot);
        }
    }

    // Making one

    pub fn begin(&mut self, node: &mut Node) -> String {
        let Some(head) = node.begin_snapshot() else { return "no snapshot now\n".to_owned() };
        let (index, count) = (head.end.index, node.sessions().len());
        self.making = Some(Making { head, sessions: None, items: Vec::new() });
        format!("snapshot of {index} begins: sessions={count}\n")
    }

    /// Takes a slice of so many places of the table, and what was changed before its turn came; all
    /// sessions before the first one. With the last one the snapshot is durable.
    pub fn walk(&mut self, node: &mut Node, buckets: usize) -> String {
        let making = self.making.as_mut().expect("the script has begun one");
        making.sessions.get_or_insert_with(|| {
            let mut sessions = Vec::new();
            while !node.walk_snapshot_sessions(1, usize::MAX, &mut sessions).is_last {}
            sessions
        });
        let slice = node.walk_snapshot(buckets, usize::MAX, &mut making.items);
        let mut copied_aside = 0;
        while let Some((items, strays)) = node.take_strays() {
            copied_aside += items;
            making.items.extend_from_slice(&strays);
        }
        let said = format!("walk: items={} copied_aside={copied_aside}\n", slice.items);
        if !slice.is_last {
            return said;
        }
        node.end_snapshot();
        let snapshot = self.making.take().expect("it was there").finish();
        let words = snapshot.words();
        self.add(snapshot);
        said + &words
    }

    /// Another state takes the place of the one that is being walked.
    pub fn give_up(&mut self, node: &mut Node) {
        if self.making.take().is_some() {
            node.end_snapshot();
        }
    }

    // Sending one

    /// The part that the leader wants to send.
    pub fn part(&self, fetch: &SnapshotFetch, part_bytes: usize) -> Option<SnapshotPart> {
        let Snapshot { head, file } = self.newest.as_ref()?;
        if fetch.index.is_some_and(|index| index != head.end.index) {
            return None;
        }
        let start = usize::try_from(fetch.offset).expect("scripts are small");
        Some(SnapshotPart {
            index: head.end.index,
            index_term: head.end.term,
            total_bytes: file.len() as u64,
            file: u64::from(crc32fast::hash(file)),
            offset: fetch.offset,
            bytes: file.slice(start..file.len().min(start + part_bytes)),
        })
    }

    // Getting one

    /// A part comes to the disk; answers how much is there then, unless it is of no use. The last
    /// part makes the whole durable, and it is loaded.
    pub fn keep(&mut self, chunk: &SnapshotChunk) -> Option<u64> {
        let name = (chunk.index, chunk.total_bytes, chunk.file);
        if self.arrived == Some(name) {
            return Some(chunk.total_bytes);
        }
        if self.arriving.as_ref().is_none_or(|(known, _)| *known != name) {
            self.arriving = None;
            if chunk.offset > 0 {
                return None;
            }
        }
        let (_, bytes) = self.arriving.get_or_insert_with(|| (name, Vec::new()));
        if bytes.len() as u64 == chunk.offset {
            bytes.extend_from_slice(&chunk.bytes);
        }
        let offset = bytes.len() as u64;
        if offset == chunk.total_bytes {
            let (_, bytes) = self.arriving.take().expect("its last part has come");
            let snapshot = Snapshot::read(bytes.into());
            self.arrived = Some(name);
            self.loaded = Some(snapshot.clone());
            self.add(snapshot);
        }
        Some(offset)
    }

    /// What a leader has sent, once it is whole.
    pub fn take_loaded(&mut self) -> Option<Snapshot> {
        self.loaded.take()
    }
}
