//! What the client library costs: `cargo bench --bench client`.
//!
//! One node, and this process as its client; both share the cores, nothing is pinned. The two sides
//! of a row are measured in turns (A B A B ...), so that a machine whose speed drifts is the same
//! for both. The table shows medians, and the least and greatest ratio of neighbouring runs.
//! `-- --quick` for a first look. Nothing is asserted: a row ends with `pass` or `short`.

#[path = "support/mod.rs"]
mod support;

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use kvorum::client::pool::{Call, Pool};
use kvorum::client::{Client, Options};
use kvorum_protocol::binary::{PREFACE, RequestHead, decode_response, encode_request};
use kvorum_protocol::{Command as Write, Op, Read, Request, Response};

use support::options::{Common, Interrupt};
use support::servers::Server;
use support::stats::{median, ratio_range};

const THREADS: usize = 16;
const CONNECTIONS_MAX: usize = 10;

/// How often a connection that is taken is used, too, when only the taking is measured.
const USE_ONE_IN: u32 = 4096;

const VALUE: [u8; 100] = [b'v'; 100];

/// Far above what any call takes here.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Measures the client library.
#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let Arguments { common } = Arguments::parse();
    common.run("client", |interrupt| {
        let directory = common.data_directory()?;
        let mut command = Command::new(&common.kvorum);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        let server = Server::kvorum(command, &directory.path().join("data"))?;
        let stand = Stand { address: server.address().to_string(), common: &common, interrupt };
        stand.measure()
    })
}

/// What is done again and again by each thread: one request, or what stands for one.
type Work<'a> = Box<dyn FnMut() + Send + 'a>;

/// One side of a row.
struct Side<'a> {
    name: &'static str,
    threads: usize,
    /// What one thread does.
    work: Box<dyn Fn() -> Work<'a> + 'a>,
}

struct Stand<'a> {
    address: String,
    common: &'a Common,
    interrupt: &'a Interrupt,
}

impl Stand<'_> {
    fn measure(&self) -> Result<(), Box<dyn Error>> {
        let options =
            Options { timeout: TIMEOUT, connections_max: CONNECTIONS_MAX, ..Options::default() };
        let client = Client::connect([&self.address], options)?;
        client.set("k", VALUE)?;

        println!("one thread, GET");
        let pooled = self.client_gets(&client, 1);
        let unpooled = Side {
            name: "a connection for each request",
            threads: 1,
            work: Box::new(|| {
                Box::new(|| Raw::open(&self.address).ask(&Request::Read(Read::Get(b"k"))))
            }),
        };
        self.row([&pooled, &unpooled], 10.0)?;

        for (name, request) in [
            ("GET", Request::Read(Read::Get(b"k"))),
            ("SET", Request::Write(Write::new(Op::Set { key: b"k", value: &VALUE }))),
        ] {
            println!("{THREADS} threads, {name}");
            let raw = Side {
                name: "a raw connection for each thread",
                threads: THREADS,
                work: Box::new(move || {
                    let mut raw = Raw::open(&self.address);
                    Box::new(move || raw.ask(&request))
                }),
            };
            let pooled = match name {
                "GET" => self.client_gets(&client, THREADS),
                _ => Side {
                    name: "the client",
                    threads: THREADS,
                    work: Box::new(|| {
                        Box::new(|| {
                            client.set("k", VALUE).expect("the server answers");
                        })
                    }),
                },
            };
            self.row([&pooled, &raw], 0.9)?;
        }

        for threads in [1, 2, THREADS] {
            let pool = &Pool::new(&self.address, CONNECTIONS_MAX, TIMEOUT);
            let side = Side {
                name: "take a connection and give it back",
                threads,
                work: Box::new(|| {
                    let mut count = 0_u32;
                    Box::new(move || {
                        let now = Instant::now();
                        let deadline = now + TIMEOUT;
                        let taken = pool.take(now, deadline).expect("the server is there");
                        // One that was not used for a while would be looked at each time.
                        if count.is_multiple_of(USE_ONE_IN) {
                            let (head, request) = (RequestHead::default(), &Request::Ping);
                            let call = Call { head, request, along: None, deadline };
                            taken.call(&call, now).expect("the server answers");
                        }
                        count = count.wrapping_add(1);
                    })
                }),
            };
            let runs = (0..self.common.runs()).map(|_| self.run(&side));
            let per_second = median(runs.collect::<Vec<f64>>());
            self.interrupt.check()?;
            println!("{threads} threads, {}: {:.0} ns each", side.name, 1e9 / per_second);
        }
        Ok(())
    }

    fn client_gets<'a>(&self, client: &'a Client, threads: usize) -> Side<'a> {
        let work = Box::new(move || -> Work<'a> {
            Box::new(|| {
                let found = client.get("k").expect("the server answers");
                assert!(found.is_some());
            })
        });
        Side { name: "the client", threads, work }
    }

    /// Compares two sides; the first is to reach so much of the second.
    fn row(&self, sides: [&Side<'_>; 2], goal: f64) -> Result<(), Box<dyn Error>> {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..self.common.runs() {
            for (side, samples) in sides.iter().zip(&mut samples) {
                samples.push(self.run(side));
                self.interrupt.check()?;
            }
        }
        let medians = samples.each_ref().map(|samples| median(samples.iter().copied()));
        for (side, median) in sides.iter().zip(medians) {
            println!("  {:32} {median:9.0} requests/s", side.name);
        }
        let [above, below] = samples;
        let (least, most) = ratio_range(above, below);
        let ratio = medians[0] / medians[1];
        let verdict = if ratio >= goal { "pass" } else { "short" };
        println!("  ratio {ratio:.2} ({least:.2} to {most:.2}), goal {goal}: {verdict}");
        Ok(())
    }

    /// How much of it all threads do in a second.
    fn run(&self, side: &Side<'_>) -> f64 {
        let is_over = AtomicBool::new(false);
        let works: Vec<Work<'_>> = (0..side.threads).map(|_| (side.work)()).collect();
        let warm_up = Duration::from_secs_f64(self.common.warmup_seconds());
        let length = Duration::from_secs(self.common.seconds().into());
        std::thread::scope(|scope| {
            let began = Instant::now() + warm_up;
            let threads: Vec<_> = works
                .into_iter()
                .map(|mut work| {
                    let is_over = &is_over;
                    scope.spawn(move || {
                        while Instant::now() < began {
                            work();
                        }
                        let mut count = 0_u32;
                        while !is_over.load(Ordering::Relaxed) {
                            work();
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            std::thread::sleep(warm_up + length);
            is_over.store(true, Ordering::Relaxed);
            let elapsed = began.elapsed().as_secs_f64();
            let counts = threads.into_iter().map(|thread| thread.join().expect("it ends"));
            counts.map(f64::from).sum::<f64>() / elapsed
        })
    }
}

/// A connection that does nothing but send and receive.
struct Raw {
    stream: TcpStream,
    output: Vec<u8>,
    input: [u8; 4096],
}

impl Raw {
    fn open(address: &str) -> Raw {
        let mut stream = TcpStream::connect(address).expect("the server is there");
        stream.set_nodelay(true).expect("an option can be set");
        stream.write_all(&PREFACE).expect("the server reads");
        stream.read_exact(&mut [0; PREFACE.len()]).expect("the server answers");
        Raw { stream, output: Vec::new(), input: [0; 4096] }
    }

    fn ask(&mut self, request: &Request<'_>) {
        self.output.clear();
        encode_request(&mut self.output, &RequestHead::default(), request);
        self.stream.write_all(&self.output).expect("the server reads");
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.input[filled..]).expect("the server answers");
            assert!(read > 0, "the server closed the connection");
            filled += read;
            let decoded = decode_response(&self.input[..filled]).expect("a sound answer");
            if let Some((frame, _)) = decoded {
                assert!(!matches!(frame.response, Response::Error { .. }));
                return;
            }
        }
    }
}
