//! What the log has been told of strangers: somebody who tries again every half second says
//! nothing new.

use std::time::Duration;

use crate::core::Instant;

/// A line is not repeated for so long.
const PAUSE: Duration = Duration::from_secs(30);

/// So many lines are remembered; with more, the oldest may be repeated earlier.
const LINES_MAX: usize = 32;

/// Lines that were said not long ago.
#[derive(Debug, Default)]
pub struct Said {
    lines: Vec<(Instant, String)>,
}

impl Said {
    /// Whether `line` was not said for a while; from now on it was.
    pub fn is_new(&mut self, line: &str, now: Instant) -> bool {
        self.lines.retain(|(at, _)| now.since(*at) < PAUSE);
        if self.lines.iter().any(|(_, said)| said == line) {
            return false;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push((now, line.to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_in_a_while() {
        let mut said = Said::default();
        let at = |seconds| Instant::default().after(Duration::from_secs(seconds));
        assert!(said.is_new("a", at(0)));
        assert!(said.is_new("b", at(1)));
        assert!(!said.is_new("a", at(29)));
        assert!(said.is_new("a", at(30)));
        for line in 0..100 {
            assert!(said.is_new(&line.to_string(), at(31)));
        }
        assert_eq!(said.lines.len(), LINES_MAX);
    }
}
