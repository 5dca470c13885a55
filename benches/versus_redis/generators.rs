//! `redis-benchmark`, where the same program that others use is to be seen.

use std::error::Error;
use std::process::Command;

use crate::Options;
use crate::servers::{Server, on_core};
use crate::support::generators::{KEY_SPACE, Sample, run};

/// The command line of `redis-benchmark`, the same for both servers but for the port.
pub fn redis_benchmark(
    pipeline: u32,
    server: &Server,
    core: Option<usize>,
    options: &Options,
) -> Command {
    // It counts requests and not time. Few enough that the slower side is done in time.
    let requests = f64::from(options.common.seconds()) * 700_000.0;
    let mut command = on_core(&options.redis_benchmark, core);
    command.args(["-h", "127.0.0.1", "-p", &server.port().to_string()]);
    command.args(["-c", "50", "-P", &pipeline.to_string(), "-t", "get", "-d", "100"]);
    command.args(["-r", &KEY_SPACE.to_string(), "-n", &format!("{requests:.0}"), "--csv"]);
    command
}

/// Runs `redis-benchmark` to its end.
pub fn measure_redis_benchmark(
    command: Command,
    server: &Server,
) -> Result<Sample, Box<dyn Error>> {
    let requests = requests_of(&command).ok_or("-n is missing")?;
    let finished = run(command, &[server.pid()])?;
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_...","p99_...","max_..."
    let line = finished.output.lines().find(|line| line.starts_with("\"GET\""));
    let line = line.ok_or_else(|| format!("no result of redis-benchmark: {}", finished.output))?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    let number = |index: usize| {
        let field = fields.get(index).and_then(|field| field.parse::<f64>().ok());
        field.ok_or("fields are missing")
    };
    Ok(finished.sample(number(1)?, number(4)? * 1e3, number(6)? * 1e3, requests))
}

fn requests_of(command: &Command) -> Option<f64> {
    let mut words = command.get_args().skip_while(|word| *word != "-n");
    words.nth(1)?.to_str()?.parse().ok()
}
