//! Lines of the text protocol, and the replies to them.
#![no_main]

use kvorum_fuzz::{LIMITS, bounded, check_beginnings, choice, decoder_bytes};
use kvorum_protocol::text::{self, Acknowledgement, Line};
use kvorum_protocol::{ErrorCode, LogIndex, Request, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bounded(decoder_bytes(input), || {
    let (scanned, mut rest) = choice(input);
    check_value(rest);
    loop {
        let decode = |length| text::parse(&rest[..length], 0, &LIMITS).transpose();
        let full = decode(rest.len());
        let taken = match &full {
            Some(Ok((_, taken))) => Some(*taken),
            Some(Err(_)) | None => None,
        };
        check_beginnings(rest, &full, taken, decode);
        // What was seen before to hold no line end need not be searched again.
        let scanned = usize::from(scanned).min(rest.len());
        if decode(scanned).is_none() {
            assert_eq!(text::parse(rest, scanned, &LIMITS).transpose(), full);
        }
        match full {
            Some(Ok((line, length))) => {
                answer(&line);
                rest = &rest[length..];
            }
            Some(Err(error)) => {
                let mut reply = Vec::new();
                text::encode_stream_error(&mut reply, &error);
                assert!(reply.is_empty() || is_one_line(&reply));
                return;
            }
            None => return,
        }
    }
}));

fn answer(line: &Result<Line<'_>, text::LineError<'_>>) {
    let mut reply = Vec::new();
    match line {
        Ok(Line::Quit) => return,
        Ok(Line::Help) => text::encode_help(&mut reply),
        Ok(Line::Request(request)) => {
            let response = match request {
                Request::Write(_) => Response::Written { version: LogIndex(1) },
                _ => Response::Ok,
            };
            text::encode(&mut reply, Acknowledgement::of(request), &response);
        }
        Err(error) => text::encode_line_error(&mut reply, error),
    }
    assert!(is_one_line(&reply), "{}", reply.escape_ascii());
}

/// Any value is printed as one line, from which it comes back.
fn check_value(value: &[u8]) {
    let mut reply = Vec::new();
    let response = Response::Value { version: LogIndex(1), value };
    text::encode(&mut reply, Acknowledgement::Ok, &response);
    assert!(is_one_line(&reply), "{}", reply.escape_ascii());
    let line = &reply[..reply.len() - 1];
    match line.strip_prefix(b"VALUE ") {
        Some(plain) => assert_eq!(plain, value),
        None => assert_eq!(unescape(line.strip_prefix(b"VALUE_ESCAPED ").unwrap()), value),
    }
    let message = String::from_utf8_lossy(value);
    let response = Response::Error { code: ErrorCode::Busy, message: &message };
    reply.clear();
    text::encode(&mut reply, Acknowledgement::Ok, &response);
    assert!(is_one_line(&reply), "{}", reply.escape_ascii());
}

fn is_one_line(reply: &[u8]) -> bool {
    reply.iter().position(|byte| matches!(byte, b'\n' | b'\r')) == Some(reply.len() - 1)
}

fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut value = Vec::new();
    let mut rest = escaped;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'\\' {
            value.push(*byte);
            continue;
        }
        let (kind, behind) = rest.split_first().expect("an escape is whole");
        rest = behind;
        value.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b'\\' => b'\\',
            b'x' => {
                let (digits, behind) = rest.split_at(2);
                rest = behind;
                u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            other => panic!("\\{} is no escape", char::from(*other)),
        });
    }
    value
}
