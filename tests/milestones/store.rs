//! Step 1: an in-memory store over TCP.

use std::thread;

use crate::support::client::Text;
use crate::support::server::Server;

#[test]
fn m1_set_then_get() {
    let server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET name Ada"), "OK");
    assert_eq!(client.ask("GET name"), "VALUE Ada");
}

#[test]
fn m1_get_of_a_missing_key() {
    assert_eq!(Server::start(&[]).text().ask("GET nobody"), "NOT_FOUND");
}

#[test]
fn m1_delete_then_it_is_gone() {
    let server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET k v"), "OK");
    assert_eq!(client.ask("DELETE k"), "OK");
    assert_eq!(client.ask("GET k"), "NOT_FOUND");
}

#[test]
fn m1_overwrite() {
    let server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET k old"), "OK");
    assert_eq!(client.ask("SET k new"), "OK");
    assert_eq!(client.ask("GET k"), "VALUE new");
    assert_eq!(server.status_number("keys"), 1);
}

#[test]
fn m1_get_set_set_with_spaces_and_delete_are_parsed() {
    let server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET k one"), "OK");
    assert_eq!(client.ask("SET k several words  and two spaces"), "OK");
    assert_eq!(client.ask("GET k"), "VALUE several words  and two spaces");
    assert_eq!(client.ask("DELETE k"), "OK");
}

#[test]
fn m1_wrong_commands_answer_an_error_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let mut client = server.text();
    for line in ["NONSENSE", "GET", "SET onlykey", "DELETE", ""] {
        let reply = client.ask(line);
        assert!(reply.starts_with("ERROR "), "{line:?} -> {reply}");
        assert_eq!(client.ask("PING"), "PONG");
    }
}

#[test]
fn m1_many_clients_at_once_are_each_served() {
    let server = Server::start(&[]);
    let address = server.address();
    thread::scope(|scope| {
        for client in 0..16 {
            scope.spawn(move || {
                let mut connection = Text::connect(address);
                for n in 0..50 {
                    let key = format!("client{client}");
                    assert_eq!(connection.ask(&format!("SET {key} {n}")), "OK");
                    assert_eq!(connection.ask(&format!("GET {key}")), format!("VALUE {n}"));
                }
            });
        }
    });
    assert_eq!(server.status_number("keys"), 16);
}

/// A reader whose replies can not be delivered stands for every slow reader.
#[test]
fn m1_reads_never_wait_for_reads() {
    let server = Server::start(&[]);
    let mut quick = server.text();
    assert_eq!(quick.ask(&format!("SET big {}", "x".repeat(1 << 20))), "OK");
    let mut stuck = server.raw();
    stuck.send(&b"GET big\n".repeat(200));
    for _ in 0..100 {
        assert_eq!(quick.ask("GET none"), "NOT_FOUND");
    }
    assert_eq!(stuck.line_bytes().expect("a reply").len(), "VALUE ".len() + (1 << 20));
}
