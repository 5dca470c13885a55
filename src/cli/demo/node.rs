//! The nodes of the demo: ports, processes, and how they end with the demo.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::cli::Error;
use crate::cli::serve;
use crate::config::ServeFlags;

/// The ports of the first node, when they and the next ones are free: easy to type.
const CLIENT_PORT: u16 = 6381;
const PEER_PORT: u16 = 7381;

/// A node of the demo, as its processes come to see it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct NodeFlags {
    /// The process that this one must not outlive
    #[arg(long, value_name = "PID")]
    parent: i32,
    #[command(flatten)]
    serve: ServeFlags,
}

/// Runs a node that ends when the demo does, however that ends.
pub(in crate::cli) fn run(flags: &NodeFlags) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    // It may have ended before it was asked for.
    if getppid().map(Pid::as_raw_pid) != Some(flags.parent) {
        return Ok(());
    }
    serve::run(&flags.serve)
}

/// One node and its process.
#[derive(Debug)]
pub(super) struct Node {
    pub id: u16,
    /// Its address for clients.
    pub client: String,
    /// Its address for peers.
    pub peer: String,
    /// Where its log lines go.
    pub log: PathBuf,
    data: PathBuf,
    process: Option<Child>,
}

/// Makes `count` nodes with free addresses and data below `directory`.
pub(super) fn nodes(count: u16, directory: &Path) -> io::Result<Vec<Node>> {
    let ports = match well_known_ports(count) {
        Some(ports) => ports,
        None => free_ports(usize::from(count))?,
    };
    let nodes = (1..=count).zip(ports).map(|(id, (client, peer))| Node {
        id,
        client: format!("127.0.0.1:{client}"),
        peer: format!("127.0.0.1:{peer}"),
        log: directory.join(format!("node{id}.log")),
        data: directory.join(format!("node{id}")),
        process: None,
    });
    Ok(nodes.collect())
}

fn well_known_ports(count: u16) -> Option<Vec<(u16, u16)>> {
    let ports = (0..count).map(|at| (CLIENT_PORT + at, PEER_PORT + at));
    let ports: Vec<(u16, u16)> = ports.collect();
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.iter().all(|(client, peer)| is_free(client) && is_free(peer)).then_some(ports)
}

/// All are bound at once, so that none comes twice.
fn free_ports(count: usize) -> io::Result<Vec<(u16, u16)>> {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let listeners: Vec<TcpListener> = (0..2 * count).map(|_| bind()).collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
    let ports: Vec<u16> = ports.collect::<io::Result<_>>()?;
    let (pairs, _) = ports.as_chunks::<2>();
    Ok(pairs.iter().map(|&[client, peer]| (client, peer)).collect())
}

impl Node {
    /// Starts its process, again or for the first time. The process ends with the **thread** that
    /// calls this.
    pub(super) fn start(&mut self, members: &[String]) -> io::Result<u32> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo-node", "--parent", &std::process::id().to_string()]);
        command.args(["--id", &self.id.to_string(), "--data"]).arg(&self.data);
        for member in members {
            command.args(["--member", member]);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVORUM_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for the demo, which then stops its nodes.
        let child = command.process_group(0).spawn()?;
        let pid = child.id();
        self.process = Some(child);
        Ok(pid)
    }

    /// As it stands in the member list of every node.
    pub(super) fn member(&self) -> String {
        format!("{}={}/{}", self.id, self.client, self.peer)
    }

    /// How its process ended, once.
    pub(super) fn take_exit(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let status = process.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// Its process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Asks its process to stop.
    pub(super) fn terminate(&self) {
        if let Some(process) = &self.process {
            // One that has ended meanwhile needs no signal.
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
        }
    }

    /// Makes sure that there is no process.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The last line of its log: why it ended, if it had the time to say so.
    pub(super) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("it said nothing").to_owned()
    }
}

/// In words for a person.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(9)) => "was killed (signal 9)".to_owned(),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(0), _) => "has stopped as it was asked to".to_owned(),
        (code, _) => format!("has stopped with exit code {}", code.unwrap_or_default()),
    }
}

/// A new directory that is removed, with all that is in it, when this is dropped.
#[derive(Debug)]
pub(super) struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    pub(super) fn new() -> io::Result<TemporaryDirectory> {
        let path = std::env::temp_dir().join(format!("kvorum-demo-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(TemporaryDirectory(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // What can not be removed is the system's to clean up.
        let _ = fs::remove_dir_all(&self.0);
    }
}
