//! The requests of one connection that wait for their reply.

use std::collections::VecDeque;

use super::workload::Kind;

/// What must be known of a request when its reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// What was asked.
    pub(crate) kind: Kind,
    /// The number of the key.
    pub(crate) key: u32,
    /// When it was sent, or at a fixed rate when it should have been sent; nanoseconds of the
    /// engine's clock.
    pub(crate) at_ns: u64,
}

/// A bounded set of requests in flight, with ids for protocols whose replies may come in any
/// order.
///
/// Invariant: `free` holds exactly the slots whose request is `None`, longest free first. Without
/// overtaking they are therefore taken and freed in one cycle, and `oldest` follows it.
#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    oldest: u32,
    /// A power of two above the number of slots: the low bits of an id name its slot, the others
    /// count its uses. No id is `u32::MAX`, which the binary protocol reserves.
    id_step: u32,
}

#[derive(Debug)]
struct Slot {
    id: u32,
    request: Option<Sent>,
}

impl InFlight {
    /// Room for `capacity` requests.
    pub(crate) fn new(capacity: u32) -> InFlight {
        InFlight {
            slots: (0..capacity).map(|id| Slot { id, request: None }).collect(),
            free: (0..capacity).collect(),
            oldest: 0,
            id_step: (capacity + 1).next_power_of_two(),
        }
    }

    /// How many requests wait for their reply.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Adds a request and returns its id.
    ///
    /// # Panics
    /// When there is no room.
    #[inline]
    pub(crate) fn push(&mut self, request: Sent) -> u32 {
        let index = self.free.pop_front().expect("the caller asked for room");
        let slot = &mut self.slots[index as usize];
        slot.id = slot.id.wrapping_add(self.id_step);
        slot.request = Some(request);
        slot.id
    }

    /// Removes all requests, in no order: their replies will never come.
    pub(crate) fn abandon(&mut self) -> Vec<Sent> {
        let abandoned = self.slots.iter_mut().filter_map(|slot| slot.request.take()).collect();
        self.free = (0..).take(self.slots.len()).collect();
        self.oldest = 0;
        abandoned
    }

    /// Removes the request that was sent first, when replies come in order; `None` when nothing
    /// is in flight.
    #[inline]
    pub(crate) fn take_oldest(&mut self) -> Option<Sent> {
        let index = self.oldest;
        let request = self.slots[index as usize].request.take()?;
        self.free.push_back(index);
        let next = index + 1;
        self.oldest = if next as usize == self.slots.len() { 0 } else { next };
        Some(request)
    }

    /// Removes the request with this id; `None` when it is not in flight.
    #[inline]
    pub(crate) fn take(&mut self, id: u32) -> Option<Sent> {
        let index = id & (self.id_step - 1);
        let slot = self.slots.get_mut(index as usize)?;
        if slot.id != id {
            return None;
        }
        let request = slot.request.take()?;
        self.free.push_back(index);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(key: u32) -> Sent {
        Sent { kind: Kind::Get, key, at_ns: 0 }
    }

    #[test]
    fn in_order_replies_find_their_requests_across_the_wrap() {
        let mut in_flight = InFlight::new(3);
        let mut next = 0;
        let mut expected = 0;
        for _ in 0..10 {
            while in_flight.room() > 0 {
                in_flight.push(sent(next));
                next += 1;
            }
            for _ in 0..2 {
                assert_eq!(in_flight.take_oldest(), Some(sent(expected)));
                expected += 1;
            }
        }
        assert_eq!(in_flight.len(), 1);
        assert!(in_flight.take_oldest().is_some());
        assert_eq!(in_flight.take_oldest(), None);
    }

    #[test]
    fn an_id_is_answered_once_and_never_in_place_of_a_later_one() {
        let mut in_flight = InFlight::new(2);
        let first = in_flight.push(sent(1));
        let second = in_flight.push(sent(2));
        assert_eq!(in_flight.take(second), Some(sent(2)));
        assert_eq!(in_flight.take(second), None);
        let third = in_flight.push(sent(3));
        assert_ne!(third, second);
        assert_eq!(in_flight.take(second), None);
        assert_eq!(in_flight.take(first), Some(sent(1)));
        assert_eq!(in_flight.take(third), Some(sent(3)));
        assert_eq!(in_flight.take(u32::MAX), None);
        assert_eq!(in_flight.len(), 0);
    }

    #[test]
    fn what_is_abandoned_leaves_room_and_is_not_answered() {
        let mut in_flight = InFlight::new(3);
        let first = in_flight.push(sent(1));
        in_flight.push(sent(2));
        assert_eq!(in_flight.abandon(), [sent(1), sent(2)]);
        assert_eq!((in_flight.len(), in_flight.take(first)), (0, None));
        for key in 3..6 {
            in_flight.push(sent(key));
        }
        assert_eq!(in_flight.take_oldest(), Some(sent(3)));
    }

    #[test]
    fn the_reserved_id_is_never_given_out() {
        for capacity in [1, 2, 3, 4, 7, 8] {
            let mut in_flight = InFlight::new(capacity);
            for slot in &mut in_flight.slots {
                slot.id = slot.id.wrapping_sub(in_flight.id_step * 2);
            }
            for _ in 0..4 * capacity {
                let id = in_flight.push(sent(0));
                assert_ne!(id, u32::MAX);
                assert!(in_flight.take(id).is_some());
            }
        }
    }
}
