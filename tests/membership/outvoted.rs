//! A node whose state differs from that of the majority, as after a bit of its memory flipped: it
//! stops by itself and says what to do, and nobody else notices anything.

use std::path::Path;
use std::sync::Arc;

use kvorum::core::SessionBounds;
use kvorum::disk::{Disk, FileDisk};
use kvorum::snapshot::{self, SnapshotWriter};
use kvorum::wal;

use crate::load::under_load;
use crate::support::client::Text;
use crate::support::cluster::Cluster;
use crate::{CALM, assert_works, change, grow, wait_for_voters};

/// States are compared after so many entries.
const BETWEEN_CHECKPOINTS: usize = 4096;

/// The newest snapshot of a node that is stopped holds another value from now on, and every
/// checksum says that it is right.
fn change_snapshot(data: &Path, key: &[u8], value: &[u8]) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(data, false).expect("nobody else uses it"));
    let identity = wal::read_identity(&*disk).expect("a log").expect("it is in use");
    let newest = snapshot::list(&*disk).expect("a directory").swap_remove(0);
    let loaded = snapshot::load(&*disk, &newest, None, 1, SessionBounds::default());
    let (mut head, mut state) = loaded.expect("a sound snapshot");
    let (version, _) = state.store.get(key).expect("the key is there");
    state.store.set(version, key, value);
    head.state_hash = state.hash();
    let mut writer = SnapshotWriter::create(Arc::clone(&disk), identity.cluster, &head).unwrap();
    assert!(state.sessions.is_empty(), "nobody has opened one");
    writer.sessions(0, &[]).unwrap();
    let mut items = Vec::new();
    state.store.begin_walk(head.end.index);
    let slice = state.store.walk(usize::MAX, usize::MAX, &mut items);
    assert!(slice.is_last, "the snapshot is small");
    writer.items(slice.first_shard, slice.last_shard, slice.items, &items).unwrap();
    writer.finish().expect("it takes the place of the other");
}

/// Writes until the nodes have something to compare again.
fn pass_a_checkpoint(mut leader: Text) {
    let lines = "SET filler x\n".repeat(BETWEEN_CHECKPOINTS + 1);
    leader.raw().send(lines.as_bytes());
    for _ in 0..=BETWEEN_CHECKPOINTS {
        assert_eq!(leader.reply(), "OK");
    }
}

#[test]
fn a_node_that_differs_stops_and_is_replaced_under_load() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let leader = cluster.leader();
    let differs = cluster.followers()[0];
    assert_eq!(cluster.text(leader).ask("SET truth 1"), "OK");
    cluster.wait_until_applied(&[differs]);
    assert!(cluster.text(differs).ask("SNAPSHOT").starts_with("SNAPSHOT"), "it is taken");
    cluster.kill(differs);
    change_snapshot(&cluster.data(differs), b"truth", b"2");
    under_load(&mut cluster, |cluster| {
        cluster.start_node(differs);
        let mut reader = cluster.text(differs);
        assert_eq!(reader.ask("QUORUM r=1"), "OK");
        assert_eq!(reader.ask("GET truth"), "VALUE 2", "it does differ");
        pass_a_checkpoint(cluster.text(cluster.leader()));
        let exit = cluster.wait_for_end(differs);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let words = exit.last_words();
        assert!(words.contains("differs from that of the majority"), "{words}");
        let way = format!("kvorum member remove {differs}, then kvorum member add");
        assert!(words.contains(&way), "{words}");
        let directory = cluster.data(differs).display().to_string();
        assert!(words.contains(&directory), "{words}");
        // Not even if something starts it again by itself.
        let again = cluster.start_in_vain(differs);
        assert_eq!((again.code, again.last_words()), (Some(1), words));

        change(cluster, &["remove", &differs.to_string()]);
        let id = grow(cluster);
        assert_eq!(id, 4, "a new one");
        let mut voters: Vec<usize> = cluster.running().collect();
        voters.sort_unstable();
        let voters: Vec<String> = voters.iter().map(usize::to_string).collect();
        wait_for_voters(cluster, &voters.join(","));
    });
    assert_works(&cluster);
    for id in cluster.running() {
        assert_eq!(cluster.text(id).ask("GET truth"), "VALUE 1", "node {id}");
    }
    // The states of all that are left are compared, and found equal.
    pass_a_checkpoint(cluster.text(cluster.leader()));
    cluster.wait_until_applied(&cluster.running().collect::<Vec<_>>());
    assert_works(&cluster);
}
