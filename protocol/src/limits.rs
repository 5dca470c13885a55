//! Every bound that the protocols and the log share, with the relations between them asserted.
//!
//! A length from the network or the disk is compared with a bound here before anything is
//! allocated for it.

use std::time::Duration;

/// The longest key, in bytes: `key_length` is a `u16`.
pub const KEY_BYTES_MAX: usize = 65_535;

/// The longest value unless `--value-bytes-max` says otherwise.
pub const VALUE_BYTES_DEFAULT: usize = 8 << 20;

/// The longest value that `--value-bytes-max` may allow.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The most bytes of one log command: the largest SET, or one atomic SET_MANY.
pub const COMMAND_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + 64;

/// The most keys in one GET_MANY, SET_MANY or DELETE_MANY.
pub const KEYS_PER_REQUEST_MAX: usize = 65_536;

/// A batch is sealed at the first entry that takes it past this many bytes.
pub const BATCH_BYTES_SOFT: usize = 1 << 20;

/// The most bytes of one sealed batch: a soft-full one plus the largest command.
pub const BATCH_BYTES_MAX: usize = BATCH_BYTES_SOFT + COMMAND_BYTES_MAX + 4096;

/// The most bytes that one reply may carry; a GET_MANY beyond it is refused.
pub const REPLY_BYTES_MAX: usize = 128 << 20;

/// The most sessions that a cluster keeps; opening one more ends the one longest without use.
pub const SESSIONS_MAX: usize = 65_536;

/// The largest window of a session: how many of its writes may be under way at once.
pub const SESSION_WINDOW_MAX: u32 = 8192;

/// The most that the windows of all sessions may be together; as `SESSIONS_MAX`.
pub const SESSION_SLOTS_MAX: usize = 1 << 22;

/// A session that has not written for longer than this is over, in milliseconds of log time.
pub const SESSION_IDLE_MAX_MS: u64 = 3_600_000;

/// The most voters of a cluster (quorum arithmetic runs on a stack array).
pub const VOTERS_MAX: u8 = 63;

/// The most members of a cluster, learners included.
pub const MEMBERS_MAX: usize = 255;

/// The most ids of former members that a list keeps one by one; all lower ones count as used.
pub const RETIRED_IDS_MAX: usize = 64;

/// The longest `host:port` of a member, in bytes: its length is a `u8`.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// The most arguments of a RESP command: MSET with `KEYS_PER_REQUEST_MAX` pairs and its name.
pub const RESP_ARGS_MAX: usize = 2 * KEYS_PER_REQUEST_MAX + 1;

/// The most bytes that RESP spends on one argument beside its content: `$`, a length of at most
/// nine digits, and two line ends.
pub const RESP_ARG_FRAMING_BYTES_MAX: usize = 14;

/// A RESP argument of so many bytes is read even when keys and values must be shorter, so that
/// the words of every command pass.
pub const RESP_BULK_BYTES_MIN: usize = 1024;

/// The longest RESP inline command (a line of words instead of an array), as in Redis.
pub const RESP_INLINE_BYTES_MAX: usize = 64 << 10;

/// The longest name that a RESP client may give itself or its library; a node keeps them.
pub const RESP_NAME_BYTES_MAX: usize = 256;

/// How many bytes of batches a leader puts into one Append, unless a single batch is larger.
pub const APPEND_BYTES_SOFT: usize = 1 << 20;

/// The least that a log grows between two snapshots: a smaller one is read faster at the next start
/// than it is worth to write the keys for.
pub const LOG_BYTES_BETWEEN_SNAPSHOTS_MIN: u64 = 128 << 20;

/// The most that a log grows between two snapshots, however many keys there are: what a disk must
/// have beside them.
pub const LOG_BYTES_BETWEEN_SNAPSHOTS_MAX: u64 = 4 << 30;

/// An older snapshot, and the log behind it, are kept while they take no more than this: should the
/// newest one be damaged, a node that is alone can start from it.
pub const OLDER_SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// Changes may keep this much in memory for a snapshot that has not come to them. Beyond it the
/// snapshot is given up, and tried again later.
pub const STRAY_BYTES_MAX: usize = 256 << 20;

/// How much of a snapshot one message carries.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 256 << 10;

/// The most bytes of one frame between peers: the largest batch behind a soft-full Append, and the
/// frame's own fields.
pub const PEER_FRAME_BYTES_MAX: usize = APPEND_BYTES_SOFT + BATCH_BYTES_MAX + 64;

/// The most bytes of a frame before two peers know each other: its fixed fields and a sentence, and
/// what is known of every member.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 4096 + MEMBERS_MAX * 10;

/// The highest term that a peer may name. At a thousand elections a second it is reached after
/// nine thousand years; what is beyond is an attempt to use the terms up.
pub const TERM_MAX: u64 = 1 << 48;

/// The highest log index that a peer may name.
pub const LOG_INDEX_MAX: u64 = 1 << 60;

/// The configured part of the bounds, which a decoder must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key accepted, at most [`KEY_BYTES_MAX`].
    pub key_bytes_max: usize,
    /// Longest value accepted, at most [`VALUE_BYTES_MAX`].
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_DEFAULT }
    }
}

impl Limits {
    /// No server accepts more than this, however it is configured.
    pub const MAX: Limits =
        Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_MAX };

    /// The most bytes of one request in any protocol: the largest SET, or as much in a SET_MANY.
    /// At least 1 MiB, so that small values still come many to a request.
    #[must_use]
    pub fn request_bytes_max(&self) -> usize {
        (self.key_bytes_max + self.value_bytes_max + 64).max(1 << 20)
    }
}

/// A client that talks to a cluster asks for the members when its list is older than this.
pub const MEMBERS_AGE_MAX: Duration = Duration::from_millis(1500);

/// A node that was removed sends its clients to the others for so long before it stops. None of
/// them must find it gone before it has asked for the members once more.
pub const RETIREMENT: Duration = Duration::from_secs(2);

const _: () = assert!(RETIREMENT.as_millis() > MEMBERS_AGE_MAX.as_millis());
const _: () = assert!(KEY_BYTES_MAX == u16::MAX as usize);
const _: () = assert!(VALUE_BYTES_DEFAULT <= VALUE_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX >= 1 << 20);
const _: () = assert!(BATCH_BYTES_MAX < u32::MAX as usize / 4);
const _: () = assert!(ADDRESS_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(MEMBERS_MAX >= VOTERS_MAX as usize && MEMBERS_MAX <= u16::MAX as usize);
const _: () = assert!(MEMBERS_MAX * (2 * ADDRESS_BYTES_MAX + 8) < BATCH_BYTES_SOFT);
const _: () =
    assert!(APPEND_BYTES_SOFT >= BATCH_BYTES_SOFT && APPEND_BYTES_SOFT <= BATCH_BYTES_MAX);
const _: () = assert!(PEER_FRAME_BYTES_MAX < u32::MAX as usize / 4);
const _: () = assert!(HANDSHAKE_FRAME_BYTES_MAX < PEER_FRAME_BYTES_MAX);
const _: () = assert!(SESSION_WINDOW_MAX as usize <= SESSION_SLOTS_MAX);
const _: () = assert!(REPLY_BYTES_MAX > VALUE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < 1_000_000_000, "a RESP length has at most nine digits");
const _: () =
    assert!(COMMAND_BYTES_MAX + RESP_ARGS_MAX * RESP_ARG_FRAMING_BYTES_MAX < u32::MAX as usize / 4);
