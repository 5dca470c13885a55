//! The log on the disk: records in segments, each group of records made durable by one
//! `fdatasync`. The format and its reasons are in `FORMAT.md`, beside this file.
//!
//! # How to drive it
//! [`open`] reads what is there and returns a [`Writer`] that goes on behind it. Per turn:
//! [`Writer::stage_all`] records, [`Writer::write`] once, [`Writer::sync`] when it shall be
//! durable, [`Writer::tend`] for what happens beside: the next segment, marks. At the end
//! [`Writer::close`]. Beside it, a [`Fetcher`] reads back what is durable.
//!
//! # What it promises
//! - What [`Writer::sync`] reported is read back after any crash, as a whole and in order, or
//!   recovery refuses to start and names the place. What it did not report may be read back or
//!   not, but if so, as a prefix in the order of staging and never changed.
//! - A write or sync error is final ([`WalError::is_fatal`]). A full disk is not: [`Writer::room`]
//!   tells before anything is lost.
//!
//! # Caveats
//! - The last synced group can not be told from a torn one if it is damaged before anything is
//!   written behind it. [`Writer::tend`] writes a mark after a second without writes, and so do
//!   [`Writer::close`] and recovery, which closes the window. Only what is durable is marked, so
//!   with `--fsync never` the window stays open until the next segment begins or the node stops: a
//!   mark is synced, and when to sync is left to the system there.
//! - If the last segments are removed as whole files, the log ends earlier and nothing here
//!   notices; the node's peers do.

mod dump;
mod error;
mod fetch;
mod identity;
mod layout;
mod reader;
mod record;
mod recovery;
mod repair;
mod scan;
mod spare;
mod state;
mod window;
mod writer;

pub use dump::{Summary, Tail, dump, outline, verify};
pub use error::{Fault, Oddity, WalError};
pub use fetch::Fetcher;
pub use identity::{IDENTITY_NAME, Identity};
pub use layout::footprint;
pub use reader::read_identity;
pub use record::RecordView;
pub use recovery::{Cut, Recovered, RecoverySink, open};
pub use repair::{Repair, diagnose};
pub use state::{Discontinuity, LogState};
pub use writer::Writer;

use kvorum_protocol::ClusterId;
use kvorum_protocol::limits::{BATCH_BYTES_MAX, BATCH_BYTES_SOFT, LOG_BYTES_BETWEEN_SNAPSHOTS_MAX};

use crate::disk::BLOCK_BYTES;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Who this node is; written into an empty directory. In a directory that is in use only the
    /// node is compared, the rest is what the directory says.
    pub identity: Identity,
    /// Refuse a directory of any other cluster.
    pub cluster: Option<ClusterId>,
    /// The log may start behind this index, because a snapshot covers everything up to it; 0
    /// without one.
    pub snapshot_index: kvorum_protocol::LogIndex,
    /// Length of the first segment, in bytes; each next one is twice as long.
    pub segment_bytes_min: u64,
    /// Length from which segments stop growing, in bytes.
    pub segment_bytes_max: u64,
    /// The largest batch that will be written, in bytes: no segment is too short for it.
    pub batch_bytes_max: usize,
    /// Kept free for terms and votes when batches are refused for want of space, in bytes.
    pub reserve_bytes: u64,
    /// How many bytes of segments that were given up are kept, to be recycled.
    pub recycle_bytes_max: u64,
    /// Prepare segments on a thread of their own. Without, [`Writer::tend`] does it.
    pub prepare_in_background: bool,
}

impl WalConfig {
    /// The defaults: segments of 4 to 64 MiB, prepared in the background.
    #[must_use]
    pub fn new(identity: Identity) -> WalConfig {
        WalConfig {
            identity,
            cluster: None,
            snapshot_index: kvorum_protocol::LogIndex(0),
            segment_bytes_min: 4 << 20,
            segment_bytes_max: 64 << 20,
            batch_bytes_max: BATCH_BYTES_SOFT + kvorum_protocol::limits::VALUE_BYTES_DEFAULT,
            reserve_bytes: 256 << 10,
            recycle_bytes_max: LOG_BYTES_BETWEEN_SNAPSHOTS_MAX,
            prepare_in_background: true,
        }
    }

    /// Length of the segment with this number, in bytes.
    fn segment_bytes(&self, sequence: u64) -> u64 {
        let doublings = u32::try_from(sequence.saturating_sub(1)).unwrap_or(u32::MAX).min(20);
        let grown = (self.segment_bytes_min << doublings).min(self.segment_bytes_max);
        let batch = footprint(self.batch_bytes_max.min(BATCH_BYTES_MAX));
        let needed = layout::SEGMENT_HEADER_BYTES as u64 + batch + self.reserve_bytes;
        grown.max(needed).next_multiple_of(BLOCK_BYTES as u64)
    }
}
