//! Checks the RESP codec against `protocol/vectors/resp.txt`; the file's head explains its form.

mod resp_support;

use kvorum_protocol::resp::{
    Action, After, Args, Decoded, Decoder, Session, Shape, Version, dispatch, encode, execute,
};
use kvorum_protocol::{
    Copies, ErrorCode, Limits, LogIndex, Op, Read, Request, Response, ValueList, ValueListBuilder,
};
use resp_support::facts;

const VECTORS: &str = include_str!("../vectors/resp.txt");
const LIMITS: Limits = Limits { key_bytes_max: 8, value_bytes_max: 16 };
const VERSIONS: [Version; 2] = [Version::Resp2, Version::Resp3];

/// A `>` or `?` line with the lines that belong to it.
struct Vector<'a> {
    line_number: usize,
    subject: &'a str,
    expected: Vec<(&'a str, &'a str)>,
}

fn vectors(kind: &str) -> Vec<Vector<'static>> {
    let mut vectors: Vec<Vector<'_>> = Vec::new();
    let mut wanted = false;
    for (number, line) in VECTORS.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (tag, content) = line.split_once(' ').expect("a tag and a space");
        match tag {
            ">" | "?" => {
                wanted = tag == kind;
                if wanted {
                    let expected = Vec::new();
                    vectors.push(Vector { line_number: number + 1, subject: content, expected });
                }
            }
            "=" | "<" | "2<" | "3<" | "!" => {
                if wanted {
                    vectors.last_mut().expect("a subject first").expected.push((tag, content));
                }
            }
            other => panic!("line {}: tag {other:?}", number + 1),
        }
    }
    assert!(vectors.iter().all(|vector| !vector.expected.is_empty()));
    vectors
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let escape = rest[0];
        rest = &rest[1..];
        bytes.push(match escape {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let hex = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(hex, 16).unwrap()
            }
            b'\\' | b'"' | b'\'' => escape,
            other => panic!("escape {other} in {text}"),
        });
    }
    bytes
}

/// The words of a meaning that stand in quotes, unescaped; `None` for a bare `-`.
fn quoted(text: &str) -> Vec<Option<Vec<u8>>> {
    text.split(' ')
        .map(|word| {
            let word = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
            word.map(unescape)
        })
        .collect()
}

#[test]
fn requests_mean_what_the_vectors_say() {
    for vector in vectors(">") {
        let bytes = unescape(vector.subject);
        let place = format!("line {}: {}", vector.line_number, vector.subject);
        for version in VERSIONS {
            let outcome = outcome(&bytes, version, &place);
            for (tag, content) in &vector.expected {
                match (*tag, version) {
                    ("=", _) => assert_eq!(outcome.meaning, *content, "{place}"),
                    ("!", _) => {
                        assert_eq!(outcome.reply.escape_ascii().to_string(), escaped(content));
                        assert!(outcome.closes, "{place}");
                    }
                    ("2<", Version::Resp3) | ("3<", Version::Resp2) => {}
                    _ => {
                        let reply = outcome.reply.escape_ascii().to_string();
                        assert_eq!(reply, escaped(content), "{place} in {version:?}");
                        assert!(!outcome.closes, "{place}");
                    }
                }
            }
        }
    }
}

/// In the one spelling of `escape_ascii`, for messages that can be read.
fn escaped(content: &str) -> String {
    unescape(content).escape_ascii().to_string()
}

/// What becomes of a request.
#[derive(Default)]
struct Outcome {
    meaning: String,
    reply: Vec<u8>,
    closes: bool,
}

fn outcome(bytes: &[u8], version: Version, place: &str) -> Outcome {
    let (mut args, mut scratch) = (Args::new(), Vec::new());
    let mut outcome = Outcome::default();
    let mut session = Session::default();
    if version == Version::Resp3 {
        let hello = b"HELLO 3\n";
        let decoded = Decoder::default().decode(hello, &LIMITS, &mut args);
        assert_eq!(decoded, Ok(Decoded::Command { consumed: hello.len() }));
        let after = execute(&mut session, args.of(hello), &facts(), &mut Vec::new());
        assert_eq!(after, After::Continue);
    }
    let mut decoder = Decoder::default();
    for end in 0..bytes.len() {
        match decoder.decode(&bytes[..end], &LIMITS, &mut args) {
            Ok(decoded) => assert!(matches!(decoded, Decoded::NeedMore { .. }), "{place} at {end}"),
            Err(error) => {
                let whole = Decoder::default().decode(bytes, &LIMITS, &mut args);
                assert_eq!(whole, Err(error), "{place} at {end}");
                break;
            }
        }
    }
    match Decoder::default().decode(bytes, &LIMITS, &mut args) {
        Err(error) => {
            error.encode(&mut outcome.reply);
            outcome.closes = true;
        }
        Ok(Decoded::Skip { consumed }) if consumed == bytes.len() => {
            outcome.meaning.push_str("skip")
        }
        Ok(Decoded::Command { consumed }) if consumed == bytes.len() => {
            let args = args.of(bytes);
            match dispatch(&session, args, &LIMITS, &mut scratch, &mut outcome.reply) {
                Action::Request { request, shape } => {
                    let shape = format!("{shape:?}").to_lowercase();
                    outcome.meaning = format!("{} -> {shape}", meaning(&request));
                }
                Action::Reply => {}
                Action::Wait { wait, shape } => {
                    let here = if wait.here { " here" } else { "" };
                    let timeout =
                        wait.timeout_ms.map(|ms| format!(" timeout_ms={ms}")).unwrap_or_default();
                    let shape = format!("{shape:?}").to_lowercase();
                    outcome.meaning =
                        format!("wait{here} others={}{timeout} -> {shape}", wait.others);
                }
                Action::Barrier => {
                    outcome.meaning.push_str("barrier");
                    let after = execute(&mut session, args, &facts(), &mut outcome.reply);
                    outcome.closes = after == After::Close;
                }
            }
        }
        other => panic!("{place}: {other:?}"),
    }
    outcome
}

fn meaning(request: &Request<'_>) -> String {
    let (verb, words): (&str, Vec<&[u8]>) = match request {
        Request::Read(Read::Get(key)) => ("get", vec![key]),
        Request::Read(Read::GetMany(keys)) => ("get_many", keys.iter().collect()),
        Request::Read(Read::Exists(keys)) => ("exists", keys.iter().collect()),
        Request::Read(Read::Length(key)) => ("length", vec![key]),
        Request::Write(command) => match command.op {
            Op::Set { key, value } => ("set", vec![key, value]),
            Op::Delete { key } => ("delete", vec![key]),
            Op::SetMany(pairs) => {
                ("set_many", pairs.iter().flat_map(|(key, value)| [key, value]).collect())
            }
            Op::DeleteMany(keys) => ("delete_many", keys.iter().collect()),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let words = words.iter().map(|word| {
        // A single quote needs no escape among double quotes.
        format!(" \"{}\"", word.escape_ascii().to_string().replace("\\'", "'"))
    });
    format!("{verb}{}", words.collect::<String>())
}

#[test]
fn responses_are_printed_as_the_vectors_say() {
    for vector in vectors("?") {
        let (shape, response) = vector.subject.split_once(": ").expect("shape and response");
        let shapes = [
            Shape::Done,
            Shape::Deleted,
            Shape::Value,
            Shape::Values,
            Shape::Number,
            Shape::Type,
            Shape::Wait,
            Shape::Waitaof,
        ];
        let shape = shapes.into_iter().find(|known| format!("{known:?}").to_lowercase() == shape);
        for version in VERSIONS {
            let reply = print(version, shape.expect("a known shape"), response);
            let expected = vector.expected.iter().filter(|(tag, _)| match version {
                Version::Resp2 => *tag != "3<",
                Version::Resp3 => *tag != "2<",
            });
            for (_, content) in expected {
                let place = format!("line {}: {}", vector.line_number, vector.subject);
                assert_eq!(reply.escape_ascii().to_string(), escaped(content), "{place}");
            }
        }
    }
}

fn print(version: Version, shape: Shape, response: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let index = LogIndex(9);
    let (verb, rest) = response.split_once(' ').unwrap_or((response, ""));
    let words = quoted(rest);
    let mut values = Vec::new();
    let message;
    let response = match verb {
        "value" => Response::Value { version: index, value: words[0].as_deref().unwrap() },
        "values" => {
            let count = u32::try_from(words.len()).unwrap();
            let mut list = ValueListBuilder::new(count, &mut values);
            for word in &words {
                list.push(word.as_deref().map(|value| (index, value))).unwrap();
            }
            Response::Values(ValueList::decode(&values).unwrap())
        }
        "not_found" => Response::NotFound,
        "written" => Response::Written { version: index },
        "deleted" => Response::Deleted { version: index, count: rest.parse().unwrap() },
        "number" => Response::Number(rest.parse().unwrap()),
        "copies" => {
            let (here, elsewhere) = match rest.strip_prefix("here ") {
                Some(elsewhere) => (true, elsewhere),
                None => (false, rest),
            };
            Response::Copies(Copies { here, elsewhere: elsewhere.parse().unwrap() })
        }
        "not_leader" => Response::NotLeader { leader: "10.0.0.2:6379" },
        "error" => {
            let (word, rest) = rest.split_once(' ').unwrap();
            let code = ErrorCode::ALL.into_iter().find(|code| code.word() == word).unwrap();
            message = String::from_utf8(unescape(rest)).unwrap();
            Response::Error { code, message: &message }
        }
        other => panic!("response {other}"),
    };
    encode(&mut out, version, shape, &response);
    out
}
