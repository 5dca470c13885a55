//! How members change (Raft thesis, chapter 4; the bug of 2015:
//! <https://groups.google.com/g/raft-dev/c/t4xj6dJTP6E>).

use kvorum_protocol::{Batch, LogIndex, MemberList, NodeId};

use super::{Checked, Ledger, ensure};
use crate::image::{LogImage, list_in};
use crate::members::PROMOTION_LAG_MAX;
use crate::network::Place;
use crate::node::place_of;

/// What there is to know about who may become a voter.
pub struct Members {
    /// The furthest that each node's log has ever gone.
    furthest: Vec<LogIndex>,
}

impl Members {
    pub fn new(nodes: usize) -> Members {
        Members { furthest: vec![LogIndex(0); nodes] }
    }

    /// A node has the log up to here.
    pub fn has(&mut self, place: Place, last: LogIndex) {
        self.furthest[place] = self.furthest[place].max(last);
    }

    /// A leader makes a batch, behind what its log holds. If it changes the members, then only one
    /// voter, when the last change is decided and an entry of its own term is, and to a voter that
    /// has the log.
    pub fn changes(&self, place: Place, batch: &Batch, log: &LogImage, ledger: &Ledger) -> Checked {
        let (Some(list), Some((index, before))) = (list_in(batch), log.list()) else {
            return Ok(());
        };
        let (header, ids) = (batch.header(), |list: &MemberList| -> Vec<NodeId> {
            list.voters().map(|voter| voter.id).collect()
        });
        ensure(*index <= ledger.end(), "one change of the members at a time", || {
            format!("n{} makes {header:?} while that of index {index} is open", place + 1)
        })?;
        ensure(ledger.has_decided_in(header.term), "a change follows an own entry", || {
            format!("n{} makes {header:?}, and nothing of that term is decided", place + 1)
        })?;
        let (old, new) = (ids(before), ids(&list));
        let gone = old.iter().filter(|id| !new.contains(id)).count();
        let come: Vec<NodeId> = new.iter().copied().filter(|id| !old.contains(id)).collect();
        ensure(gone + come.len() <= 1, "one voter changes at a time", || {
            format!("n{} makes {new:?} of the voters {old:?}", place + 1)
        })?;
        for id in come {
            let has = self.furthest[place_of(id)];
            ensure(has.0 + PROMOTION_LAG_MAX >= log.end().0, "new voters have the log", || {
                format!("n{id} becomes a voter with {has} of {}", log.end())
            })?;
        }
        Ok(())
    }
}

/// The list in force is the last one in the log, committed or not.
pub fn is_the_last(place: Place, index: LogIndex, list: &MemberList, log: &LogImage) -> Checked {
    // Before it has one, a node that joins goes by what it was told.
    let Some((last_index, last)) = log.list() else { return Ok(()) };
    ensure((*last_index, last) == (index, list), "the last list in the log is in force", || {
        format!("n{} goes by that of index {index}, its log has one at {last_index}", place + 1)
    })
}
