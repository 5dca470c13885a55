//! The other members, as the reactor's turn sees them: [`Peers::receive`] what has come,
//! [`Peers::send`] what the core says, [`Peers::flush`] once at the end.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::peer::wire::{self, Frame};
use kvorum_protocol::peer::{Lane, Message, Reason, Refusal, Secret};
use kvorum_protocol::{ClusterId, LogIndex, MemberList, NodeId};
use mio::event::Event;
use mio::{Interest, Registry, Token, Waker};

use super::known::Known;
use super::known_file::KnownFile;
use super::link::{End, Link, Origin, Stage};
use super::resolve::Resolver;
use super::roster::Roster;
use super::route::{Route, lane_at};
use super::said::Said;
use crate::core::{Instant, Node, Now};
use crate::disk::Disk;
use crate::net::listener::Listener;
use crate::net::log_queue::LogState;

/// Marks the tokens of peers. Those of clients have a slot in their lower half, which never grows
/// so large.
const PEER_TOKEN: u64 = 1 << 31;

/// What one link may bring in a turn before the others have theirs.
const READ_BUDGET_BYTES: usize = 4 << 20;

/// Accepted connections that are still in their handshake. When there are more, the one that has
/// waited longest has to go: a member is through long before.
pub(super) const STRANGERS_MAX: usize = 16;

/// How many descriptors the connections with `others` members need, and a few for strangers.
pub fn descriptors(others: usize) -> u64 {
    (4 * others + STRANGERS_MAX + 2) as u64
}

/// Whether a token is that of a peer's connection.
pub fn is_peer(token: u64) -> bool {
    token & PEER_TOKEN != 0
}

/// What there is to know before anybody is met.
pub struct PeersConfig {
    /// This node.
    pub id: NodeId,
    /// All members.
    pub members: MemberList,
    /// Where that list stands in the log of the cluster that this node joins; 0 for one whose own
    /// log says it.
    pub told_index: LogIndex,
    /// Where others reach this node, `host:port`.
    pub address: String,
    /// The cluster that the data directory belongs to.
    pub cluster: ClusterId,
    /// The incarnation of the data directory.
    pub incarnation: u64,
    /// How the log ends, durably.
    pub durable: LogState,
    /// What is known of the voters.
    pub known: Known,
    /// What members prove to each other.
    pub secret: Option<Secret>,
    /// Where members call.
    pub listener: Listener,
    /// Whether to print each message.
    pub trace: bool,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
}

/// All connections with other members, and with strangers that may become one.
#[derive(Debug)]
pub struct Peers {
    pub(super) id: NodeId,
    pub(super) roster: Roster,
    /// Where others reach this node.
    pub(super) address: String,
    pub(super) cluster: ClusterId,
    pub(super) incarnation: u64,
    /// Drawn for this process.
    pub(super) boot: u64,
    /// Counts the connections that it has dialed.
    pub(super) epoch: u64,
    /// How the log ends, durably.
    pub(super) durable: LogState,
    pub(super) secret: Option<Secret>,
    pub(super) known: Known,
    pub(super) known_file: KnownFile,
    /// Another member knows that this node has forgotten what it has promised, or was removed.
    verdict: Option<Refusal>,
    trace: bool,
    pub(super) registry: Registry,
    pub(super) listener: Listener,
    /// When to accept again; `None` while nobody is known to wait.
    pub(super) accept_at: Option<Instant>,
    pub(super) resolver: Resolver,
    /// One for each other member.
    pub(super) routes: BTreeMap<NodeId, Route>,
    pub(super) links: BTreeMap<u64, Box<Link>>,
    /// Who is no member any more, but leads until it has handed over.
    pub(super) leaving: Vec<NodeId>,
    links_made: u32,
    /// Links with something to do, each at most once.
    queue: VecDeque<u64>,
    /// Links with something to send, each at most once.
    dirty: Vec<u64>,
    pub(super) said: Said,
}

impl Peers {
    /// Begins to listen and to dial. `listener` is the token of the listening socket; `waker`
    /// interrupts the poll.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn start(
        mut config: PeersConfig,
        registry: Registry,
        listener: Token,
        waker: Arc<Waker>,
    ) -> std::io::Result<Peers> {
        registry.register(config.listener.source(), listener, Interest::READABLE)?;
        let roster = Roster::new(config.id, config.members, config.told_index);
        let routes = roster.others().map(|member| (member.id, Route::new(member)));
        Ok(Peers {
            id: config.id,
            routes: routes.collect(),
            roster,
            address: config.address,
            cluster: config.cluster,
            incarnation: config.incarnation,
            boot: rand::random(),
            epoch: 0,
            durable: config.durable,
            secret: config.secret,
            known: config.known,
            known_file: KnownFile::start(config.disk, Arc::clone(&waker))?,
            verdict: None,
            trace: config.trace,
            registry,
            listener: config.listener,
            accept_at: None,
            resolver: Resolver::new(waker),
            links: BTreeMap::new(),
            leaving: Vec::new(),
            links_made: 0,
            queue: VecDeque::new(),
            dirty: Vec::new(),
            said: Said::default(),
        })
    }

    // What the kernel says

    /// Somebody waits to be accepted.
    pub fn on_caller(&mut self, now: &Now) {
        self.accept_at = Some(now.monotonic);
    }

    /// Something has happened to a link; `token` is a peer's.
    pub fn on_event(&mut self, token: u64, event: &Event) {
        let Some(link) = self.links.get_mut(&token) else { return };
        link.on_event(event);
        if !link.queued {
            link.queued = true;
            self.queue.push_back(token);
        }
    }

    /// Whether the poll must not sleep.
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the poll must wake up, if nothing happens.
    pub fn deadline(&self) -> Instant {
        let routes = self.routes.values().map(Route::deadline);
        let links = self.links.values().map(|link| link.deadline);
        let accept = self.accept_at.unwrap_or(Instant::NEVER);
        routes.chain(links).fold(accept, Instant::min)
    }

    // The turn

    /// Hands the core what has come, and keeps the connections alive.
    pub fn receive(&mut self, now: &Now, node: &mut Node) {
        self.follow_members(now, node);
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            self.serve(id, now, node);
        }
        self.let_in_judged(now, node);
        self.accept(now, node);
        self.take_resolved(now, node);
        self.end_late(now, node);
        self.dial_due(now, node);
    }

    /// Puts a message on its way, or drops it when there is none.
    pub fn send(&mut self, now: &Now, to: NodeId, message: &Message) {
        let Some(route) = self.routes.get_mut(&to) else { return };
        let Some(id) = route.open_link(message.lane()) else { return };
        if self.trace {
            trace(now, self.id, to, message);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.outbox.push(message);
        mark_dirty(link, &mut self.dirty);
        // A leader gets no chance to acknowledge what it has itself: it says so beside.
        let LogState { term, last } = self.durable;
        let told = &mut route.told_durable;
        if matches!(message, Message::Heartbeat { term: led, .. } if *led == term) && *told < last {
            *told = last;
            link.outbox.append(|out| wire::encode_durable(term, last, out));
        }
    }

    /// The log is durable up to this state. Tells the others which term this node remembers, when
    /// that has grown.
    pub fn set_durable(&mut self, durable: LogState) {
        let has_term = durable.term > self.durable.term;
        self.durable = durable;
        if !has_term {
            return;
        }
        for route in self.routes.values_mut() {
            route.told_durable = LogIndex(0);
            let Some(id) = route.open_link(Lane::Control) else { continue };
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.outbox.append(|out| wire::encode_durable(durable.term, LogIndex(0), out));
            mark_dirty(link, &mut self.dirty);
        }
    }

    /// Sends what has been put on its way, with one write for each connection.
    pub fn flush(&mut self, now: &Now, node: &mut Node) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.dirty = false;
            if let Err(end) = link.send() {
                self.end(id, end, now, node);
            }
        }
        self.dirty = dirty;
    }

    /// Why this node must stop, if it must: another member knows that it has forgotten what it has
    /// promised, or that it was removed.
    pub fn take_verdict(&mut self) -> Option<Refusal> {
        self.verdict.take()
    }

    // Links

    /// A name for the next link.
    pub(super) fn next_id(&mut self) -> u64 {
        self.links_made = self.links_made.wrapping_add(1);
        u64::from(self.links_made) << 32 | PEER_TOKEN
    }

    fn serve(&mut self, id: u64, now: &Now, node: &mut Node) {
        let Some(mut link) = self.links.remove(&id) else { return };
        link.queued = false;
        let advanced = self.advance(&mut link, now, node);
        if advanced.is_ok() && link.is_readable() {
            link.queued = true;
            self.queue.push_back(id);
        }
        self.links.insert(id, link);
        if let Err(end) = advanced {
            self.end(id, end, now, node);
        }
    }

    /// Does what there is to do: connects, sends, reads.
    fn advance(&mut self, link: &mut Link, now: &Now, node: &mut Node) -> Result<(), End> {
        if matches!(link.stage, Stage::Connecting) {
            if !link.is_connected()? {
                return Ok(());
            }
            self.greet(link, now);
        }
        link.send()?;
        let mut bytes = 0;
        while link.is_readable() && bytes < READ_BUDGET_BYTES {
            bytes += link.fill()?;
            while let Some(frame) = link.next_frame()? {
                match link.stage {
                    Stage::Open => self.take_message(link, &frame, now, node)?,
                    _ => self.take_introduction(link, &frame, now, node)?,
                }
            }
        }
        if bytes > 0 && link.is_unfinished() {
            self.take_sign_of_life(link, now, node);
        }
        link.send()
    }

    fn take_message(
        &mut self,
        link: &Link,
        frame: &bytes::Bytes,
        now: &Now,
        node: &mut Node,
    ) -> Result<(), End> {
        let Origin::Accepted(Some(caller)) = link.origin else {
            // Members send on what they have dialed themselves.
            return Err(End::Malformed(kvorum_protocol::DecodeError::Invalid("direction")));
        };
        let from = caller.member;
        match wire::decode(frame)? {
            Frame::Message(message) => {
                if self.trace {
                    trace(now, from, self.id, &message);
                }
                let acknowledged = match message {
                    Message::Ack { term, durable, .. } => Some((term, durable)),
                    _ => None,
                };
                node.receive(now, from, message)?;
                if let Some((term, durable)) = acknowledged {
                    self.known.learn_durable(from, term, durable);
                }
            }
            Frame::Durable { term, last } => {
                self.known.learn_durable(from, term, last);
                if self.known.learn_term(from, term) {
                    self.known_file.submit(&self.known);
                }
            }
        }
        Ok(())
    }

    /// A part of a large message came: whoever sends it is alive.
    fn take_sign_of_life(&self, link: &Link, now: &Now, node: &mut Node) {
        if let (Stage::Open, Origin::Accepted(Some(caller))) = (&link.stage, &link.origin) {
            node.heard(now, caller.member);
        }
    }

    fn end_late(&mut self, now: &Now, node: &mut Node) {
        loop {
            let late = self.links.values().find(|link| link.deadline <= now.monotonic);
            let Some(id) = late.map(|link| link.id) else { return };
            self.end(id, End::Late, now, node);
        }
    }

    /// Closes a link, and says so where it matters.
    pub(super) fn end(&mut self, id: u64, end: End, now: &Now, node: &mut Node) {
        let Some(mut link) = self.links.remove(&id) else { return };
        if matches!(end, End::Refuses(_)) {
            link.take_leave();
        }
        // Closing the descriptor would do; a failure here means that it is gone already.
        let _ = self.registry.deregister(link.source());
        match &end {
            // A learner has promised nothing that it could forget.
            End::Refused { refusal, is_authentic: true }
                if refusal.reason == Reason::Amnesia && self.roster.is_voter()
                    || refusal.reason == Reason::Removed =>
            {
                self.verdict = Some(refusal.clone());
                return;
            }
            _ => {}
        }
        match link.origin {
            Origin::Dialed { member, lane, .. } => {
                let was_open = matches!(link.stage, Stage::Open);
                self.dial_ended((member, lane), was_open, &end, now, node);
            }
            Origin::Accepted(Some(caller)) => {
                let Some(route) = self.routes.get_mut(&caller.member) else { return };
                let incoming = &mut route.incoming[lane_at(caller.lane)];
                if *incoming == Some(id) {
                    *incoming = None;
                    // If its process is gone, so are the ways to it: that shows at once.
                    route.hurry(now.monotonic);
                }
                match end {
                    End::Malformed(_) | End::Violation(_) => {
                        log::warn!("member {}: {end}", route.member)
                    }
                    _ => log::debug!("member {}: {end}", route.member),
                }
            }
            Origin::Accepted(None) => self.stranger_ended(&link.address, &end, now),
        }
    }

    pub(super) fn dial_ended(
        &mut self,
        (member, lane): (NodeId, Lane),
        was_open: bool,
        end: &End,
        now: &Now,
        node: &mut Node,
    ) {
        let Some(route) = self.routes.get_mut(&member) else { return };
        let dial = route.dial(lane);
        if was_open {
            dial.broke(now.monotonic);
        } else {
            dial.failed(now.monotonic);
        }
        let address = &route.address;
        let line = match end {
            End::Broken(_) | End::Closed | End::Late if !was_open => "can not be reached".into(),
            _ => end.to_string(),
        };
        if std::mem::take(&mut route.is_joined) {
            log::warn!("member {member} ({address}): connection lost: {end}; trying again");
            // Why it can not be reached at once is no news.
            route.told = Some("can not be reached".into());
        } else if !was_open && route.told.as_ref() != Some(&line) {
            log::warn!("member {member} ({address}) can not be reached: {end}; trying on");
            route.told = Some(line);
        }
        let nobody_listens = matches!(
            end,
            End::Broken(error) if error.kind() == std::io::ErrorKind::ConnectionRefused
        );
        if nobody_listens && !route.is_heard() {
            node.member_lost(now, member);
        }
    }

    fn stranger_ended(&mut self, address: &str, end: &End, now: &Now) {
        match end {
            // Whoever looks whether the port is open, or has thought better of it.
            End::Broken(_) | End::Closed => log::debug!("peer port: {address}: {end}"),
            _ => {
                let line = end.to_string();
                if self.said.is_new(&line, now.monotonic) {
                    log::warn!("peer port: connection from {address} closed: {line}");
                }
            }
        }
    }
}

fn mark_dirty(link: &mut Link, dirty: &mut Vec<u64>) {
    if !link.dirty {
        link.dirty = true;
        dirty.push(link.id);
    }
}

/// Prints a message as one line: seconds since the start, sender, receiver, and the message in
/// Raft's words.
fn trace(now: &Now, from: NodeId, to: NodeId, message: &Message) {
    let since_start: Duration = now.monotonic.since(Instant::default());
    let (seconds, micros) = (since_start.as_secs(), since_start.subsec_micros());
    let line = message.trace(from);
    // Whoever has closed standard error does not want to read it.
    let _ = writeln!(std::io::stderr(), "trace {seconds}.{micros:06} {from}->{to} {line}");
}
