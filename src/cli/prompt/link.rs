//! The server that the prompt talks to, and how it comes to another one.
//!
//! It stays with one server, so that what is asked of a certain node is asked of that node, until
//! the node says that another leads, or answers no more. A write whose outcome is open is never
//! sent again.

use std::fmt;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{MembersLine, NodeId, Quorum, Request};

use crate::cli::servers::{ClientFlags, pause_until};
use crate::client::route::{Course, End, EndReason, Heard, Kind, NodeIndex, ReadFrom, Step};
use crate::client::route::{Router, Verdict};
use crate::client::{Connection, ConnectionError, Reason, Reply};

/// How long a server may take to accept a connection, or to show that it is still there.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

/// A person thinks for longer than some servers live: a connection that was not used for so long
/// is tried before a request, whose outcome would be open, is trusted to it.
const IDLE_MAX: Duration = Duration::from_millis(500);

/// A cluster, through one connection at a time.
pub(super) struct Link {
    router: Router,
    timeout: Duration,
    /// The server that has answered last: the next request goes there.
    at: Option<NodeIndex>,
    open: Option<Open>,
    write_quorum: Option<Quorum>,
    read_quorum: Option<Quorum>,
    voters: Vec<NodeId>,
    /// What went wrong last, in words.
    trouble: String,
    /// What the user should hear of a change of servers.
    news: Option<String>,
}

struct Open {
    node: NodeIndex,
    connection: Connection,
    used_at: Instant,
}

/// Why a request has no answer. Prints as an error line of the text protocol.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A code of the protocol, or one of the prompt's own: `NO_SERVER`, `CONNECTION_LOST` and
    /// `TIMEOUT`.
    code: &'static str,
    words: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR {} {}", self.code, self.words)
    }
}

impl Link {
    /// A link that is not connected yet.
    pub(super) fn new(flags: &ClientFlags) -> Link {
        Link {
            router: Router::new(flags.servers.iter().map(String::as_str), rand::random()),
            timeout: Duration::from_millis(flags.timeout_ms),
            at: None,
            open: None,
            write_quorum: None,
            read_quorum: None,
            voters: Vec::new(),
            trouble: String::new(),
            news: None,
        }
    }

    /// The address of the server that the next request goes to; `None` before the first answer.
    pub(super) fn address(&self) -> Option<&str> {
        self.at.map(|node| self.router.address(node))
    }

    /// The ids of the voters, as far as they are known.
    pub(super) fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// What has changed since the last time, for a person.
    pub(super) fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// Asks the server, and others where it cannot answer, for as long as there is time.
    ///
    /// # Errors
    /// Nobody has answered, or the answer is a refusal.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> Result<Reply, Failure> {
        let deadline = Instant::now() + self.timeout;
        let (kind, level) = match request {
            Request::Write(_) => (Kind::Write { may_repeat: false }, self.write_quorum),
            Request::Read(_) => (Kind::Read(ReadFrom::Leader), self.read_quorum),
            // The next leader would hand the office on.
            Request::Transfer { to: None } | Request::ChangeMembers { .. } => {
                (Kind::Write { may_repeat: false }, None)
            }
            _ => (Kind::Read(ReadFrom::Leader), None),
        };
        // The router prefers whom it takes for the leader: here that is the server we stay with.
        if let Some(node) = self.at {
            self.router.leads(node);
        }
        let head = RequestHead { level, ..RequestHead::default() };
        let mut course = Course::new(kind, deadline);
        loop {
            let node = match course.next(&mut self.router, Instant::now()) {
                Step::Send(node) => node,
                Step::Wait(until) => {
                    pause_until(until);
                    continue;
                }
                Step::Fail(end) => return Err(self.failure(end)),
            };
            let answer = self.send(node, head, request, deadline);
            if let Some(result) = self.judge(&mut course, node, answer) {
                if let (Ok(Reply::Ok), Request::Quorum { write, read }) = (&result, request) {
                    self.write_quorum = write.or(self.write_quorum);
                    self.read_quorum = read.or(self.read_quorum);
                }
                return result;
            }
        }
    }

    /// What the answer of a server comes to; `None`: go on.
    fn judge(
        &mut self,
        course: &mut Course,
        node: NodeIndex,
        answer: Result<Reply, ConnectionError>,
    ) -> Option<Result<Reply, Failure>> {
        let now = Instant::now();
        let verdict = match &answer {
            Ok(reply) => {
                match reply {
                    Reply::NotLeader { .. } => {
                        self.trouble = format!("{} does not lead", self.router.address(node));
                    }
                    Reply::Error { message, .. } => self.trouble.clone_from(message),
                    _ => {}
                }
                course.heard(&mut self.router, node, &Heard::from(reply), None, now)
            }
            Err(error) => {
                self.open = None;
                self.trouble = error.to_string();
                if let ConnectionError::Lost { reason: Reason::Deadline, .. } = error {
                    Verdict::Fail(course.late(&mut self.router, node))
                } else {
                    course.lost(&mut self.router, node, error.outcome_is_open(), now)
                }
            }
        };
        match verdict {
            Verdict::Again => None,
            Verdict::Done => {
                self.settle(node, course.deadline());
                answer.ok().map(Ok)
            }
            Verdict::Fail(end) => {
                let is_answered = answer.is_ok();
                let failure = self.failure(end);
                if is_answered {
                    self.settle(node, course.deadline());
                }
                Some(Err(failure))
            }
            Verdict::NewSession => unreachable!("nothing is numbered here"),
        }
    }

    /// Stays with the server that has answered.
    fn settle(&mut self, node: NodeIndex, deadline: Instant) {
        let before = self.at.replace(node);
        if before == Some(node) {
            return;
        }
        if before.is_some() {
            self.news = Some(format!("moved to {}: {}", self.router.address(node), self.trouble));
        }
        self.learn_members(deadline);
    }

    /// Learns of the servers that nobody has named. Whoever does not tell is not asked again.
    fn learn_members(&mut self, deadline: Instant) {
        let Some(open) = &mut self.open else { return };
        let now = Instant::now();
        let deadline = deadline.min(now + GREETING_TIMEOUT);
        match open.connection.call(RequestHead::default(), &Request::Members, deadline) {
            Ok(Reply::Members(line)) => {
                let Ok(line) = MembersLine::parse(&line) else { return };
                self.router.learn_members(&line, now);
                self.voters = line.members.voters().map(|member| member.id).collect();
            }
            Ok(_) => {}
            Err(_) => self.open = None,
        }
    }

    fn send(
        &mut self,
        node: NodeIndex,
        head: RequestHead,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Reply, ConnectionError> {
        let greeting = deadline.min(Instant::now() + GREETING_TIMEOUT);
        let kept = self.open.take().filter(|open| open.node == node);
        let alive = kept.and_then(|mut open| open.is_alive(greeting).then_some(open));
        let mut open = match alive {
            Some(open) => open,
            None => {
                let connection = Connection::open(self.router.address(node), greeting)?;
                Open { node, connection, used_at: Instant::now() }
            }
        };
        let reply = open.connection.call(head, request, deadline)?;
        open.used_at = Instant::now();
        self.open = Some(open);
        Ok(reply)
    }

    fn failure(&self, end: End) -> Failure {
        let trouble = &self.trouble;
        let open = if end.is_open { "; the write may or may not have been applied" } else { "" };
        let (code, words) = match end.reason {
            EndReason::Refused(code) => (code.word(), trouble.clone()),
            EndReason::NoLeaderFound => {
                ("NO_LEADER", "the servers do not agree on a leader; nothing was applied".into())
            }
            EndReason::Unreachable => {
                ("NO_SERVER", format!("no server could be reached; nothing was applied: {trouble}"))
            }
            EndReason::Lost => ("CONNECTION_LOST", format!("{trouble}{open}")),
            EndReason::Late => ("TIMEOUT", format!("{trouble}{open}")),
        };
        Failure { code, words }
    }
}

impl Open {
    /// Whether the server is still there, as far as it has to be tried.
    fn is_alive(&mut self, deadline: Instant) -> bool {
        let head = RequestHead::default();
        self.used_at.elapsed() < IDLE_MAX
            || matches!(self.connection.call(head, &Request::Ping, deadline), Ok(Reply::Ok))
    }
}
