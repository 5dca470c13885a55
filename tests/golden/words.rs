//! The words of a trace: those of Raft and of the text protocol, as `kvorum wal dump` has them.

use std::error::Error;
use std::fmt::{self, Display};
use std::str::FromStr;

use kvorum::core::{Node, NodeStatus, Record};
use kvorum::wal::LogState;
use kvorum_protocol::{
    Command, Copies, LogIndex, Lsn, MemberList, Op, Read, Response, Role, SessionSequence,
};

/// Bytes as a script writes them: `word`, or `x@1000` for a thousand times the letter x.
#[derive(Clone)]
pub struct Text(pub Vec<u8>);

impl FromStr for Text {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Text, Self::Err> {
        match text.split_once('@') {
            Some((word, times)) => Ok(Text(word.repeat(times.parse()?).into())),
            None => Ok(Text(text.into())),
        }
    }
}

/// A write of a session: `3/1` is the first of session 3.
#[derive(Clone, Copy)]
pub struct Name(pub SessionSequence);

impl FromStr for Name {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<Name, Self::Err> {
        let (session, sequence) = text.split_once('/').ok_or("it is written session/sequence")?;
        Ok(Name(SessionSequence { session: session.parse()?, sequence: sequence.parse()? }))
    }
}

/// Bytes as a trace shows them, what is long and dull cut short as above.
pub struct Shown<'a>(pub &'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("\"\""),
            [first, rest @ ..] if rest.len() >= 32 && rest.iter().all(|byte| byte == first) => {
                write!(f, "{}@{}", char::from(*first), self.0.len())
            }
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

fn joined<T: Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// The members in force.
pub fn members(node: &Node) -> String {
    let list = node.members();
    let ids = |ids: Vec<String>| if ids.is_empty() { "none".to_owned() } else { ids.join(",") };
    let voters = ids(list.voters().map(|member| member.id.to_string()).collect());
    let learners = ids(list.learners().map(|member| member.id.to_string()).collect());
    format!("members index={} voters={voters} learners={learners}", node.members_index())
}

pub fn command(command: &Command<'_>) -> String {
    let session = command.session.map(|name| {
        let SessionSequence { session, sequence } = name;
        format!(" session={session} sequence={sequence}")
    });
    change(&command.op) + &session.unwrap_or_default()
}

fn change(op: &Op<'_>) -> String {
    match *op {
        Op::Noop => "NOOP".to_owned(),
        Op::Set { key, value } => format!("SET {} {}", Shown(key), Shown(value)),
        Op::Delete { key } => format!("DELETE {}", Shown(key)),
        Op::SetMany(pairs) => {
            let words = pairs.iter().flat_map(|(key, value)| [Shown(key), Shown(value)]);
            format!("SET_MANY {} {}", pairs.len(), joined(words))
        }
        Op::DeleteMany(keys) => {
            format!("DELETE_MANY {} {}", keys.len(), joined(keys.iter().map(Shown)))
        }
        Op::OpenSession { window } => format!("OPEN_SESSION window={window}"),
        Op::Membership(bytes) => {
            let members = MemberList::decode(bytes).expect("the core made it");
            let words = members.members().iter().map(|member| match member.role {
                Role::Voter => format!("voter={member}"),
                Role::Learner => format!("learner={member}"),
            });
            format!("MEMBERSHIP {}", joined(words))
        }
    }
}

pub fn read(read: &Read<'_>) -> String {
    match read {
        Read::Get(key) => format!("GET {}", Shown(key)),
        Read::GetMany(keys) => format!("GET_MANY {}", joined(keys.iter().map(Shown))),
        Read::Exists(keys) => format!("EXISTS {}", joined(keys.iter().map(Shown))),
        Read::Length(key) => format!("LENGTH {}", Shown(key)),
    }
}

pub fn response(response: &Response<'_>) -> String {
    match response {
        Response::Written { version } => format!("OK version={version}"),
        Response::Deleted { version, count } => format!("OK deleted={count} version={version}"),
        Response::Value { version, value } => found(Some((*version, value))),
        Response::NotFound => found(None),
        Response::Values(values) => joined(values.iter().map(found)),
        Response::Number(number) => format!("NUMBER {number}"),
        Response::Copies(Copies { here, elsewhere }) => {
            format!("COPIES here={here} elsewhere={elsewhere}")
        }
        Response::NotLeader { leader } => format!("NOT_LEADER leader={leader}"),
        Response::Error { code, message } => format!("ERROR {} {message}", code.word()),
        other => unreachable!("the core does not answer {other:?}"),
    }
}

fn found(found: Option<(LogIndex, &[u8])>) -> String {
    match found {
        Some((version, value)) => format!("VALUE {} version={version}", Shown(value)),
        None => "NOT_FOUND".to_owned(),
    }
}

/// One line for the record, and one for each of its entries.
pub fn record(lsn: Lsn, record: &Record) -> String {
    match record {
        Record::TermVote { term, voted_for } => {
            let voted_for = voted_for.map_or_else(|| "none".to_owned(), |node| node.to_string());
            format!("lsn={lsn} TERM term={term} vote={voted_for}\n")
        }
        Record::Truncate { end } => format!("lsn={lsn} TRUNCATE last={}\n", end.index),
        Record::Install { end } => format!("lsn={lsn} INSTALL last={}\n", end.index),
        Record::Batch(batch) => {
            let header = batch.header();
            let (first, last) = (header.first_index, header.last_index());
            let (term, time) = (header.term, header.log_time);
            let mut lines =
                format!("lsn={lsn} BATCH term={term} index={first}..{last} time={time}\n");
            for (index, entry) in batch.entries() {
                lines += &format!("  {index} {}\n", command(&entry));
            }
            lines
        }
    }
}

/// The same for the record of a repair.
pub fn repair(lsn: Lsn, state: &LogState) -> String {
    let LogState { term, voted_for, end, former_end } = state;
    let voted_for = voted_for.map_or_else(|| "none".to_owned(), |node| node.to_string());
    let (former, former_term) = (former_end.index, former_end.term);
    format!(
        "lsn={lsn} REPAIR term={term} vote={voted_for} last={} former={former}/{former_term}\n",
        end.index
    )
}

/// What others notice of a node, as far as it is a node of a cluster.
pub fn standing(status: &NodeStatus) -> String {
    format!(
        "role={} term={} leader={} commit={}",
        status.role.word(),
        status.term,
        leader(status),
        status.committed,
    )
}

fn leader(status: &NodeStatus) -> String {
    status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string())
}

pub fn status(status: &NodeStatus) -> String {
    format!(
        "{} applied={} last={} durable={} keys={}{}",
        standing(status),
        status.applied,
        status.last,
        status.durable,
        status.keys,
        sessions(status),
    )
}

/// Most scripts have none.
fn sessions(status: &NodeStatus) -> String {
    match status.sessions {
        0 => String::new(),
        count => format!(" sessions={count}"),
    }
}
