//! How two nodes get to know each other, before the first message. Two pure state machines, one
//! for each side: frames in, frames out.
//!
//! ```text
//! dialer                                     acceptor
//!   HELLO  who I am, whom I call, nonce   ->
//!                                        <-  WELCOME  the same of itself, its nonce
//!                                        <-  PROOF    over both
//!   (judges the acceptor)
//!   PROOF  over both                      ->
//!                                            (judges the dialer)
//!                                        <-  READY
//! ```
//!
//! Either side may say REFUSED instead, and that is the last frame. With a cluster secret a proof
//! is an HMAC over both introductions, whose nonces are fresh, and the role of who proves; without
//! one it is empty. "Judges" is where the caller comes in: it looks up what it knows of the other
//! node, makes durable what it has learnt, and then says yes or no. No state outside the handshake
//! changes before the other side has proved that it has the secret.

use super::VERSION;
use super::frame::{self, kind};
use super::introduction::Introduction;
use super::refusal::{Reason, Refusal, SENTENCE_BYTES_MAX};
use super::secret::{PROOF_BYTES, Secret};
use crate::error::DecodeError;
use crate::membership::MemberList;
use crate::types::NodeId;

/// Makes a proof of one side worthless as one of the other.
const DIALER: &[u8] = b"kvorum peer 1 dialer\n";
const ACCEPTOR: &[u8] = b"kvorum peer 1 acceptor\n";
const REFUSAL: &[u8] = b"kvorum peer 1 refusal\n";

/// How far a frame has brought the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to come.
    Wait,
    /// The other side is who it says. Whether it is welcome is for the caller to say, with
    /// `accept` or `refuse`.
    Judge(Introduction),
    /// Messages may follow.
    Ready,
}

/// Why a handshake is over without success. What the caller has been given to send is to be sent
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other side does not speak this protocol.
    Malformed(DecodeError),
    /// This side refuses the other; it has been told why.
    Refuses(Refusal),
    /// The other side refuses this one.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Both sides have introduced themselves, and it has proved that it has the secret if
        /// there is one: what it says may be acted upon.
        is_authentic: bool,
    },
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Failure {
        Failure::Malformed(error)
    }
}

/// What both sides have said, and prove that they have.
#[derive(Debug)]
struct Transcript {
    secret: Option<Secret>,
    hello: Vec<u8>,
    /// Empty before it was said.
    welcome: Vec<u8>,
}

impl Transcript {
    fn put_proof(&self, role: &[u8], out: &mut Vec<u8>) {
        let start = frame::begin(out, kind::PROOF, 0);
        if let Some(secret) = &self.secret {
            out.extend_from_slice(&secret.proof(&[role, &self.hello, &self.welcome]));
        }
        frame::finish(out, start, 0);
    }

    fn is_proof(&self, role: &[u8], proof: &[u8]) -> bool {
        match &self.secret {
            Some(secret) => secret.verify(&[role, &self.hello, &self.welcome], proof),
            None => proof.is_empty(),
        }
    }

    /// A refusal is proved as soon as both sides have spoken: before, there is no nonce that
    /// would keep it from being repeated.
    fn put_refusal(&self, refusal: &Refusal, out: &mut Vec<u8>) {
        let code = refusal.reason.code();
        let start = frame::begin(out, kind::REFUSED, code);
        let sentence = refusal.sentence.as_bytes();
        let sentence = &sentence[..sentence.len().min(SENTENCE_BYTES_MAX)];
        let proof = match &self.secret {
            Some(secret) if !self.welcome.is_empty() => {
                secret.proof(&[REFUSAL, &self.hello, &self.welcome, &[code], sentence])
            }
            _ => [0; PROOF_BYTES],
        };
        out.extend_from_slice(&proof);
        out.extend_from_slice(sentence);
        frame::finish(out, start, 0);
    }

    fn refused(&self, code: u8, body: &[u8]) -> Failure {
        let Some((proof, sentence)) = body.split_first_chunk::<PROOF_BYTES>() else {
            return Failure::Malformed(DecodeError::Truncated);
        };
        if sentence.len() > SENTENCE_BYTES_MAX {
            let limit = SENTENCE_BYTES_MAX;
            return Failure::Malformed(DecodeError::TooLarge { what: "sentence", limit });
        }
        let is_authentic = match &self.secret {
            _ if self.welcome.is_empty() => false,
            Some(secret) => {
                secret.verify(&[REFUSAL, &self.hello, &self.welcome, &[code], sentence], proof)
            }
            None => true,
        };
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let sentence = String::from_utf8_lossy(sentence).chars().map(printable).collect();
        Failure::Refused {
            refusal: Refusal { reason: Reason::from_code(code), sentence },
            is_authentic,
        }
    }
}

/// Reads a HELLO or WELCOME: another version is told apart before anything else is looked at.
fn introduction(own: NodeId, body: &[u8]) -> Result<Result<Introduction, Refusal>, DecodeError> {
    let version = body.first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Ok(Err(Refusal::version(own, version)));
    }
    Introduction::decode(body).map(Ok)
}

fn put_introduction(kind: u8, introduction: &Introduction, out: &mut Vec<u8>) {
    let start = frame::begin(out, kind, 0);
    introduction.encode(out);
    frame::finish(out, start, 0);
}

/// A frame that came out of turn.
fn unexpected(kind: u8) -> Failure {
    Failure::Malformed(DecodeError::UnknownOpcode(kind))
}

/// The side that opened the connection.
#[derive(Debug)]
pub struct Dialer {
    own: Introduction,
    transcript: Transcript,
    state: DialerState,
}

#[derive(Debug)]
enum DialerState {
    AwaitWelcome,
    AwaitProof(Introduction),
    Judging,
    AwaitReady,
    Over,
}

impl Dialer {
    /// Begins with a HELLO, which is appended to `out`.
    #[must_use]
    pub fn new(mut own: Introduction, secret: Option<Secret>, out: &mut Vec<u8>) -> Dialer {
        own.has_secret = secret.is_some();
        let mut hello = Vec::new();
        put_introduction(kind::HELLO, &own, &mut hello);
        out.extend_from_slice(&hello);
        let transcript = Transcript { secret, hello, welcome: Vec::new() };
        Dialer { own, transcript, state: DialerState::AwaitWelcome }
    }

    /// Takes a whole frame; what is to be sent is appended to `out`.
    ///
    /// # Errors
    /// The connection is to be closed when `out` is sent.
    pub fn receive(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<Step, Failure> {
        let (kind, code, body) = frame::open(frame)?;
        if kind == kind::REFUSED {
            self.state = DialerState::Over;
            return Err(self.transcript.refused(code, body));
        }
        if code != 0 {
            return Err(Failure::Malformed(DecodeError::Invalid("frame flags")));
        }
        match (std::mem::replace(&mut self.state, DialerState::Over), kind) {
            (DialerState::AwaitWelcome, kind::WELCOME) => {
                let theirs = match introduction(self.own.from, body)? {
                    Ok(theirs) => theirs,
                    Err(refusal) => return Err(self.fail(refusal, out)),
                };
                if theirs.lane != self.own.lane {
                    return Err(Failure::Malformed(DecodeError::Invalid("lane")));
                }
                self.transcript.welcome = frame.to_vec();
                if let Some(refusal) = Refusal::of(&self.own, &theirs, true) {
                    return Err(self.fail(refusal, out));
                }
                self.state = DialerState::AwaitProof(theirs);
                Ok(Step::Wait)
            }
            (DialerState::AwaitProof(theirs), kind::PROOF) => {
                if !self.transcript.is_proof(ACCEPTOR, body) {
                    return Err(self.fail(Refusal::wrong_secret(&self.own, &theirs), out));
                }
                self.state = DialerState::Judging;
                Ok(Step::Judge(theirs))
            }
            (DialerState::AwaitReady, kind::READY) if body.is_empty() => Ok(Step::Ready),
            (_, kind) => Err(unexpected(kind)),
        }
    }

    /// The other side is welcome: proves who this is.
    ///
    /// # Panics
    /// When nobody was to be judged.
    pub fn accept(&mut self, out: &mut Vec<u8>) {
        assert!(matches!(self.state, DialerState::Judging), "nobody is to be judged");
        self.transcript.put_proof(DIALER, out);
        self.state = DialerState::AwaitReady;
    }

    /// The other side is not welcome. The connection is to be closed when `out` is sent.
    pub fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.transcript.put_refusal(refusal, out);
        self.state = DialerState::Over;
    }

    fn fail(&mut self, refusal: Refusal, out: &mut Vec<u8>) -> Failure {
        self.refuse(&refusal, out);
        Failure::Refuses(refusal)
    }
}

/// The side that was called.
#[derive(Debug)]
pub struct Acceptor {
    own: Introduction,
    transcript: Transcript,
    state: AcceptorState,
}

#[derive(Debug)]
enum AcceptorState {
    AwaitHello,
    AwaitProof(Introduction),
    Judging,
    Over,
}

impl Acceptor {
    /// Waits for a HELLO. Whom `own` speaks to, and on which lane, is taken from there.
    #[must_use]
    pub fn new(mut own: Introduction, secret: Option<Secret>) -> Acceptor {
        own.has_secret = secret.is_some();
        let transcript = Transcript { secret, hello: Vec::new(), welcome: Vec::new() };
        Acceptor { own, transcript, state: AcceptorState::AwaitHello }
    }

    /// Takes a whole frame; what is to be sent is appended to `out`. Callers must be in `members`,
    /// or have been, or know of a newer list. One that was removed is given to be judged like a
    /// member: it is to hear it with a proof.
    ///
    /// # Errors
    /// The connection is to be closed when `out` is sent.
    pub fn receive(
        &mut self,
        frame: &[u8],
        members: &MemberList,
        out: &mut Vec<u8>,
    ) -> Result<Step, Failure> {
        let (kind, code, body) = frame::open(frame)?;
        if kind == kind::REFUSED {
            self.state = AcceptorState::Over;
            return Err(self.transcript.refused(code, body));
        }
        if code != 0 {
            return Err(Failure::Malformed(DecodeError::Invalid("frame flags")));
        }
        match (std::mem::replace(&mut self.state, AcceptorState::Over), kind) {
            (AcceptorState::AwaitHello, kind::HELLO) => {
                let theirs = match introduction(self.own.from, body)? {
                    Ok(theirs) => theirs,
                    Err(refusal) => return Err(self.fail(refusal, out)),
                };
                self.transcript.hello = frame.to_vec();
                (self.own.to, self.own.lane) = (theirs.from, theirs.lane);
                let knows = theirs.from != self.own.from && self.may_be_member(&theirs, members);
                if let Some(refusal) = Refusal::of(&self.own, &theirs, knows) {
                    return Err(self.fail(refusal, out));
                }
                put_introduction(kind::WELCOME, &self.own, &mut self.transcript.welcome);
                out.extend_from_slice(&self.transcript.welcome);
                self.transcript.put_proof(ACCEPTOR, out);
                self.state = AcceptorState::AwaitProof(theirs);
                Ok(Step::Wait)
            }
            (AcceptorState::AwaitProof(theirs), kind::PROOF) => {
                if !self.transcript.is_proof(DIALER, body) {
                    return Err(self.fail(Refusal::wrong_secret(&self.own, &theirs), out));
                }
                self.state = AcceptorState::Judging;
                Ok(Step::Judge(theirs))
            }
            (_, kind) => Err(unexpected(kind)),
        }
    }

    fn may_be_member(&self, theirs: &Introduction, members: &MemberList) -> bool {
        members.get(theirs.from).is_some()
            || members.is_retired(theirs.from)
            || theirs.members_index > self.own.members_index
    }

    /// Whether the other side has said nothing yet that a member says.
    #[must_use]
    pub fn awaits_hello(&self) -> bool {
        matches!(self.state, AcceptorState::AwaitHello)
    }

    /// The other side is welcome: messages may come. None are sent this way.
    ///
    /// # Panics
    /// When nobody was to be judged.
    pub fn accept(&mut self, out: &mut Vec<u8>) {
        assert!(matches!(self.state, AcceptorState::Judging), "nobody is to be judged");
        let start = frame::begin(out, kind::READY, 0);
        frame::finish(out, start, 0);
        self.state = AcceptorState::Over;
    }

    /// The other side is not welcome. The connection is to be closed when `out` is sent.
    pub fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        self.transcript.put_refusal(refusal, out);
        self.state = AcceptorState::Over;
    }

    fn fail(&mut self, refusal: Refusal, out: &mut Vec<u8>) -> Failure {
        self.refuse(&refusal, out);
        Failure::Refuses(refusal)
    }
}

#[cfg(test)]
mod tests;
