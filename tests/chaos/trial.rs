//! One scenario: a cluster, clients at it all the time, what befalls it, and the verdict.
//!
//! Scenarios run one at a time, so that each has the machine to itself. `KVORUM_CHAOS_SECONDS`
//! makes each repeat itself, with a new cluster, for so long.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::network::{CLIENT_PORT, Network, PEER_PORT, node_host, proxy_host};
use super::proxy::Proxies;
use super::traffic::Traffic;
use super::verdict;
use crate::support::cluster::{Cluster, Place};
use crate::support::disk::SmallDisk;

/// Answers that clients must have before the trouble begins, and after it has ended.
const ANSWERS: usize = 300;

/// What lies between the nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wires {
    /// The loopback interface, which nothing can cut.
    Loopback,
    /// A namespace for each node.
    Network,
    /// The same, with a proxy for each link.
    Proxies,
}

/// What a scenario needs.
pub struct Plan {
    pub name: &'static str,
    pub voters: usize,
    pub learners: usize,
    pub wires: Wires,
    /// Flags for every node.
    pub arguments: &'static [&'static str],
    /// The size of the disk that each node has for itself; `None`: they share one.
    pub disk_mebibytes: Option<u64>,
}

/// Patient enough for a machine that has other things to do: nobody is to stand for election only
/// because it had to wait for the processor.
pub const PATIENT: &[&str] = &["--election-timeout-ms", "600", "--heartbeat-ms", "60"];

impl Plan {
    /// Three voters on the loopback interface.
    pub fn new(name: &'static str) -> Plan {
        Plan {
            name,
            voters: 3,
            learners: 0,
            wires: Wires::Loopback,
            arguments: PATIENT,
            disk_mebibytes: None,
        }
    }

    /// Runs the scenario: `play` does what there is to do while clients ask, and ends when all
    /// nodes run again and can hear each other. Answers whether the machine allows it.
    pub fn run(&self, play: impl Fn(&mut Trial) + Sync) -> bool {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + Duration::from_secs(long_form_seconds());
        loop {
            if let Err(reason) = self.run_once(&play) {
                self.skip(&reason);
                return false;
            }
            if Instant::now() >= end {
                return true;
            }
        }
    }

    fn run_once(&self, play: &(impl Fn(&mut Trial) + Sync)) -> Result<(), String> {
        let network = match self.wires {
            Wires::Loopback => None,
            Wires::Network | Wires::Proxies => Some(Network::new(self.voters + self.learners)?),
        };
        let disks = (0..self.voters + self.learners)
            .filter_map(|_| self.disk_mebibytes)
            .map(SmallDisk::try_new)
            .collect::<Result<Vec<_>, _>>()?;
        match &network {
            None => self.act(None, disks, play),
            Some(network) => network.hub().inside(|| self.act(Some(network), disks, play)),
        }
        Ok(())
    }

    fn act(&self, network: Option<&Network>, disks: Vec<SmallDisk>, play: &impl Fn(&mut Trial)) {
        let began = Instant::now();
        let proxies =
            (self.wires == Wires::Proxies).then(|| Proxies::start(self.voters + self.learners));
        let secret = tempfile::NamedTempFile::new().expect("a file can be made");
        writeln!(secret.as_file(), "a secret of the nodes under test").expect("it can be written");
        let places = 1..=self.voters + self.learners;
        let places = places.map(|id| self.place(id, network, secret.path())).collect();
        let mut cluster = Cluster::prepare_at(places, self.voters, self.arguments);
        for (id, disk) in (1..).zip(&disks) {
            cluster.keep_data_in(id, disk.path().join("data"));
        }
        let nodes = 1..=self.voters + self.learners;
        nodes.clone().for_each(|id| cluster.start_node(id));
        let leader = cluster.leader();
        let term = cluster.node(leader).status_number("term");
        let traffic = Traffic::start(nodes.map(|id| cluster.address(id).to_owned()).collect());
        let mut trial = Trial { traffic, cluster, proxies, network, disks, notes: String::new() };
        trial.traffic.answers(ANSWERS);
        play(&mut trial);
        trial.traffic.answers(ANSWERS);
        let figures = trial.traffic.stop();
        let leader = trial.cluster.leader();
        let elections = trial.cluster.node(leader).status_number("term") - term;
        verdict::judge(&mut trial);
        say(&format!(
            "{}: {} answers, {} refusals, {} open, {elections} elections, longest outage {} ms, \
             {:.1} s{}",
            self.name,
            figures.answered,
            figures.refused,
            figures.open,
            figures.longest_outage.as_millis(),
            began.elapsed().as_secs_f64(),
            trial.notes
        ));
    }

    fn place(&self, id: usize, network: Option<&Network>, secret: &Path) -> Place {
        // Whatever becomes of this process, its nodes do not stay behind.
        let mut under = ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).to_vec();
        let Some(network) = network else { return Place { under, ..Place::free() } };
        under.extend(["nsenter".to_owned(), format!("--net={}", network.node(id).path())]);
        let own = format!("{}:{PEER_PORT}", node_host(id));
        let peer = match self.wires {
            Wires::Proxies => format!("{}:{PEER_PORT}", proxy_host(id)),
            _ => own.clone(),
        };
        let secret = secret.to_str().expect("UTF-8");
        let arguments = ["--cluster-secret-file", secret, "--peer-listen", &own];
        Place {
            client: format!("{}:{CLIENT_PORT}", node_host(id)),
            peer,
            arguments: arguments.map(str::to_owned).to_vec(),
            under,
        }
    }

    /// Says that this was not tested, and why.
    fn skip(&self, reason: &str) {
        SKIPPED.fetch_add(1, Relaxed);
        say(&format!("SKIPPED {}: this machine does not allow it: {reason}", self.name));
    }
}

/// Scenarios that were not tested.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Prints a line that the test harness does not swallow.
fn say(line: &str) {
    static SAID: AtomicUsize = AtomicUsize::new(0);
    let (said, skipped) = (SAID.fetch_add(1, Relaxed) + 1, SKIPPED.load(Relaxed));
    let _ = writeln!(std::io::stderr(), "chaos {said} ({skipped} skipped): {line}");
}

fn long_form_seconds() -> u64 {
    let seconds = std::env::var("KVORUM_CHAOS_SECONDS").ok();
    seconds.map_or(0, |seconds| seconds.parse().expect("KVORUM_CHAOS_SECONDS is a number"))
}

/// A scenario under way.
pub struct Trial<'a> {
    // Dropped in this order.
    pub traffic: Traffic,
    pub cluster: Cluster,
    proxies: Option<Proxies>,
    network: Option<&'a Network>,
    disks: Vec<SmallDisk>,
    notes: String,
}

impl Trial<'_> {
    pub fn network(&self) -> &Network {
        self.network.expect("the plan asks for one")
    }

    pub fn proxies(&self) -> &Proxies {
        self.proxies.as_ref().expect("the plan asks for them")
    }

    /// The disk of a node.
    pub fn disk(&self, id: usize) -> &SmallDisk {
        &self.disks[id - 1]
    }

    /// Adds something to the line that is printed at the end.
    pub fn note(&mut self, words: &str) {
        write!(self.notes, "; {words}").expect("a String takes everything");
    }
}
