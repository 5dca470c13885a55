//! Writing the contents of a snapshot again, under another head.

use std::sync::Arc;

use kvorum_protocol::ClusterId;

use super::SnapshotInfo;
use super::error::SnapshotError;
use super::reader::{Chunk, Reader};
use super::writer::SnapshotWriter;
use crate::core::SnapshotHead;
use crate::core::store::EncodedItem;
use crate::disk::Disk;

/// What is handed to the writer at once.
const PORTION_BYTES: usize = 1 << 20;

/// Copies everything that `from` has not read yet, which is all of it, to a snapshot of another
/// cluster on `disk`. `change` makes the new head from the old one. `progress` hears how many bytes
/// were read. All of `from` is checked before the copy gets its name.
///
/// # Errors
/// The first thing that is wrong with `from`, or what the system refuses; there is no copy then.
pub fn copy(
    mut from: Reader<'_>,
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    change: impl FnOnce(&mut SnapshotHead),
    mut progress: impl FnMut(u64),
) -> Result<SnapshotInfo, SnapshotError> {
    let mut head = from.head().clone();
    change(&mut head);
    let mut to = SnapshotWriter::create(disk, cluster, &head)?;
    while let Some(chunk) = from.next_chunk()? {
        match chunk {
            Chunk::Sessions { count, body } => to.sessions(count, body)?,
            Chunk::Strays { body, .. } => {
                for_each_portion(body, |count, body| to.strays(count, body))?;
            }
            Chunk::Items { first_shard, last_shard, body, .. } => {
                for_each_portion(body, |count, body| {
                    to.items(first_shard, last_shard, count, body)
                })?;
            }
        }
        progress(from.offset());
    }
    to.finish()
}

/// Divides checked items.
fn for_each_portion(
    body: &[u8],
    mut write: impl FnMut(u32, &[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let (mut start, mut rest, mut count) = (body, body, 0);
    while !rest.is_empty() {
        (_, rest) = EncodedItem::decode(rest).expect("the items were checked");
        count += 1;
        let portion = &start[..start.len() - rest.len()];
        if portion.len() >= PORTION_BYTES || rest.is_empty() {
            write(count, portion)?;
            (start, count) = (rest, 0);
        }
    }
    Ok(())
}
