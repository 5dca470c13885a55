//! Requests as bytes. All requests of one kind have the same length and differ only in a few
//! digits, the id and the checksum, so that each is a copy of a template with these filled in.

use std::io::Write;

use kvorum_protocol::binary::{self, RequestHead};
use kvorum_protocol::{Command, Op, Quorum, Read, Request};

use super::Protocol;
use super::keys::KeyFormat;
use super::workload::Kind;

/// Encodes the requests of one run.
#[derive(Debug)]
pub(crate) struct Requests {
    keys: KeyFormat,
    /// By [`Kind`].
    templates: [Template; 3],
    /// The value of key 0. A value starts with the name of its key, where there is room, so that
    /// a reply that belongs to another request is noticed.
    value: Vec<u8>,
}

/// The request for key 0.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    key_at: usize,
    /// Where the name of the key stands again, at the start of the value.
    value_key_at: Option<usize>,
    /// Whether the bytes are a binary frame, with an id and a checksum.
    is_frame: bool,
}

const FRAME_ID_AT: usize = 4;
const FRAME_CRC_BYTES: usize = 4;

/// How long a WAIT may take; what replicas do not hold by then, they will not hold in time.
const WAIT_TIMEOUT_MS: u32 = 10_000;

impl Requests {
    /// Requests of `protocol` for the keys of this format with values of `value_bytes`. Reads of
    /// the binary protocol consult `read_quorum`, or what the server is configured to.
    pub(crate) fn new(
        protocol: Protocol,
        keys: KeyFormat,
        value_bytes: usize,
        read_quorum: Option<Quorum>,
    ) -> Requests {
        let value = value_of(keys.zero(), value_bytes);
        let templates = Kind::ALL.map(|kind| {
            let mut template = match protocol {
                Protocol::Binary => frame(kind, keys.zero(), &value, read_quorum),
                Protocol::Text => line(kind, keys.zero(), &value),
                Protocol::Resp => resp(kind, keys.zero(), &value),
            };
            if value_bytes < keys.zero().len() {
                template.value_key_at = None;
            }
            template
        });
        Requests { keys, templates, value }
    }

    /// The length of the longest request, in bytes.
    pub(crate) fn bytes_max(&self) -> usize {
        self.templates.iter().map(|template| template.bytes.len()).max().unwrap_or(0)
    }

    /// Appends one request. Only the binary protocol carries the id.
    #[inline]
    pub(crate) fn append(&self, out: &mut Vec<u8>, kind: Kind, key: u32, id: u32) {
        let template = &self.templates[kind as usize];
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let request = &mut out[start..];
        let key_bytes = self.keys.zero().len();
        self.keys.write(key, &mut request[template.key_at..][..key_bytes]);
        if let Some(at) = template.value_key_at {
            request.copy_within(template.key_at..template.key_at + key_bytes, at);
        }
        if template.is_frame {
            request[FRAME_ID_AT..][..4].copy_from_slice(&id.to_le_bytes());
            let (covered, crc) = request
                .split_last_chunk_mut::<FRAME_CRC_BYTES>()
                .expect("every frame has a checksum");
            *crc = crc32fast::hash(covered).to_le_bytes();
        }
    }

    /// Appends the RESP command that is answered when so many replicas hold all that was written.
    pub(crate) fn append_wait(out: &mut Vec<u8>, replicas: u8) {
        out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n");
        for number in [u32::from(replicas), WAIT_TIMEOUT_MS] {
            let digits = number.to_string();
            write!(out, "${}\r\n{digits}\r\n", digits.len()).expect("a Vec takes everything");
        }
    }

    /// Whether `value` is what a SET of this key by these requests stores.
    pub(crate) fn is_value_of(&self, key: u32, value: &[u8]) -> bool {
        let key_bytes = self.keys.zero().len();
        if value.len() != self.value.len() {
            return false;
        }
        if value.len() < key_bytes {
            return value == self.value;
        }
        let (name, filler) = value.split_at(key_bytes);
        let mut expected = self.keys.zero().to_vec();
        self.keys.write(key, &mut expected);
        name == expected && filler == &self.value[key_bytes..]
    }
}

/// A value for the key with this name. Printable and without spaces, so that it is the same in
/// every protocol.
fn value_of(key: &[u8], value_bytes: usize) -> Vec<u8> {
    let mut value: Vec<u8> = (b'a'..=b'z').cycle().take(value_bytes).collect();
    if let Some(start) = value.get_mut(..key.len()) {
        start.copy_from_slice(key);
    }
    value
}

fn frame(kind: Kind, key: &[u8], value: &[u8], read_quorum: Option<Quorum>) -> Template {
    let request = match kind {
        Kind::Get => Request::Read(Read::Get(key)),
        Kind::Set => Request::Write(Command::new(Op::Set { key, value })),
        Kind::Delete => Request::Write(Command::new(Op::Delete { key })),
    };
    let mut bytes = Vec::new();
    let level = read_quorum.filter(|_| kind == Kind::Get);
    binary::encode_request(&mut bytes, &RequestHead { level, ..RequestHead::default() }, &request);
    // A frame ends with the key, the value if there is one, and the checksum.
    let value_at = bytes.len() - FRAME_CRC_BYTES - if kind == Kind::Set { value.len() } else { 0 };
    Template {
        bytes,
        key_at: value_at - key.len(),
        value_key_at: (kind == Kind::Set).then_some(value_at),
        is_frame: true,
    }
}

fn line(kind: Kind, key: &[u8], value: &[u8]) -> Template {
    let verb: &[u8] = match kind {
        Kind::Get => b"GET ",
        Kind::Set => b"SET ",
        Kind::Delete => b"DELETE ",
    };
    let mut bytes = [verb, key].concat();
    let mut value_key_at = None;
    if kind == Kind::Set {
        bytes.push(b' ');
        value_key_at = Some(bytes.len());
        bytes.extend_from_slice(value);
    }
    bytes.push(b'\n');
    Template { bytes, key_at: verb.len(), value_key_at, is_frame: false }
}

fn resp(kind: Kind, key: &[u8], value: &[u8]) -> Template {
    let verb = match kind {
        Kind::Get => "*2\r\n$3\r\nGET\r\n",
        Kind::Set => "*3\r\n$3\r\nSET\r\n",
        Kind::Delete => "*2\r\n$3\r\nDEL\r\n",
    };
    let mut bytes = format!("{verb}${}\r\n", key.len()).into_bytes();
    let key_at = bytes.len();
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(b"\r\n");
    let mut value_key_at = None;
    if kind == Kind::Set {
        bytes.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
        value_key_at = Some(bytes.len());
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    Template { bytes, key_at, value_key_at, is_frame: false }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::Limits;

    use super::*;

    fn requests(protocol: Protocol, key_bytes: usize, value_bytes: usize) -> Requests {
        Requests::new(protocol, KeyFormat::new(key_bytes, 1000).unwrap(), value_bytes, None)
    }

    fn encoded(requests: &Requests, kind: Kind, key: u32, id: u32) -> Vec<u8> {
        let mut out = b"before".to_vec();
        requests.append(&mut out, kind, key, id);
        out.split_off(6)
    }

    #[test]
    fn frames_are_those_that_the_decoder_reads() {
        let requests = requests(Protocol::Binary, 8, 12);
        for (kind, expected) in [
            (Kind::Get, Request::Read(Read::Get(b"key:0042"))),
            (
                Kind::Set,
                Request::Write(Command::new(Op::Set { key: b"key:0042", value: b"key:0042ijkl" })),
            ),
            (Kind::Delete, Request::Write(Command::new(Op::Delete { key: b"key:0042" }))),
        ] {
            let bytes = encoded(&requests, kind, 42, 0xdead_beef);
            let (frame, length) =
                binary::decode_request(&bytes, &Limits::default()).unwrap().unwrap();
            assert_eq!(length, bytes.len());
            assert_eq!(frame.head, RequestHead { id: 0xdead_beef, ..RequestHead::default() });
            assert_eq!(frame.request, Ok(expected));
        }
    }

    #[test]
    fn lines_and_resp_commands_are_spelled_out() {
        let text = requests(Protocol::Text, 8, 10);
        assert_eq!(encoded(&text, Kind::Get, 7, 0), b"GET key:0007\n");
        assert_eq!(encoded(&text, Kind::Set, 7, 0), b"SET key:0007 key:0007ij\n");
        assert_eq!(encoded(&text, Kind::Delete, 7, 0), b"DELETE key:0007\n");
        let resp = requests(Protocol::Resp, 8, 10);
        assert_eq!(encoded(&resp, Kind::Get, 999, 0), b"*2\r\n$3\r\nGET\r\n$8\r\nkey:0999\r\n");
        assert_eq!(
            encoded(&resp, Kind::Set, 999, 0),
            b"*3\r\n$3\r\nSET\r\n$8\r\nkey:0999\r\n$10\r\nkey:0999ij\r\n"
        );
        assert_eq!(encoded(&resp, Kind::Delete, 999, 0), b"*2\r\n$3\r\nDEL\r\n$8\r\nkey:0999\r\n");
        let mut wait = Vec::new();
        Requests::append_wait(&mut wait, 12);
        assert_eq!(wait, b"*3\r\n$4\r\nWAIT\r\n$2\r\n12\r\n$5\r\n10000\r\n");
        assert_eq!(resp.bytes_max(), encoded(&resp, Kind::Set, 0, 0).len());
    }

    #[test]
    fn a_value_names_its_key_where_it_can() {
        let long = requests(Protocol::Text, 8, 12);
        assert!(long.is_value_of(5, b"key:0005ijkl"));
        assert!(!long.is_value_of(6, b"key:0005ijkl"));
        assert!(!long.is_value_of(5, b"key:0005ijk"));
        assert!(!long.is_value_of(5, b"key:0005ijkx"));
        let short = requests(Protocol::Text, 8, 3);
        assert_eq!(encoded(&short, Kind::Set, 5, 0), b"SET key:0005 abc\n");
        assert!(short.is_value_of(5, b"abc"));
        assert!(!short.is_value_of(5, b"abd"));
    }
}
