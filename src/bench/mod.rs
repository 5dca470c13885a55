//! The load generator: `kvorum bench`.
//!
//! One thread, one `mio` poll, any number of connections. It speaks the binary protocol, text and
//! RESP, the last also with Redis and its relatives, so that two servers can be compared by the
//! same program.
//!
//! *Closed loop* shows what a server can do: each connection sends a window of P requests with one
//! write, waits for all P replies, and sends the next window. These are the semantics of
//! `redis-benchmark -P`; the latency of a request is that of its window. With `--refill` each reply
//! makes room for the next request at once.
//!
//! *Open loop* shows what users would feel: requests are due at a fixed rate, and their latency
//! counts from when they were due, not from when the generator came to send them.
//!
//! A request belongs to the measurement when it was sent (open loop: due) after the warm-up; the
//! measurement ends with its last reply, but not before the time asked for. Failed requests are
//! counted apart and are in no percentile.
//!
//! Reading order: [`Args`]; `workload`, `keys` and `zipf`, what is asked; `requests` and `replies`,
//! as bytes; `pacer`, when; `connection`, `in_flight` and `engine`, the loop; `recorder`, `cpu` and
//! `report`, what came of it; `cluster` and `engine::follow`, who leads; `timeline` and `svg`, when
//! what happened.
//!
//! With `--follow` the servers are one cluster: connections go to its leader wherever that is, what
//! is lost on the way is counted, and a timeline shows what a failure costs.
//!
//! CAVEATS: one thread drives the connections, so one core; CPU time of the servers only on Linux
//! and on this machine; without `--follow` no reconnecting: a lost connection ends the run.

mod args;
mod cluster;
mod connection;
pub mod cpu;
mod engine;
mod in_flight;
mod keys;
mod pacer;
mod recorder;
mod replies;
mod report;
mod requests;
mod svg;
mod timeline;
mod workload;
mod zipf;

use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

pub use args::{Args, Distribution, Protocol};
pub use replies::ReplyError;

use cluster::{Cluster, Place};
use connection::Connection;
use engine::{Engine, Measurement, Plan};
use keys::{KeyChooser, KeyFormat};
use pacer::Amount;
use report::{Report, progress_line};
use requests::Requests;
use workload::{Kind, Mix, Part, Workload};
use zipf::{YCSB_EXPONENT, Zipf};

/// The most bytes of requests in flight on one connection.
const WINDOW_BYTES_MAX: usize = 64 << 20;

/// Filling the key space is always pipelined at least so deep.
const PRELOAD_PIPELINE: u32 = 64;

/// How long a connection, and then its greeting, may take at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Intervals of a picture that nobody has chosen.
const PICTURE_INTERVAL_MS: u32 = 100;

/// Why there is no result.
#[derive(Debug)]
pub enum BenchError {
    /// A server's name means no address.
    Resolve {
        /// The name.
        server: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// A connection could not be made.
    Connect {
        /// Where to.
        server: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A connection was lost.
    Connection {
        /// Where to.
        server: SocketAddr,
        /// How.
        source: io::Error,
    },
    /// What came back cannot be understood.
    Reply {
        /// Where from.
        server: SocketAddr,
        /// What is wrong with it.
        source: ReplyError,
    },
    /// The servers have stopped answering.
    Stalled {
        /// How many requests wait for their reply.
        unanswered: u64,
    },
    /// Some values could not be stored before the measurement.
    Preload {
        /// How many.
        errors: u64,
        /// The first message.
        first: String,
    },
    /// The keys are too short to tell so many apart.
    KeyBytes {
        /// Length of a key.
        key_bytes: u16,
        /// How many are asked for.
        key_space: u32,
    },
    /// All weights of the mix are zero.
    EmptyMix,
    /// WAIT is a command of RESP.
    WaitNeedsResp,
    /// Only the binary protocol says who leads, and has an R of its own for each read.
    NeedsBinary,
    /// Of a single connection not one part can read and one write.
    TooFewConnections,
    /// No server has led in time.
    NoLeader,
    /// The picture could not be written.
    Picture {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The requests in flight on a connection would be too many bytes.
    Window {
        /// So many.
        bytes: usize,
    },
    /// The event queue of the operating system failed.
    Poll(io::Error),
    /// The report could not be printed.
    Print(io::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchError::Resolve { server, source } => {
                write!(f, "cannot find the address of {server}: {source}")
            }
            BenchError::Connect { server, source } => {
                write!(f, "cannot connect to {server}: {source}")
            }
            BenchError::Connection { server, source } => {
                write!(f, "lost a connection to {server}: {source}")
            }
            BenchError::Reply { server, source } => write!(f, "bad reply from {server}: {source}"),
            BenchError::Stalled { unanswered } => {
                write!(f, "no reply for 30 seconds; {unanswered} requests are unanswered")
            }
            BenchError::Preload { errors, first } => {
                write!(f, "{errors} values could not be stored before the measurement; {first}")
            }
            BenchError::KeyBytes { key_bytes, key_space } => write!(
                f,
                "{key_bytes} bytes are too few for the names of {key_space} keys; raise \
                 --key-bytes or lower --key-space"
            ),
            BenchError::EmptyMix => {
                f.write_str("nothing to do: give --get, --set or --delete a weight above 0")
            }
            BenchError::WaitNeedsResp => f.write_str("--wait needs --protocol resp"),
            BenchError::NeedsBinary => {
                f.write_str("--follow and --read-quorum need --protocol binary")
            }
            BenchError::TooFewConnections => {
                f.write_str("--spread-reads with reads and writes needs --connections 2 or more")
            }
            BenchError::NoLeader => f.write_str("none of the servers has led for 10 seconds"),
            BenchError::Picture { path, source } => {
                write!(f, "cannot write {}: {source}", path.display())
            }
            BenchError::Window { bytes } => write!(
                f,
                "{bytes} bytes in flight on each connection are more than {WINDOW_BYTES_MAX}; \
                 lower --pipeline or --value-bytes"
            ),
            BenchError::Poll(source) => write!(f, "cannot wait for events: {source}"),
            BenchError::Print(source) => write!(f, "cannot print the report: {source}"),
        }
    }
}

impl std::error::Error for BenchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BenchError::Resolve { source, .. }
            | BenchError::Connect { source, .. }
            | BenchError::Connection { source, .. }
            | BenchError::Poll(source)
            | BenchError::Picture { source, .. }
            | BenchError::Print(source) => Some(source),
            BenchError::Reply { source, .. } => Some(source),
            BenchError::Stalled { .. }
            | BenchError::Preload { .. }
            | BenchError::KeyBytes { .. }
            | BenchError::EmptyMix
            | BenchError::WaitNeedsResp
            | BenchError::NeedsBinary
            | BenchError::TooFewConnections
            | BenchError::NoLeader
            | BenchError::Window { .. } => None,
        }
    }
}

impl BenchError {
    /// Whether the command line asks for something that cannot be (exit status 2), rather than
    /// something having gone wrong (exit status 1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            BenchError::KeyBytes { .. }
                | BenchError::EmptyMix
                | BenchError::WaitNeedsResp
                | BenchError::NeedsBinary
                | BenchError::TooFewConnections
                | BenchError::Window { .. }
        )
    }
}

/// Runs the benchmark: progress on standard error, the report on standard output. Requests that
/// fail are part of the report, not an error.
///
/// # Errors
/// What keeps the run from starting or from coming to its end.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let measurement = measure(args)?;
    let report = Report::new(args, &measurement);
    if let Some((path, picture)) = args.svg.as_ref().zip(report.to_svg()) {
        std::fs::write(path, picture)
            .map_err(|source| BenchError::Picture { path: path.clone(), source })?;
    }
    let mut out = io::stdout().lock();
    let printed =
        if args.json { writeln!(out, "{}", report.to_json()) } else { write!(out, "{report}") };
    printed.and_then(|()| out.flush()).map_err(BenchError::Print)
}

/// Connects, fills the key space if that is asked for, and measures.
fn measure(args: &Args) -> Result<Measurement, BenchError> {
    let mix = mix(args)?;
    if args.wait.is_some() && args.protocol != Protocol::Resp {
        return Err(BenchError::WaitNeedsResp);
    }
    if (args.follow || args.read_quorum.is_some()) && args.protocol != Protocol::Binary {
        return Err(BenchError::NeedsBinary);
    }
    let too_short = BenchError::KeyBytes { key_bytes: args.key_bytes, key_space: args.key_space };
    let keys = KeyFormat::new(args.key_bytes.into(), args.key_space).ok_or(too_short)?;
    let requests = Requests::new(args.protocol, keys, args.value_bytes as usize, args.read_quorum);
    let window_bytes = requests.bytes_max() * args.pipeline as usize;
    if window_bytes > WINDOW_BYTES_MAX {
        return Err(BenchError::Window { bytes: window_bytes });
    }
    let servers = resolve(&args.servers)?;
    let (connections, cluster) = if args.follow {
        let cluster = Cluster::watch(servers.clone())?;
        (connect_to_cluster(args, mix, &cluster)?, Some(cluster))
    } else {
        let open = |index| connect(args, servers[index % servers.len()]);
        ((0..usize::from(args.connections)).map(open).collect::<Result<Vec<_>, _>>()?, None)
    };
    let server_pids = if args.server_pid.is_empty() {
        servers.iter().filter_map(|&server| cpu::find_listener(server)).collect()
    } else {
        args.server_pid.clone()
    };
    let mut engine = Engine::new(connections, requests, server_pids, cluster)?;
    if args.preload {
        preload(args, &mut engine)?;
    }
    let keys = match args.distribution {
        Distribution::Uniform => KeyChooser::Uniform(args.key_space),
        Distribution::Zipf => KeyChooser::Zipf(Zipf::new(args.key_space, YCSB_EXPONENT)),
    };
    let plan = Plan {
        pipeline: args.pipeline,
        refill: args.refill,
        per_second: args.rate,
        spin: args.spin,
        warmup: args.warmup_seconds,
        amount: match args.requests {
            Some(requests) => Amount::Requests(requests),
            None => Amount::Time(engine::nanoseconds(args.seconds)),
        },
        check: args.check,
        wait: args.wait,
        timeline: timeline_interval(args),
    };
    let mut workload = Workload::new(mix, keys, args.seed);
    engine.run(args.protocol, &mut workload, &plan, &mut |progress| {
        print_progress(args, "run", progress);
    })
}

fn connect(args: &Args, server: SocketAddr) -> Result<Connection, BenchError> {
    Connection::open(server, args.protocol, CONNECT_TIMEOUT)
}

/// Opens every connection where the cluster wants it now.
fn connect_to_cluster(
    args: &Args,
    mix: Mix,
    cluster: &Cluster,
) -> Result<Vec<Connection>, BenchError> {
    let count = usize::from(args.connections);
    if args.spread_reads && count == 1 && mix.has_both() {
        return Err(BenchError::TooFewConnections);
    }
    let readers = mix.readers(count);
    let view = cluster.view();
    let open = |index| {
        let part = match args.spread_reads {
            true if index < readers => Part::Reads,
            true => Part::Writes,
            false => Part::All,
        };
        let place = Place { part, home: index % args.servers.len() };
        let at = view.target(place).ok_or(BenchError::NoLeader)?;
        Ok(connect(args, cluster.address(at))?.placed(place, at))
    };
    (0..count).map(open).collect()
}

/// The length of an interval, if a timeline is asked for.
fn timeline_interval(args: &Args) -> Option<Duration> {
    let for_picture = args.svg.as_ref().map(|_| PICTURE_INTERVAL_MS);
    args.timeline.or(for_picture).map(|ms| Duration::from_millis(ms.into()))
}

/// Stores a value under every key, in order.
fn preload(args: &Args, engine: &mut Engine) -> Result<(), BenchError> {
    let affordable = WINDOW_BYTES_MAX / engine.request_bytes_max();
    let deepest = u32::try_from(affordable).unwrap_or(u32::MAX).max(args.pipeline);
    let plan = Plan {
        pipeline: args.pipeline.max(PRELOAD_PIPELINE).min(deepest),
        refill: false,
        per_second: None,
        spin: false,
        warmup: Duration::ZERO,
        amount: Amount::Requests(args.key_space.into()),
        check: false,
        wait: args.wait,
        timeline: None,
    };
    let keys = KeyChooser::Sequential { next: 0 };
    let mut workload = Workload::new(Mix::only(Kind::Set), keys, args.seed);
    let filled = engine.run(args.protocol, &mut workload, &plan, &mut |progress| {
        print_progress(args, "preload", progress);
    })?;
    match filled.recorder.first_error() {
        None => Ok(()),
        Some(first) => Err(BenchError::Preload {
            errors: filled.recorder.kind(Kind::Set).errors,
            first: first.to_owned(),
        }),
    }
}

fn print_progress(args: &Args, name: &str, progress: &engine::Progress<'_>) {
    if !args.quiet {
        eprintln!("{}", progress_line(name, progress));
    }
}

fn mix(args: &Args) -> Result<Mix, BenchError> {
    let mix = match (args.get, args.set, args.delete) {
        (None, None, None) => Mix { get: 90, set: 10, delete: 0 },
        (get, set, delete) => {
            Mix { get: get.unwrap_or(0), set: set.unwrap_or(0), delete: delete.unwrap_or(0) }
        }
    };
    if mix.is_empty() { Err(BenchError::EmptyMix) } else { Ok(mix) }
}

fn resolve(servers: &[String]) -> Result<Vec<SocketAddr>, BenchError> {
    let resolve_one = |server: &String| {
        let address = server.to_socket_addrs().and_then(|mut addresses| {
            addresses.next().ok_or_else(|| io::ErrorKind::NotFound.into())
        });
        address.map_err(|source| BenchError::Resolve { server: server.clone(), source })
    };
    servers.iter().map(resolve_one).collect()
}

#[cfg(test)]
mod tests;
