//! The language in which the vector files say what bytes mean.

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{
    Command, ErrorCode, KeyList, Limits, LogIndex, NodeId, Op, PairList, Quorum, Read, Request,
    Response, SessionSequence, SnapshotRead, ValueList, ValueListBuilder,
};

/// One word of a meaning.
#[derive(Debug)]
enum Token {
    Word(String),
    /// `"quoted"`
    Bytes(Vec<u8>),
    /// `version:"quoted"`
    Versioned(u64, Vec<u8>),
}

/// A meaning, split into words. Lists are encoded into `scratch`.
#[derive(Debug)]
pub struct Meaning {
    tokens: Vec<Token>,
    scratch: Vec<u8>,
}

impl Meaning {
    pub fn new(text: &str) -> Meaning {
        let mut tokens = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest.find([' ', '"']).unwrap_or(rest.len());
            let word = &rest[..end];
            if rest[end..].starts_with('"') {
                let (bytes, behind) = unquote(&rest[end..]);
                tokens.push(match word.strip_suffix(':') {
                    Some(version) => Token::Versioned(version.parse().unwrap(), bytes),
                    None => Token::Bytes(bytes),
                });
                rest = behind;
            } else {
                tokens.push(Token::Word(word.to_owned()));
                rest = &rest[end..];
            }
            rest = rest.trim_start();
        }
        Meaning { tokens, scratch: Vec::new() }
    }

    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.tokens[..], [Token::Word(only)] if only == word)
    }

    /// The words, for meanings that have no quoted strings.
    pub fn words(&self) -> Vec<&str> {
        self.tokens.iter().map(word).collect()
    }

    /// The code of `error CODE`.
    pub fn refusal(&self) -> Option<&str> {
        match &self.tokens[..] {
            [Token::Word(error), Token::Word(code)] if error == "error" => Some(code),
            _ => None,
        }
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.tokens.iter().find_map(|token| match token {
            Token::Word(word) => word.strip_prefix(name)?.strip_prefix('='),
            _ => None,
        })
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.option(name).map(|text| text.parse().unwrap())
    }

    fn level(&self, name: &str) -> Option<Quorum> {
        self.option(name).filter(|text| *text != "default").map(|text| text.parse().unwrap())
    }

    pub fn head(&self) -> RequestHead {
        RequestHead {
            id: self.number("id").unwrap_or(0).try_into().unwrap(),
            level: self.level("level"),
            timeout_ms: self.number("timeout_ms").unwrap_or(0).try_into().unwrap(),
            min_version: LogIndex(self.number("min_version").unwrap_or(0)),
        }
    }

    pub fn request(&mut self) -> Request<'_> {
        let session = self.number("session").map(|session| SessionSequence {
            session,
            sequence: self.number("sequence").expect("a session has a sequence"),
        });
        let (write, read) = (self.level("w"), self.level("r"));
        let window = self.number("window").map(|window| window.try_into().unwrap());
        let to = self.number("to").map(|id| NodeId(id.try_into().unwrap()));
        let base = self.number("base").map(LogIndex);
        let number = |name| self.number(name).unwrap_or(0);
        let part = SnapshotRead {
            index: LogIndex(number("index")),
            offset: number("offset"),
            bytes_max: number("bytes_max").try_into().unwrap(),
        };
        let Meaning { tokens, scratch } = self;
        let (verb, arguments) = verb_and_arguments(tokens);
        let keys: Vec<&[u8]> = arguments.iter().filter_map(bytes).collect();
        let write_of = |op| Request::Write(Command { session, op });
        match (verb, &keys[..]) {
            ("PING", []) => Request::Ping,
            ("STATUS", []) => Request::Status,
            ("MEMBERS", []) => Request::Members,
            ("SNAPSHOT", []) => Request::Snapshot,
            ("SNAPSHOT_READ", []) => Request::SnapshotRead(part),
            ("WHO_IS_LEADER", []) => Request::WhoIsLeader,
            ("CHANGE_MEMBERS", [change]) => Request::ChangeMembers { change: utf8(change), base },
            ("TRANSFER", []) => Request::Transfer { to },
            ("QUORUM", []) => Request::Quorum { write, read },
            ("GET", [key]) => Request::Read(Read::Get(key)),
            ("LENGTH", [key]) => Request::Read(Read::Length(key)),
            ("DELETE", [key]) => write_of(Op::Delete { key }),
            ("SET", [key, value]) => write_of(Op::Set { key, value }),
            ("OPEN_SESSION", []) => write_of(Op::OpenSession { window: window.expect("a window") }),
            ("SET_MANY", _) => write_of(Op::SetMany(pair_list(&keys, scratch))),
            ("DELETE_MANY", _) => write_of(Op::DeleteMany(key_list(&keys, scratch))),
            ("GET_MANY", _) => Request::Read(Read::GetMany(key_list(&keys, scratch))),
            ("EXISTS", _) => Request::Read(Read::Exists(key_list(&keys, scratch))),
            _ => panic!("no request: {verb} with {} strings", keys.len()),
        }
    }

    pub fn response(&mut self) -> Response<'_> {
        let version = LogIndex(self.number("version").unwrap_or(0));
        let count = self.number("count").map(|count| count.try_into().unwrap());
        let total = self.number("total").unwrap_or(0);
        let Meaning { tokens, scratch } = self;
        let (name, arguments) = verb_and_arguments(tokens);
        match (name, arguments) {
            ("Ok", []) => Response::Ok,
            ("NotFound", []) => Response::NotFound,
            ("Written", _) => Response::Written { version },
            ("Deleted", _) => Response::Deleted { version, count: count.expect("a count") },
            ("Value", [.., Token::Bytes(value)]) => Response::Value { version, value },
            ("Values", values) => Response::Values(value_list(values, scratch)),
            ("Number", [Token::Word(number)]) => Response::Number(number.parse().unwrap()),
            ("Leader", [Token::Bytes(leader)]) => Response::Leader(Some(utf8(leader))),
            ("Leader", [Token::Word(none)]) if none == "none" => Response::Leader(None),
            ("Status", [Token::Bytes(line)]) => Response::Status(utf8(line)),
            ("Members", [Token::Bytes(line)]) => Response::Members(utf8(line)),
            ("SnapshotPart", [Token::Bytes(bytes)]) => {
                Response::SnapshotPart { index: version, total_bytes: total, bytes }
            }
            ("NotLeader", [Token::Bytes(leader)]) => Response::NotLeader { leader: utf8(leader) },
            ("Error", [Token::Word(code), Token::Bytes(message)]) => {
                Response::Error { code: error_code(code), message: utf8(message) }
            }
            _ => panic!("no response: {name} {arguments:?}"),
        }
    }
}

/// The error code with this word.
pub fn error_code(word: &str) -> ErrorCode {
    ErrorCode::ALL.into_iter().find(|code| code.word() == word).expect("an error code")
}

/// The bytes of the quoted string that `text` begins with, and what stands behind it.
pub fn unquote(text: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut rest = text.strip_prefix('"').expect("a quoted string").chars();
    loop {
        match rest.next().expect("a closing quote") {
            '"' => return (bytes, rest.as_str()),
            '\\' => bytes.push(match rest.next().expect("an escape") {
                'n' => b'\n',
                'r' => b'\r',
                'x' => {
                    let (digits, behind) = rest.as_str().split_at(2);
                    rest = behind.chars();
                    u8::from_str_radix(digits, 16).expect("two hex digits")
                }
                itself => u8::try_from(itself).expect("ASCII"),
            }),
            plain => bytes.push(u8::try_from(plain).expect("ASCII")),
        }
    }
}

/// Options (`name=value`) come before the verb, arguments behind it.
fn verb_and_arguments(tokens: &[Token]) -> (&str, &[Token]) {
    let at = tokens.iter().position(|token| !word(token).contains('=')).expect("a verb");
    (word(&tokens[at]), &tokens[at + 1..])
}

fn word(token: &Token) -> &str {
    match token {
        Token::Word(word) => word,
        Token::Bytes(_) | Token::Versioned(..) => panic!("{token:?} stands where a word belongs"),
    }
}

fn bytes(token: &Token) -> Option<&[u8]> {
    match token {
        Token::Bytes(bytes) => Some(bytes),
        Token::Word(_) | Token::Versioned(..) => None,
    }
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn key_list<'a>(keys: &[&[u8]], scratch: &'a mut Vec<u8>) -> KeyList<'a> {
    KeyList::encode(keys.iter().copied(), &Limits::default(), scratch).unwrap()
}

fn pair_list<'a>(strings: &[&[u8]], scratch: &'a mut Vec<u8>) -> PairList<'a> {
    let (pairs, odd) = strings.as_chunks::<2>();
    assert!(odd.is_empty(), "a key without a value");
    let pairs = pairs.iter().map(|[key, value]| (*key, *value));
    PairList::encode(pairs, &Limits::default(), scratch).unwrap()
}

fn value_list<'a>(values: &[Token], scratch: &'a mut Vec<u8>) -> ValueList<'a> {
    let mut builder = ValueListBuilder::new(values.len().try_into().unwrap(), scratch);
    for value in values {
        let found = match value {
            Token::Versioned(version, value) => Some((LogIndex(*version), &value[..])),
            Token::Word(word) if word == "absent" => None,
            other => panic!("no value: {other:?}"),
        };
        builder.push(found).unwrap();
    }
    ValueList::decode(scratch).unwrap()
}
