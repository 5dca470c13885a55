//! Several `kvorum serve` processes that form a cluster on the loopback interface.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use kvorum_protocol::{Member, MemberList, Role};

use super::client::Text;
use super::server::{Exit, Server};
use super::until;

/// Voters first, then learners; their ids count from 1.
pub struct Cluster {
    nodes: Vec<Node>,
    voters: usize,
    /// The member list, as every node is told it.
    members: Vec<String>,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
}

/// Where a node is, and how it is run.
pub struct Place {
    /// Where it serves clients.
    pub client: String,
    /// Where the others call it.
    pub peer: String,
    /// Flags of its own.
    pub arguments: Vec<String>,
    /// The program that becomes the node, with its arguments; empty: none is needed.
    pub under: Vec<String>,
}

impl Place {
    /// On the loopback interface, where nobody else is.
    pub fn free() -> Place {
        let (client, peer) = (free_address(), free_address());
        Place { client, peer, arguments: Vec::new(), under: Vec::new() }
    }
}

struct Node {
    place: Place,
    data: PathBuf,
    server: Option<Server>,
    /// What it is told of the others and of itself, if that is not the member list.
    told: Option<Vec<String>>,
}

impl Cluster {
    /// Starts so many voters, and waits until one of them leads.
    pub fn start(voters: usize) -> Cluster {
        Cluster::start_with(voters, 0, &[])
    }

    /// The same with learners, and with further flags for every node.
    pub fn start_with(voters: usize, learners: usize, arguments: &[&str]) -> Cluster {
        let mut cluster = Cluster::prepare(voters, learners, arguments);
        (1..=voters + learners).for_each(|id| cluster.start_node(id));
        cluster.leader();
        cluster
    }

    /// Nodes that know of each other; none is started.
    pub fn prepare(voters: usize, learners: usize, arguments: &[&str]) -> Cluster {
        let places = (0..voters + learners).map(|_| Place::free()).collect();
        Cluster::prepare_at(places, voters, arguments)
    }

    /// The same at these places: the voters', then the learners'.
    pub fn prepare_at(places: Vec<Place>, voters: usize, arguments: &[&str]) -> Cluster {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut members = Vec::new();
        let mut nodes = Vec::new();
        for (id, place) in (1..).zip(places) {
            let flag = if id <= voters { "--member" } else { "--learner" };
            members.extend([flag.to_owned(), format!("{id}={}/{}", place.client, place.peer)]);
            let data = directory.path().join(format!("node{id}"));
            nodes.push(Node { place, data, server: None, told: None });
        }
        Cluster {
            nodes,
            voters,
            members,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            directory,
        }
    }

    /// One more node, which is not started: it shall join those that run now.
    pub fn add_node(&mut self) -> usize {
        let id = self.nodes.len() + 1;
        let servers: Vec<&str> = self.running().map(|id| self.address(id)).collect();
        let told = Some(vec!["--join".to_owned(), servers.join(",")]);
        let data = self.directory.path().join(format!("node{id}"));
        self.nodes.push(Node { place: Place::free(), data, server: None, told });
        id
    }

    /// From its next start on a node is told nothing of the others.
    pub fn tell_nothing(&mut self, id: usize) {
        self.nodes[id - 1].told = Some(Vec::new());
    }

    /// Starts a node, for the first time or again.
    pub fn start_node(&mut self, id: usize) {
        self.start_node_with(id, &[]);
    }

    /// The same with further flags.
    pub fn start_node_with(&mut self, id: usize, more: &[&str]) {
        let started = self.try_start(id, more);
        started.unwrap_or_else(|exit| panic!("node {id} did not start: {exit:?}"));
    }

    /// Starts a node, which may fail.
    pub fn try_start_node(&mut self, id: usize) -> Result<(), Exit> {
        self.try_start(id, &[])
    }

    fn try_start(&mut self, id: usize, more: &[&str]) -> Result<(), Exit> {
        let arguments = self.arguments_of(id);
        let arguments: Vec<&str> =
            arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let Node { place, data, told, .. } = &self.nodes[id - 1];
        let server = match told.is_some() {
            true => Server::try_start_at_home(data, &arguments)?,
            false => Server::try_start_under(&place.under, data, &arguments)?,
        };
        self.nodes[id - 1].server = Some(server);
        Ok(())
    }

    /// What a node that does not run is told at its next start.
    fn arguments_of(&self, id: usize) -> Vec<String> {
        assert!(self.nodes[id - 1].server.is_none(), "node {id} runs");
        let Node { place, told, .. } = &self.nodes[id - 1];
        let mut own = vec!["--id".to_owned(), id.to_string()];
        if told.is_none() {
            own.extend(["--listen".to_owned(), place.client.clone()]);
        }
        let told = told.as_ref().unwrap_or(&self.members);
        own.extend(told.iter().chain(&self.arguments).chain(&place.arguments).cloned());
        own
    }

    /// Starts a node that was [added](Cluster::add_node), and kills it when it is time, whether or
    /// not it serves by then.
    pub fn start_node_and_kill(&mut self, id: usize, is_time: impl FnMut() -> bool) {
        let arguments = self.arguments_of(id);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let exit = Server::start_at_home_and_kill(&self.data(id), &arguments, is_time);
        assert!(exit.signal.is_some(), "it has ended by itself: {exit:?}");
    }

    /// Puts the data of a node, before its first start, elsewhere.
    pub fn keep_data_in(&mut self, id: usize, data: PathBuf) {
        self.nodes[id - 1].data = data;
    }

    /// The data directory of a node.
    pub fn data(&self, id: usize) -> PathBuf {
        self.nodes[id - 1].data.clone()
    }

    /// A node that runs.
    pub fn node(&self, id: usize) -> &Server {
        self.nodes[id - 1].server.as_ref().unwrap_or_else(|| panic!("node {id} does not run"))
    }

    fn node_mut(&mut self, id: usize) -> &mut Server {
        self.nodes[id - 1].server.as_mut().unwrap_or_else(|| panic!("node {id} does not run"))
    }

    /// A new connection to a node that speaks the text protocol.
    pub fn text(&self, id: usize) -> Text {
        self.node(id).text()
    }

    /// Where a node serves clients, whether or not it runs.
    pub fn address(&self, id: usize) -> &str {
        &self.nodes[id - 1].place.client
    }

    /// Where a node serves its peers, whether or not it runs.
    pub fn peer_address(&self, id: usize) -> &str {
        &self.nodes[id - 1].place.peer
    }

    /// The member list, as every node is told it.
    pub fn member_list(&self) -> MemberList {
        let parse = |pair: &[String]| {
            let role = if pair[0] == "--member" { Role::Voter } else { Role::Learner };
            Member::parse(&pair[1], role).expect("a member")
        };
        MemberList::new(self.members.chunks(2).map(parse).collect()).expect("a list of members")
    }

    /// Starts a node that will not live, and waits for its end.
    pub fn start_in_vain(&mut self, id: usize) -> Exit {
        match self.try_start(id, &[]) {
            Err(exit) => exit,
            Ok(()) => {
                let exit = self.node_mut(id).wait();
                self.nodes[id - 1].server = None;
                exit
            }
        }
    }

    /// The addresses of all nodes, as `--servers` takes them.
    pub fn servers(&self) -> String {
        let addresses: Vec<&str> =
            self.nodes.iter().map(|node| node.place.client.as_str()).collect();
        addresses.join(",")
    }

    /// Voters and learners that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        (1..=self.nodes.len()).filter(|id| self.nodes[id - 1].server.is_some())
    }

    /// Waits until the nodes that run agree on one of them as the leader, and it can serve.
    pub fn leader(&self) -> usize {
        self.leader_of(&self.running().collect::<Vec<_>>())
    }

    /// The same among some of the nodes.
    pub fn leader_of(&self, ids: &[usize]) -> usize {
        until("the nodes agree on a leader", || {
            let mut named = ids.iter().map(|&id| self.node(id).status("leader"));
            let first = named.next().expect("a node");
            let leader = first.parse::<usize>().ok().filter(|leader| ids.contains(leader))?;
            named.all(|name| name == first).then_some(())?;
            let is_served = self.text(leader).ask("GET nothing") == "NOT_FOUND";
            (is_served && self.node(leader).status("role") == "leader").then_some(leader)
        })
    }

    /// The voters that run and do not lead.
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        self.running().filter(|&id| id != leader && id <= self.voters).collect()
    }

    /// Waits until these nodes have applied all that the leader has committed now.
    pub fn wait_until_applied(&self, ids: &[usize]) {
        let committed = self.node(self.leader()).status_number("commit");
        for &id in ids {
            self.node(id).wait_for_status("applied", |applied| applied >= committed);
        }
    }

    /// Kills a node as a crash does.
    pub fn kill(&mut self, id: usize) {
        self.node_mut(id).kill();
        self.nodes[id - 1].server = None;
    }

    /// Waits until a node ends by itself; answers what it said.
    pub fn wait_for_end(&mut self, id: usize) -> Exit {
        let exit = self.node_mut(id).wait();
        self.nodes[id - 1].server = None;
        exit
    }

    /// Asks a node to stop, as an operator does; answers what it said.
    pub fn terminate(&mut self, id: usize) -> Exit {
        let exit = self.node_mut(id).terminate();
        self.nodes[id - 1].server = None;
        exit
    }

    /// Holds a node up; it hears nothing and says nothing until [`resume`](Cluster::resume).
    pub fn pause(&self, id: usize) {
        self.node(id).pause();
    }

    pub fn resume(&self, id: usize) {
        self.node(id).resume();
    }
}

/// What the nodes have logged, when a test fails.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut text = String::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let Some(server) = &mut node.server else { continue };
            let log = server.kill().stderr;
            let _ = writeln!(text, "-- node {} ({}) --\n{log}", at + 1, node.place.client);
        }
        eprintln!("{text}");
    }
}

/// An address that nobody listens on. Below the ports that the kernel gives to outgoing
/// connections, so that it stays free until a node takes it, and takes it again.
fn free_address() -> String {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes begin elsewhere.
    let start = std::process::id().wrapping_mul(97);
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(next < COUNT, "there is no free port");
        let address = format!("127.0.0.1:{}", FIRST + start.wrapping_add(next) % COUNT);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
