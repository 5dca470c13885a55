//! The text protocol as CONTRACT.md has it, row by row, from outside the process.

mod support;

use support::client::{Raw, Text};
use support::server::Server;

const MIB: usize = 1 << 20;

#[track_caller]
fn expect(client: &mut Text, request: &str, reply: &str) {
    assert_eq!(client.ask(request), reply, "for {request:?}");
}

#[track_caller]
fn expect_error(client: &mut Text, request: &str, code: &str) {
    let reply = client.ask(request);
    let words = reply.strip_prefix(&format!("ERROR {code} "));
    assert!(words.is_some_and(|words| !words.is_empty()), "{request:?} -> {reply:?}");
}

#[test]
fn get_set_delete() {
    let server = Server::start(&[]);
    let mut client = server.text();
    expect(&mut client, "GET a", "NOT_FOUND");
    expect(&mut client, "SET a 1", "OK");
    expect(&mut client, "GET a", "VALUE 1");
    expect(&mut client, "SET a 2", "OK");
    expect(&mut client, "GET a", "VALUE 2");
    expect(&mut client, "DELETE a", "OK");
    expect(&mut client, "DELETE a", "NOT_FOUND");
    expect(&mut client, "GET a", "NOT_FOUND");
}

#[test]
fn a_value_is_the_rest_of_the_line_byte_for_byte() {
    let server = Server::start(&[]);
    let mut client = server.text();
    for value in ["two words", " leading", "trailing ", "  ", "", "VALUE x", "grün ☃", "a\tb"] {
        expect(&mut client, &format!("SET k {value}"), "OK");
        expect(&mut client, "GET k", &format!("VALUE {value}"));
    }
    client.raw().send(b"SET k \xff\x00\xfe\n");
    assert_eq!(client.reply(), "OK");
    client.raw().send(b"GET k\n");
    assert_eq!(client.raw().line_bytes().unwrap(), b"VALUE \xff\x00\xfe");
}

#[test]
fn a_value_with_a_line_break_is_escaped() {
    use kvorum_protocol::{Command, Op, Request};
    let server = Server::start(&[]);
    let mut binary = server.binary();
    let value = b"a\nb\r\\c\x00\xff";
    let set = Request::Write(Command::new(Op::Set { key: b"k", value }));
    binary.call(Default::default(), &set, support::deadline()).unwrap();
    expect(&mut server.text(), "GET k", r"VALUE_ESCAPED a\nb\r\\c\x00\xff");
}

#[test]
fn lines_end_with_or_without_a_carriage_return_and_verbs_have_any_case() {
    let server = Server::start(&[]);
    let mut client = server.text();
    expect(&mut client, "set K Value\r", "OK");
    expect(&mut client, "gEt K\r", "VALUE Value");
    expect(&mut client, "Get K", "VALUE Value");
    expect(&mut client, "GET k", "NOT_FOUND");
    expect(&mut client, "delete K", "OK");
}

#[test]
fn ping_help_leader_and_status() {
    let server = Server::start(&["--id", "7"]);
    let mut client = server.text();
    expect(&mut client, "PING", "PONG");
    expect(&mut client, "WHO_IS_LEADER", &format!("LEADER {}", server.address()));
    let members = format!("MEMBERS id=7 leader=7 member=7={}/ index=1 cluster=", server.address());
    let line = client.ask("MEMBERS");
    assert!(line.starts_with(&members), "{line}");
    let help = client.ask("HELP");
    for verb in ["GET", "SET", "DELETE", "WHO_IS_LEADER", "QUORUM", "PING", "STATUS", "MEMBERS"] {
        assert!(help.contains(verb), "{help}");
    }
    for n in 0..3 {
        expect(&mut client, &format!("SET key{n} x"), "OK");
    }
    let status = client.ask("STATUS");
    let names: Vec<&str> =
        status.split(' ').skip(1).map(|pair| pair.split_once('=').unwrap().0).collect();
    let expected = ["id", "role", "term", "leader", "commit", "applied", "last", "durable", "keys"];
    assert!(status.starts_with("STATUS ") && names.starts_with(&expected), "{status}");
    for pair in ["id=7", "role=leader", "leader=7", "keys=3", "voters=7", "learners="] {
        assert!(status.split(' ').any(|this| this == pair), "no {pair} in {status}");
    }
    assert_eq!(server.status_number("commit"), server.status_number("last"));
    assert_eq!(server.status_number("durable"), server.status_number("last"));
    assert_eq!(server.status_number("applied"), server.status_number("last"));
}

#[test]
fn quorum_is_set_for_this_connection_only() {
    let server = Server::start(&["--quorum-timeout-ms", "100"]);
    let mut client = server.text();
    for line in ["QUORUM w=1 r=1", "QUORUM w=majority", "QUORUM r=majority", "quorum w=all"] {
        expect(&mut client, line, "OK");
    }
    expect(&mut client, "SET k v", "OK");
    for line in
        ["QUORUM", "QUORUM w=0", "QUORUM w=x", "QUORUM r=all", "QUORUM w=1 w=1", "QUORUM q=1"]
    {
        expect_error(&mut client, line, "BAD_REQUEST");
    }
    // One voter can not be two.
    for line in ["QUORUM w=2", "QUORUM r=2", "QUORUM w=1 r=63"] {
        expect_error(&mut client, line, "BAD_REQUEST");
    }
    expect(&mut client, "SET k again", "OK");
    expect(&mut server.text(), "SET k again", "OK");
}

#[test]
fn nobody_can_take_the_office_of_a_node_that_is_alone() {
    let server = Server::start(&[]);
    let mut client = server.text();
    for line in ["TRANSFER", "TRANSFER 2", "TRANSFER 0", "TRANSFER x"] {
        expect_error(&mut client, line, "BAD_REQUEST");
    }
    expect(&mut client, "WHO_IS_LEADER", &format!("LEADER {}", server.address()));
}

#[test]
fn what_promises_less_is_named() {
    let mut server = Server::start(&[]);
    assert_eq!(server.status("relaxed"), "");
    server.terminate();
    let mut server = Server::start_in(server.data(), &["--fsync", "never"]);
    assert_eq!(server.status("relaxed"), "fsync");
    assert_eq!(server.status("fsync"), "never");
    let exit = server.terminate();
    assert!(exit.stderr.contains("relaxed: fsync=never"), "{}", exit.stderr);
}

#[test]
fn quit_closes_after_the_replies_before_it() {
    let server = Server::start(&[]);
    let mut client = server.raw();
    client.send(b"SET a 1\nGET a\nQUIT\nGET a\n");
    assert_eq!(client.line().as_deref(), Some("OK"));
    assert_eq!(client.line().as_deref(), Some("VALUE 1"));
    assert_eq!(client.line(), None);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.raw();
    let mut input = String::new();
    for n in 0..2000 {
        input += &format!("SET k{} {n}\nGET k{}\nDELETE none\nWRONG\n", n % 7, n % 7);
    }
    client.send(input.as_bytes());
    for n in 0..2000 {
        assert_eq!(client.line().unwrap(), "OK");
        assert_eq!(client.line().unwrap(), format!("VALUE {n}"));
        assert_eq!(client.line().unwrap(), "NOT_FOUND");
        assert!(client.line().unwrap().starts_with("ERROR UNKNOWN_COMMAND "));
    }
}

#[test]
fn wrong_lines_are_answered_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let mut client = server.text();
    for (line, code) in [
        ("FOO", "UNKNOWN_COMMAND"),
        ("GETS k", "UNKNOWN_COMMAND"),
        ("\u{7f}\u{1}", "UNKNOWN_COMMAND"),
        ("", "BAD_REQUEST"),
        ("GET", "BAD_REQUEST"),
        ("GET ", "BAD_REQUEST"),
        ("GET a b", "BAD_REQUEST"),
        ("SET", "BAD_REQUEST"),
        ("SET k", "BAD_REQUEST"),
        ("SET  v", "BAD_REQUEST"),
        ("DELETE", "BAD_REQUEST"),
        ("DELETE a b", "BAD_REQUEST"),
        ("PING x", "BAD_REQUEST"),
        ("STATUS x", "BAD_REQUEST"),
    ] {
        expect_error(&mut client, line, code);
        expect(&mut client, "PING", "PONG");
    }
}

#[test]
fn what_is_over_a_limit_is_refused() {
    let server = Server::start(&["--key-bytes-max", "10", "--value-bytes-max", "20"]);
    let mut client = server.text();
    expect(&mut client, &format!("SET {} {}", "k".repeat(10), "v".repeat(20)), "OK");
    expect_error(&mut client, &format!("SET {} v", "k".repeat(11)), "TOO_LARGE");
    expect_error(&mut client, &format!("SET k {}", "v".repeat(21)), "TOO_LARGE");
    expect_error(&mut client, &format!("GET {}", "k".repeat(11)), "TOO_LARGE");
    expect_error(&mut client, &format!("DELETE {}", "k".repeat(11)), "TOO_LARGE");
    expect(&mut client, "PING", "PONG");
}

#[test]
fn the_largest_key_and_value_are_kept() {
    let server = Server::start(&[]);
    let mut client = server.text();
    let (key, value) = ("k".repeat(65_535), "v".repeat(8 * MIB));
    expect(&mut client, &format!("SET {key} {value}"), "OK");
    let reply = client.ask(&format!("GET {key}"));
    assert!(reply.strip_prefix("VALUE ") == Some(&value), "{} bytes came back", reply.len());
}

#[test]
fn a_line_without_end_closes_only_its_connection() {
    let server = Server::start(&["--value-bytes-max", "1mb"]);
    let mut client = server.raw();
    client.send_if_possible(&vec![b'x'; 3 * MIB]);
    let rest = client.rest();
    // The reply may be lost to the reset that answers the bytes behind it.
    assert!(rest.is_empty() || rest.starts_with(b"ERROR TOO_LARGE "), "{rest:?}");
    expect(&mut server.text(), "PING", "PONG");
}

#[test]
fn half_a_line_is_no_request() {
    let server = Server::start(&[]);
    let mut client = server.raw();
    client.send(b"SET whole 1\nSET half 1");
    assert_eq!(client.line().as_deref(), Some("OK"));
    client.finish();
    assert_eq!(client.rest(), b"");
    let mut other = server.text();
    expect(&mut other, "GET whole", "VALUE 1");
    expect(&mut other, "GET half", "NOT_FOUND");
}

#[test]
fn a_client_that_stops_sending_still_gets_its_replies() {
    let server = Server::start(&[]);
    let mut client = server.raw();
    client.send(b"SET a 1\nGET a\n");
    client.finish();
    assert_eq!(client.rest(), b"OK\nVALUE 1\n");
}

#[test]
fn requests_may_come_byte_by_byte() {
    let server = Server::start(&[]);
    let mut client = server.raw();
    for byte in b"SET slow and steady\r\nGET slow\r\n" {
        client.send(&[*byte]);
    }
    assert_eq!(client.line().unwrap(), "OK");
    assert_eq!(client.line().unwrap(), "VALUE and steady");
}

#[test]
fn http_closes_the_connection_at_once_and_changes_nothing() {
    let server = Server::start(&[]);
    for request in [
        "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nSET http 1\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET http 1\r\n",
        "host: localhost\r\nSET http 1\r\n",
    ] {
        let mut client = server.raw();
        client.send_if_possible(request.as_bytes());
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(!rest.contains("OK"), "{rest}");
        expect(&mut server.text(), "GET http", "NOT_FOUND");
    }
}

#[test]
fn garbage_disturbs_nobody_else() {
    let server = Server::start(&[]);
    let mut good = server.text();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for first in [0_u8, b'*', b'$', 0x89, 0xff, b'\n', b'z'] {
        let mut bytes = vec![first];
        for _ in 0..4096 {
            // Xorshift (Marsaglia, 2003): any bytes will do, the same ones each time.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push(random.to_le_bytes()[0]);
        }
        let mut bad = server.raw();
        bad.send_if_possible(&bytes);
        bad.finish();
        bad.rest();
        expect(&mut good, "PING", "PONG");
    }
}

#[test]
fn a_connection_beyond_the_limit_is_told_busy_and_closed() {
    let server = Server::start(&["--connections-max", "3"]);
    let mut clients: Vec<Text> = (0..3).map(|_| server.text()).collect();
    for client in &mut clients {
        expect(client, "PING", "PONG");
    }
    let mut surplus = server.raw();
    let refusal = surplus.line().expect("a reason");
    assert!(refusal.starts_with("ERROR BUSY "), "{refusal}");
    assert_eq!(surplus.rest(), b"");
    for client in &mut clients {
        expect(client, "PING", "PONG");
    }
    // Room that becomes free is used again.
    let mut leaving = clients.pop().unwrap();
    leaving.send("QUIT");
    assert_eq!(leaving.raw().line(), None);
    let deadline = support::deadline();
    loop {
        let mut client = server.raw();
        client.send_if_possible(b"PING\n");
        match client.line() {
            Some(reply) if reply == "PONG" => break,
            reply => assert!(std::time::Instant::now() < deadline, "still refused: {reply:?}"),
        }
    }
}

#[test]
fn a_client_that_does_not_read_its_replies_is_not_served_on_and_disturbs_nobody() {
    let server = Server::start(&[]);
    let mut good = server.text();
    expect(&mut good, &format!("SET big {}", "x".repeat(MIB)), "OK");
    let mut bad = Raw::connect(server.address());
    // A gigabyte of replies, if the server were to make them all.
    bad.send(&b"GET big\n".repeat(1000));
    for n in 0..100 {
        expect(&mut good, &format!("SET k{n} v"), "OK");
    }
    assert!(resident_bytes(server.pid()) < 512 * MIB, "replies pile up in the server");
    for _ in 0..1000 {
        assert_eq!(bad.line_bytes().expect("the replies come when they are read").len(), MIB + 6);
    }
}

#[test]
fn memory_limit_refuses_writes_and_lets_deletes_make_room() {
    let server = Server::start(&["--memory-max", "16mb"]);
    let mut client = server.text();
    let value = "v".repeat(64 << 10);
    let mut stored = 0;
    let refusal = loop {
        let reply = client.ask(&format!("SET k{stored} {value}"));
        if reply != "OK" {
            break reply;
        }
        stored += 1;
        assert!(stored < 1000, "the limit is not kept");
    };
    assert!(refusal.starts_with("ERROR MEMORY_LIMIT "), "{refusal}");
    expect(&mut client, &format!("GET k{stored}"), "NOT_FOUND");
    expect(&mut client, "GET k0", &format!("VALUE {value}"));
    for n in 0..stored / 2 {
        expect(&mut client, &format!("DELETE k{n}"), "OK");
    }
    expect(&mut client, "SET again 1", "OK");
}

fn resident_bytes(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
