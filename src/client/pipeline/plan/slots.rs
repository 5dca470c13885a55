//! Where the requests of a pipeline are kept, from their queueing until their answer is taken.

use std::time::Instant;

use kvorum_protocol::{Command, LogIndex, Op, Read, Request, SessionSequence, binary::RequestHead};

use crate::client::route::{End, EndReason, NodeIndex};

/// A buffer that has grown beyond this is given back when its request is over.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The index of a slot. A slot is used again and again; a [`Ticket`](super::Ticket) is not.
pub(super) type SlotIndex = u32;

const NONE: SlotIndex = u32::MAX;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The value of a key.
    Get,
    /// Stores a value.
    Set,
    /// Removes a key.
    Delete,
}

/// The answer to a request. A value that was read is in the slot's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Set { version: LogIndex },
    Deleted { version: LogIndex, count: u32 },
    Value { version: LogIndex },
    Absent,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In nobody's use.
    Free,
    /// Queued since the last turn.
    Fresh,
    /// Waits for a server to send it to.
    Waiting,
    /// Sent to this server with this id.
    Sent(NodeIndex, u32),
    /// Over, and not taken yet.
    Ready(Result<Answer, End>),
}

#[derive(Debug)]
pub(super) struct Slot {
    /// Unique among all requests of the pipeline, in the order of queueing.
    pub(super) serial: u64,
    pub(super) state: State,
    pub(super) asked: Asked,
    key_bytes: usize,
    /// Key and value of the request; of a GET that is answered, the value.
    bytes: Vec<u8>,
    /// For a read.
    min_version: LogIndex,
    /// The number of a write in its session, once it has one.
    pub(super) number: Option<SessionSequence>,
    /// A sending of a write has left and may be applied: why it has no answer.
    pub(super) open: Option<EndReason>,
    /// What kept it from an answer the last time.
    pub(super) reason: EndReason,
    /// Set in the turn that first may send it.
    pub(super) deadline: Option<Instant>,
    previous: SlotIndex,
    next: SlotIndex,
}

impl Slot {
    /// What is sent for it. The id and the time that is left are the caller's.
    #[inline]
    pub(super) fn request(&self) -> Request<'_> {
        let (key, value) = self.bytes.split_at(self.key_bytes);
        let op = match self.asked {
            Asked::Get => return Request::Read(Read::Get(key)),
            Asked::Set => Op::Set { key, value },
            Asked::Delete => Op::Delete { key },
        };
        Request::Write(Command { session: self.number, op })
    }

    #[inline]
    pub(super) fn head(&self, id: u32) -> RequestHead {
        RequestHead { id, min_version: self.min_version, ..RequestHead::default() }
    }

    #[inline]
    pub(super) fn is_write(&self) -> bool {
        self.asked != Asked::Get
    }

    /// How many bytes it holds.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The value of a GET that is answered.
    #[inline]
    pub(super) fn value(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    pub(super) fn keep_value(&mut self, value: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn end(&self, reason: EndReason) -> End {
        End { reason, is_open: self.open.is_some() }
    }
}

/// The slots in one order.
#[derive(Debug)]
struct List {
    first: SlotIndex,
    last: SlotIndex,
    len: usize,
}

impl List {
    const EMPTY: List = List { first: NONE, last: NONE, len: 0 };
}

/// All slots. Each is free, or in one of two lists: under way in the order of queueing, or ready in
/// the order in which the answers came. Each list is linked through the slots, so that any request
/// leaves it at once and nothing is allocated.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<SlotIndex>,
    under_way: List,
    ready: List,
    next_serial: u64,
    /// Keys and values of the requests under way.
    bytes_under_way: usize,
}

impl Slots {
    pub(super) fn new() -> Slots {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
            under_way: List::EMPTY,
            ready: List::EMPTY,
            next_serial: 1,
            bytes_under_way: 0,
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: SlotIndex) -> &Slot {
        &self.slots[slot as usize]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: SlotIndex) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len
    }

    pub(super) fn bytes_under_way(&self) -> usize {
        self.bytes_under_way
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len
    }

    pub(super) fn oldest_under_way(&self) -> Option<SlotIndex> {
        (self.under_way.first != NONE).then_some(self.under_way.first)
    }

    pub(super) fn first_ready(&self) -> Option<SlotIndex> {
        (self.ready.first != NONE).then_some(self.ready.first)
    }

    /// Takes a request in.
    #[inline]
    pub(super) fn add(
        &mut self,
        asked: Asked,
        key: &[u8],
        value: &[u8],
        min_version: LogIndex,
    ) -> SlotIndex {
        let index = self.free.pop().unwrap_or_else(|| self.grow());
        let slot = &mut self.slots[index as usize];
        slot.serial = self.next_serial;
        slot.state = State::Fresh;
        slot.asked = asked;
        slot.key_bytes = key.len();
        slot.bytes.clear();
        slot.bytes.extend_from_slice(key);
        slot.bytes.extend_from_slice(value);
        slot.min_version = min_version;
        slot.number = None;
        slot.open = None;
        slot.reason = EndReason::Unreachable;
        slot.deadline = None;
        self.next_serial += 1;
        self.bytes_under_way += key.len() + value.len();
        push_back(&mut self.slots, &mut self.under_way, index);
        index
    }

    #[cold]
    fn grow(&mut self) -> SlotIndex {
        self.slots.push(Slot {
            serial: 0,
            state: State::Free,
            asked: Asked::Get,
            key_bytes: 0,
            bytes: Vec::new(),
            min_version: LogIndex(0),
            number: None,
            open: None,
            reason: EndReason::Unreachable,
            deadline: None,
            previous: NONE,
            next: NONE,
        });
        u32::try_from(self.slots.len() - 1).expect("memory ends before four billion requests")
    }

    /// The request is over; its answer can be taken. A value must not be kept before this.
    #[inline]
    pub(super) fn finish(&mut self, index: SlotIndex, result: Result<Answer, End>) {
        self.bytes_under_way -= self.slots[index as usize].bytes();
        unlink(&mut self.slots, &mut self.under_way, index);
        self.slots[index as usize].state = State::Ready(result);
        push_back(&mut self.slots, &mut self.ready, index);
    }

    /// Takes a request whose answer is ready out of its list. It stays as it is until it is
    /// [released](Slots::release).
    #[inline]
    pub(super) fn take(&mut self, index: SlotIndex) {
        unlink(&mut self.slots, &mut self.ready, index);
    }

    /// Makes room for another request.
    #[inline]
    pub(super) fn release(&mut self, index: SlotIndex) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Free;
        if slot.bytes.capacity() > KEPT_BYTES_MAX {
            slot.bytes = Vec::new();
        }
        self.free.push(index);
    }
}

#[inline]
fn push_back(slots: &mut [Slot], list: &mut List, index: SlotIndex) {
    let slot = &mut slots[index as usize];
    slot.previous = list.last;
    slot.next = NONE;
    match list.last {
        NONE => list.first = index,
        last => slots[last as usize].next = index,
    }
    list.last = index;
    list.len += 1;
}

#[inline]
fn unlink(slots: &mut [Slot], list: &mut List, index: SlotIndex) {
    let Slot { previous, next, .. } = slots[index as usize];
    match previous {
        NONE => list.first = next,
        previous => slots[previous as usize].next = next,
    }
    match next {
        NONE => list.last = previous,
        next => slots[next as usize].previous = previous,
    }
    list.len -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(slots: &Slots, list: &List) -> Vec<u64> {
        let mut serials = Vec::new();
        let mut at = list.first;
        while at != NONE {
            serials.push(slots.get(at).serial);
            at = slots.get(at).next;
        }
        assert_eq!(serials.len(), list.len);
        serials
    }

    #[test]
    fn each_list_keeps_its_order_whoever_leaves_it() {
        let mut slots = Slots::new();
        let added: Vec<_> =
            (0..4).map(|_| slots.add(Asked::Set, b"k", b"v", LogIndex(0))).collect();
        assert_eq!(slots.bytes_under_way(), 8);
        let answer = Ok(Answer::Absent);
        for at in [2, 0] {
            slots.finish(added[at], answer);
        }
        assert_eq!(order(&slots, &slots.under_way), [2, 4]);
        assert_eq!(order(&slots, &slots.ready), [3, 1]);
        slots.take(added[0]);
        slots.release(added[0]);
        assert_eq!(order(&slots, &slots.ready), [3]);
        let again = slots.add(Asked::Get, b"k", b"", LogIndex(0));
        assert_eq!(again, added[0], "a slot is used again");
        assert_eq!(order(&slots, &slots.under_way), [2, 4, 5]);
        slots.finish(added[3], answer);
        assert_eq!(order(&slots, &slots.under_way), [2, 5]);
        assert_eq!((slots.under_way(), slots.ready()), (2, 2));
        assert_eq!(slots.bytes_under_way(), 3);
    }
}
