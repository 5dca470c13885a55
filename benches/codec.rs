//! Microbenchmarks of the protocols: a request from its bytes, a reply to its bytes, the checksum.
//! `cargo bench --bench codec` takes a minute.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use kvorum_protocol::binary::{RequestHead, decode_request, encode_request, encode_response};
use kvorum_protocol::resp::{self, Action, Args, Decoded, Decoder, Session, Shape, Version};
use kvorum_protocol::text::{self, Acknowledgement};
use kvorum_protocol::{Command, Limits, LogIndex, Op, Read, Request, Response};

const KEY: &[u8] = b"key:000000000001";
const VALUE: &[u8] = &[b'v'; 100];
const SET: Request<'_> =
    Request::Write(Command { session: None, op: Op::Set { key: KEY, value: VALUE } });
const GET: Request<'_> = Request::Read(Read::Get(KEY));
const FOUND: Response<'_> = Response::Value { version: LogIndex(7), value: VALUE };
const WRITTEN: Response<'_> = Response::Written { version: LogIndex(7) };

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    binary(&mut criterion.benchmark_group("binary"));
    text(&mut criterion.benchmark_group("text"));
    resp(&mut criterion.benchmark_group("resp"));
    checksum(&mut criterion.benchmark_group("crc32"));
    criterion.final_summary();
}

fn binary(group: &mut BenchmarkGroup<'_, WallTime>) {
    let limits = Limits::default();
    for (name, request) in [("decode GET", GET), ("decode SET", SET)] {
        let mut input = Vec::new();
        encode_request(&mut input, &RequestHead::default(), &request);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let decoded = decode_request(black_box(&input), &limits);
                black_box(decoded).expect("a good frame").is_some()
            });
        });
    }
    encode(group, |out, response| encode_response(out, 1, response));
}

fn text(group: &mut BenchmarkGroup<'_, WallTime>) {
    let limits = Limits::default();
    let set = [b"SET ", KEY, b" ", VALUE, b"\r\n"].concat();
    let get = [b"GET ", KEY, b"\r\n"].concat();
    for (name, input) in [("decode GET", get), ("decode SET", set)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parsed = text::parse(black_box(&input), 0, &limits);
                black_box(parsed).expect("a good line").is_some()
            });
        });
    }
    encode(group, |out, response| text::encode(out, Acknowledgement::Ok, response));
}

fn resp(group: &mut BenchmarkGroup<'_, WallTime>) {
    let limits = Limits::default();
    let set = [b"*3\r\n$3\r\nSET\r\n$16\r\n", KEY, b"\r\n$100\r\n", VALUE, b"\r\n"].concat();
    let get = [b"*2\r\n$3\r\nGET\r\n$16\r\n", KEY, b"\r\n"].concat();
    for (name, input) in [("decode GET", get), ("decode SET", set)] {
        let (mut decoder, mut args) = (Decoder::default(), Args::new());
        let (session, mut lists, mut reply) = (Session::default(), Vec::new(), Vec::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let input = black_box(input.as_slice());
                let decoded = decoder.decode(input, &limits, &mut args);
                assert!(matches!(decoded, Ok(Decoded::Command { .. })));
                let args = args.of(input);
                let action = resp::dispatch(&session, args, &limits, &mut lists, &mut reply);
                matches!(black_box(action), Action::Request { .. })
            });
        });
    }
    encode(group, |out, response| {
        let shape = match response {
            Response::Written { .. } => Shape::Done,
            _ => Shape::Value,
        };
        resp::encode(out, Version::Resp2, shape, response);
    });
}

fn encode(group: &mut BenchmarkGroup<'_, WallTime>, encode: impl Fn(&mut Vec<u8>, &Response<'_>)) {
    let mut out = Vec::new();
    for (name, response) in [("encode a value", FOUND), ("encode OK", WRITTEN)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(&mut out, black_box(&response));
                black_box(out.len())
            });
        });
    }
}

fn checksum(group: &mut BenchmarkGroup<'_, WallTime>) {
    for bytes in [32, 128, 4 << 10, 64 << 10] {
        let input = vec![7u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| crc32fast::hash(black_box(&input)));
        });
    }
}
