//! What clients were told is true, and stays true.

use std::collections::HashSet;

use kvorum_protocol::{Batch, BatchHeader, Command, LogIndex, Op};

use super::{Checked, Ledger, ensure};
use crate::image::LogImage;

/// A write that a client was told about.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: Vec<u8>,
    /// `None` deletes the key.
    pub value: Option<Vec<u8>>,
    /// How many voters must hold it durably before it is acknowledged.
    pub copies: usize,
}

/// An acknowledged write.
struct Acknowledged {
    batch: BatchHeader,
    version: LogIndex,
    copies_are_majority: bool,
}

#[derive(Default)]
pub struct Promises {
    acknowledged: Vec<Acknowledged>,
    /// Values of writes that are not applied, by promise.
    refused: HashSet<Vec<u8>>,
    /// Values that stand, or stood, in some log.
    logged: HashSet<Vec<u8>>,
    /// Batches that some node has taken back.
    voided: HashSet<u32>,
}

impl Promises {
    /// A new batch stands in somebody's log.
    pub fn logged(&mut self, batch: &Batch) -> Checked {
        for (index, command) in batch.entries() {
            let Op::Set { value, .. } = command.op else { continue };
            self.is_not_refused(value, index)?;
            self.logged.insert(value.to_vec());
        }
        Ok(())
    }

    fn is_not_refused(&self, value: &[u8], index: LogIndex) -> Checked {
        ensure(!self.refused.contains(value), "what is refused is never applied", || {
            format!("{} stands at index {index}", String::from_utf8_lossy(value))
        })
    }

    /// A client was told that its write is not applied.
    pub fn refuses(&mut self, write: &Write) -> Checked {
        let Some(value) = &write.value else { return Ok(()) };
        ensure(!self.logged.contains(value), "what is refused is never applied", || {
            format!("{} was in a log before", String::from_utf8_lossy(value))
        })?;
        self.refused.insert(value.clone());
        Ok(())
    }

    /// A node took these back.
    pub fn voided(&mut self, batches: &[Batch]) {
        self.voided.extend(batches.iter().map(|batch| batch.header().crc));
    }

    /// W voters hold an acknowledged write durably, at its version, at this moment; and with W not
    /// below a majority it is decided.
    pub fn acknowledges(
        &mut self,
        write: &Write,
        version: LogIndex,
        majority: usize,
        log: &LogImage,
        voters: &[&LogImage],
        ledger: &Ledger,
    ) -> Checked {
        let batch = log.batch_at(version);
        let entry = batch.and_then(|b| b.entries().find(|(index, _)| *index == version));
        let is_there = entry.is_some_and(|(_, command)| write.is(&command));
        ensure(is_there, "what is acknowledged is in the log", || {
            format!("{write:?} at {version}: {entry:?}")
        })?;
        let batch = *batch.expect("the entry came from it").header();
        let holders = voters.iter().filter(|voter| voter.has_held(&batch)).count();
        ensure(holders >= write.copies, "W voters hold an acknowledged write", || {
            format!("{write:?} at {version} is held by {holders} voters")
        })?;
        let copies_are_majority = write.copies >= majority;
        if copies_are_majority {
            is_decided(ledger, &batch, version)?;
        }
        self.acknowledged.push(Acknowledged { batch, version, copies_are_majority });
        Ok(())
    }

    /// What was acknowledged with W not below a majority is still there at the end.
    pub fn are_kept(&self, ledger: &Ledger) -> Checked {
        let kept = self.acknowledged.iter().filter(|write| write.copies_are_majority);
        kept.into_iter().try_for_each(|write| is_decided(ledger, &write.batch, write.version))
    }

    /// Whether an acknowledged write with a W below a majority was lost, or may have been for a
    /// while: then nobody need have seen it.
    pub fn may_be_lost(&self, version: LogIndex, write: &Write, ledger: &Ledger) -> bool {
        let Some(batch) = ledger.batch_at(version) else { return true };
        self.voided.contains(&batch.header().crc)
            || ledger.command_at(version).is_none_or(|command| !write.is(&command))
    }
}

impl Write {
    fn is(&self, command: &Command<'_>) -> bool {
        match command.op {
            Op::Set { key, value } => key == self.key && self.value.as_deref() == Some(value),
            Op::Delete { key } => key == self.key && self.value.is_none(),
            _ => false,
        }
    }
}

fn is_decided(ledger: &Ledger, batch: &BatchHeader, version: LogIndex) -> Checked {
    let decided = ledger.batch_at(batch.first_index).map(|batch| *batch.header());
    ensure(decided == Some(*batch), "an acknowledged write is never lost", || {
        format!("version {version} was acknowledged in {batch:?}, decided is {decided:?}")
    })
}
