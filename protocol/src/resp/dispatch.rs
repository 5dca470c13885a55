//! What one command asks for.

use super::args::Arguments;
use super::describe;
use super::encode::Reply;
use super::refusal::Refusal;
use super::session::Session;
use super::shape::Shape;
use super::spec::Verb;
use super::table;
use crate::command::{Command, KeyList, Op, PairList, check_key};
use crate::error::DecodeError;
use crate::limits::Limits;
use crate::request::{Read, Request};

/// What is to be done with one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Carry out `request` and print the response with [`encode`](super::encode()) in its turn.
    Request {
        /// The request, within all limits.
        request: Request<'a>,
        /// How its response is printed.
        shape: Shape,
    },
    /// Print who holds the last write of this connection, once enough do.
    Wait {
        /// For how many to wait, and how long.
        wait: Wait,
        /// How the response is printed.
        shape: Shape,
    },
    /// The whole reply was appended to `out`; it needs nothing from the node.
    Reply,
    /// Read no further on this connection, and call [`execute`](super::execute()) with the same
    /// arguments once all commands before this one are answered.
    Barrier,
}

/// What WAIT and WAITAOF wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// This node has to hold the write durably.
    pub here: bool,
    /// So many others have to.
    pub others: usize,
    /// What is so after this many milliseconds is the answer, too; `None`: there is no hurry.
    pub timeout_ms: Option<u64>,
}

/// Maps one decoded command, which has at least a name.
///
/// Lists of keys are encoded into `scratch`; a reply that can be given at once is appended to
/// `out`, which otherwise stays as it is.
#[inline]
pub fn dispatch<'a>(
    session: &Session,
    args: Arguments<'a>,
    limits: &Limits,
    scratch: &'a mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Action<'a> {
    let mut reply = Reply { out, version: session.version() };
    match plan(args, limits, scratch, &mut reply) {
        Ok(action) => action,
        Err(refusal) => {
            refusal.write(&mut reply);
            Action::Reply
        }
    }
}

#[inline]
fn plan<'a>(
    args: Arguments<'a>,
    limits: &Limits,
    scratch: &'a mut Vec<u8>,
    reply: &mut Reply<'_>,
) -> Result<Action<'a>, Refusal<'a>> {
    match table::resolve(args)?.verb {
        Verb::Get => read(Read::Get(key(args, limits)?), Shape::Value),
        Verb::Set => set(args, limits),
        Verb::Strlen => read(Read::Length(key(args, limits)?), Shape::Number),
        Verb::Mget => read(Read::GetMany(keys(args, limits, scratch)?), Shape::Values),
        Verb::Exists => read(Read::Exists(keys(args, limits, scratch)?), Shape::Number),
        Verb::Type => read(Read::Exists(keys(args, limits, scratch)?), Shape::Type),
        Verb::Del if args.len() == 2 => {
            write(Op::Delete { key: key(args, limits)? }, Shape::Deleted)
        }
        Verb::Del => write(Op::DeleteMany(keys(args, limits, scratch)?), Shape::Deleted),
        Verb::Mset => write(Op::SetMany(pairs(args, limits, scratch)?), Shape::Done),
        Verb::Wait => wait(b"0", args.get(1), args.get(2), Shape::Wait),
        Verb::Waitaof => wait(args.get(1), args.get(2), args.get(3), Shape::Waitaof),
        at_once => answer(at_once, args, reply),
    }
}

#[inline]
fn read<'a>(read: Read<'a>, shape: Shape) -> Result<Action<'a>, Refusal<'a>> {
    Ok(Action::Request { request: Request::Read(read), shape })
}

#[inline]
fn write<'a>(op: Op<'a>, shape: Shape) -> Result<Action<'a>, Refusal<'a>> {
    Ok(Action::Request { request: Request::Write(Command::new(op)), shape })
}

#[inline]
fn set<'a>(args: Arguments<'a>, limits: &Limits) -> Result<Action<'a>, Refusal<'a>> {
    if args.len() > 3 {
        return Err(set_options(args));
    }
    let set = Command::new(Op::Set { key: args.get(1), value: args.get(2) });
    set.check(limits).map_err(Refusal::OverLimit)?;
    Ok(Action::Request { request: Request::Write(set), shape: Shape::Done })
}

/// Redis takes a negative number for "do not wait". Whoever sends one means something else.
fn wait<'a>(
    here: &[u8],
    others: &[u8],
    timeout_ms: &[u8],
    shape: Shape,
) -> Result<Action<'a>, Refusal<'a>> {
    let here = match number(here) {
        Some(here @ 0..=1) => here == 1,
        _ => return Err(Refusal::NotZeroOrOne),
    };
    let others = number(others).and_then(|others| usize::try_from(others).ok());
    let others = others.ok_or(Refusal::NotAnInteger)?;
    let timeout_ms = number(timeout_ms).ok_or(Refusal::Timeout)?;
    let timeout_ms = (timeout_ms > 0).then_some(timeout_ms);
    Ok(Action::Wait { wait: Wait { here, others, timeout_ms }, shape })
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// An option that is ignored would be a lie about what was stored.
#[cold]
fn set_options(args: Arguments<'_>) -> Refusal<'_> {
    const KNOWN_TO_REDIS: [&[u8]; 12] = [
        b"NX", b"XX", b"GET", b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL", b"IFEQ", b"IFNE",
        b"IFDEQ", b"IFDNE",
    ];
    let option = args.get(3);
    if KNOWN_TO_REDIS.iter().any(|known| known.eq_ignore_ascii_case(option)) {
        return Refusal::SetOption(option);
    }
    Refusal::Syntax
}

#[inline]
fn key<'a>(args: Arguments<'a>, limits: &Limits) -> Result<&'a [u8], Refusal<'a>> {
    let key = args.get(1);
    check_key(key, limits).map_err(Refusal::OverLimit)?;
    Ok(key)
}

fn keys<'a>(
    args: Arguments<'a>,
    limits: &Limits,
    scratch: &'a mut Vec<u8>,
) -> Result<KeyList<'a>, Refusal<'a>> {
    let list = KeyList::encode(args.from(1), limits, scratch).map_err(Refusal::OverLimit)?;
    check_request(list.as_bytes(), limits)?;
    Ok(list)
}

fn pairs<'a>(
    args: Arguments<'a>,
    limits: &Limits,
    scratch: &'a mut Vec<u8>,
) -> Result<PairList<'a>, Refusal<'a>> {
    if args.len().is_multiple_of(2) {
        return Err(Refusal::WrongArity("mset"));
    }
    let list = PairList::encode(args.pairs_from(1), limits, scratch).map_err(Refusal::OverLimit)?;
    check_request(list.as_bytes(), limits)?;
    Ok(list)
}

/// The log's own framing makes a list of many small pairs longer than RESP's limit on the bytes
/// of a command can tell.
fn check_request(list: &[u8], limits: &Limits) -> Result<(), Refusal<'static>> {
    let limit = limits.request_bytes_max();
    if list.len() <= limit {
        return Ok(());
    }
    Err(Refusal::OverLimit(DecodeError::TooLarge { what: "request", limit }))
}

/// Commands that need nothing from the node are answered; those that do must wait.
fn answer<'a>(
    verb: Verb,
    args: Arguments<'a>,
    reply: &mut Reply<'_>,
) -> Result<Action<'a>, Refusal<'a>> {
    match verb {
        Verb::Ping if args.len() == 1 => reply.simple("PONG"),
        Verb::Ping if args.len() > 2 => return Err(Refusal::WrongArity("ping")),
        Verb::Ping | Verb::Echo => reply.bulk(args.get(1)),
        Verb::Select => select(args.get(1), reply)?,
        Verb::Auth => return Err(auth(args)),
        Verb::Command => describe::all(reply),
        Verb::CommandCount => reply.unsigned(table::COMMANDS.len() as u64),
        Verb::CommandDocs => describe::docs(reply, args)?,
        Verb::CommandInfo => describe::info(reply, args)?,
        Verb::CommandHelp | Verb::ClientHelp | Verb::ConfigHelp => {
            describe::help(reply, args);
        }
        _ => return Ok(Action::Barrier),
    }
    Ok(Action::Reply)
}

fn select<'a>(index: &[u8], reply: &mut Reply<'_>) -> Result<(), Refusal<'a>> {
    let index = std::str::from_utf8(index).ok().and_then(|index| index.parse::<i32>().ok());
    match index {
        Some(0) => {
            reply.simple("OK");
            Ok(())
        }
        Some(_) => Err(Refusal::DbIndex),
        None => Err(Refusal::NotAnInteger),
    }
}

fn auth(args: Arguments<'_>) -> Refusal<'_> {
    match args.len() {
        2 => Refusal::NoPassword,
        3 => check_user(args.get(1)),
        _ => Refusal::Syntax,
    }
}

/// The refusal for a password of this user, in AUTH and in HELLO. Redis accepts any password for
/// a user without one; here a password that nothing compares is always refused, so that nobody
/// takes the connection for a protected one.
pub(super) fn check_user(user: &[u8]) -> Refusal<'static> {
    if user == b"default" { Refusal::NoPassword } else { Refusal::WrongPassword }
}
