//! Serving RESP: replies in order, commands that concern the node behind everything before them.

use std::net::SocketAddr;

use kvorum_protocol::resp::{
    Action, After, Args, Arguments, Decoded, Decoder, Facts, ProtocolError, Session as RespState,
    Shape, Version, Wait, dispatch, encode, execute,
};
use kvorum_protocol::{ErrorCode, Quorum, Request, Response};

use super::facts::with_facts;
use super::session::{OUTBOX_BYTES_SOFT, Pause, ReadTerms, Served, Session, Turn, WAITING_MAX};
use super::slots::Slots;
use crate::config::Fsync;
use crate::core::ReadOutcome;

/// How far a command that is no GET keeps this from looking again.
const NO_GETS_BYTES: usize = 4096;

/// How many commands are looked at ahead.
const LOOKAHEAD: usize = 16;

/// Without a sync there is nothing true to say.
const WAITAOF_NEEDS_FSYNC: &str = "WAITAOF cannot be used unless --fsync is always";

/// The RESP side of a connection.
#[derive(Debug)]
pub struct RespSession {
    slots: Slots<(Version, Shape)>,
    decoder: Decoder,
    state: RespState,
    /// Where the client is, and the node's end of the connection.
    addresses: [String; 2],
}

impl RespSession {
    /// A connection that has sent no command yet.
    pub fn new(peer: SocketAddr, local: Option<SocketAddr>) -> RespSession {
        let local = local.map_or_else(String::new, |local| local.to_string());
        RespSession {
            slots: Slots::new(),
            decoder: Decoder::default(),
            state: RespState::default(),
            addresses: [peer.to_string(), local],
        }
    }

    /// Whether every command is answered.
    pub fn is_settled(&self) -> bool {
        self.slots.is_empty()
    }

    /// What the client has said of itself.
    pub fn state(&self) -> &RespState {
        &self.state
    }

    /// Where the client is.
    pub fn peer_address(&self) -> &str {
        &self.addresses[0]
    }

    /// The node's end of the connection.
    pub fn local_address(&self) -> &str {
        &self.addresses[1]
    }

    /// Serves the commands in `input`, appending replies to `out`.
    pub fn serve(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Served {
        let mut consumed = 0;
        let mut announced = 0;
        let mut args = std::mem::take(&mut turn.server.args);
        let pause = loop {
            let rest = &input[consumed..];
            // Not for the first command: most often it is the only one.
            if consumed > announced {
                announced = consumed + announce_keys(turn, rest, &mut args);
            }
            if out.len() > turn.outbox_end {
                break Pause::Output;
            }
            let ready_bytes = self.slots.ready_bytes();
            if self.slots.len() >= WAITING_MAX
                || ready_bytes > OUTBOX_BYTES_SOFT
                || session.waits_for_much()
            {
                break Pause::Answers;
            }
            match self.decoder.decode(rest, &turn.server.limits(), &mut args) {
                Ok(Decoded::NeedMore { at_least }) => break Pause::NeedMore { at_least },
                Ok(Decoded::Skip { consumed: length }) => consumed += length,
                Ok(Decoded::Command { consumed: length }) => {
                    match self.command(session, turn, args.of(rest), out) {
                        Ok(()) => consumed += length,
                        Err(Pause::Close) => {
                            consumed = input.len();
                            break Pause::Close;
                        }
                        Err(pause) => break pause,
                    }
                }
                Err(ProtocolError::Http) => break Pause::Abort,
                Err(error) => {
                    self.slots.reply(out, |out| error.encode(out));
                    consumed = input.len();
                    break Pause::Close;
                }
            }
        };
        turn.server.args = args;
        Served { consumed, pause }
    }

    /// Carries out one command, or says why it has to wait.
    #[inline]
    fn command(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        args: Arguments<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Pause> {
        let mut lists = std::mem::take(&mut turn.server.lists);
        let mut reply = std::mem::take(&mut turn.server.reply);
        reply.clear();
        let limits = turn.server.limits();
        let action = dispatch(&self.state, args, &limits, &mut lists, &mut reply);
        let done = match action {
            Action::Request { request, shape } => self.request(session, turn, &request, shape, out),
            Action::Wait { wait, shape } => self.wait(session, turn, &wait, shape, out),
            Action::Reply => {
                self.slots.reply(out, |out| out.extend_from_slice(&reply));
                Ok(())
            }
            Action::Barrier => self.barrier(session, turn, args, out),
        };
        turn.server.lists = lists;
        turn.server.reply = reply;
        turn.server.requests_total += u64::from(done.is_ok());
        done
    }

    #[inline]
    fn request(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        request: &Request<'_>,
        shape: Shape,
        out: &mut Vec<u8>,
    ) -> Result<(), Pause> {
        let version = self.state.version();
        let tag = self.slots.next_tag();
        let response = match request {
            Request::Write(command) => match session.write(turn, tag, command, None, None) {
                Ok(true) => {
                    self.slots.push_waiting((version, shape));
                    return Ok(());
                }
                Ok(false) => return Err(Pause::Backlog),
                Err(refusal) => refusal.response(turn.node.members()),
            },
            Request::Read(read) => match session.read(turn, tag, read, &self.read_terms()) {
                Ok(ReadOutcome::Waiting { .. }) => {
                    self.slots.push_waiting((version, shape));
                    return Ok(());
                }
                Ok(ReadOutcome::Later) => return Err(Pause::Backlog),
                Ok(ReadOutcome::Ready(response)) => response,
                Err(refusal) => refusal.response(turn.node.members()),
            },
            _ => unreachable!("RESP has commands of its own for these"),
        };
        self.slots.reply(out, |out| encode(out, version, shape, &response));
        Ok(())
    }

    #[inline]
    fn read_terms(&self) -> ReadTerms {
        let level = self.state.is_read_only().then_some(Quorum::Count(1));
        ReadTerms { level, ..ReadTerms::default() }
    }

    /// `WAIT` and `WAITAOF`. What comes behind them does not wait, but its replies do.
    fn wait(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        wait: &Wait,
        shape: Shape,
        out: &mut Vec<u8>,
    ) -> Result<(), Pause> {
        let version = self.state.version();
        let tag = self.slots.next_tag();
        let response = if shape == Shape::Waitaof && turn.server.config.fsync != Fsync::Always {
            Response::Error { code: ErrorCode::BadRequest, message: WAITAOF_NEEDS_FSYNC }
        } else {
            match session.wait(turn, tag, wait) {
                Ok(None) => {
                    self.slots.push_waiting((version, shape));
                    return Ok(());
                }
                Ok(Some(copies)) => Response::Copies(copies),
                Err(refusal) => refusal.response(turn.node.members()),
            }
        };
        self.slots.reply(out, |out| encode(out, version, shape, &response));
        Ok(())
    }

    fn barrier(
        &mut self,
        session: &Session,
        turn: &mut Turn<'_>,
        args: Arguments<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Pause> {
        if !self.slots.is_empty() {
            return Err(Pause::Answers);
        }
        if is_redis_probe(args) {
            turn.server.redis_probe.note(session.peer.ip(), turn.now.monotonic);
        }
        let [peer, local] = &self.addresses;
        let addresses = [peer.as_str(), local.as_str()];
        let state = &mut self.state;
        let is_info = args.get(0).eq_ignore_ascii_case(b"INFO");
        let run = |facts: &Facts<'_>| execute(state, args, facts, out);
        match with_facts(session, addresses, turn, is_info, run) {
            After::Continue => Ok(()),
            After::Snapshot => {
                session.save(turn);
                Ok(())
            }
            After::Close => Err(Pause::Close),
        }
    }

    /// The answer to a waiting command has come.
    #[inline]
    pub fn complete(&mut self, tag: u32, response: &Response<'_>, out: &mut Vec<u8>) {
        self.slots.complete(tag, out, |(version, shape), out| {
            encode(out, version, shape, response);
        });
    }
}

/// Announces the keys of the next commands to the store, as far as they are plain GETs, so that
/// their cache misses overlap. Answers how many bytes it has looked at.
fn announce_keys(turn: &Turn<'_>, input: &[u8], args: &mut Args) -> usize {
    let limits = turn.server.limits();
    let store = turn.node.store();
    let mut hashes = [None; LOOKAHEAD];
    let mut offset = 0;
    for hash in &mut hashes {
        let rest = &input[offset..];
        let Ok(Decoded::Command { consumed }) = Decoder::default().decode(rest, &limits, args)
        else {
            break;
        };
        let command = args.of(rest);
        if command.len() != 2 || !command.get(0).eq_ignore_ascii_case(b"GET") {
            // What follows is most likely no GET, either.
            offset += NO_GETS_BYTES;
            break;
        }
        *hash = Some(store.hash(command.get(1)));
        offset += consumed;
    }
    for hash in hashes.into_iter().flatten() {
        store.prefetch(hash);
    }
    offset
}

/// `CONFIG GET appendonly`: see [`super::server::RedisProbe`].
fn is_redis_probe(args: Arguments<'_>) -> bool {
    args.len() == 3
        && args.get(0).eq_ignore_ascii_case(b"CONFIG")
        && args.get(2).eq_ignore_ascii_case(b"appendonly")
}
