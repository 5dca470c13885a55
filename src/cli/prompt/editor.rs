//! The line editor: history, completion and hints.

use std::borrow::Cow;
use std::env;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use kvorum_protocol::NodeId;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::style::Style;
use super::words;

/// Lines to remember.
const HISTORY_LINES_MAX: usize = 1000;

/// A person at a terminal.
pub(super) struct LineEditor {
    editor: Editor<Assistant, FileHistory>,
    /// `None` where no history can be kept: the prompt works without one.
    history: Option<PathBuf>,
}

/// What a person has entered.
pub(super) enum Entered {
    Line(String),
    /// Ctrl-C: what stood there is not meant.
    Nothing,
    /// Ctrl-D, or the terminal is gone.
    End,
}

impl LineEditor {
    pub(super) fn new(style: Style) -> Result<LineEditor, ReadlineError> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES_MAX)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Assistant { style, voters: Vec::new() }));
        let history = history_file();
        if let Some(history) = &history {
            // An unreadable history is none.
            let _ = editor.load_history(history);
        }
        Ok(LineEditor { editor, history })
    }

    /// Reads a line; `voters` are what TRANSFER may be completed with.
    pub(super) fn read(
        &mut self,
        prompt: &str,
        voters: &[NodeId],
    ) -> Result<Entered, ReadlineError> {
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.voters = voters.to_vec();
        }
        match self.editor.readline(prompt) {
            Ok(line) => {
                self.remember(&line);
                Ok(Entered::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Entered::Nothing),
            Err(ReadlineError::Eof) => Ok(Entered::End),
            Err(error) => Err(error),
        }
    }

    /// Adds the line to the history at once, so that no end of this process loses it.
    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        // A line that is not remembered is no reason to disturb anybody.
        let is_new = self.editor.add_history_entry(line).unwrap_or(false);
        if let (true, Some(history)) = (is_new, &self.history) {
            let _ = self.editor.append_history(history);
        }
    }
}

/// `$XDG_STATE_HOME/kvorum/history`, or the default place of state; made if it is missing. Values
/// may be secrets: nobody else reads it. `None` when that cannot be had.
fn history_file() -> Option<PathBuf> {
    // A relative path there is to be ignored: XDG Base Directory Specification, "Basics".
    let given = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = given.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("kvorum");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    let path = directory.join("history");
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    opened.ok().map(|_| path)
}

/// What the editor asks while somebody types.
struct Assistant {
    style: Style,
    voters: Vec<NodeId>,
}

impl Helper for Assistant {}

impl Validator for Assistant {}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(words::complete(&line[..at], &self.voters))
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<String> {
        if at < line.len() { None } else { words::hint(line) }
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        self.style.prompt(prompt)
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        self.style.dim(hint)
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        false
    }
}
