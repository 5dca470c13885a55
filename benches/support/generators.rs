//! Load generators as processes, above all `kvorum bench`, which also speaks RESP.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

use kvorum::bench::cpu::{CpuTimes, CpuUse};
use serde_json::Value;

use super::options::Common;
use super::process::{Process, command_line};

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

impl Load {
    /// A closed loop.
    pub const fn closed(kind: &'static str, connections: u32, pipeline: u32) -> Load {
        Load { kind, connections, pipeline, rate: None, is_endless: false }
    }
}

/// What a load falls on.
#[derive(Clone, Debug)]
pub struct Target {
    /// Connections are spread over these.
    pub servers: Vec<SocketAddr>,
    /// The processes whose CPU time counts.
    pub pids: Vec<u32>,
    /// `binary` or `resp`.
    pub protocol: &'static str,
    /// How many replicas must hold each window of writes.
    pub wait: Option<u8>,
}

/// What one run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests a second.
    pub per_second: f64,
    /// Median of the latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub p99_us: f64,
    /// CPU time of the servers per request, in microseconds.
    pub server_us: f64,
    /// Share of the time that the servers' busiest thread was on a CPU.
    pub server_busy: f64,
    /// The same of the generator.
    pub generator_busy: f64,
    /// CPU time of everybody else, in cores.
    pub others: f64,
}

/// Completes the command `program`, which is kvorum, for a load on a target.
pub fn kvorum_bench(program: Command, load: Load, target: &Target, options: &Common) -> Command {
    let mut command = bench_of(program, target);
    command.args(["--connections", &load.connections.to_string()]);
    command.args(["--pipeline", &load.pipeline.to_string()]);
    command.args([&format!("--{}", load.kind), "1"]);
    if let Some(rate) = load.rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let seconds = if load.is_endless { 3600 } else { options.seconds() };
    command.args(["--seconds", &seconds.to_string()]);
    command.args(["--warmup-seconds", &options.warmup_seconds().to_string()]);
    for pid in &target.pids {
        command.args(["--server-pid", &pid.to_string()]);
    }
    command
}

/// Stores all keys.
pub fn preload(target: &Target, options: &Common) -> Result<(), Box<dyn Error>> {
    let mut command = bench_of(Command::new(&options.kvorum), target);
    command.args(["--preload", "--seconds", "0", "--warmup-seconds", "0"]);
    run(command, &target.pids).map(|_| ())
}

fn bench_of(mut program: Command, target: &Target) -> Command {
    let servers: Vec<String> = target.servers.iter().map(SocketAddr::to_string).collect();
    program.args(["bench", "--json", "--quiet", "--servers", &servers.join(",")]);
    program.args(["--protocol", target.protocol]);
    program.args(["--key-space", &KEY_SPACE.to_string()]);
    if let Some(replicas) = target.wait {
        program.args(["--wait", &replicas.to_string()]);
    }
    program
}

/// Runs `kvorum bench` to its end.
pub fn measure(command: Command, target: &Target) -> Result<Sample, Box<dyn Error>> {
    let finished = run(command, &target.pids)?;
    let report = finished.report()?;
    let number = |path: &str| number(&report, path);
    let operation = report["operations"].as_object().into_iter().flatten().next();
    let latency = operation.map(|(_, one)| &one["latency_us"]).ok_or("no request was answered")?;
    Ok(Sample {
        per_second: number("/requests_per_s")?,
        p50_us: self::number(latency, "/p50")?,
        p99_us: self::number(latency, "/p99")?,
        server_us: number("/server_cpu/us_per_request")?,
        server_busy: number("/server_cpu/busiest_thread")?,
        generator_busy: number("/generator_cpu/busiest_thread")?,
        others: finished.others,
    })
}

/// A number in a report.
pub fn number(report: &Value, path: &str) -> Result<f64, String> {
    let value = report.pointer(path).and_then(Value::as_f64);
    value.ok_or_else(|| format!("the report has no {path}: {report}"))
}

/// A generator that has come to its end.
pub struct Finished {
    /// What it printed.
    pub output: String,
    elapsed_s: f64,
    server: CpuUse,
    generator: CpuUse,
    /// CPU time of everybody else, in cores.
    pub others: f64,
}

impl Finished {
    /// The JSON object that it printed, if no request failed.
    pub fn report(&self) -> Result<Value, Box<dyn Error>> {
        let report: Value = serde_json::from_str(&self.output)?;
        if number(&report, "/errors")? > 0.0 {
            return Err(format!("requests failed: {}", report["first_error"]).into());
        }
        Ok(report)
    }

    /// What was measured, when the CPU time counts from its start to its end, and for all
    /// `requests`.
    pub fn sample(&self, per_second: f64, p50_us: f64, p99_us: f64, requests: f64) -> Sample {
        Sample {
            per_second,
            p50_us,
            p99_us,
            server_us: self.server.total_ns as f64 / 1e3 / requests,
            server_busy: self.server.busiest_thread_ns as f64 / 1e9 / self.elapsed_s,
            generator_busy: self.generator.busiest_thread_ns as f64 / 1e9 / self.elapsed_s,
            others: self.others,
        }
    }
}

/// Runs a generator to its end, beside servers.
pub fn run(mut command: Command, server_pids: &[u32]) -> Result<Finished, Box<dyn Error>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let busy_before_s = machine_busy_s();
    let server_before = CpuTimes::read(server_pids);
    let start = Instant::now();
    let mut process = Process::spawn(&mut command)?;
    let mut output = String::new();
    process.0.stdout.take().expect("it is piped").read_to_string(&mut output)?;
    let elapsed_s = start.elapsed().as_secs_f64();
    // The end of its output is the end of the process; its times stay until it is waited for.
    let generator = CpuTimes::read(&[process.id()]).since(&CpuTimes::default());
    let status = process.0.wait()?;
    if !status.success() {
        return Err(format!("'{}' ended: {status}", command_line(&command)).into());
    }
    let server = CpuTimes::read(server_pids).since(&server_before).unwrap_or_default();
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
