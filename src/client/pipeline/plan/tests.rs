//! The plan against servers that say what the tests have them say.

use kvorum_protocol::{ErrorCode, Response, SessionSequence};

use super::*;
use crate::client::route::EndReason;

const SERVERS: [&str; 3] = ["a:1", "b:1", "c:1"];
const TIMEOUT: Duration = Duration::from_secs(5);
const WRITTEN: Response<'static> = Response::Written { version: LogIndex(7) };

/// What was sent, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    node: NodeIndex,
    id: u32,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    OpenSession,
    /// A write of this key with the number that it has.
    Write(u8, Option<SessionSequence>),
    /// A read of this key.
    Read(u8),
    Ping,
    Members,
}

struct Driver {
    plan: Plan,
    now: Instant,
}

impl Driver {
    fn new(window: Option<u32>, read_from: ReadFrom) -> Driver {
        let terms =
            Terms { timeout: TIMEOUT, read_from, write_quorum: None, read_quorum: None, window };
        Driver { plan: Plan::new(terms, Router::new(SERVERS, 1)), now: Instant::now() }
    }

    fn set(&mut self, key: u8) -> Ticket {
        self.plan.add(Asked::Set, &[key], b"value", LogIndex(0))
    }

    fn get(&mut self, key: u8) -> Ticket {
        self.plan.add(Asked::Get, &[key], b"", LogIndex(0))
    }

    /// Everything that may be sent now.
    fn sendings(&mut self) -> Vec<Sent> {
        self.plan.begin_turn(self.now);
        let mut sent = Vec::new();
        while let Some((node, head, request)) = self.plan.next_sending(self.now) {
            let what = match request {
                Request::Write(Command { op: Op::OpenSession { .. }, .. }) => What::OpenSession,
                Request::Write(Command { op: Op::Set { key, .. }, session }) => {
                    What::Write(key[0], session)
                }
                Request::Read(kvorum_protocol::Read::Get(key)) => What::Read(key[0]),
                other => panic!("{other:?}"),
            };
            sent.push(Sent { node, id: head.id, what });
        }
        sent
    }

    /// As [`sendings`](Self::sendings), after the waits that come before it.
    fn sendings_soon(&mut self) -> Vec<Sent> {
        loop {
            let sent = self.sendings();
            if !sent.is_empty() {
                return sent;
            }
            let until = self.plan.wakes_at(self.now).expect("something is to be done");
            assert!(until > self.now, "it would spin");
            assert!(until < self.now + TIMEOUT, "nothing but the deadline is left");
            self.now = until;
        }
    }

    fn hear(&mut self, sent: &Sent, response: Response<'_>) {
        assert_eq!(self.plan.heard(sent.node, sent.id, &response, self.now), Ok(()));
    }

    fn refuse(&mut self, sent: &Sent, code: ErrorCode) {
        self.hear(sent, Response::Error { code, message: "" });
    }

    /// A server that leads, and a session.
    fn begin(&mut self) -> (NodeIndex, u64) {
        let first = self.set(0);
        let sent = self.sendings();
        let [Sent { node, what: What::OpenSession, .. }] = sent[..] else { panic!("{sent:?}") };
        self.hear(&sent[0], Response::Written { version: LogIndex(40) });
        let sent = self.sendings();
        assert_eq!(keys(&sent), [0]);
        self.hear(&sent[0], WRITTEN);
        assert_eq!(self.outcome(first), Some(Ok(Outcome::Set { version: LogIndex(7) })));
        (node, 40)
    }

    fn outcome(&self, ticket: Ticket) -> Option<Result<Outcome<'_>, End>> {
        self.plan.is_ready(ticket).then(|| self.plan.outcome(ticket))
    }
}

fn keys(sent: &[Sent]) -> Vec<u8> {
    let key = |sent: &Sent| match sent.what {
        What::Write(key, _) | What::Read(key) => key,
        ref other => panic!("{other:?}"),
    };
    sent.iter().map(key).collect()
}

fn whats(sent: &[Sent]) -> Vec<What> {
    sent.iter().map(|sent| sent.what.clone()).collect()
}

#[test]
fn a_lost_leader_s_writes_go_to_the_next_one_in_order_with_their_numbers() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let (leader, _) = driver.begin();
    let tickets: Vec<_> = (1..=5).map(|key| driver.set(key)).collect();
    let first = driver.sendings();
    assert_eq!(keys(&first), [1, 2, 3, 4, 5]);
    // The third is answered; then the connection breaks.
    driver.hear(&first[2], WRITTEN);
    driver.plan.lost(leader, true, driver.now);
    // A server that has not shown that it leads gets one.
    let probe = driver.sendings();
    assert_eq!(whats(&probe), whats(&first[..1]));
    assert_ne!(probe[0].node, leader);
    driver.hear(&probe[0], WRITTEN);
    let again = driver.sendings();
    assert_eq!(whats(&again), [&first[1], &first[3], &first[4]].map(|sent| sent.what.clone()));
    assert!(again.iter().all(|sent| sent.node == probe[0].node));
    again.iter().for_each(|sent| driver.hear(sent, WRITTEN));
    assert!(tickets.iter().all(|ticket| driver.outcome(*ticket).is_some_and(|it| it.is_ok())));
    assert_eq!(driver.plan.under_way(), 0);
}

#[test]
fn nothing_goes_to_another_leader_before_all_has_come_back_from_the_old_one() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let (old, _) = driver.begin();
    (1..=3).for_each(|key| _ = driver.set(key));
    let sent = driver.sendings();
    let new = NodeIndex((old.0 + 1) % 3);
    driver.refuse(&sent[0], ErrorCode::LeaderChanged);
    driver.set(4);
    driver.hear(&sent[2], Response::NotLeader { leader: SERVERS[new.0] });
    assert_eq!(driver.sendings(), [], "the second is still there");
    driver.hear(&sent[1], Response::NotLeader { leader: SERVERS[new.0] });
    let probe = driver.sendings();
    assert_eq!((probe[0].node, keys(&probe)), (new, vec![1]));
    driver.hear(&probe[0], WRITTEN);
    assert_eq!(keys(&driver.sendings()), [2, 3, 4]);
}

#[test]
fn servers_that_name_each_other_are_not_run_after() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    let ticket = driver.set(1);
    let (began, mut sendings) = (driver.now, 0);
    while driver.outcome(ticket).is_none() {
        loop {
            let sent = driver.sendings();
            let Some(sent) = sent.first() else { break };
            sendings += 1;
            let other = SERVERS[(sent.node.0 + 1) % 2];
            driver.hear(sent, Response::NotLeader { leader: other });
        }
        if let Some(until) = driver.plan.wakes_at(driver.now) {
            driver.now = until;
            driver.plan.expire(driver.now);
        }
    }
    let end = End { reason: EndReason::NoLeaderFound, is_open: false };
    assert_eq!(driver.outcome(ticket), Some(Err(end)));
    assert_eq!(driver.now, began + TIMEOUT);
    assert!((60..600).contains(&sendings), "{sendings} in {TIMEOUT:?}");
}

#[test]
fn a_write_without_a_session_is_repeated_only_when_it_was_certainly_not_applied() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    let tickets = [1, 2, 3].map(|key| driver.set(key));
    let first = driver.sendings();
    assert_eq!(keys(&first), [1]);
    driver.plan.lost(first[0].node, false, driver.now);
    let again = driver.sendings();
    driver.hear(&again[0], WRITTEN);
    let sent = driver.sendings();
    assert_eq!(keys(&sent), [2, 3]);
    driver.refuse(&sent[0], ErrorCode::QuorumTimeout);
    driver.plan.lost(sent[0].node, true, driver.now);
    let open = |reason| Some(Err(End { reason, is_open: true }));
    assert_eq!(driver.outcome(tickets[1]), open(EndReason::Refused(ErrorCode::QuorumTimeout)));
    assert_eq!(driver.outcome(tickets[2]), open(EndReason::Lost));
    assert_eq!(driver.plan.under_way(), 0);
}

#[test]
fn a_forgotten_session_is_replaced_unless_a_sending_is_open() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let (leader, old) = driver.begin();
    let [open, clean] = [1, 2].map(|key| driver.set(key));
    let sent = driver.sendings();
    driver.refuse(&sent[0], ErrorCode::QuorumTimeout);
    driver.refuse(&sent[1], ErrorCode::SessionExpired);
    let sent = driver.sendings();
    let number = SessionSequence { session: old, sequence: 2 };
    assert_eq!(sent[0].what, What::Write(1, Some(number)));
    assert_eq!(sent[1].what, What::OpenSession);
    driver.refuse(&sent[0], ErrorCode::SessionExpired);
    let reason = EndReason::Refused(ErrorCode::SessionExpired);
    assert_eq!(driver.outcome(open), Some(Err(End { reason, is_open: true })));
    driver.hear(&sent[1], Response::Written { version: LogIndex(90) });
    let sent = driver.sendings();
    let number = SessionSequence { session: 90, sequence: 1 };
    assert_eq!(whats(&sent), [What::Write(2, Some(number))]);
    assert_eq!(sent[0].node, leader);
    driver.hear(&sent[0], WRITTEN);
    assert!(driver.outcome(clean).unwrap().is_ok());
}

#[test]
fn who_is_in_no_session_is_not_sent_again_for_its_end() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    let [write, read] = [driver.set(1), driver.get(2)];
    let end = End { reason: EndReason::Refused(ErrorCode::SessionExpired), is_open: false };
    for ticket in [write, read] {
        let sent = driver.sendings();
        driver.refuse(&sent[0], ErrorCode::SessionExpired);
        assert_eq!(driver.outcome(ticket), Some(Err(end)));
    }
    assert_eq!(driver.sendings(), []);
    // Not even the opening of one has a session.
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let write = driver.set(1);
    let sent = driver.sendings();
    assert_eq!(whats(&sent), [What::OpenSession]);
    driver.refuse(&sent[0], ErrorCode::SessionExpired);
    assert_eq!(driver.outcome(write), Some(Err(end)));
}

#[test]
fn a_session_that_can_not_be_opened_fails_the_writes_and_nothing_else() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let [write, read] = [driver.set(1), driver.get(2)];
    let sent = driver.sendings();
    driver.refuse(&sent[0], ErrorCode::MemoryLimit);
    let reason = EndReason::Refused(ErrorCode::MemoryLimit);
    assert_eq!(driver.outcome(write), Some(Err(End { reason, is_open: false })));
    let sent = driver.sendings();
    assert_eq!(whats(&sent), [What::Read(2)]);
    driver.hear(&sent[0], Response::NotFound);
    assert_eq!(driver.outcome(read), Some(Ok(Outcome::Absent)));
}

#[test]
fn what_may_have_been_applied_stays_open_whatever_comes_after() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let (leader, _) = driver.begin();
    let ticket = driver.set(1);
    driver.sendings();
    driver.plan.lost(leader, true, driver.now);
    let again = driver.sendings();
    driver.refuse(&again[0], ErrorCode::DiskFull);
    let reason = EndReason::Refused(ErrorCode::DiskFull);
    assert_eq!(driver.outcome(ticket), Some(Err(End { reason, is_open: true })));
}

#[test]
fn each_request_ends_at_its_own_deadline() {
    let mut driver = Driver::new(Some(64), ReadFrom::Leader);
    let (leader, _) = driver.begin();
    let sent_write = driver.set(1);
    let sent_read = driver.get(2);
    let sent = driver.sendings();
    driver.now += Duration::from_secs(1);
    driver.refuse(&sent[0], ErrorCode::Busy);
    let waiting = driver.set(3);
    assert_eq!(driver.sendings(), [], "it has too much to do, and the read is still there");
    driver.now += TIMEOUT - Duration::from_secs(1);
    driver.plan.expire(driver.now);
    let busy = End { reason: EndReason::Refused(ErrorCode::Busy), is_open: false };
    assert_eq!(driver.outcome(sent_write), Some(Err(busy)));
    let late = End { reason: EndReason::Late, is_open: false };
    assert_eq!(driver.outcome(sent_read), Some(Err(late)));
    assert_eq!(driver.outcome(waiting), None);
    // Nobody waits for this any more.
    driver.hear(&sent[1], Response::Value { version: LogIndex(9), value: b"late" });
    let sent = driver.sendings();
    assert_eq!(keys(&sent), [3]);
    driver.now += Duration::from_secs(1);
    driver.plan.expire(driver.now);
    let late = End { reason: EndReason::Late, is_open: true };
    assert_eq!(driver.outcome(waiting), Some(Err(late)));
    assert!(!driver.plan.is_asking(leader));
}

#[test]
fn the_window_holds_back_what_is_too_far_from_the_oldest() {
    let mut driver = Driver::new(Some(3), ReadFrom::Leader);
    driver.begin();
    (1..=5).for_each(|key| _ = driver.set(key));
    let sent = driver.sendings();
    assert_eq!(keys(&sent), [1, 2, 3]);
    driver.hear(&sent[1], WRITTEN);
    driver.hear(&sent[2], WRITTEN);
    assert_eq!(driver.sendings(), [], "the first may still be sent again");
    driver.hear(&sent[0], WRITTEN);
    assert_eq!(keys(&driver.sendings()), [4, 5]);
}

#[test]
fn reads_of_any_server_go_round_those_that_answer() {
    let mut driver = Driver::new(None, ReadFrom::RoundRobin);
    let ticket = driver.get(1);
    (2..=30).for_each(|key| _ = driver.get(key));
    let sent = driver.sendings();
    let count = |node, sent: &[Sent]| sent.iter().filter(|sent| sent.node == node).count();
    assert_eq!([0, 1, 2].map(|node| count(NodeIndex(node), &sent)), [10, 10, 10]);
    let away = sent[0].node;
    sent.iter().filter(|it| it.node != away).for_each(|it| driver.hear(it, Response::NotFound));
    driver.plan.lost(away, true, driver.now);
    let again = driver.sendings();
    assert_eq!((again.len(), count(away, &again)), (10, 0));
    driver.refuse(&again[0], ErrorCode::NoLeader);
    let third = driver.sendings();
    assert_eq!(keys(&third), [1]);
    assert!(![away, again[0].node].contains(&third[0].node));
    driver.hear(&third[0], Response::Value { version: LogIndex(3), value: b"Ada" });
    let value = Outcome::Value { version: LogIndex(3), value: b"Ada" };
    assert_eq!(driver.outcome(ticket), Some(Ok(value)));
}

#[test]
fn an_answer_to_something_else_changes_nothing() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    let ticket = driver.get(1);
    let sent = driver.sendings();
    let Sent { node, id, .. } = sent[0];
    assert_eq!(driver.plan.heard(node, id, &WRITTEN, driver.now), Err(Confused));
    assert_eq!(driver.outcome(ticket), None);
    assert_eq!(driver.plan.heard(node, id + 1, &WRITTEN, driver.now), Ok(()), "nobody's");
}

#[test]
fn a_silent_server_is_asked_whether_it_is_there_and_given_up() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    driver.get(1);
    let node = driver.sendings()[0].node;
    let mut asked = Vec::new();
    while driver.plan.silent(driver.now).is_none() {
        while let Some((to, _, request)) = driver.plan.next_inquiry(driver.now) {
            assert_eq!(to, node);
            asked.push(if request == Request::Ping { What::Ping } else { What::Members });
        }
        let until = driver.plan.wakes_at(driver.now).unwrap();
        assert!(until > driver.now, "it would spin");
        driver.now = until;
    }
    assert_eq!(asked, [What::Members, What::Ping]);
    assert_eq!(driver.plan.silent(driver.now), Some(node));
    driver.plan.lost(node, true, driver.now);
    assert_ne!(driver.sendings_soon()[0].node, node);
}

#[test]
fn a_read_of_the_leader_moves_when_the_members_say_who_leads() {
    let mut driver = Driver::new(None, ReadFrom::Leader);
    driver.get(1);
    let sent = driver.sendings();
    let leader = (sent[0].node.0 + 1) % 3;
    let (node, head, _) = driver.plan.next_inquiry(driver.now).unwrap();
    let line =
        format!("id=1 leader={} member=1=a:1/a:2 member=2=b:1/b:2 member=3=c:1/c:2", leader + 1);
    let members = Sent { node, id: head.id, what: What::Members };
    driver.hear(&members, Response::Members(&line));
    driver.hear(&sent[0], Response::NotFound);
    driver.get(2);
    assert_eq!(driver.sendings()[0].node, NodeIndex(leader));
}
