//! One connection that many threads share.
//!
//! Nobody else works for them: of those who wait for answers one receives for all, and hands this
//! office on when its own answer has come. So a caller that is alone sends, receives and returns
//! without ever waking another thread. Whoever adds a request while another is being sent leaves
//! it to that sender, so that requests that meet go out together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use kvorum_protocol::binary::{CONNECTION_ID, RequestHead, decode_response, encode_request};
use kvorum_protocol::{ErrorCode, Request, Response};

use super::input::Input;
use super::socket::{Ready, Socket, TICK};
use super::waiting::{Delivered, Ended, Waiting, Wanted};
use crate::client::failure::Failure;
use crate::client::reply::Reply;

/// A server that owes an answer and has said nothing for so long is asked for a sign of life.
const PING_AFTER: Duration = TICK;

/// How long it may take with that sign.
const PING_PATIENCE: Duration = Duration::from_millis(500);

/// The slowest line that is taken for alive: so much longer may a server be silent for each byte
/// that is on its way to it.
const PATIENCE_PER_BYTE: Duration = Duration::from_micros(1);

/// A PING may be late by this much, if that saves a system call for each answer.
const PING_SLACK: Duration = Duration::from_millis(20);

/// A buffer that a large request has made larger than this is given up.
const KEEP_BYTES_MAX: usize = 1 << 20;

/// How often what has come before the end is looked for in a connection that can not be sent to.
const LAST_READS_MAX: usize = 64;

/// A connection that many threads share.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    state: Mutex<State>,
    is_broken: AtomicBool,
    is_retired: AtomicBool,
    /// How many calls have it at this time; the pool's count.
    pub(super) users: AtomicUsize,
}

#[derive(Debug)]
struct State {
    waiting: Waiting,
    /// Encoded requests that nobody has begun to send.
    output: Vec<u8>,
    /// The other buffer, while nobody sends.
    spare: Vec<u8>,
    /// How many bytes were ever put into `output`, and handed to the system.
    queued: u64,
    sent: u64,
    /// How many bytes are being handed over: the server may have them before `sent` counts them.
    sending: u64,
    is_sending: bool,
    /// The system takes no more bytes for now.
    is_full: bool,
    /// `None` while somebody receives.
    receiver: Option<Box<Receiver>>,
    /// The last sign of life, or when the first of the requests was made that wait for one.
    heard_at: Instant,
    sent_when_heard: u64,
    pinged_at: Option<Instant>,
    used_at: Instant,
    news: Option<Reply>,
    /// A buffer for those to be woken.
    to_wake: Vec<Thread>,
    broken: Option<Failure>,
}

/// What belongs to whoever receives.
#[derive(Debug, Default)]
struct Receiver {
    input: Input,
    arrived: Vec<(u32, Reply)>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The connection broke.
    Lost {
        /// Why.
        failure: Failure,
        /// False: the server has certainly not seen all of the request.
        may_have_arrived: bool,
    },
    /// The deadline has come; the answer may come, and nobody will know.
    Late,
}

/// A request, and by when its answer is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The terms; the connection numbers its requests itself, whatever `id` says.
    pub head: RequestHead,
    /// What to ask.
    pub request: &'a Request<'a>,
    /// Asked along with it; the answer comes as [`Answer::news`] to this call or to a later one.
    pub along: Option<&'a Request<'a>>,
    /// When to give up.
    pub deadline: Instant,
}

/// What a server has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// To the request.
    pub reply: Reply,
    /// When.
    pub came_at: Instant,
    /// To what was asked along with this call or one before.
    pub news: Option<Reply>,
}

impl Link {
    /// Connects to `HOST:PORT`.
    pub(super) fn open(address: &str, deadline: Instant) -> Result<Link, Failure> {
        let (socket, input) = Socket::open(address, deadline)?;
        let now = Instant::now();
        let receiver = Receiver { input, ..Receiver::default() };
        Ok(Link {
            socket,
            state: Mutex::new(State::new(receiver, now)),
            is_broken: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            users: AtomicUsize::new(0),
        })
    }

    /// Whether it may be given out.
    pub(super) fn is_of_use(&self) -> bool {
        !self.is_broken.load(Ordering::Relaxed) && !self.is_retired.load(Ordering::Relaxed)
    }

    /// It is not to be given out again; who has it may go on.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// How long nobody has used it.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().used_at)
    }

    /// Whether a connection that nobody uses still stands: the server has not closed it, nor said
    /// anything that was not asked.
    pub(super) fn stands(&self) -> bool {
        match self.socket.has_input() {
            Ok(true) => self.lock().waiting.is_expecting(),
            Ok(false) => true,
            Err(_) => false,
        }
    }

    /// Asks, and waits for the answer. `now` is the time.
    pub(super) fn call(&self, call: &Call<'_>, mut now: Instant) -> Result<Answer, Miss> {
        let mut state = self.lock();
        if let Some(failure) = &state.broken {
            return Err(Miss::Lost { failure: failure.clone(), may_have_arrived: false });
        }
        if let Some(along) = call.along {
            state.put(call.head, along, Wanted::AsNews, now);
        }
        let id = state.put(call.head, call.request, Wanted::ByCaller, now);
        loop {
            if let Some(reply) = state.waiting.take(id) {
                state.used_at = now;
                let news = state.news.take();
                self.leave(state);
                return Ok(Answer { reply, came_at: now, news });
            }
            if let Some(failure) = &state.broken {
                let ended = state.end(id);
                return match failure {
                    Failure::Refused { code: Some(code @ ErrorCode::TooLarge), message }
                        if ended.is_too_long =>
                    {
                        let reply = Reply::Error { code: *code, message: message.clone() };
                        Ok(Answer { reply, came_at: now, news: None })
                    }
                    _ => Err(Miss::Lost {
                        failure: failure.clone(),
                        may_have_arrived: ended.may_have_arrived,
                    }),
                };
            }
            if now >= call.deadline {
                if !state.waiting.abandon(id) {
                    self.give_up(&mut state, Failure::Unanswered);
                }
                state.used_at = now;
                self.leave(state);
                return Err(Miss::Late);
            }
            (state, now) = self.work_or_wait(state, id, now, call.deadline);
        }
    }

    /// Leaves nothing undone that others rely on: what they have left to this sender goes out,
    /// and one of those who sleep takes over what remains.
    fn leave<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        state.is_full = false;
        while state.is_to_send() && !state.is_full && state.broken.is_none() {
            state = self.send(state);
        }
        let is_undone = state.receiver.is_some() || state.is_to_send();
        let successor = if is_undone { state.waiting.successor() } else { None };
        drop(state);
        if let Some(successor) = successor {
            successor.unpark();
        }
    }

    /// One step towards an answer: sends, or receives, or sleeps while others do.
    fn work_or_wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        id: u32,
        now: Instant,
        deadline: Instant,
    ) -> (MutexGuard<'a, State>, Instant) {
        let is_to_send = state.is_to_send();
        if is_to_send && !state.is_full {
            return (self.send(state), now);
        }
        if let Some(receiver) = state.receiver.take() {
            return self.receive(state, receiver, is_to_send, now, deadline);
        }
        if is_to_send {
            // Somebody else receives, and does not look for room.
            state.is_sending = true;
            drop(state);
            let wanted = Ready { input: false, output: true };
            let ready = self.socket.wait(wanted, (deadline - now).min(TICK));
            state = self.lock();
            state.is_sending = false;
            if ready.is_ok_and(|ready| ready.output) {
                state.has_room(Instant::now());
            }
        } else {
            state.waiting.sleeps(id);
            drop(state);
            thread::park_timeout(deadline - now);
            state = self.lock();
        }
        (state, Instant::now())
    }

    /// Sends what there is to send, as far as the system takes it.
    fn send<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let batch = state.begin_to_send();
        drop(state);
        let sent = self.socket.send(&batch);
        let mut state = self.lock();
        // An error means that nothing of it was taken.
        state.end_sending(batch, sent.as_ref().map_or(0, |count| *count));
        if let Err(failure) = sent {
            self.hear_the_last(&mut state, failure);
        }
        state
    }

    /// Receives once for all, and wakes those whose answers have come.
    fn receive<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        mut receiver: Box<Receiver>,
        sends_too: bool,
        now: Instant,
        deadline: Instant,
    ) -> (MutexGuard<'a, State>, Instant) {
        let sign_due = state.sign_due();
        drop(state);
        let until_sign = sign_due.saturating_duration_since(now);
        let until_deadline = deadline.saturating_duration_since(now);
        let is_common = until_deadline >= TICK && until_sign + PING_SLACK >= TICK && !sends_too;
        let mut ready = Ready::default();
        let received = if is_common {
            self.socket.receive(&mut receiver.input)
        } else {
            let wanted = Ready { input: true, output: sends_too };
            self.socket.wait(wanted, until_deadline.min(until_sign)).and_then(|met| {
                ready = met;
                if met.input { self.socket.receive_now(&mut receiver.input) } else { Ok(0) }
            })
        };
        let understood = received.and_then(|count| receiver.understand().map(|()| count));
        let now = Instant::now();

        let mut state = self.lock();
        let mut to_wake = std::mem::take(&mut state.to_wake);
        let given_out = state.give_out(&mut receiver, &mut to_wake);
        state.receiver = Some(receiver);
        if ready.output {
            state.has_room(now);
        }
        match understood.and_then(|count| given_out.map(|()| count)) {
            Ok(0) if now >= sign_due && !ready.output => self.miss_a_sign(&mut state, now),
            Ok(0) => {}
            Ok(_) => state.heard(now),
            Err(failure) => self.give_up(&mut state, failure),
        }
        if !to_wake.is_empty() {
            // Whoever wakes wants the lock.
            drop(state);
            to_wake.drain(..).for_each(|sleeper| sleeper.unpark());
            state = self.lock();
        }
        state.to_wake = to_wake;
        (state, now)
    }

    /// Nothing was heard for too long.
    fn miss_a_sign(&self, state: &mut State, now: Instant) {
        if state.pinged_at.is_some() {
            self.give_up(state, Failure::Silent);
        } else {
            state.pinged_at = Some(now);
            state.put(RequestHead::default(), &Request::Ping, Wanted::ByNobody, now);
        }
    }

    /// The server takes nothing more. It may have said why.
    fn hear_the_last(&self, state: &mut State, failure: Failure) {
        let Some(mut receiver) = state.receiver.take() else {
            return self.give_up(state, failure);
        };
        let mut last = failure;
        for _ in 0..LAST_READS_MAX {
            let received = self.socket.receive_now(&mut receiver.input);
            match received.and_then(|count| receiver.understand().map(|()| count)) {
                Ok(1..) => {}
                Ok(0) => break,
                Err(refused @ Failure::Refused { .. }) => {
                    last = refused;
                    break;
                }
                Err(_) => break,
            }
        }
        let mut to_wake = std::mem::take(&mut state.to_wake);
        // What is wrong with these answers matters no more.
        let _ = state.give_out(&mut receiver, &mut to_wake);
        to_wake.drain(..).for_each(|sleeper| sleeper.unpark());
        state.to_wake = to_wake;
        state.receiver = Some(receiver);
        self.give_up(state, last);
    }

    /// The connection is of no more use, and everybody learns it.
    fn give_up(&self, state: &mut State, failure: Failure) {
        self.is_broken.store(true, Ordering::Relaxed);
        state.broken.get_or_insert(failure);
        // Also those who receive or wait for room.
        self.socket.shut_down();
        state.waiting.everybody().for_each(|sleeper| sleeper.unpark());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread is its own: each step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(receiver: Receiver, now: Instant) -> State {
        State {
            waiting: Waiting::default(),
            output: Vec::new(),
            spare: Vec::new(),
            queued: 0,
            sent: 0,
            sending: 0,
            is_sending: false,
            is_full: false,
            receiver: Some(Box::new(receiver)),
            heard_at: now,
            sent_when_heard: 0,
            pinged_at: None,
            used_at: now,
            news: None,
            to_wake: Vec::new(),
            broken: None,
        }
    }

    /// Whether there are bytes that nobody is sending.
    fn is_to_send(&self) -> bool {
        !self.output.is_empty() && !self.is_sending
    }

    /// Puts a request behind those that wait to be sent.
    fn put(&mut self, head: RequestHead, request: &Request<'_>, by: Wanted, now: Instant) -> u32 {
        if !self.waiting.is_expecting() {
            self.heard(now);
        }
        let id = self.waiting.add(by);
        let before = self.output.len();
        encode_request(&mut self.output, &RequestHead { id, ..head }, request);
        let from = self.queued;
        self.queued += (self.output.len() - before) as u64;
        self.waiting.placed(from, self.queued);
        id
    }

    /// Takes what is to be sent. Its bytes count as handed over until it is known how many are.
    fn begin_to_send(&mut self) -> Vec<u8> {
        let spare = std::mem::take(&mut self.spare);
        let batch = std::mem::replace(&mut self.output, spare);
        self.sending = batch.len() as u64;
        self.is_sending = true;
        batch
    }

    /// The system has taken the first `count` bytes; the others wait for room.
    fn end_sending(&mut self, mut batch: Vec<u8>, count: usize) {
        self.is_sending = false;
        self.sending = 0;
        self.sent += count as u64;
        self.is_full = count < batch.len();
        if self.is_full {
            batch.drain(..count);
            batch.extend_from_slice(&self.output);
            std::mem::swap(&mut batch, &mut self.output);
        }
        batch.clear();
        if batch.capacity() <= KEEP_BYTES_MAX {
            self.spare = batch;
        }
    }

    /// How the wait for an answer ends now that the connection has broken.
    fn end(&self, id: u32) -> Ended {
        self.waiting.end(id, self.sent + self.sending)
    }

    /// The server lives.
    fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.sent_when_heard = self.sent;
        self.pinged_at = None;
    }

    /// The system takes bytes again, which it does when the server has taken some.
    fn has_room(&mut self, now: Instant) {
        self.is_full = false;
        self.heard(now);
    }

    /// When a sign of life is due.
    fn sign_due(&self) -> Instant {
        let on_the_way = self.sent - self.sent_when_heard;
        // One that does not fit is more than an hour.
        let more = PATIENCE_PER_BYTE * u32::try_from(on_the_way).unwrap_or(u32::MAX);
        match self.pinged_at {
            None => self.heard_at + PING_AFTER + more,
            Some(at) => at + PING_PATIENCE + more,
        }
    }

    /// Gives the answers that have come to those who want them.
    fn give_out(
        &mut self,
        receiver: &mut Receiver,
        to_wake: &mut Vec<Thread>,
    ) -> Result<(), Failure> {
        for (id, reply) in receiver.arrived.drain(..) {
            let (delivered, sleeper) = self.waiting.deliver(id, reply).ok_or(Failure::Unasked)?;
            if let Delivered::News(reply) = delivered {
                self.news = Some(reply);
            }
            to_wake.extend(sleeper);
        }
        Ok(())
    }
}

impl Receiver {
    /// Takes the whole frames from the input.
    fn understand(&mut self) -> Result<(), Failure> {
        loop {
            let decoded = decode_response(self.input.unread()).map_err(Failure::Frame)?;
            let Some((frame, length)) = decoded else { return Ok(()) };
            if frame.id == CONNECTION_ID {
                return Err(farewell(&frame.response));
            }
            self.arrived.push((frame.id, Reply::from(frame.response)));
            self.input.consume(length);
        }
    }
}

fn farewell(response: &Response<'_>) -> Failure {
    match *response {
        Response::Error { code, message } => {
            Failure::Refused { code: Some(code), message: message.to_owned() }
        }
        ref other => Failure::Refused { code: None, message: format!("{other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use kvorum_protocol::binary::{PREFACE, encode_response};

    use super::*;

    /// Far above what anything takes.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_being_sent_may_have_arrived() {
        let now = Instant::now();
        let mut state = State::new(Receiver::default(), now);
        let id = state.put(RequestHead::default(), &Request::Ping, Wanted::ByCaller, now);
        assert!(!state.end(id).may_have_arrived, "nobody has begun to send it");
        let batch = state.begin_to_send();
        assert!(state.end(id).may_have_arrived, "the system may have taken it");
        state.end_sending(batch, 1);
        assert!(!state.end(id).may_have_arrived, "it has taken only a part");
        let batch = state.begin_to_send();
        let rest = batch.len();
        state.end_sending(batch, rest);
        assert!(state.end(id).may_have_arrived);
        assert_eq!(state.sent, state.queued);
    }

    /// A sender that finds the connection broken wakes those whose answers came before the end.
    #[test]
    fn an_answer_from_before_the_end_wakes_its_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (opened, is_opened) = std::sync::mpsc::channel();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.read_exact(&mut [0; PREFACE.len()]).unwrap();
            stream.write_all(&PREFACE).unwrap();
            is_opened.recv().unwrap();
            let mut bytes = Vec::new();
            encode_response(&mut bytes, 0, &Response::Ok);
            stream.write_all(&bytes).unwrap();
        });
        let now = Instant::now();
        let link = Link::open(&address, now + PATIENCE).unwrap();
        opened.send(()).unwrap();
        server.join().unwrap();
        let mut state = link.lock();
        let id = state.put(RequestHead::default(), &Request::Ping, Wanted::ByCaller, now);
        assert_eq!(id, 0, "the one that the server answers");
        state.waiting.sleeps(id);
        link.hear_the_last(&mut state, Failure::Closed);
        assert_eq!(state.waiting.take(id), Some(Reply::Ok));
        drop(state);
        // Returns at once, as this thread has been woken already.
        thread::park_timeout(PATIENCE);
        assert!(now.elapsed() < PATIENCE, "nobody has woken it");
    }
}
