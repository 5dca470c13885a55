//! One call's way through the cluster.

use std::time::{Duration, Instant};

use kvorum_protocol::ErrorCode;

use super::refusal::Refusal;
use super::router::{NodeIndex, ReadFrom, Router};
use super::search::{Found, Search, Target};

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
    /// The session is forgotten, and so is nothing else: go on with a number in a new one. Only for
    /// a write that may be repeated.
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
    search: Search,
    /// A sending of a write has left and may be applied: why it has no answer.
    open: Option<EndReason>,
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
            search: Search::default(),
            open: None,
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
            // What has left it open says more than the refusals since then.
            return Step::Fail(self.end(self.open.unwrap_or(self.reason)));
        }
        let target = match self.kind {
            Kind::Write { .. } => Target::Leader,
            Kind::Read(from) => Target::Read(from),
        };
        let node = match self.search.next(router, target, now) {
            Found::Node(node) => node,
            Found::Wait(until) => return Step::Wait(until.min(self.deadline)),
        };
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
        match Refusal::from(code) {
            Refusal::NoLeader => {
                router.leads_not(node);
                Verdict::Again
            }
            Refusal::Busy => {
                self.search.end_round(router, now);
                Verdict::Again
            }
            Refusal::Open { leads_not } => {
                if leads_not {
                    router.leads_not(node);
                }
                self.sent_in_vain()
            }
            // The same server takes it under a number in another session, unless an earlier
            // sending under this one may have been applied.
            Refusal::SessionOver if self.may_be_numbered() && self.open.is_none() => {
                self.search.succeeded();
                Verdict::NewSession
            }
            Refusal::SessionOver | Refusal::Final => Verdict::Fail(self.end(self.reason)),
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
        // That there is no quorum says more than that the last of several waits was too short.
        let no_quorum = EndReason::Refused(ErrorCode::QuorumTimeout);
        let has_waited = self.reason == no_quorum || self.open == Some(no_quorum);
        let reason = if has_waited { no_quorum } else { EndReason::Late };
        if self.is_write() {
            self.open = Some(reason);
        }
        self.end(reason)
    }

    /// What was sent may have been applied.
    fn sent_in_vain(&mut self) -> Verdict {
        if self.is_write() {
            self.open = Some(self.reason);
        }
        match self.kind {
            Kind::Write { may_repeat: false } => Verdict::Fail(self.end(self.reason)),
            Kind::Write { may_repeat: true } | Kind::Read(_) => Verdict::Again,
        }
    }

    fn is_write(&self) -> bool {
        matches!(self.kind, Kind::Write { .. })
    }

    /// A server may speak of a session also where there is none.
    fn may_be_numbered(&self) -> bool {
        self.kind == Kind::Write { may_repeat: true }
    }

    fn end(&self, reason: EndReason) -> End {
        End { reason, is_open: self.open.is_some() }
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
    fn a_server_that_speaks_of_a_session_where_there_is_none_has_refused() {
        let reason = EndReason::Refused(ErrorCode::SessionExpired);
        for kind in [Kind::Read(ReadFrom::Leader), Kind::Write { may_repeat: false }] {
            let mut call = Call::new(kind);
            let node = call.send();
            let verdict = call.hear(node, Heard::Refused(ErrorCode::SessionExpired));
            assert_eq!(verdict, Verdict::Fail(End { reason, is_open: false }));
        }
    }

    #[test]
    fn a_missing_quorum_is_the_reason_also_when_the_last_wait_is_cut_short() {
        let mut call = Call::new(WRITE);
        let first = call.send();
        let no_quorum = Heard::Refused(ErrorCode::QuorumTimeout);
        assert_eq!(call.hear(first, no_quorum), Verdict::Again);
        let second = call.send();
        let hint = Heard::NotLeader(SERVERS[first.0]);
        assert_eq!(call.hear(second, hint), Verdict::Again);
        let third = call.send();
        let end = call.course.late(&mut call.router, third);
        let reason = EndReason::Refused(ErrorCode::QuorumTimeout);
        assert_eq!(end, End { reason, is_open: true });
        call.now += LATER;
        assert_eq!(call.next(), Step::Fail(end));
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
