//! The command line of `kvorum bench`.

use std::path::PathBuf;
use std::time::Duration;

use kvorum_protocol::Quorum;

/// Measure a server: closed loop, or open loop at a fixed rate.
///
/// One thread drives all connections. Closed loop (the default): each connection sends a window of
/// --pipeline requests, waits for all its replies, and sends the next, as redis-benchmark does.
/// Open loop (--rate): requests are due at fixed times, and latency counts from then, however late
/// the server lets them be sent.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to connect; connections are spread over the servers
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:6379")]
    pub servers: Vec<String>,

    /// The servers are one cluster: connect to its leader, go where leadership goes, and count what
    /// is lost on the way instead of ending. Binary protocol only
    #[arg(long)]
    pub follow: bool,

    /// With --follow: reads go to all servers alike, writes to the leader. Each connection then
    /// either reads or writes, as many of each as the mix says
    #[arg(long, requires = "follow")]
    pub spread_reads: bool,

    /// R of the reads, in the binary protocol: 1 is answered from local state [default: the
    /// servers']
    #[arg(long, value_name = "majority|N", value_parser = read_quorum)]
    pub read_quorum: Option<Quorum>,

    /// What to speak; resp also measures Redis and its relatives
    #[arg(long, value_enum, default_value_t = Protocol::Binary)]
    pub protocol: Protocol,

    /// How many connections to open
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,

    /// The most requests in flight on a connection
    #[arg(
        short, long, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub pipeline: u32,

    /// Send a request for every reply at once, instead of a window when the whole last one is
    /// answered
    #[arg(long)]
    pub refill: bool,

    /// RESP: end every window that writes with a WAIT for so many replicas; its writes are done
    /// when that is answered, and have failed when it counts fewer
    #[arg(
        long, value_name = "REPLICAS", conflicts_with_all = ["refill", "rate"],
        value_parser = clap::value_parser!(u8).range(1..)
    )]
    pub wait: Option<u8>,

    /// How many keys there are
    #[arg(
        long, value_name = "KEYS", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub key_space: u32,

    /// How keys are drawn; zipf has the exponent 0.99 of YCSB, its popular keys scattered
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,

    /// Length of each key
    #[arg(
        long, value_name = "BYTES", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub key_bytes: u16,

    /// Length of each value
    #[arg(
        long, value_name = "BYTES", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(..=67_108_864)
    )]
    pub value_bytes: u32,

    /// Weight of GET in the mix [default without any weight: --get 90 --set 10]
    #[arg(long, value_name = "WEIGHT")]
    pub get: Option<u16>,

    /// Weight of SET in the mix
    #[arg(long, value_name = "WEIGHT")]
    pub set: Option<u16>,

    /// Weight of DELETE in the mix
    #[arg(long, value_name = "WEIGHT")]
    pub delete: Option<u16>,

    /// Store a value under every key first
    #[arg(long)]
    pub preload: bool,

    /// Open loop: so many requests a second over all connections
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// Open loop: spin instead of sleeping between requests, for exact send times without the delay
    /// of being woken; always so above 20000 a second
    #[arg(long, requires = "rate")]
    pub spin: bool,

    /// How long to measure, after the warm-up
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,

    /// How long to run before the measurement begins
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub warmup_seconds: Duration,

    /// Measure so many requests instead of a time
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    pub requests: Option<u64>,

    /// Names the sequence of operations and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Count a GET as failed when its value is not the one that this program stores under the key
    #[arg(long)]
    pub check: bool,

    /// Process whose CPU time to measure [default: whoever listens, when that is on this machine]
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,

    /// Tell what was done in each interval of this length, and who led
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub timeline: Option<u32>,

    /// Draw the timeline; intervals of 100 ms unless --timeline says otherwise
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Print one JSON object on standard output instead of a table
    #[arg(long)]
    pub json: bool,

    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// A protocol to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Checksummed frames (`protocol/SPEC.md`); the checksum of every reply is verified.
    Binary,
    /// Lines, as for netcat.
    Text,
    /// RESP2.
    Resp,
}

impl Protocol {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Binary => "binary",
            Protocol::Text => "text",
            Protocol::Resp => "resp",
        }
    }
}

/// How often each key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// A few keys most of the time.
    Zipf,
}

impl Distribution {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipf => "zipf",
        }
    }
}

/// How many voters a read consults; there is no `all` for reads.
fn read_quorum(word: &str) -> Result<Quorum, &'static str> {
    match word.parse()? {
        Quorum::All => Err("is not 'majority' or a number of voters"),
        quorum => Ok(quorum),
    }
}

/// A time of up to a day, in seconds, with a fraction if need be.
fn seconds(word: &str) -> Result<Duration, &'static str> {
    let number: f64 = word.parse().map_err(|_| "is not a number of seconds")?;
    if !(0.0..=86_400.0).contains(&number) {
        return Err("is not between 0 and 86400 seconds");
    }
    Ok(Duration::from_secs_f64(number))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_defaults_are_those_of_the_help_text() {
        let args = Command::parse_from(["bench"]).args;
        assert_eq!(args.servers, ["127.0.0.1:6379"]);
        assert_eq!((args.connections, args.pipeline), (50, 1));
        assert_eq!(args.seconds, Duration::from_secs(10));
        assert_eq!((args.get, args.set, args.delete), (None, None, None));
    }

    #[test]
    fn times_may_have_a_fraction_and_must_make_sense() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for word in ["-1", "nan", "inf", "1e9", "x", ""] {
            assert!(seconds(word).is_err(), "{word}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            &["bench", "--requests", "5", "--seconds", "5"][..],
            &["bench", "--connections", "0"],
            &["bench", "--pipeline", "0"],
            &["bench", "--rate", "0"],
            &["bench", "--key-space", "0"],
            &["bench", "--wait", "0"],
            &["bench", "--wait", "1", "--refill"],
            &["bench", "--wait", "1", "--rate", "5"],
            &["bench", "--spread-reads"],
            &["bench", "--read-quorum", "all"],
            &["bench", "--timeline", "0"],
        ] {
            assert!(Command::try_parse_from(words).is_err(), "{words:?}");
        }
        let servers = Command::parse_from(["bench", "--servers", "a:1,b:2"]).args.servers;
        assert_eq!(servers, ["a:1", "b:2"]);
    }
}
