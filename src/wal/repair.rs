//! Giving up what is damaged in the log of a cluster's member, so that the others can fill it
//! again, without forgetting anything that the node has promised.
//!
//! A member has promised two things that others count on: its votes, and the entries that it has
//! acknowledged as durable. Entries can be had again; promises can not. So a damaged log may be
//! cut where the damage begins only if the *end* of it is whole: it ends, like nearly every group,
//! with a [state](super::RecordView::State) from which on everything can be read. That tells the
//! term, the vote, and where the log ended. All of it stands in the record that the log goes on
//! with behind the cut. How a node with a *former end* votes so that nothing committed is lost,
//! though it does not have it any more, says [`Log`](crate::core::log).
//!
//! The idea is that of Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage"
//! (FAST 2018): damage is not a crash, and a replica that treats it like one loses data.
//!
//! # A crash at any point
//! First a file, `repair`, says what is to be done; it is written beside, synced, renamed and the
//! directory synced, as everything here. [`open`](super::open) does it, from the beginning, as
//! long as the file is there: it removes what is behind the cut, appends the record, and removes
//! the file last.

use std::io;

use kvorum_protocol::{LogIndex, Lsn, MemberList, NodeId, Op, Term, batch};

use super::WalConfig;
use super::error::{Fault, Oddity, WalError};
use super::identity::{IDENTITY_NAME, Identity};
use super::layout::{HeaderBlock, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use super::reader::{
    VisitError, Visitor, Whole, check_gaps, io_error, is_spare, list_files, read, read_identity,
    read_whole_part,
};
use super::record::RecordView;
use super::scan::{FoundRecord, Next, Position, SegmentScan};
use super::spare;
use super::state::LogState;
use super::writer::{start_header, start_segment};
use crate::core::ReplayError;
use crate::core::log::EntryId;
use crate::disk::{AlignedBuffer, Disk};

/// The file that says what is to be done.
pub(super) const REPAIR_NAME: &str = "repair";
pub(super) const REPAIR_TMP_NAME: &str = "repair.tmp";

/// Zeros that are written at once.
const WIPE_BYTES: usize = 1 << 20;

/// How a damaged log can be repaired.
#[derive(Debug)]
pub struct Repair {
    /// The damage; `None` when the log itself has none.
    pub damage: Option<WalError>,
    /// The last entry that is kept; 0 when there is none.
    pub kept: LogIndex,
    /// The last list of members that was found.
    pub members: Option<MemberList>,
    order: Order,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    incarnation: u64,
    /// The last segment that is kept.
    sequence: u64,
    /// Where it is cut; 0 when nothing of it is kept, and the log begins again with it.
    offset: u64,
    promise: Promise,
}

/// What a node must not forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promise {
    term: Term,
    voted_for: Option<NodeId>,
    former_end: EntryId,
}

impl Promise {
    fn of(state: &LogState) -> Promise {
        let LogState { term, voted_for, end, former_end } = *state;
        // Nobody who has both the later term and the higher index lacks anything of either; and
        // others may remember the higher index.
        let former_end =
            EntryId { term: end.term.max(former_end.term), index: end.index.max(former_end.index) };
        Promise { term, voted_for, former_end }
    }

    /// There was a snapshot up to `claimed`, of which nothing else is known: the node may have
    /// acknowledged that it has it, in a term that it had entered.
    fn with_snapshot(self, claimed: LogIndex) -> Promise {
        if claimed <= self.former_end.index {
            return self;
        }
        Promise { former_end: EntryId { term: self.term, index: claimed }, ..self }
    }
}

impl Repair {
    /// Where the log ended before the damage.
    #[must_use]
    pub fn former_end(&self) -> EntryId {
        self.order.promise.former_end
    }

    /// Decides it, durably: the next [`open`](super::open) does it.
    ///
    /// # Errors
    /// The disk does not take the decision, or it is not known whether it has.
    pub fn order(&self, disk: &dyn Disk) -> Result<(), WalError> {
        let write = || {
            disk.write_file(REPAIR_TMP_NAME, self.order.encode().as_bytes())?;
            disk.rename(REPAIR_TMP_NAME, REPAIR_NAME)?;
            disk.sync_dir()
        };
        write().map_err(|source| io_error(disk, "write", REPAIR_NAME, source))
    }
}

/// Looks for damage in the log of `disk`. Sound snapshots cover everything up to `snapshot_index`;
/// there was one up to `claimed`, which may be damaged.
///
/// `None` when the log is whole and holds what was claimed: then there is nothing to repair.
///
/// # Errors
/// The log can not be repaired: what is damaged may hold a promise.
pub fn diagnose(
    disk: &dyn Disk,
    snapshot_index: LogIndex,
    claimed: LogIndex,
) -> Result<Option<Repair>, WalError> {
    let identity = read_identity(disk)?;
    let identity = identity.ok_or_else(|| WalError::Missing { path: disk.path(IDENTITY_NAME) })?;
    let sequences = list_files(disk)?.sequences;
    let gap = check_gaps(disk, &sequences).err();
    let first_missing = sequences.windows(2).position(|pair| pair[1] != pair[0] + 1);
    let first_run = &sequences[..first_missing.map_or(sequences.len(), |before| before + 1)];

    let mut kept = Kept { snapshot_index, members: None };
    let (whole, damage) = read_whole_part(disk, &identity, first_run, snapshot_index, &mut kept)?;
    let pending = Order::pending(disk, &identity)?;
    // A repair that was interrupted has begun to remove what it must not forget.
    let promise = match pending {
        Some(Order { promise, .. }) => promise,
        None => last_promise(disk, &identity, &sequences)?,
    };
    let damage = damage.or(gap);
    if damage.is_none() && pending.is_none() && promise.former_end.index >= claimed {
        return Ok(None);
    }
    let promise = promise.with_snapshot(claimed);
    let first = sequences.first().or(pending.as_ref().map(|order| &order.sequence));
    let begun = Whole {
        sequence: *first.expect("a log has a segment"),
        offset: 0,
        position: Position::default(),
    };
    let Whole { sequence, offset, position } = whole.unwrap_or(begun);
    let order =
        Order { incarnation: identity.incarnation, sequence, offset: offset as u64, promise };
    // What was to be cut off does not come back.
    let order = match pending {
        Some(earlier) if (earlier.sequence, earlier.offset) < (sequence, order.offset) => {
            Order { promise, ..earlier }
        }
        _ => order,
    };
    Ok(Some(Repair { damage, kept: position.state.end.index, members: kept.members, order }))
}

/// What the node has promised, by the last segment of its log: whatever is damaged before, the end
/// of it must be whole.
fn last_promise(
    disk: &dyn Disk,
    identity: &Identity,
    sequences: &[u64],
) -> Result<Promise, WalError> {
    let mut next = None;
    for sequence in sequences.iter().rev() {
        let name = segment_name(*sequence);
        // The next segment is prepared while this one is written: there is none in between.
        if next.is_some_and(|next| next != *sequence + 1) {
            let path = disk.path(&segment_name(*sequence + 1));
            return Err(WalError::EndLost { path, offset: 0, fault: Fault::NoRecord });
        }
        next = Some(*sequence);
        let contents = read(disk, *sequence);
        let contents = contents.map_err(|source| io_error(disk, "read", &name, source))?;
        let lost = |fault| WalError::EndLost { path: disk.path(&name), offset: 0, fault };
        let header = match SegmentHeader::decode(&contents) {
            HeaderBlock::Valid(header) => header,
            HeaderBlock::Unused if is_spare(&contents, identity, *sequence) => continue,
            HeaderBlock::Version(found) => {
                return Err(WalError::Version { path: disk.path(&name), found });
            }
            HeaderBlock::Unused | HeaderBlock::Damaged => return Err(lost(Fault::SegmentHeader)),
        };
        if header.identity != *identity || header.sequence != *sequence {
            return Err(WalError::ForeignSegment { path: disk.path(&name) });
        }
        if header.segment_bytes != contents.len() as u64 {
            let (expected, found) = (header.segment_bytes, contents.len() as u64);
            return Err(lost(Fault::FileLength { expected, found }));
        }
        let last = last_position_in(disk, &contents, &header)?;
        return Ok(Promise::of(&last.state));
    }
    Err(WalError::Missing { path: disk.path(&segment_name(1)) })
}

fn last_position_in(
    disk: &dyn Disk,
    contents: &[u8],
    header: &SegmentHeader,
) -> Result<Position, WalError> {
    let path = || disk.path(&segment_name(header.sequence));
    let mut scan = SegmentScan::new(contents, header);
    let mut group = Vec::new();
    loop {
        let next = scan.next_group(&mut group).map_err(|odd| WalError::NotUnderstood {
            path: path(),
            offset: odd.offset as u64,
            lsn: odd.lsn,
            oddity: odd.oddity,
        })?;
        match next {
            Next::Group => {}
            Next::End(stop) if scan.durable_record_is_lost() => {
                if !scan.resume_behind(stop.offset) {
                    let (offset, fault) = (stop.offset as u64, stop.fault);
                    return Err(WalError::EndLost { path: path(), offset, fault });
                }
            }
            Next::End(_) => return Ok(*scan.position()),
        }
    }
}

/// Looks at the part of the log that can be kept.
struct Kept {
    /// Sound snapshots cover everything up to here.
    snapshot_index: LogIndex,
    /// The last member list.
    members: Option<MemberList>,
}

impl Kept {
    fn see(&mut self, record: &RecordView<'_>) -> Result<(), ReplayError> {
        match record {
            // A list is always alone in its batch.
            RecordView::Batch { header, bytes } if header.count == 1 => {
                for (_, command) in batch::entries(header.first_index, bytes) {
                    if let Op::Membership(list) = command.op {
                        let list = MemberList::decode(list).map_err(ReplayError::Members)?;
                        self.members = Some(list);
                    }
                }
                Ok(())
            }
            RecordView::Install { end } if end.index > self.snapshot_index => {
                Err(ReplayError::SnapshotMissing(end.index))
            }
            _ => Ok(()),
        }
    }
}

impl Visitor for Kept {
    fn segment(&mut self, _: &SegmentHeader) -> io::Result<()> {
        Ok(())
    }

    fn record(&mut self, found: &FoundRecord<'_>) -> Result<(), VisitError> {
        self.see(&found.record).map_err(VisitError::Replay)
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

impl Order {
    /// What is to be done; `None` when nothing is.
    ///
    /// # Errors
    /// The file can not be read, or is of another directory.
    pub fn pending(disk: &dyn Disk, identity: &Identity) -> Result<Option<Order>, WalError> {
        let bytes = match disk.read(REPAIR_NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| io_error(disk, "read", REPAIR_NAME, source))?,
        };
        let order = Order::decode(&bytes);
        let order = order.filter(|order| order.incarnation == identity.incarnation);
        let damaged = || WalError::OrderDamaged { path: disk.path(REPAIR_NAME) };
        order.map(Some).ok_or_else(damaged)
    }

    /// Removes what is behind the cut. Doing it again changes nothing.
    ///
    /// # Errors
    /// Any; it has to be done again then.
    pub fn cut(
        &self,
        disk: &dyn Disk,
        config: &WalConfig,
        identity: &Identity,
    ) -> Result<(), WalError> {
        let keeps = |sequence: &u64| *sequence <= self.sequence - u64::from(self.offset == 0);
        // Which of them a crash leaves does not matter: it is done again.
        for sequence in list_files(disk)?.sequences.iter().rev().filter(|found| !keeps(found)) {
            let name = segment_name(*sequence);
            disk.remove(&name).map_err(|source| io_error(disk, "remove", &name, source))?;
        }
        let name = segment_name(self.sequence);
        let made = match self.offset {
            0 => self.begin_again(disk, config, identity),
            _ => self.wipe(disk, &name),
        };
        made.and_then(|()| disk.sync_dir()).map_err(|source| io_error(disk, "write", &name, source))
    }

    /// Nothing of the log is kept: it begins again, with the number that it began with.
    fn begin_again(
        &self,
        disk: &dyn Disk,
        config: &WalConfig,
        identity: &Identity,
    ) -> io::Result<()> {
        let bytes = config.segment_bytes(self.sequence);
        let spare = spare::prepare(disk, self.sequence, bytes, None)?;
        start_segment(&*spare.file, &start_header(identity, &spare, &Position::default()))
    }

    /// Nothing behind the cut may ever be taken for a record again.
    fn wipe(&self, disk: &dyn Disk, name: &str) -> io::Result<()> {
        let segment_bytes = disk.read(name)?.len() as u64;
        if segment_bytes < self.offset {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let file = disk.open(name)?;
        let mut zeros = AlignedBuffer::new();
        zeros.extend_zeros(WIPE_BYTES);
        let mut zeros_left = segment_bytes - self.offset.max(SEGMENT_HEADER_BYTES as u64);
        while zeros_left > 0 {
            let bytes = usize::try_from(zeros_left).map_or(WIPE_BYTES, |left| left.min(WIPE_BYTES));
            file.write_at(segment_bytes - zeros_left, &zeros.as_slice()[..bytes])?;
            zeros_left -= bytes as u64;
        }
        file.sync()
    }

    /// The state that a log goes on with that ends with `state`.
    pub fn state_behind(&self, state: &LogState) -> LogState {
        let Promise { term, voted_for, former_end } = self.promise;
        LogState { term, voted_for, end: state.end, former_end }
    }

    /// The state machine does not take the record of it.
    pub fn refused(&self, disk: &dyn Disk, lsn: Lsn, error: ReplayError) -> WalError {
        let (path, offset) = (disk.path(&segment_name(self.sequence)), self.offset);
        WalError::NotUnderstood { path, offset, lsn, oddity: Oddity::Replay(error) }
    }

    /// It is done.
    ///
    /// # Errors
    /// Any; it is done again at the next start then.
    pub fn finish(disk: &dyn Disk) -> Result<(), WalError> {
        let removed = disk.remove(REPAIR_NAME).and_then(|()| disk.sync_dir());
        removed.map_err(|source| io_error(disk, "remove", REPAIR_NAME, source))
    }

    /// The text of the file: a person can read it, and a checksum guards it.
    fn encode(&self) -> String {
        let Order { incarnation, sequence, offset, promise } = self;
        let Promise { term, voted_for, former_end } = promise;
        let vote = voted_for.map_or(0, |node| node.0);
        let EntryId { term: last_term, index: last } = former_end;
        let text = format!(
            "kvorum repair 1\nincarnation {incarnation:016x}\nsegment {sequence}\n\
             offset {offset}\nterm {term}\nvote {vote}\nlast_term {last_term}\nlast {last}\n"
        );
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn decode(bytes: &[u8]) -> Option<Order> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split_whitespace();
        let mut field = |name: &str| words.by_ref().find(|word| *word == name).and(words.next());
        let order = Order {
            incarnation: u64::from_str_radix(field("incarnation")?, 16).ok()?,
            sequence: field("segment")?.parse().ok().filter(|sequence| *sequence > 0)?,
            offset: field("offset")?.parse().ok()?,
            promise: Promise {
                term: Term(field("term")?.parse().ok()?),
                voted_for: Some(NodeId(field("vote")?.parse().ok()?)).filter(|node| node.0 != 0),
                former_end: EntryId {
                    term: Term(field("last_term")?.parse().ok()?),
                    index: LogIndex(field("last")?.parse().ok()?),
                },
            },
        };
        // The text has one form only, so writing it again checks every byte, the sum included.
        (order.encode().as_bytes() == bytes).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_and_no_flipped_bit_or_lost_byte_passes() {
        let order = Order {
            incarnation: 0x1c,
            sequence: 7,
            offset: 8192,
            promise: Promise {
                term: Term(5),
                voted_for: Some(NodeId(2)),
                former_end: EntryId { term: Term(4), index: LogIndex(1234) },
            },
        };
        let none = Order { promise: Promise { voted_for: None, ..order.promise }, ..order };
        assert_eq!(Order::decode(none.encode().as_bytes()), Some(none));
        let text = order.encode();
        assert_eq!(Order::decode(text.as_bytes()), Some(order));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Order::decode(&bytes), None, "bit {bit}");
        }
        for length in 0..text.len() {
            assert_eq!(Order::decode(&text.as_bytes()[..length]), None);
        }
    }
}
