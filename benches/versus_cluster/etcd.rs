//! etcd: three nodes, and the load generator for them, `benches/etcd_load`.

use std::cell::Cell;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::rows::{EtcdWork, Shape};
use crate::support::generators::{Sample, number, run};
use crate::support::process::{Process, command_line};
use crate::support::servers::free_addresses;
use crate::{Contender, NODES, Options, until};

/// Keys that are there to be read. Fewer than for kvorum, because they take etcd so long to store.
const KEYS_TO_READ: u32 = 20_000;

/// Builds the load generator, a package of its own, and says where it is.
pub fn build_generator() -> Result<PathBuf, Box<dyn Error>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd_load");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/etcd_load/Cargo.toml"));
    command.arg("--target-dir").arg(&target);
    if !command.status()?.success() {
        return Err(format!("'{}' failed", command_line(&command)).into());
    }
    Ok(target.join("release/etcd-load"))
}

/// Nodes with data of their own, gone when it is dropped.
pub struct Cluster<'a> {
    program: &'a Path,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    /// `None` after a kill.
    nodes: Vec<Option<Process>>,
    data: TempDir,
}

impl<'a> Cluster<'a> {
    /// Starts all nodes, and waits until one of them leads.
    pub fn start(options: &'a Options) -> Result<Cluster<'a>, Box<dyn Error>> {
        let addresses = free_addresses(2 * NODES);
        let (clients, peers) = addresses.split_at(NODES);
        let mut cluster = Cluster {
            program: &options.etcd,
            clients: clients.to_vec(),
            peers: peers.to_vec(),
            nodes: (0..NODES).map(|_| None).collect(),
            data: options.common.data_directory()?,
        };
        (0..NODES).try_for_each(|node| cluster.start_node(node))?;
        cluster.leader()?;
        Ok(cluster)
    }

    /// Starts a node, for the first time or again.
    pub fn start_node(&mut self, node: usize) -> Result<(), Box<dyn Error>> {
        let name = |node: usize| format!("node{node}");
        let client = format!("http://{}", self.clients[node]);
        let peer = format!("http://{}", self.peers[node]);
        let members = self.peers.iter().enumerate();
        let members = members.map(|(at, address)| format!("{}=http://{address}", name(at)));
        let members = members.collect::<Vec<_>>().join(",");
        let mut command = Command::new(self.program);
        command.args(["--name", &name(node)]);
        command.arg("--data-dir").arg(self.data.path().join(name(node)));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &members, "--initial-cluster-state", "new"]);
        command.args(["--quota-backend-bytes", "8589934592", "--logger", "zap"]);
        let log = File::create(self.data.path().join(name(node)).with_extension("stderr"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.nodes[node] = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Kills a node as a crash does.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Waits until all nodes agree on a leader.
    pub fn leader(&self) -> Result<usize, Box<dyn Error>> {
        until("the nodes of etcd agree on a leader", || {
            let status = self.clients.iter().map(|&address| status(address).ok());
            let status = status.collect::<Option<Vec<_>>>()?;
            let leader = &status[0]["leader"];
            let agree = leader.is_string() && status.iter().all(|one| one["leader"] == *leader);
            let index = status.iter().position(|one| one["header"]["member_id"] == *leader);
            index.filter(|_| agree)
        })
    }

    /// Where the other nodes serve clients.
    pub fn others(&self, node: usize) -> String {
        let addresses = self.clients.iter().enumerate().filter(|(other, _)| *other != node);
        addresses.map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(",")
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(Process::id).collect()
    }
}

/// The status of a node, by etcd's gateway from JSON to gRPC.
fn status(address: SocketAddr) -> Result<Value, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"POST /v3/maintenance/status HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    Ok(serde_json::from_str(body)?)
}

/// Linearizable and durable on a majority, as etcd always is; all requests go to the leader.
pub struct AtLeader<'a> {
    cluster: Cluster<'a>,
    generator: &'a Path,
    options: &'a Options,
    kind: &'static str,
    shape: Cell<Shape>,
}

impl<'a> AtLeader<'a> {
    /// A fresh cluster, with keys if they are to be read. Finds out which shape is the best.
    pub fn start(
        work: EtcdWork,
        generator: &'a Path,
        options: &'a Options,
    ) -> Result<AtLeader<'a>, Box<dyn Error>> {
        let cluster = Cluster::start(options)?;
        let shape = Cell::new(work.shapes[0]);
        let this = AtLeader { cluster, generator, options, kind: work.kind, shape };
        if work.kind == "get" {
            let mut command = this.command()?;
            command.args(["--preload", "--seconds", "0", "--warmup-seconds", "0"]);
            run(command, &[])?.report()?;
        }
        if work.shapes.len() > 1 {
            let mut best = (0.0, work.shapes[0]);
            for &shape in work.shapes {
                this.shape.set(shape);
                let per_second = this.measure()?.per_second;
                best = if per_second > best.0 { (per_second, shape) } else { best };
            }
            this.shape.set(best.1);
        }
        Ok(this)
    }

    fn command(&self) -> Result<Command, Box<dyn Error>> {
        let leader = self.cluster.clients[self.cluster.leader()?];
        let mut command = Command::new(self.generator);
        command.args(["--endpoints", &leader.to_string(), "--kind", self.kind]);
        if self.kind == "get" {
            command.args(["--key-space", &KEYS_TO_READ.to_string()]);
        }
        let Shape { in_flight, connections } = self.shape.get();
        command.args(["--in-flight", &in_flight.to_string()]);
        command.args(["--connections", &connections.to_string()]);
        Ok(command)
    }
}

impl Contender for AtLeader<'_> {
    fn name(&self) -> String {
        format!("etcd, {} in flight", self.shape.get().in_flight)
    }

    fn measure(&self) -> Result<Sample, Box<dyn Error>> {
        let common = &self.options.common;
        let mut command = self.command()?;
        command.args(["--seconds", &common.seconds().to_string()]);
        command.args(["--warmup-seconds", &common.warmup_seconds().to_string()]);
        let finished = run(command, &self.cluster.pids())?;
        let report = finished.report()?;
        let number = |path| number(&report, path);
        Ok(finished.sample(
            number("/requests_per_s")?,
            number("/latency_us/p50")?,
            number("/latency_us/p99")?,
            number("/answered")?,
        ))
    }
}
