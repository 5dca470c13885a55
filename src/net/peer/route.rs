//! The way to one other member: who dials it when, and which connections stand.

use std::time::Duration;

use kvorum_protocol::peer::Lane;
use kvorum_protocol::{LogIndex, Member, NodeId};

use crate::core::Instant;

/// Both lanes, in the order of the arrays here.
pub const LANES: [Lane; 2] = [Lane::Control, Lane::Bulk];

/// How long to wait after the first, second, ... failure in a row; the last one is for all
/// further. A process that was killed takes a moment to give its port up: at once after the break
/// one may still reach it, so the second try follows closely.
const PAUSES_MS: [u64; 8] = [5, 20, 50, 50, 100, 100, 200, 500];

/// The way to one other member.
#[derive(Debug)]
pub struct Route {
    /// The member.
    pub member: NodeId,
    /// Where it is, `host:port`.
    pub address: String,
    /// The connections that this node dials.
    pub dials: [Dial; 2],
    /// The links that the member has opened and this node listens to.
    pub incoming: [Option<u64>; 2],
    /// The last durable entry that the member has been told of, by this node as its leader.
    pub told_durable: LogIndex,
    /// Whether both dialed lanes stood when they were looked at last.
    pub is_joined: bool,
    /// What the log says of the member at the moment, so that it is said once.
    pub told: Option<String>,
}

/// One dialed connection, or the lack of it.
#[derive(Debug)]
pub struct Dial {
    /// How far it is.
    pub state: DialState,
    /// How often in a row it has failed.
    pub failures: usize,
}

/// How far a dialed connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialState {
    /// Not under way; to be tried again then.
    Waiting(Instant),
    /// The name of the member's host is looked up.
    Resolving,
    /// This link connects, or gets to know the member.
    Busy(u64),
    /// This link carries messages.
    Open(u64),
}

impl Route {
    /// A way that nobody has gone yet: to be dialed at once.
    pub fn new(member: &Member) -> Route {
        Route::at(member.id, member.peer.clone())
    }

    /// The same for a node that is known by its own word only.
    pub fn at(member: NodeId, address: String) -> Route {
        let dial = || Dial { state: DialState::Waiting(Instant::default()), failures: 0 };
        Route {
            member,
            address,
            dials: [dial(), dial()],
            incoming: [None; 2],
            told_durable: LogIndex(0),
            is_joined: false,
            told: None,
        }
    }

    /// The dialed connection of a lane.
    pub fn dial(&mut self, lane: Lane) -> &mut Dial {
        &mut self.dials[lane_at(lane)]
    }

    /// The link that carries the messages of a lane, if it stands.
    pub fn open_link(&self, lane: Lane) -> Option<u64> {
        match self.dials[lane_at(lane)].state {
            DialState::Open(link) => Some(link),
            _ => None,
        }
    }

    /// Whether both dialed lanes stand.
    pub fn is_open(&self) -> bool {
        LANES.iter().all(|lane| self.open_link(*lane).is_some())
    }

    /// Whether the member keeps a connection to this node.
    pub fn is_heard(&self) -> bool {
        self.incoming.iter().any(Option::is_some)
    }

    /// Something has happened at the member: what waits is tried at once.
    pub fn hurry(&mut self, now: Instant) {
        for dial in &mut self.dials {
            if let DialState::Waiting(until) = &mut dial.state {
                *until = now.min(*until);
                dial.failures = 0;
            }
        }
    }

    /// When the next dial is due.
    pub fn deadline(&self) -> Instant {
        let due = self.dials.iter().map(|dial| match dial.state {
            DialState::Waiting(until) => until,
            _ => Instant::NEVER,
        });
        due.min().unwrap_or(Instant::NEVER)
    }
}

impl Dial {
    /// It has failed, or has ended before it carried messages: the pauses grow.
    pub fn failed(&mut self, now: Instant) {
        let pause = PAUSES_MS[self.failures.min(PAUSES_MS.len() - 1)];
        self.failures += 1;
        // A quarter more or less, so that nodes do not dial each other in step.
        let jitter = rand::random_range(750..=1250);
        self.state = DialState::Waiting(now.after(Duration::from_micros(pause * jitter)));
    }

    /// It stood and broke: dialed again at once.
    pub fn broke(&mut self, now: Instant) {
        self.failures = 0;
        self.state = DialState::Waiting(now);
    }
}

/// The place of a lane in arrays.
pub fn lane_at(lane: Lane) -> usize {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => 1,
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::Role;

    use super::*;

    fn route() -> Route {
        Route::new(&Member::parse("2=a:1/b:1", Role::Voter).unwrap())
    }

    fn ms(ms: u64) -> Instant {
        Instant::default().after(Duration::from_millis(ms))
    }

    #[test]
    fn pauses_grow_to_half_a_second_and_a_break_ends_them() {
        let mut route = route();
        assert_eq!(route.deadline(), Instant::default());
        let dial = route.dial(Lane::Bulk);
        for expected in [5, 20, 50, 50, 100, 100, 200, 500, 500, 500] {
            dial.failed(ms(1000));
            let DialState::Waiting(until) = dial.state else { panic!("{dial:?}") };
            let pause = until.since(ms(1000)).as_millis();
            let (low, high) = (expected * 3 / 4, expected * 5 / 4);
            assert!((low..=high).contains(&pause), "{pause} ms instead of {expected}");
        }
        dial.broke(ms(2000));
        assert_eq!(dial.state, DialState::Waiting(ms(2000)));
        dial.failed(ms(2000));
        route.hurry(ms(2001));
        assert_eq!(route.dial(Lane::Bulk).state, DialState::Waiting(ms(2001)));
    }

    #[test]
    fn both_lanes_together_are_the_way() {
        let mut route = route();
        route.dial(Lane::Control).state = DialState::Open(7);
        assert_eq!((route.open_link(Lane::Control), route.is_open()), (Some(7), false));
        route.dial(Lane::Bulk).state = DialState::Open(8);
        assert_eq!((route.deadline(), route.is_open()), (Instant::NEVER, true));
    }
}
