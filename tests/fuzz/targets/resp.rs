//! RESP commands: however they dribble in they are the same commands, and each is answered with
//! exactly one well-formed reply.
#![no_main]

use kvorum_fuzz::{LIMITS, bounded, choice, decoder_bytes, reply};
use kvorum_protocol::resp::{
    Action, After, Args, Arguments, ClientFacts, ClusterFacts, Decoded, Decoder, Facts, Fsync,
    LeaderFacts, ProtocolError, Role, ServerFacts, Session, StatsFacts, dispatch, encode, execute,
};
use kvorum_protocol::{
    ClusterId, Copies, ErrorCode, LogIndex, NodeId, Op, Quorum, Read, Request, Response, Term,
    ValueList, ValueListBuilder,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (step, stream) = choice(input);
    // COMMAND DOCS and its like answer a few bytes with kilobytes.
    bounded((1 << 20) + 4 * decoder_bytes(input), || {
        let whole = decode_all(stream, stream.len());
        assert_eq!(decode_all(stream, usize::from(step) + 1), whole);
        answer_all(&whole);
    });
});

#[derive(Debug, PartialEq)]
enum Item {
    Command(Vec<Vec<u8>>),
    Skip,
    Error(ProtocolError),
}

/// Everything in the stream, when it comes in portions of `step` bytes.
fn decode_all(stream: &[u8], step: usize) -> Vec<Item> {
    let mut items = Vec::new();
    let mut decoder = Decoder::default();
    let mut args = Args::new();
    let (mut start, mut end) = (0, step.min(stream.len()));
    let mut wanted = 0;
    loop {
        let rest = &stream[start..end];
        let decoded = decoder.decode(rest, &LIMITS, &mut args);
        if rest.len() < wanted {
            assert!(matches!(decoded, Ok(Decoded::NeedMore { .. }) | Err(_)), "{decoded:?}");
        }
        match decoded {
            Ok(Decoded::NeedMore { at_least }) => {
                assert!(at_least > rest.len(), "{at_least} bytes are there");
                if end == stream.len() {
                    return items;
                }
                wanted = at_least;
                end = (end + step).min(stream.len());
                continue;
            }
            Ok(Decoded::Command { consumed }) => {
                assert!(0 < consumed && consumed <= rest.len());
                let args = args.of(rest);
                assert!(!args.is_empty());
                let args: Vec<_> = args.from(0).map(<[u8]>::to_vec).collect();
                check_array(&args);
                items.push(Item::Command(args));
                start += consumed;
            }
            Ok(Decoded::Skip { consumed }) => {
                assert!(0 < consumed && consumed <= rest.len());
                items.push(Item::Skip);
                start += consumed;
            }
            Err(error) => {
                let mut out = Vec::new();
                error.encode(&mut out);
                reply::check(&out, 1);
                items.push(Item::Error(error));
                return items;
            }
        }
        wanted = 0;
    }
}

fn array(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.len()).bytes());
        bytes.extend(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Any command can be written as an array, unless that has stricter limits than a line.
fn check_array(args: &[Vec<u8>]) {
    let bytes = array(args);
    let mut read = Args::new();
    match Decoder::default().decode(&bytes, &LIMITS, &mut read) {
        Ok(Decoded::Command { consumed }) => {
            assert_eq!(consumed, bytes.len());
            assert!(read.of(&bytes).from(0).eq(args.iter().map(Vec::as_slice)));
        }
        Err(ProtocolError::BulkLength) => assert!(args.iter().any(|arg| arg.len() > 160)),
        Ok(other) => panic!("{other:?}"),
        Err(other) => panic!("{other:?}"),
    }
}

fn answer_all(items: &[Item]) {
    let mut session = Session::default();
    for item in items {
        let Item::Command(args) = item else { continue };
        let bytes = array(args);
        let mut read = Args::new();
        if Decoder::default().decode(&bytes, &LIMITS, &mut read).is_err() {
            continue;
        }
        if answer(&mut session, read.of(&bytes)) == After::Close {
            return;
        }
    }
}

fn answer(session: &mut Session, args: Arguments<'_>) -> After {
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    let mut after = After::Continue;
    match dispatch(session, args, &LIMITS, &mut scratch, &mut out) {
        Action::Reply => {}
        Action::Barrier => {
            assert!(out.is_empty());
            after = with_facts(|facts| execute(session, args, facts, &mut out));
        }
        Action::Wait { wait, shape } => {
            assert!(out.is_empty());
            let copies = Copies { here: wait.here, elsewhere: wait.others };
            encode(&mut out, session.version(), shape, &Response::Copies(copies));
        }
        Action::Request { request, shape } => {
            assert!(out.is_empty());
            let mut list = Vec::new();
            let response = respond(&request, &mut list);
            encode(&mut out, session.version(), shape, &response);
            reply::check(&out, 1);
            out.clear();
            let message = String::from_utf8_lossy(args.get(0));
            let failure = Response::Error { code: ErrorCode::QuorumTimeout, message: &message };
            encode(&mut out, session.version(), shape, &failure);
        }
    }
    reply::check(&out, 1);
    after
}

/// An answer that a node might give.
fn respond<'a>(request: &Request<'a>, list: &'a mut Vec<u8>) -> Response<'a> {
    let version = LogIndex(7);
    match request {
        Request::Write(command) => {
            assert!(command.check(&LIMITS).is_ok(), "over the limits");
            match command.op {
                Op::Delete { .. } | Op::DeleteMany(_) => Response::Deleted { version, count: 1 },
                _ => Response::Written { version },
            }
        }
        Request::Read(Read::Get(key)) if key.len() % 2 == 0 => Response::NotFound,
        Request::Read(Read::Get(key)) => Response::Value { version, value: key },
        Request::Read(Read::GetMany(keys)) => {
            let mut values = ValueListBuilder::new(u32::try_from(keys.len()).unwrap(), list);
            for key in keys.iter() {
                values.push((key.len() % 2 == 0).then_some((version, key))).unwrap();
            }
            Response::Values(ValueList::decode(list).unwrap())
        }
        Request::Read(Read::Exists(_) | Read::Length(_)) => Response::Number(3),
        other => panic!("RESP has no command for {other:?}"),
    }
}

fn with_facts<R>(tell: impl FnOnce(&Facts<'_>) -> R) -> R {
    let client = ClientFacts {
        id: 1,
        address: "127.0.0.1:5000",
        local_address: "127.0.0.1:6379",
        age_s: 1,
        idle_s: 0,
    };
    let nobody = |_: &mut dyn FnMut(ClientFacts<'_>, &Session)| {};
    tell(&Facts {
        client,
        other_clients: &nobody,
        cluster: ClusterFacts {
            cluster_id: ClusterId(1),
            node_id: NodeId(1),
            role: Role::Leader,
            term: Term(1),
            leader: Some(LeaderFacts {
                node_id: NodeId(1),
                address: "127.0.0.1:6379",
                connected: true,
                silent_s: 0,
            }),
            commit: LogIndex(1),
            applied: LogIndex(1),
            last: LogIndex(1),
            durable: LogIndex(1),
            voters: &[NodeId(1)],
            learners: &[],
            replicas: &[],
            write_quorum: Quorum::Majority,
            read_quorum: Quorum::Majority,
            relaxed: &[],
        },
        server: ServerFacts {
            version: "0",
            run_id: "0",
            process_id: 1,
            tcp_port: 6379,
            unix_time_us: 1,
            uptime_s: 1,
            fsync: Fsync::Always,
            data_dir: "data",
            connections_max: 1,
            memory_max: None,
            value_bytes_max: LIMITS.value_bytes_max,
            loading: false,
        },
        stats: StatsFacts::default(),
    })
}
