//! Whose data a directory holds: the file `identity`, written once, read at every start.

use std::fmt;
use std::io;

use kvorum_protocol::{ClusterId, NodeId};

use crate::disk::Disk;

/// The file's name.
pub const IDENTITY_NAME: &str = "identity";

/// Where it is written before it gets its name.
pub(super) const IDENTITY_TMP_NAME: &str = "identity.tmp";

/// Names the data of one node of one cluster. Also in the header of every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Drawn when the directory was first used. A node that comes back with another one has lost
    /// its data, and with it its vote: its peers must not take it for the old one.
    pub incarnation: u64,
}

impl Identity {
    /// A new one. `cluster` as given, or drawn too.
    #[must_use]
    pub fn random(node: NodeId, cluster: Option<ClusterId>) -> Identity {
        let cluster = cluster.unwrap_or_else(|| ClusterId(rand::random()));
        Identity { cluster, node, incarnation: rand::random() }
    }

    /// The text of the file: a person can read it, and a checksum guards it.
    fn encode(&self) -> String {
        let text = self.to_string();
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn decode(bytes: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split_whitespace();
        let mut field = |name: &str| words.by_ref().find(|word| *word == name).and(words.next());
        let identity = Identity {
            cluster: ClusterId(u64::from_str_radix(field("cluster")?, 16).ok()?),
            node: NodeId(field("node")?.parse().ok()?),
            incarnation: u64::from_str_radix(field("incarnation")?, 16).ok()?,
        };
        // The text has one form only, so writing it again checks every byte, the sum included.
        (identity.encode() == text).then_some(identity)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { cluster, node, incarnation } = self;
        write!(
            f,
            "kvorum identity 1\ncluster {:016x}\nnode {node}\nincarnation {incarnation:016x}\n",
            cluster.0
        )
    }
}

/// Reads the file; `Ok(None)` when there is none.
///
/// # Errors
/// It can not be read, or (`InvalidData`) holds something else.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<Identity>> {
    let bytes = match disk.read(IDENTITY_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Identity::decode(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes the file; when this returns it stands, whole and durable. A crash leaves all of it or
/// nothing.
pub(super) fn write(disk: &dyn Disk, identity: &Identity) -> io::Result<()> {
    disk.write_file(IDENTITY_TMP_NAME, identity.encode().as_bytes())?;
    disk.rename(IDENTITY_TMP_NAME, IDENTITY_NAME)?;
    disk.sync_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_no_flipped_bit_or_lost_byte_passes() {
        let identity = Identity::random(NodeId(12), None);
        let text = identity.encode();
        assert_eq!(Identity::decode(text.as_bytes()), Some(identity));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Identity::decode(&bytes), None, "bit {bit}");
        }
        for length in 0..text.len() {
            assert_eq!(Identity::decode(&text.as_bytes()[..length]), None);
        }
    }
}
