//! The commands of the scripts for clusters. A command for one node has the node as its prefix.

use std::error::Error;
use std::str::FromStr;

use kvorum::core::seeded::Bug;
use kvorum_protocol::{
    Change, Command, KeyList, Limits, LogIndex, Lsn, NodeId, Op, Quorum, Read, Role,
};

use super::cluster::Cluster;
use super::machine::{Setup, member};
use super::network::Link;
use super::script::{Client, Next, bounds, command, options};
use super::words::{Name, Text};

#[derive(goldenscript::Command)]
pub enum Step {
    /// First boot of all nodes.
    Boot {
        #[arg(key)]
        voters: u16,
        #[arg(key)]
        learners: Option<u16>,
        #[arg(key)]
        sessions: Option<usize>,
        /// Milliseconds after which an unused session is over.
        #[arg(key)]
        idle: Option<u64>,
        /// State hashes are noted at the indexes that are a multiple of it.
        #[arg(key)]
        checkpoints: Option<u64>,
        /// How many bytes of a snapshot a message carries.
        #[arg(key)]
        part: Option<usize>,
    },

    // For one node
    Set {
        client: Client,
        key: Text,
        value: Text,
        #[arg(key)]
        w: Option<Quorum>,
        /// Milliseconds.
        #[arg(key)]
        timeout: Option<u64>,
        #[arg(key)]
        session: Option<Name>,
    },
    Delete {
        client: Client,
        keys: Vec<Text>,
        #[arg(key)]
        w: Option<Quorum>,
        #[arg(key)]
        session: Option<Name>,
    },
    /// Opens a session.
    Open {
        client: Client,
        #[arg(key)]
        window: u32,
        #[arg(key)]
        w: Option<Quorum>,
    },
    Get {
        client: Client,
        key: Text,
        #[arg(key)]
        r: Option<Quorum>,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// Until so many others hold the client's last write.
    Wait {
        client: Client,
        others: usize,
        #[arg(key)]
        timeout: Option<u64>,
    },
    /// A node becomes a learner.
    Add {
        client: Client,
        id: u16,
        #[arg(key)]
        base: Option<u64>,
    },
    Remove {
        client: Client,
        id: u16,
        #[arg(key)]
        base: Option<u64>,
    },
    Promote {
        client: Client,
        id: u16,
    },
    Demote {
        client: Client,
        id: u16,
    },
    /// Leadership goes to a node, or to the best one.
    Transfer(Option<u16>),
    /// Its disk has synced up to this position, or all that it was given.
    Durable(Option<u64>),
    /// Its disk syncs only by `durable` from now on.
    Stall,
    Unstall,
    /// The power fails: what is not durable, or not up to `kept`, is lost.
    Crash {
        #[arg(key)]
        kept: Option<u64>,
    },
    /// The process dies: what was written stays.
    Kill,
    /// While it is down, its log is damaged behind this position, and repaired.
    Repair(u64),
    /// It notices that another one's process is gone.
    Refused(u16),
    /// The bytes that its log has room for; the `next` segment is ready, coming or lacking.
    Room {
        bytes: u64,
        #[arg(key)]
        next: Option<Next>,
    },
    /// Its state is damaged: a key is gone.
    Lose(Text),
    /// What its disk holds.
    Log,
    /// Its disk does what it was asked for.
    Serve,
    /// Takes a snapshot, at one go.
    Snapshot,
    /// Begins one, and nothing more.
    Begin,
    /// Goes on with it: a slice of so many places of the table, or all of it.
    Walk(Option<usize>),
    /// Gives up the log that its newest snapshot covers, as far as members within reach do not need
    /// it; with `spares=false`, whether they need it or not.
    Compact {
        #[arg(key)]
        spares: Option<bool>,
    },
    /// A leader's snapshot takes its time to be loaded, until `install`.
    Slow,
    Install,

    // For one node, or for all
    /// Time passes, and nobody looks.
    Elapse(u64),
    /// Time passes, and the timers are looked at.
    Tick(u64),
    Status,
    /// Who waits for an answer.
    Waiting,

    // For all
    /// A node starts from what its disk holds, and its connections stand again.
    Restart(u16),
    /// A node that shall join starts for the first time.
    Join(u16),
    /// Nobody hears of a leader for long, and this node is the first to stand.
    Elect(u16),
    /// Time passes in small steps, and all talk and sync meanwhile.
    Pass(u64),
    /// What is on its way on the link arrives: all of it, or one message.
    Deliver {
        link: Link,
        #[arg(key)]
        at: Option<usize>,
    },
    Drop {
        link: Link,
        #[arg(key)]
        at: Option<usize>,
    },
    Duplicate {
        link: Link,
        #[arg(key)]
        at: usize,
    },
    /// What is on its way.
    Links,
    Cut(Vec<Link>),
    Partition(Vec<Group>),
    Heal,
    /// All, or some, talk and sync until nothing is left to do.
    Stabilize(Option<Group>),
}

/// `1/2/3`
pub struct Group(Vec<NodeId>);

impl FromStr for Group {
    type Err = std::num::ParseIntError;

    fn from_str(group: &str) -> Result<Group, Self::Err> {
        group.split('/').map(|id| id.parse().map(NodeId)).collect::<Result<_, _>>().map(Group)
    }
}

/// One script: no cluster before its first `boot`.
#[derive(Default)]
pub struct Script {
    cluster: Option<Cluster>,
    /// For the test of the scripts.
    bug: Option<Bug>,
}

impl Script {
    pub fn with_bug(bug: Bug) -> Script {
        Script { cluster: None, bug: Some(bug) }
    }
}

impl goldenscript::Runner for Script {
    type Command = Step;

    fn run(
        &mut self,
        step: &Step,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        if let Step::Boot { voters, learners, sessions, idle, checkpoints, part } = step {
            let default = Setup::default();
            let (voters, learners, bug) = (*voters, learners.unwrap_or(0), self.bug);
            let sessions = bounds(*sessions, None, *idle);
            let checkpoint_entries = checkpoints.unwrap_or(default.checkpoint_entries);
            let part_bytes = part.unwrap_or(default.part_bytes);
            self.cluster = Some(Cluster::new(move |id| Setup {
                id,
                voters,
                learners,
                sessions,
                checkpoint_entries,
                part_bytes,
                bug,
                ..Setup::default()
            }));
            return Ok(String::new());
        }
        let cluster = self.cluster.as_mut().ok_or("a script begins with boot")?;
        match &context.prefix {
            Some(id) => run_on(cluster, NodeId(id.parse()?), step),
            None => run(cluster, step),
        }
    }
}

/// A command for all.
fn run(cluster: &mut Cluster, step: &Step) -> Result<String, Box<dyn Error>> {
    match step {
        Step::Tick(ms) => return Ok(cluster.tick_all(*ms)),
        Step::Status => {
            let ids = cluster.ids().into_iter();
            return Ok(ids.map(|id| format!("{id}: {}", cluster.machine(id).status())).collect());
        }
        Step::Waiting => {
            let ids = cluster.ids().into_iter();
            let lines = ids.flat_map(|id| {
                let waiting = cluster.machine(id).waiting();
                waiting.lines().map(|line| format!("{id}: {line}\n")).collect::<Vec<_>>()
            });
            return Ok(lines.collect());
        }
        Step::Join(id) => return Ok(cluster.join(NodeId(*id))),
        Step::Restart(id) => return Ok(cluster.restart(NodeId(*id))),
        Step::Elect(id) => return Ok(cluster.elect(NodeId(*id))),
        Step::Deliver { link, at } => return Ok(cluster.deliver(*link, *at)),
        Step::Links => return Ok(cluster.on_its_way()),
        Step::Pass(ms) => return Ok(cluster.pass(*ms)),
        Step::Heal => return Ok(cluster.heal()),
        Step::Stabilize(among) => {
            let among = among.as_ref().map_or_else(|| cluster.ids(), |among| among.0.clone());
            return Ok(cluster.stabilize(&among));
        }
        Step::Elapse(ms) => cluster.elapse(*ms),
        Step::Drop { link, at } => cluster.drop(*link, *at),
        Step::Duplicate { link, at } => cluster.duplicate(*link, *at),
        Step::Cut(links) => links.iter().for_each(|link| cluster.cut(*link)),
        Step::Partition(groups) => {
            let groups: Vec<_> = groups.iter().map(|group| group.0.clone()).collect();
            cluster.partition(&groups);
        }
        _ => return Err("this is for one node: 1: command".into()),
    }
    Ok(String::new())
}

/// A command for one node.
fn run_on(cluster: &mut Cluster, id: NodeId, step: &Step) -> Result<String, Box<dyn Error>> {
    let mut said = match step {
        Step::Tick(ms) => return Ok(cluster.tick(id, *ms)),
        Step::Durable(upto) => return Ok(cluster.durable(id, upto.map(Lsn))),
        Step::Crash { kept } => return Ok(cluster.crash(id, kept.map(Lsn))),
        Step::Kill => return Ok(cluster.kill(id)),
        Step::Repair(kept) => return Ok(cluster.machine(id).repair(Lsn(*kept))),
        Step::Stall | Step::Unstall => {
            cluster.stall(id, matches!(step, Step::Stall));
            return Ok(String::new());
        }
        Step::Elapse(ms) => {
            cluster.machine(id).elapse(*ms);
            return Ok(String::new());
        }
        Step::Lose(key) => {
            cluster.machine(id).lose(&key.0);
            return Ok(String::new());
        }
        Step::Status => return Ok(cluster.machine(id).status()),
        Step::Log => return Ok(cluster.machine(id).log()),
        Step::Waiting => return Ok(cluster.machine(id).waiting()),
        Step::Serve => return Ok(cluster.serve(id)),
        Step::Slow => {
            cluster.machine(id).load_slowly();
            return Ok(String::new());
        }
        Step::Begin => cluster.machine(id).begin_snapshot(),
        Step::Walk(buckets) => cluster.machine(id).walk_snapshot(buckets.unwrap_or(usize::MAX)),
        Step::Snapshot => {
            let machine = cluster.machine(id);
            machine.begin_snapshot() + &machine.walk_snapshot(usize::MAX)
        }
        Step::Compact { spares } => cluster.machine(id).compact(spares.unwrap_or(true)),
        Step::Install => cluster.machine(id).install(),
        Step::Refused(other) => {
            cluster.machine(id).member_lost(NodeId(*other));
            String::new()
        }
        Step::Transfer(to) => match cluster.machine(id).transfer(to.map(NodeId)) {
            Ok(()) => String::new(),
            Err(error) => format!("{error:?}\n"),
        },
        Step::Room { bytes, next } => {
            cluster.machine(id).room(*bytes, None, Next::or_ready(*next));
            String::new()
        }
        request => ask(cluster, id, request)?,
    };
    said += &cluster.turn(id);
    Ok(said)
}

fn ask(cluster: &mut Cluster, id: NodeId, request: &Step) -> Result<String, Box<dyn Error>> {
    let machine = cluster.machine(id);
    let scratch = &mut Vec::new();
    Ok(match request {
        Step::Set { client, key, value, w, timeout, session } => {
            let op = Op::Set { key: &key.0, value: &value.0 };
            machine.write(client.0, &command(*session, op), &options(*w, *timeout))
        }
        Step::Open { client, window, w } => {
            let op = Op::OpenSession { window: *window };
            machine.write(client.0, &Command::new(op), &options(*w, None))
        }
        Step::Delete { client, keys, w, session } => {
            let keys = keys.iter().map(|key| key.0.as_slice());
            let op = Op::DeleteMany(KeyList::encode(keys, &Limits::default(), scratch)?);
            machine.write(client.0, &command(*session, op), &options(*w, None))
        }
        Step::Get { client, key, r, timeout } => {
            machine.read(client.0, &Read::Get(&key.0), LogIndex(0), &options(*r, *timeout))
        }
        Step::Add { client, id, base } => {
            let change = Change::Add(member(NodeId(*id), Role::Learner));
            machine.change(client.0, &change, base.map(LogIndex))
        }
        Step::Remove { client, id, base } => {
            machine.change(client.0, &Change::Remove(NodeId(*id)), base.map(LogIndex))
        }
        Step::Promote { client, id } => {
            machine.change(client.0, &Change::Promote(NodeId(*id)), None)
        }
        Step::Demote { client, id } => machine.change(client.0, &Change::Demote(NodeId(*id)), None),
        Step::Wait { client, others, timeout } => machine.wait(client.0, *others, *timeout),
        _ => return Err("this is for all, without a node in front".into()),
    })
}
