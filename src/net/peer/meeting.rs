//! How connections with members begin: dialing, accepting, and the handshake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kvorum_protocol::limits::MEMBERS_MAX;
use kvorum_protocol::peer::handshake::{Acceptor, Dialer, Failure, Step};
use kvorum_protocol::peer::wire;
use kvorum_protocol::peer::{Introduction, Lane, Refusal};
use kvorum_protocol::{LogIndex, NodeId};
use mio::net::TcpStream;
use mio::{Interest, Token};

use super::link::{Caller, End, Link, Origin, Stage};
use super::peers::{Peers, STRANGERS_MAX};
use super::resolve::Resolver;
use super::roster::Changes;
use super::route::{DialState, LANES, Route, lane_at};
use super::socket::prepare;
use crate::core::{Instant, Node, Now};
use crate::net::listener::Accepted;
use crate::net::members::list;

/// How long the kernel may take to connect. It repeats itself after a second; so do we, and are
/// sooner there when the network is.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long two nodes may take to know each other.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 16;

/// When accepting fails for a reason that only time can mend.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Peers {
    // Dialing

    /// Dials whoever is due.
    pub(super) fn dial_due(&mut self, now: &Now, node: &mut Node) {
        let is_due = |route: &&Route| route.deadline() <= now.monotonic;
        let due: Vec<NodeId> = self.routes.values().filter(is_due).map(|r| r.member).collect();
        for member in due {
            for lane in LANES {
                let Some(route) = self.routes.get_mut(&member) else { continue };
                let state = route.dial(lane).state;
                if matches!(state, DialState::Waiting(due) if due <= now.monotonic) {
                    self.dial(member, lane, now, node);
                }
            }
        }
    }

    fn dial(&mut self, member: NodeId, lane: Lane, now: &Now, node: &mut Node) {
        let Some(route) = self.routes.get_mut(&member) else { return };
        if let Some(number) = Resolver::number(&route.address) {
            return self.connect(member, lane, number, now, node);
        }
        match self.resolver.begin(member, lane, &route.address) {
            Ok(()) => route.dial(lane).state = DialState::Resolving,
            Err(error) => self.dial_failed(member, lane, error, now, node),
        }
    }

    /// Goes on with those whose names have been looked up.
    pub(super) fn take_resolved(&mut self, now: &Now, node: &mut Node) {
        for resolved in self.resolver.take() {
            let (member, lane) = (resolved.member, resolved.lane);
            let Some(route) = self.routes.get_mut(&member) else { continue };
            match resolved.addresses {
                Ok(addresses) => {
                    // A name may have several: they take turns.
                    let turn = route.dial(lane).failures % addresses.len();
                    self.connect(member, lane, addresses[turn], now, node);
                }
                Err(error) => self.dial_failed(member, lane, error, now, node),
            }
        }
    }

    fn connect(
        &mut self,
        member: NodeId,
        lane: Lane,
        address: SocketAddr,
        now: &Now,
        node: &mut Node,
    ) {
        let connected = TcpStream::connect(address).and_then(|mut stream| {
            prepare(&stream)?;
            let id = self.next_id();
            self.register(&mut stream, id)?;
            Ok((stream, id))
        });
        match connected {
            Ok((stream, id)) => {
                let origin = Origin::Dialed { member, lane, boot: None };
                let deadline = now.monotonic.after(CONNECT_MAX);
                let stage = Stage::Connecting;
                let link = Link::new(stream, id, address.to_string(), origin, stage, deadline);
                self.links.insert(id, Box::new(link));
                let route = self.routes.get_mut(&member).expect("it is dialed");
                route.dial(lane).state = DialState::Busy(id);
            }
            Err(error) => self.dial_failed(member, lane, error, now, node),
        }
    }

    fn dial_failed(
        &mut self,
        member: NodeId,
        lane: Lane,
        error: io::Error,
        now: &Now,
        node: &mut Node,
    ) {
        self.dial_ended((member, lane), false, &End::Broken(error), now, node);
    }

    fn register(&self, stream: &mut TcpStream, id: u64) -> io::Result<()> {
        const { assert!(usize::BITS == 64, "tokens have two halves") };
        #[allow(clippy::cast_possible_truncation)]
        let token = Token(id as usize);
        self.registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// A dialed connection is there: says HELLO.
    pub(super) fn greet(&mut self, link: &mut Link, now: &Now) {
        let Origin::Dialed { member, lane, .. } = link.origin else {
            unreachable!("what is accepted is connected")
        };
        self.epoch += 1;
        let own = self.introduction(member, lane);
        let secret = self.secret.clone();
        link.stage = Stage::Dialing(link.outbox.append(|out| Dialer::new(own, secret, out)));
        link.deadline = now.monotonic.after(HANDSHAKE_MAX);
    }

    // Members that come and go

    /// Dials whoever has become a member, and leaves those who are none any more.
    pub(super) fn follow_members(&mut self, now: &Now, node: &mut Node) {
        if let Some(changes) = self.roster.follow(node) {
            self.take_changes(changes, now);
        }
        if self.leaving.is_empty() {
            return;
        }
        let leader = node.status().leader;
        let left: Vec<NodeId> =
            self.leaving.extract_if(.., |member| Some(*member) != leader).collect();
        left.into_iter().for_each(|member| self.leave(member, now, node));
    }

    fn take_changes(&mut self, changes: Changes, now: &Now) {
        if changes.is_other_list {
            log::info!("the members are {}", list(self.roster.list()));
        }
        for member in changes.here {
            let route = self.routes.entry(member.id).or_insert_with(|| Route::new(&member));
            if route.address != member.peer {
                route.address.clone_from(&member.peer);
                route.hurry(now.monotonic);
            }
        }
        let mut is_news = false;
        for id in changes.promoted {
            let is_met = self.routes.get(&id).is_some_and(Route::is_heard);
            is_news |= self.known.promote(id, is_met);
        }
        for id in changes.gone {
            is_news |= self.known.forget(id);
            self.leaving.push(id);
        }
        if is_news {
            self.known_file.submit(&self.known);
        }
    }

    /// The connections with a member end. If it calls again it is told why.
    fn leave(&mut self, member: NodeId, now: &Now, node: &mut Node) {
        self.routes.remove(&member);
        let is_its_own = |link: &Link| match link.origin {
            Origin::Dialed { member: called, .. } => called == member,
            Origin::Accepted(Some(caller)) => caller.member == member,
            Origin::Accepted(None) => false,
        };
        while let Some(link) = self.links.values().find(|link| is_its_own(link)) {
            self.end(link.id, End::Left, now, node);
        }
        log::info!("node {member} is no member any more");
    }

    // Accepting

    /// Lets callers in, as far as the handshake.
    pub(super) fn accept(&mut self, now: &Now, node: &mut Node) {
        if self.accept_at.is_none_or(|at| at > now.monotonic) {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok(Accepted::Connection(stream, address)) => {
                    if let Err(error) = self.adopt(stream, address, now, node) {
                        log::warn!("peer port: {address} can not be served: {error}");
                    }
                }
                Ok(Accepted::OutOfDescriptors(stream)) => {
                    log::warn!("peer port: the process is out of file descriptors");
                    drop(stream);
                    self.listener.restore_spare();
                }
                Ok(Accepted::Nobody) => {
                    self.accept_at = None;
                    return;
                }
                Err(error) => {
                    log::warn!("peer port: accept: {error}");
                    self.accept_at = Some(now.monotonic.after(ACCEPT_RETRY));
                    return;
                }
            }
        }
    }

    fn adopt(
        &mut self,
        mut stream: TcpStream,
        address: SocketAddr,
        now: &Now,
        node: &mut Node,
    ) -> io::Result<()> {
        prepare(&stream)?;
        let is_stranger = |link: &Link| matches!(link.origin, Origin::Accepted(None));
        let strangers = self.links.values().filter(|link| is_stranger(link));
        if strangers.clone().count() >= STRANGERS_MAX
            && let Some(victim) = strangers.min_by_key(|link| (link.credit(), link.deadline))
        {
            self.end(victim.id, End::Crowded, now, node);
        }
        let id = self.next_id();
        self.register(&mut stream, id)?;
        // Whom it speaks to, and on which lane, the acceptor learns from the caller.
        let own = self.introduction(self.id, Lane::Control);
        let stage = Stage::Accepting(Acceptor::new(own, self.secret.clone()));
        let deadline = now.monotonic.after(HANDSHAKE_MAX);
        let origin = Origin::Accepted(None);
        let link = Link::new(stream, id, address.to_string(), origin, stage, deadline);
        self.links.insert(id, Box::new(link));
        Ok(())
    }

    // The handshake

    fn introduction(&self, to: NodeId, lane: Lane) -> Introduction {
        let (members_index, members) = self.roster.committed();
        Introduction {
            from: self.id,
            to,
            lane,
            cluster: self.cluster,
            incarnation: self.incarnation,
            boot: self.boot,
            epoch: self.epoch,
            members: members.fingerprint(),
            members_index,
            address: self.address.clone(),
            term: self.durable.term,
            durable: self.durable.last,
            has_secret: self.secret.is_some(),
            nonce: rand::random(),
            known: self.known.incarnations(),
        }
    }

    /// Takes a frame of a handshake.
    pub(super) fn take_introduction(
        &mut self,
        link: &mut Link,
        frame: &Bytes,
        now: &Now,
        node: &mut Node,
    ) -> Result<(), End> {
        let Link { stage, outbox, .. } = link;
        let step = match stage {
            Stage::Dialing(dialer) => outbox.append(|out| dialer.receive(frame, out)),
            Stage::Accepting(acceptor) => {
                outbox.append(|out| acceptor.receive(frame, self.roster.list(), out))
            }
            Stage::Connecting | Stage::Open => unreachable!("not in a handshake"),
        };
        match step {
            Ok(Step::Wait) => Ok(()),
            Ok(Step::Judge(theirs)) => self.judge(link, theirs, now, node),
            Ok(Step::Ready) => {
                self.joined(link, now, node);
                Ok(())
            }
            Err(Failure::Malformed(error)) => Err(End::Malformed(error)),
            Err(Failure::Refuses(refusal)) => Err(End::Refuses(refusal)),
            Err(Failure::Refused { refusal, is_authentic }) => {
                Err(End::Refused { refusal, is_authentic })
            }
        }
    }

    /// Decides whether the other side, which is who it says, is welcome. If so, it is let in as
    /// soon as what it says of itself is durable here: it must not be forgotten before it counts.
    fn judge(
        &mut self,
        link: &mut Link,
        theirs: Introduction,
        now: &Now,
        node: &mut Node,
    ) -> Result<(), End> {
        let judged = match self.roster.is_removed(theirs.from) {
            true => Err(Refusal::removed(self.id, theirs.from)),
            false => self.known.judge(self.id, &theirs, self.roster.list()),
        };
        if let Err(refusal) = judged {
            let Link { stage, outbox, .. } = link;
            outbox.append(|out| match stage {
                Stage::Dialing(dialer) => dialer.refuse(&refusal, out),
                Stage::Accepting(acceptor) => acceptor.refuse(&refusal, out),
                Stage::Connecting | Stage::Open => unreachable!("not in a handshake"),
            });
            return Err(End::Refuses(refusal));
        }
        let is_news = self.known.learn(self.id, &theirs, self.roster.list());
        // Of a learner nothing is kept. What others say beside does not matter to this one.
        let is_safe = !self.known.holds(&theirs) || self.known_file.holds(&theirs);
        if is_news || !is_safe {
            self.known_file.submit(&self.known);
        }
        if is_safe {
            return self.let_in(link, &theirs, now, node);
        }
        link.judged = Some(theirs);
        Ok(())
    }

    /// Lets those in who have waited for the disk.
    pub(super) fn let_in_judged(&mut self, now: &Now, node: &mut Node) {
        let is_safe =
            |link: &&Link| link.judged.as_ref().is_some_and(|theirs| self.known_file.holds(theirs));
        let links = self.links.values().map(Box::as_ref);
        let ids: Vec<u64> = links.filter(is_safe).map(|link| link.id).collect();
        for id in ids {
            // One that was let in may have ended another.
            let Some(mut link) = self.links.remove(&id) else { continue };
            let theirs = link.judged.take().expect("filtered above");
            let let_in = self.let_in(&mut link, &theirs, now, node).and_then(|()| link.send());
            self.links.insert(id, link);
            if let Err(end) = let_in {
                self.end(id, end, now, node);
            }
        }
    }

    fn let_in(
        &mut self,
        link: &mut Link,
        theirs: &Introduction,
        now: &Now,
        node: &mut Node,
    ) -> Result<(), End> {
        let Stage::Dialing(dialer) = &mut link.stage else {
            return self.welcome(link, theirs, now, node);
        };
        link.outbox.append(|out| dialer.accept(out));
        if let Origin::Dialed { boot, .. } = &mut link.origin {
            *boot = Some(theirs.boot);
        }
        Ok(())
    }

    /// An accepted connection is a member's: messages may come.
    fn welcome(
        &mut self,
        link: &mut Link,
        theirs: &Introduction,
        now: &Now,
        node: &mut Node,
    ) -> Result<(), End> {
        let Stage::Accepting(acceptor) = &mut link.stage else {
            unreachable!("only callers are welcomed")
        };
        let Introduction { from: member, lane, boot, epoch, .. } = *theirs;
        let caller = Caller { member, lane, boot, epoch };
        // It may know of a newer list, which has it in it: then it says itself where it is.
        if !self.routes.contains_key(&member) && self.routes.len() >= MEMBERS_MAX {
            return Err(End::Crowded);
        }
        let route = self.routes.entry(member).or_insert_with(|| {
            log::info!(
                "node {member} ({}) knows of newer members, itself among them",
                theirs.address
            );
            Route::at(member, theirs.address.clone())
        });
        let before = route.incoming[lane_at(caller.lane)];
        if let Some(before) = before {
            if self.is_newer(before, &caller) {
                let refusal = Refusal::replaced(self.id, theirs.from);
                link.outbox.append(|out| acceptor.refuse(&refusal, out));
                return Err(End::Refuses(refusal));
            }
            self.end(before, End::Replaced, now, node);
        }
        link.outbox.append(|out| acceptor.accept(out));
        link.stage = Stage::Open;
        link.deadline = Instant::NEVER;
        link.origin = Origin::Accepted(Some(caller));
        self.end_older(&caller, now, node);
        let route = self.routes.get_mut(&member).expect("it has one by now");
        route.incoming[lane_at(caller.lane)] = Some(link.id);
        route.hurry(now.monotonic);
        Ok(())
    }

    /// Whether the link that stands is newer than the one that `caller` asks for.
    fn is_newer(&self, standing: u64, caller: &Caller) -> bool {
        let origin = self.links.get(&standing).map(|link| &link.origin);
        matches!(
            origin,
            Some(Origin::Accepted(Some(before)))
                if before.boot == caller.boot && before.epoch >= caller.epoch
        )
    }

    /// Ends the connections with a process of the member that is gone: a new one has called.
    fn end_older(&mut self, caller: &Caller, now: &Now, node: &mut Node) {
        let is_older = |link: &Link| match link.origin {
            Origin::Dialed { member, boot: Some(boot), .. } => {
                member == caller.member && boot != caller.boot
            }
            Origin::Accepted(Some(before)) => {
                before.member == caller.member && before.boot != caller.boot
            }
            _ => false,
        };
        while let Some(older) = self.links.values().find(|link| is_older(link)) {
            self.end(older.id, End::Replaced, now, node);
        }
    }

    /// A dialed connection may be used.
    fn joined(&mut self, link: &mut Link, now: &Now, node: &mut Node) {
        let Origin::Dialed { member, lane, .. } = link.origin else {
            unreachable!("only dialers wait to be welcomed")
        };
        link.stage = Stage::Open;
        link.deadline = Instant::NEVER;
        if lane == Lane::Control {
            // It may have grown since HELLO.
            let term = self.durable.term;
            link.outbox.append(|out| wire::encode_durable(term, LogIndex(0), out));
        }
        let Some(route) = self.routes.get_mut(&member) else { return };
        route.told_durable = LogIndex(0);
        let dial = route.dial(lane);
        dial.state = DialState::Open(link.id);
        dial.failures = 0;
        if route.is_open() {
            route.is_joined = true;
            route.told = None;
            log::info!("member {} ({}) is connected", route.member, route.address);
            node.member_joined(now, route.member);
        }
    }
}
