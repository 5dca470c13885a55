//! Replies in request order, for the protocols whose replies carry no id.

use std::collections::VecDeque;

/// An empty queue keeps room for so many.
const KEPT_SLOTS: usize = 256;

/// The replies that one connection still owes, in order.
///
/// Most of the time a pipeline of writes is answered in order, and a reply goes straight to the
/// output; only what overtakes is kept.
#[derive(Debug)]
pub struct Slots<S> {
    /// Tag of `queue[0]`; tags wrap around.
    first_tag: u32,
    /// Invariant: the front is `Waiting`, or the queue is empty.
    queue: VecDeque<Slot<S>>,
    /// Bytes of all that are `Ready`.
    ready_bytes: usize,
}

#[derive(Debug)]
enum Slot<S> {
    /// Its answer has not come; the shape says how it will be printed.
    Waiting(S),
    /// Printed, but something before it is not answered yet.
    Ready(Box<[u8]>),
}

impl<S: Copy> Slots<S> {
    /// Nothing owed.
    pub fn new() -> Slots<S> {
        Slots { first_tag: 0, queue: VecDeque::new(), ready_bytes: 0 }
    }

    /// The tag that the next waiting request will have.
    #[inline]
    pub fn next_tag(&self) -> u32 {
        // The queue is far shorter than 2^32: see `WAITING_MAX`.
        #[allow(clippy::cast_possible_truncation)]
        self.first_tag.wrapping_add(self.queue.len() as u32)
    }

    /// A request waits under [`next_tag`](Slots::next_tag).
    #[inline]
    pub fn push_waiting(&mut self, shape: S) {
        self.queue.push_back(Slot::Waiting(shape));
    }

    /// A request was answered at once: `print` appends its reply to the output, now or as soon as
    /// everything before it is there.
    #[inline]
    pub fn reply(&mut self, out: &mut Vec<u8>, print: impl FnOnce(&mut Vec<u8>)) {
        if self.queue.is_empty() {
            return print(out);
        }
        let mut reply = Vec::new();
        print(&mut reply);
        self.ready_bytes += reply.len();
        self.queue.push_back(Slot::Ready(reply.into()));
    }

    /// The answer of the request that waits under `tag` has come.
    #[inline]
    pub fn complete(&mut self, tag: u32, out: &mut Vec<u8>, print: impl FnOnce(S, &mut Vec<u8>)) {
        let at = tag.wrapping_sub(self.first_tag) as usize;
        let Some(Slot::Waiting(shape)) = self.queue.get(at) else {
            unreachable!("a request is answered once");
        };
        let shape = *shape;
        if at > 0 {
            let mut reply = Vec::new();
            print(shape, &mut reply);
            self.ready_bytes += reply.len();
            self.queue[at] = Slot::Ready(reply.into());
            return;
        }
        print(shape, out);
        self.pop();
        while let Some(Slot::Ready(reply)) = self.queue.front() {
            out.extend_from_slice(reply);
            self.ready_bytes -= reply.len();
            self.pop();
        }
        if self.queue.is_empty() && self.queue.capacity() > KEPT_SLOTS {
            self.queue = VecDeque::new();
        }
    }

    #[inline]
    fn pop(&mut self) {
        self.queue.pop_front();
        self.first_tag = self.first_tag.wrapping_add(1);
    }

    /// Bytes of the replies that wait for one before them.
    #[inline]
    pub fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// How many replies are owed.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether everything is answered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_request_order() {
        let mut slots = Slots::new();
        slots.first_tag = u32::MAX;
        let mut out = Vec::new();
        let print = |text: &'static str| move |out: &mut Vec<u8>| out.extend(text.as_bytes());
        slots.reply(&mut out, print("a"));
        let b = slots.next_tag();
        slots.push_waiting('b');
        slots.reply(&mut out, print("c"));
        let d = slots.next_tag();
        slots.push_waiting('d');
        slots.reply(&mut out, print("e"));
        assert_eq!(out, b"a");
        let shape = |shape: char, out: &mut Vec<u8>| out.push(shape as u8);
        slots.complete(d, &mut out, shape);
        assert_eq!((out.as_slice(), slots.len()), (&b"a"[..], 4));
        slots.complete(b, &mut out, shape);
        assert_eq!((out.as_slice(), slots.is_empty()), (&b"abcde"[..], true));
        assert_eq!(slots.ready_bytes(), 0);
    }
}
