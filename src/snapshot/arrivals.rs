//! Which parts of leaders' snapshots are taken, and when one is whole.

use std::sync::Arc;

use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::{ClusterId, LogIndex};

use super::error::SnapshotError;
use super::incoming::Incoming;
use super::{SnapshotInfo, load, remove};
use crate::core::SessionBounds;
use crate::core::snapshot::SnapshotHead;
use crate::core::state::State;
use crate::disk::Disk;

/// Which file: the entries that it covers, its length, and what tells it from others of these. Who
/// sends it does not matter: a leader may go on with what another has begun to send, if its file is
/// the same byte for byte.
type Name = (LogIndex, u64, u64);

/// Takes the snapshots of leaders, one at a time.
pub struct Arrivals {
    disk: Arc<dyn Disk>,
    arriving: Option<(Name, Incoming)>,
    /// The last one that has come as a whole.
    installed: Option<Name>,
}

impl Arrivals {
    /// Keeps them on this disk.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Arrivals {
        Arrivals { disk, arriving: None, installed: None }
    }

    /// Whether this part begins a file of which nothing is here.
    #[must_use]
    pub fn is_beginning(&self, part: &SnapshotChunk) -> bool {
        part.offset == 0 && !self.has(name(part)) && self.installed != Some(name(part))
    }

    /// Writes a part, if it is the next one. Answers up to where the file is here, which is for
    /// the leader to know; `None` for a part from the middle of a file that has not begun here.
    ///
    /// # Errors
    /// The system refuses an operation. What has come of the file is gone then.
    pub fn take(&mut self, part: &SnapshotChunk) -> Result<Option<u64>, SnapshotError> {
        if self.installed == Some(name(part)) {
            return Ok(Some(part.total_bytes));
        }
        let taken = self.take_next(part);
        if taken.is_err() {
            self.arriving = None;
        }
        taken
    }

    /// Removes what has come of a file that is not finished.
    pub fn give_up(&mut self) {
        self.arriving = None;
    }

    fn take_next(&mut self, part: &SnapshotChunk) -> Result<Option<u64>, SnapshotError> {
        if !self.has(name(part)) {
            if part.offset > 0 {
                return Ok(None);
            }
            // One at a time: they are written under the same name.
            self.give_up();
            let incoming = Incoming::create(Arc::clone(&self.disk), part.index)?;
            self.arriving = Some((name(part), incoming));
        }
        let (_, incoming) = self.arriving.as_mut().expect("just made");
        if incoming.offset() == part.offset {
            incoming.write(part.offset, &part.bytes)?;
        }
        Ok(Some(incoming.offset()))
    }

    /// Whether a file has begun to come, and is not finished.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        self.arriving.is_some()
    }

    /// Whether all parts of a file are here, so that it is to be [finished](Arrivals::finish).
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.arriving
            .as_ref()
            .is_some_and(|((_, total_bytes, _), incoming)| incoming.offset() == *total_bytes)
    }

    /// Checks the file that is whole, makes it durable, and loads it on so many threads.
    ///
    /// # Errors
    /// It is no sound snapshot of this cluster, or the system refuses an operation. It is gone
    /// then, and begins from its start when it comes again.
    ///
    /// # Panics
    /// When none is whole.
    pub fn finish(
        &mut self,
        cluster: ClusterId,
        threads: usize,
        bounds: SessionBounds,
    ) -> Result<(SnapshotInfo, (SnapshotHead, State)), SnapshotError> {
        assert!(self.is_whole(), "parts are missing");
        let (name, incoming) = self.arriving.take().expect("it is whole");
        let info = incoming.finish(Some(cluster))?;
        let loaded = load(&*self.disk, &info, Some(cluster), threads, bounds);
        if loaded.is_err() {
            // Nobody knows of it, so nobody would remove it later. Should this fail, too, then the
            // next start finds it, and does not begin with what can not be loaded.
            let _ = remove(&*self.disk, &info);
        }
        let loaded = loaded?;
        self.installed = Some(name);
        Ok((info, loaded))
    }

    fn has(&self, name: Name) -> bool {
        self.arriving.as_ref().is_some_and(|(known, _)| *known == name)
    }
}

fn name(part: &SnapshotChunk) -> Name {
    (part.index, part.total_bytes, part.file)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvorum_protocol::Term;

    use super::*;
    use crate::disk::FileDisk;

    const FILE: &[u8] = b"all of it";

    fn part(term: u64, file: u64, offset: usize, end: usize) -> SnapshotChunk {
        SnapshotChunk {
            term: Term(term),
            index: LogIndex(7),
            index_term: Term(1),
            total_bytes: FILE.len() as u64,
            file,
            offset: offset as u64,
            bytes: Bytes::from_static(&FILE[offset..end]),
        }
    }

    fn arrivals() -> (tempfile::TempDir, Arrivals) {
        let temp = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(temp.path(), false).unwrap();
        (temp, Arrivals::new(Arc::new(disk)))
    }

    #[test]
    fn the_next_leader_goes_on_with_the_same_file() {
        let (_temp, mut arrivals) = arrivals();
        assert!(arrivals.is_beginning(&part(2, 1, 0, 4)));
        assert_eq!(arrivals.take(&part(2, 1, 0, 4)).unwrap(), Some(4));
        // It does not know how far the file is here, and is told.
        assert!(!arrivals.is_beginning(&part(3, 1, 0, 4)));
        assert_eq!(arrivals.take(&part(3, 1, 0, 4)).unwrap(), Some(4));
        assert_eq!(arrivals.take(&part(3, 1, 4, 9)).unwrap(), Some(9));
        assert!(arrivals.is_whole());
    }

    #[test]
    fn another_file_of_the_same_index_begins_from_its_start() {
        let (temp, mut arrivals) = arrivals();
        assert_eq!(arrivals.take(&part(2, 1, 0, 4)).unwrap(), Some(4));
        assert!(arrivals.is_beginning(&part(3, 2, 0, 6)));
        arrivals.give_up();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "only the lock");
        assert_eq!(arrivals.take(&part(3, 2, 0, 6)).unwrap(), Some(6));
        // What is left of the other one comes late.
        assert_eq!(arrivals.take(&part(2, 1, 4, 9)).unwrap(), None);
        assert_eq!(arrivals.take(&part(3, 2, 6, 9)).unwrap(), Some(9));
        assert!(arrivals.is_whole());
    }

    #[test]
    fn what_is_no_snapshot_begins_again() {
        let (_temp, mut arrivals) = arrivals();
        assert_eq!(arrivals.take(&part(2, 1, 0, 9)).unwrap(), Some(9));
        assert!(arrivals.is_whole());
        assert!(arrivals.finish(ClusterId(1), 1, SessionBounds::default()).is_err());
        assert!(!arrivals.is_whole());
        assert_eq!(arrivals.take(&part(2, 1, 4, 9)).unwrap(), None);
        assert_eq!(arrivals.take(&part(2, 1, 0, 4)).unwrap(), Some(4));
    }
}
