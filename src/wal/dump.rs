//! Looking at a log: every record as text, or only whether all of it is sound. Nothing is written
//! and nothing locked, so it works beside a running node, and on a copy.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kvorum_protocol::membership::{MemberList, Role};
use kvorum_protocol::text::Escaped;
use kvorum_protocol::{BatchHeader, Command, LogIndex, Lsn, NodeId, Op, Term, batch};

use super::error::{Fault, WalError};
use super::identity::IDENTITY_NAME;
use super::layout::{RecordHeader, SegmentHeader, segment_name};
use super::reader::{ReadLog, VisitError, Visitor, list, read_identity, read_segments};
use super::record::{RecordView, repeats};
use super::scan::FoundRecord;
use crate::disk::{BLOCK_BYTES, Disk, FileDisk};

/// Longer keys and values are shortened to this many bytes.
const SHOWN_BYTES: usize = 64;

/// How often a damaged log is looked at before it is called so: beside a running node, a record
/// may be half written, or a segment recycled, at one look, and not at the next.
const LOOKS: usize = 3;

/// What a log holds.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Segments in use.
    pub segments: usize,
    /// Records, marks not counted.
    pub records: u64,
    /// Batches among them.
    pub batches: u64,
    /// Entries in those.
    pub entries: u64,
    /// The last record.
    pub last_lsn: Lsn,
    /// The current term.
    pub term: Term,
    /// Who got the vote in it.
    pub voted_for: Option<NodeId>,
    /// The last entry.
    pub last_index: LogIndex,
    /// Its term.
    pub last_term: Term,
    /// Highest index known to be committed.
    pub commit: LogIndex,
    /// How the log ends.
    pub tail: Tail,
}

/// How a log ends.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The last segment.
    pub path: PathBuf,
    /// Where in it the log ends.
    pub offset: u64,
    /// What is wrong with the record there; `None` when there is none. It was never acknowledged:
    /// a crash has torn it, or it is being written just now. Recovery cuts it off.
    pub torn: Option<Fault>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { segments, records, batches, entries, last_lsn, .. } = self;
        write!(
            f,
            "segments={segments} records={records} batches={batches} entries={entries} \
             lsn={last_lsn} term={} vote={} last_term={} last={} commit={} end={}:{}",
            self.term,
            Vote(self.voted_for),
            self.last_term,
            self.last_index,
            self.commit,
            self.tail.path.display(),
            self.tail.offset
        )?;
        match self.tail.torn {
            None => Ok(()),
            Some(fault) => write!(
                f,
                " torn ({fault}; never acknowledged: left by a crash, or being written now)"
            ),
        }
    }
}

/// Prints every record of the log in `directory`, one a line, and the entries of a batch below it;
/// at the end the summary.
///
/// # Errors
/// The log is damaged: after what stands before the damage was printed.
pub fn dump(directory: &Path, out: &mut dyn Write) -> Result<Summary, WalError> {
    print_all(directory, Dumper { entries: true, ..Dumper::to(out) })
}

/// As [`dump`], without the entries: terms, votes, truncations, and which batches came between.
///
/// # Errors
/// As [`dump`].
pub fn outline(directory: &Path, out: &mut dyn Write) -> Result<Summary, WalError> {
    print_all(directory, Dumper { entries: false, ..Dumper::to(out) })
}

fn print_all(directory: &Path, mut dumper: Dumper<'_>) -> Result<Summary, WalError> {
    let summary = match look(directory, &mut dumper) {
        Ok(summary) => summary,
        Err(error @ WalError::Output { .. }) => return Err(error),
        // The reading may only have been overtaken by the node that writes this log.
        Err(_) => {
            let summary = look_again(directory)?;
            let note = "the log was written while it was read: not all of it is above";
            dumper.line(&note)?;
            summary
        }
    };
    dumper.line(&summary)?;
    Ok(summary)
}

fn output_error(source: io::Error) -> WalError {
    WalError::Output { source }
}

/// Checks every byte of the log in `directory`, and prints the summary.
///
/// # Errors
/// The log is damaged, or can not be read.
pub fn verify(directory: &Path, out: &mut dyn Write) -> Result<Summary, WalError> {
    let summary = look_again(directory)?;
    writeln!(out, "{summary}").map_err(output_error)?;
    Ok(summary)
}

fn look_again(directory: &Path) -> Result<Summary, WalError> {
    let mut looks_left = LOOKS;
    loop {
        looks_left -= 1;
        match look(directory, &mut Dumper::default()) {
            Err(_) if looks_left > 0 => {}
            outcome => return outcome,
        }
    }
}

fn look(directory: &Path, dumper: &mut Dumper<'_>) -> Result<Summary, WalError> {
    let disk = FileDisk::open_read_only(directory);
    let files = list(&disk)?;
    let identity = read_identity(&disk)?;
    let identity = identity.ok_or_else(|| WalError::Missing { path: disk.path(IDENTITY_NAME) })?;
    // Whether there is a snapshot of what is missing at the start is not asked here.
    let everything = LogIndex(u64::MAX);
    let log = read_segments(&disk, &identity, &files.sequences, everything, dumper)?;
    Ok(summary(&disk, &log, &dumper.count))
}

fn summary(disk: &FileDisk, log: &ReadLog, count: &Count) -> Summary {
    let ReadLog { sealed, last, .. } = log;
    let state = &last.position.state;
    Summary {
        segments: sealed.len() + 1,
        records: count.records,
        batches: count.batches,
        entries: count.entries,
        last_lsn: last.position.lsn,
        term: state.term,
        voted_for: state.voted_for,
        last_index: state.end.index,
        last_term: state.end.term,
        commit: last.position.commit,
        tail: Tail {
            path: disk.path(&segment_name(last.sequence)),
            offset: last.end as u64,
            torn: (!last.torn_blocks.is_empty()).then_some(last.stop.fault),
        },
    }
}

#[derive(Default)]
struct Count {
    records: u64,
    batches: u64,
    entries: u64,
}

#[derive(Default)]
struct Dumper<'a> {
    /// `None` when nothing is printed.
    out: Option<&'a mut dyn Write>,
    /// Whether the entries of batches are printed.
    entries: bool,
    count: Count,
    /// The last entry before the record that comes next.
    last_index: LogIndex,
}

impl<'a> Dumper<'a> {
    fn to(out: &'a mut dyn Write) -> Dumper<'a> {
        Dumper { out: Some(out), ..Dumper::default() }
    }

    fn line(&mut self, line: &dyn fmt::Display) -> Result<(), WalError> {
        match &mut self.out {
            Some(out) => writeln!(out, "{line}").map_err(output_error),
            None => Ok(()),
        }
    }
}

impl Visitor for Dumper<'_> {
    fn segment(&mut self, header: &SegmentHeader) -> io::Result<()> {
        let SegmentHeader { identity, sequence, segment_bytes, first_lsn, state, .. } = header;
        self.last_index = state.end.index;
        let Some(out) = &mut self.out else { return Ok(()) };
        writeln!(
            out,
            "{} bytes={segment_bytes} cluster={:016x} node={} lsn={first_lsn} term={} vote={} \
             last_term={} last={} commit={}",
            segment_name(*sequence),
            identity.cluster.0,
            identity.node,
            state.term,
            Vote(state.voted_for),
            state.end.term,
            state.end.index,
            header.commit
        )
    }

    fn record(&mut self, found: &FoundRecord<'_>) -> Result<(), VisitError> {
        // The state that a group of records ends with is what they add up to.
        let is_repetition = repeats(found.header.kind);
        let is_shown = !is_repetition || found.offset.is_multiple_of(BLOCK_BYTES);
        if let Some(out) = self.out.as_mut().filter(|_| is_shown) {
            print(out, found, self.last_index, self.entries).map_err(VisitError::Output)?;
        }
        self.count.records += u64::from(!is_repetition);
        match &found.record {
            RecordView::Batch { header, .. } => {
                self.count.batches += 1;
                self.count.entries += u64::from(header.count);
                self.last_index = header.last_index();
            }
            RecordView::Truncate { end } | RecordView::Install { end } => {
                self.last_index = end.index;
            }
            RecordView::TermVote { .. }
            | RecordView::Repair { .. }
            | RecordView::State { .. }
            | RecordView::Mark => {}
        }
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

/// Prints a record that comes where the log ends with `last_index`.
fn print(
    out: &mut dyn Write,
    found: &FoundRecord<'_>,
    last_index: LogIndex,
    entries: bool,
) -> io::Result<()> {
    let RecordHeader { lsn, commit, synced, .. } = &found.header;
    write!(out, "lsn={lsn} offset={} ", found.offset)?;
    match &found.record {
        RecordView::Batch { header, bytes } => {
            let BatchHeader { first_index, term, log_time, crc, prev_crc, .. } = header;
            writeln!(
                out,
                "BATCH term={term} index={first_index}..{} time={log_time} bytes={} \
                 prev={prev_crc:08x} crc={crc:08x} commit={commit}",
                header.last_index(),
                bytes.len()
            )?;
            if entries {
                for (index, command) in batch::entries(*first_index, bytes) {
                    print_entry(out, index, &command)?;
                }
            }
            Ok(())
        }
        RecordView::TermVote { term, voted_for } => {
            writeln!(out, "TERM term={term} vote={} commit={commit}", Vote(*voted_for))
        }
        RecordView::Truncate { end } => writeln!(
            out,
            "TRUNCATE index={}..{last_index} last_term={} last={} crc={:08x} commit={commit}",
            end.index.next(),
            end.term,
            end.index,
            end.crc
        ),
        RecordView::Install { end } => writeln!(
            out,
            "INSTALL last_term={} last={} crc={:08x} commit={commit}",
            end.term, end.index, end.crc
        ),
        RecordView::Repair { state } => writeln!(
            out,
            "REPAIR term={} vote={} last_term={} last={last_index} former_last_term={} \
             former_last={} commit={commit}",
            state.term,
            Vote(state.voted_for),
            state.end.term,
            state.former_end.term,
            state.former_end.index
        ),
        RecordView::State { .. } | RecordView::Mark => {
            writeln!(out, "MARK synced={synced} commit={commit}")
        }
    }
}

fn print_entry(out: &mut dyn Write, index: LogIndex, command: &Command<'_>) -> io::Result<()> {
    write!(out, "  {index} ")?;
    match command.op {
        Op::Noop => write!(out, "NOOP")?,
        Op::Set { key, value } => write!(out, "SET {} {}", Word(key), Value(value))?,
        Op::Delete { key } => write!(out, "DELETE {}", Word(key))?,
        Op::SetMany(pairs) => {
            write!(out, "SET_MANY {}", pairs.len())?;
            for (key, value) in pairs.iter() {
                write!(out, " {} {}", Word(key), Word(value))?;
            }
        }
        Op::DeleteMany(keys) => {
            write!(out, "DELETE_MANY {}", keys.len())?;
            for key in keys.iter() {
                write!(out, " {}", Word(key))?;
            }
        }
        Op::OpenSession { window } => write!(out, "OPEN_SESSION window={window}")?,
        Op::Membership(bytes) => {
            write!(out, "MEMBERSHIP")?;
            match MemberList::decode(bytes) {
                Ok(list) => {
                    for member in list.members() {
                        let role = if member.role == Role::Voter { "voter" } else { "learner" };
                        write!(out, " {role}={member}")?;
                    }
                }
                Err(error) => write!(out, " ({error}) {}", Value(bytes))?,
            }
        }
    }
    if let Some(session) = command.session {
        write!(out, " session={} sequence={}", session.session, session.sequence)?;
    }
    writeln!(out)
}

struct Vote(Option<NodeId>);

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(node) => node.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// The rest of a line, as the text protocol escapes it, shortened.
struct Value<'a>(&'a [u8]);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().min(SHOWN_BYTES);
        Escaped(&self.0[..shown]).fmt(f)?;
        match self.0.len() - shown {
            0 => Ok(()),
            more => write!(f, "...(+{more})"),
        }
    }
}

/// One word: spaces are escaped too, and an empty one is visible.
struct Word<'a>(&'a [u8]);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("\"\"");
        }
        f.write_str(&Value(self.0).to_string().replace(' ', "\\x20"))
    }
}
