//! A set of servers.

use super::router::{NODES_MAX, NodeIndex};

/// Servers that were asked in vain. A bit for each, so that a call allocates nothing for it.
#[derive(Clone, Debug)]
pub struct Tried {
    words: [u64; NODES_MAX / 64],
}

impl Tried {
    /// No server.
    pub const NONE: Tried = Tried { words: [0; NODES_MAX / 64] };

    /// Adds one.
    pub fn insert(&mut self, node: NodeIndex) {
        self.words[node.0 / 64] |= 1 << (node.0 % 64);
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(&self, node: NodeIndex) -> bool {
        self.words[node.0 / 64] & (1 << (node.0 % 64)) != 0
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Tried::NONE;
    }
}

impl Default for Tried {
    fn default() -> Tried {
        Tried::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_among_them_once_it_was_added() {
        let mut tried = Tried::NONE;
        for node in [0, 63, 64, NODES_MAX - 1].map(NodeIndex) {
            assert!(!tried.contains(node));
            tried.insert(node);
            assert!(tried.contains(node));
        }
        assert!(!tried.contains(NodeIndex(1)));
        tried.clear();
        assert!(!tried.contains(NodeIndex(0)));
    }
}
