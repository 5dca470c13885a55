//! What is decided stays decided, and is the same for all (Raft paper, figure 3: leader
//! completeness, state machine safety).

use std::ops::Range;

use kvorum::core::SessionBounds;
use kvorum_protocol::{Batch, BatchHeader, Command, LogIndex, MemberList, Term};

use super::effects::Effects;
use super::{Checked, ensure};
use crate::image::{LogImage, list_in};
use crate::network::Place;

/// Every batch that anybody ever knew to be decided, in order.
pub struct Ledger {
    decided: Vec<Decided>,
    effects: Effects,
    /// The last member list among them.
    members: Option<MemberList>,
    sessions: SessionBounds,
}

struct Decided {
    batch: Batch,
    /// The term of the first who knew.
    in_term: Term,
}

impl Ledger {
    pub fn new(sessions: SessionBounds) -> Ledger {
        Ledger { decided: Vec::new(), effects: Effects::new(sessions), members: None, sessions }
    }

    /// A node in this term knows that the entries behind the start of the range, up to its end, are
    /// decided. What it holds there is what was decided before; or else it is the first to know,
    /// and a majority of the voters holds it durably.
    pub fn commits(
        &mut self,
        place: Place,
        indexes: Range<LogIndex>,
        term: Term,
        log: &LogImage,
        voters: &[&LogImage],
    ) -> Checked {
        for batch in log.range(indexes.start.next(), indexes.end.next()) {
            let header = batch.header();
            match self.batch_at(header.first_index) {
                Some(decided) => {
                    ensure(decided.header() == header, "what is decided never changes", || {
                        let decided = decided.header();
                        format!("n{} commits {header:?}, decided is {decided:?}", place + 1)
                    })?;
                }
                None => {
                    is_on_a_majority(place, header, voters)?;
                    self.effects.decided(batch);
                    self.members = list_in(batch).or(self.members.take());
                    self.decided.push(Decided { batch: batch.clone(), in_term: term });
                }
            }
        }
        Ok(())
    }

    /// A leader decides by entries of its own term alone (Raft paper, section 5.4.2 and figure 8):
    /// those before them are decided with them.
    pub fn ends_with_own_term(&self, place: Place, term: Term) -> Checked {
        let Some(last) = self.decided.last().map(|decided| decided.batch.header()) else {
            return Ok(());
        };
        ensure(last.term == term, "a leader decides by its own entries", || {
            format!("n{} leads term {term} and commits {last:?}", place + 1)
        })
    }

    /// Leader completeness: a leader has everything that was decided in an earlier term.
    pub fn is_complete_in(&self, place: Place, term: Term, log: &LogImage) -> Checked {
        let mut earlier = self.decided.iter().rev().filter(|decided| decided.in_term < term);
        let Some(decided) = earlier.next() else { return Ok(()) };
        let header = decided.batch.header();
        ensure(log.holds(header), "a leader has all that is decided", || {
            format!("n{} leads term {term} and lacks {header:?}", place + 1)
        })
    }

    /// Nobody takes back what is decided.
    pub fn stays(&self, place: Place, voided: &[Batch]) -> Checked {
        for batch in voided {
            let header = batch.header();
            let is_decided =
                self.batch_at(header.first_index).is_some_and(|b| b.header() == header);
            ensure(!is_decided, "what is decided never changes", || {
                format!("n{} truncates {header:?}, which is decided", place + 1)
            })?;
        }
        Ok(())
    }

    /// The last member list that is decided.
    pub fn members(&self) -> Option<&MemberList> {
        self.members.as_ref()
    }

    /// Whether an entry of this term is decided.
    pub fn has_decided_in(&self, term: Term) -> bool {
        self.decided.iter().rev().any(|decided| decided.batch.header().term == term)
    }

    pub fn batch_at(&self, index: LogIndex) -> Option<&Batch> {
        let at =
            self.decided.partition_point(|decided| decided.batch.header().last_index() < index);
        let batch = &self.decided.get(at)?.batch;
        (batch.header().first_index <= index).then_some(batch)
    }

    /// The decided batches up to an index.
    pub fn batches_up_to(&self, index: LogIndex) -> Vec<Batch> {
        let batches = self.decided.iter().map(|decided| &decided.batch);
        batches.take_while(|batch| batch.header().last_index() <= index).cloned().collect()
    }

    /// What these have done.
    pub fn effects_up_to(&self, index: LogIndex) -> Effects {
        let mut effects = Effects::new(self.sessions);
        self.batches_up_to(index).iter().for_each(|batch| effects.decided(batch));
        effects
    }

    /// The decided command at an index.
    pub fn command_at(&self, index: LogIndex) -> Option<Command<'_>> {
        let batch = self.batch_at(index)?;
        batch.entries().find(|(at, _)| *at == index).map(|(_, command)| command)
    }

    /// What all of them have done.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Index of the last decided entry.
    pub fn end(&self) -> LogIndex {
        self.decided.last().map_or(LogIndex(0), |decided| decided.batch.header().last_index())
    }
}

/// The first member list is decided because all write the same one.
fn is_on_a_majority(place: Place, header: &BatchHeader, voters: &[&LogImage]) -> Checked {
    if header.term == Term(0) {
        return Ok(());
    }
    let holders = voters.iter().filter(|voter| voter.has_held(header)).count();
    ensure(holders > voters.len() / 2, "what is decided is durable on a majority", || {
        format!("n{} commits {header:?}, which {holders} voters hold durably", place + 1)
    })
}
