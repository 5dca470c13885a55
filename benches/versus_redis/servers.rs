//! The two servers with data of their own, gone when they are dropped.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::generators::Target;
use crate::support::options::Common;
use crate::support::servers;

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
    server: servers::Server,
    _data: TempDir,
}

impl Server {
    /// Starts one side, on its own core if `core` is given, and waits until it answers.
    pub fn start(
        side: Side,
        durability: Durability,
        core: Option<usize>,
        options: &Common,
    ) -> Result<Server, Box<dyn Error>> {
        let data = options.data_directory()?;
        let server = match side {
            Side::Kvorum => {
                let mut command = on_core(&options.kvorum, core);
                command.args(["serve", "--listen", "127.0.0.1:0"]);
                servers::Server::kvorum(command, &data.path().join("node"))?
            }
            Side::Redis => {
                let mut command = on_core(&options.redis_server, core);
                match durability {
                    Durability::None => command.args(["--appendonly", "no"]),
                    Durability::Always => {
                        command.args(["--appendonly", "yes", "--appendfsync", "always"])
                    }
                };
                servers::Server::redis(command, data.path())?
            }
        };
        Ok(Server { side, server, _data: data })
    }

    /// Which of the two it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.address().port()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// For the generator, in the fastest protocol of the server.
    pub fn target(&self) -> Target {
        Target {
            servers: vec![self.server.address()],
            pids: vec![self.pid()],
            protocol: match self.side {
                Side::Kvorum => "binary",
                Side::Redis => "resp",
            },
            wait: None,
        }
    }

    /// How it was started.
    pub fn command(&self) -> &str {
        self.server.command()
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
