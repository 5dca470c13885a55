//! The golden files of `protocol/vectors`, in both directions, and the examples of SPEC.md.

#[path = "vectors/meaning.rs"]
mod meaning;

use std::collections::HashSet;

use kvorum_protocol::binary::{
    PREFACE, PrefaceError, decode_preface, decode_request, decode_response, encode_request,
    encode_response,
};
use kvorum_protocol::text::{self, Acknowledgement, Line, StreamError};
use kvorum_protocol::{Limits, Response};
use meaning::{Meaning, error_code, unquote};

const REQUEST: &str = include_str!("../vectors/request.txt");
const RESPONSE: &str = include_str!("../vectors/response.txt");
const REJECT: &str = include_str!("../vectors/reject.txt");
const TEXT: &str = include_str!("../vectors/text.txt");
const SPEC: &str = include_str!("../SPEC.md");

/// The blocks of a file: the line that says what is meant, and the bytes.
fn blocks(file: &str) -> Vec<(&str, Vec<u8>)> {
    let mut blocks: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in file.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("    ") {
            None => blocks.push((line, Vec::new())),
            Some(hex) => blocks.last_mut().expect("a meaning").1.extend(hex_bytes(hex)),
        }
    }
    assert!(blocks.iter().all(|(_, bytes)| !bytes.is_empty()), "a meaning without bytes");
    blocks
}

fn hex_bytes(line: &str) -> Vec<u8> {
    let hex = line.split(';').next().expect("split yields at least one part");
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The blocks that are frames, without the preface.
fn frames(file: &str) -> Vec<(&str, Vec<u8>)> {
    blocks(file).into_iter().filter(|(meaning, _)| !meaning.starts_with("preface")).collect()
}

/// `bytes` with each of its bits flipped in turn.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        (bit, bytes)
    })
}

#[test]
fn requests_read_and_write_as_the_vectors_say() {
    let limits = Limits::default();
    for (meaning, bytes) in frames(REQUEST) {
        let mut expected = Meaning::new(meaning);
        let head = expected.head();
        let request = expected.request();
        let (frame, consumed) = decode_request(&bytes, &limits).unwrap().expect(meaning);
        assert_eq!((frame.head, frame.request, consumed), (head, Ok(request), bytes.len()));
        let mut encoded = Vec::new();
        encode_request(&mut encoded, &head, &request);
        assert_eq!(encoded, bytes, "{meaning}");
    }
}

#[test]
fn responses_read_and_write_as_the_vectors_say() {
    for (meaning, bytes) in frames(RESPONSE) {
        let mut expected = Meaning::new(meaning);
        let id = expected.head().id;
        let response = expected.response();
        let (frame, consumed) = decode_response(&bytes).unwrap().expect(meaning);
        assert_eq!((frame.id, frame.response, consumed), (id, response, bytes.len()));
        let mut encoded = Vec::new();
        encode_response(&mut encoded, id, &response);
        assert_eq!(encoded, bytes, "{meaning}");
    }
}

#[test]
fn the_preface_is_the_vector() {
    let (_, bytes) = blocks(REQUEST).into_iter().find(|(name, _)| *name == "preface").unwrap();
    assert_eq!(bytes, PREFACE);
    assert_eq!(decode_preface(&bytes), Ok(Some(PREFACE.len())));
    for (bit, bytes) in flipped(&bytes) {
        assert!(decode_preface(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_needs_more() {
    let limits = Limits::default();
    for (meaning, bytes) in frames(REQUEST) {
        for length in 0..bytes.len() {
            assert_eq!(decode_request(&bytes[..length], &limits), Ok(None), "{meaning}: {length}");
        }
    }
    for (meaning, bytes) in frames(RESPONSE) {
        for length in 0..bytes.len() {
            assert_eq!(decode_response(&bytes[..length]), Ok(None), "{meaning}: {length}");
        }
    }
}

/// A flipped bit in the length may announce bytes that have not come. Once they have, the checksum
/// is wrong; everywhere else that is seen at once.
#[test]
fn no_flipped_bit_passes_for_a_frame() {
    let limits = Limits::default();
    let behind = [0x5a; 1 << 16];
    for (meaning, bytes) in frames(REQUEST) {
        for (bit, mut flipped) in flipped(&bytes) {
            let decoded = decode_request(&flipped, &limits);
            assert!(decoded.is_err() || bit < 32 && decoded == Ok(None), "{meaning}: bit {bit}");
            flipped.extend(behind);
            assert!(!matches!(decode_request(&flipped, &limits), Ok(Some(_))), "{meaning}: {bit}");
        }
    }
    for (meaning, bytes) in frames(RESPONSE) {
        for (bit, mut flipped) in flipped(&bytes) {
            let decoded = decode_response(&flipped);
            assert!(decoded.is_err() || bit < 32 && decoded == Ok(None), "{meaning}: bit {bit}");
            flipped.extend(behind);
            assert!(!matches!(decode_response(&flipped), Ok(Some(_))), "{meaning}: {bit}");
        }
    }
}

#[test]
fn what_must_be_refused_is_refused_as_the_vectors_say() {
    let limits = Limits::default();
    for (meaning, bytes) in blocks(REJECT) {
        let expected = Meaning::new(meaning);
        match expected.words()[..] {
            ["preface", "refused"] => {
                assert_eq!(decode_preface(&bytes), Err(PrefaceError::NotKvorum), "{meaning}");
            }
            ["preface", _] => {
                let version = expected.number("version").unwrap().try_into().unwrap();
                assert_eq!(decode_preface(&bytes), Err(PrefaceError::Version(version)));
            }
            ["request", "closes", code] => {
                let error = decode_request(&bytes, &limits).expect_err(meaning);
                assert_eq!(error.code(), error_code(code), "{meaning}: {error}");
            }
            ["request", _, code] => {
                let (frame, consumed) = decode_request(&bytes, &limits).unwrap().expect(meaning);
                let error = frame.request.expect_err(meaning);
                assert_eq!(error.code(), error_code(code), "{meaning}: {error}");
                assert_eq!((frame.head.id, consumed), (expected.head().id, bytes.len()));
            }
            ["response", "closes"] => {
                decode_response(&bytes).expect_err(meaning);
            }
            _ => panic!("no meaning: {meaning}"),
        }
    }
}

/// The `left => right` lines of one section of `text.txt`.
fn rules(section: &str) -> Vec<(&'static str, &'static str)> {
    let (_, text) = TEXT.split_once(section).expect("the section");
    let lines = text.lines().skip(1).take_while(|line| !line.starts_with('['));
    let rules = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    rules.map(|line| line.split_once(" => ").expect("a rule")).collect()
}

#[test]
fn lines_read_as_the_vectors_say() {
    let limits = Limits::default();
    for (line, meaning) in rules("[requests]") {
        let (line, behind) = unquote(line);
        assert_eq!(behind, "");
        let parsed = text::parse(&line, 0, &limits);
        let mut expected = Meaning::new(meaning);
        if expected.is_word("close") {
            assert_eq!(parsed, Err(StreamError::Http), "{meaning}");
            continue;
        }
        let (parsed, consumed) = parsed.unwrap().expect(meaning);
        assert_eq!(consumed, line.len(), "{meaning}");
        match expected.refusal() {
            Some(code) => {
                let error = parsed.expect_err(meaning);
                assert_eq!(error.code(), error_code(code), "{line:?}");
            }
            None if expected.is_word("HELP") => assert_eq!(parsed, Ok(Line::Help)),
            None if expected.is_word("QUIT") => assert_eq!(parsed, Ok(Line::Quit)),
            None => assert_eq!(parsed, Ok(Line::Request(expected.request())), "{line:?}"),
        }
        for length in 0..line.len() {
            let part = text::parse(&line[..length], 0, &limits);
            assert_eq!(part, Ok(None), "{:?}", &line[..length]);
        }
    }
}

#[test]
fn replies_write_as_the_vectors_say() {
    for (meaning, line) in rules("[replies]") {
        let (acknowledgement, meaning) = match meaning.strip_prefix("PING ") {
            Some(meaning) => (Acknowledgement::Pong, meaning),
            None => (Acknowledgement::Ok, meaning),
        };
        let mut expected = Meaning::new(meaning);
        let response: Response<'_> = expected.response();
        let mut out = Vec::new();
        text::encode(&mut out, acknowledgement, &response);
        let (line, _) = unquote(line);
        assert_eq!(out, line, "{meaning}");
    }
}

/// The fenced blocks of SPEC.md that are marked `hex`.
fn examples() -> Vec<Vec<u8>> {
    let mut examples = Vec::new();
    let mut lines = SPEC.lines();
    while lines.any(|line| line == "```hex") {
        let block = lines.by_ref().take_while(|line| *line != "```");
        examples.push(block.flat_map(hex_bytes).collect());
    }
    examples
}

#[test]
fn every_example_of_the_specification_is_a_vector() {
    let vectors: HashSet<_> =
        [REQUEST, RESPONSE, REJECT].into_iter().flat_map(blocks).map(|(_, bytes)| bytes).collect();
    let examples = examples();
    assert!(examples.len() >= 8, "only {} examples were found", examples.len());
    for example in examples {
        assert!(vectors.contains(&example), "this example is no vector: {example:02x?}");
    }
}
