//! The command line from outside: where settings come from, exit codes, refusals, and the one-shot
//! commands.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};

use support::child::{Ends as _, Watchdog};
use support::server::{Server, kvorum};

fn run(arguments: &[&str]) -> Output {
    kvorum().args(arguments).output_in_time().expect("the binary can be run")
}

#[track_caller]
fn refuses(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
    assert!(stderr.starts_with("kvorum: ") && stderr.contains(expected), "{stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn wrong_usage_and_configuration_exit_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    fs::write(&file, "id = 1\nlissen = '127.0.0.1:0'\n").unwrap();
    for (arguments, expected) in [
        (&["serve", "--nonsense"][..], "--nonsense"),
        (&["--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["get"], "<KEY>"),
        (&["get", "k", "--timeout-ms", "0"], "--timeout-ms"),
        (&["serve", "--id", "0"], "--id: '0'"),
        (&["serve", "--fsync", "often"], "--fsync: 'often'"),
        (
            &["serve", "--member", "2=a:1/a:2"],
            "--member: no member or learner has this node's id 1",
        ),
        (&["serve", "--data", text(directory.path()), "--write-quorum", "2"], "write_quorum 2"),
        (
            &["serve", "--member", "1=127.0.0.1:0/127.0.0.1:1", "--member", "2=a:1/a:2"],
            "--member: '1=127.0.0.1:0/127.0.0.1:1'",
        ),
        (
            &["serve", "--config", text(&file)],
            "node.toml:2: lissen is not a setting: is it listen?",
        ),
        (&["serve", "--config", "/does/not/exist"], "/does/not/exist"),
    ] {
        refuses(&run(arguments), 2, expected);
    }
    let output = kvorum().env("KVORUM_LISSEN", "a:1").output_in_time().unwrap();
    refuses(&output, 2, "KVORUM_LISSEN is not a setting: is it KVORUM_LISTEN?");
    let output = kvorum().env("KVORUM_CONNECTIONS_MAX", "none").output_in_time().unwrap();
    refuses(&output, 2, "KVORUM_CONNECTIONS_MAX: 'none'");
}

#[test]
fn peers_are_served_to_other_machines_only_with_a_secret() {
    let members =
        ["--member", "1=127.0.0.1:6381/127.0.0.1:7381", "--member", "2=[::1]:6382/[::1]:7382"];
    let open = ["serve", "--peer-listen", "0.0.0.0:7381"];
    let output = run(&[&open[..], &members[..]].concat());
    refuses(&output, 2, "--peer-listen: peers are not served on 0.0.0.0:7381");
    let more = ["serve", "--member", "3=10.0.0.1:6381/10.0.0.1:7381", "--id", "3"];
    let output = run(&[&more[..], &members[..]].concat());
    refuses(&output, 2, "give all nodes the same --cluster-secret-file");
    let missing = ["serve", "--cluster-secret-file", "does/not/exist"];
    let output = run(&[&missing[..], &members[..]].concat());
    refuses(&output, 1, "does/not/exist: can not read the cluster secret");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (arguments, expected) in [
        (&["--help"][..], "Usage: kvorum"),
        (&["serve", "--help"], "--election-timeout-ms"),
        (&["get", "--help"], "NOT_FOUND"),
        (&["--version"], "kvorum "),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{output:?}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_flag_beats_the_environment_and_the_environment_beats_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(
        path.join("node.toml"),
        "id = 3\nlisten = '127.0.0.1:0'\nkey_bytes_max = 10\nvalue_bytes_max = 10\n",
    )
    .unwrap();
    let mut child = kvorum()
        .current_dir(path)
        .args(["--key-bytes-max", "30"])
        .env("KVORUM_CONFIG", "node.toml")
        .env("KVORUM_DATA", "from-environment")
        .env("KVORUM_KEY_BYTES_MAX", "20")
        .env("KVORUM_VALUE_BYTES_MAX", "20")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::over(&child);
    let mut line = String::new();
    let mut stdout = child.stdout.take().unwrap();
    while !line.ends_with('\n') {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "ended before it was ready: {line}");
        line.push(char::from(byte[0]));
    }
    let address = line.trim_end().strip_prefix("kvorum ready id=3 listen=").expect(&line);
    let mut client = support::client::Text::connect(address);
    assert_eq!(client.ask(&format!("SET {} v", "k".repeat(30))), "OK");
    assert!(client.ask(&format!("SET {} v", "k".repeat(31))).starts_with("ERROR TOO_LARGE "));
    assert_eq!(client.ask(&format!("SET k {}", "v".repeat(20))), "OK");
    assert!(client.ask(&format!("SET k {}", "v".repeat(21))).starts_with("ERROR TOO_LARGE "));
    assert!(path.join("from-environment").is_dir());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_ready_line_has_the_real_port() {
    let server = Server::start(&[]);
    let line = server.ready_line();
    let port = line.strip_prefix("kvorum ready id=1 listen=127.0.0.1:").expect(line);
    assert_ne!(port.parse::<u16>().unwrap(), 0);
}

#[test]
fn termination_and_interruption_exit_with_0() {
    let mut server = Server::start(&[]);
    let idle = server.text();
    assert_eq!(server.terminate().code, Some(0));
    drop(idle);
    server.start_again();
    assert_eq!(server.interrupt().code, Some(0));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start(&[]);
    let data = tempfile::tempdir().unwrap();
    let taken = ["--listen", server.address()];
    let exit = Server::try_start(&data.path().join("data"), &taken).err().expect("it is taken");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.last_words().contains(server.address()), "{}", exit.last_words());
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let mut server = Server::start(&[]);
    let exit = Server::try_start(server.data(), &[]).err().expect("it is locked");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.last_words().contains(text(server.data())), "{}", exit.last_words());
    assert_eq!(server.text().ask("PING"), "PONG");
    // A lock of a process that was killed is no lock.
    server.kill();
    server.start_again();
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let mut server = Server::start(&["--id", "3"]);
    assert_eq!(server.text().ask("SET k v"), "OK");
    server.terminate();
    let exit = Server::try_start(server.data(), &["--id", "4"]).err().expect("it is node 3's");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(text(server.data())) && words.contains('3'), "{words}");
    server.start_again();
    assert_eq!(server.text().ask("GET k"), "VALUE v");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let exit = Server::try_start(file.path(), &[]).err().expect("a file is no directory");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(text(file.path())) && words.contains("check the path"), "{words}");
}

#[test]
fn get_set_and_delete_talk_to_a_server() {
    let server = Server::start(&[]);
    let call = |arguments: &[&str]| {
        kvorum().args(arguments).env("KVORUM_SERVERS", server.address()).output_in_time().unwrap()
    };
    let says = |output: &Output, stdout: &str| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout);
    };
    refuses_not_found(&call(&["get", "k"]));
    says(&call(&["set", "k", "a value"]), "OK\n");
    says(&call(&["get", "k"]), "a value\n");
    says(&call(&["set", "a key with spaces", ""]), "OK\n");
    says(&call(&["get", "a key with spaces"]), "\n");
    says(&call(&["set", "dashed", "-5"]), "OK\n");
    says(&call(&["get", "dashed"]), "-5\n");
    says(&call(&["delete", "dashed"]), "OK\n");
    refuses_not_found(&call(&["delete", "dashed"]));
    says(&call(&["delete", "k", "a key with spaces", "none"]), "OK 2 of 3\n");
    refuses_not_found(&call(&["get", "k"]));
    refuses(&call(&["get", &"k".repeat(65_536)]), 2, "over the limit");
}

fn refuses_not_found(output: &Output) {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert_eq!(output.stderr, b"NOT_FOUND\n");
}

#[test]
fn set_reads_a_value_from_standard_input() {
    let server = Server::start(&[]);
    let mut child = kvorum()
        .args(["set", "--servers", server.address(), "blob", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::over(&child);
    let blob: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    child.stdin.take().unwrap().write_all(&blob).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let output = run(&["get", "--servers", server.address(), "blob"]);
    assert_eq!(output.stdout, [&blob[..], b"\n"].concat());
}

#[test]
fn a_limit_that_was_raised_holds_for_the_first_write_after_the_restart() {
    let mut first = Server::start(&[]);
    assert_eq!(first.text().ask("SET k v"), "OK");
    assert_eq!(first.terminate().code, Some(0));
    // There is a segment in reserve, made for the old limit.
    let server = Server::start_in(first.data(), &["--value-bytes-max", "64mb"]);
    let mut child = kvorum()
        .args(["set", "--servers", server.address(), "--timeout-ms", "30000", "blob", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::over(&child);
    child.stdin.take().unwrap().write_all(&vec![b'v'; 30 << 20]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_dead_server_in_the_list_is_passed_over() {
    let server = Server::start(&[]);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let servers = format!("{dead},{}", server.address());
    assert_eq!(run(&["set", "--servers", &servers, "k", "v"]).stdout, b"OK\n");
    let output = run(&["get", "--servers", &dead.to_string(), "k"]);
    refuses(&output, 1, &dead.to_string());
}

#[test]
fn status_is_a_table_and_names_who_is_silent() {
    let server = Server::start(&["--id", "9"]);
    let output = run(&["status", "--servers", server.address()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    let [names, values] = table.lines().collect::<Vec<_>>()[..] else { panic!("{table}") };
    let column = names.find("role").unwrap();
    assert!(names.starts_with("server "), "{table}");
    assert!(values[column..].starts_with("leader "), "{table}");
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&["status", "--servers", &format!("{dead},{}", server.address())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[1].starts_with(&dead.to_string()) && rows[1].contains(" silent "), "{table}");
    assert!(rows[2].starts_with(server.address()) && rows[2].contains(" leader "), "{table}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&dead.to_string()));
    let output = run(&["status", "--json", "--servers", server.address()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json[0]["id"], &json[0]["role"]), (&9.into(), &"leader".into()));
}

#[test]
fn leadership_stays_where_nobody_else_can_take_it() {
    let server = Server::start(&[]);
    let servers = ["--servers", server.address()];
    let output = run(&[&["transfer"][..], &servers].concat());
    refuses(&output, 2, "BAD_REQUEST there is no other voter");
    let output = run(&[&["transfer", "--to", "1"][..], &servers].concat());
    assert_eq!(output.stdout, b"node 1 leads in term 1\n", "{output:?}");
    refuses(&run(&["transfer", "--to", "0"]), 2, "--to");
}

#[test]
fn a_closed_pipe_is_no_crash() {
    let server = Server::start(&[]);
    let value = "v".repeat(1 << 20);
    assert_eq!(server.text().ask(&format!("SET k {value}")), "OK");
    let mut child = kvorum()
        .args(["get", "--servers", server.address(), "k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _watchdog = Watchdog::over(&child);
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn bench_measures_a_server_in_every_protocol() {
    let server = Server::start(&[]);
    for protocol in ["binary", "text", "resp"] {
        let load = "--connections 2 --pipeline 4 --key-space 100 --requests 1000";
        let output = kvorum()
            .args(["bench", "--servers", server.address(), "--protocol", protocol])
            .args(load.split(' '))
            .args(["--warmup-seconds", "0", "--json", "--quiet"])
            .output_in_time()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
        assert!(json.is_object());
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

/// A directory whose log holds some writes, and whose server has ended.
fn closed_log() -> (tempfile::TempDir, std::path::PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let data = temporary.path().join("data");
    let mut server = Server::start_in(&data, &[]);
    let mut client = server.text();
    for line in ["SET greeting hello world", "SET n 1", "DELETE n"] {
        assert_eq!(client.ask(line), "OK");
    }
    assert_eq!(server.terminate().code, Some(0));
    (temporary, data)
}

#[test]
fn wal_dump_shows_the_log_in_the_words_of_the_text_protocol() {
    let (_temporary, data) = closed_log();
    let output = run(&["wal", "dump", text(&data)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let dump = String::from_utf8(output.stdout).unwrap();
    for expected in ["SET greeting hello world", "SET n 1", "DELETE n", "term="] {
        assert!(dump.contains(expected), "no {expected} in:\n{dump}");
    }
    let positions = ["SET greeting", "SET n", "DELETE n"].map(|words| dump.find(words).unwrap());
    assert!(positions.is_sorted(), "{dump}");
    let output = run(&["wal", "dump", "--brief", text(&data)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let brief = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<&str> = dump.lines().filter(|line| !line.starts_with("  ")).collect();
    assert_eq!(brief.lines().collect::<Vec<_>>(), expected, "the same without the entries");
}

#[test]
fn wal_verify_accepts_a_sound_log_beside_its_server_too() {
    let server = Server::start(&[]);
    assert_eq!(server.text().ask("SET k v"), "OK");
    let output = run(&["wal", "verify", text(server.data())]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("entries="), "{output:?}");
    assert_eq!(server.text().ask("GET k"), "VALUE v");
}

#[test]
fn a_damaged_log_is_refused_by_verify_and_by_serve_and_left_as_it_is() {
    let (_temporary, data) = closed_log();
    let segment = data.join("segment-0000000000000001.log");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(11).position(|window| window == b"hello world").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let output = run(&["wal", "verify", text(&data)]);
    refuses(&output, 1, text(&segment));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("offset") && stderr.contains("index"), "{stderr}");
    let exit = Server::try_start(&data, &[]).err().expect("it is damaged");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    for expected in [text(&segment), "offset", "index"] {
        assert!(words.contains(expected), "{words}");
    }
    assert!(fs::read(&segment).unwrap() == bytes, "the evidence was changed");
    let output = run(&["wal", "dump", text(&data)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn wal_commands_on_what_is_no_log_say_so() {
    let empty = tempfile::tempdir().unwrap();
    refuses(&run(&["wal", "verify", text(empty.path())]), 1, text(empty.path()));
    refuses(&run(&["wal", "verify", "/does/not/exist"]), 1, "/does/not/exist");
    refuses(&run(&["wal", "mend", text(empty.path())]), 2, "mend");
    refuses(&run(&["wal", "dump"]), 2, "<DIRECTORY>");
}
