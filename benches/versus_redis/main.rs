//! kvorum beside Redis on this machine, in one run: `cargo bench --bench versus_redis`.
//!
//! Each row starts a fresh server of each side, stores a million keys in both, and then measures
//! them in turns (A B A B ...), so that a machine whose speed drifts is the same for both. The
//! table shows medians, and the least and greatest ratio of neighbouring runs. `-- --quick` for a
//! first look, `-- get-p1 set-p1` for single rows, `-- --help` for the rest.

mod generators;
mod rows;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use clap::Parser;

use generators::{measure_redis_benchmark, redis_benchmark};
use rows::{BACKGROUND, FOREGROUND, ROWS, Row, Work};
use servers::{Server, Side, on_core};
use support::generators::{Sample, kvorum_bench, measure, preload};
use support::options::{Common, Interrupt};
use support::process::{Process, command_line};

/// The core of a pinned server, and that of its generator.
const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;

/// Compares kvorum with Redis.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Rows to measure [default: all]
    #[arg(value_parser = row)]
    rows: Vec<&'static Row>,

    /// The load generator of Redis
    #[arg(long, default_value = "redis-benchmark")]
    redis_benchmark: PathBuf,

    #[command(flatten)]
    common: Common,
}

fn row(name: &str) -> Result<&'static Row, String> {
    ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        format!("is none of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.rows.is_empty() {
        options.rows = ROWS.iter().collect();
    }
    options.common.run("versus_redis", |interrupt| compare(&options, interrupt))
}

/// Measures all rows.
fn compare(options: &Options, interrupt: &Interrupt) -> Result<(), Box<dyn Error>> {
    table::print_header(options);
    let mut commands = Vec::new();
    for row in &options.rows {
        let comparison = measure_row(row, options, interrupt)?;
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
    interrupt: &Interrupt,
) -> Result<Comparison, Box<dyn Error>> {
    let has_two_cores = std::thread::available_parallelism()?.get() > GENERATOR_CORE;
    let pin = |core| (row.is_pinned && has_two_cores).then_some(core);
    let (server_core, generator_core) = (pin(SERVER_CORE), pin(GENERATOR_CORE));
    let start = |side| {
        let server = Server::start(side, row.redis, server_core, &options.common)?;
        preload(&server.target(), &options.common)?;
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
    for run in 0..options.common.runs() {
        for server in &servers {
            interrupt.check()?;
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
        let target = server.target();
        let bench = |load| {
            let program = on_core(&options.common.kvorum, core);
            kvorum_bench(program, load, &target, &options.common)
        };
        note(server.command());
        match work {
            Work::Throughput(load) => {
                let command = bench(load);
                note(&command_line(&command));
                Ok((None, measure(command, &target)?))
            }
            Work::RedisBenchmark(pipeline) => {
                let command = redis_benchmark(pipeline, server, core, options);
                note(&command_line(&command));
                Ok((None, measure_redis_benchmark(command, server)?))
            }
            Work::GetBesideSet => {
                let mut background = bench(BACKGROUND);
                note(&command_line(&bench(FOREGROUND)));
                note(&command_line(&background));
                let alone = measure(bench(FOREGROUND), &target)?;
                // It works until it is dropped.
                let _background = Process::spawn(background.stdout(Stdio::null()))?;
                Ok((Some(alone), measure(bench(FOREGROUND), &target)?))
            }
        }
    }
}
