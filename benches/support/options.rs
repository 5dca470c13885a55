//! What every comparison is told on its command line, and its way from there to an exit status.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

/// Flags that all comparisons have.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// One run of a second each: shows that it works, and no more
    #[arg(long)]
    pub quick: bool,

    /// Runs of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Length of a run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// The program to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_kvorum"))]
    pub kvorum: PathBuf,

    /// Redis
    #[arg(long, default_value = "redis-server")]
    pub redis_server: PathBuf,

    /// Where the servers keep their data, on the disk to measure
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,

    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

impl Common {
    /// Runs of each side.
    pub fn runs(&self) -> u32 {
        if self.quick { 1 } else { self.runs }
    }

    /// Length of a run.
    pub fn seconds(&self) -> u32 {
        if self.quick { 1 } else { self.seconds }
    }

    /// How long a generator runs before it measures.
    pub fn warmup_seconds(&self) -> f64 {
        if self.quick { 0.2 } else { 1.0 }
    }

    /// A directory that goes when the value is dropped.
    pub fn data_directory(&self) -> std::io::Result<TempDir> {
        tempfile::Builder::new().prefix("versus-").tempdir_in(&self.data_dir)
    }

    /// Compares, if cargo was asked for it and is not just running all tests. An error or a signal
    /// ends the comparison in good order: the servers end and their data goes.
    pub fn run(
        &self,
        name: &str,
        compare: impl FnOnce(&Interrupt) -> Result<(), Box<dyn Error>>,
    ) -> ExitCode {
        if !self.bench {
            println!("This takes minutes and both cores: cargo bench --bench {name}");
            return ExitCode::SUCCESS;
        }
        match Interrupt::on_signals().and_then(|interrupt| compare(&interrupt)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{name}: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Whether somebody wants this to end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn on_signals() -> Result<Interrupt, Box<dyn Error>> {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&is_interrupted))?;
        }
        Ok(Interrupt(is_interrupted))
    }

    /// An error after SIGINT or SIGTERM.
    pub fn check(&self) -> Result<(), Box<dyn Error>> {
        if self.0.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}
