//! `kvorum cli`: a person at a terminal, and scripts at a pipe.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use kvorum_protocol::binary::{PREFACE, encode_response};
use kvorum_protocol::{ErrorCode, Response};
use support::cluster::Cluster;
use support::server::{Server, kvorum};
use support::terminal::Terminal;

/// The prompt, with its state in a place of its own.
fn cli(servers: &str, state: &Path) -> Command {
    let mut command = kvorum();
    command.arg("cli").env("KVORUM_SERVERS", servers).env("XDG_STATE_HOME", state);
    command.env_remove("NO_COLOR");
    command
}

/// What comes of these lines from a pipe.
fn script(servers: &str, lines: &[u8]) -> Output {
    let state = tempfile::tempdir().unwrap();
    let mut child = cli(servers, state.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!state.path().join("kvorum").exists(), "a script has no history");
    output
}

#[track_caller]
fn says(output: &Output, code: i32, stdout: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{output:?}");
}

#[test]
fn a_script_gets_one_reply_a_line_and_nothing_else() {
    let server = Server::start(&[]);
    let address = server.address();
    let lines = "SET k two  words \nget k\r\nDELETE k\nGET k\nPING\nWHO_IS_LEADER\nMEMBERS\n\
                 QUORUM w=1 r=1\nSET j x\nGET j\nHELP\nQUIT\nPING\n";
    let output = script(address, lines.as_bytes());
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let (replies, help) = stdout.split_once("HELP ").expect("HELP is answered");
    let (before, behind) = replies.split_once(" cluster=").expect("MEMBERS names the cluster");
    let expected = format!(
        "OK\nVALUE two  words \nOK\nNOT_FOUND\nPONG\nLEADER {address}\n\
         MEMBERS id=1 leader=1 member=1={address}/ index=1"
    );
    assert_eq!(before, expected);
    assert_eq!(behind.split_once('\n').expect("more lines").1, "OK\nOK\nVALUE x\n");
    assert!(help.ends_with("QUIT\n") && help.lines().count() == 1, "{help}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_value_that_no_line_can_hold_is_escaped_in_a_script() {
    let server = Server::start(&[]);
    let mut set = kvorum();
    set.args(["set", "--servers", server.address(), "k", "a\nb"]);
    assert_eq!(set.output().unwrap().stdout, b"OK\n");
    says(&script(server.address(), b"GET k\n"), 0, "VALUE_ESCAPED a\\nb\n");
}

#[test]
fn a_script_with_a_request_that_failed_exits_with_1() {
    let server = Server::start(&[]);
    let output = script(server.address(), b"NONSENSE\nSET k\nQUORUM w=2\n\nPING\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let codes = ["UNKNOWN_COMMAND", "BAD_REQUEST", "BAD_REQUEST", "BAD_REQUEST"];
    let replies: Vec<&str> = stdout.lines().collect();
    assert_eq!(replies.len(), 5, "{stdout}");
    for (reply, code) in replies.iter().zip(codes) {
        assert!(reply.starts_with(&format!("ERROR {code} ")), "{reply}");
    }
    assert_eq!(replies[4], "PONG", "it goes on behind a failure");
    assert_eq!(output.stderr, b"kvorum: 4 requests have failed\n");
}

#[test]
fn a_line_that_was_cut_off_is_not_sent() {
    let server = Server::start(&[]);
    let output = script(server.address(), b"SET k whole\nSET k ha");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with("OK\nERROR BAD_REQUEST the last line"), "{stdout}");
    assert_eq!(server.text().ask("GET k"), "VALUE whole");
}

#[test]
fn without_any_server_a_script_says_so_once() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = cli(&dead.to_string(), Path::new("/nowhere"));
    let output = command.args(["--timeout-ms", "200"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("kvorum: NO_SERVER ") && stderr.contains(&dead.to_string()));
}

#[test]
fn a_write_goes_to_the_leader_and_what_follows_stays_there() {
    let cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
    let (leads, follows) = (cluster.address(leader), cluster.address(follower));
    let output = script(follows, b"STATUS\nSET k v\nSTATUS\nGET k\n");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let replies: Vec<&str> = stdout.lines().collect();
    let [before, set, behind, get] = replies[..] else { panic!("{stdout}") };
    assert!(before.starts_with(&format!("STATUS id={follower} role=follower ")), "{before}");
    assert_eq!((set, get), ("OK", "VALUE v"));
    assert!(behind.starts_with(&format!("STATUS id={leader} role=leader ")), "{behind}");
    let news = format!("moved to {leads}: {follows} does not lead\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), news);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_person_has_colours_completion_hints_and_help() {
    let server = Server::start(&[]);
    let prompt = format!("{}> ", server.address());
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&mut cli(server.address(), state.path()));
    terminal.expect(&prompt);
    for (keys, expected) in [
        ("SET k a value\r", "\x1b[32mOK\x1b[0m"),
        // The verb is completed, and the cursor stands behind a space.
        ("ge\tk\r", "\x1b[2mVALUE\x1b[0m a value"),
        ("GET absent\r", "\x1b[33mNOT_FOUND\x1b[0m"),
        ("SET k\r", "\x1b[31mERROR\x1b[0m BAD_REQUEST usage: SET key value"),
        ("help\r", "removes a key"),
        // The only voter leads already.
        ("TRANSFER \t\r", "\x1b[32mOK\x1b[0m"),
        // Ctrl-C throws the line away, an empty one is none.
        ("SET k wrong\x03", "\n"),
        ("\r", "\n"),
        ("GET k\r", "\x1b[2mVALUE\x1b[0m a value"),
    ] {
        terminal.press(keys);
        terminal.expect(expected);
        terminal.expect(&prompt);
    }
    // The hint is there before the line is ended.
    terminal.press("SET x ");
    terminal.expect("\x1b[2mvalue\x1b[0m");
    terminal.press("y\r");
    terminal.expect("OK");
    terminal.expect(&prompt);
    terminal.press("\x04");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn a_value_does_nothing_to_the_terminal() {
    let server = Server::start(&[]);
    assert_eq!(server.text().ask("SET k \x1b[2Jboo"), "OK");
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(&mut cli(server.address(), state.path()));
    terminal.expect("> ");
    terminal.press("GET k\r");
    terminal.expect("VALUE_ESCAPED\x1b[0m \\x1b[2Jboo");
    terminal.expect("> ");
    terminal.press("QUIT\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn no_color_is_respected() {
    let server = Server::start(&[]);
    let prompt = format!("{}> ", server.address());
    let state = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(cli(server.address(), state.path()).env("NO_COLOR", "1"));
    let mut printed = terminal.expect(&prompt);
    terminal.press("NONSENSE\r");
    printed += &terminal.expect("ERROR UNKNOWN_COMMAND");
    terminal.expect(&prompt);
    terminal.press("QUIT\r");
    let (code, rest) = terminal.end();
    printed += &rest;
    assert_eq!(code, Some(0));
    for colour in ["\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"] {
        assert!(!printed.contains(colour), "{printed:?}");
    }
}

#[test]
fn the_history_survives_and_is_nobody_elses() {
    let server = Server::start(&[]);
    let state = tempfile::tempdir().unwrap();
    let mut first = Terminal::start(&mut cli(server.address(), state.path()));
    first.expect("> ");
    for line in ["SET k remembered\r", " SET secret forgotten\r"] {
        first.press(line);
        first.expect("OK");
        first.expect("> ");
    }
    // Whoever is killed has remembered all the same.
    drop(first);
    let file = state.path().join("kvorum/history");
    let history = fs::read_to_string(&file).unwrap();
    assert!(history.contains("SET k remembered") && !history.contains("forgotten"), "{history}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let mut second = Terminal::start(&mut cli(server.address(), state.path()));
    second.expect("> ");
    assert_eq!(server.text().ask("DELETE k"), "OK");
    // The arrow upwards.
    second.press("\x1b[A\r");
    second.expect("OK");
    second.expect("> ");
    assert_eq!(server.text().ask("GET k"), "VALUE remembered");
    second.press("\x04");
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn a_prompt_without_a_place_for_its_history_works() {
    let server = Server::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut terminal = Terminal::start(&mut cli(server.address(), file.path()));
    terminal.expect("> ");
    terminal.press("SET k v\r");
    terminal.expect("OK");
    terminal.expect("> ");
    terminal.press("QUIT\r");
    assert_eq!(terminal.end().0, Some(0));
}

/// A server that is there when it is asked whether it is, and has this to say to everything that
/// comes after; `None`: it closes the connection. Counts what comes after the greeting, which is a
/// PING and a question for the members.
fn bad_server(answer: Option<Response<'static>>) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut requests = 0;
        for mut stream in listener.incoming().flatten() {
            stream.write_all(&PREFACE).unwrap();
            let _ = stream.read_exact(&mut [0; PREFACE.len()]);
            while let Some(id) = request_id(&mut stream) {
                requests += 1;
                let response = match requests {
                    1 | 2 => Response::Ok,
                    _ => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let Some(answer) = answer else { break };
                        answer
                    }
                };
                let mut out = Vec::new();
                encode_response(&mut out, id, &response);
                stream.write_all(&out).unwrap();
            }
        }
    });
    (address, asked)
}

/// Receives a request; `None` when none comes any more.
fn request_id(stream: &mut TcpStream) -> Option<u32> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut rest = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut rest).ok()?;
    Some(u32::from_le_bytes(*rest.first_chunk()?))
}

#[test]
fn a_server_that_speaks_of_a_session_where_there_is_none_has_refused() {
    let answer = Response::Error { code: ErrorCode::SessionExpired, message: "gone" };
    let (address, _) = bad_server(Some(answer));
    says(&script(&address, b"SET k v\n"), 1, "ERROR SESSION_EXPIRED gone\n");
}

/// The next leader, asked the same, would hand the office on.
#[test]
fn a_transfer_to_whomever_is_asked_for_once() {
    let (address, asked) = bad_server(None);
    let output = script(&address, b"TRANSFER\n");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.starts_with("ERROR CONNECTION_LOST "), "{output:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_person_is_told_that_nobody_is_there_and_may_wait() {
    let mut server = Server::start(&[]);
    let state = tempfile::tempdir().unwrap();
    let address = server.address().to_owned();
    server.kill();
    let mut command = cli(&address, state.path());
    let mut terminal = Terminal::start(command.args(["--timeout-ms", "300"]));
    terminal.expect("NO_SERVER");
    terminal.expect("not connected> ");
    terminal.press("QUIT\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn a_dead_server_is_left_for_another_one() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let state = tempfile::tempdir().unwrap();
    // The others it learns from the one.
    let address = cluster.address(leader).to_owned();
    let mut command = cli(&address, state.path());
    let mut terminal = Terminal::start(command.args(["--timeout-ms", "30000"]));
    terminal.expect(&format!("{address}> "));
    terminal.press("SET k v\r");
    terminal.expect("OK");
    terminal.expect("> ");
    cluster.kill(leader);
    terminal.press("GET k\r");
    terminal.expect("\x1b[2mmoved to 127.0.0.1:");
    terminal.expect("VALUE\x1b[0m v");
    terminal.expect("> ");
    terminal.press("SET k w\r");
    terminal.expect("OK");
    terminal.expect("> ");
    terminal.press("QUIT\r");
    assert_eq!(terminal.end().0, Some(0));
    assert_eq!(cluster.text(cluster.leader()).ask("GET k"), "VALUE w");
}
