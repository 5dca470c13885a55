//! What a log holds, as an observer of the records sees it.

use kvorum::core::log::{EntryId, LogEnd};
use kvorum::core::{Record, Recovery, ReplayError};
use kvorum::wal::{LogState, RecordView, RecoverySink};
use kvorum_protocol::{Batch, BatchHeader, LogIndex, Lsn, MemberList, NodeId, Op, Term};

/// The replicated log, the term and the vote that a sequence of records adds up to.
#[derive(Clone, Default)]
pub struct LogImage {
    /// The last batch that a snapshot covers; index 0 without one.
    pub base: LogEnd,
    /// In order, without gaps.
    batches: Vec<Batch>,
    /// The member lists in it, by their indexes.
    lists: Vec<(LogIndex, MemberList)>,
    pub term: Term,
    pub voted_for: Option<NodeId>,
    /// Where it ended before a repair; index 0 without one.
    pub former_end: EntryId,
    /// Position of the last record.
    pub lsn: Lsn,
    /// A snapshot is durable, and the record of it is not made yet: what stands before it is void.
    awaits_install: Option<LogIndex>,
}

impl LogImage {
    /// The next record. Answers with the batches that it has voided.
    pub fn apply(&mut self, lsn: Lsn, record: &Record) -> Vec<Batch> {
        assert_eq!(lsn, self.lsn.next(), "records come in order");
        self.lsn = lsn;
        match record {
            Record::Batch(_) | Record::Truncate { .. } if self.awaits_install.is_some() => {}
            Record::Batch(batch) => {
                assert_eq!(batch.header().first_index, self.end().next(), "no gap in the log");
                self.batches.push(batch.clone());
                self.lists.extend(list_in(batch).map(|list| (batch.header().first_index, list)));
            }
            Record::TermVote { term, voted_for } => {
                (self.term, self.voted_for) = (*term, *voted_for);
            }
            Record::Truncate { end } => {
                self.lists.retain(|(index, _)| *index <= end.index);
                if end.index < self.base.index {
                    self.base = *end;
                }
                let kept = self.batches.partition_point(|b| b.header().last_index() <= end.index);
                return self.batches.split_off(kept);
            }
            // The observer has seen to it before.
            Record::Install { end } => {
                // Not of an earlier one, if there are several at once.
                self.awaits_install = self.awaits_install.filter(|index| *index != end.index);
            }
        }
        Vec::new()
    }

    /// What was damaged behind the last record is cut off.
    pub fn repaired(&mut self, lsn: Lsn, state: &LogState) {
        assert_eq!(lsn, self.lsn.next(), "records come in order");
        self.lsn = lsn;
        (self.term, self.voted_for) = (state.term, state.voted_for);
        self.former_end = state.former_end;
    }

    /// The last member list in it.
    pub fn list(&self) -> Option<&(LogIndex, MemberList)> {
        self.lists.last()
    }

    /// A snapshot up to `end` takes the place of the log; `decided` are the batches that it stands
    /// for. Answers with the batches that are voided.
    pub fn install(&mut self, end: &LogEnd, decided: Vec<Batch>) -> Vec<Batch> {
        let goes_through = |image: &LogImage| {
            let last = image.batch_at(end.index).map(|batch| LogEnd::of(batch.header()));
            image.base == *end || last == Some(*end)
        };
        let lists_in = |batches: &[Batch]| -> Vec<(LogIndex, MemberList)> {
            let all = batches.iter();
            all.filter_map(|b| Some((b.header().first_index, list_in(b)?))).collect()
        };
        self.lists = lists_in(&decided);
        let old = std::mem::replace(&mut self.batches, decided);
        let kept = LogImage { batches: old, base: self.base, ..LogImage::default() };
        self.base = LogEnd::default();
        if goes_through(&kept) {
            let behind = kept.batches.partition_point(|b| b.header().last_index() <= end.index);
            self.batches.extend_from_slice(&kept.batches[behind..]);
            self.lists.extend(lists_in(&kept.batches[behind..]));
            return Vec::new();
        }
        self.awaits_install = Some(end.index);
        let is_void = |batch: &Batch| !self.holds(batch.header());
        kept.batches.into_iter().filter(is_void).collect()
    }

    /// Index of the last entry.
    pub fn end(&self) -> LogIndex {
        self.batches.last().map_or(self.base.index, |batch| batch.header().last_index())
    }

    /// The batch that holds the entry at `index`.
    pub fn batch_at(&self, index: LogIndex) -> Option<&Batch> {
        let at = self.batches.partition_point(|batch| batch.header().last_index() < index);
        self.batches.get(at).filter(|batch| batch.header().first_index <= index)
    }

    /// Whether it holds this batch, and so everything before it: the checksums form a chain.
    pub fn holds(&self, header: &BatchHeader) -> bool {
        self.batch_at(header.first_index).is_some_and(|batch| batch.header() == header)
    }

    /// The batches from the one that holds `from` on, up to the one before `end`.
    pub fn range(&self, from: LogIndex, end: LogIndex) -> &[Batch] {
        let first = self.batches.partition_point(|batch| batch.header().last_index() < from);
        let behind = self.batches.partition_point(|batch| batch.header().first_index < end);
        &self.batches[first..behind.max(first)]
    }
}

/// The member list that a batch brings: always as its only entry.
pub fn list_in(batch: &Batch) -> Option<MemberList> {
    let first = batch.entries().next().filter(|_| batch.header().count == 1)?;
    match first.1.op {
        Op::Membership(bytes) => Some(MemberList::decode(bytes).expect("a core has made it")),
        _ => None,
    }
}

/// Recovers a node, and shows an observer what was there.
pub struct Observed<'a> {
    pub recovery: Recovery,
    pub image: LogImage,
    /// What the process before had: its batches need not be decoded again.
    pub before: &'a LogImage,
}

impl RecoverySink for Observed<'_> {
    fn start(&mut self, lsn: Lsn, state: &LogState) {
        (self.image.lsn, self.image.base) = (lsn, state.end);
        (self.image.term, self.image.voted_for) = (state.term, state.voted_for);
        self.image.former_end = state.former_end;
        RecoverySink::start(&mut self.recovery, lsn, state);
    }

    fn record(
        &mut self,
        lsn: Lsn,
        commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        let owned = match record {
            RecordView::Batch { header, bytes } => {
                let known = self.before.batch_at(header.first_index);
                let known = known.filter(|batch| batch.header() == header);
                Record::Batch(known.cloned().unwrap_or_else(|| {
                    Batch::decode(bytes.to_vec().into()).expect("the log has checked it")
                }))
            }
            RecordView::TermVote { term, voted_for } => {
                Record::TermVote { term: *term, voted_for: *voted_for }
            }
            RecordView::Truncate { end } => Record::Truncate { end: *end },
            RecordView::Install { end } => {
                // Its batches are the observer's to add, who knows them.
                self.image.base = *end;
                self.image.batches.clear();
                Record::Install { end: *end }
            }
            RecordView::Repair { state } => {
                self.image.repaired(lsn, state);
                return RecoverySink::record(&mut self.recovery, lsn, commit, record);
            }
            RecordView::State { .. } | RecordView::Mark => unreachable!("marks are not told"),
        };
        self.image.apply(lsn, &owned);
        RecoverySink::record(&mut self.recovery, lsn, commit, record)
    }

    fn progress(&mut self, _done_bytes: u64, _total_bytes: u64) {}
}
