//! `kvorum demo` from outside: what it shows, and that it leaves nothing behind.

mod support;

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::child::{Ends as _, Watchdog};
use support::server::kvorum;
use support::until;

struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The processes of the nodes, as they were at the start.
    pids: Vec<i32>,
    servers: String,
    directory: PathBuf,
    /// Ends the wait for lines that never come.
    _watchdog: Watchdog,
}

impl Demo {
    /// Starts it and reads what it says of itself.
    fn start() -> Demo {
        let mut child = kvorum().arg("demo").stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&child);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (mut pids, mut directory) = (Vec::new(), PathBuf::new());
        let servers = loop {
            let line = lines.next().expect("it goes on").unwrap();
            if let Some(pid) = word_after(&line, "pid") {
                pids.push(pid.parse().unwrap());
                let log = Path::new(word_after(&line, "log").expect("a log")).to_owned();
                directory = log.parent().expect("a directory").to_owned();
            }
            if let Some(servers) = line.trim().strip_prefix("export KVORUM_SERVERS=") {
                break servers.to_owned();
            }
        };
        assert_eq!(pids.len(), 3);
        assert!(directory.is_dir());
        Demo { child, lines, pids, servers, directory, _watchdog: watchdog }
    }

    /// The next line that has these words.
    fn line_with(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it ends before {words}"));
            let line = line.unwrap();
            if line.contains(words) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn word_after<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1)
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).expect("a process id")
}

fn is_gone(raw: i32) -> bool {
    test_kill_process(pid(raw)).is_err()
}

/// One test: two demos at once would want the same ports.
#[test]
fn an_election_is_shown_and_nothing_is_left_behind() {
    let mut demo = Demo::start();
    let line = demo.line_with(" leads in term ");
    let leader = word_after(&line, "node").unwrap().to_owned();
    let victim: i32 = line.trim_end_matches(')').rsplit(' ').next().unwrap().parse().unwrap();
    assert!(demo.pids.contains(&victim), "{line}");
    let call = |arguments: &[&str]| {
        let output = kvorum().args(arguments).env("KVORUM_SERVERS", &demo.servers).output_in_time();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert_eq!(call(&["set", "greeting", "hello"]), "OK\n");
    kill_process(pid(victim), Signal::KILL).unwrap();
    assert_eq!(call(&["set", "greeting", "after its death"]), "OK\n");
    assert_eq!(call(&["get", "greeting"]), "after its death\n");
    demo.line_with(&format!("node {leader} was killed (signal 9); it starts again in 5 s"));
    let line = demo.line_with(" leads in term ");
    assert!(line.contains(&format!(" ms after node {leader} died")), "{line}");
    // The new leader has a successor, too, once the dead one is back.
    let line = demo.line_with(&format!("node {leader} starts again (pid "));
    let again = line.trim_end_matches(')').rsplit(' ').next().unwrap().parse().unwrap();
    demo.line_with(&format!("node {leader} follows node "));
    demo.pids.push(again);
    demo.signal(Signal::INT);
    assert_eq!(demo.child.wait().unwrap().code(), Some(0));
    assert!(demo.pids.iter().all(|&pid| is_gone(pid)), "{:?}", demo.pids);
    assert!(!demo.directory.exists());

    let demo = Demo::start();
    demo.signal(Signal::KILL);
    for &pid in &demo.pids {
        until("the nodes end with the demo", || is_gone(pid).then_some(()));
    }
    std::fs::remove_dir_all(&demo.directory).unwrap();
}
