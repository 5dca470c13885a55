//! Properties of the RESP decoder and of the replies, for all inputs.

mod resp_support;

use kvorum_protocol::Limits;
use kvorum_protocol::limits::RESP_ARGS_MAX;
use kvorum_protocol::resp::{
    Action, Args, Decoded, Decoder, ProtocolError, Session, Version, dispatch, execute,
};
use proptest::prelude::*;
use resp_support::{Value, facts, read_reply};

const LIMITS: Limits = Limits { key_bytes_max: 64, value_bytes_max: 2000 };

/// What a stream of bytes comes to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    commands: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
    /// Bytes that wait for more.
    left: usize,
}

/// Feeds `bytes` in pieces that end at `cuts`, as a connection would receive them.
fn decode_in_pieces(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Outcome {
    let (mut decoder, mut args) = (Decoder::default(), Args::new());
    let mut outcome = Outcome::default();
    let (mut start, mut wanted) = (0, 1);
    for end in cuts.into_iter().chain([bytes.len()]) {
        loop {
            let input = &bytes[start..end];
            match decoder.decode(input, &LIMITS, &mut args) {
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least > input.len(), "asks for what it has");
                    wanted = at_least;
                    break;
                }
                Ok(Decoded::Command { consumed }) => {
                    assert!(input.len() >= wanted, "asked for more than it needed");
                    let command = args.of(input);
                    assert!(!command.is_empty());
                    outcome.commands.push(command.from(0).map(<[u8]>::to_vec).collect());
                    start += consumed;
                    wanted = 1;
                }
                Ok(Decoded::Skip { consumed }) => {
                    assert!(consumed > 0);
                    start += consumed;
                    wanted = 1;
                }
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    outcome.left = bytes.len() - start;
    outcome
}

fn array_of(command: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for arg in command {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn quoted_line_of(command: &[Vec<u8>]) -> Vec<u8> {
    let words = command.iter().map(|arg| {
        let hex = arg.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        format!("\"{hex}\"")
    });
    format!("{}\r\n", words.collect::<Vec<_>>().join(" ")).into_bytes()
}

fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..8)
}

/// Bytes that look like RESP often enough to get deep into the decoder.
fn near_resp() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "*", "$", "\r\n", "*1\r\n", "*2\r\n", "$3\r\nGET\r\n", "$1\r\nk\r\n", "$0\r\n\r\n",
            "*0\r\n", "*-1\r\n", "$-1\r\n", "-", "0", "1", "9", "\n", "\r", " ", "\"", "'", "\\x",
            "PING\r\n", "ECHO a\r\n", "$2000\r\n", "$2001\r\n", "*99999999\r\n",
        ]).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// A command that gets past the table: a real name and subcommand, then anything.
fn near_command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let names = "get set del unlink exists mget mset strlen type ping echo select auth hello \
                 quit reset command client config info dbsize bgsave lastsave role time wait \
                 waitaof readonly readwrite nothing";
    let seconds = "setname getname setinfo id info list help get count docs 0 2 3 all k";
    let thirds = "lib-name lib-ver auth setname type id normal * get a EX NX 1";
    let pick = |list: &'static str| prop::sample::select(list.split(' ').collect::<Vec<_>>());
    let rest = prop_oneof![
        pick(thirds).prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..210),
    ];
    (pick(names), prop::option::of(pick(seconds)), prop::collection::vec(rest, 0..4)).prop_map(
        |(name, second, rest)| {
            let name = name.trim().to_ascii_uppercase().into_bytes();
            let second = second.map(|second| second.as_bytes().to_vec());
            [name].into_iter().chain(second).chain(rest).collect()
        },
    )
}

proptest! {
    #[test]
    fn commands_decode_to_what_was_encoded_wherever_they_are_cut(
        commands in prop::collection::vec((words(), any::<bool>()), 0..6),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = commands
            .iter()
            .map(|(command, inline)| {
                if *inline { quoted_line_of(command) } else { array_of(command) }
            })
            .collect::<Vec<_>>()
            .concat();
        cuts.sort_by_key(|cut| cut.index(bytes.len() + 1));
        let outcome = decode_in_pieces(&bytes, cuts.iter().map(|cut| cut.index(bytes.len() + 1)));
        let commands = commands.into_iter().map(|(command, _)| command).collect::<Vec<_>>();
        prop_assert_eq!(outcome, Outcome { commands, error: None, left: 0 });
    }

    #[test]
    fn any_bytes_come_to_the_same_in_one_piece_and_byte_by_byte(bytes in near_resp()) {
        prop_assert_eq!(decode_in_pieces(&bytes, 0..bytes.len()), decode_in_pieces(&bytes, []));
    }

    #[test]
    fn every_command_is_answered_with_exactly_one_reply(command in near_command()) {
        for hello in ["2", "3"] {
            let mut session = Session::default();
            run(&mut session, &[b"HELLO".to_vec(), hello.as_bytes().to_vec()]);
            let version = session.version();
            if let Some(reply) = run(&mut session, &command) {
                let read = read_reply(&reply);
                prop_assert!(matches!(read, Some((_, b""))), "{}", reply.escape_ascii());
                if version == session.version() {
                    let resp2 = version == Version::Resp2;
                    let types = if resp2 { &b"+-:$*"[..] } else { b"+-:$*_=~%" };
                    prop_assert!(types.contains(&reply[0]));
                }
            }
        }
    }
}

/// The reply to a command that is not for the store.
fn run(session: &mut Session, command: &[Vec<u8>]) -> Option<Vec<u8>> {
    let input = array_of(command);
    let (mut args, mut scratch, mut out) = (Args::new(), Vec::new(), Vec::new());
    let limits = Limits { value_bytes_max: 100, ..LIMITS };
    let decoded = Decoder::default().decode(&input, &limits, &mut args);
    assert_eq!(decoded, Ok(Decoded::Command { consumed: input.len() }));
    let args = args.of(&input);
    match dispatch(session, args, &limits, &mut scratch, &mut out) {
        Action::Request { request, .. } => {
            if let kvorum_protocol::Request::Write(command) = request {
                assert_eq!(command.check(&limits), Ok(()));
            }
            assert_eq!(out, b"");
            return None;
        }
        Action::Reply | Action::Wait { .. } => {}
        Action::Barrier => {
            assert_eq!(out, b"");
            let _ = execute(session, args, &facts(), &mut out);
        }
    }
    Some(out)
}

#[test]
fn the_largest_command_may_dribble_in_byte_by_byte() {
    let command = vec![b"x".to_vec(); RESP_ARGS_MAX];
    let bytes = array_of(&command);
    let limits = Limits::default();
    let (mut decoder, mut args) = (Decoder::default(), Args::new());
    // Quadratic work would be 10^11 steps.
    for end in 0..bytes.len() {
        let decoded = decoder.decode(&bytes[..end], &limits, &mut args);
        assert!(matches!(decoded, Ok(Decoded::NeedMore { .. })), "{end}: {decoded:?}");
    }
    let decoded = decoder.decode(&bytes, &limits, &mut args);
    assert_eq!(decoded, Ok(Decoded::Command { consumed: bytes.len() }));
    assert_eq!(args.of(&bytes).len(), RESP_ARGS_MAX);
}

#[test]
fn a_claim_over_the_limits_is_refused_before_it_arrives() {
    let decode = |bytes: &[u8]| decode_in_pieces(bytes, []).error;
    assert_eq!(decode(b"*131073\r\n"), None);
    assert_eq!(decode(b"*131074\r\n"), Some(ProtocolError::MultibulkLength));
    assert_eq!(decode(b"*1\r\n$2000\r\n"), None);
    assert_eq!(decode(b"*1\r\n$2001\r\n"), Some(ProtocolError::BulkLength));
    // Many arguments, each within its limit, are over the limit of a request together.
    let limits = Limits { key_bytes_max: 64, value_bytes_max: 1 << 19 };
    let megabytes = array_of(&vec![vec![b'x'; 1 << 19]; 3]);
    let cut = megabytes.len() - (1 << 19);
    let error = Decoder::default().decode(&megabytes[..cut], &limits, &mut Args::new());
    assert!(matches!(error, Err(ProtocolError::RequestTooLarge { .. })), "{error:?}");
}

#[test]
fn an_inline_command_is_bounded_whole_or_not() {
    let line = vec![b'x'; 64 << 10];
    let whole = [&line[..], b"\n"].concat();
    assert_eq!(decode_in_pieces(&whole, []).commands.len(), 1);
    let longer = [b"x", &line[..]].concat();
    assert_eq!(decode_in_pieces(&longer, []).error, Some(ProtocolError::InlineTooLarge));
    let longer = [&longer[..], b"\n"].concat();
    assert_eq!(decode_in_pieces(&longer, []).error, Some(ProtocolError::InlineTooLarge));
}

#[test]
fn command_docs_are_maps_that_redis_cli_can_read() {
    let mut session = Session::default();
    run(&mut session, &[b"HELLO".to_vec(), b"3".to_vec()]);
    let reply = run(&mut session, &[b"COMMAND".to_vec(), b"DOCS".to_vec()]).unwrap();
    let Some((Value::Map(docs), b"")) = read_reply(&reply) else { panic!("no map") };
    let reply = run(&mut session, &[b"COMMAND".to_vec(), b"COUNT".to_vec()]).unwrap();
    assert_eq!(read_reply(&reply).unwrap().0, Value::Integer(docs.len() as i128));
    for (name, doc) in docs {
        let Value::Map(fields) = doc else { panic!("{name:?}") };
        let has = |field: &str| fields.iter().any(|(name, _)| *name == Value::Bulk(field.into()));
        assert!(["summary", "since", "group"].into_iter().all(has), "{name:?}");
    }
}
