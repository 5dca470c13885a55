//! Recovery on a log that nobody's writer has written: any records with good checksums, in any
//! order, and arbitrary bytes. Whatever stands there, it is refused or read; what was read is read
//! again the same.
#![no_main]

#[path = "../../support/memory_disk.rs"]
mod memory_disk;

use kvorum::core::log::LogEnd;
use kvorum::core::{Recovery, ReplayError};
use kvorum::disk::BLOCK_BYTES;
use kvorum::wal::{self, Identity, RecordView, RecoverySink, WalConfig};
use kvorum_fuzz::bounded;
use kvorum_protocol::{
    BatchBuilder, ClusterId, Command, LogIndex, LogTimeMs, Lsn, NodeId, Op, Term,
};
use libfuzzer_sys::fuzz_target;
use memory_disk::MemoryDisk;

const IDENTITY: Identity =
    Identity { cluster: ClusterId(0xc1), node: NodeId(1), incarnation: 0x1c };

const SEGMENT_BYTES: usize = 16 << 10;

// The format, written a second time from `src/wal/FORMAT.md`.

const SEGMENT_HEADER_BYTES: usize = 4096;
const RECORD_ALIGNMENT: usize = 8;
const KIND_BATCH: u8 = 1;
const KIND_TERM_VOTE: u8 = 2;
const KIND_MARK: u8 = 4;

struct SegmentHeader {
    sequence: u64,
    segment_bytes: u64,
    first_lsn: u64,
    prev: u32,
    commit: u64,
    state: State,
}

/// Term, vote, and end of the replicated log.
#[derive(Clone, Copy, Default)]
struct State {
    term: u64,
    voted_for: u16,
    end: LogEnd,
}

impl SegmentHeader {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = b"KVORUMLG".to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(self.prev.to_le_bytes());
        let State { term, voted_for, end } = &self.state;
        for number in [
            IDENTITY.cluster.0,
            IDENTITY.incarnation,
            self.sequence,
            self.segment_bytes,
            self.first_lsn,
            *term,
            self.commit,
            end.index.0,
            end.term.0,
            end.time.0,
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(end.crc.to_le_bytes());
        bytes.extend(IDENTITY.node.0.to_le_bytes());
        bytes.extend(voted_for.to_le_bytes());
        bytes.resize(124, 0);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

struct RecordHeader {
    prev: u32,
    body_bytes: u32,
    body_crc: u32,
    kind: u8,
    ends_group: bool,
    segment: u64,
    lsn: u64,
    synced: u64,
    commit: u64,
}

impl RecordHeader {
    /// The header, and its checksum, which the next record names.
    fn encode(&self) -> (Vec<u8>, u32) {
        let mut rest = Vec::new();
        for number in [self.prev, self.body_bytes, self.body_crc] {
            rest.extend(number.to_le_bytes());
        }
        rest.extend([self.kind, u8::from(self.ends_group), 0, 0]);
        for number in [IDENTITY.incarnation, self.segment, self.lsn, self.synced, self.commit] {
            rest.extend(number.to_le_bytes());
        }
        let crc = crc32fast::hash(&rest);
        let mut bytes = b"KVR1????".to_vec();
        bytes[4..].copy_from_slice(&crc.to_le_bytes());
        bytes.extend(rest);
        (bytes, crc)
    }
}

const MEMORY_BYTES: usize = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let disk = forge(Recipe(input));
    bounded(MEMORY_BYTES, || {
        let mut first = Sink::new();
        match wal::open(disk.handle(), config(), &mut first) {
            Ok((writer, recovered)) => {
                assert_eq!(recovered.last_lsn, first.last_lsn.max(recovered.last_lsn));
                drop(writer);
            }
            Err(error) => return assert!(!error.to_string().contains('\n'), "{error}"),
        }
        let mut again = Sink::new();
        let opened = wal::open(disk.handle(), config(), &mut again);
        assert!(opened.is_ok(), "opened once, and not again: {:?}", opened.err());
        assert_eq!(again.told, first.told);
    });
});

fn config() -> WalConfig {
    WalConfig {
        segment_bytes_min: SEGMENT_BYTES as u64,
        segment_bytes_max: SEGMENT_BYTES as u64,
        batch_bytes_max: 2 << 10,
        reserve_bytes: 4 << 10,
        prepare_in_background: false,
        ..WalConfig::new(IDENTITY)
    }
}

/// Rebuilds the state as the server does.
struct Sink {
    recovery: Recovery,
    last_lsn: Lsn,
    told: Vec<String>,
}

impl Sink {
    fn new() -> Sink {
        Sink { recovery: Recovery::new(1), last_lsn: Lsn(0), told: Vec::new() }
    }
}

impl RecoverySink for Sink {
    fn record(
        &mut self,
        lsn: Lsn,
        commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        self.last_lsn = lsn;
        self.told.push(format!("{lsn} {record:?}"));
        self.recovery.record(lsn, commit, record)
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes <= total_bytes);
    }
}

/// The fuzzer's choices; zeros at its end.
struct Recipe<'a>(&'a [u8]);

impl<'a> Recipe<'a> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Near what would be right, or near either end of what there is.
    fn instead_of(&mut self, right: u64) -> u64 {
        let step = u64::from(self.byte());
        match self.byte() % 4 {
            0 => right.wrapping_add(step),
            1 => right.wrapping_sub(step),
            2 => step,
            _ => u64::MAX - step,
        }
    }
}

/// The log so far, as it would go on.
struct Forger {
    disk: MemoryDisk,
    segment: Vec<u8>,
    sequence: u64,
    offset: usize,
    lsn: u64,
    prev: u32,
    state: State,
}

fn forge(mut recipe: Recipe<'_>) -> MemoryDisk {
    let mut forger = Forger {
        disk: MemoryDisk::new(),
        segment: Vec::new(),
        sequence: 0,
        offset: 0,
        lsn: 0,
        prev: 0,
        state: State::default(),
    };
    // A first boot leaves the identity.
    let mut sink = Sink::new();
    wal::open(forger.disk.handle(), config(), &mut sink).expect("nothing fails here");
    forger.begin_segment(&mut recipe);
    while !recipe.0.is_empty() {
        match recipe.byte() % 8 {
            0..=4 => forger.record(&mut recipe),
            5 => forger.offset = forger.offset.next_multiple_of(BLOCK_BYTES),
            6 => {
                forger.end_segment();
                forger.begin_segment(&mut recipe);
            }
            _ => {
                let length = usize::from(recipe.byte());
                forger.put(recipe.bytes(length));
            }
        }
    }
    forger.end_segment();
    forger.disk
}

impl Forger {
    fn begin_segment(&mut self, recipe: &mut Recipe<'_>) {
        self.sequence += 1;
        let mut header = SegmentHeader {
            sequence: self.sequence,
            segment_bytes: SEGMENT_BYTES as u64,
            first_lsn: self.lsn.wrapping_add(1),
            prev: self.prev,
            commit: 0,
            state: self.state,
        };
        let wrong = recipe.byte();
        if wrong & 1 != 0 {
            header.first_lsn = recipe.instead_of(header.first_lsn);
            self.lsn = header.first_lsn.wrapping_sub(1);
        }
        if wrong & 2 != 0 {
            header.state.end.index = LogIndex(recipe.instead_of(self.state.end.index.0));
        }
        if wrong & 4 != 0 {
            header.state.term = recipe.instead_of(self.state.term);
        }
        if wrong & 8 != 0 {
            header.commit = recipe.instead_of(0);
        }
        if wrong & 16 != 0 {
            header.segment_bytes = recipe.instead_of(SEGMENT_BYTES as u64);
        }
        if wrong & 32 != 0 {
            header.state.end.time = LogTimeMs(recipe.instead_of(0));
        }
        self.state = header.state;
        self.segment = vec![0; SEGMENT_BYTES];
        self.offset = 0;
        if wrong & 64 == 0 {
            self.put(&header.encode());
        }
        self.offset = SEGMENT_HEADER_BYTES;
    }

    fn end_segment(&mut self) {
        self.disk.tamper(
            &format!("segment-{:016x}.log", self.sequence),
            std::mem::take(&mut self.segment),
        );
    }

    /// Writes what still fits.
    fn put(&mut self, bytes: &[u8]) {
        let room = &mut self.segment[self.offset.min(SEGMENT_BYTES)..];
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.offset += length;
    }

    fn record(&mut self, recipe: &mut Recipe<'_>) {
        let kind = recipe.byte();
        let (kind, mut body) = match kind % 5 {
            0 | 1 => (KIND_BATCH, self.batch(recipe)),
            2 => (KIND_TERM_VOTE, self.term_vote(recipe)),
            3 => (KIND_MARK, Vec::new()),
            _ => {
                let length = usize::from(recipe.byte());
                (kind / 5, recipe.bytes(length).to_vec())
            }
        };
        let mut body_crc = 0;
        if body.len() >= 4 {
            body_crc = crc32fast::hash(&body[4..]);
            body[..4].copy_from_slice(&body_crc.to_le_bytes());
        }
        let is_mark = kind == KIND_MARK;
        let lsn = self.lsn.wrapping_add(u64::from(!is_mark));
        let mut header = RecordHeader {
            prev: self.prev,
            body_bytes: u32::try_from(body.len()).expect("bodies are small"),
            body_crc,
            kind,
            ends_group: true,
            segment: self.sequence,
            lsn,
            synced: 0,
            commit: 0,
        };
        let wrong = recipe.byte();
        if wrong & 1 != 0 {
            header.ends_group = false;
        }
        if wrong & 2 != 0 {
            header.lsn = recipe.instead_of(lsn);
        }
        if wrong & 4 != 0 {
            header.synced = recipe.instead_of(self.offset as u64);
        }
        if wrong & 8 != 0 {
            header.commit = recipe.instead_of(self.state.end.index.0);
        }
        if wrong & 16 != 0 {
            // More than there is, up to more than there can be.
            let claimed = recipe.instead_of(u64::from(header.body_bytes));
            header.body_bytes = u32::try_from(claimed & 0xffff_ffff).expect("masked");
        }
        if wrong & 32 != 0 {
            header.segment = recipe.instead_of(self.sequence);
        }
        let (bytes, crc) = header.encode();
        self.put(&bytes);
        self.put(&body);
        self.offset = self.offset.next_multiple_of(RECORD_ALIGNMENT);
        if header.ends_group {
            self.offset = self.offset.next_multiple_of(BLOCK_BYTES);
        }
        (self.lsn, self.prev) = (header.lsn, crc);
    }

    /// A batch with fields of the fuzzer's choice, whose commands may be any bytes.
    fn batch(&mut self, recipe: &mut Recipe<'_>) -> Vec<u8> {
        let end = &self.state.end;
        let wrong = recipe.byte();
        let first_index = match wrong & 1 {
            0 => end.index.0.wrapping_add(1),
            _ => recipe.instead_of(end.index.0.wrapping_add(1)),
        };
        let term = match wrong & 2 {
            0 => self.state.term,
            _ => recipe.instead_of(self.state.term),
        };
        let time = match wrong & 4 {
            0 => end.time.0,
            _ => recipe.instead_of(end.time.0),
        };
        let mut builder = BatchBuilder::new(LogIndex(0));
        for _ in 0..1 + recipe.byte() % 3 {
            let length = usize::from(recipe.byte());
            let bytes = recipe.bytes(length);
            let command = Command::decode(bytes);
            builder.push(&command.unwrap_or(Command::new(Op::Set { key: bytes, value: bytes })));
        }
        let batch = builder.seal(Term(term), LogTimeMs(time), end.crc).expect("it has entries");
        let mut bytes = batch.bytes().to_vec();
        bytes[16..24].copy_from_slice(&first_index.to_le_bytes());
        if wrong & 8 != 0 {
            bytes[12] = recipe.byte();
        }
        self.state.end = LogEnd {
            index: LogIndex(first_index.wrapping_add(u64::from(batch.header().count) - 1)),
            term: Term(term),
            crc: crc32fast::hash(&bytes[4..]),
            time: LogTimeMs(time),
        };
        bytes
    }

    fn term_vote(&mut self, recipe: &mut Recipe<'_>) -> Vec<u8> {
        let term = match recipe.byte() % 2 {
            0 => self.state.term.wrapping_add(1),
            _ => recipe.instead_of(self.state.term),
        };
        let vote = recipe.byte();
        self.state.term = term;
        self.state.voted_for = u16::from(vote);
        let mut body = vec![0; 16];
        body[4] = vote;
        body[8..].copy_from_slice(&term.to_le_bytes());
        body
    }
}
