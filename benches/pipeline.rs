//! One client thread with many requests in flight against one node: the client's [`Pipeline`]
//! beside the load generator, `kvorum bench`, on one connection with as many in flight, which keeps
//! no request to send it again, looks at no deadline and numbers no write.
//!
//! `cargo bench --bench pipeline -- [SECONDS]`: for each row `ROUNDS` runs of each, one after the
//! other, and their medians. Only a quiet machine gives numbers that mean something.

mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use kvorum::client::{Options, Outcome, Pipeline, PipelineOptions};
use support::servers::Server;
use support::stats::median;

const ROUNDS: usize = 5;
const KEY_SPACE: u32 = 100_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// How many requests are sent between two looks at the clock.
const STRIDE: u32 = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Set,
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(3);
    let duration = Duration::from_secs(seconds);
    let kvorum = env!("CARGO_BIN_EXE_kvorum");
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(kvorum);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Server::kvorum(command, &directory.path().join("data"))?;
    generator(kvorum, server.address(), Kind::Set, &["--preload", "--requests", "1"])?;
    println!("requests a second, medians of {ROUNDS} runs of {seconds} s");
    println!("{:<24}{:>12}{:>12}{:>12}{:>8}", "", "bench", "refilling", "pipeline", "share");
    for depth in [64, 1024] {
        for kind in [Kind::Get, Kind::Set] {
            for exactly_once in if kind == Kind::Get { &[true][..] } else { &[false, true] } {
                let mut samples = [(); 3].map(|()| Vec::new());
                for _ in 0..ROUNDS {
                    let closed =
                        ["--pipeline", &depth.to_string(), "--seconds", &seconds.to_string()];
                    let refilling = [&closed[..], &["--refill"]].concat();
                    samples[0].push(generator(kvorum, server.address(), kind, &closed)?);
                    samples[1].push(generator(kvorum, server.address(), kind, &refilling)?);
                    samples[2].push(pipeline(
                        server.address(),
                        kind,
                        depth,
                        *exactly_once,
                        duration,
                    )?);
                }
                let [closed, refilling, own] = samples.map(median);
                let name = match (kind, exactly_once) {
                    (Kind::Get, _) => "GET",
                    (Kind::Set, false) => "SET",
                    (Kind::Set, true) => "SET, exactly once",
                };
                println!(
                    "{:<24}{closed:>12.0}{refilling:>12.0}{own:>12.0}{:>7.0}%",
                    format!("{name}, {depth}"),
                    own / closed.max(refilling) * 100.0
                );
            }
        }
    }
    Ok(())
}

/// Requests a second of `kvorum bench` on one connection.
fn generator(
    kvorum: &str,
    server: SocketAddr,
    kind: Kind,
    arguments: &[&str],
) -> Result<f64, Box<dyn Error>> {
    let mut command = Command::new(kvorum);
    command.args(["bench", "--json", "--quiet", "--connections", "1", "--warmup-seconds", "0.5"]);
    command.args(["--servers", &server.to_string(), "--key-space", &KEY_SPACE.to_string()]);
    command.args([if kind == Kind::Get { "--get" } else { "--set" }, "1"]).args(arguments);
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    report["requests_per_s"].as_f64().ok_or_else(|| "the report has no requests_per_s".into())
}

/// Requests a second of a [`Pipeline`], which takes every answer.
fn pipeline(
    server: SocketAddr,
    kind: Kind,
    depth: u32,
    exactly_once: bool,
    duration: Duration,
) -> Result<f64, Box<dyn Error>> {
    let options = Options { exactly_once, ..Options::default() };
    let of_pipeline = PipelineOptions { in_flight_max: depth as usize, ..Default::default() };
    let mut pipeline = Pipeline::connect([&*server.to_string()], &options, of_pipeline)?;
    let mut key = *b"key:000000000000";
    let mut state = 1_u32;
    let mut answers = 0_u64;
    let (mut began, mut is_warm) = (Instant::now(), false);
    loop {
        for _ in 0..STRIDE {
            while pipeline.in_flight() >= depth as usize || pipeline.ready() > 0 {
                let Some((_, result)) = pipeline.next() else { break };
                if result? == Outcome::Absent {
                    return Err("a key that was stored is absent".into());
                }
                answers += 1;
            }
            // Any order will do, as long as it is another one than that of the keys.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            write_digits(&mut key[4..], (state >> 8) % KEY_SPACE);
            match kind {
                Kind::Get => pipeline.get(&key)?,
                Kind::Set => pipeline.set(&key, &VALUE)?,
            };
        }
        let elapsed = began.elapsed();
        if !is_warm && elapsed >= Duration::from_millis(500) {
            (began, is_warm, answers) = (Instant::now(), true, 0);
        } else if is_warm && elapsed >= duration {
            return Ok(answers as f64 / elapsed.as_secs_f64());
        }
    }
}

fn write_digits(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("it is one digit");
        number /= 10;
    }
}
