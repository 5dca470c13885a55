//! What must always be true, whatever fails. An observer who sees everything at once, all logs and
//! all disks, checks after every step that nobody broke a rule.
//!
//! Each rule has a name, which a failing run prints; the file that checks it says where it is from.

mod commits;
mod counting;
mod effects;
mod elections;
mod hashes;
mod matching;
mod membership;
mod messages;
mod monotonic;
mod promises;

use kvorum::core::log::LogEnd;
use kvorum::core::raft::Role;
use kvorum::core::snapshot::SnapshotHead;
use kvorum::core::state::State;
use kvorum::core::{Fetch, MemberProgress, NodeStatus, Record, SessionBounds};
use kvorum_protocol::peer::Message;
use kvorum_protocol::{Batch, LogIndex, Lsn, MemberList, Op, Term};

use crate::image::LogImage;
use crate::network::Place;
use crate::node::{id_of, place_of};

pub use commits::Ledger;
pub use promises::{Promises, Write};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    pub what: String,
}

pub type Checked<T = ()> = Result<T, Violation>;

/// The rule holds, or is broken like this.
pub fn ensure(holds: bool, rule: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { rule, what: what() }) }
}

/// What the voters of a log's last member list hold, of what all hold.
fn voters<'a>(log: &LogImage, all: &'a [LogImage]) -> Vec<&'a LogImage> {
    let list = log.list().into_iter();
    list.flat_map(|(_, list)| list.voters()).map(|voter| &all[place_of(voter.id)]).collect()
}

/// The observer.
pub struct Invariants {
    /// What each node's log holds, with what is on its way to the disk.
    sealed: Vec<LogImage>,
    /// The part of it that is certain to survive.
    durable: Vec<LogImage>,
    elections: elections::Elections,
    matching: matching::Matching,
    counting: counting::Counting,
    monotonic: Vec<monotonic::Life>,
    /// Up to here each node's log was compared with what is decided.
    decided: Vec<LogIndex>,
    members: membership::Members,
    ledger: Ledger,
    hashes: hashes::Hashes,
    pub promises: Promises,
}

impl Invariants {
    pub fn new(nodes: usize, sessions: SessionBounds) -> Invariants {
        Invariants {
            sealed: vec![LogImage::default(); nodes],
            durable: vec![LogImage::default(); nodes],
            elections: elections::Elections::default(),
            matching: matching::Matching::default(),
            counting: counting::Counting::default(),
            monotonic: vec![monotonic::Life::default(); nodes],
            decided: vec![LogIndex(0); nodes],
            members: membership::Members::new(nodes),
            ledger: Ledger::new(sessions),
            hashes: hashes::Hashes::default(),
            promises: Promises::default(),
        }
    }

    // What nodes do

    /// A node makes a record.
    pub fn seals(&mut self, place: Place, lsn: Lsn, record: &Record) -> Checked {
        if let Record::Batch(batch) = record {
            let is_new = self.matching.appends(batch)?;
            if is_new {
                self.promises.logged(batch)?;
                self.members.changes(place, batch, &self.sealed[place], &self.ledger)?;
            }
            self.members.has(place, batch.header().last_index());
        }
        let voided = self.sealed[place].apply(lsn, record);
        self.ledger.stays(place, &voided)?;
        self.promises.voided(&voided);
        Ok(())
    }

    /// Records of a node are durable.
    pub fn syncs(&mut self, place: Place, records: &[(Lsn, Record)]) {
        for (lsn, record) in records {
            self.durable[place].apply(*lsn, record);
        }
    }

    /// A node has come back, with what its log told.
    pub fn recovers(
        &mut self,
        place: Place,
        mut image: LogImage,
        snapshot: Option<&LogEnd>,
    ) -> Checked {
        // A snapshot may have become durable since the last record, or have been so before.
        let log_end = image.end();
        if let Some(end) = snapshot {
            image.install(end, self.ledger.batches_up_to(end.index));
        }
        let durable = &self.durable[place];
        let ends = [log_end, image.end()];
        let is_same = image.lsn != durable.lsn || ends.contains(&durable.end());
        ensure(is_same, "what is durable survives a crash", || {
            format!("the log ended at {}, now it does at {}", durable.end(), image.end())
        })?;
        let is_there = image.lsn >= durable.lsn;
        ensure(is_there, "what is durable survives a crash", || {
            format!("records up to {} were durable, {} came back", durable.lsn, image.lsn)
        })?;
        self.elections.comes_back(place, image.term)?;
        self.sealed[place] = image.clone();
        self.durable[place] = image;
        self.monotonic[place] = monotonic::Life::default();
        self.decided[place] = LogIndex(0);
        Ok(())
    }

    /// A snapshot is what the decided entries up to its end add up to.
    pub fn is_state_at(&self, place: Place, head: &SnapshotHead, state: &State) -> Checked {
        let index = head.end.index;
        let last = self.ledger.batch_at(index).map(|batch| LogEnd::of(batch.header()));
        ensure(last == Some(head.end), "a snapshot ends where a decided batch does", || {
            format!("n{}: {:?}, decided is {last:?}", place + 1, head.end)
        })?;
        let effects = self.ledger.effects_up_to(index);
        let is_held = |(key, (version, value)): &(&Vec<u8>, &(LogIndex, Vec<u8>))| {
            state.store.get(key) == Some((*version, value.as_slice()))
        };
        let differs = effects.keys().iter().find(|item| !is_held(item));
        let is_equal = state.store.len() == effects.keys().len() && differs.is_none();
        ensure(is_equal, "a snapshot holds the state at its index", || {
            let (found, expected) = (state.store.len(), effects.keys().len());
            format!("n{}: index {index}: {found} keys of {expected}; {differs:?}", place + 1)
        })?;
        ensure(effects.are_sessions(&state.sessions), "a snapshot holds the sessions", || {
            format!("n{}: index {index}: {:?}", place + 1, state.sessions.in_order())
        })
    }

    /// A node has put a leader's snapshot, durably, in the place of its log.
    pub fn installs(&mut self, place: Place, end: &LogEnd) -> Checked {
        let decided = self.ledger.batches_up_to(end.index);
        self.members.has(place, end.index);
        self.durable[place].install(end, decided.clone());
        let voided = self.sealed[place].install(end, decided);
        self.ledger.stays(place, &voided)?;
        self.promises.voided(&voided);
        Ok(())
    }

    /// A message leaves.
    pub fn sends(&mut self, from: Place, to: Place, message: &Message) -> Checked {
        self.elections.speaks(from, to, message)?;
        let (sealed, on_disk) = (&self.sealed[from], &self.durable[from]);
        messages::is_backed_by_the_disk(from, to, message, sealed, on_disk)?;
        if let Message::Ack { term, matched, durable, .. } = message {
            self.counting.acknowledges(from, *term, *durable);
            let leader = self.elections.leader_of(*term);
            if let Some(leader) = leader.filter(|leader| self.monotonic[*leader].leads(*term)) {
                messages::acknowledges_the_leaders_entries(
                    from,
                    *matched,
                    sealed,
                    &self.sealed[leader],
                )?;
            }
        }
        Ok(())
    }

    /// What a node says of itself after a turn.
    pub fn shows(&mut self, place: Place, status: &NodeStatus) -> Checked {
        let before = self.monotonic[place];
        self.monotonic[place].advance(place, status)?;
        if let Role::Leader { .. } = status.role
            && !before.leads(status.term)
        {
            self.elections.elects(place, status.term)?;
            self.ledger.is_complete_in(place, status.term, &self.sealed[place])?;
        }
        // A follower may hear that an entry is decided before it has made the record of it.
        let log = &self.sealed[place];
        let to = status.committed.min(log.end());
        let from = std::mem::replace(&mut self.decided[place], to);
        if from < to {
            let durable = voters(log, &self.durable);
            let known = self.ledger.end();
            self.ledger.commits(place, from..to, status.term, log, &durable)?;
            if known < self.ledger.end() && matches!(status.role, Role::Leader { .. }) {
                self.ledger.ends_with_own_term(place, status.term)?;
            }
        }
        Ok(())
    }

    /// A node has applied the entries up to an index, and this is the hash of its state.
    pub fn hashes(&mut self, place: Place, applied: LogIndex, hash: u64) -> Checked {
        self.hashes.shows(place, applied, hash)
    }

    /// What a leader counts was said, and is there.
    pub fn counts(&self, place: Place, term: Term, member: &MemberProgress) -> Checked {
        let other = place_of(member.id);
        self.counting.counts(place, term, other, member.durable)?;
        let (leader, sealed, durable) =
            (&self.sealed[place], &self.sealed[other], &self.durable[other]);
        counting::is_there(place, term, member, leader, sealed, durable)
    }

    /// A node acknowledges a write that `copies` voters must hold.
    pub fn acknowledges(&mut self, place: Place, write: &Write, version: LogIndex) -> Checked {
        let sealed = &self.sealed[place];
        let durable = voters(sealed, &self.durable);
        let majority = durable.len() / 2 + 1;
        self.promises.acknowledges(write, version, majority, sealed, &durable, &self.ledger)
    }

    /// A node goes by this member list.
    pub fn goes_by(&self, place: Place, index: LogIndex, list: &MemberList) -> Checked {
        membership::is_the_last(place, index, list, &self.sealed[place])
    }

    /// The last list in the log of each of these nodes; also of what a crash may take back.
    pub fn lists_in<'a>(
        &'a self,
        places: impl Iterator<Item = Place> + 'a,
    ) -> impl Iterator<Item = &'a MemberList> {
        let logs = places.flat_map(|place| [&self.sealed[place], &self.durable[place]]);
        logs.filter_map(|log| log.list().map(|(_, list)| list))
    }

    /// Whether a node is a member by what is decided.
    pub fn is_member(&self, place: Place) -> bool {
        self.ledger.members().is_some_and(|list| list.get(id_of(place)).is_some())
    }

    /// A node reads part of its log back: as much of what is wanted as there is room for, without
    /// gaps, and nothing that was replaced.
    pub fn reads_back(&self, place: Place, fetch: &Fetch, batches: &[Batch]) -> Checked {
        let log = self.sealed[place].range(fetch.from, fetch.end);
        let is_log = !batches.is_empty() && log.starts_with(batches);
        ensure(is_log, "what is read back is the log", || {
            let found: Vec<_> = batches.iter().map(|batch| *batch.header()).collect();
            format!("n{} wants {fetch:?} and finds {found:?}", place + 1)
        })
    }

    /// A node answers a linearizable read that was asked when everything up to `decided` was
    /// decided. Stronger than linearizability, which is about one key: a read at a leader that is
    /// none any more is found though nobody has written that key since.
    pub fn has_applied(&self, place: Place, decided: LogIndex) -> Checked {
        let applied = self.monotonic[place].applied;
        ensure(applied >= decided, "a read sees what was decided before", || {
            format!("n{} answers from index {applied}, {decided} was decided", place + 1)
        })
    }

    /// A node answers a read with a value.
    pub fn reads(&self, place: Place, key: &[u8], version: LogIndex, value: &[u8]) -> Checked {
        let found = self.ledger.command_at(version).map(|command| command.op);
        let is_decided =
            found == Some(Op::Set { key, value }) && self.ledger.effects().took_effect(version);
        ensure(is_decided, "only what is decided is read", || {
            format!("n{} reads version {version}, which is {found:?}", place + 1)
        })
    }

    // What they have done

    /// What is decided, as far as anybody knows.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many elections were won.
    pub fn elections(&self) -> usize {
        self.elections.won()
    }

    /// What a node's log holds.
    pub fn sealed(&self, place: Place) -> &LogImage {
        &self.sealed[place]
    }

    /// At the end: every promise was kept.
    pub fn finish(&self) -> Checked {
        self.promises.are_kept(&self.ledger)
    }
}
