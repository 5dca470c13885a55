//! A load generator for etcd 3: closed loop over gRPC, many requests in flight over a few
//! connections, one thread. It prints one JSON object, in the words of `kvorum bench --json`.
//!
//! With `--first-ack` it measures nothing: it connects to all endpoints, says `ready`, waits for a
//! line on its standard input, then puts a value every few milliseconds through each of them until
//! one is acknowledged, says `acknowledged`, and ends.

mod kv;
mod load;
mod probe;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Puts and gets by gRPC.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Where to connect; connections are spread over them
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<SocketAddr>,

    /// What to ask
    #[arg(long, value_enum, default_value = "put")]
    kind: Kind,

    /// HTTP/2 connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Requests in flight, over all connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: u32,

    /// How many keys there are, of 16 bytes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    key_space: u32,

    /// Length of each value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,

    /// Store a value under every key first
    #[arg(long)]
    preload: bool,

    /// How long to measure
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,

    /// How long to run before the measurement begins
    #[arg(long, default_value_t = 1.0)]
    warmup_seconds: f64,

    /// Tell when the first put is acknowledged, instead
    #[arg(long)]
    first_ack: bool,
}

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Store a value.
    Put,
    /// A linearizable read.
    Get,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("etcd-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    if options.first_ack {
        return probe::first_ack(&options.endpoints).await;
    }
    let mut connections = Vec::new();
    for index in 0..options.connections as usize {
        let endpoint = options.endpoints[index % options.endpoints.len()];
        connections.push(kv::Connection::open(endpoint).await?);
    }
    if options.preload {
        load::preload(&connections, options).await?;
    }
    let warmup = Duration::from_secs_f64(options.warmup_seconds);
    let measured = Duration::from_secs_f64(options.seconds);
    let results = load::run(&connections, options, warmup, measured).await;
    println!("{}", results.to_json(measured));
    Ok(())
}
