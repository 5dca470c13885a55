//! Requests that wait to be sent.

use std::collections::VecDeque;

use super::slots::SlotIndex;

/// Requests that wait to be sent, in the order of queueing, whatever order they come back in.
///
/// All functions that look for a place are told how to find the serial number of a slot.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    slots: VecDeque<SlotIndex>,
}

impl Waiting {
    #[inline]
    pub(super) fn first(&self) -> Option<SlotIndex> {
        self.slots.front().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[inline]
    pub(super) fn remove_first(&mut self) {
        self.slots.pop_front();
    }

    /// Adds one that was queued after all others.
    #[inline]
    pub(super) fn push_newest(&mut self, slot: SlotIndex) {
        self.slots.push_back(slot);
    }

    /// Adds one that was sent in vain, at its place. Cheap near either end.
    pub(super) fn put_back(&mut self, slot: SlotIndex, serial: impl Fn(SlotIndex) -> u64) {
        let own = serial(slot);
        let at = self.slots.partition_point(|other| serial(*other) < own);
        self.slots.insert(at, slot);
    }

    /// Takes one out that will not be sent any more.
    pub(super) fn remove(&mut self, slot: SlotIndex, serial: impl Fn(SlotIndex) -> u64) {
        let own = serial(slot);
        let at = self.slots.partition_point(|other| serial(*other) < own);
        let removed = self.slots.remove(at);
        assert_eq!(removed, Some(slot), "it waits at its place");
    }

    /// Takes all out that are such, oldest first.
    pub(super) fn extract(&mut self, is_such: impl Fn(SlotIndex) -> bool) -> Vec<SlotIndex> {
        let (such, others) = self.slots.drain(..).partition(|slot| is_such(*slot));
        self.slots = others;
        Vec::from(such)
    }
}
