//! The numbers of a session's writes.

use std::collections::VecDeque;

use kvorum_protocol::SessionSequence;

/// Numbers the writes of one session after the other, within the window of each.
///
/// The cluster remembers the answers of the last `window` numbers of a session. So a number may be
/// given out only when all that are `window` and more before it are resolved: answered for good, or
/// never to be sent again.
#[derive(Debug)]
pub struct Sequences {
    window: u32,
    /// The session in use; `None` before one is opened.
    session: Option<u64>,
    /// The lowest number that is not resolved.
    first: u64,
    /// From `first` on: whether a number that was given out is resolved. Not longer than `window`,
    /// and the first is `false`.
    resolved: VecDeque<bool>,
}

/// What a write is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// It has this number.
    As(SessionSequence),
    /// Somebody must open a session first.
    NoSession,
    /// Too many before it are not resolved: wait until one is.
    Full,
}

impl Sequences {
    /// No session yet; each will have this window.
    #[must_use]
    pub fn new(window: u32) -> Sequences {
        Sequences { window, session: None, first: 1, resolved: VecDeque::new() }
    }

    /// How many numbers may be given out and not resolved: at least 1.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// A session was opened: its numbers begin at 1.
    pub fn opened(&mut self, session: u64) {
        self.session = Some(session);
        self.first = 1;
        self.resolved.clear();
    }

    /// The cluster has forgotten this session. Nothing happens when another is in use already.
    pub fn expired(&mut self, session: u64) {
        if self.session == Some(session) {
            self.session = None;
        }
    }

    /// A number for one more write.
    #[inline]
    pub fn number(&mut self) -> Numbered {
        let Some(session) = self.session else { return Numbered::NoSession };
        if self.resolved.len() == self.window as usize {
            return Numbered::Full;
        }
        let sequence = self.first + self.resolved.len() as u64;
        self.resolved.push_back(false);
        Numbered::As(SessionSequence { session, sequence })
    }

    /// The write with this number will not be sent again.
    ///
    /// # Panics
    /// When the number was never given out, or is resolved already.
    #[inline]
    pub fn resolve(&mut self, number: SessionSequence) {
        // What belongs to a session before is over with it.
        if self.session != Some(number.session) {
            return;
        }
        let at = number.sequence.checked_sub(self.first).expect("it is resolved once");
        let at = usize::try_from(at).expect("within the window");
        assert!(!self.resolved[at], "it is resolved once");
        self.resolved[at] = true;
        while self.resolved.pop_front_if(|resolved| *resolved).is_some() {
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(sequences: &mut Sequences) -> u64 {
        match sequences.number() {
            Numbered::As(number) => number.sequence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_number_is_given_out_while_the_oldest_is_within_the_window() {
        let mut sequences = Sequences::new(3);
        assert_eq!(sequences.number(), Numbered::NoSession);
        sequences.opened(9);
        assert_eq!([1, 2, 3].map(|_| number(&mut sequences)), [1, 2, 3]);
        assert_eq!(sequences.number(), Numbered::Full);
        sequences.resolve(SessionSequence { session: 9, sequence: 2 });
        assert_eq!(sequences.number(), Numbered::Full, "1 may still be sent again");
        sequences.resolve(SessionSequence { session: 9, sequence: 1 });
        assert_eq!([1, 2].map(|_| number(&mut sequences)), [4, 5]);
        assert_eq!(sequences.number(), Numbered::Full);
    }

    #[test]
    fn what_belongs_to_a_forgotten_session_is_over() {
        let mut sequences = Sequences::new(3);
        sequences.opened(9);
        let Numbered::As(old) = sequences.number() else { panic!("there is a session") };
        sequences.expired(8);
        assert!(matches!(sequences.number(), Numbered::As(_)), "another one is in use");
        sequences.expired(9);
        assert_eq!(sequences.number(), Numbered::NoSession);
        sequences.opened(12);
        sequences.resolve(old);
        assert_eq!(number(&mut sequences), 1);
    }
}
