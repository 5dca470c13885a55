//! `kvorum cli`: the verbs of the text protocol at a prompt, or line by line from a pipe.
//!
//! Lines are read and replies are written as `protocol/SPEC.md` section 7 has them; what travels
//! is the binary protocol, so that it is known of every failure whether a write may have been
//! applied.
//!
//! Reading order: `link`, the server that is talked to; `words` and `style`; `editor`, the person.

mod editor;
mod link;
mod style;
mod words;

use std::io::{self, IsTerminal as _, Read as _, Write};

use kvorum_protocol::text::{self, Acknowledgement, Escaped, Line, LineError};
use kvorum_protocol::{Limits, Request, Response};
use rustyline::error::ReadlineError;

use super::Error;
use super::servers::{ClientError, ClientFlags};
use crate::client::Reply;
use editor::{Entered, LineEditor};
use link::Link;
use style::Style;

/// The least that is asked of standard input at once.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct PromptFlags {
    #[command(flatten)]
    client: ClientFlags,
}

pub(super) fn run(flags: &PromptFlags) -> Result<(), Error> {
    let mut session = Session {
        link: Link::new(&flags.client),
        style: Style::of(io::stderr().is_terminal()),
        failed: 0,
    };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return session.talk();
    }
    session.read_lines()?;
    if session.failed == 0 { Ok(()) } else { Err(Error::Failed(session.failed)) }
}

/// What is done with lines.
struct Session {
    link: Link,
    /// Of standard error, where the news are told.
    style: Style,
    /// How many requests have failed.
    failed: u64,
}

/// What a line comes to.
enum Told {
    /// A reply in the text protocol, with its line end.
    Reply(Vec<u8>),
    Help,
    Quit,
}

impl Session {
    /// A person at a terminal, until they go.
    fn talk(&mut self) -> Result<(), Error> {
        let style = Style::of(true);
        let mut editor = LineEditor::new(style).map_err(terminal)?;
        if let Err(failure) = self.link.ask(&Request::Ping) {
            println!("{}", style.reply(&failure.to_string()));
        } else {
            println!("{}", style.dim("HELP lists the verbs, TAB completes them, Ctrl-D ends"));
        }
        loop {
            let prompt = format!("{}> ", self.link.address().unwrap_or("not connected"));
            let line = match editor.read(&prompt, self.link.voters()).map_err(terminal)? {
                Entered::Line(line) => line,
                Entered::Nothing => continue,
                Entered::End => return Ok(()),
            };
            // What was pasted may be several lines.
            for line in line.trim_start().split_inclusive('\n').filter(|line| *line != "\n") {
                match self.line_of_a_person(line) {
                    Told::Quit => return Ok(()),
                    Told::Help => print!("{}", words::help()),
                    Told::Reply(reply) => {
                        let reply = String::from_utf8_lossy(&reply);
                        println!("{}", style.reply(reply.trim_end_matches('\n')));
                    }
                }
                io::stdout().flush()?;
            }
        }
    }

    /// A value that would do something to the terminal is escaped.
    fn line_of_a_person(&mut self, line: &str) -> Told {
        let line = format!("{}\n", line.trim_end_matches('\n'));
        let parsed = text::parse(line.as_bytes(), 0, &Limits::MAX);
        let told = match parsed {
            Ok(Some((line, _))) => self.answer(line),
            Ok(None) => unreachable!("a line has its end"),
            Err(error) => Told::Reply(format!("ERROR BAD_REQUEST {error}\n").into_bytes()),
        };
        match told {
            Told::Reply(reply) => Told::Reply(harmless(reply)),
            told => told,
        }
    }

    /// Lines from a pipe or a file: one reply line for each.
    fn read_lines(&mut self) -> Result<(), Error> {
        // Without any server every single line would take its time to fail.
        if let Err(failure) = self.link.ask(&Request::Ping) {
            return Err(Error::NotConnected(failure.to_string()));
        }
        let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
        let (mut buffer, mut length, mut scanned) = (Vec::new(), 0, 0);
        loop {
            let mut at = 0;
            while let Some((line, bytes)) =
                match text::parse(&buffer[at..length], scanned, &Limits::MAX) {
                    Ok(parsed) => parsed,
                    Err(error) => {
                        self.failed += 1;
                        return Ok(writeln!(out, "ERROR BAD_REQUEST {error}")?);
                    }
                }
            {
                (at, scanned) = (at + bytes, 0);
                match self.answer(line) {
                    Told::Reply(reply) => out.write_all(&reply)?,
                    Told::Help => {
                        let mut help = Vec::new();
                        text::encode_help(&mut help);
                        out.write_all(&help)?;
                    }
                    Told::Quit => return Ok(out.flush()?),
                }
                out.flush()?;
            }
            buffer.copy_within(at..length, 0);
            length -= at;
            scanned = length;
            buffer.resize(length + length.max(READ_BYTES), 0);
            match input.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::Input(error).into()),
            }
        }
        if length > 0 {
            // Whoever wrote it may have died in the middle of the value.
            self.failed += 1;
            writeln!(out, "ERROR BAD_REQUEST the last line has no line end: it was not sent")?;
        }
        Ok(())
    }

    fn answer(&mut self, line: Result<Line<'_>, LineError<'_>>) -> Told {
        let mut reply = Vec::new();
        match line {
            Ok(Line::Quit) => return Told::Quit,
            Ok(Line::Help) => return Told::Help,
            Ok(Line::Request(request)) => match self.link.ask(&request) {
                Ok(answer) => match response(&answer) {
                    Some(response) => {
                        text::encode(&mut reply, Acknowledgement::of(&request), &response);
                    }
                    None => reply = format!("ERROR WRONG_ANSWER {answer:?}\n").into_bytes(),
                },
                Err(failure) => reply = format!("{failure}\n").into_bytes(),
            },
            Err(error) => text::encode_line_error(&mut reply, &error),
        }
        if let Some(news) = self.link.take_news() {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "{}", self.style.dim(&news));
        }
        if reply.starts_with(b"ERROR ") {
            self.failed += 1;
        }
        Told::Reply(reply)
    }
}

/// What the text protocol can say; `None` for what none of its requests is answered with.
fn response(reply: &Reply) -> Option<Response<'_>> {
    Some(match reply {
        Reply::Ok => Response::Ok,
        Reply::Written { version } => Response::Written { version: *version },
        Reply::Deleted { version, count } => Response::Deleted { version: *version, count: *count },
        Reply::Value { version, value } => Response::Value { version: *version, value },
        Reply::NotFound => Response::NotFound,
        Reply::Leader(leader) => Response::Leader(leader.as_deref()),
        Reply::Status(line) => Response::Status(line),
        Reply::Members(line) => Response::Members(line),
        Reply::NotLeader { leader } => Response::NotLeader { leader },
        Reply::Error { code, message } => Response::Error { code: *code, message },
        Reply::Number(number) => Response::Number(*number),
        Reply::Values(_) | Reply::SnapshotPart { .. } => return None,
    })
}

/// A reply for a terminal, which obeys to what a value may hold: such a value is escaped.
fn harmless(reply: Vec<u8>) -> Vec<u8> {
    let Some(value) = reply.strip_prefix(b"VALUE ").and_then(|rest| rest.strip_suffix(b"\n"))
    else {
        return reply;
    };
    match str::from_utf8(value) {
        Ok(plain) if !plain.chars().any(char::is_control) => reply,
        _ => format!("VALUE_ESCAPED {}\n", Escaped(value)).into_bytes(),
    }
}

fn terminal(error: ReadlineError) -> Error {
    match error {
        ReadlineError::Io(error) => Error::Terminal(error),
        other => Error::Terminal(io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_does_nothing_to_the_terminal() {
        for (reply, shown) in [
            (&b"VALUE plain \xc3\xa4 \\\n"[..], &b"VALUE plain \xc3\xa4 \\\n"[..]),
            (b"VALUE \x1b[2J\n", b"VALUE_ESCAPED \\x1b[2J\n"),
            (b"VALUE \xff\\\n", b"VALUE_ESCAPED \\xff\\\\\n"),
            (b"VALUE_ESCAPED a\\nb\n", b"VALUE_ESCAPED a\\nb\n"),
            (b"OK\n", b"OK\n"),
        ] {
            assert_eq!(harmless(reply.to_vec()), shown);
        }
    }
}
