//! Three nodes of kvorum beside three of etcd and a Redis with two replicas, in one run:
//! `cargo bench --bench versus_cluster`.
//!
//! All nodes and the generator share the cores, nothing is pinned. Each row starts fresh clusters,
//! fills them, and measures them in turns (A B A B ...), so that a machine whose speed drifts is
//! the same for all. The table shows medians, and the least and greatest ratio of neighbouring
//! runs. `-- --quick` for a first look, `-- --only set-50x16` for single rows, `-- --help` for the
//! rest. Nothing is asserted: a row ends with `pass` or `short`.

mod etcd;
mod failover;
mod kvorum_cluster;
mod redis;
mod rows;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::builder::PossibleValuesParser;

use rows::{Peer, ROWS, Row, Work};
use support::generators::Sample;
use support::options::{Common, Interrupt};

/// Nodes of every cluster.
const NODES: usize = 3;

/// How long a cluster may take to agree on a leader. Far above what any of them takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compares clusters.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Rows to measure [default: all]
    #[arg(
        long, value_name = "ROW", value_delimiter = ',',
        value_parser = PossibleValuesParser::new(ROWS.map(|row| row.name))
    )]
    only: Vec<String>,

    /// How often each leader is killed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,

    /// etcd
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,

    #[command(flatten)]
    common: Common,
}

impl Options {
    fn kills(&self) -> u32 {
        if self.common.quick { 1 } else { self.kills }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    options.common.run("versus_cluster", |interrupt| {
        table::print_header(&options);
        // Before anything runs beside it.
        let generator = etcd::build_generator()?;
        for row in &ROWS {
            if options.only.is_empty() || options.only.iter().any(|name| name == row.name) {
                let stand = Stand { options: &options, interrupt, generator: &generator };
                match stand.measure(row) {
                    Ok(()) => {}
                    // Such as a leader that lost its office in the middle of a run.
                    Err(error) => println!("{}: not measured: {error}", row.name),
                }
                interrupt.check()?;
            }
        }
        Ok(())
    })
}

/// One of the clusters that a row compares, under its load.
trait Contender {
    /// For the table.
    fn name(&self) -> String;

    /// One run.
    fn measure(&self) -> Result<Sample, Box<dyn Error>>;
}

/// What all rows need.
struct Stand<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    /// The load generator for etcd.
    generator: &'a std::path::Path,
}

impl Stand<'_> {
    fn measure(&self, row: &Row) -> Result<(), Box<dyn Error>> {
        let common = &self.options.common;
        match row.work {
            Work::Throughput { load, against, .. } => {
                let mut contenders: Vec<Box<dyn Contender + '_>> =
                    vec![Box::new(kvorum_cluster::AtLeader::start(load, common)?)];
                for (peer, _) in against {
                    contenders.push(match peer {
                        Peer::Redis => Box::new(redis::AtPrimary::start(load, common)?),
                        Peer::Etcd(work) => {
                            Box::new(etcd::AtLeader::start(*work, self.generator, self.options)?)
                        }
                    });
                }
                table::print_throughput(row, &self.in_turns(&contenders)?);
            }
            Work::Spread { load, .. } => {
                let contenders: [Box<dyn Contender + '_>; 2] = [
                    Box::new(kvorum_cluster::Spread::start(NODES, load, common)?),
                    Box::new(kvorum_cluster::Spread::start(1, load, common)?),
                ];
                table::print_spread(row, &self.in_turns(&contenders)?);
            }
            Work::Failover { .. } => {
                let mut kvorum = kvorum_cluster::Cluster::start(NODES, &[], common)?;
                let mut etcd = etcd::Cluster::start(self.options)?;
                let mut gaps = [Vec::new(), Vec::new()];
                for _ in 0..self.options.kills() {
                    gaps[0].push(failover::of_kvorum(&mut kvorum)?);
                    gaps[1].push(failover::of_etcd(&mut etcd, self.generator)?);
                    self.interrupt.check()?;
                }
                table::print_failover(row, &gaps);
            }
        }
        Ok(())
    }

    /// The samples of each contender, with its name.
    fn in_turns(
        &self,
        contenders: &[Box<dyn Contender + '_>],
    ) -> Result<Vec<(String, Vec<Sample>)>, Box<dyn Error>> {
        let mut results: Vec<_> =
            contenders.iter().map(|contender| (contender.name(), Vec::new())).collect();
        for _ in 0..self.options.common.runs() {
            for (contender, (name, samples)) in contenders.iter().zip(&mut results) {
                self.interrupt.check()?;
                let sample = contender.measure().map_err(|error| format!("{name}: {error}"))?;
                samples.push(sample);
            }
        }
        Ok(results)
    }
}

/// Looks again and again until there is something to see: what the nodes of a cluster do among
/// themselves they announce to nobody.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("in vain: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
