//! Bytes that are no requests, and lengths that lie.

use kvorum_protocol::ErrorCode;
use kvorum_protocol::binary::{CONNECTION_ID, PREFACE};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::support::resources::resident_bytes;
use crate::support::server::Server;
use crate::{MIB, SLACK_BYTES, assert_serves, farewell, get, set, wait_for_clients};

#[test]
fn garbage_crashes_nothing_and_disturbs_nobody() {
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask("SET k v"), "OK");
    let before = resident_bytes(server.pid());
    let mut rng = StdRng::seed_from_u64(2);
    let starts: [&[u8]; 8] =
        [b"", &PREFACE, b"*", b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$", b"SET x ", b"\xff", b"\0", b"\n"];
    for round in 0..400 {
        let mut bytes = starts[round % starts.len()].to_vec();
        let mut garbage = vec![0; rng.random_range(0..8192)];
        rng.fill_bytes(&mut garbage);
        if round % 3 == 0 {
            garbage
                .iter_mut()
                .for_each(|byte| *byte = b"\r\n*$ 0159GETSx3"[usize::from(*byte) % 15]);
        }
        bytes.extend(garbage);
        let mut bad = server.raw();
        bad.send_if_possible(&bytes);
        bad.finish();
        bad.rest();
        assert_eq!(good.ask("PING"), "PONG");
    }
    assert!(resident_bytes(server.pid()) < before + SLACK_BYTES);
    wait_for_clients(&server, 1);
}

#[test]
fn http_is_closed_at_once_in_text_and_in_resp() {
    let server = Server::start(&[]);
    for start in ["", "PING\r\n", "*1\r\n$4\r\nPING\r\n"] {
        for line in ["POST / HTTP/1.1\r\n", "Host: kvorum\r\n", "pOsT /\n", "hOST:\n"] {
            let mut browser = server.raw();
            browser.send_if_possible(format!("{start}{line}SET k v\r\n").as_bytes());
            let reply = String::from_utf8(browser.rest()).expect("words");
            assert!(["", "PONG\n", "+PONG\r\n"].contains(&reply.as_str()), "{reply}");
        }
    }
    assert_eq!(server.text().ask("GET k"), "NOT_FOUND");
    assert_serves(&server);
}

#[test]
fn tls_is_told_that_it_is_not_spoken() {
    let server = Server::start(&[]);
    // A ClientHello (RFC 8446, section 5.1): a handshake record of 512 bytes, without a line end,
    // from a client that waits for the answer.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(5 + 512, 7);
    let mut client = server.raw();
    client.send(&hello);
    let reply = client.line().expect("an answer");
    assert!(reply.starts_with("ERROR BAD_REQUEST ") && reply.contains("TLS"), "{reply}");
    assert_eq!(client.rest(), b"");
    assert_serves(&server);
}

#[test]
fn a_preface_is_answered_when_it_is_known_what_it_is() {
    let server = Server::start(&[]);
    let mut unfinished = server.raw();
    unfinished.send(&PREFACE[..5]);
    unfinished.finish();
    assert_eq!(unfinished.rest(), b"");

    let mut later = PREFACE;
    later[6] = 9;
    for wrong in [later, *b"\x89KVORM\x01\r"] {
        let mut client = server.raw();
        client.send(&wrong);
        assert_eq!(client.rest(), PREFACE, "{}", wrong.escape_ascii());
    }
    assert_serves(&server);
}

#[test]
fn a_damaged_frame_ends_the_connection_behind_the_replies_before_it() {
    let server = Server::start(&[]);
    let good = [PREFACE.to_vec(), set(1, "k", b"v"), get(2, "k")].concat();
    let damaged = {
        let mut frame = set(3, "k", b"w");
        let last = frame.len() - 5;
        frame[last] ^= 1;
        frame
    };
    let reserved = {
        let mut frame = get(4, "k");
        frame[4..8].copy_from_slice(&CONNECTION_ID.to_le_bytes());
        let end = frame.len() - 4;
        let crc = crc32fast::hash(&frame[..end]);
        frame[end..].copy_from_slice(&crc.to_le_bytes());
        frame
    };
    let cases = [
        (damaged, ErrorCode::BadRequest),
        (reserved, ErrorCode::BadRequest),
        (u32::MAX.to_le_bytes().to_vec(), ErrorCode::TooLarge),
        (3_u32.to_le_bytes().to_vec(), ErrorCode::BadRequest),
    ];
    for (bad, code) in cases {
        let mut client = server.raw();
        client.send_if_possible(&[good.clone(), bad, get(5, "k")].concat());
        let (mut answered, farewell) = farewell(&mut client);
        answered.sort_unstable();
        assert_eq!((answered, farewell), (vec![1, 2], Some(code)));
    }
    assert_eq!(server.text().ask("GET k"), "VALUE v");
}

#[test]
fn lengths_over_the_limit_are_refused_before_anything_comes() {
    let server = Server::start(&[]);
    for (claim, refusal) in [
        ("*131074\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*99999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n$8388609\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
    ] {
        let mut client = server.raw();
        client.send(claim.as_bytes());
        assert_eq!(String::from_utf8(client.rest()).expect("words"), refusal, "{claim}");
    }
    assert_serves(&server);
}

/// Memory follows what has arrived, not what is claimed.
#[test]
fn claims_within_the_limits_take_no_memory() {
    let server = Server::start(&[]);
    let large = u32::try_from(8 * MIB).expect("it fits").to_le_bytes();
    let before = resident_bytes(server.pid());
    let mut liars = Vec::new();
    for _ in 0..100 {
        for claim in [
            [&PREFACE[..], &large].concat(),
            b"*131073\r\n$4\r\nMSET\r\n".to_vec(),
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\nstart".to_vec(),
            b"SET k start".to_vec(),
        ] {
            let mut liar = server.raw();
            liar.send(&claim);
            liars.push(liar);
        }
    }
    assert_serves(&server);
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < SLACK_BYTES, "{} KiB a liar", grown / liars.len() / 1024);
}
