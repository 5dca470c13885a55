//! Writing: records are staged, written as one group of whole blocks, and synced.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum_protocol::{LogIndex, Lsn};

use super::WalConfig;
use super::error::WalError;
use super::identity::Identity;
use super::layout::{
    FLAG_END_OF_GROUP, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentHeader, record_bytes, segment_name,
};
use super::record::{KIND_REPAIR, KIND_STATE, STATE_BYTES, encode_body, encode_state};
use super::scan::Position;
use super::spare::{Released, Spare, Spares};
use super::state::LogState;
use crate::core::{NextSegment, Record};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile};

/// After this long without a write, a mark is set behind the last one.
const MARK_AFTER: Duration = Duration::from_secs(1);

/// Appends to the log.
///
/// Everything is relative to `Lsn`s: `durable <= written <= staged`.
pub struct Writer {
    disk: Arc<dyn Disk>,
    config: WalConfig,
    identity: Identity,
    active: Active,
    spares: Spares,
    /// Segments before the active one, oldest first.
    sealed: VecDeque<Sealed>,
    /// Staged records, each with room for its header, from the start of an aligned block.
    buffer: AlignedBuffer,
    staged: Vec<Staged>,
    /// What the log adds up to with everything staged.
    staged_lsn: Lsn,
    staged_state: LogState,
    commit: LogIndex,
    /// What the log adds up to with everything written.
    written: Position,
    durable: Lsn,
    /// Bytes of all groups written.
    appended_bytes: u64,
    /// Whether the log ends with a mark, or has nothing to mark.
    marked: bool,
    /// A write or sync failed; nothing is known of the disk any more.
    stopped: bool,
    idle: Option<Idle>,
}

/// The segment that is written.
pub(super) struct Active {
    pub file: Box<dyn DiskFile>,
    pub sequence: u64,
    pub bytes: u64,
    /// Where the next group goes.
    pub offset: u64,
    /// Everything before this offset is durable.
    pub synced: u64,
    /// Highest index that this segment holds, or held before a truncation.
    pub last_index: LogIndex,
}

/// A segment that is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub sequence: u64,
    pub bytes: u64,
    /// Highest index that it holds, or held before a truncation.
    pub last_index: LogIndex,
}

struct Staged {
    /// Where its header stands in the buffer.
    start: usize,
    /// Where the next record's header stands.
    end: usize,
    body_bytes: u32,
    body_crc: u32,
    kind: u8,
    lsn: Lsn,
    commit: LogIndex,
    /// What the log adds up to with this record.
    state: LogState,
}

struct Idle {
    lsn: Lsn,
    since: Instant,
}

impl Writer {
    /// Goes on behind `position`, all of which is durable.
    pub(super) fn resume(
        disk: Arc<dyn Disk>,
        config: WalConfig,
        identity: Identity,
        position: Position,
        active: Active,
        sealed: VecDeque<Sealed>,
        spare: Option<Spare>,
    ) -> Writer {
        let kept_bytes_max = config.recycle_bytes_max;
        let in_background = config.prepare_in_background;
        let spares = Spares::new(Arc::clone(&disk), spare, kept_bytes_max, in_background);
        Writer {
            disk,
            config,
            identity,
            active,
            spares,
            sealed,
            buffer: AlignedBuffer::new(),
            staged: Vec::new(),
            staged_lsn: position.lsn,
            staged_state: position.state,
            commit: position.commit,
            written: position,
            durable: position.lsn,
            appended_bytes: 0,
            marked: true,
            stopped: false,
            idle: None,
        }
    }

    /// Stages the records of a turn. Entries up to `commit` are decided, in the log that ends with
    /// these records; it is noted as early as that is safe.
    ///
    /// # Panics
    /// As [`stage`](Writer::stage) and [`set_commit`](Writer::set_commit).
    pub fn stage_all(&mut self, records: &[(Lsn, Record)], commit: LogIndex) {
        // What is decided of the entries that are there already can be noted in these very records.
        // But what a truncation or a snapshot is about to take back is not what was decided at its
        // index.
        let takes_back = |(_, record): &(Lsn, Record)| {
            matches!(record, Record::Truncate { .. } | Record::Install { .. })
        };
        if !records.iter().any(takes_back) {
            self.set_commit(commit.min(self.staged_state.end.index));
        }
        for (lsn, record) in records {
            self.stage(*lsn, record);
        }
        self.set_commit(commit);
    }

    /// Adds a record to what the next [`write`](Writer::write) writes. No I/O.
    ///
    /// # Panics
    /// When `lsn` is not the next one, or the record can not follow the ones before: a broken
    /// caller must not reach the disk.
    pub fn stage(&mut self, lsn: Lsn, record: &Record) {
        assert_eq!(lsn, self.staged_lsn.next(), "records are staged in order");
        let follows = match record {
            Record::Batch(batch) => self.staged_state.batch(batch.header()),
            Record::TermVote { term, voted_for } => self.staged_state.term_vote(*term, *voted_for),
            Record::Truncate { end } => self.staged_state.truncate(*end, self.commit),
            Record::Install { end } => self.staged_state.install(*end, self.commit),
        };
        if let Err(error) = follows {
            panic!("lsn {lsn} does not follow lsn {}: {error}", self.staged_lsn);
        }
        self.staged_lsn = lsn;
        let start = self.begin_record();
        let (kind, body_crc) = encode_body(record, &mut self.buffer);
        self.end_record(start, kind, body_crc);
    }

    /// Stages the record that what was damaged behind the last one is cut off: the log goes on with
    /// `repaired`.
    ///
    /// # Panics
    /// When that forgets something.
    pub(super) fn stage_repair(&mut self, repaired: &LogState) -> Lsn {
        if let Err(error) = self.staged_state.repair(repaired) {
            panic!("the repair does not follow lsn {}: {error}", self.staged_lsn);
        }
        self.staged_lsn = self.staged_lsn.next();
        self.stage_state(KIND_REPAIR);
        self.staged_lsn
    }

    fn stage_state(&mut self, kind: u8) {
        let start = self.begin_record();
        let body_crc = encode_state(&self.staged_state, &mut self.buffer);
        self.end_record(start, kind, body_crc);
    }

    fn begin_record(&mut self) -> usize {
        let start = self.buffer.len();
        self.buffer.extend_zeros(RECORD_HEADER_BYTES);
        start
    }

    fn end_record(&mut self, start: usize, kind: u8, body_crc: u32) {
        let body_bytes = self.buffer.len() - start - RECORD_HEADER_BYTES;
        self.buffer.pad_to(RECORD_ALIGNMENT);
        self.staged.push(Staged {
            start,
            end: self.buffer.len(),
            body_bytes: u32::try_from(body_bytes).expect("bounded by BATCH_BYTES_MAX"),
            body_crc,
            kind,
            lsn: self.staged_lsn,
            commit: self.commit,
            state: self.staged_state,
        });
    }

    /// Entries up to `commit` are decided, as they stand in the log with everything staged so far.
    /// Noted in the records staged from now on, where it is a hint: recovery may find a lower one.
    ///
    /// # Panics
    /// When it is ahead of the log.
    pub fn set_commit(&mut self, commit: LogIndex) {
        assert!(commit <= self.staged_state.end.index, "committed {commit} is not in the log");
        self.commit = self.commit.max(commit);
    }

    /// Writes everything staged, one write for each segment it goes to (nearly always one).
    /// Returns the last record written; it is not durable yet.
    ///
    /// # Errors
    /// [`WalError::NoRoom`] leaves the rest staged. Any other error is final.
    pub fn write(&mut self) -> Result<Lsn, WalError> {
        self.check_running()?;
        while let Some(first) = self.staged.first() {
            let room = self.active.bytes - self.active.offset;
            let count = self.staged.partition_point(|record| record.end as u64 <= room);
            if count == 0 {
                let needed = (first.end as u64).next_multiple_of(BLOCK_BYTES as u64);
                self.roll(needed)?;
            } else {
                self.write_group(count)?;
            }
        }
        Ok(self.written.lsn)
    }

    /// Makes everything written durable. Returns the last durable record.
    ///
    /// # Errors
    /// Final, whatever it is.
    pub fn sync(&mut self) -> Result<Lsn, WalError> {
        self.check_running()?;
        if self.active.synced < self.active.offset {
            self.active.file.sync().map_err(|source| self.stop("sync", source))?;
            self.active.synced = self.active.offset;
        }
        self.durable = self.written.lsn;
        Ok(self.durable)
    }

    /// The last record that survives a power cut.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The last record handed to the system.
    #[must_use]
    pub fn written(&self) -> Lsn {
        self.written.lsn
    }

    /// The last record staged.
    #[must_use]
    pub fn staged(&self) -> Lsn {
        self.staged_lsn
    }

    /// Bytes of all groups that this writer has written.
    #[must_use]
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Bytes of all segments that hold records.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.active.offset
    }

    /// Whose log this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How many more bytes of records, each counted as its [`footprint`](super::footprint), will
    /// certainly find their place; less the reserve for terms and votes. While the next segment is
    /// being made it does not count: what was promised of it could then stand in the way of votes,
    /// which the reserve is for, if it can not be made after all.
    #[must_use]
    pub fn room(&self) -> u64 {
        let staged = self.buffer.len().next_multiple_of(BLOCK_BYTES) as u64;
        let active = (self.active.bytes - self.active.offset).checked_sub(staged);
        let spare = self.spare().map_or(0, |spare| spare.bytes - SEGMENT_HEADER_BYTES as u64);
        // A record that does not fit into the rest of the active segment leaves that rest empty.
        let room = active.map_or(spare.saturating_sub(staged), |active| active.max(spare));
        room.saturating_sub(self.config.reserve_bytes)
    }

    /// The next segment, if it is made.
    fn spare(&self) -> Option<&Spare> {
        self.spares.ready(self.config.segment_bytes(self.active.sequence + 1))
    }

    /// Whether the next segment could not be made. [`tend`](Writer::tend) tries again; until it
    /// has succeeded, a [`write`](Writer::write) that had [no room](WalError::NoRoom) need not be
    /// repeated.
    #[must_use]
    pub fn lacks_next_segment(&self) -> bool {
        self.spare().is_none() && self.spares.has_failed()
    }

    /// How it stands with the next segment. It only counts as lacking for a reason of the disk,
    /// most likely want of space, and not when this process has too many files open.
    #[must_use]
    pub fn next_segment(&self) -> NextSegment {
        match self.spare() {
            Some(_) => NextSegment::Ready,
            None if self.spares.has_failed() && !self.spares.is_out_of_descriptors() => {
                NextSegment::Lacking
            }
            None => NextSegment::Coming,
        }
    }

    /// What happens beside the writing: has the next segment made, removes or recycles released
    /// ones, sets a mark when nothing was written for a second and all is durable. To be called
    /// after each turn, and at the returned time if there was no turn until then.
    ///
    /// # Errors
    /// A mark could not be written: final.
    pub fn tend(&mut self, now: Instant) -> Result<Option<Instant>, WalError> {
        self.check_running()?;
        let next = self.active.sequence + 1;
        let spares = self.spares.tend(now, next, self.config.segment_bytes(next));
        let mark = self.tend_mark(now)?;
        Ok([spares, mark].into_iter().flatten().min())
    }

    fn tend_mark(&mut self, now: Instant) -> Result<Option<Instant>, WalError> {
        if self.marked {
            return Ok(None);
        }
        let lsn = self.written.lsn;
        let idle = self.idle.take_if(|idle| idle.lsn == lsn).unwrap_or(Idle { lsn, since: now });
        let due = idle.since + MARK_AFTER;
        self.idle = Some(idle);
        if self.durable < self.staged_lsn {
            return Ok(None);
        }
        if now < due {
            return Ok(Some(due));
        }
        self.mark()?;
        Ok(None)
    }

    /// Writes a mark behind the last record, and syncs it: it proves that everything before it
    /// was durable, so that damage there can not pass for a torn write. Synced at once, because a
    /// lost mark would break the chain for the records behind it.
    ///
    /// # Errors
    /// Final.
    pub fn mark(&mut self) -> Result<(), WalError> {
        assert!(self.staged.is_empty(), "a mark comes when all is written");
        self.sync()?;
        // The header of the next segment does the same for a full one.
        let is_full = self.active.offset + BLOCK_BYTES as u64 > self.active.bytes;
        if self.marked || is_full {
            return Ok(());
        }
        self.stage_state(KIND_STATE);
        self.write()?;
        self.sync()?;
        Ok(())
    }

    /// Marks the end that recovery has found.
    pub(super) fn mark_end(&mut self) -> Result<(), WalError> {
        self.marked = false;
        self.mark()
    }

    /// Ends the log: writes and syncs what is staged, and marks the end.
    ///
    /// # Errors
    /// As [`write`](Writer::write) and [`sync`](Writer::sync).
    pub fn close(mut self) -> Result<Lsn, WalError> {
        self.write()?;
        self.mark()?;
        Ok(self.durable)
    }

    /// A snapshot covers everything up to `index`: segments without any later entry are given up,
    /// to be recycled or removed by [`tend`](Writer::tend).
    pub fn release(&mut self, index: LogIndex) {
        while let Some(oldest) = self.sealed.front().filter(|sealed| sealed.last_index <= index) {
            self.spares.release(Released { sequence: oldest.sequence, bytes: oldest.bytes });
            self.sealed.pop_front();
        }
    }

    /// Fills in the headers of the first `count` staged records and writes them as a group.
    fn write_group(&mut self, count: usize) -> Result<(), WalError> {
        let end = self.staged[count - 1].end;
        // The rest goes to the next segment, and has to start at an aligned place again.
        let rest = self.buffer.as_slice()[end..].to_vec();
        self.buffer.truncate(end);
        let is_mark = count == 1 && self.staged[0].kind == KIND_STATE;
        let count = if is_mark { count } else { self.close_group(count) };
        let mut written = self.written;
        for (number, record) in self.staged[..count].iter().enumerate() {
            let header = RecordHeader {
                prev: written.chain,
                body_bytes: record.body_bytes,
                body_crc: record.body_crc,
                kind: record.kind,
                flags: if number + 1 == count { FLAG_END_OF_GROUP } else { 0 },
                incarnation: self.identity.incarnation,
                segment: self.active.sequence,
                lsn: record.lsn,
                synced: self.active.synced,
                commit: record.commit,
            };
            let (bytes, crc) = header.encode();
            let place = record.start..record.start + RECORD_HEADER_BYTES;
            self.buffer.as_mut_slice()[place].copy_from_slice(&bytes);
            let (lsn, commit, state) = (record.lsn, record.commit, record.state);
            written = Position { lsn, chain: crc, commit, state };
            let index = state.end.index;
            self.active.last_index = self.active.last_index.max(index);
        }
        self.buffer.pad_to(BLOCK_BYTES);
        let bytes = self.buffer.as_slice();
        let result = self.active.file.write_at(self.active.offset, bytes);
        let length = bytes.len() as u64;
        result.map_err(|source| self.stop("write", source))?;
        self.active.offset += length;
        self.appended_bytes += length;
        self.written = written;
        self.marked = is_mark;
        self.buffer.clear();
        self.buffer.extend_from_slice(&rest);
        self.staged.drain(..count);
        for record in &mut self.staged {
            (record.start, record.end) = (record.start - end, record.end - end);
        }
        Ok(())
    }

    /// Where the last block of a group has room, and it nearly always has, the group ends with what
    /// the log adds up to: should what stands before be damaged one day, all that this node has
    /// promised is still known. Returns how many records the group has now.
    fn close_group(&mut self, count: usize) -> usize {
        let last = &self.staged[count - 1];
        let room_bytes = last.end.next_multiple_of(BLOCK_BYTES) - last.end;
        let bytes = record_bytes(STATE_BYTES);
        if room_bytes < bytes {
            return count;
        }
        let Staged { end: start, lsn, commit, state, .. } = *last;
        assert_eq!(self.begin_record(), start, "the buffer ends with the group");
        let body_crc = encode_state(&state, &mut self.buffer);
        let body_bytes = u32::try_from(STATE_BYTES).expect("a small number");
        let (end, kind) = (start + bytes, KIND_STATE);
        self.staged
            .insert(count, Staged { start, end, body_bytes, body_crc, kind, lsn, commit, state });
        count + 1
    }

    /// Goes on in the next segment, which has room for `needed` bytes. What was written before is
    /// durable then, and so is the new header: a segment that follows proves both.
    fn roll(&mut self, needed: u64) -> Result<(), WalError> {
        let sequence = self.active.sequence + 1;
        let bytes = needed + SEGMENT_HEADER_BYTES as u64;
        let bytes = bytes.max(self.config.segment_bytes(sequence));
        let spare = self.spares.take(sequence, bytes).map_err(|source| WalError::NoRoom {
            path: self.disk.path(&segment_name(sequence)),
            source,
        })?;
        self.sync()?;
        let Active { sequence: full, bytes, last_index, .. } = self.active;
        let header = start_header(&self.identity, &spare, &self.written);
        self.active = Active {
            file: spare.file,
            sequence,
            bytes: spare.bytes,
            offset: SEGMENT_HEADER_BYTES as u64,
            synced: SEGMENT_HEADER_BYTES as u64,
            last_index: self.written.state.end.index,
        };
        let started = start_segment(&*self.active.file, &header);
        started.map_err(|source| self.stop("write", source))?;
        self.sealed.push_back(Sealed { sequence: full, bytes, last_index });
        self.marked = true;
        Ok(())
    }

    fn check_running(&self) -> Result<(), WalError> {
        if self.stopped { Err(WalError::Stopped) } else { Ok(()) }
    }

    fn stop(&mut self, action: &'static str, source: std::io::Error) -> WalError {
        self.stopped = true;
        WalError::Io { action, path: self.active_path(), source }
    }

    fn active_path(&self) -> PathBuf {
        self.disk.path(&segment_name(self.active.sequence))
    }
}

/// The header of a segment that goes on behind `position`.
pub(super) fn start_header(
    identity: &Identity,
    spare: &Spare,
    position: &Position,
) -> SegmentHeader {
    SegmentHeader {
        identity: *identity,
        sequence: spare.sequence,
        segment_bytes: spare.bytes,
        first_lsn: position.lsn.next(),
        prev: position.chain,
        commit: position.commit,
        state: position.state,
    }
}

/// Writes the header of a segment, durably.
pub(super) fn start_segment(file: &dyn DiskFile, header: &SegmentHeader) -> std::io::Result<()> {
    let mut block = AlignedBuffer::new();
    block.extend_from_slice(&header.encode());
    block.pad_to(SEGMENT_HEADER_BYTES);
    file.write_at(0, block.as_slice())?;
    file.sync()
}
