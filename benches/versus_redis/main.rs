//! kvorum beside Redis on this machine, in one run: `cargo bench --bench versus_redis`.
//!
//! Each row starts a fresh server of each side, stores a million keys in both, and then measures
//! them in turns (A B A B ...), so that a machine whose speed drifts is the same for both. The
//! table shows medians, and the least and greatest ratio of neighbouring runs. `-- --quick` for a
//! first look, `-- get-p1 set-p1` for single rows, `-- --help` for the rest.

mod generators;
mod rows;
mod servers;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;

use generators::{
    Sample, kvorum_bench, measure, measure_redis_benchmark, preload, redis_benchmark,
};
use rows::{BACKGROUND, FOREGROUND, ROWS, Row, Work};
use servers::{Process, Server, Side, cannot_run};

/// The core of a pinned server, and that of its generator.
const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;

/// Compares kvorum with Redis.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Rows to measure [default: all]
    #[arg(value_parser = row)]
    rows: Vec<&'static Row>,

    /// One run of a second each: shows that it works, and no more
    #[arg(long)]
    quick: bool,

    /// Runs of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Length of a run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// The program to measure
    #[arg(long, default_value = env!("CARGO_BIN_EXE_kvorum"))]
    kvorum: PathBuf,

    /// Redis
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,

    /// The load generator of Redis
    #[arg(long, default_value = "redis-benchmark")]
    redis_benchmark: PathBuf,

    /// Where the servers keep their data, on the disk to measure
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    data_dir: PathBuf,

    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn warmup_seconds(&self) -> f64 {
        if self.quick { 0.2 } else { 1.0 }
    }
}

fn row(name: &str) -> Result<&'static Row, String> {
    ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        format!("is none of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("This takes minutes and both cores: cargo bench --bench versus_redis");
        return ExitCode::SUCCESS;
    }
    if options.quick {
        (options.runs, options.seconds) = (1, 1);
    }
    if options.rows.is_empty() {
        options.rows = ROWS.iter().collect();
    }
    match compare(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus_redis: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all rows. On an error or a signal too, the servers end and their data goes.
fn compare(options: &Options) -> Result<(), Box<dyn Error>> {
    let is_interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_interrupted))?;
    }
    table::print_header(options);
    let mut commands = Vec::new();
    for row in &options.rows {
        let comparison = measure_row(row, options, &is_interrupted)?;
        table::print_row(row, &comparison);
        commands.push((row.name, comparison.commands));
    }
    table::print_commands(&commands);
    Ok(())
}

/// The runs of one row, and the commands that made them.
struct Comparison {
    kvorum: Vec<Sample>,
    redis: Vec<Sample>,
    /// [`Work::GetBesideSet`]: the same without the writes.
    kvorum_alone: Vec<Sample>,
    redis_alone: Vec<Sample>,
    commands: Vec<String>,
}

fn measure_row(
    row: &Row,
    options: &Options,
    is_interrupted: &AtomicBool,
) -> Result<Comparison, Box<dyn Error>> {
    let has_two_cores = std::thread::available_parallelism()?.get() > GENERATOR_CORE;
    let pin = |core| (row.is_pinned && has_two_cores).then_some(core);
    let (server_core, generator_core) = (pin(SERVER_CORE), pin(GENERATOR_CORE));
    let start = |side| {
        let server = Server::start(side, row.redis, server_core, options)?;
        preload(&server, options)?;
        Ok::<_, Box<dyn Error>>(server)
    };
    let servers = [start(Side::Kvorum)?, start(Side::Redis)?];
    let mut comparison = Comparison {
        kvorum: Vec::new(),
        redis: Vec::new(),
        kvorum_alone: Vec::new(),
        redis_alone: Vec::new(),
        commands: Vec::new(),
    };
    for run in 0..options.runs {
        for server in &servers {
            if is_interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            let work = Run { server, core: generator_core, options };
            let commands = (run == 0).then_some(&mut comparison.commands);
            let (alone, sample) = work.measure(row.work, commands)?;
            let (samples, alone_samples) = match server.side() {
                Side::Kvorum => (&mut comparison.kvorum, &mut comparison.kvorum_alone),
                Side::Redis => (&mut comparison.redis, &mut comparison.redis_alone),
            };
            samples.push(sample);
            alone_samples.extend(alone);
        }
    }
    Ok(comparison)
}

/// One run on one server.
struct Run<'a> {
    server: &'a Server,
    core: Option<usize>,
    options: &'a Options,
}

impl Run<'_> {
    /// Measures, and notes the commands. The first sample is the one without the other work, if
    /// there is any.
    fn measure(
        &self,
        work: Work,
        mut commands: Option<&mut Vec<String>>,
    ) -> Result<(Option<Sample>, Sample), Box<dyn Error>> {
        let Run { server, core, options } = *self;
        let mut note = |command: &str| {
            if let Some(commands) = &mut commands {
                commands.push(command.to_owned());
            }
        };
        note(server.command());
        match work {
            Work::Throughput(load) => {
                let command = kvorum_bench(load, server, core, options);
                note(&command_line(&command));
                Ok((None, measure(command, server)?))
            }
            Work::RedisBenchmark(pipeline) => {
                let command = redis_benchmark(pipeline, server, core, options);
                note(&command_line(&command));
                Ok((None, measure_redis_benchmark(command, server)?))
            }
            Work::GetBesideSet => {
                let foreground = || kvorum_bench(FOREGROUND, server, core, options);
                let background = kvorum_bench(BACKGROUND, server, core, options);
                note(&command_line(&foreground()));
                note(&command_line(&background));
                let alone = measure(foreground(), server)?;
                let _background = start(background)?;
                Ok((Some(alone), measure(foreground(), server)?))
            }
        }
    }
}

/// Starts a generator that works until it is dropped.
fn start(mut command: Command) -> Result<Process, Box<dyn Error>> {
    let started = command.stdout(Stdio::null()).spawn();
    Ok(Process(started.map_err(|error| cannot_run(&command, &error))?))
}

/// As one would type it, but for the place of kvorum.
fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| match word.to_string_lossy() {
        word if word.is_empty() => "''".to_owned(),
        word if word.ends_with("/kvorum") => "kvorum".to_owned(),
        word => word.into_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
