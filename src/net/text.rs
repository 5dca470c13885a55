//! Serving the text protocol: one reply line for each request line, in order.

use kvorum_protocol::text::{self, Acknowledgement, Line, StreamError};
use kvorum_protocol::{Change, Request, Response};

use super::session::{OUTBOX_BYTES_SOFT, Pause, ReadTerms, Served, Session, Turn, WAITING_MAX};
use super::slots::Slots;
use super::status;
use crate::core::ReadOutcome;

/// The text side of a connection.
#[derive(Debug)]
pub struct TextSession {
    slots: Slots<Acknowledgement>,
    /// Bytes of the unfinished line that are known to hold no line end.
    scanned: usize,
}

impl TextSession {
    /// A connection that has sent no line yet.
    pub fn new() -> TextSession {
        TextSession { slots: Slots::new(), scanned: 0 }
    }

    /// Whether every request is answered.
    pub fn is_settled(&self) -> bool {
        self.slots.is_empty()
    }

    /// Serves the lines in `input`, appending replies to `out`.
    pub fn serve(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Served {
        let limits = turn.server.limits();
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let (line, length) = match text::parse(rest, self.scanned, &limits) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => {
                    self.scanned = rest.len();
                    let at_least = rest.len() + 1;
                    return Served { consumed, pause: Pause::NeedMore { at_least } };
                }
                Err(StreamError::Http) => return Served { consumed, pause: Pause::Abort },
                Err(error) => {
                    self.slots.reply(out, |out| text::encode_stream_error(out, &error));
                    return Served { consumed: input.len(), pause: Pause::Close };
                }
            };
            // A line that has to wait is looked at again; its end is then known to be near.
            self.scanned = 0;
            let request = match line {
                Ok(Line::Quit) => return Served { consumed: input.len(), pause: Pause::Close },
                Ok(Line::Help) => Err(None),
                Ok(Line::Request(request)) => Ok(request),
                Err(error) => Err(Some(error)),
            };
            if let Some(pause) = self.must_pause(session, turn, request.as_ref().ok(), out) {
                return Served { consumed, pause };
            }
            match request {
                Ok(request) => {
                    if let Err(pause) = self.execute(session, turn, &request, out) {
                        return Served { consumed, pause };
                    }
                }
                Err(None) => self.slots.reply(out, text::encode_help),
                Err(Some(error)) => {
                    self.slots.reply(out, |out| text::encode_line_error(out, &error));
                }
            }
            turn.server.requests_total += 1;
            consumed += length;
        }
    }

    fn must_pause(
        &self,
        session: &Session,
        turn: &Turn<'_>,
        request: Option<&Request<'_>>,
        out: &[u8],
    ) -> Option<Pause> {
        if out.len() > turn.outbox_end {
            return Some(Pause::Output);
        }
        let ready_bytes = self.slots.ready_bytes();
        if self.slots.len() >= WAITING_MAX
            || ready_bytes > OUTBOX_BYTES_SOFT
            || session.waits_for_much()
        {
            return Some(Pause::Answers);
        }
        match request {
            // They show, or change, the node as the requests before them have left it.
            Some(
                Request::Status
                | Request::Members
                | Request::WhoIsLeader
                | Request::Transfer { .. }
                | Request::ChangeMembers { .. }
                | Request::Snapshot,
            ) if !self.slots.is_empty() => Some(Pause::Answers),
            _ => None,
        }
    }

    fn execute(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Pause> {
        let word = Acknowledgement::of(request);
        let tag = self.slots.next_tag();
        let response = match request {
            Request::Write(command) => match session.write(turn, tag, command, None, None) {
                Ok(true) => {
                    self.slots.push_waiting(word);
                    return Ok(());
                }
                Ok(false) => return Err(Pause::Backlog),
                Err(refusal) => refusal.response(turn.node.members()),
            },
            Request::Read(read) => match session.read(turn, tag, read, &ReadTerms::default()) {
                Ok(ReadOutcome::Waiting { .. }) => {
                    self.slots.push_waiting(word);
                    return Ok(());
                }
                Ok(ReadOutcome::Later) => return Err(Pause::Backlog),
                Ok(ReadOutcome::Ready(response)) => response,
                Err(refusal) => refusal.response(turn.node.members()),
            },
            Request::Snapshot => {
                session.take_snapshot(turn, tag);
                self.slots.push_waiting(word);
                return Ok(());
            }
            Request::SnapshotRead(_) => unreachable!("no line asks for a part of a snapshot"),
            Request::WhoIsLeader => status::leader(turn),
            Request::Quorum { write, read } => session.set_quorum(turn, *write, *read),
            Request::Transfer { to } => status::transfer(turn, *to),
            Request::ChangeMembers { change, base } => {
                let change = Change::parse(change).expect("the line was read so");
                match session.change_members(turn, tag, &change, *base, None) {
                    Ok(()) => {
                        self.slots.push_waiting(word);
                        return Ok(());
                    }
                    Err(refusal) => status::no_change(turn, &refusal),
                }
            }
            Request::Status => status::status(turn),
            Request::Members => status::members(turn),
            Request::Ping => Response::Ok,
        };
        self.slots.reply(out, |out| text::encode(out, word, &response));
        Ok(())
    }

    /// The answer to a waiting request has come.
    pub fn complete(&mut self, tag: u32, response: &Response<'_>, out: &mut Vec<u8>) {
        self.slots.complete(tag, out, |word, out| text::encode(out, word, response));
    }
}
