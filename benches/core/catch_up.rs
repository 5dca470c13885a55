//! A follower that has missed millions of entries: how fast the log is read back for it, from the
//! files of a log that was just written, through the thread that the server has for it. And a start
//! that has nothing but this log: how fast the state is made from it again.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kvorum::core::{Fetch, Node, NodeConfig, Output, Record, Recovery};
use kvorum::disk::{Disk, FileDisk};
use kvorum::net::{Fetched, LogReader};
use kvorum::wal::{self, Identity, WalConfig};
use kvorum_protocol::{
    Batch, BatchBuilder, Command, LogIndex, LogTimeMs, Lsn, MemberList, NodeId, Op, Term,
};
use mio::{Events, Poll, Token, Waker};

use super::{NOW, VALUE, commit, numbered};

/// What a leader asks for at once.
const FETCH_BYTES: usize = 4 << 20;

/// What the log thread writes at once when much is to do.
const GROUP_BYTES: usize = 256 << 10;

/// Writes logs of `entries` SETs of 16 + 100 bytes, and reads them back.
pub fn run(entries: u64) {
    let identity = Identity::random(NodeId(1), None);
    for batch_entries in [1, 16, 256] {
        let temp = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = FileDisk::open(temp.path(), true).expect("a new directory can be used");
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let started = Instant::now();
        write(Arc::clone(&disk), identity, entries, batch_entries);
        let wrote = started.elapsed();
        let log_bytes = directory_bytes(temp.path());
        let started = Instant::now();
        let read = read_back(Arc::clone(&disk), entries);
        let took = started.elapsed().as_secs_f64();
        println!(
            "{entries} entries in batches of {batch_entries}: read back in {took:.2} s, \
             {:.0} MB/s of batches, {:.2} million entries/s, {} fetches (files of {} MB, \
             written in {:.1} s)",
            read.bytes as f64 / took / 1e6,
            entries as f64 / took / 1e6,
            read.fetches,
            log_bytes / 1_000_000,
            wrote.as_secs_f64()
        );
        let started = Instant::now();
        let replayed = replay(disk, identity);
        let took = started.elapsed().as_secs_f64();
        println!(
            "  replayed at a start in {took:.2} s, {:.2} million entries/s, {replayed} keys",
            entries as f64 / took / 1e6
        );
    }
}

fn write(disk: Arc<dyn Disk>, identity: Identity, entries: u64, batch_entries: u64) {
    let opened = wal::open(disk, WalConfig::new(identity), &mut Recovery::new(1));
    let (mut writer, _) = opened.expect("an empty directory is a log");
    let mut lsn = Lsn(1);
    writer.stage(lsn, &Record::TermVote { term: Term(1), voted_for: Some(NodeId(1)) });
    let mut builder = BatchBuilder::new(LogIndex(1));
    let (mut prev_crc, mut group_bytes) = (0, 0);
    for number in 1..=entries {
        let key = numbered(number);
        builder.push(&Command::new(Op::Set { key: &key, value: &VALUE }));
        if number % batch_entries != 0 && number != entries {
            continue;
        }
        let batch = builder.seal(Term(1), LogTimeMs(1), prev_crc).expect("it has entries");
        prev_crc = batch.header().crc;
        group_bytes += batch.bytes().len();
        lsn = lsn.next();
        writer.stage(lsn, &Record::Batch(batch));
        if group_bytes >= GROUP_BYTES || number == entries {
            writer.write().expect("the disk takes it");
            writer.tend(Instant::now()).expect("the disk takes it");
            group_bytes = 0;
        }
    }
    writer.close().expect("the disk takes it");
}

/// Makes the state again, as a start does; answers how many keys it has. The entries count as
/// committed when a node has gone on with them.
fn replay(disk: Arc<dyn Disk>, identity: Identity) -> usize {
    let mut recovery = Recovery::new(1);
    wal::open(disk, WalConfig::new(identity), &mut recovery).expect("it was closed well");
    let members = MemberList::lone(NodeId(1), "localhost:6379").expect("a good address");
    let mut node = Node::new(NodeConfig::new(NodeId(1), members), recovery, 1 << 40);
    let mut out = Output::default();
    node.tick(&NOW);
    while !node.is_ready() {
        commit(&mut node, &mut out);
    }
    node.status().keys
}

struct ReadBack {
    bytes: u64,
    fetches: u64,
}

fn read_back(disk: Arc<dyn Disk>, entries: u64) -> ReadBack {
    let mut poll = Poll::new().expect("the system gives a poll");
    let waker = Waker::new(poll.registry(), Token(0)).expect("and a waker");
    let mut reader = LogReader::start(disk, Arc::new(waker)).expect("and a thread");
    let mut events = Events::with_capacity(1);
    let mut read = ReadBack { bytes: 0, fetches: 0 };
    let mut next = LogIndex(1);
    while next <= LogIndex(entries) {
        reader.submit(Fetch {
            member: NodeId(2),
            from: next,
            end: LogIndex(entries + 1),
            bytes_max: FETCH_BYTES,
            terms: vec![(LogIndex(1), Term(1))],
        });
        read.fetches += 1;
        let batches = loop {
            if let Some(fetched) = reader.take_results().next() {
                let Fetched::Log { batches, .. } = fetched else {
                    panic!("nobody asks for a snapshot")
                };
                break batches;
            }
            poll.poll(&mut events, None).expect("the poll works");
        };
        assert!(!batches.is_empty(), "the log can be read from {next} on");
        for header in batches.iter().map(Batch::header) {
            assert_eq!(header.first_index, next, "in order");
            next = header.last_index().next();
        }
        read.bytes += batches.iter().map(|batch| batch.bytes().len() as u64).sum::<u64>();
    }
    read
}

fn directory_bytes(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).expect("the directory is there");
    files.map(|file| file.and_then(|file| file.metadata()).map_or(0, |data| data.len())).sum()
}
