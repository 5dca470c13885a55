//! The load generators as processes: `kvorum bench` for both servers, and `redis-benchmark` where
//! the same program that others use is to be seen.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use kvorum::bench::cpu::CpuTimes;
use serde_json::Value;

use crate::servers::{Process, Server, Side, cannot_run, on_core};
use crate::{Options, command_line};

/// Keys of every row.
pub const KEY_SPACE: u32 = 1_000_000;

/// Work for `kvorum bench`.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// `get` or `set`: all requests are of this kind.
    pub kind: &'static str,
    /// How many connections.
    pub connections: u32,
    /// How many requests in flight on each.
    pub pipeline: u32,
    /// Requests a second in an open loop; closed without.
    pub rate: Option<u32>,
    /// It goes on until its process is ended.
    pub is_endless: bool,
}

/// What one run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests a second.
    pub per_second: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// CPU time of the server per request, in microseconds.
    pub server_us: f64,
    /// Share of the time that the server's busiest thread was on a CPU.
    pub server_busy: f64,
    /// The same of the generator.
    pub generator_busy: f64,
    /// CPU time of everybody else, in cores.
    pub others: f64,
}

/// The command for a load on a server.
pub fn kvorum_bench(
    load: Load,
    server: &Server,
    core: Option<usize>,
    options: &Options,
) -> Command {
    let mut command = on_core(&options.kvorum, core);
    command.args(["bench", "--json", "--quiet", "--servers", &server.address().to_string()]);
    command.args(["--protocol", protocol(server.side())]);
    command.args(["--connections", &load.connections.to_string()]);
    command.args(["--pipeline", &load.pipeline.to_string()]);
    command.args(["--key-space", &KEY_SPACE.to_string()]);
    command.args([&format!("--{}", load.kind), "1"]);
    if let Some(rate) = load.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let seconds = if load.is_endless { 3600 } else { options.seconds };
    command.args(["--seconds", &seconds.to_string()]);
    command.args(["--warmup-seconds", &options.warmup_seconds().to_string()]);
    command.args(["--server-pid", &server.pid().to_string()]);
    command
}

/// Stores all keys.
pub fn preload(server: &Server, options: &Options) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(&options.kvorum);
    command.args(["bench", "--json", "--quiet", "--servers", &server.address().to_string()]);
    command.args(["--protocol", protocol(server.side())]);
    command.args(["--key-space", &KEY_SPACE.to_string(), "--preload"]);
    command.args(["--seconds", "0", "--warmup-seconds", "0"]);
    run(command, server.pid()).map(|_| ())
}

fn protocol(side: Side) -> &'static str {
    match side {
        Side::Kvorum => "binary",
        Side::Redis => "resp",
    }
}

/// Runs `kvorum bench` to its end.
pub fn measure(command: Command, server: &Server) -> Result<Sample, Box<dyn Error>> {
    let finished = run(command, server.pid())?;
    let report: Value = serde_json::from_str(&finished.output)?;
    let number = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_f64);
        value.ok_or_else(|| format!("the report has no {path}: {report}"))
    };
    if number("/errors")? > 0.0 {
        return Err(format!("requests failed: {}", report["first_error"]).into());
    }
    let operations = report["operations"].as_object().into_iter().flatten();
    let p99_us = operations.filter_map(|(_, one)| one["latency_us"]["p99"].as_f64()).next();
    Ok(Sample {
        per_second: number("/requests_per_s")?,
        p99_us: p99_us.ok_or("no request was answered")?,
        server_us: number("/server_cpu/us_per_request")?,
        server_busy: number("/server_cpu/busiest_thread")?,
        generator_busy: number("/generator_cpu/busiest_thread")?,
        others: finished.others,
    })
}

/// The command line of `redis-benchmark`, the same for both servers but for the port.
pub fn redis_benchmark(
    pipeline: u32,
    server: &Server,
    core: Option<usize>,
    options: &Options,
) -> Command {
    // It counts requests and not time. Few enough that the slower side is done in time.
    let requests = f64::from(options.seconds) * 700_000.0;
    let mut command = on_core(&options.redis_benchmark, core);
    command.args(["-h", "127.0.0.1", "-p", &server.address().port().to_string()]);
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
    let finished = run(command, server.pid())?;
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_...","p99_...","max_..."
    let line = finished.output.lines().find(|line| line.starts_with("\"GET\""));
    let line = line.ok_or_else(|| format!("no result of redis-benchmark: {}", finished.output))?;
    let fields: Vec<&str> = line.split(',').map(|field| field.trim_matches('"')).collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let (per_second, p99_ms) = number(1).zip(number(6)).ok_or("fields are missing")?;
    Ok(Sample {
        per_second,
        p99_us: p99_ms * 1e3,
        server_us: finished.server.total_ns as f64 / 1e3 / requests,
        server_busy: finished.server.busiest_thread_ns as f64 / 1e9 / finished.elapsed_s,
        generator_busy: finished.generator.busiest_thread_ns as f64 / 1e9 / finished.elapsed_s,
        others: finished.others,
    })
}

fn requests_of(command: &Command) -> Option<f64> {
    let mut words = command.get_args().skip_while(|word| *word != "-n");
    words.nth(1)?.to_str()?.parse().ok()
}

/// A process that has come to its end.
struct Finished {
    output: String,
    elapsed_s: f64,
    server: kvorum::bench::cpu::CpuUse,
    generator: kvorum::bench::cpu::CpuUse,
    others: f64,
}

fn run(mut command: Command, server_pid: u32) -> Result<Finished, Box<dyn Error>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let busy_before_s = machine_busy_s();
    let server_before = CpuTimes::read(&[server_pid]);
    let start = Instant::now();
    let child = command.spawn().map_err(|error| cannot_run(&command, &error))?;
    let mut process = Process(child);
    let mut output = String::new();
    process.0.stdout.take().expect("it is piped").read_to_string(&mut output)?;
    let elapsed_s = start.elapsed().as_secs_f64();
    // The end of its output is the end of the process; its times stay until it is waited for.
    let generator = CpuTimes::read(&[process.0.id()]).since(&CpuTimes::default());
    let status = process.0.wait()?;
    if !status.success() {
        return Err(format!("'{}' ended: {status}", command_line(&command)).into());
    }
    let server = CpuTimes::read(&[server_pid]).since(&server_before).unwrap_or_default();
    let generator = generator.unwrap_or_default();
    let busy_s = machine_busy_s() - busy_before_s;
    let ours_s = (server.total_ns + generator.total_ns) as f64 / 1e9;
    let others = ((busy_s - ours_s) / elapsed_s).max(0.0);
    Ok(Finished { output, elapsed_s, server, generator, others })
}

/// The time that all CPUs together were not idle since the machine started, in seconds: the first
/// line of `/proc/stat` (proc(5)), in ticks; the fourth and fifth number are idle times.
fn machine_busy_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8);
    let busy = ticks.enumerate().filter(|(index, _)| ![3, 4].contains(index));
    let total: u64 = busy.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum();
    total as f64 / rustix::param::clock_ticks_per_second() as f64
}
