//! What the log and the peers are made of: commands, lists, batches, member lists.
#![no_main]

use kvorum_fuzz::{bounded, choice, decoder_bytes};
use kvorum_protocol::{
    Batch, Command, KeyList, LogIndex, Member, MemberList, PairList, Role, ValueList, batch,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bounded(decoder_bytes(input), || {
    let (kind, bytes) = choice(input);
    match kind % 7 {
        0 => check_command(bytes),
        1 => check_batch(bytes),
        2 => {
            let mut sound = bytes.to_vec();
            put_batch_fields(&mut sound);
            check_batch(&sound);
        }
        3 => check_members(bytes),
        4 => check_member(bytes),
        5 => check_lists(bytes),
        _ => {
            if let Ok(values) = ValueList::decode(bytes) {
                assert_eq!(values.iter().count(), values.len());
                assert_eq!(values.as_bytes(), bytes);
            }
        }
    }
}));

fn check_command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    let mut again = Vec::new();
    command.encode(&mut again);
    assert_eq!(again, bytes, "a command has one encoding");
    assert_eq!(command.encoded_len(), bytes.len());
}

fn check_batch(bytes: &[u8]) {
    let checked = batch::check(bytes);
    let decoded = Batch::decode(bytes.to_vec().into());
    assert_eq!(checked, decoded.as_ref().map(|batch| *batch.header()).map_err(|error| *error));
    let Ok(decoded) = decoded else { return };
    let header = *decoded.header();
    let entries: Vec<_> = decoded.entries().collect();
    assert_eq!(entries.len(), header.count as usize);
    assert_eq!(entries[0].0, header.first_index);
    let last_index = LogIndex(header.first_index.0 + u64::from(header.count) - 1);
    assert_eq!(entries.last().unwrap().0, last_index);
    assert_eq!(header.last_index(), last_index);
    let mut offset = batch::BATCH_HEADER_BYTES;
    for (_, command) in entries {
        let (same, end) = batch::entry_at(bytes, offset);
        assert_eq!(same, command);
        offset = end;
    }
    assert_eq!(offset, bytes.len());
}

/// Length, magic and checksum: what a fuzzer can not guess.
fn put_batch_fields(bytes: &mut [u8]) {
    if bytes.len() < batch::BATCH_HEADER_BYTES {
        return;
    }
    let length = u32::try_from(bytes.len()).expect("inputs are small");
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..12].copy_from_slice(b"KVB1");
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

fn check_members(bytes: &[u8]) {
    let Ok(members) = MemberList::decode(bytes) else { return };
    let mut again = Vec::new();
    members.encode(&mut again);
    assert_eq!(again, bytes, "a member list has one encoding");
    assert_eq!(MemberList::new(members.members().to_vec()).unwrap(), members);
    assert!(members.voters().count() >= 1);
    for member in members.members() {
        assert_eq!(members.get(member.id), Some(member));
    }
}

fn check_member(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(member) = Member::parse(text, Role::Voter) else { return };
    // Whatever the command line accepts can be written to the log and read back.
    let list = MemberList::new(vec![member]).expect("one voter is a cluster");
    let mut bytes = Vec::new();
    list.encode(&mut bytes);
    assert_eq!(MemberList::decode(&bytes), Ok(list));
}

fn check_lists(bytes: &[u8]) {
    if let Ok(keys) = KeyList::decode(bytes) {
        assert_eq!(keys.iter().count(), keys.len());
        assert_eq!(keys.as_bytes(), bytes);
    }
    if let Ok(pairs) = PairList::decode(bytes) {
        assert_eq!(pairs.iter().count(), pairs.len());
    }
}
