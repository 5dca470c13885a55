//! What must hold for every request, every response and every sequence of bytes.

use kvorum_protocol::binary::{
    RequestHead, decode_preface, decode_request, decode_response, encode_request, encode_response,
};
use kvorum_protocol::limits::SESSION_WINDOW_MAX;
use kvorum_protocol::text::{self, Acknowledgement, Line, LineError, StreamError};
use kvorum_protocol::{
    Command, DecodeError, ErrorCode, KeyList, Limits, LogIndex, MemberList, MembersLine, NodeId,
    Op, PairList, Quorum, Read, Request, Response, SessionSequence, SnapshotRead, ValueList,
    ValueListBuilder,
};
use proptest::collection::vec;
use proptest::prelude::*;

type Bytes = Vec<u8>;

/// A request with its own bytes.
#[derive(Clone, Debug)]
enum Owned {
    Get(Bytes),
    Length(Bytes),
    GetMany(Vec<Bytes>),
    Exists(Vec<Bytes>),
    Set(Bytes, Bytes),
    Delete(Bytes),
    SetMany(Vec<(Bytes, Bytes)>),
    DeleteMany(Vec<Bytes>),
    OpenSession(u32),
    Quorum(Option<Quorum>, Option<Quorum>),
    Transfer(Option<NodeId>),
    ChangeMembers(String, Option<LogIndex>),
    Ping,
    Status,
    Members,
    Snapshot,
    SnapshotRead(SnapshotRead),
    WhoIsLeader,
}

impl Owned {
    fn is_read(&self) -> bool {
        matches!(self, Owned::Get(_) | Owned::Length(_) | Owned::GetMany(_) | Owned::Exists(_))
    }

    /// Lists are encoded into `scratch`.
    fn borrow<'a>(
        &'a self,
        session: Option<SessionSequence>,
        scratch: &'a mut Vec<u8>,
    ) -> Request<'a> {
        let limits = Limits::default();
        let op = match self {
            Owned::Get(key) => return Request::Read(Read::Get(key)),
            Owned::Length(key) => return Request::Read(Read::Length(key)),
            Owned::GetMany(keys) => return Request::Read(Read::GetMany(list(keys, scratch))),
            Owned::Exists(keys) => return Request::Read(Read::Exists(list(keys, scratch))),
            Owned::Quorum(write, read) => return Request::Quorum { write: *write, read: *read },
            Owned::Transfer(to) => return Request::Transfer { to: *to },
            Owned::ChangeMembers(change, base) => {
                return Request::ChangeMembers { change, base: *base };
            }
            Owned::Ping => return Request::Ping,
            Owned::Status => return Request::Status,
            Owned::Members => return Request::Members,
            Owned::Snapshot => return Request::Snapshot,
            Owned::SnapshotRead(read) => return Request::SnapshotRead(*read),
            Owned::WhoIsLeader => return Request::WhoIsLeader,
            Owned::OpenSession(window) => {
                return Request::Write(Command::new(Op::OpenSession { window: *window }));
            }
            Owned::Set(key, value) => Op::Set { key, value },
            Owned::Delete(key) => Op::Delete { key },
            Owned::DeleteMany(keys) => Op::DeleteMany(list(keys, scratch)),
            Owned::SetMany(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (&key[..], &value[..]));
                Op::SetMany(PairList::encode(pairs, &limits, scratch).unwrap())
            }
        };
        Request::Write(Command { session, op })
    }
}

fn list<'a>(keys: &[Bytes], scratch: &'a mut Vec<u8>) -> KeyList<'a> {
    KeyList::encode(keys.iter().map(|key| &key[..]), &Limits::default(), scratch).unwrap()
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max)
}

fn keys() -> impl Strategy<Value = Vec<Bytes>> {
    vec(bytes(20), 0..6)
}

fn read_level() -> impl Strategy<Value = Option<Quorum>> {
    prop_oneof![
        Just(None),
        Just(Some(Quorum::Majority)),
        (1..=63u8).prop_map(|n| Some(Quorum::Count(n))),
    ]
}

fn level() -> impl Strategy<Value = Option<Quorum>> {
    prop_oneof![4 => read_level(), 1 => Just(Some(Quorum::All))]
}

fn request() -> impl Strategy<Value = Owned> {
    prop_oneof![
        bytes(300).prop_map(Owned::Get),
        bytes(30).prop_map(Owned::Length),
        keys().prop_map(Owned::GetMany),
        keys().prop_map(Owned::Exists),
        (bytes(300), bytes(2000)).prop_map(|(key, value)| Owned::Set(key, value)),
        bytes(30).prop_map(Owned::Delete),
        vec((bytes(20), bytes(100)), 0..6).prop_map(Owned::SetMany),
        keys().prop_map(Owned::DeleteMany),
        (1..=SESSION_WINDOW_MAX).prop_map(Owned::OpenSession),
        (level(), read_level()).prop_map(|(write, read)| Owned::Quorum(write, read)),
        proptest::option::of((1..=u16::MAX).prop_map(NodeId)).prop_map(Owned::Transfer),
        (change(), proptest::option::of((1..u64::MAX).prop_map(LogIndex)))
            .prop_map(|(change, base)| Owned::ChangeMembers(change, base)),
        Just(Owned::Ping),
        Just(Owned::Status),
        Just(Owned::Members),
        Just(Owned::Snapshot),
        (any::<u64>(), any::<u64>(), 1..=u32::MAX).prop_map(|(index, offset, bytes_max)| {
            Owned::SnapshotRead(SnapshotRead { index: LogIndex(index), offset, bytes_max })
        }),
        Just(Owned::WhoIsLeader),
    ]
}

fn change() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..=u16::MAX, "[a-z.]{1,99}", any::<u16>())
            .prop_map(|(id, host, port)| format!("add {id}={host}:{port}/{host}:{port}")),
        (prop_oneof!["remove", "promote", "demote"], 1..=u16::MAX)
            .prop_map(|(verb, id)| format!("{verb} {id}")),
    ]
}

fn session() -> impl Strategy<Value = Option<SessionSequence>> {
    proptest::option::of(any::<(u64, u64)>())
        .prop_map(|pair| pair.map(|(session, sequence)| SessionSequence { session, sequence }))
}

/// A response with its own bytes.
#[derive(Clone, Debug)]
enum Answer {
    Ok,
    Written(u64),
    Deleted(u64, u32),
    Value(u64, Bytes),
    NotFound,
    Values(Vec<Option<(u64, Bytes)>>),
    Number(u64),
    Leader(Option<String>),
    Status(String),
    Members(String),
    NotLeader(String),
    Error(ErrorCode, String),
}

impl Answer {
    /// A list is encoded into `scratch`.
    fn borrow<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Response<'a> {
        match self {
            Answer::Ok => Response::Ok,
            Answer::Written(version) => Response::Written { version: LogIndex(*version) },
            Answer::Deleted(version, count) => {
                Response::Deleted { version: LogIndex(*version), count: *count }
            }
            Answer::Value(version, value) => Response::Value { version: LogIndex(*version), value },
            Answer::NotFound => Response::NotFound,
            Answer::Values(values) => {
                let mut builder = ValueListBuilder::new(values.len().try_into().unwrap(), scratch);
                for value in values {
                    let found = value.as_ref();
                    builder.push(found.map(|(at, value)| (LogIndex(*at), &value[..]))).unwrap();
                }
                Response::Values(ValueList::decode(scratch).unwrap())
            }
            Answer::Number(number) => Response::Number(*number),
            Answer::Leader(leader) => Response::Leader(leader.as_deref()),
            Answer::Status(line) => Response::Status(line),
            Answer::Members(line) => Response::Members(line),
            Answer::NotLeader(leader) => Response::NotLeader { leader },
            Answer::Error(code, message) => Response::Error { code: *code, message },
        }
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Ok),
        any::<u64>().prop_map(Answer::Written),
        any::<(u64, u32)>().prop_map(|(version, count)| Answer::Deleted(version, count)),
        (any::<u64>(), bytes(2000)).prop_map(|(version, value)| Answer::Value(version, value)),
        Just(Answer::NotFound),
        vec(proptest::option::of((1..=u64::MAX, bytes(100))), 0..6).prop_map(Answer::Values),
        any::<u64>().prop_map(Answer::Number),
        proptest::option::of(".+").prop_map(Answer::Leader),
        any::<String>().prop_map(Answer::Status),
        any::<String>().prop_map(Answer::Members),
        any::<String>().prop_map(Answer::NotLeader),
        (proptest::sample::select(&ErrorCode::ALL[..]), any::<String>())
            .prop_map(|(code, message)| Answer::Error(code, message)),
    ]
}

/// A frame around `inside`, with a sound length and checksum.
fn sealed(inside: &[u8]) -> Bytes {
    let length = u32::try_from(inside.len() + 4).unwrap();
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(inside);
    let crc = crc32fast::hash(&frame);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame
}

proptest! {
    #[test]
    fn a_line_of_members_is_judged_whatever_it_says(
        line in "(id|leader|member|learner|x)=[0-9]{1,6}(=[a-b:/0-9]{0,9})?( .{0,20}){0,3}",
    ) {
        if let Ok(members) = MembersLine::parse(&line) {
            prop_assert_eq!(MembersLine::parse(&members.to_string()), Ok(members));
        }
    }

    #[test]
    fn a_request_survives_the_wire(
        request in request(),
        session in session(),
        (id, level, timeout_ms, version) in (0..u32::MAX, read_level(), any::<u16>(), any::<u64>()),
        (cut, behind) in (any::<prop::sample::Index>(), bytes(40)),
    ) {
        let limits = Limits::default();
        let min_version = LogIndex(if request.is_read() { version } else { 0 });
        let head = RequestHead { id, level, timeout_ms, min_version };
        let mut scratch = Vec::new();
        let request = request.borrow(session, &mut scratch);
        let mut wire = Vec::new();
        encode_request(&mut wire, &head, &request);
        let length = wire.len();
        prop_assert_eq!(decode_request(&wire[..cut.index(length)], &limits), Ok(None));
        wire.extend(behind);
        let (frame, consumed) = decode_request(&wire, &limits).unwrap().unwrap();
        prop_assert_eq!((frame.head, frame.request, consumed), (head, Ok(request), length));
    }

    #[test]
    fn a_response_survives_the_wire(
        answer in answer(),
        id: u32,
        (cut, behind) in (any::<prop::sample::Index>(), bytes(40)),
    ) {
        let mut scratch = Vec::new();
        let response = answer.borrow(&mut scratch);
        let mut wire = Vec::new();
        encode_response(&mut wire, id, &response);
        let length = wire.len();
        prop_assert_eq!(decode_response(&wire[..cut.index(length)]), Ok(None));
        wire.extend(behind);
        let (frame, consumed) = decode_response(&wire).unwrap().unwrap();
        prop_assert_eq!((frame.id, frame.response, consumed), (id, response, length));
    }

    #[test]
    fn no_bytes_are_too_strange(input in bytes(200)) {
        let limits = Limits::default();
        let taken = decode_request(&input, &limits).ok().flatten().map_or(0, |frame| frame.1);
        prop_assert!(taken <= input.len());
        let taken = decode_response(&input).ok().flatten().map_or(0, |frame| frame.1);
        prop_assert!(taken <= input.len());
        let taken = decode_preface(&input).ok().flatten().unwrap_or(0);
        prop_assert!(taken <= input.len());
        let taken = text::parse(&input, 0, &limits).ok().flatten().map_or(0, |line| line.1);
        prop_assert!(taken <= input.len());
    }

    /// Past the checksum, which random bytes never pass.
    #[test]
    fn no_sealed_frame_is_too_strange(
        id in 0..u32::MAX,
        (level, reserved) in (
            prop_oneof![Just(0), any::<u8>()],
            prop_oneof![9 => Just(0), 1 => any::<u8>()],
        ),
        (opcode, flags, key_length) in (0..0x24u8, 0..4u8, 0..8u8),
        rest in bytes(40),
    ) {
        let limits = Limits { key_bytes_max: 4, value_bytes_max: 8 };
        let mut inside = id.to_le_bytes().to_vec();
        inside.extend([level, reserved, 0, 0, opcode, flags, key_length, 0]);
        inside.extend(rest);
        let wire = sealed(&inside);
        let (frame, consumed) = decode_request(&wire, &limits).unwrap().unwrap();
        prop_assert_eq!((frame.head.id, consumed), (id, wire.len()));
        if let Ok(request) = frame.request {
            let mut again = Vec::new();
            encode_request(&mut again, &frame.head, &request);
            // The one thing with two encodings: a floor of 0 is no floor.
            if flags != 2 || frame.head.min_version != LogIndex(0) {
                prop_assert_eq!(again, wire);
            }
        }
    }

    #[test]
    fn no_sealed_response_is_too_strange(
        (status, kind) in (0..0x1au8, 0..9u8),
        body in bytes(40),
    ) {
        let mut inside = vec![1, 0, 0, 0, status, kind, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        inside.extend(body);
        let wire = sealed(&inside);
        if let Ok(decoded) = decode_response(&wire) {
            prop_assert_eq!(decoded.unwrap().1, wire.len());
        }
    }

    #[test]
    fn no_member_list_is_too_strange(bytes in bytes(60)) {
        if let Ok(list) = MemberList::decode(&bytes) {
            let mut again = Vec::new();
            list.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn lists_decode_only_what_they_encode(bytes in bytes(60)) {
        let limits = Limits::default();
        let mut scratch = Vec::new();
        if let Ok(list) = KeyList::decode(&bytes) {
            let keys: Vec<_> = list.iter().collect();
            prop_assert_eq!(keys.len(), list.len());
            KeyList::encode(keys.into_iter(), &limits, &mut scratch).unwrap();
            prop_assert_eq!(&scratch, &bytes);
        }
        if let Ok(list) = PairList::decode(&bytes) {
            let pairs: Vec<_> = list.iter().collect();
            prop_assert_eq!(pairs.len(), list.len());
            PairList::encode(pairs.into_iter(), &limits, &mut scratch).unwrap();
            prop_assert_eq!(&scratch, &bytes);
        }
    }
}

#[test]
fn limits_below_the_format_refuse_a_request_and_keep_the_connection() {
    let limits = Limits { key_bytes_max: 3, value_bytes_max: 4 };
    let mut scratch = Vec::new();
    let four = b"four".to_vec();
    for (request, what) in [
        (Owned::Get(four.clone()), "key"),
        (Owned::Length(four.clone()), "key"),
        (Owned::GetMany(vec![four.clone()]), "key"),
        (Owned::Exists(vec![four.clone()]), "key"),
        (Owned::Delete(four.clone()), "key"),
        (Owned::DeleteMany(vec![four.clone()]), "key"),
        (Owned::Set(four.clone(), vec![]), "key"),
        (Owned::Set(vec![], vec![0; 5]), "value"),
        (Owned::SetMany(vec![(four.clone(), vec![])]), "key"),
        (Owned::SetMany(vec![(vec![], vec![0; 5])]), "value"),
    ] {
        let head = RequestHead { id: 7, ..RequestHead::default() };
        let mut wire = Vec::new();
        encode_request(&mut wire, &head, &request.borrow(None, &mut scratch));
        let (frame, consumed) = decode_request(&wire, &limits).unwrap().unwrap();
        assert_eq!((frame.head.id, consumed), (7, wire.len()));
        let error = frame.request.unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { what: w, .. } if w == what), "{error}");
        assert_eq!(error.code(), ErrorCode::TooLarge);
    }
}

/// Lines that reach every corner of the parser more often than random bytes would.
fn line() -> impl Strategy<Value = Bytes> {
    let verb = proptest::sample::select(vec![
        "GET",
        "get",
        "SET",
        "Set",
        "DELETE",
        "PING",
        "STATUS",
        "WHO_IS_LEADER",
        "QUORUM",
        "HELP",
        "QUIT",
        "",
        "POST",
        "Host:",
        "FLUSH",
        "\0",
    ]);
    let argument = prop_oneof![
        Just(b"w=2".to_vec()),
        Just(b"r=majority".to_vec()),
        Just(b"r=all".to_vec()),
        Just(b"".to_vec()),
        bytes(6),
    ];
    let end = proptest::sample::select(vec!["\n", "\r\n", "\r\r\n"]);
    (verb, vec(argument, 0..3), end).prop_map(|(verb, arguments, end)| {
        let mut line = verb.as_bytes().to_vec();
        for argument in arguments {
            line.push(b' ');
            line.extend(argument);
        }
        line.extend_from_slice(end.as_bytes());
        line
    })
}

type Parsed<'a> = Vec<Result<Line<'a>, LineError<'a>>>;

/// All lines of `stream`, which arrives in pieces that end at `cuts`; and how it ended.
fn read_in_pieces<'a>(
    stream: &'a [u8],
    cuts: &[usize],
    limits: &Limits,
) -> (Parsed<'a>, Result<usize, StreamError>) {
    let mut lines = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        // What a connection would remember; here it is tried whether a stale, smaller number
        // does as well.
        let mut scanned = 0;
        loop {
            match text::parse(&stream[start..end.max(start)], scanned, limits) {
                Ok(Some((line, consumed))) => {
                    lines.push(line);
                    start += consumed;
                    scanned = 0;
                }
                Ok(None) if scanned == 0 && end > start => scanned = end - start,
                Ok(None) => break,
                Err(error) => return (lines, Err(error)),
            }
        }
    }
    (lines, Ok(start))
}

/// Undoes the escapes of a `VALUE_ESCAPED` line.
fn unescaped(escaped: &[u8]) -> Bytes {
    let mut out = Vec::new();
    let mut rest = escaped.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        match rest.next().expect("an escape") {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = [*rest.next().unwrap(), *rest.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
            }
            other => panic!("no escape: {other}"),
        }
    }
    out
}

proptest! {
    #[test]
    fn lines_are_the_same_however_they_arrive(
        lines in vec(line(), 0..6),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let limits = Limits::default();
        let stream = lines.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = read_in_pieces(&stream, &[], &limits);
        prop_assert_eq!(read_in_pieces(&stream, &cuts, &limits), whole);
    }

    /// No reply is ambiguous: one line, and the value comes back from it exactly.
    #[test]
    fn a_value_comes_back_from_its_line(
        value in prop_oneof![
            bytes(60),
            any::<String>().prop_map(String::into_bytes),
            "[a\n\r\\\\x]*".prop_map(String::into_bytes),
        ],
    ) {
        let mut out = Vec::new();
        let response = Response::Value { version: LogIndex(1), value: &value };
        text::encode(&mut out, Acknowledgement::Ok, &response);
        let line = out.strip_suffix(b"\n").unwrap();
        prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        let breaks = value.contains(&b'\n') || value.contains(&b'\r');
        match line.strip_prefix(b"VALUE_ESCAPED ") {
            Some(escaped) => {
                prop_assert!(breaks);
                prop_assert_eq!(unescaped(escaped), value);
            }
            None => {
                prop_assert!(!breaks);
                prop_assert_eq!(line.strip_prefix(b"VALUE ").unwrap(), &value[..]);
            }
        }
    }

    #[test]
    fn every_error_is_one_line(
        code in proptest::sample::select(&ErrorCode::ALL[..]),
        message: String,
        line in line(),
    ) {
        let mut out = Vec::new();
        text::encode(&mut out, Acknowledgement::Ok, &Response::Error { code, message: &message });
        prop_assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(out.len() - 1));
        if let Ok(Some((Err(error), _))) = text::parse(&line, 0, &Limits::default()) {
            out.clear();
            text::encode_line_error(&mut out, &error);
            prop_assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(out.len() - 1));
        }
    }
}
