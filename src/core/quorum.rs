//! Counting voters: which value have at least so many of them reached?

use kvorum_protocol::limits::VOTERS_MAX;

/// The highest value that at least `count` of `values` have reached; `None` when there are fewer
/// values than that, or none are asked for.
///
/// For log indexes and a majority this is the index that is committed (Raft paper, figure 2).
#[must_use]
pub fn reached_by<T: Copy + Ord + Default>(
    count: usize,
    values: impl Iterator<Item = T>,
) -> Option<T> {
    let mut sorted = [T::default(); VOTERS_MAX as usize];
    let mut len = 0;
    for value in values {
        sorted[len] = value;
        len += 1;
    }
    let sorted = &mut sorted[..len];
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.get(count.checked_sub(1)?).copied()
}

/// More than half.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_reached_by_as_many_as_have_at_least_it() {
        let reached = |count, values: &[u64]| reached_by(count, values.iter().copied());
        assert_eq!(reached(1, &[5]), Some(5));
        assert_eq!(reached(2, &[1, 7, 3]), Some(3));
        assert_eq!(reached(3, &[1, 7, 3]), Some(1));
        assert_eq!(reached(1, &[1, 7, 3]), Some(7));
        assert_eq!(reached(4, &[1, 7, 3]), None);
        assert_eq!(reached(0, &[1, 7, 3]), None);
        assert_eq!(reached(1, &[]), None);
    }

    #[test]
    fn two_majorities_always_share_a_voter() {
        for voters in 1..=usize::from(VOTERS_MAX) {
            assert!(2 * majority(voters) > voters);
        }
    }
}
