//! The links between nodes: messages stay there until the script says what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::str::FromStr;

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::Message;

/// One direction between two nodes: `1-2` is what leads from 1 to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub from: NodeId,
    pub to: NodeId,
}

impl Link {
    pub fn back(self) -> Link {
        Link { from: self.to, to: self.from }
    }

    pub fn touches(self, node: NodeId) -> bool {
        self.from == node || self.to == node
    }
}

impl FromStr for Link {
    type Err = &'static str;

    fn from_str(link: &str) -> Result<Link, Self::Err> {
        let ends = link.split_once('-');
        let (from, to) = ends.ok_or("a link from 1 to 2 is called 1-2")?;
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => Ok(Link { from: NodeId(from), to: NodeId(to) }),
            _ => Err("nodes are numbers"),
        }
    }
}

impl Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.from, self.to)
    }
}

#[derive(Default)]
pub struct Network {
    /// What is on its way, in the order in which it was sent.
    queues: BTreeMap<Link, Vec<Message>>,
    cut: BTreeSet<Link>,
}

impl Network {
    /// False when the link is cut: then the message is lost.
    pub fn send(&mut self, link: Link, message: Message) -> bool {
        if self.is_cut(link) {
            return false;
        }
        self.queues.entry(link).or_default().push(message);
        true
    }

    /// Takes the message at this place from 1 on, or all.
    pub fn take(&mut self, link: Link, at: Option<usize>) -> Vec<Message> {
        let queue = self.queues.entry(link).or_default();
        match at {
            Some(at) => vec![queue.remove(at - 1)],
            None => std::mem::take(queue),
        }
    }

    /// What is on its way on a link.
    pub fn queue(&self, link: Link) -> &[Message] {
        self.queues.get(&link).map_or(&[], Vec::as_slice)
    }

    /// The links with something on its way.
    pub fn busy(&self) -> Vec<Link> {
        let busy = self.queues.iter().filter(|(_, queue)| !queue.is_empty());
        busy.map(|(link, _)| *link).collect()
    }

    /// The node's connections break: what was on its way is lost.
    pub fn disconnect(&mut self, node: NodeId) {
        self.queues.retain(|link, _| !link.touches(node));
    }

    pub fn is_cut(&self, link: Link) -> bool {
        self.cut.contains(&link)
    }

    /// Nothing passes any more; what was on its way is lost.
    pub fn cut(&mut self, link: Link) {
        self.cut.insert(link);
        self.queues.remove(&link);
    }

    /// Everything passes again; the links that were cut.
    pub fn heal(&mut self) -> BTreeSet<Link> {
        std::mem::take(&mut self.cut)
    }
}
