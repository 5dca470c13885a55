//! A `kvorum serve` process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};

use kvorum::client::Connection;
use rustix::process::{Pid, Signal, kill_process};

use super::child::{end_of, try_end_of};
use super::client::{Raw, Text};
use super::strace::Strace;
use super::{PATIENCE, deadline, until};

/// The binary under test, with none of this environment's settings.
pub fn kvorum() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvorum"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KVORUM_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// The binary under test, by a program that becomes it.
fn under(program: &[String]) -> Command {
    let binary = kvorum();
    let [program, arguments @ ..] = program else { return binary };
    let mut command = Command::new(program);
    command.args(arguments).arg(binary.get_program()).stdin(Stdio::null());
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A server on a free port of the loopback interface; killed when it is dropped.
pub struct Server {
    /// Kept for as long as the server, when it is the server's own.
    _temporary: Option<tempfile::TempDir>,
    data: PathBuf,
    arguments: Vec<String>,
    process: Process,
    address: String,
    ready_line: String,
}

/// How a process ended, and what it had to say.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Exit {
    /// The one line on standard error that the contract asks of a process that stops; the lines of
    /// the log before it begin with a time.
    pub fn last_words(&self) -> &str {
        let words = self.stderr.lines().last().unwrap_or_default();
        assert!(words.starts_with("kvorum: "), "no last words:\n{}", self.stderr);
        words
    }
}

/// A child whose output is read while it runs, so that it never waits for us.
struct Process {
    child: Child,
    lines: Receiver<String>,
    stdout: Vec<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    fn spawn(mut command: Command) -> Process {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test can be started");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        // Ends with the process; the channel's end is how its exit is noticed.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Process { child, lines, stdout: Vec::new(), stderr: Some(stderr) }
    }

    /// The next line on standard output; `None` at its end.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.stdout.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the process says nothing and does not end"),
        }
    }

    fn wait(&mut self) -> Exit {
        while self.line().is_some() {}
        let status = end_of(&mut self.child);
        let stderr = self.stderr.take().map(|reader| reader.join().expect("the reader lives"));
        Exit {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.join("\n"),
            stderr: stderr.unwrap_or_default(),
        }
    }

    /// Kills it unless it has ended.
    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = try_end_of(&mut self.child);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child is ours and was not waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Server {
    /// Starts a server in a new directory.
    pub fn start(arguments: &[&str]) -> Server {
        let temporary = tempfile::tempdir().expect("a temporary directory can be made");
        let data = temporary.path().join("data");
        let mut server = Server::start_in(&data, arguments);
        server._temporary = Some(temporary);
        server
    }

    /// Starts a server on this directory.
    pub fn start_in(data: &Path, arguments: &[&str]) -> Server {
        Server::try_start(data, arguments)
            .unwrap_or_else(|exit| panic!("the server did not start: {exit:?}"))
    }

    /// Starts a server on this directory, which may fail.
    pub fn try_start(data: &Path, arguments: &[&str]) -> Result<Server, Exit> {
        Server::try_start_by(kvorum(), data, arguments)
    }

    /// Starts a server on this directory by a program that becomes it, such as
    /// `["nsenter", "--net=FILE"]`; which may fail.
    pub fn try_start_under(
        program: &[String],
        data: &Path,
        arguments: &[&str],
    ) -> Result<Server, Exit> {
        Server::try_start_by(under(program), data, arguments)
    }

    /// Starts a server in a new directory that may have so many files and sockets open.
    pub fn start_with_descriptors(count: u32, arguments: &[&str]) -> Server {
        let temporary = tempfile::tempdir().expect("a temporary directory can be made");
        let prlimit = ["prlimit".to_owned(), format!("--nofile={count}:{count}")];
        let data = temporary.path().join("data");
        let started = Server::try_start_under(&prlimit, &data, arguments);
        let mut server = started.unwrap_or_else(|exit| panic!("did not start: {exit:?}"));
        server._temporary = Some(temporary);
        server
    }

    /// Starts a server that finds out by itself where to listen.
    pub fn try_start_at_home(data: &Path, arguments: &[&str]) -> Result<Server, Exit> {
        Server::try_start_exactly(kvorum(), data, arguments)
    }

    /// Starts a server that finds out by itself where to listen, and kills it when it is time,
    /// whether or not it serves by then.
    pub fn start_at_home_and_kill(
        data: &Path,
        arguments: &[&str],
        mut is_time: impl FnMut() -> bool,
    ) -> Exit {
        let mut command = kvorum();
        command.arg("serve").arg("--data").arg(data).args(arguments);
        let mut process = Process::spawn(command);
        until("it is time to kill it", || is_time().then_some(()));
        process.signal(Signal::KILL);
        process.wait()
    }

    fn try_start_by(command: Command, data: &Path, arguments: &[&str]) -> Result<Server, Exit> {
        let anywhere = ["--listen", "127.0.0.1:0"];
        let is_told = arguments.contains(&"--listen");
        let listen = if is_told { &[][..] } else { &anywhere };
        Server::try_start_exactly(command, data, &[arguments, listen].concat())
    }

    fn try_start_exactly(
        mut command: Command,
        data: &Path,
        arguments: &[&str],
    ) -> Result<Server, Exit> {
        command.arg("serve").arg("--data").arg(data).args(arguments);
        let mut process = Process::spawn(command);
        let Some(ready_line) = process.line() else { return Err(process.wait()) };
        let address = ready_line
            .split(' ')
            .find_map(|word| word.strip_prefix("listen="))
            .unwrap_or_else(|| panic!("not a ready line: {ready_line}"))
            .to_owned();
        Ok(Server {
            _temporary: None,
            data: data.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process,
            address,
            ready_line,
        })
    }

    /// What the server printed when it was ready.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// Its client port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A new connection that speaks the text protocol.
    pub fn text(&self) -> Text {
        Text::connect(&self.address)
    }

    /// A new connection for bytes of any kind.
    pub fn raw(&self) -> Raw {
        Raw::connect(&self.address)
    }

    /// A new connection that speaks the binary protocol.
    pub fn binary(&self) -> Connection {
        Connection::open(&self.address, deadline()).expect("the server accepts connections")
    }

    /// Kills it as a crash does, without a chance to finish anything.
    pub fn kill(&mut self) -> Exit {
        self.process.signal(Signal::KILL);
        self.process.wait()
    }

    /// Kills it while system calls of it are being delayed, which are then never executed.
    pub fn kill_in_the_middle_of(&mut self, delay: Strace) -> Exit {
        self.process.signal(Signal::KILL);
        // It holds up the end of what it traces.
        delay.kill();
        self.process.wait()
    }

    /// Kills it unless it has ended.
    pub fn make_sure_it_is_gone(&mut self) {
        self.process.end();
    }

    /// Asks it to stop, as an operator does.
    pub fn terminate(&mut self) -> Exit {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    /// Stops it in its tracks; [`resume`](Server::resume) lets it go on.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    pub fn interrupt(&mut self) -> Exit {
        self.process.signal(Signal::INT);
        self.process.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Exit {
        self.process.wait()
    }

    /// Starts it again on the same directory after it has ended, on a port of its own choice.
    pub fn start_again(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut again = Server::start_in(&self.data, &arguments);
        again._temporary = self._temporary.take();
        *self = again;
    }

    /// A value of the STATUS line.
    pub fn status(&self, name: &str) -> String {
        let line = self.text().ask("STATUS");
        let mut pairs = line.split(' ').filter_map(|word| word.split_once('='));
        let found = pairs.find(|(this, _)| *this == name);
        found.unwrap_or_else(|| panic!("no {name} in {line}")).1.to_owned()
    }

    /// A number of the STATUS line.
    pub fn status_number(&self, name: &str) -> u64 {
        self.status(name).parse().expect("a number")
    }

    /// Waits until a number of the STATUS line is as wished.
    pub fn wait_for_status(&self, name: &str, wished: impl Fn(u64) -> bool) {
        until(name, || wished(self.status_number(name)).then_some(()));
    }
}
