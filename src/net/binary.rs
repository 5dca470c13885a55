//! Serving the binary protocol: replies carry the request's id and may overtake each other.

use std::time::Duration;

use kvorum_protocol::binary::{
    CONNECTION_ID, FrameError, RequestFrame, RequestHead, decode_request, encode_response,
};
use kvorum_protocol::{Change, Read, Request, Response};

use super::session::{Pause, ReadTerms, Served, Session, Turn, WAITING_MAX};
use super::status;
use crate::core::ReadOutcome;
use crate::core::store::KeyHash;

/// How many frames are decoded ahead, so that the cache misses of their keys overlap.
const LOOKAHEAD: usize = 16;

/// The binary side of a connection.
#[derive(Debug, Default)]
pub struct BinarySession {
    /// Requests in the core whose answer is due.
    waiting: usize,
    /// Why the stream has ended: the last thing to be said, behind all answers.
    farewell: Option<FrameError>,
}

/// A decoded frame that waits for its cache lines.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    frame: RequestFrame<'a>,
    hash: Option<KeyHash>,
    /// Where the frame ends in the input.
    end: usize,
}

impl BinarySession {
    /// Whether every request is answered.
    pub fn is_settled(&self) -> bool {
        self.waiting == 0
    }

    /// Serves the frames in `input`, appending replies to `out`.
    pub fn serve(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Served {
        let mut consumed = 0;
        loop {
            let mut ahead: [Option<Ahead<'_>>; LOOKAHEAD] = [None; LOOKAHEAD];
            let end_of_input = look_ahead(turn, input, consumed, &mut ahead);
            // A loop of its own, so short that the processor runs many rounds of it at once.
            for hash in ahead.iter().flatten().filter_map(|next| next.hash) {
                turn.node.store().prefetch(hash);
            }
            for next in ahead.iter().flatten() {
                if out.len() > turn.outbox_end {
                    return Served { consumed, pause: Pause::Output };
                }
                if self.waiting >= WAITING_MAX || session.waits_for_much() {
                    return Served { consumed, pause: Pause::Answers };
                }
                if !self.execute(session, turn, next, out) {
                    return Served { consumed, pause: Pause::Backlog };
                }
                turn.server.requests_total += 1;
                consumed = next.end;
            }
            match end_of_input {
                None => {}
                Some(Ok(pause)) => return Served { consumed, pause },
                Some(Err(error)) => {
                    self.farewell = Some(error);
                    self.take_leave(out);
                    return Served { consumed: input.len(), pause: Pause::Close };
                }
            }
        }
    }

    /// Carries out one request; false when it has to be tried again later.
    #[inline]
    fn execute(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_>,
        next: &Ahead<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let head = &next.frame.head;
        match &next.frame.request {
            Ok(Request::Read(read)) => {
                let terms = ReadTerms {
                    level: head.level,
                    timeout: timeout_of(head),
                    min_version: head.min_version,
                    hash: next.hash,
                };
                match session.read(turn, head.id, read, &terms) {
                    Ok(ReadOutcome::Ready(response)) => encode_response(out, head.id, &response),
                    Ok(ReadOutcome::Waiting { .. }) => self.waiting += 1,
                    Ok(ReadOutcome::Later) => return false,
                    Err(refusal) => {
                        encode_response(out, head.id, &refusal.response(turn.node.members()))
                    }
                }
            }
            Ok(Request::Write(command)) => {
                match session.write(turn, head.id, command, head.level, timeout_of(head)) {
                    Ok(true) => self.waiting += 1,
                    Ok(false) => return false,
                    Err(refusal) => {
                        encode_response(out, head.id, &refusal.response(turn.node.members()))
                    }
                }
            }
            Ok(Request::ChangeMembers { change, base }) => {
                let change = Change::parse(change).expect("the frame was read so");
                let timeout = timeout_of(head);
                match session.change_members(turn, head.id, &change, *base, timeout) {
                    Ok(()) => self.waiting += 1,
                    Err(refusal) => {
                        encode_response(out, head.id, &status::no_change(turn, &refusal));
                    }
                }
            }
            Ok(Request::Snapshot) => {
                session.take_snapshot(turn, head.id);
                self.waiting += 1;
            }
            Ok(Request::SnapshotRead(read)) => {
                session.read_snapshot(turn, head.id, *read);
                self.waiting += 1;
            }
            Ok(request) => answer_other(session, turn, head.id, request, out),
            Err(error) => {
                let message = error.to_string();
                let response = Response::Error { code: error.code(), message: &message };
                encode_response(out, head.id, &response);
            }
        }
        true
    }

    /// The answer to a waiting request has come.
    #[inline]
    pub fn complete(&mut self, tag: u32, response: &Response<'_>, out: &mut Vec<u8>) {
        self.waiting -= 1;
        encode_response(out, tag, response);
        if self.farewell.is_some() {
            self.take_leave(out);
        }
    }

    #[cold]
    fn take_leave(&mut self, out: &mut Vec<u8>) {
        let Some(error) = self.farewell.take_if(|_| self.waiting == 0) else { return };
        let message = error.to_string();
        let response = Response::Error { code: error.code(), message: &message };
        encode_response(out, CONNECTION_ID, &response);
    }

    /// Whether a pause for answers may end.
    pub fn may_resume(&self) -> bool {
        self.waiting <= WAITING_MAX / 2
    }
}

fn answer_other(
    session: &mut Session,
    turn: &mut Turn<'_>,
    id: u32,
    request: &Request<'_>,
    out: &mut Vec<u8>,
) {
    let response = match request {
        Request::WhoIsLeader => status::leader(turn),
        Request::Quorum { write, read } => session.set_quorum(turn, *write, *read),
        Request::Transfer { to } => status::transfer(turn, *to),
        Request::Status => status::status(turn),
        Request::Members => status::members(turn),
        Request::Ping => Response::Ok,
        Request::Read(_)
        | Request::Write(_)
        | Request::ChangeMembers { .. }
        | Request::Snapshot
        | Request::SnapshotRead(_) => unreachable!("these are answered later"),
    };
    encode_response(out, id, &response);
}

/// Decodes the next frames and announces their keys to the store. `None`: there may be more.
#[inline]
fn look_ahead<'a>(
    turn: &Turn<'_>,
    input: &'a [u8],
    mut offset: usize,
    ahead: &mut [Option<Ahead<'a>>; LOOKAHEAD],
) -> Option<Result<Pause, FrameError>> {
    let limits = turn.server.limits();
    for slot in ahead {
        let (frame, length) = match decode_request(&input[offset..], &limits) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => {
                let at_least = kvorum_protocol::binary::frame_bytes(&input[offset..]);
                return Some(Ok(Pause::NeedMore { at_least }));
            }
            Err(error) => return Some(Err(error)),
        };
        let hash = match frame.request {
            Ok(Request::Read(Read::Get(key))) => Some(turn.node.store().hash(key)),
            _ => None,
        };
        offset += length;
        *slot = Some(Ahead { frame, hash, end: offset });
    }
    None
}

fn timeout_of(head: &RequestHead) -> Option<Duration> {
    (head.timeout_ms > 0).then(|| Duration::from_millis(u64::from(head.timeout_ms)))
}
