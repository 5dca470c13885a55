//! How far a leader has brought one other member.

use std::collections::VecDeque;
use std::time::Duration;

use kvorum_protocol::{LogIndex, NodeId};

use super::output::SnapshotPart;
use super::time::Instant;

/// Bytes of entries that may be on their way to one member, not durable there yet.
const WINDOW_BYTES: usize = 16 << 20;

/// Bytes of a snapshot that may be on their way to one member. Less than of entries: they share a
/// connection with nothing that is urgent, but the member's disk with its log.
const SNAPSHOT_WINDOW_BYTES: u64 = 2 << 20;

/// What was sent is given up for lost when nothing of it has arrived for a timeout at first, for
/// two of them the next time, and so on up to this many. Connections do not lose anything without
/// breaking, and a break is told at once, so this is for what nobody foresees.
const PATIENCE_MAX: u32 = 8;

/// What may be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One question at a time where the two logs part. `asked` is the entry in question, once it
    /// was sent.
    Probe { asked: Option<LogIndex> },
    /// Everything behind `next`, as far as the window goes.
    Stream,
    /// The entries at `next` are being read back from the disk.
    Fetch,
    /// Nothing for a while: the entries can not be read.
    Wait,
    /// The entries at `next` are gone: a snapshot takes their place.
    Install(Sending),
}

/// A snapshot on its way to a member.
///
/// Invariant: `acked <= sent <= total_bytes`, once a part was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sending {
    /// The last entry that it covers, once that is known.
    index: Option<LogIndex>,
    total_bytes: u64,
    /// What tells the file from others of the same index and length.
    file: u64,
    /// So much of it was sent.
    sent: u64,
    /// So much of it has arrived.
    acked: u64,
    /// The part at `sent` is being read.
    reads: bool,
}

/// How far one other member is, as its leader knows it.
///
/// Invariants: `durable <= matched < next`; `durable` of a voter never goes back in a term, unless
/// the member says that its log was repaired; `matched` does when the member has crashed.
#[derive(Debug)]
pub struct Progress {
    /// Who.
    pub id: NodeId,
    /// Whether it counts.
    pub is_voter: bool,
    /// Up to here its log is the leader's.
    pub matched: LogIndex,
    /// Up to here that is durable.
    pub durable: LogIndex,
    /// The highest round that it has confirmed.
    pub round: u64,
    /// When it was heard last in this term.
    pub heard_at: Option<Instant>,
    /// The next entry to send.
    next: LogIndex,
    mode: Mode,
    /// The last snapshot of which a part was sent.
    begun: Option<LogIndex>,
    /// The last entries and the bytes of what was sent and is not durable there, in order.
    in_flight: VecDeque<(LogIndex, usize)>,
    in_flight_bytes: usize,
    /// When something was sent or acknowledged last.
    moved_at: Instant,
    /// How many timeouts to wait for a move. When more than one, things are not going well, and
    /// one Append at a time is enough.
    patience: u32,
}

impl Progress {
    /// At the start of a term: its log may be as long as the leader's, which ends before `next`.
    pub fn new(id: NodeId, is_voter: bool, next: LogIndex, now: Instant) -> Progress {
        Progress {
            id,
            is_voter,
            matched: LogIndex(0),
            durable: LogIndex(0),
            round: 0,
            heard_at: None,
            next,
            mode: Mode::Probe { asked: None },
            begun: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            moved_at: now,
            patience: 1,
        }
    }

    /// What was on its way may be lost, and what was not durable too: ask where the member is.
    pub fn probe(&mut self, now: Instant) {
        self.mode = Mode::Probe { asked: None };
        if self.matched > LogIndex(0) {
            self.next = self.matched.next();
        }
        if !self.is_voter {
            // It has promised nothing, and may come back with nothing: what is known of it must not
            // make a voter of it.
            self.durable = LogIndex(0);
        }
        self.matched = self.durable;
        self.forget_in_flight();
        self.moved_at = now;
    }

    fn forget_in_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The entry to ask for, if it is time to ask.
    pub fn probe_due(&mut self) -> Option<LogIndex> {
        let Mode::Probe { asked: asked @ None } = &mut self.mode else { return None };
        let prev = LogIndex(self.next.0 - 1);
        *asked = Some(prev);
        Some(prev)
    }

    /// Where the next entries start, if more may be sent.
    pub fn next_to_send(&self) -> Option<LogIndex> {
        let window_bytes = if self.patience > 1 { 1 } else { WINDOW_BYTES };
        let may_send = self.mode == Mode::Stream && self.in_flight_bytes < window_bytes;
        may_send.then_some(self.next)
    }

    /// The entries up to `last` are on their way.
    pub fn sent(&mut self, last: LogIndex, bytes: usize, now: Instant) {
        assert!(last >= self.next);
        if self.in_flight.is_empty() {
            self.moved_at = now;
        }
        self.next = last.next();
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
    }

    /// The entries at `next` have to be read from the disk first.
    pub fn fetch(&mut self) {
        self.mode = Mode::Fetch;
    }

    /// They have come, from `from` on. False when nobody waits for them any more.
    pub fn fetched(&mut self, from: LogIndex) -> bool {
        if self.mode != Mode::Fetch || from != self.next {
            return false;
        }
        self.mode = Mode::Stream;
        true
    }

    /// They can not be read: try again after a while, each time a longer one.
    pub fn stall(&mut self, now: Instant) {
        self.probe(now);
        self.mode = Mode::Wait;
        self.patience = (self.patience * 2).min(PATIENCE_MAX);
    }

    /// The entries at `next` are gone. A snapshot of which the member may have a part already is
    /// gone on with, while it can be read.
    pub fn install(&mut self) {
        let index = self.begun.filter(|index| *index >= self.next);
        self.mode = Mode::Install(Sending { index, ..Sending::default() });
    }

    /// The snapshot that it gets can not be read any more.
    pub fn install_fails(&mut self, now: Instant) {
        self.begun = None;
        self.stall(now);
    }

    /// Whether a snapshot is on its way to the member.
    pub fn is_installing(&self) -> bool {
        matches!(self.mode, Mode::Install(_))
    }

    /// Which part of which snapshot is to be read next, if one is.
    pub fn snapshot_part_due(&mut self) -> Option<(Option<LogIndex>, u64)> {
        let Mode::Install(sending) = &mut self.mode else { return None };
        let is_over = sending.sent > 0 && sending.sent == sending.total_bytes;
        if sending.reads || is_over || sending.sent - sending.acked >= SNAPSHOT_WINDOW_BYTES {
            return None;
        }
        sending.reads = true;
        Some((sending.index, sending.sent))
    }

    /// The part at `offset` is on its way. False when nobody waits for it any more.
    pub fn snapshot_part_sent(&mut self, part: &SnapshotPart, now: Instant) -> bool {
        let Mode::Install(sending) = &mut self.mode else { return false };
        sending.reads = false;
        let goes_on = sending.sent > 0 && sending.index == Some(part.index);
        if goes_on && sending.file != part.file {
            // Another file has taken its place, with which the member could not go on.
            *sending = Sending::default();
            return false;
        }
        let is_wanted =
            sending.index.is_none_or(|index| index == part.index) && sending.sent == part.offset;
        if is_wanted {
            (sending.index, sending.file) = (Some(part.index), part.file);
            self.begun = Some(part.index);
            sending.total_bytes = part.total_bytes;
            sending.sent += part.bytes.len() as u64;
            self.moved_at = now;
        }
        is_wanted
    }

    /// The member has the `file` of the snapshot up to `offset`: it may be more than was sent to it
    /// by this count, or less. The file may be one that an earlier leader has sent.
    pub fn snapshot_acknowledged(&mut self, index: LogIndex, file: u64, offset: u64, now: Instant) {
        let Mode::Install(sending) = &mut self.mode else { return };
        let is_same = (sending.index, sending.file) == (Some(index), file);
        if !is_same || offset > sending.total_bytes {
            return;
        }
        if offset != sending.acked {
            (self.moved_at, self.patience) = (now, 1);
        }
        sending.acked = offset;
        sending.sent = sending.sent.max(offset);
    }

    /// The last entry that the log may give up without harm to this member.
    pub fn spares(&self) -> LogIndex {
        match self.mode {
            Mode::Install(Sending { index: Some(index), .. }) => index,
            _ => LogIndex(self.next.0 - 1).min(self.durable),
        }
    }

    /// The member says how far it is. Whatever came before, it is at least there.
    pub fn acknowledge(&mut self, matched: LogIndex, durable: LogIndex, now: Instant) {
        if matched > self.matched || durable > self.durable {
            (self.moved_at, self.patience) = (now, 1);
        }
        self.matched = self.matched.max(matched);
        self.durable = self.durable.max(durable);
        // What was known before is no answer: a member that has crashed may not know it any more.
        if matches!(self.mode, Mode::Probe { asked: Some(asked) } if asked <= matched) {
            self.mode = Mode::Stream;
            self.next = self.matched.next();
        }
        if self.next <= self.matched {
            // It has more than was sent to it by this count: an earlier copy has arrived.
            self.next = self.matched.next();
            if matches!(self.mode, Mode::Fetch | Mode::Install(_)) {
                self.mode = Mode::Stream;
            }
        }
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|sent| sent.0 <= self.durable) {
            self.in_flight_bytes -= bytes;
        }
    }

    /// The member has lost what it has acknowledged.
    pub fn forget_durable(&mut self) {
        self.durable = LogIndex(0);
        self.matched = LogIndex(0);
    }

    /// The member does not have the entry at `prev`; the leader's log may be its own up to `hint`.
    pub fn reject(&mut self, prev: LogIndex, hint: LogIndex, now: Instant) {
        // A voter keeps what it has said to be durable. A learner has promised nothing, and may
        // come back with an empty directory.
        let is_durable = prev <= self.durable;
        let is_stale = is_durable && self.is_voter
            || self.mode == Mode::Wait
            || matches!(self.mode, Mode::Probe { asked } if asked != Some(prev));
        if is_stale {
            return;
        }
        if is_durable {
            self.durable = LogIndex(0);
        }
        self.probe(now);
        self.next = LogIndex(hint.0.min(prev.0 - 1)).max(self.durable).next();
    }

    /// Gives up what was sent and never arrived. A question is repeated after `timeout`, entries
    /// after `resend_timeout`: on a slow link they take their time.
    pub fn check(&mut self, now: Instant, timeout: Duration, resend_timeout: Duration) {
        let wait = match self.mode {
            Mode::Probe { asked: Some(_) } | Mode::Wait => timeout,
            Mode::Stream if self.matched.next() < self.next => resend_timeout,
            // It may also take its time over what it has got, to check and load it.
            Mode::Install(sending) if !sending.reads => resend_timeout,
            Mode::Probe { asked: None } | Mode::Stream | Mode::Fetch | Mode::Install(_) => return,
        };
        if now.since(self.moved_at) >= wait * self.patience {
            self.probe(now);
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvorum_protocol::Term;

    use super::*;

    /// A member comes back from a crash with all entries, but without the knowledge that they are
    /// the leader's. Only the answer to the question can tell it.
    #[test]
    fn a_member_that_has_crashed_is_asked_until_it_has_answered() {
        let (start, timeout) = (Instant(0), Duration::from_millis(300));
        let mut member = Progress::new(NodeId(2), true, LogIndex(1), start);
        assert_eq!(member.probe_due(), Some(LogIndex(0)));
        member.acknowledge(LogIndex(0), LogIndex(0), start);
        member.sent(LogIndex(9), 100, start);
        member.acknowledge(LogIndex(9), LogIndex(9), start);
        member.probe(start);
        assert_eq!(member.probe_due(), Some(LogIndex(9)));
        // The question is lost, and a heartbeat is answered.
        member.acknowledge(LogIndex(5), LogIndex(5), start);
        assert_eq!(member.next_to_send(), None);
        member.check(start.after(timeout), timeout, timeout);
        assert_eq!(member.probe_due(), Some(LogIndex(9)));
        member.acknowledge(LogIndex(9), LogIndex(9), start);
        assert_eq!(member.next_to_send(), Some(LogIndex(10)));
    }

    /// What a member has of the file of an earlier leader is nothing of this one's, unless the two
    /// are the same.
    #[test]
    fn an_acknowledgement_of_another_file_of_the_same_index_is_not_believed() {
        let start = Instant(0);
        let mut member = Progress::new(NodeId(2), true, LogIndex(9), start);
        member.install();
        let part = |file, offset| SnapshotPart {
            index: LogIndex(7),
            index_term: Term(1),
            total_bytes: 100,
            file,
            offset,
            bytes: Bytes::from_static(&[0; 10]),
        };
        assert_eq!(member.snapshot_part_due(), Some((None, 0)));
        assert!(member.snapshot_part_sent(&part(1, 0), start));
        member.snapshot_acknowledged(LogIndex(7), 2, 60, start);
        assert_eq!(member.snapshot_part_due(), Some((Some(LogIndex(7)), 10)));
        assert!(member.snapshot_part_sent(&part(1, 10), start));
        member.snapshot_acknowledged(LogIndex(7), 1, 60, start);
        assert_eq!(member.snapshot_part_due(), Some((Some(LogIndex(7)), 60)));
        // The leader's own file is another one by now.
        assert!(!member.snapshot_part_sent(&part(3, 60), start));
        assert_eq!(member.snapshot_part_due(), Some((None, 0)));
    }

    /// A member whose disk is full takes nothing of what it is sent, and says only how far it is.
    /// It must not be sent the whole window again and again.
    #[test]
    fn a_member_that_takes_nothing_is_left_alone_for_longer_and_longer() {
        let timeout = Duration::from_millis(300);
        let mut now = Instant(0);
        let mut member = Progress::new(NodeId(2), true, LogIndex(1), now);
        let mut sent_bytes = 0;
        for _ in 0..600 {
            now = now.after(Duration::from_millis(50));
            member.check(now, timeout, 30 * timeout);
            if member.probe_due().is_some() {
                member.acknowledge(LogIndex(0), LogIndex(0), now);
            }
            while let Some(next) = member.next_to_send() {
                member.sent(LogIndex(next.0 + 9), 1 << 20, now);
                sent_bytes += 1 << 20;
            }
            member.acknowledge(LogIndex(0), LogIndex(0), now);
        }
        assert!(sent_bytes <= 40 << 20, "{} MiB in half a minute", sent_bytes >> 20);
    }
}
