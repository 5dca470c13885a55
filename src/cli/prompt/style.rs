//! Colours, where there is a terminal to show them and nobody minds (<https://no-color.org>).

use std::borrow::Cow;
use std::env;

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Whether and how text is painted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    has_colours: bool,
}

impl Style {
    /// The style of an output that is a terminal, or is none.
    pub(super) fn of(is_terminal: bool) -> Style {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style { has_colours: is_terminal && !refused }
    }

    /// What stands behind the things that matter.
    pub(super) fn dim<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.paint(DIM, text)
    }

    pub(super) fn prompt<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.paint(CYAN, text)
    }

    /// A reply line of the text protocol, of which the first word says how it went.
    pub(super) fn reply<'t>(&self, line: &'t str) -> Cow<'t, str> {
        let (word, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
        let colour = match word {
            "ERROR" | "NOT_LEADER" => RED,
            "OK" | "PONG" => GREEN,
            "NOT_FOUND" | "NO_LEADER" => YELLOW,
            _ => DIM,
        };
        if self.has_colours { format!("{colour}{word}{PLAIN}{rest}").into() } else { line.into() }
    }

    fn paint<'t>(&self, colour: &str, text: &'t str) -> Cow<'t, str> {
        if self.has_colours { format!("{colour}{text}{PLAIN}").into() } else { text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colours_nothing_is_added() {
        let style = Style::of(false);
        assert_eq!(style.reply("ERROR BUSY x"), "ERROR BUSY x");
        assert_eq!((style.dim("a"), style.prompt("b")), ("a".into(), "b".into()));
    }

    #[test]
    fn only_the_first_word_of_a_reply_is_painted() {
        let style = Style { has_colours: true };
        assert_eq!(style.reply("ERROR BUSY x"), "\x1b[31mERROR\x1b[0m BUSY x");
        assert_eq!(style.reply("OK"), "\x1b[32mOK\x1b[0m");
    }
}
