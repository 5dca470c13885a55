//! What the nodes of a cluster know and nobody else does.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest secret that is accepted, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// A shared secret. It is never sent; a node proves that it has it by an HMAC-SHA256 (RFC 2104)
/// over what both sides have said.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret of at least [`SECRET_BYTES_MIN`] bytes; `None` when they are fewer.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Secret> {
        (bytes.len() >= SECRET_BYTES_MIN).then_some(Secret(bytes))
    }

    /// The proof over `parts`, one behind the other.
    pub(super) fn proof(&self, parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `proof` is the one over `parts`; takes the same time either way.
    pub(super) fn verify(&self, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(parts).verify_slice(proof).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_neither_short_nor_printed() {
        assert!(Secret::new(vec![b'x'; SECRET_BYTES_MIN - 1]).is_none());
        let secret = Secret::new(b"correct horse battery".to_vec()).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    /// RFC 4231, test case 6: any HMAC-SHA256 computes the same proofs.
    #[test]
    fn a_proof_is_an_hmac_sha256() {
        let secret = Secret::new(vec![0xaa; 131]).unwrap();
        let parts: [&[u8]; 2] = [b"Test Using Larger Than Block-Size Key", b" - Hash Key First"];
        let proof = secret.proof(&parts);
        assert_eq!(proof[..8], [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]);
        assert!(secret.verify(&parts, &proof));
        assert!(!secret.verify(&parts[..1], &proof));
        assert!(!secret.verify(&parts, &proof[..31]));
        assert!(!secret.verify(&parts, &[]));
    }
}
