//! How often the heart of the server allocates, from the bytes of a request to the bytes of its
//! reply: decoder, core, encoder, without sockets and disk. Counted, not timed, so it may be
//! asserted: nothing for a GET, nothing for a SET that overwrites a value of the same length, one
//! item for any other SET. Batches cost two allocations each, however many requests they hold.

#[path = "support/counting.rs"]
mod counting;

use std::collections::VecDeque;

use kvorum::core::{
    Asker, Instant, Node, NodeConfig, Now, Options, Output, ReadOutcome, Recovery, ReplyTo,
    WriteOutcome,
};
use kvorum_protocol::binary::{RequestHead, decode_request, encode_request, encode_response};
use kvorum_protocol::resp::{
    Action, Args, Decoded, Decoder, Session, Shape, Version, dispatch, encode,
};
use kvorum_protocol::{
    Command, Limits, LogIndex, Lsn, MemberList, NodeId, Op, Read, Request, SessionSequence,
};

const KEYS: u32 = 1000;
const REQUESTS_PER_TURN: u32 = 100;
const TURNS: u32 = 100;
const REQUESTS: u64 = (REQUESTS_PER_TURN * TURNS) as u64;

/// The bytes of the next batch, in one piece, and the count of those who share the sealed one.
const PER_BATCH_MAX: u64 = 2;

/// Turns until every buffer has its size.
const WARM_UP_TURNS: u32 = 20;

/// A leader whose log is always durable at once.
struct Heart {
    node: Node,
    out: Output,
    scratch: Vec<u8>,
    replies: Vec<u8>,
    last_write: LogIndex,
    /// Of RESP.
    decoder: Decoder,
    args: Args,
    session: Session,
    lists: Vec<u8>,
    shapes: VecDeque<Shape>,
}

const NOW: Now = Now { monotonic: Instant(0), wall_ms: 1000 };

impl Heart {
    fn new() -> Heart {
        let members = MemberList::lone(NodeId(1), "localhost:6379").unwrap();
        let config = NodeConfig::new(NodeId(1), members);
        let mut heart = Heart {
            node: Node::new(config, Recovery::new(1), 1 << 40),
            out: Output::default(),
            scratch: Vec::new(),
            replies: Vec::new(),
            last_write: LogIndex(0),
            decoder: Decoder::default(),
            args: Args::new(),
            session: Session::default(),
            lists: Vec::new(),
            shapes: VecDeque::new(),
        };
        heart.node.tick(&NOW);
        while !heart.node.is_ready() {
            heart.commit();
            heart.node.poll(&mut heart.out);
        }
        heart
    }

    /// Seals the turn; the log is durable when this returns.
    fn commit(&mut self) {
        self.node.seal(&NOW, &mut self.out);
        if let Some((lsn, _)) = self.out.records.last() {
            let lsn: Lsn = *lsn;
            self.out.records.clear();
            self.node.durable(lsn);
        }
    }

    /// One turn of a binary connection.
    fn binary_turn(&mut self, mut input: &[u8]) {
        self.replies.clear();
        let limits = Limits::default();
        while let Some((frame, length)) = decode_request(input, &limits).expect("good frames") {
            input = &input[length..];
            let to = ReplyTo { connection: 1, tag: frame.head.id };
            match frame.request.expect("a good request") {
                Request::Write(command) => self.write(to, &command),
                Request::Read(read) => {
                    let asker = asker(to, self.last_write);
                    let outcome = self.node.read(&NOW, &asker, &read, &mut self.scratch);
                    let Ok(ReadOutcome::Ready(response)) = outcome else { panic!("{outcome:?}") };
                    encode_response(&mut self.replies, frame.head.id, &response);
                }
                other => panic!("nobody asks for {other:?}"),
            }
        }
        self.commit();
        while self.node.poll(&mut self.out) {}
        for reply in &self.out.replies {
            let response = self.out.response(&reply.answer, self.node.members());
            encode_response(&mut self.replies, reply.to.tag, &response);
        }
        self.out.clear();
    }

    /// One turn of a RESP connection.
    fn resp_turn(&mut self, mut input: &[u8]) {
        self.replies.clear();
        let limits = Limits::default();
        let mut lists = std::mem::take(&mut self.lists);
        let mut args = std::mem::take(&mut self.args);
        while !input.is_empty() {
            let decoded = self.decoder.decode(input, &limits, &mut args);
            let Ok(Decoded::Command { consumed }) = decoded else { panic!("{decoded:?}") };
            let out = &mut self.replies;
            let action = dispatch(&self.session, args.of(input), &limits, &mut lists, out);
            let Action::Request { request, shape } = action else { panic!("{action:?}") };
            let to = ReplyTo { connection: 1, tag: 0 };
            match request {
                Request::Write(command) => {
                    self.shapes.push_back(shape);
                    self.write(to, &command);
                }
                Request::Read(read) => {
                    let asker = asker(to, self.last_write);
                    let outcome = self.node.read(&NOW, &asker, &read, &mut self.scratch);
                    let Ok(ReadOutcome::Ready(response)) = outcome else { panic!("{outcome:?}") };
                    encode(&mut self.replies, Version::Resp2, shape, &response);
                }
                other => panic!("nobody asks for {other:?}"),
            }
            input = &input[consumed..];
        }
        (self.lists, self.args) = (lists, args);
        self.commit();
        while self.node.poll(&mut self.out) {}
        for reply in &self.out.replies {
            let shape = self.shapes.pop_front().expect("one for each write");
            let response = self.out.response(&reply.answer, self.node.members());
            encode(&mut self.replies, Version::Resp2, shape, &response);
        }
        self.out.clear();
    }

    fn write(&mut self, to: ReplyTo, command: &Command<'_>) {
        let outcome = self.node.write(&NOW, to, command, &Options::default());
        let WriteOutcome::Waiting(index) = outcome else { panic!("{outcome:?}") };
        self.last_write = index;
    }
}

fn asker(to: ReplyTo, after: LogIndex) -> Asker {
    Asker { to, after, hash: None, options: Options::default() }
}

#[derive(Clone, Copy)]
enum Protocol {
    Binary,
    Resp,
}

#[derive(Clone, Copy)]
enum Work {
    Get,
    /// A value of so many bytes.
    Set(usize),
    /// The same in a session, with a sequence of its own.
    SetInSession(usize, u64),
}

fn key(number: u32) -> [u8; 16] {
    let mut key = *b"key:............";
    key[8..].copy_from_slice(format!("{number:08}").as_bytes());
    key
}

/// The requests of one turn.
fn requests(protocol: Protocol, work: Work, turn: u32, keys: u32) -> Vec<u8> {
    let mut input = Vec::new();
    for n in 0..REQUESTS_PER_TURN {
        let id = turn * REQUESTS_PER_TURN + n;
        let key = key(id % keys);
        let value = match work {
            Work::Get => Vec::new(),
            Work::Set(bytes) | Work::SetInSession(bytes, _) => vec![b'v'; bytes],
        };
        match protocol {
            Protocol::Binary => {
                let set = Op::Set { key: &key, value: &value };
                let request = match work {
                    Work::Get => Request::Read(Read::Get(&key)),
                    Work::Set(_) => Request::Write(Command::new(set)),
                    Work::SetInSession(_, session) => {
                        let sequence = u64::from(id) + 1;
                        let name = SessionSequence { session, sequence };
                        Request::Write(Command { session: Some(name), op: set })
                    }
                };
                let head = RequestHead { id, ..RequestHead::default() };
                encode_request(&mut input, &head, &request);
            }
            Protocol::Resp => {
                let words: &[&[u8]] = match work {
                    Work::Get => &[b"GET", &key],
                    Work::Set(_) => &[b"SET", &key, &value],
                    Work::SetInSession(..) => panic!("RESP has no sessions"),
                };
                input.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
                for word in words {
                    input.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                    input.extend_from_slice(word);
                    input.extend_from_slice(b"\r\n");
                }
            }
        }
    }
    input
}

/// How many allocations the turns of such work take, over `keys` keys that are there already.
fn allocations(protocol: Protocol, keys: u32, work: impl Fn(u32) -> Work) -> u64 {
    allocations_of(&mut Heart::new(), protocol, keys, work)
}

fn allocations_of(
    heart: &mut Heart,
    protocol: Protocol,
    keys: u32,
    work: impl Fn(u32) -> Work,
) -> u64 {
    for turn in 0..KEYS / REQUESTS_PER_TURN {
        heart.binary_turn(&requests(Protocol::Binary, Work::Set(100), turn, KEYS));
    }
    let mut measured = 0;
    for turn in 0..WARM_UP_TURNS + TURNS {
        let input = requests(protocol, work(turn), turn, keys);
        let before = counting::allocations();
        match protocol {
            Protocol::Binary => heart.binary_turn(&input),
            Protocol::Resp => heart.resp_turn(&input),
        }
        assert!(!heart.replies.is_empty());
        if turn >= WARM_UP_TURNS {
            measured += counting::allocations() - before;
        }
    }
    measured
}

#[test]
fn a_get_allocates_nothing() {
    for protocol in [Protocol::Binary, Protocol::Resp] {
        assert_eq!(allocations(protocol, KEYS, |_| Work::Get), 0);
        // Half of them are absent.
        assert_eq!(allocations(protocol, 2 * KEYS, |_| Work::Get), 0);
    }
}

#[test]
fn a_set_of_the_same_length_allocates_nothing_but_its_share_of_a_batch() {
    for protocol in [Protocol::Binary, Protocol::Resp] {
        let counted = allocations(protocol, KEYS, |_| Work::Set(100));
        assert!(counted <= PER_BATCH_MAX * u64::from(TURNS), "{counted} in {REQUESTS} SETs");
    }
}

/// Its outcome goes where that of an older one was, once the window is full.
#[test]
fn a_set_in_a_session_allocates_no_more() {
    let mut heart = Heart::new();
    let window = 8 * REQUESTS_PER_TURN;
    let to = ReplyTo { connection: 1, tag: 0 };
    heart.write(to, &Command::new(Op::OpenSession { window }));
    let session = heart.last_write.0;
    let work = |_| Work::SetInSession(100, session);
    let counted = allocations_of(&mut heart, Protocol::Binary, KEYS, work);
    assert!(counted <= PER_BATCH_MAX * u64::from(TURNS), "{counted} in {REQUESTS} SETs");
    assert_eq!(heart.node.sessions().in_order()[0].1.outcomes.len(), window as usize);
}

#[test]
fn a_set_of_another_length_allocates_one_item() {
    for protocol in [Protocol::Binary, Protocol::Resp] {
        // All keys in a row get the one length, then the other.
        let length = |turn: u32| 90 + (turn / (KEYS / REQUESTS_PER_TURN) % 2) as usize;
        let counted = allocations(protocol, KEYS, |turn| Work::Set(length(turn)));
        let most = REQUESTS + PER_BATCH_MAX * u64::from(TURNS);
        assert!((REQUESTS..=most).contains(&counted), "{counted} in {REQUESTS} SETs");
    }
}
