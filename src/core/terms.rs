//! Which term each entry of the log has, in a few bytes a term.

use kvorum_protocol::{LogIndex, Term};

/// The terms of the entries from 1 on. Terms never go down along a log, so the first entry of
/// each term says it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The first entry of each term, and the term; both strictly ascending.
    firsts: Vec<(LogIndex, Term)>,
    /// The last entry; 0 when there is none.
    last: LogIndex,
}

impl Terms {
    /// As they were told elsewhere: the first entry of each term, and the last entry of all.
    /// `None` when no log has such terms.
    #[must_use]
    pub fn from_firsts(firsts: Vec<(LogIndex, Term)>, last: LogIndex) -> Option<Terms> {
        let begins = firsts.first().map_or(last == LogIndex(0), |(first, _)| first.0 == 1);
        let ends = firsts.last().is_none_or(|(first, _)| *first <= last);
        let mut pairs = firsts.windows(2);
        let ascends = pairs.all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        (begins && ends && ascends).then_some(Terms { firsts, last })
    }

    /// Entries up to `last` follow, all of `term`.
    ///
    /// # Panics
    /// When the log would not grow, or its terms would go down.
    pub fn push(&mut self, last: LogIndex, term: Term) {
        assert!(last > self.last, "the log grows");
        match self.firsts.last() {
            Some((_, latest)) if *latest == term => {}
            latest => {
                assert!(latest.is_none_or(|(_, latest)| *latest < term), "terms never go down");
                self.firsts.push((self.last.next(), term));
            }
        }
        self.last = last;
    }

    /// The log ends with `last` now.
    pub fn truncate(&mut self, last: LogIndex) {
        self.last = self.last.min(last);
        let kept = self.firsts.partition_point(|(first, _)| *first <= self.last);
        self.firsts.truncate(kept);
    }

    /// The term of an entry; 0 in front of the first one, `None` behind the last.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index > self.last {
            return None;
        }
        let started = self.firsts.partition_point(|(first, _)| *first <= index);
        Some(started.checked_sub(1).map_or(Term(0), |at| self.firsts[at].1))
    }

    /// The last entry up to `index` whose term is at most `term`, and its term. Where two logs
    /// part, this finds an entry that both may have, in one step for each term that differs.
    #[must_use]
    pub fn last_up_to(&self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        let index = index.min(self.last);
        let later = self.firsts.partition_point(|(_, first_term)| *first_term <= term);
        let bound = self.firsts.get(later).map_or(self.last, |(first, _)| LogIndex(first.0 - 1));
        let found = index.min(bound);
        (found, self.term_at(found).expect("bounded by the last entry"))
    }

    /// The terms of the entries from `from` to before `end`: the first entry of each.
    #[must_use]
    pub fn between(&self, from: LogIndex, end: LogIndex) -> Vec<(LogIndex, Term)> {
        let started = self.firsts.partition_point(|(first, _)| *first <= from);
        let ended = self.firsts.partition_point(|(first, _)| *first < end);
        self.firsts[started.saturating_sub(1)..ended].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries 1 to 3 of term 1, 4 and 5 of term 4, 6 of term 6.
    fn terms() -> Terms {
        let mut terms = Terms::default();
        for (last, term) in [(2, 1), (3, 1), (5, 4), (6, 6)] {
            terms.push(LogIndex(last), Term(term));
        }
        terms
    }

    #[test]
    fn every_entry_has_the_term_it_was_pushed_with() {
        let found: Vec<_> = (0..=7).map(|index| terms().term_at(LogIndex(index))).collect();
        let expected = [0, 1, 1, 1, 4, 4, 6].map(|term| Some(Term(term)));
        assert_eq!(found, [&expected[..], &[None]].concat());
    }

    #[test]
    fn a_truncation_forgets_what_was_behind() {
        let mut terms = terms();
        terms.truncate(LogIndex(4));
        assert_eq!(terms.term_at(LogIndex(4)), Some(Term(4)));
        assert_eq!(terms.term_at(LogIndex(5)), None);
        terms.truncate(LogIndex(3));
        terms.push(LogIndex(4), Term(2));
        assert_eq!(terms.term_at(LogIndex(4)), Some(Term(2)));
    }

    #[test]
    fn the_last_common_candidate_is_found_by_term() {
        let found = |index, term| {
            let (index, term) = terms().last_up_to(LogIndex(index), Term(term));
            (index.0, term.0)
        };
        assert_eq!(found(9, 9), (6, 6));
        assert_eq!(found(6, 5), (5, 4));
        assert_eq!(found(4, 5), (4, 4));
        assert_eq!(found(6, 3), (3, 1));
        assert_eq!(found(2, 3), (2, 1));
        assert_eq!(found(6, 0), (0, 0));
    }

    #[test]
    fn a_range_names_each_of_its_terms_once() {
        let pairs = |from, end| {
            let found = terms().between(LogIndex(from), LogIndex(end));
            found.iter().map(|(first, term)| (first.0, term.0)).collect::<Vec<_>>()
        };
        assert_eq!(pairs(2, 6), [(1, 1), (4, 4)]);
        assert_eq!(pairs(5, 7), [(4, 4), (6, 6)]);
        assert_eq!(pairs(1, 4), [(1, 1)]);
    }
}
