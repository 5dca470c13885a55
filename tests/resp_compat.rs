//! Clients of Redis, unmodified, against the real binary: the `redis` crate, redis-cli,
//! redis-benchmark and redis-py. CI installs them; where one is missing its test fails and says
//! what to install.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use redis::{Commands as _, Connection, ErrorKind, RedisResult, ServerErrorKind};
use support::child::{Ends as _, Watchdog};
use support::{PATIENCE, until};

/// A server of its own for each test, and the programs that talk to it.
struct Server {
    server: support::server::Server,
}

impl Server {
    fn start() -> Server {
        Server { server: support::server::Server::start(&[]) }
    }

    fn port(&self) -> &str {
        self.server.address().rsplit_once(':').expect("host:port").1
    }

    fn connect(&self, protocol: &str) -> Connection {
        let url = format!("redis://127.0.0.1:{}/?protocol={protocol}", self.port());
        let client = redis::Client::open(url).unwrap();
        let connection = client.get_connection_with_timeout(PATIENCE).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.set_write_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Runs a program with `-p` and this server's port in front of `args`.
    fn run(&self, program: &str, args: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(program)
            .args(["-h", "127.0.0.1", "-p", self.port()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; install redis-tools"));
        let _watchdog = Watchdog::over(&child);
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        output
    }

    /// What redis-cli prints for one command line.
    fn cli(&self, args: &[&str]) -> String {
        String::from_utf8(self.run("redis-cli", args, "").stdout).unwrap()
    }

    /// Runs a script of this directory with the port as its argument.
    fn run_python(&self, script: &str) {
        let path = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("python3")
            .args([&path, self.port()])
            .output_in_time()
            .unwrap_or_else(|error| panic!("python3: {error}; install Python 3"));
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_redis_crate_speaks_both_versions() {
    let server = Server::start();
    for protocol in ["resp2", "resp3"] {
        let mut redis = server.connect(protocol);
        let () = redis.set("key", "value").unwrap();
        let value: Option<String> = redis.get("key").unwrap();
        assert_eq!(value.as_deref(), Some("value"));
        let absent: Option<String> = redis.get("absent").unwrap();
        assert_eq!(absent, None);
        let binary: Vec<u8> = (0..=255).collect();
        let () = redis.set(&binary[..], &binary[..]).unwrap();
        let value: Vec<u8> = redis.get(&binary[..]).unwrap();
        assert_eq!(value, binary);
        let () = redis.mset(&[("a", "1"), ("b", "2"), ("a", "3")]).unwrap();
        let values: Vec<Option<String>> = redis.mget(&["a", "absent", "b"]).unwrap();
        assert_eq!(values, [Some("3".into()), None, Some("2".into())]);
        let length: usize = redis.strlen("key").unwrap();
        assert_eq!(length, 5);
        let existing: usize = redis.exists(&["a", "a", "absent"]).unwrap();
        assert_eq!(existing, 2);
        let kind: String = redis::cmd("TYPE").arg("a").query(&mut redis).unwrap();
        assert_eq!(kind, "string");
        let removed: usize = redis.del(&["a", "b", "absent"]).unwrap();
        assert_eq!(removed, 2);
        let removed: usize = redis.unlink(&["key"]).unwrap();
        assert_eq!(removed, 1);
        let removed: usize = redis.del(&binary[..]).unwrap();
        assert_eq!(removed, 1);
        let keys: u64 = redis::cmd("DBSIZE").query(&mut redis).unwrap();
        assert_eq!(keys, 0);
    }
}

#[test]
fn replies_to_a_pipeline_come_in_order() {
    let server = Server::start();
    for protocol in ["resp2", "resp3"] {
        let mut redis = server.connect(protocol);
        let mut pipeline = redis::pipe();
        for number in 0..1000 {
            pipeline.set("key", number).ignore().get("key");
            // Barriers and immediate replies among them must neither overtake nor be overtaken.
            if number % 100 == 0 {
                pipeline.cmd("ECHO").arg(number).cmd("DBSIZE");
            }
        }
        let replies: Vec<u64> = pipeline.query(&mut redis).unwrap();
        let expected = (0..1000).flat_map(|number| {
            let extra = if number % 100 == 0 { vec![number, 1] } else { Vec::new() };
            [number].into_iter().chain(extra)
        });
        assert_eq!(replies, expected.collect::<Vec<u64>>());
    }
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    let server = Server::start();
    let mut redis = server.connect("resp2");
    let largest = vec![b'x'; 8 << 20];
    let () = redis.set("key", &largest[..]).unwrap();
    let value: Vec<u8> = redis.get("key").unwrap();
    assert!(value == largest);
    // The claim alone ends the connection, before the bytes are sent.
    let mut stream = TcpStream::connect(server.server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$8388609\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "-ERR Protocol error: invalid bulk length\r\n");
    let value: Vec<u8> = redis.get("key").unwrap();
    assert!(value == largest);
}

#[test]
fn what_is_not_there_is_an_error_and_the_connection_goes_on() {
    let server = Server::start();
    let mut redis = server.connect("resp3");
    let commands: [&[&str]; 6] = [
        &["SET", "key", "value", "NX"],
        &["SET", "key", "value", "EX", "60"],
        &["INCR", "key"],
        &["CLIENT", "MAINT_NOTIFICATIONS", "ON"],
        &["AUTH", "password"],
        &["SELECT", "1"],
    ];
    for command in commands {
        let result: RedisResult<redis::Value> =
            redis::cmd(command[0]).arg(&command[1..]).query(&mut redis);
        let error = result.expect_err(command[0]);
        assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError), "{error}");
    }
    let value: Option<String> = redis.get("key").unwrap();
    assert_eq!(value, None);
}

/// A node that is alone: nobody else holds anything, and nobody has to be waited for.
#[test]
fn wait_counts_the_others_and_waitaof_this_node_too() {
    let server = Server::start();
    let mut redis = server.connect("resp3");
    let mut ask = |words: &str| -> RedisResult<redis::Value> {
        let words: Vec<&str> = words.split(' ').collect();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut redis)
    };
    let copies = |here, elsewhere| redis::Value::Array(vec![here, elsewhere]);
    let number = redis::Value::Int;
    assert_eq!(ask("WAIT 0 0"), Ok(number(0)));
    assert_eq!(ask("SET key value"), Ok(redis::Value::Okay));
    assert_eq!(ask("WAIT 2 0"), Ok(number(0)));
    assert_eq!(ask("WAITAOF 1 0 0"), Ok(copies(number(1), number(0))));
    assert_eq!(ask("READONLY"), Ok(redis::Value::Okay));
    assert_eq!(ask("GET key"), Ok(redis::Value::BulkString(b"value".into())));
    assert_eq!(ask("READWRITE"), Ok(redis::Value::Okay));
    assert!(ask("WAITAOF 2 0 0").is_err());
    let mut redis = server.connect("resp2");
    let pipeline: (bool, i64, i64, String) = redis::pipe()
        .set("key", "other")
        .cmd("WAIT")
        .arg(&[1, 0])
        .cmd("WAIT")
        .arg(&[0, 1])
        .get("key")
        .query(&mut redis)
        .unwrap();
    assert_eq!(pipeline, (true, 0, 0, "other".to_owned()));
}

#[test]
fn info_has_the_fields_that_clients_read() {
    let server = Server::start();
    let mut redis = server.connect("resp2");
    let () = redis.set("key", "value").unwrap();
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut redis).unwrap();
    assert_eq!(info.get::<String>("role").as_deref(), Some("master"));
    assert_eq!(info.get::<u64>("loading"), Some(0));
    assert_eq!(info.get::<u16>("tcp_port"), server.port().parse().ok());
    assert_eq!(info.get::<String>("run_id").map(|id| id.len()), Some(40));
    assert_eq!(info.get::<u64>("connected_clients"), Some(1));
    let keys = info.get::<String>("db0");
    assert_eq!(keys.as_deref(), Some("keys=1,expires=0,avg_ttl=0"));
    let version = info.get::<String>("redis_version").unwrap();
    assert!(version.starts_with("7.2."), "{version}");
}

#[test]
fn connections_are_told_apart() {
    let server = Server::start();
    let (mut one, mut other) = (server.connect("resp2"), server.connect("resp3"));
    let () = redis::cmd("CLIENT").arg("SETNAME").arg("one").query(&mut one).unwrap();
    let name: Option<String> = redis::cmd("CLIENT").arg("GETNAME").query(&mut other).unwrap();
    assert_eq!(name, None);
    let id: u64 = redis::cmd("CLIENT").arg("ID").query(&mut one).unwrap();
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut other).unwrap();
    assert_eq!(list.lines().count(), 2);
    let line = list.lines().find(|line| line.starts_with(&format!("id={id} "))).unwrap();
    assert!(line.contains(" name=one ") && line.contains(" resp=2 "), "{line}");
    assert!(line.contains(" lib-name=redis-rs "), "{line}");
}

#[test]
fn redis_cli_prints_what_it_prints_for_redis() {
    let server = Server::start();
    assert_eq!(server.cli(&["SET", "key", "two words"]), "OK\n");
    for version in ["-2", "-3"] {
        assert_eq!(server.cli(&[version, "GET", "key"]), "two words\n");
        assert_eq!(server.cli(&[version, "--no-raw", "GET", "absent"]), "(nil)\n");
        assert_eq!(server.cli(&[version, "--no-raw", "STRLEN", "key"]), "(integer) 9\n");
        let unknown = server.cli(&[version, "nonsense", "a"]);
        let expected = "ERR unknown command 'nonsense', with args beginning with: 'a'";
        assert_eq!(unknown.trim_end(), expected);
        assert!(server.cli(&[version, "INFO", "server"]).contains("redis_version:7.2."));
        assert!(server.cli(&[version, "COMMAND", "DOCS"]).contains("summary"));
    }
    assert!(server.cli(&["--json", "CONFIG", "GET", "save"]).contains(r#"{"save":""}"#));
    let piped = "SET a 1\nGET a\nMSET b 2 c 3\nMGET a b c\nDEL a b c\nDBSIZE\n";
    let output = server.run("redis-cli", &[], piped);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().collect::<Vec<_>>(), ["OK", "1", "OK", "1", "2", "3", "3", "1"]);
    let bulk = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n".repeat(100);
    let output = server.run("redis-cli", &["--pipe"], &bulk);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("errors: 0, replies: 100"), "{text}");
}

/// As Redis's documentation has it: LASTSAVE, BGSAVE, and LASTSAVE until it changes.
#[test]
fn redis_cli_has_a_snapshot_taken() {
    let server = Server::start();
    let number = |args: &[&str]| -> u64 {
        server.cli(args).lines().next().unwrap().parse().expect("a number")
    };
    let before = number(&["LASTSAVE"]);
    until("the clock has moved on", || (number(&["TIME"]) > before).then_some(()));
    assert_eq!(server.cli(&["SET", "k", "v"]), "OK\n");
    assert_eq!(server.cli(&["BGSAVE"]), "Background saving started\n");
    until("it is saved", || (number(&["LASTSAVE"]) > before).then_some(()));
    let info = server.cli(&["INFO", "persistence"]);
    for line in [
        "rdb_changes_since_last_save:0",
        "rdb_bgsave_in_progress:0",
        "rdb_last_bgsave_status:ok",
        &format!("rdb_last_save_time:{}", number(&["LASTSAVE"])),
    ] {
        assert!(info.lines().any(|found| found.trim_end() == line), "{line}: {info}");
    }
    // Nothing has changed, and that is saved, too.
    assert_eq!(server.cli(&["BGSAVE", "SCHEDULE"]), "Background saving started\n");
    assert_eq!(server.cli(&["BGSAVE", "NOW"]).trim_end(), "ERR syntax error");

    let mut socket = TcpStream::connect(server.server.address()).unwrap();
    socket.write_all(&b"*1\r\n$6\r\nBGSAVE\r\n".repeat(2)).unwrap();
    let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "+Background saving started");
    assert_eq!(lines.next().unwrap(), "-ERR Background save already in progress");
}

#[test]
fn redis_cli_helps_while_a_command_is_typed() {
    Server::start().run_python("redis_cli_interactive.py");
}

/// Its PING_INLINE test opens connections with `PING\r\n`, which from anybody else is the text
/// protocol; see `RESP.md`.
#[test]
fn redis_benchmark_runs() {
    let server = Server::start();
    let runs: [&[&str]; 3] = [
        &["-t", "ping,set,get,mset", "-n", "2000", "-c", "10"],
        &["-t", "ping,set,get,mset", "-n", "20000", "-P", "16", "-r", "1000", "-d", "100"],
        &["-3", "-t", "ping,set,get,mset", "-n", "2000", "-c", "10"],
    ];
    for args in runs {
        let output = server.run("redis-benchmark", &[args, &["-q"]].concat(), "");
        let text = String::from_utf8_lossy(&output.stdout);
        let tests = text.matches("requests per second").count();
        assert!(tests >= 4, "{args:?}: {text}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn redis_py_8_works_unmodified() {
    Server::start().run_python("redis_py.py");
}
