//! The two servers as processes with data of their own, gone when they are dropped.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::{Options, command_line};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Durable before the reply.
    Kvorum,
    /// As `Durability` says.
    Redis,
}

/// What Redis does about the disk. kvorum always runs with its default, `--fsync always`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `--appendonly no --save ''`.
    None,
    /// `--appendfsync always`, without rewriting the file in between.
    Always,
}

impl Durability {
    /// For the table.
    pub fn describe(self) -> &'static str {
        match self {
            Durability::None => "no persistence",
            Durability::Always => "appendfsync always",
        }
    }
}

/// A running server. Its process ends before its data goes.
pub struct Server {
    side: Side,
    process: Process,
    address: SocketAddr,
    /// How it was started, for the report.
    command: String,
    /// Held open, so that kvorum can print; Redis does without.
    _stdout: Option<BufReader<ChildStdout>>,
    _data: TempDir,
}

impl Server {
    /// Starts one side, on its own core if `core` is given, and waits until it answers.
    pub fn start(
        side: Side,
        durability: Durability,
        core: Option<usize>,
        options: &Options,
    ) -> Result<Server, Box<dyn Error>> {
        let data = tempfile::Builder::new().prefix("versus-").tempdir_in(&options.data_dir)?;
        match side {
            Side::Kvorum => start_kvorum(data, core, options),
            Side::Redis => start_redis(data, durability, core, options),
        }
    }

    /// Which of the two it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// How it was started.
    pub fn command(&self) -> &str {
        &self.command
    }
}

/// `taskset -c CORE program`, or the program alone.
pub fn on_core(program: &Path, core: Option<usize>) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
    }
}

fn start_kvorum(
    data: TempDir,
    core: Option<usize>,
    options: &Options,
) -> Result<Server, Box<dyn Error>> {
    let mut command = on_core(&options.kvorum, core);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path().join("node"));
    let log = data.path().join("stderr");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    let mut process = Process(command.spawn().map_err(|error| cannot_run(&command, &error))?);
    let mut stdout = BufReader::new(process.0.stdout.take().expect("it is piped"));
    let mut ready = String::new();
    stdout.read_line(&mut ready)?;
    let listen = ready.split_whitespace().find_map(|word| word.strip_prefix("listen="));
    let Some(listen) = listen.filter(|_| ready.starts_with("kvorum ready ")) else {
        let complaint = std::fs::read_to_string(&log)?;
        return Err(format!("kvorum did not start: {ready}{complaint}").into());
    };
    Ok(Server {
        side: Side::Kvorum,
        address: listen.parse()?,
        command: command_line(&command),
        process,
        _stdout: Some(stdout),
        _data: data,
    })
}

fn start_redis(
    data: TempDir,
    durability: Durability,
    core: Option<usize>,
    options: &Options,
) -> Result<Server, Box<dyn Error>> {
    // Redis cannot choose a port by itself. Another program may take this one in between; then
    // Redis does not start, and says so.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = on_core(&options.redis_server, core);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--dir"]).arg(data.path());
    match durability {
        Durability::None => command.args(["--appendonly", "no"]),
        Durability::Always => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
    };
    command.args(["--auto-aof-rewrite-percentage", "0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process(command.spawn().map_err(|error| cannot_run(&command, &error))?);
    let stdout = process.0.stdout.take().expect("it is piped");
    let mut log = String::new();
    for line in BufReader::new(stdout).lines() {
        log.push_str(&line?);
        log.push('\n');
        if log.contains("Ready to accept connections") {
            return Ok(Server {
                side: Side::Redis,
                process,
                address,
                command: command_line(&command),
                _stdout: None,
                _data: data,
            });
        }
    }
    Err(format!("'{}' did not start:\n{log}", command_line(&command)).into())
}

/// Says which program is missing.
pub fn cannot_run(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run '{}': {error}", command_line(command))
}

/// A process that ends with this value.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and nothing to do about it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
