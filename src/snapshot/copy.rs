//! Writing the contents of a snapshot again, under another head.

use std::sync::Arc;

use kvorum_protocol::ClusterId;

use super::SnapshotInfo;
use super::error::SnapshotError;
use super::reader::{Chunk, Reader};
use super::writer::SnapshotWriter;
use crate::core::SnapshotHead;
use crate::core::sessions::Session;
use crate::core::store::{EncodedItem, Store};
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
    let mut copy = Copy {
        to: SnapshotWriter::create(disk, cluster, &head)?,
        shards: Store::new(head.hash_seed),
        last_shard: 0,
    };
    while let Some(chunk) = from.next_chunk()? {
        match chunk {
            Chunk::Sessions { body, .. } => copy.sessions(body)?,
            Chunk::Strays { body, .. } => copy.portions(body, false)?,
            Chunk::Items { body, .. } => copy.portions(body, true)?,
        }
        progress(from.offset());
    }
    copy.to.finish()
}

struct Copy {
    to: SnapshotWriter,
    /// Says which shard a key belongs to; it stays empty.
    shards: Store,
    /// That of the items so far.
    last_shard: u16,
}

/// Some neighbouring items.
#[derive(Default)]
struct Portion {
    count: u32,
    /// The lowest and the highest shard of them.
    shards: Option<(u16, u16)>,
}

impl Copy {
    /// Writes checked sessions, divided.
    fn sessions(&mut self, body: &[u8]) -> Result<(), SnapshotError> {
        let (mut start, mut rest, mut count) = (body, body, 0);
        while !rest.is_empty() {
            (_, _, rest) = Session::decode(rest).expect("the sessions were checked");
            count += 1;
            let bytes = &start[..start.len() - rest.len()];
            if bytes.len() >= PORTION_BYTES || rest.is_empty() {
                self.to.sessions(count, bytes)?;
                (start, count) = (rest, 0);
            }
        }
        Ok(())
    }

    /// Writes checked items, divided.
    fn portions(&mut self, body: &[u8], in_order: bool) -> Result<(), SnapshotError> {
        let (mut start, mut rest) = (body, body);
        let mut portion = Portion::default();
        while !rest.is_empty() {
            let item;
            (item, rest) = EncodedItem::decode(rest).expect("the items were checked");
            let shard = self.shards.shard_of(item.key);
            let (low, high) = portion.shards.unwrap_or((shard, shard));
            portion.shards = Some((low.min(shard), high.max(shard)));
            portion.count += 1;
            let bytes = &start[..start.len() - rest.len()];
            if bytes.len() >= PORTION_BYTES || rest.is_empty() {
                self.write(&portion, bytes, in_order)?;
                (start, portion) = (rest, Portion::default());
            }
        }
        Ok(())
    }

    /// Within a chunk of another writer items may stand in any order of their shards: what would
    /// not ascend is written as strays are.
    fn write(
        &mut self,
        portion: &Portion,
        body: &[u8],
        in_order: bool,
    ) -> Result<(), SnapshotError> {
        match portion.shards {
            Some((low, high)) if in_order && low >= self.last_shard => {
                self.last_shard = high;
                self.to.items(low, high, portion.count, body)
            }
            _ => self.to.strays(portion.count, body),
        }
    }
}
