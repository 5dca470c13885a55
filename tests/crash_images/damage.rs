//! Damage that no crash leaves: flipped bits, lost and foreign files. It is refused; a value is
//! never changed, and what was durable never silently missing.

use std::collections::BTreeMap;

use kvorum::disk::{BLOCK_BYTES, Disk};
use kvorum::wal::{self, Fault, Recovered, WalConfig, WalError};
use kvorum_protocol::{ClusterId, Lsn, NodeId};

use crate::log_workload::{Fact, Journal, Running, Told, config, run_script};
use crate::memory_disk::{Loss, MemoryDisk};

fn segment(sequence: u64) -> String {
    format!("segment-{sequence:016x}.log")
}

/// Segments of a few blocks, so that every byte of a log can be tried.
fn small() -> WalConfig {
    WalConfig {
        segment_bytes_min: 16 << 10,
        segment_bytes_max: 16 << 10,
        batch_bytes_max: 4 << 10,
        reserve_bytes: 0,
        ..config()
    }
}

/// Groups of one and several records in two segments. Everything is durable.
fn small_log() -> (MemoryDisk, Journal) {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open_with(&disk, &mut journal, small()).unwrap();
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    log.batch(&mut journal, 300);
    log.batch(&mut journal, 5);
    log.sync(&mut journal).unwrap();
    log.truncate(&mut journal, 1);
    log.batch(&mut journal, 2000);
    log.sync(&mut journal).unwrap();
    log.batch(&mut journal, 100);
    log.sync(&mut journal).unwrap();
    (disk, journal)
}

fn read(disk: &MemoryDisk) -> Result<(BTreeMap<Lsn, Fact>, Recovered), WalError> {
    let mut told = Told::default();
    let (_, recovered) = wal::open(disk.handle(), small(), &mut told)?;
    Ok((told.facts, recovered))
}

/// The error of a log that must be refused; and the disk must be as it was.
fn refusal(disk: &MemoryDisk) -> WalError {
    let image = |disk: &MemoryDisk| -> Vec<(String, Vec<u8>)> {
        let names = disk.list().unwrap().into_iter();
        names.map(|name| (name.clone(), disk.contents(&name))).collect()
    };
    let before = image(disk);
    let error = match read(disk) {
        Err(error) => error,
        Ok((facts, recovered)) => panic!("was read: {recovered:?}, {} records", facts.len()),
    };
    assert_eq!(image(disk), before, "a refusal changes nothing");
    assert!(error.is_fatal() && !error.to_string().contains('\n'), "{error}");
    error
}

/// Flips one bit in each byte of each file; calls `check` with what is read then, if it is.
fn flip_every_byte(disk: &MemoryDisk, check: impl Fn(&str, usize, BTreeMap<Lsn, Fact>)) -> usize {
    let mut refused = 0;
    for name in disk.list().unwrap() {
        let bytes = disk.contents(&name);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let copy = disk.after_power_cut(Loss::All, 0);
            copy.tamper(&name, damaged);
            match read(&copy) {
                Ok((facts, _)) => check(&name, at, facts),
                Err(WalError::Io { source, .. }) => panic!("{name} at {at}: {source}"),
                Err(_) => refused += 1,
            }
        }
    }
    refused
}

#[test]
fn no_flipped_bit_in_a_marked_log_is_ever_read() {
    let (disk, journal) = small_log();
    // The next start marks the end.
    read(&disk).unwrap();
    let refused = flip_every_byte(&disk, |name, at, facts| {
        assert_eq!(facts, journal.sent, "{name} at {at}");
    });
    assert!(refused > 2500, "most bytes that mean something are refused: {refused}");
}

#[test]
fn a_flipped_bit_in_an_unmarked_log_can_only_cost_the_last_group() {
    let (disk, journal) = small_log();
    let mut without_last = journal.sent.clone();
    without_last.pop_last();
    flip_every_byte(&disk, |name, at, facts| {
        assert!(facts == journal.sent || facts == without_last, "{name} at {at}");
    });
}

#[test]
fn a_segment_whose_first_blocks_are_lost_is_no_spare() {
    let (disk, mut journal) = small_log();
    let mut log = Running::open_with(&disk, &mut journal, small()).unwrap();
    log.batch(&mut journal, 50);
    log.sync(&mut journal).unwrap();
    let name = segment(2);
    let bytes = disk.contents(&name);
    let blocks = bytes.chunks(BLOCK_BYTES).filter(|block| block[0] != 0).count();
    assert!(blocks >= 3, "it has a header and at least two groups");
    for lost in 1..blocks {
        let mut damaged = bytes.clone();
        damaged[..lost * BLOCK_BYTES].fill(0);
        let copy = disk.after_power_cut(Loss::All, 0);
        copy.tamper(&name, damaged);
        let error = refusal(&copy).to_string();
        assert!(error.contains(&name), "{error}");
    }
}

#[test]
fn damage_names_the_file_the_offset_and_the_entry() {
    let (disk, _) = small_log();
    let mut bytes = disk.contents(&segment(1));
    // The second group holds lsn 2 and 3, index 1 to 4.
    bytes[2 * BLOCK_BYTES + 200] ^= 1;
    disk.tamper(&segment(1), bytes);
    let error = refusal(&disk);
    let WalError::Corrupt { path, offset, lsn, index, fault } = &error else { panic!("{error}") };
    assert!(path.ends_with(segment(1)));
    assert_eq!((*offset, lsn.0, index.0), (2 * BLOCK_BYTES as u64, 2, 1));
    assert_eq!(*fault, Fault::BodyChecksum);
    let line = error.to_string();
    assert!(line.contains("offset 8192 (lsn 2, index 1)"), "{line}");
}

#[test]
fn a_damaged_mark_does_not_take_the_group_behind_it_along() {
    let (disk, mut journal) = small_log();
    let mut log = Running::open_with(&disk, &mut journal, small()).unwrap();
    log.batch(&mut journal, 10);
    log.sync(&mut journal).unwrap();
    drop(log);
    let mut bytes = disk.contents(&segment(2));
    let is_mark = |block: &[u8]| block[..4] == *b"KVR1" && block[20] == 6;
    let mark = bytes.chunks(BLOCK_BYTES).rposition(is_mark).expect("recovery has set one");
    bytes[mark * BLOCK_BYTES + 40] ^= 1;
    disk.tamper(&segment(2), bytes);
    assert!(matches!(refusal(&disk), WalError::Corrupt { fault: Fault::HeaderChecksum, .. }));
}

#[test]
fn a_block_of_zeros_in_the_middle_is_damage() {
    let (disk, _) = small_log();
    for block in 1..4 {
        let copy = disk.after_power_cut(Loss::All, 0);
        let mut bytes = copy.contents(&segment(1));
        bytes[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES].fill(0);
        copy.tamper(&segment(1), bytes);
        assert!(matches!(refusal(&copy), WalError::Corrupt { .. }));
    }
}

#[test]
fn a_shorter_file_is_damage() {
    let (disk, _) = small_log();
    for length in [0, 1, 4095, 4096, 8192, 16383] {
        for sequence in [1, 2] {
            let copy = disk.after_power_cut(Loss::All, 0);
            copy.tamper(&segment(sequence), copy.contents(&segment(sequence))[..length].to_vec());
            let error = refusal(&copy);
            assert!(matches!(error, WalError::Corrupt { .. }), "{length}: {error}");
        }
    }
}

#[test]
fn a_missing_segment_is_never_passed_over() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    run_script(&disk, &mut journal).unwrap();
    let mut segments: Vec<String> = disk.list().unwrap();
    segments.retain(|name| name.starts_with("segment-"));
    assert!(segments.len() > 3, "{segments:?}");
    let used = segments.len() - 1;
    // Without the last one, the spare.
    for name in &segments[1..used - 1] {
        let copy = disk.after_power_cut(Loss::Nothing, 0);
        copy.lose(name);
        let error = refusal(&copy);
        assert!(error.to_string().contains(name.as_str()), "{error}");
    }
    // The first one, though a snapshot does not reach that far.
    let (disk, _) = small_log();
    disk.lose(&segment(1));
    assert!(matches!(refusal(&disk), WalError::Missing { path } if path.ends_with(segment(1))));
    disk.lose(&segment(2));
    assert!(matches!(refusal(&disk), WalError::Missing { path } if path.ends_with(segment(1))));
}

#[test]
fn a_missing_or_damaged_identity_is_no_first_boot() {
    let (disk, _) = small_log();
    let copy = disk.after_power_cut(Loss::All, 0);
    copy.lose("identity");
    assert!(matches!(refusal(&copy), WalError::Missing { path } if path.ends_with("identity")));
    // Not even when only the first, nearly empty segment is left.
    copy.lose(&segment(2));
    assert!(matches!(refusal(&copy), WalError::Missing { .. }));
    for contents in [&b""[..], b"kvorum identity 1\n"] {
        let copy = disk.after_power_cut(Loss::All, 0);
        copy.tamper("identity", contents.to_vec());
        assert!(matches!(refusal(&copy), WalError::IdentityDamaged { .. }));
    }
}

#[test]
fn another_nodes_or_clusters_directory_is_refused() {
    let (disk, _) = small_log();
    let mut other = small();
    other.identity.node = NodeId(2);
    let error = wal::open(disk.handle(), other, &mut Told::default()).err().unwrap();
    assert!(matches!(error, WalError::OtherNode { .. }));
    assert!(error.to_string().contains("start with --id 1"), "{error}");
    let other = WalConfig { cluster: Some(ClusterId(7)), ..small() };
    let error = wal::open(disk.handle(), other, &mut Told::default()).err().unwrap();
    assert!(matches!(error, WalError::OtherCluster { .. }), "{error}");
    let same = WalConfig { cluster: Some(small().identity.cluster), ..small() };
    wal::open(disk.handle(), same, &mut Told::default()).unwrap();
}

#[test]
fn a_segment_from_elsewhere_is_refused() {
    let (disk, _) = small_log();
    // A copy under the next name.
    let copy = disk.after_power_cut(Loss::All, 0);
    copy.tamper(&segment(3), copy.contents(&segment(2)));
    assert!(matches!(refusal(&copy), WalError::ForeignSegment { .. }));
    // The same segment of another incarnation of this node.
    let mut other = small();
    other.identity.incarnation += 1;
    let foreign = MemoryDisk::new();
    wal::open(foreign.handle(), other, &mut Told::default()).unwrap();
    let copy = disk.after_power_cut(Loss::All, 0);
    copy.tamper(&segment(1), foreign.contents(&segment(1)));
    assert!(matches!(refusal(&copy), WalError::ForeignSegment { .. }));
    // Something else under a segment's name, and a name that no segment has.
    let copy = disk.after_power_cut(Loss::All, 0);
    copy.tamper(&segment(3), b"Dear diary".repeat(1000));
    assert!(matches!(refusal(&copy), WalError::Corrupt { fault: Fault::SegmentHeader, .. }));
    let copy = disk.after_power_cut(Loss::All, 0);
    copy.tamper("segment-1.log", Vec::new());
    assert!(matches!(refusal(&copy), WalError::StrangeFile { .. }));
}

#[test]
fn another_version_of_the_format_is_named() {
    let (disk, _) = small_log();
    let mut bytes = disk.contents(&segment(1));
    bytes[8] = 2;
    disk.tamper(&segment(1), bytes);
    let error = refusal(&disk);
    assert!(error.to_string().contains("format version 2, this program knows 1"), "{error}");
}

#[test]
fn a_file_that_can_not_be_read_is_an_error_and_not_an_empty_log() {
    for name in ["identity".to_owned(), segment(1), segment(2)] {
        let (disk, _) = small_log();
        disk.make_unreadable(&name);
        let error = read(&disk).err().unwrap();
        assert!(matches!(&error, WalError::Io { path, .. } if path.ends_with(&name)), "{error}");
    }
}

#[test]
fn files_without_a_name_yet_and_files_of_others_do_not_matter() {
    let (disk, journal) = small_log();
    disk.tamper("spare.tmp", b"half a segment".to_vec());
    disk.tamper("identity.tmp", Vec::new());
    disk.tamper("README", b"mine".to_vec());
    let (facts, _) = read(&disk).unwrap();
    assert_eq!(facts, journal.sent);
    let names = disk.list().unwrap();
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
    assert!(names.contains(&"README".to_owned()));
}

#[test]
fn a_torn_group_is_cut_and_the_groups_behind_it_do_not_come_back() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    // Three groups that no sync covers; the power cut takes the first one only.
    for _ in 0..3 {
        log.batch(&mut journal, 10);
        log.writer.write().unwrap();
    }
    drop(log);
    let mut bytes = disk.contents(&segment(1));
    bytes[2 * BLOCK_BYTES..3 * BLOCK_BYTES].fill(0);
    disk.tamper(&segment(1), bytes);
    let log = Running::open(&disk, &mut journal).unwrap();
    assert_eq!(log.recovered.last_lsn, Lsn(1));
    let cut = log.recovered.cut.as_ref().expect("something was cut");
    assert_eq!((cut.offset, cut.lsn), (2 * BLOCK_BYTES as u64, Lsn(2)));
    drop(log);
    let again = Running::open(&disk, &mut journal).unwrap();
    assert!(again.recovered.cut.is_none());
    let bytes = disk.contents(&segment(1));
    assert!(bytes[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 0), "wiped for good");
}
