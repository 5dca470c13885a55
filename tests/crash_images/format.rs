//! The worked example of `FORMAT.md` is what the program writes.

use std::fmt::Write as _;

use kvorum::core::Record;
use kvorum::core::log::LogEnd;
use kvorum::wal::{self, WalConfig};
use kvorum_protocol::{BatchBuilder, Command, LogTimeMs, Lsn, NodeId, Op, Term};

use crate::log_workload::{Told, config};
use crate::memory_disk::MemoryDisk;

/// Sixteen bytes a line; zeros at the end left out.
fn hex(bytes: &[u8], offset: usize) -> String {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut text = String::new();
    for (line, bytes) in bytes[..length].chunks(16).enumerate() {
        write!(text, "    {:06x} ", offset + line * 16).unwrap();
        for byte in bytes {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_worked_example_is_what_stands_on_the_disk() {
    let disk = MemoryDisk::new();
    let config = WalConfig { prepare_in_background: false, ..WalConfig::new(config().identity) };
    let (mut writer, _) = wal::open(disk.handle(), config, &mut Told::default()).unwrap();
    writer.stage(Lsn(1), &Record::TermVote { term: Term(1), voted_for: Some(NodeId(1)) });
    writer.write().unwrap();
    writer.sync().unwrap();
    let mut builder = BatchBuilder::new(LogEnd::default().index.next());
    builder.push(&Command::new(Op::Noop));
    builder.push(&Command::new(Op::Set { key: b"k", value: b"v" }));
    let batch = builder.seal(Term(1), LogTimeMs(1_700_000_000_000), 0).unwrap();
    writer.stage(Lsn(2), &Record::Batch(batch));
    writer.write().unwrap();
    writer.sync().unwrap();
    let bytes = disk.contents("segment-0000000000000001.log");
    let document = include_str!("../../src/wal/FORMAT.md");
    let identity = disk.contents("identity");
    let identity = String::from_utf8(identity).unwrap().replace('\n', "\n    ");
    assert!(document.contains(identity.trim_end()), "FORMAT.md has to show\n    {identity}");
    let blocks = [0, 4096, 8192].map(|offset| hex(&bytes[offset..offset + 4096], offset));
    let expected = blocks.join("\n");
    assert!(document.contains(&expected), "FORMAT.md has to show\n{expected}");
    let temp = tempfile::tempdir().unwrap();
    for name in ["identity", "segment-0000000000000001.log"] {
        std::fs::write(temp.path().join(name), disk.contents(name)).unwrap();
    }
    let mut dump = Vec::new();
    wal::dump(temp.path(), &mut dump).unwrap();
    let dump = String::from_utf8(dump).unwrap();
    let records = dump.lines().filter(|line| !line.starts_with("segments="));
    let expected: String = records.flat_map(|line| ["    ", line, "\n"]).collect();
    assert!(document.contains(&expected), "FORMAT.md has to show\n{expected}");
}
