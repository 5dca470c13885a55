//! The network between the nodes: connections that come and go, and links, one for each direction,
//! that lose, repeat, delay and reorder what they carry.

use crate::chance::Chance;
use crate::options::{NetworkOptions, STRAY_MAX};
use crate::queue::{MICROSECOND, Time};

/// The least time that any message takes.
const DELAY_MIN: Time = 20 * MICROSECOND;

/// Nodes by their place, from 0.
pub type Place = usize;

/// One direction between two nodes.
#[derive(Clone, Copy, Default)]
struct Link {
    /// Nothing comes through.
    cut: bool,
    /// What comes before this is held back until then.
    clogged_until: Time,
    /// When the last message so far arrives.
    last_arrival: Time,
    /// Messages on their way.
    in_flight: usize,
}

/// A pair of nodes.
#[derive(Clone, Copy, Default)]
struct Connection {
    stands: bool,
    /// Counts the connections of the pair: what was sent on one never arrives on the next.
    number: u32,
}

pub struct Network {
    nodes: usize,
    links: Vec<Link>,
    connections: Vec<Connection>,
    options: NetworkOptions,
}

impl Network {
    pub fn new(nodes: usize, options: NetworkOptions) -> Network {
        Network {
            nodes,
            links: vec![Link::default(); nodes * nodes],
            connections: vec![Connection::default(); nodes * nodes],
            options,
        }
    }

    fn link(&mut self, from: Place, to: Place) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    fn pair(&self, one: Place, other: Place) -> usize {
        one.min(other) * self.nodes + one.max(other)
    }

    // Connections

    /// The number of the connection, if there is one.
    pub fn connection(&self, one: Place, other: Place) -> Option<u32> {
        let connection = self.connections[self.pair(one, other)];
        connection.stands.then_some(connection.number)
    }

    /// Whether a connection could be made now.
    pub fn can_connect(&mut self, one: Place, other: Place) -> bool {
        !self.link(one, other).cut && !self.link(other, one).cut
    }

    pub fn connect(&mut self, one: Place, other: Place) {
        let pair = self.pair(one, other);
        let number = self.connections[pair].number + 1;
        self.connections[pair] = Connection { stands: true, number };
        for (from, to) in [(one, other), (other, one)] {
            self.link(from, to).in_flight = 0;
        }
    }

    pub fn disconnect(&mut self, one: Place, other: Place) {
        let pair = self.pair(one, other);
        self.connections[pair].stands = false;
    }

    // Messages

    /// When a message arrives that leaves now: never, once or twice.
    pub fn send(&mut self, chance: &mut Chance, now: Time, from: Place, to: Place) -> Vec<Time> {
        let NetworkOptions { delay, reorders, loss, duplication, strays, .. } = self.options;
        let link = self.link(from, to);
        if link.cut || chance.happens(loss) {
            return Vec::new();
        }
        let copies = if chance.happens(duplication) { 2 } else { 1 };
        let arrivals: Vec<Time> = (0..copies)
            .map(|_| {
                let delay = match chance.happens(strays) {
                    true => chance.between(0, STRAY_MAX),
                    false => chance.wait(delay),
                };
                let mut at = (now + DELAY_MIN + delay).max(link.clogged_until);
                if !reorders {
                    at = at.max(link.last_arrival);
                }
                link.last_arrival = at;
                at
            })
            .collect();
        link.in_flight += arrivals.len();
        arrivals
    }

    /// Whether a link flips bits of what it carries now.
    pub fn changes(&self, chance: &mut Chance) -> bool {
        chance.happens(self.options.flips)
    }

    /// A message of this connection arrives; false when the connection is gone.
    pub fn arrive(&mut self, from: Place, to: Place, connection: u32) -> bool {
        if self.connection(from, to) != Some(connection) {
            return false;
        }
        self.link(from, to).in_flight -= 1;
        true
    }

    /// How many messages are on their way from one node to another.
    pub fn in_flight(&mut self, from: Place, to: Place) -> usize {
        self.link(from, to).in_flight
    }

    // Faults

    pub fn cut(&mut self, from: Place, to: Place) {
        self.link(from, to).cut = true;
    }

    pub fn clog(&mut self, from: Place, to: Place, until: Time) {
        self.link(from, to).clogged_until = until;
    }

    /// All links carry everything that is sent from now on.
    pub fn mend(&mut self) {
        self.links.iter_mut().for_each(|link| link.cut = false);
    }

    /// All links carry everything, soon.
    pub fn heal(&mut self) {
        self.mend();
        for link in &mut self.links {
            (link.clogged_until, link.last_arrival) = (0, 0);
        }
        (self.options.loss, self.options.duplication, self.options.strays) = (0.0, 0.0, 0.0);
        self.options.flips = 0.0;
        self.options.delay = self.options.delay.min(1000 * MICROSECOND);
    }
}
