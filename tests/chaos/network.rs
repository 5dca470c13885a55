//! A network of real interfaces: each node in a namespace of its own, all on one bridge, beside the
//! clients. What one node sends another can be dropped on its arrival.

use super::namespace::Namespace;
use crate::support::tool;

/// Where nodes serve their clients.
pub const CLIENT_PORT: u16 = 6379;

/// Where nodes serve each other.
pub const PEER_PORT: u16 = 7379;

/// The network; gone when it is dropped, and with the process in any case.
pub struct Network {
    hub: Namespace,
    nodes: Vec<Namespace>,
}

impl Network {
    /// A network of so many nodes, none of them cut off.
    ///
    /// # Errors
    /// What the kernel does not give.
    pub fn new(nodes: usize) -> Result<Network, String> {
        let hub = Namespace::new()?;
        let nodes = (0..nodes).map(|_| Namespace::new()).collect::<Result<Vec<_>, _>>()?;
        let network = Network { hub, nodes };
        network.hub.inside(|| network.connect());
        Ok(network)
    }

    fn connect(&self) {
        let ip = |line: &str| tool("ip", &line.split(' ').collect::<Vec<_>>());
        ip("link set lo up");
        ip("link add hub type bridge");
        ip("link set hub up");
        for id in 1..=self.nodes.len() {
            ip(&format!("addr add {}/24 dev hub", proxy_host(id)));
        }
        for (id, node) in (1..).zip(&self.nodes) {
            ip(&format!("link add node{id} type veth peer name hub netns {}", node.path()));
            ip(&format!("link set node{id} master hub up"));
            node.inside(|| {
                ip("link set lo up");
                ip(&format!("addr add {}/24 dev hub", node_host(id)));
                ip("link set hub up");
            });
        }
    }

    /// Where the clients are.
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// Where a node is.
    pub fn node(&self, id: usize) -> &Namespace {
        &self.nodes[id - 1]
    }

    /// What `from` sends does not arrive at `to` any more.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        let from = node_host(from);
        self.node(to).inside(|| tool("iptables", &["-A", "INPUT", "-s", &from, "-j", "DROP"]));
    }

    /// Two nodes do not hear each other any more.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        for node in &self.nodes {
            node.inside(|| tool("iptables", &["-F", "INPUT"]));
        }
    }
}

/// The address of a node.
pub fn node_host(id: usize) -> String {
    format!("10.77.0.{id}")
}

/// Where a proxy stands in for a node.
pub fn proxy_host(id: usize) -> String {
    format!("10.77.0.{}", 100 + id)
}
