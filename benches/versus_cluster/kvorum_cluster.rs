//! kvorum: nodes that run, and the loads on them.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::generators::{Load, Sample, Target, kvorum_bench, measure, preload};
use crate::support::options::Common;
use crate::support::servers::{Server, free_addresses};
use crate::{Contender, NODES, until};

/// Nodes with data of their own, gone when it is dropped.
pub struct Cluster<'a> {
    options: &'a Common,
    /// What every node is told.
    flags: Vec<String>,
    addresses: Vec<SocketAddr>,
    /// `None` after a kill.
    nodes: Vec<Option<Server>>,
    data: TempDir,
}

impl<'a> Cluster<'a> {
    /// Starts so many voters, with further flags for each, and waits until one of them leads.
    pub fn start(
        size: usize,
        flags: &[&str],
        options: &'a Common,
    ) -> Result<Cluster<'a>, Box<dyn Error>> {
        let addresses = free_addresses(2 * size);
        let (addresses, peers) = addresses.split_at(size);
        let members = addresses.iter().zip(peers).enumerate();
        let members = members.map(|(at, (client, peer))| format!("{}={client}/{peer}", at + 1));
        let members = members.flat_map(|member| ["--member".to_owned(), member]);
        let mut cluster = Cluster {
            options,
            flags: members.chain(flags.iter().map(|&flag| flag.to_owned())).collect(),
            addresses: addresses.to_vec(),
            nodes: (0..size).map(|_| None).collect(),
            data: options.data_directory()?,
        };
        (0..size).try_for_each(|node| cluster.start_node(node))?;
        cluster.leader()?;
        Ok(cluster)
    }

    /// Starts a node, for the first time or again.
    pub fn start_node(&mut self, node: usize) -> Result<(), Box<dyn Error>> {
        let mut command = Command::new(&self.options.kvorum);
        let id = (node + 1).to_string();
        command.args(["serve", "--id", &id, "--listen", &self.addresses[node].to_string()]);
        command.args(&self.flags);
        let data = self.data.path().join(format!("node{id}"));
        self.nodes[node] = Some(Server::kvorum(command, &data)?);
        Ok(())
    }

    /// Kills a node as a crash does.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    /// Waits until all nodes agree on a leader that has applied what it has committed.
    pub fn leader(&self) -> Result<usize, Box<dyn Error>> {
        until("the nodes agree on a leader", || {
            let named = self.addresses.iter().map(|&address| {
                let status = Text::connect(address).ok()?.ask("STATUS").ok()?;
                status.split(' ').find_map(|word| word.strip_prefix("leader=")?.parse().ok())
            });
            let named: Option<Vec<usize>> = named.collect();
            let leader = named.filter(|named| named.iter().all(|id| *id == named[0]))?[0];
            let index = leader.checked_sub(1).filter(|index| *index < self.nodes.len())?;
            let answer = Text::connect(self.addresses[index]).ok()?.ask("GET nothing").ok()?;
            (answer == "NOT_FOUND").then_some(index)
        })
    }

    /// Where the other nodes serve clients.
    pub fn others(&self, node: usize) -> impl Iterator<Item = SocketAddr> {
        let addresses = self.addresses.iter().enumerate();
        addresses.filter(move |(other, _)| *other != node).map(|(_, address)| *address)
    }

    /// For the generator: some of the nodes, and the CPU time of all.
    fn target(&self, servers: &[SocketAddr]) -> Target {
        Target {
            servers: servers.to_vec(),
            pids: self.nodes.iter().flatten().map(Server::pid).collect(),
            protocol: "binary",
            wait: None,
        }
    }

    /// Stores all keys.
    fn preload(&self) -> Result<(), Box<dyn Error>> {
        preload(&self.target(&[self.addresses[self.leader()?]]), self.options)
    }

    fn run(&self, load: Load, target: &Target) -> Result<Sample, Box<dyn Error>> {
        let program = Command::new(&self.options.kvorum);
        measure(kvorum_bench(program, load, target, self.options), target)
    }
}

/// Durable on a majority, linearizable: the defaults; all requests go to the leader.
pub struct AtLeader<'a> {
    cluster: Cluster<'a>,
    load: Load,
}

impl<'a> AtLeader<'a> {
    /// A fresh cluster that holds all keys.
    pub fn start(load: Load, options: &'a Common) -> Result<AtLeader<'a>, Box<dyn Error>> {
        let cluster = Cluster::start(NODES, &[], options)?;
        cluster.preload()?;
        Ok(AtLeader { cluster, load })
    }
}

impl Contender for AtLeader<'_> {
    fn name(&self) -> String {
        "kvorum".to_owned()
    }

    fn measure(&self) -> Result<Sample, Box<dyn Error>> {
        let leader = self.cluster.addresses[self.cluster.leader()?];
        self.cluster.run(self.load, &self.cluster.target(&[leader]))
    }
}

/// R = 1: every node answers by itself; connections are spread over all of them.
pub struct Spread<'a>(AtLeader<'a>);

impl<'a> Spread<'a> {
    /// A fresh cluster that holds all keys.
    pub fn start(
        size: usize,
        load: Load,
        options: &'a Common,
    ) -> Result<Spread<'a>, Box<dyn Error>> {
        let cluster = Cluster::start(size, &["--read-quorum", "1"], options)?;
        cluster.preload()?;
        Ok(Spread(AtLeader { cluster, load }))
    }
}

impl Contender for Spread<'_> {
    fn name(&self) -> String {
        format!("nodes: {}", self.0.cluster.addresses.len())
    }

    fn measure(&self) -> Result<Sample, Box<dyn Error>> {
        let Spread(AtLeader { cluster, load }) = self;
        cluster.run(*load, &cluster.target(&cluster.addresses))
    }
}

/// A connection that speaks lines.
pub struct Text(BufReader<TcpStream>);

impl Text {
    /// Connects to a node.
    pub fn connect(address: SocketAddr) -> io::Result<Text> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Text(BufReader::new(stream)))
    }

    /// The line that answers this one.
    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        answer.truncate(answer.trim_end().len());
        Ok(answer)
    }
}
