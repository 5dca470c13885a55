//! The preface and request frames of the binary protocol, as a server reads them.
#![no_main]

use kvorum_fuzz::{LIMITS, bounded, check_beginnings, decoder_bytes, put_checksums};
use kvorum_protocol::binary::{decode_preface, decode_request, encode_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    bounded(decoder_bytes(input), || {
        check_preface(input);
        check_stream(input);
        let mut sound = input.to_vec();
        put_checksums(&mut sound);
        check_stream(&sound);
    });
});

fn check_preface(input: &[u8]) {
    let decode = |length| decode_preface(&input[..length]).transpose();
    let full = decode(input.len());
    let taken = full.and_then(Result::ok);
    check_beginnings(input, &full, taken, decode);
}

fn check_stream(mut rest: &[u8]) {
    loop {
        let decode = |length| decode_request(&rest[..length], &LIMITS).transpose();
        let full = decode(rest.len());
        let taken = match &full {
            Some(Ok((_, taken))) => Some(*taken),
            Some(Err(_)) | None => None,
        };
        check_beginnings(rest, &full, taken, decode);
        let Some(Ok((frame, length))) = full else { return };
        assert!(length <= rest.len());
        if let Ok(request) = &frame.request {
            let mut again = Vec::new();
            encode_request(&mut again, &frame.head, request);
            assert_eq!(decode_request(&again, &LIMITS), Ok(Some((frame, again.len()))));
        }
        rest = &rest[length..];
    }
}
