//! What a node says of itself when it meets another.
//!
//! ```text
//!  0         2       3      4      6    8         16            24     32      40        48
//! +---------+-------+------+------+----+---------+-------------+------+-------+---------+------
//! | version | flags | lane | from | to | cluster | incarnation | boot | epoch | members | term
//! +---------+-------+------+------+----+---------+-------------+------+-------+---------+------
//!  56        64      80              88      90            91
//! +---------+-------+---------------+-------+-------------+---------
//! | durable | nonce | members_index | count | address_len | address
//! +---------+-------+---------------+-------+-------------+---------
//! then count times: u16 id, u64 incarnation, in ascending order of the ids
//! ```

use super::VERSION;
use super::message::Lane;
use crate::error::DecodeError;
use crate::limits::{LOG_INDEX_MAX, MEMBERS_MAX, TERM_MAX};
use crate::membership::is_address;
use crate::types::{ClusterId, LogIndex, NodeId, Term};

const FLAG_SECRET: u8 = 1;
const LANE_CONTROL: u8 = 0;
const LANE_BULK: u8 = 1;
const FIXED_BYTES: usize = 91;
const KNOWN_BYTES: usize = 10;

/// One side's part of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Who speaks.
    pub from: NodeId,
    /// Whom it takes the other side for.
    pub to: NodeId,
    /// What the connection is for, as the caller says.
    pub lane: Lane,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Of its data directory: drawn when the directory was first used.
    pub incarnation: u64,
    /// Drawn when its process started.
    pub boot: u64,
    /// Numbers the connections that this process has opened, so that an old one is not taken for
    /// a new one.
    pub epoch: u64,
    /// [`MemberList::fingerprint`](crate::MemberList::fingerprint) of the last member list that it
    /// knows to be committed.
    pub members: u64,
    /// The index of that list: two nodes of a cluster have the same list at the same index, and of
    /// two lists the one with the higher index is the newer one. 0 before there is one.
    pub members_index: LogIndex,
    /// Where it serves peers, `host:port`: for those whose list does not name it yet.
    pub address: String,
    /// The term that it remembers durably.
    pub term: Term,
    /// Index of the last entry of its log at the same point: a restart finds this much of the log
    /// and this term, or what came later.
    pub durable: LogIndex,
    /// Whether it has a cluster secret.
    pub has_secret: bool,
    /// Drawn for this handshake: a proof from another one is worth nothing.
    pub nonce: [u8; 16],
    /// The incarnations of the members that it has met or heard of, in ascending order of the ids.
    pub known: Vec<(NodeId, u64)>,
}

impl Introduction {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.push(if self.has_secret { FLAG_SECRET } else { 0 });
        out.push(match self.lane {
            Lane::Control => LANE_CONTROL,
            Lane::Bulk => LANE_BULK,
        });
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
        for field in [
            self.cluster.0,
            self.incarnation,
            self.boot,
            self.epoch,
            self.members,
            self.term.0,
            self.durable.0,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.nonce);
        let count = u16::try_from(self.known.len()).expect("bounded by MEMBERS_MAX");
        out.extend_from_slice(&self.members_index.0.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.push(u8::try_from(self.address.len()).expect("bounded by ADDRESS_BYTES_MAX"));
        out.extend_from_slice(self.address.as_bytes());
        for (id, incarnation) in &self.known {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&incarnation.to_le_bytes());
        }
    }

    /// Reads what fills `body` exactly. The version has been compared before.
    pub(super) fn decode(body: &[u8]) -> Result<Introduction, DecodeError> {
        let (fixed, rest) =
            body.split_first_chunk::<FIXED_BYTES>().ok_or(DecodeError::Truncated)?;
        let (address, known) =
            rest.split_at_checked(usize::from(fixed[90])).ok_or(DecodeError::Truncated)?;
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        let u64_at = |at: usize| {
            let bytes = fixed[at..at + 8].try_into().expect("8 bytes");
            u64::from_le_bytes(bytes)
        };
        let has_secret = match fixed[2] {
            0 => false,
            FLAG_SECRET => true,
            _ => return Err(DecodeError::Invalid("handshake flags")),
        };
        let lane = match fixed[3] {
            LANE_CONTROL => Lane::Control,
            LANE_BULK => Lane::Bulk,
            _ => return Err(DecodeError::Invalid("lane")),
        };
        let (from, to) = (NodeId(u16_at(4)), NodeId(u16_at(6)));
        if from == NodeId(0) || to == NodeId(0) {
            return Err(DecodeError::Invalid("node id"));
        }
        let term = u64_at(48);
        if term > TERM_MAX {
            return Err(DecodeError::Invalid("term"));
        }
        let (durable, members_index) = (u64_at(56), u64_at(80));
        if durable.max(members_index) > LOG_INDEX_MAX {
            return Err(DecodeError::Invalid("log index"));
        }
        Ok(Introduction {
            from,
            to,
            lane,
            cluster: ClusterId(u64_at(8)),
            incarnation: u64_at(16),
            boot: u64_at(24),
            epoch: u64_at(32),
            members: u64_at(40),
            term: Term(term),
            durable: LogIndex(durable),
            has_secret,
            nonce: fixed[64..80].try_into().expect("16 bytes"),
            members_index: LogIndex(members_index),
            address: decode_address(address)?,
            known: decode_known(usize::from(u16_at(88)), known)?,
        })
    }
}

/// The address of a peer, or nothing.
fn decode_address(bytes: &[u8]) -> Result<String, DecodeError> {
    let address = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid("peer address"))?;
    if !(address.is_empty() || is_address(address)) {
        return Err(DecodeError::Invalid("peer address"));
    }
    Ok(address.to_owned())
}

fn decode_known(count: usize, bytes: &[u8]) -> Result<Vec<(NodeId, u64)>, DecodeError> {
    if count > MEMBERS_MAX {
        return Err(DecodeError::TooLarge { what: "known members", limit: MEMBERS_MAX });
    }
    if bytes.len() != count * KNOWN_BYTES {
        return Err(DecodeError::Invalid("known members"));
    }
    let mut known: Vec<(NodeId, u64)> = Vec::with_capacity(count);
    for entry in bytes.chunks_exact(KNOWN_BYTES) {
        let id = NodeId(u16::from_le_bytes([entry[0], entry[1]]));
        if id == NodeId(0) || known.last().is_some_and(|(last, _)| *last >= id) {
            return Err(DecodeError::Invalid("known members"));
        }
        known.push((id, u64::from_le_bytes(entry[2..].try_into().expect("8 of 10 bytes"))));
    }
    Ok(known)
}
