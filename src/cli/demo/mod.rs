//! `kvorum demo`: three nodes on this machine, and what happens to them, as it happens.
//!
//! The nodes are processes of their own, so that killing one is the real thing. They end with the
//! demo, however it ends: see [`node`].

mod node;
mod story;
mod watch;

use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Error;
use node::{Node, TemporaryDirectory, how};
pub(super) use node::{NodeFlags, run as run_node};
use story::{Seen, Story};

const NODES: u16 = 3;

/// A node that has died starts again after this time: long enough to see what the others do.
const RESTART_AFTER: Duration = Duration::from_secs(5);

/// How long the nodes may take to stop before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Something for the main thread.
enum Event {
    /// A node says something else than before; `None`: nothing.
    Heard(u16, Option<Seen>),
    /// One of [`SIGCHLD`], [`SIGINT`] and [`SIGTERM`].
    Signal(i32),
}

struct Demo {
    nodes: Vec<Node>,
    members: Vec<String>,
    story: Story,
    start: Instant,
    /// Who starts again, and when.
    restarts: Vec<(Instant, u16)>,
    events: Receiver<Event>,
}

pub(super) fn run() -> Result<(), Error> {
    let directory = TemporaryDirectory::new()?;
    let (sender, events) = channel();
    forward_signals(sender.clone())?;
    let nodes = node::nodes(NODES, directory.path())?;
    let members = nodes.iter().map(Node::member).collect();
    let story = Story::new(usize::from(NODES));
    let start = Instant::now();
    let mut demo = Demo { nodes, members, story, start, restarts: Vec::new(), events };
    let result = demo.run(&sender);
    demo.stop();
    result
}

fn forward_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

impl Demo {
    fn run(&mut self, sender: &Sender<Event>) -> Result<(), Error> {
        for id in 1..=NODES {
            self.start_node(id)?;
        }
        self.introduce()?;
        for node in &self.nodes {
            watch::watch(node.id, node.client.clone(), sender.clone());
        }
        loop {
            match self.next_event() {
                Some(Event::Heard(id, seen)) => {
                    let lines = self.story.heard(self.start.elapsed(), id, seen);
                    lines.iter().try_for_each(|line| self.tell(line))?;
                }
                Some(Event::Signal(SIGCHLD)) => self.bury()?,
                Some(Event::Signal(_)) => return Ok(()),
                None => self.restart()?,
            }
        }
    }

    /// Waits for an event, or until somebody is to be started again (`None`).
    fn next_event(&self) -> Option<Event> {
        let Some((at, _)) = self.restarts.first() else {
            return Some(self.events.recv().expect("the signals are there to the end"));
        };
        match self.events.recv_timeout(at.saturating_duration_since(Instant::now())) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => unreachable!("the signals are there to the end"),
        }
    }

    fn node(&mut self, id: u16) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    fn start_node(&mut self, id: u16) -> io::Result<u32> {
        let members = self.members.clone();
        let pid = self.node(id).start(&members)?;
        self.story.started(id, pid);
        Ok(pid)
    }

    /// Tells who has died, and when they will be back.
    fn bury(&mut self) -> Result<(), Error> {
        for id in 1..=NODES {
            let Some(status) = self.node(id).take_exit()? else { continue };
            if !self.story.was_heard(id) {
                return Err(Error::Demo { id, last_words: self.node(id).last_words() });
            }
            let now = self.start.elapsed();
            let line = self.story.ended(now, id, &how(status), RESTART_AFTER);
            self.tell(&line)?;
            if let Some(line) = self.story.majority() {
                self.tell(&line)?;
            }
            self.restarts.push((Instant::now() + RESTART_AFTER, id));
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), Error> {
        let (_, id) = self.restarts.remove(0);
        let pid = self.start_node(id)?;
        self.tell(&format!("node {id} starts again (pid {pid})"))?;
        self.story.majority();
        Ok(())
    }

    fn tell(&self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "[{:8.3} s] {line}", self.start.elapsed().as_secs_f64())?;
        out.flush()
    }

    /// Says who is there and how to talk to them.
    fn introduce(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "Three nodes on this machine; their data is removed at the end.\n")?;
        for node in &self.nodes {
            writeln!(
                out,
                "  node {}  pid {}  clients {}  peers {}  log {}",
                node.id,
                node.pid().unwrap_or_default(),
                node.client,
                node.peer,
                node.log.display()
            )?;
        }
        let first = &self.nodes[0].client;
        let (host, port) = first.rsplit_once(':').expect("host:port");
        let servers: Vec<&str> = self.nodes.iter().map(|node| node.client.as_str()).collect();
        let servers = servers.join(",");
        let kvorum = std::env::args().next().unwrap_or_else(|| "kvorum".to_owned());
        write!(
            out,
            "\nTalk to them, from another terminal:\n
  nc {host} {port}        then: SET greeting hello, GET greeting, WHO_IS_LEADER, STATUS, HELP
  redis-cli -p {port}        then: SET greeting hello, GET greeting, INFO replication

  export KVORUM_SERVERS={servers}
  {kvorum} set greeting hello
  {kvorum} get greeting
  {kvorum} status
  {kvorum} transfer

Every node answers reads; one that does not lead answers a write with the leader's address. Kill the
leader (the lines below name its process): another is elected, and what was acknowledged is still
there. Ctrl-C stops everything.\n\n"
        )?;
        out.flush()
    }

    /// Stops all nodes; those that do not stop are killed.
    fn stop(&mut self) {
        let deadline = Instant::now() + STOP_PATIENCE;
        self.nodes.iter().for_each(Node::terminate);
        // A node that ends is a signal.
        while self.any_is_left() {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.events.recv_timeout(left).is_err() {
                break;
            }
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// Whether there is still a process. An error counts as none: all are killed in the end.
    fn any_is_left(&mut self) -> bool {
        let mut exits = self.nodes.iter_mut().map(Node::take_exit);
        exits.all(|exit| exit.is_ok()) && self.nodes.iter().any(|node| node.pid().is_some())
    }
}
