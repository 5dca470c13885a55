//! One call's way through the cluster.

use std::time::{Duration, Instant};

use kvorum_protocol::ErrorCode;

use super::router::{NodeIndex, ReadFrom, Router};
use super::tried::Tried;

/// When all servers were asked in vain: how long to wait before the next round, doubling with each
/// round. An election takes a few milliseconds after a crash, and 300 to 600 after a silence.
const ROUND_WAIT: Duration = Duration::from_millis(2);
const ROUND_WAIT_MAX: Duration = Duration::from_millis(50);

/// What a call may do to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may be sent any number of times, to any member.
    Read(ReadFrom),
    /// Only the leader takes it.
    Write {
        /// A second sending does no harm: the write is numbered in a session, or changes nothing
        /// that anybody sees.
        may_repeat: bool,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it there, then tell what came of it.
    Send(NodeIndex),
    /// Ask again then.
    Wait(Instant),
    /// Give up.
    Fail(End),
}

/// What a server has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// The answer.
    Answer,
    /// It does not lead; the leader's client address.
    NotLeader(&'a str),
    /// It has refused.
    Refused(ErrorCode),
}

/// What the call comes to, after a server has spoken or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// That was the answer.
    Done,
    /// Go on with [`Course::next`].
    Again,
    /// The session is forgotten, and so is nothing else: go on with a number in a new one.
    NewSession,
    /// Give up.
    Fail(End),
}

/// How a call has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why it could not go on.
    pub reason: EndReason,
    /// A write that was sent may be applied, or may yet be. False: certainly not.
    pub is_open: bool,
}

/// Why a call could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// In all the time no server could be reached.
    Unreachable,
    /// The servers name a leader that does not say so itself, or does not answer.
    NoLeaderFound,
    /// A server has refused, and asking again would not help or there was no time.
    Refused(ErrorCode),
    /// The connection broke before the answer came.
    Lost,
    /// The answer did not come in time.
    Late,
}

/// One call's way through the cluster.
///
/// Invariant: at most one sending is under way. `next` is called while none is; after
/// [`Step::Send`] exactly one of `heard`, `lost` and `late` follows.
#[derive(Debug)]
pub struct Course {
    kind: Kind,
    deadline: Instant,
    /// Servers asked in this round.
    tried: Tried,
    /// Rounds in which all servers were asked in vain.
    rounds: u32,
    /// Not before then.
    waits_until: Option<Instant>,
    /// A sending of a write has left and may be applied.
    is_open: bool,
    /// What kept it from an answer the last time.
    reason: EndReason,
}

impl Course {
    /// A call that has to end by `deadline`.
    #[must_use]
    pub fn new(kind: Kind, deadline: Instant) -> Course {
        Course {
            kind,
            deadline,
            tried: Tried::default(),
            rounds: 0,
            waits_until: None,
            is_open: false,
            reason: EndReason::Unreachable,
        }
    }

    /// When it has to end.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What to do now. After [`Step::Send`] the router counts a request in flight.
    pub fn next(&mut self, router: &mut Router, now: Instant) -> Step {
        if now >= self.deadline {
            return Step::Fail(self.end(self.reason));
        }
        if let Some(until) = self.waits_until.filter(|until| *until > now) {
            return Step::Wait(until.min(self.deadline));
        }
        self.waits_until = None;
        let node = match self.kind {
            Kind::Write { .. } => router.for_write(&self.tried, now),
            Kind::Read(from) => router.for_read(from, &self.tried, now),
        };
        let Some(node) = node else {
            let until = self.end_round(router, now);
            return Step::Wait(until.min(self.deadline));
        };
        self.tried.insert(node);
        router.sent(node);
        Step::Send(node)
    }

    /// The server has answered; `round_trip` as for [`Router::answered`].
    pub fn heard(
        &mut self,
        router: &mut Router,
        node: NodeIndex,
        heard: &Heard<'_>,
        round_trip: Option<Duration>,
        now: Instant,
    ) -> Verdict {
        router.answered(node, round_trip);
        match *heard {
            Heard::Answer => {
                if self.is_write() {
                    router.leads(node);
                }
                Verdict::Done
            }
            Heard::NotLeader(address) => {
                router.leads_not(node);
                router.learn_leader(address);
                self.reason = EndReason::NoLeaderFound;
                Verdict::Again
            }
            Heard::Refused(code) => self.refused(router, node, code, now),
        }
    }

    fn refused(
        &mut self,
        router: &mut Router,
        node: NodeIndex,
        code: ErrorCode,
        now: Instant,
    ) -> Verdict {
        self.reason = EndReason::Refused(code);
        match code {
            ErrorCode::NoLeader => {
                router.leads_not(node);
                Verdict::Again
            }
            // The same server will know better soon.
            ErrorCode::Busy => {
                self.end_round(router, now);
                Verdict::Again
            }
            ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged => {
                if code == ErrorCode::LeaderChanged {
                    router.leads_not(node);
                }
                self.sent_in_vain()
            }
            // The same server takes it under a number in another session, unless an earlier
            // sending under this one may have been applied.
            ErrorCode::SessionExpired if !self.is_open => {
                self.tried.clear();
                Verdict::NewSession
            }
            ErrorCode::SessionExpired
            | ErrorCode::UnknownCommand
            | ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::MemoryLimit
            | ErrorCode::DiskFull => Verdict::Fail(self.end(self.reason)),
        }
    }

    /// There will be no answer: `was_sent` tells whether the request may have arrived.
    pub fn lost(
        &mut self,
        router: &mut Router,
        node: NodeIndex,
        was_sent: bool,
        now: Instant,
    ) -> Verdict {
        router.failed(node, now);
        if !was_sent {
            return Verdict::Again;
        }
        self.reason = EndReason::Lost;
        self.sent_in_vain()
    }

    /// The deadline has come before the answer.
    pub fn late(&mut self, router: &mut Router, node: NodeIndex) -> End {
        router.abandoned(node);
        self.is_open |= self.is_write();
        // That there is no quorum says more than that the last of several waits was too short.
        self.end(match self.reason {
            EndReason::Refused(ErrorCode::QuorumTimeout) => self.reason,
            _ => EndReason::Late,
        })
    }

    /// What was sent may have been applied.
    fn sent_in_vain(&mut self) -> Verdict {
        self.is_open |= self.is_write();
        match self.kind {
            Kind::Write { may_repeat: false } => Verdict::Fail(self.end(self.reason)),
            Kind::Write { may_repeat: true } | Kind::Read(_) => Verdict::Again,
        }
    }

    /// All were asked, or it is of no use to ask others: wait, and begin again with all.
    fn end_round(&mut self, router: &mut Router, now: Instant) -> Instant {
        let longest = (ROUND_WAIT * (1 << self.rounds.min(16))).min(ROUND_WAIT_MAX);
        let until = now + router.jitter(longest);
        self.rounds += 1;
        self.tried.clear();
        self.waits_until = Some(until);
        until
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write { .. })
    }

    fn end(&self, reason: EndReason) -> End {
        End { reason, is_open: self.is_open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 3] = ["a:1", "b:1", "c:1"];
    const WRITE: Kind = Kind::Write { may_repeat: true };
    const LATER: Duration = Duration::from_secs(5);

    struct Call {
        router: Router,
        course: Course,
        now: Instant,
    }

    impl Call {
        fn new(kind: Kind) -> Call {
            let now = Instant::now();
            let router = Router::new(SERVERS, 1);
            Call { router, course: Course::new(kind, now + LATER), now }
        }

        fn next(&mut self) -> Step {
            self.course.next(&mut self.router, self.now)
        }

        /// Waits as long as it is told to, and sends.
        fn send(&mut self) -> NodeIndex {
            loop {
                match self.next() {
                    Step::Send(node) => return node,
                    Step::Wait(until) => {
                        assert!(until > self.now, "it would spin");
                        self.now = until;
                    }
                    Step::Fail(end) => panic!("{end:?}"),
                }
            }
        }

        fn hear(&mut self, node: NodeIndex, heard: Heard<'_>) -> Verdict {
            self.course.heard(&mut self.router, node, &heard, None, self.now)
        }

        fn lose(&mut self, node: NodeIndex, was_sent: bool) -> Verdict {
            self.course.lost(&mut self.router, node, was_sent, self.now)
        }
    }

    #[test]
    fn a_write_follows_the_leader_that_it_is_told() {
        let mut call = Call::new(WRITE);
        let first = call.send();
        let leader = NodeIndex((first.0 + 1) % 3);
        let hint = Heard::NotLeader(SERVERS[leader.0]);
        assert_eq!(call.hear(first, hint), Verdict::Again);
        assert_eq!(call.next(), Step::Send(leader), "at once");
        assert_eq!(call.hear(leader, Heard::Answer), Verdict::Done);
        assert_eq!(call.router.leader(), Some(leader));
    }

    /// Each of two servers takes the other for the leader.
    #[test]
    fn hints_in_a_circle_are_not_run_after() {
        let mut call = Call::new(WRITE);
        let (mut sendings, began) = (0, call.now);
        let end = loop {
            match call.next() {
                Step::Send(node) => {
                    sendings += 1;
                    let other = SERVERS[(node.0 + 1) % 2];
                    assert_eq!(call.hear(node, Heard::NotLeader(other)), Verdict::Again);
                }
                Step::Wait(until) => call.now = until,
                Step::Fail(end) => break end,
            }
        };
        assert_eq!(end, End { reason: EndReason::NoLeaderFound, is_open: false });
        assert_eq!(call.now, began + LATER);
        assert!((60..600).contains(&sendings), "{sendings} in {LATER:?}");
    }

    #[test]
    fn what_may_have_been_applied_stays_open_whatever_comes_after() {
        let mut call = Call::new(WRITE);
        let first = call.send();
        assert_eq!(call.lose(first, true), Verdict::Again);
        let second = call.send();
        assert_ne!(second, first);
        let verdict = call.hear(second, Heard::Refused(ErrorCode::DiskFull));
        let reason = EndReason::Refused(ErrorCode::DiskFull);
        assert_eq!(verdict, Verdict::Fail(End { reason, is_open: true }));
    }

    #[test]
    fn an_expired_session_is_replaced_unless_an_earlier_sending_is_open() {
        let expired = Heard::Refused(ErrorCode::SessionExpired);
        let mut call = Call::new(WRITE);
        let first = call.send();
        assert_eq!(call.hear(first, expired), Verdict::NewSession);
        let second = call.send();
        assert_eq!(call.lose(second, true), Verdict::Again);
        let third = call.send();
        let reason = EndReason::Refused(ErrorCode::SessionExpired);
        assert_eq!(call.hear(third, expired), Verdict::Fail(End { reason, is_open: true }));
    }

    #[test]
    fn a_missing_quorum_is_the_reason_also_when_the_last_wait_is_cut_short() {
        let mut call = Call::new(WRITE);
        let first = call.send();
        let no_quorum = Heard::Refused(ErrorCode::QuorumTimeout);
        assert_eq!(call.hear(first, no_quorum), Verdict::Again);
        let second = call.send();
        let end = call.course.late(&mut call.router, second);
        let reason = EndReason::Refused(ErrorCode::QuorumTimeout);
        assert_eq!(end, End { reason, is_open: true });
    }

    #[test]
    fn a_write_that_may_not_be_repeated_is_sent_once() {
        for sent in [true, false] {
            let mut call = Call::new(Kind::Write { may_repeat: false });
            let first = call.send();
            let verdict = call.lose(first, sent);
            let open = End { reason: EndReason::Lost, is_open: true };
            assert_eq!(verdict, if sent { Verdict::Fail(open) } else { Verdict::Again });
        }
        let mut call = Call::new(Kind::Write { may_repeat: false });
        let first = call.send();
        let verdict = call.hear(first, Heard::Refused(ErrorCode::LeaderChanged));
        let reason = EndReason::Refused(ErrorCode::LeaderChanged);
        assert_eq!(verdict, Verdict::Fail(End { reason, is_open: true }));
    }

    #[test]
    fn a_read_is_repeated_until_the_deadline_and_never_open() {
        let mut call = Call::new(Kind::Read(ReadFrom::Random));
        let end = loop {
            match call.next() {
                Step::Send(node) => {
                    assert_eq!(call.lose(node, true), Verdict::Again);
                }
                Step::Wait(until) => call.now = until,
                Step::Fail(end) => break end,
            }
        };
        assert_eq!(end, End { reason: EndReason::Lost, is_open: false });
    }

    #[test]
    fn without_any_server_it_says_so() {
        let mut call = Call::new(WRITE);
        let end = loop {
            match call.next() {
                Step::Send(node) => assert_eq!(call.lose(node, false), Verdict::Again),
                Step::Wait(until) => call.now = until,
                Step::Fail(end) => break end,
            }
        };
        assert_eq!(end, End { reason: EndReason::Unreachable, is_open: false });
    }

    #[test]
    fn an_answer_that_comes_too_late_leaves_a_write_open() {
        let mut call = Call::new(WRITE);
        let first = call.send();
        let end = call.course.late(&mut call.router, first);
        assert_eq!(end, End { reason: EndReason::Late, is_open: true });
    }
}
