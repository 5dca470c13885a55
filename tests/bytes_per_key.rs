//! What a key costs in memory, with the server's allocator: the figure that the README gives for
//! ten million keys, at one million. `cargo bench --bench core -- --grow` measures the former.

use kvorum::core::store::Store;
use kvorum_protocol::LogIndex;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// For 16 bytes of key and 100 of value.
const RESIDENT_BYTES_PER_KEY_MAX: usize = 165;

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).expect("the second figure is the resident set");
    pages.parse::<usize>().expect("a number") * rustix::param::page_size()
}

#[test]
fn a_million_keys_of_116_bytes_take_little_more() {
    let before = resident_bytes();
    let mut store = Store::new(1);
    for n in 0..KEYS {
        let key = format!("key:{n:012}");
        store.set(LogIndex(n + 1), key.as_bytes(), &VALUE);
    }
    let resident = resident_bytes() - before;
    let (keys, counted) = (store.len(), store.bytes());
    println!("{} resident and {} counted bytes a key", resident / keys, counted / keys);
    assert!(resident / keys <= RESIDENT_BYTES_PER_KEY_MAX, "{} bytes a key", resident / keys);
    // What `--memory-max` limits is what the system sees, to a tenth.
    assert!(counted.abs_diff(resident) * 10 <= resident, "{counted} counted, {resident} resident");
}
