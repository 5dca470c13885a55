//! Redis: a primary and two replicas.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use tempfile::TempDir;

use crate::support::generators::{Load, Sample, Target, kvorum_bench, measure, preload};
use crate::support::options::Common;
use crate::support::servers::Server;
use crate::{Contender, NODES, until};

/// How many replicas must say that they have a window of writes before it counts as done: with
/// the primary, a majority. They say so when they have received it, not when it is on the disk.
const WAIT: u8 = 1;

/// Replicas of a primary, all with `appendfsync always`; requests go to the primary.
pub struct AtPrimary<'a> {
    options: &'a Common,
    load: Load,
    /// The primary first.
    servers: Vec<Server>,
    /// One directory each.
    _data: Vec<TempDir>,
}

impl<'a> AtPrimary<'a> {
    /// A fresh primary that holds all keys, and its replicas.
    pub fn start(load: Load, options: &'a Common) -> Result<AtPrimary<'a>, Box<dyn Error>> {
        let (mut servers, mut data) = (Vec::<Server>::new(), Vec::new());
        for _ in 0..NODES {
            let mut command = Command::new(&options.redis_server);
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
            command.args(["--repl-diskless-sync-delay", "0"]);
            if let Some(primary) = servers.first() {
                let port = primary.address().port();
                command.args(["--replicaof", &format!("127.0.0.1 {port}")]);
            }
            let directory = options.data_directory()?;
            servers.push(Server::redis(command, directory.path())?);
            data.push(directory);
        }
        let cluster = AtPrimary { options, load, servers, _data: data };
        until("both replicas are online", || {
            let info = cluster.replication().ok()?;
            (info.matches("state=online").count() == NODES - 1).then_some(())
        })?;
        preload(&cluster.target(), options)?;
        Ok(cluster)
    }

    /// What the primary knows of its replicas.
    fn replication(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.servers[0].address())?;
        stream.write_all(b"INFO replication\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn target(&self) -> Target {
        Target {
            servers: vec![self.servers[0].address()],
            pids: self.servers.iter().map(Server::pid).collect(),
            protocol: "resp",
            wait: Some(WAIT),
        }
    }
}

impl Contender for AtPrimary<'_> {
    fn name(&self) -> String {
        format!("Redis, WAIT {WAIT}")
    }

    fn measure(&self) -> Result<Sample, Box<dyn Error>> {
        let program = Command::new(&self.options.kvorum);
        let target = self.target();
        measure(kvorum_bench(program, self.load, &target, self.options), &target)
    }
}
