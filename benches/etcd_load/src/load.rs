//! The closed loop: as many tasks as requests are to be in flight, each with one at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::kv::{CallError, Connection};
use crate::{Kind, Options};

/// While storing all keys. More are not faster.
const PRELOAD_IN_FLIGHT: u32 = 500;

/// What came back.
#[derive(Debug, Default)]
pub struct Results {
    /// Microseconds, of each request that was answered within the measured time.
    latencies_us: Vec<u32>,
    /// Requests answered, also in the warm-up.
    answered: u64,
    errors: u64,
    first_error: Option<String>,
}

/// When the measurement begins and ends.
#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    until: Instant,
}

/// Which keys a task asks for.
struct Keys {
    next: u64,
    step: u64,
    key_space: u64,
    /// As often as this; then the task ends.
    count: u64,
}

impl Keys {
    fn draw(&mut self) -> Option<String> {
        self.count = self.count.checked_sub(1)?;
        let key = self.next % self.key_space;
        self.next = self.next.wrapping_add(self.step);
        Some(format!("key:{key:012}"))
    }
}

/// Stores a value under every key.
pub async fn preload(connections: &[Connection], options: &Options) -> Result<(), String> {
    let key_space = u64::from(options.key_space);
    let tasks = u64::from(PRELOAD_IN_FLIGHT);
    let keys = |task: u64| Keys {
        next: task,
        step: tasks,
        key_space,
        count: (key_space + tasks - 1 - task) / tasks,
    };
    let start = Instant::now();
    let span = Span { from: start, until: start + Duration::from_secs(3600) };
    let results =
        drive(connections, Kind::Put, PRELOAD_IN_FLIGHT, options.value_bytes, keys, span).await;
    results.first_error.map_or(Ok(()), Err)
}

/// Warms up, and measures.
pub async fn run(
    connections: &[Connection],
    options: &Options,
    warmup: Duration,
    measured: Duration,
) -> Results {
    let key_space = u64::from(options.key_space);
    // Steps of the golden section scatter the keys of a task; the tasks begin apart.
    let keys = |task: u64| Keys {
        next: task.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20,
        step: (key_space * 618 / 1000) | 1,
        key_space,
        count: u64::MAX,
    };
    let from = Instant::now() + warmup;
    let span = Span { from, until: from + measured };
    drive(connections, options.kind, options.in_flight, options.value_bytes, keys, span).await
}

async fn drive(
    connections: &[Connection],
    kind: Kind,
    in_flight: u32,
    value_bytes: usize,
    keys: impl Fn(u64) -> Keys,
    span: Span,
) -> Results {
    let results = Rc::new(RefCell::new(Results::default()));
    let value: Rc<[u8]> = (b'a'..=b'z').cycle().take(value_bytes).collect();
    let tasks = LocalSet::new();
    for (task, connection) in (0..in_flight).zip(connections.iter().cycle()) {
        let (connection, results, value) = (connection.clone(), Rc::clone(&results), value.clone());
        let mut keys = keys(u64::from(task));
        tasks.spawn_local(async move {
            while let Some(key) = keys.draw() {
                let sent = Instant::now();
                if sent >= span.until {
                    return;
                }
                let answer = match kind {
                    Kind::Put => connection.put(key.as_bytes(), &value).await,
                    Kind::Get => connection.get(key.as_bytes()).await,
                };
                let is_lost = matches!(answer, Err(CallError::Http(_)));
                results.borrow_mut().take(answer, sent, span);
                if is_lost {
                    return;
                }
            }
        });
    }
    tasks.await;
    results.take()
}

impl Results {
    fn take(&mut self, answer: Result<(), CallError>, sent: Instant, span: Span) {
        let now = Instant::now();
        self.answered += 1;
        match answer {
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
            Ok(()) if (span.from..span.until).contains(&now) => {
                let us = (now - sent).as_micros();
                self.latencies_us.push(u32::try_from(us).unwrap_or(u32::MAX));
            }
            Ok(()) => {}
        }
    }

    /// In the words of `kvorum bench --json`; `answered` counts the warm-up too.
    pub fn to_json(mut self, measured: Duration) -> String {
        self.latencies_us.sort_unstable();
        let last = self.latencies_us.len().saturating_sub(1);
        let percentile = |percent: usize| {
            self.latencies_us.get(last * percent / 100).copied().unwrap_or_default()
        };
        let per_second = self.latencies_us.len() as f64 / measured.as_secs_f64();
        format!(
            "{{\"requests_per_s\": {per_second:.1}, \"answered\": {}, \"errors\": {}, \
             \"first_error\": {:?}, \"latency_us\": {{\"p50\": {}, \"p99\": {}}}}}",
            self.answered,
            self.errors,
            self.first_error.as_deref().unwrap_or_default(),
            percentile(50),
            percentile(99),
        )
    }
}
