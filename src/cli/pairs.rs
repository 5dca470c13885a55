//! `kvorum export` and `kvorum import`: all keys and values as JSON lines.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use super::Error;
use super::backup;
use super::pair::{LINE_BYTES_MAX, parse_pair, write_pair};
use super::partial::{PartialFile, refuse_existing};
use super::progress::Progress;
use super::servers::{ClientError, ClientFlags};
use super::snapshot::FileOfDisk;
use crate::client::{self, Pipeline, PipelineOptions};
use crate::core::store::EncodedItem;
use crate::snapshot::{Chunk, Reader, verify};

/// Stands for standard input or output.
const STANDARD: &str = "-";

/// Writes that are on their way at once.
const WRITES_UNDER_WAY: usize = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct ExportFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// Take the pairs from this backup or snapshot; no server is asked
    #[arg(long, value_name = "BACKUP")]
    from: Option<PathBuf>,
    /// Where the lines go, one pair a line; nothing may be there; - for standard output
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// Where the lines come from; - for standard input
    file: PathBuf,
}

/// Why not all pairs were imported.
#[derive(Debug)]
pub(super) enum ImportError {
    /// The file can not be read.
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no pair, or the cluster does not take it.
    Line {
        /// The file.
        path: PathBuf,
        /// From 1; `None` for a write that was not the last one on its way.
        line: Option<u64>,
        /// What is wrong.
        what: String,
        /// So many pairs are stored.
        stored: u64,
    },
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::File { path, source } => {
                write!(f, "{}: {source}: check the path", path.display())
            }
            ImportError::Line { path, line, what, stored } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                write!(
                    f,
                    ": {what}; {stored} pairs before it are stored: it is safe to import again"
                )
            }
        }
    }
}

// Export

pub(super) fn export(flags: &ExportFlags) -> Result<(), Error> {
    let is_standard = flags.file == Path::new(STANDARD);
    if !is_standard {
        refuse_existing(&flags.file)?;
    }
    if let Some(from) = &flags.from {
        return export_from(from, None, flags, is_standard);
    }
    // The pairs of one moment: by way of a snapshot.
    let beside = match is_standard {
        true => std::env::temp_dir().join(format!("kvorum-export-{}", std::process::id())),
        false => suffixed(&flags.file, ".snapshot"),
    };
    let mut fetched = PartialFile::create(&beside)?;
    backup::fetch(&flags.client, &mut fetched, "export: reading")?;
    let path = fetched.partial_path().to_owned();
    export_from(&path, Some(fetched), flags, is_standard)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn export_from(
    from: &Path,
    fetched: Option<PartialFile>,
    flags: &ExportFlags,
    is_standard: bool,
) -> Result<(), Error> {
    let file = FileOfDisk::find(from)?;
    // Not a line of what is not sound.
    let pairs = verify(&file.disk, &file.name, None)?.keys;
    let reader = Reader::open(&file.disk, &file.name, None)?;
    // What was fetched is open, and loses its name now: nothing of it stays, however this ends.
    drop(fetched);
    if is_standard {
        let mut out = BufWriter::new(io::stdout().lock());
        write_pairs(reader, pairs, &mut out)?;
        return Ok(out.flush()?);
    }
    let mut partial = PartialFile::create(&flags.file)?;
    let mut out = BufWriter::new(partial.file());
    let written = write_pairs(reader, pairs, &mut out).and_then(|()| Ok(out.flush()?));
    drop(out);
    match written {
        Err(Error::Output(source)) => Err(partial.fail("write", source))?,
        other => other?,
    }
    partial.publish()?;
    Ok(())
}

fn write_pairs(mut reader: Reader<'_>, of: u64, out: &mut impl Write) -> Result<(), Error> {
    let mut progress = Progress::new("export", "pairs");
    let mut written = 0;
    while let Some(chunk) = reader.next_chunk()? {
        let (Chunk::Items { body, .. } | Chunk::Strays { body, .. }) = chunk else { continue };
        let mut rest = body;
        while !rest.is_empty() {
            let item;
            (item, rest) = EncodedItem::decode(rest).expect("the items were checked");
            write_pair(item.key, item.value, out)?;
            written += 1;
        }
        progress.at(written, Some(of));
    }
    progress.end();
    Ok(())
}

// Import

pub(super) fn import(flags: &ImportFlags) -> Result<(), Error> {
    let path = &flags.file;
    let fail = |source| ImportError::File { path: path.clone(), source };
    let input: Box<dyn BufRead> = if path == Path::new(STANDARD) {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(fail)?))
    };
    let client = flags.client.client()?;
    let pipeline = client.pipeline(PipelineOptions::default()).map_err(ClientError::Call)?;
    let progress = Progress::new("import", "pairs");
    let mut import = Import { path, pipeline, stored: 0, progress };
    import.run(input)?;
    import.progress.end();
    writeln!(io::stdout(), "imported {} pairs", import.stored)?;
    Ok(())
}

struct Import<'a> {
    path: &'a Path,
    pipeline: Pipeline,
    stored: u64,
    progress: Progress,
}

impl Import<'_> {
    fn run(&mut self, mut input: impl BufRead) -> Result<(), ImportError> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(source) => {
                    return Err(ImportError::File { path: self.path.to_owned(), source });
                }
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let pair = match line.len() {
                ..=LINE_BYTES_MAX => parse_pair(&line),
                _ => Err(format!("it is longer than {LINE_BYTES_MAX} bytes, so it is no pair")),
            };
            let sent = pair.and_then(|(key, value)| {
                self.pipeline.set(&key, &value).map_err(|error| error.to_string())
            });
            if let Err(what) = sent {
                // What came before it is on its way.
                self.take_answers(0)?;
                return Err(self.stop(Some(number), what));
            }
            self.take_answers(WRITES_UNDER_WAY)?;
        }
        self.take_answers(0)
    }

    /// Waits until no more than so many are under way.
    fn take_answers(&mut self, under_way: usize) -> Result<(), ImportError> {
        while self.pipeline.in_flight() + self.pipeline.ready() > under_way {
            let answer: Option<Result<(), client::Error>> =
                self.pipeline.next().map(|(_, answer)| answer.map(|_| ()));
            match answer {
                None => break,
                Some(Ok(())) => self.stored += 1,
                Some(Err(error)) => return Err(self.stop(None, error.to_string())),
            }
        }
        self.progress.at(self.stored, None);
        Ok(())
    }

    fn stop(&self, line: Option<u64>, what: String) -> ImportError {
        ImportError::Line { path: self.path.to_owned(), line, what, stored: self.stored }
    }
}
