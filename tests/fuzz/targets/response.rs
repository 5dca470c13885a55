//! Response frames of the binary protocol, as a client reads them from a server it can not trust.
#![no_main]

use kvorum_fuzz::{bounded, check_beginnings, decoder_bytes, put_checksums};
use kvorum_protocol::binary::{decode_response, encode_response};
use kvorum_protocol::{MembersLine, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    bounded(decoder_bytes(input), || {
        check_stream(input);
        let mut sound = input.to_vec();
        put_checksums(&mut sound);
        check_stream(&sound);
    });
});

fn check_stream(mut rest: &[u8]) {
    loop {
        let decode = |length| decode_response(&rest[..length]).transpose();
        let full = decode(rest.len());
        let taken = match &full {
            Some(Ok((_, taken))) => Some(*taken),
            Some(Err(_)) | None => None,
        };
        check_beginnings(rest, &full, taken, decode);
        let Some(Ok((frame, length))) = full else { return };
        assert!(length <= rest.len());
        if let Response::Values(values) = &frame.response {
            assert_eq!(values.iter().count(), values.len());
        }
        if let Response::Members(line) = &frame.response {
            check_members(line);
        }
        let mut again = Vec::new();
        encode_response(&mut again, frame.id, &frame.response);
        assert_eq!(decode_response(&again), Ok(Some((frame, again.len()))));
        rest = &rest[length..];
    }
}

/// What the line says survives being printed.
fn check_members(line: &str) {
    if let Ok(members) = MembersLine::parse(line) {
        assert_eq!(MembersLine::parse(&members.to_string()), Ok(members));
    }
}
