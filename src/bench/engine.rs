//! The loop that drives all connections from one thread.
//!
//! A connection sends a window of requests with one write and takes what has come with one read.
//! Requests are encoded into one shared buffer, replies decoded in place from another. The clock is
//! read once for all the replies of a read, and once for all the requests of a write.

mod follow;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::cluster::{Cluster, Leader};
use super::connection::{Connection, State};
use super::cpu::{CpuTimes, CpuUse};
use super::in_flight::Sent;
use super::pacer::{Amount, Closed, Pacer, Schedule, Span};
use super::recorder::Recorder;
use super::replies::{Failure, Outcome, ReplyDecoder, ReplyError};
use super::requests::Requests;
use super::workload::{Kind, Workload};
use super::{BenchError, Protocol};
use follow::FOLLOW_INTERVAL;

/// A whole window of replies comes with one read while it is below this.
const INPUT_BYTES: usize = 256 << 10;

const EVENTS_PER_POLL: usize = 1024;

/// A server that answers nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// With less time than this between two requests of a schedule it is cheaper to spin than to be
/// woken for each.
const SPIN_BELOW: Duration = Duration::from_micros(50);

const PROGRESS_INTERVAL_NS: u64 = 1_000_000_000;

/// Not the index of any connection.
const TIMER: Token = Token(usize::MAX);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The most requests in flight on a connection.
    pub(crate) pipeline: u32,
    /// Closed loop: send whenever there is room, instead of when the whole window is answered.
    pub(crate) refill: bool,
    /// Open loop: requests a second over all connections.
    pub(crate) per_second: Option<u32>,
    /// Open loop: never sleep between requests.
    pub(crate) spin: bool,
    /// How long to run before the measurement begins.
    pub(crate) warmup: Duration,
    /// What to measure.
    pub(crate) amount: Amount,
    /// Whether values must be those that the generator stores.
    pub(crate) check: bool,
    /// RESP in a closed loop: how many replicas must hold the writes of a window.
    pub(crate) wait: Option<u8>,
    /// The length of an interval of the timeline, if there is to be one.
    pub(crate) timeline: Option<Duration>,
}

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// The replies.
    pub(crate) recorder: Recorder,
    /// From the end of the warm-up to the last reply, and not less than the time asked for.
    pub(crate) elapsed: Duration,
    /// The CPU time of the servers' processes; `None` where it cannot be read.
    pub(crate) server_cpu: Option<CpuUse>,
    /// The CPU time of this process.
    pub(crate) generator_cpu: Option<CpuUse>,
}

/// How a run is getting on.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    /// Since the first request.
    pub(crate) elapsed: Duration,
    /// Whether the measurement has not begun yet.
    pub(crate) is_warmup: bool,
    /// Replies a second since the last report.
    pub(crate) per_second: f64,
    /// All that was measured so far.
    pub(crate) recorder: &'a Recorder,
}

/// Connections to servers, for one run after the other.
#[derive(Debug)]
pub(crate) struct Engine {
    poll: Poll,
    connections: Vec<Connection>,
    requests: Requests,
    server_pids: Vec<u32>,
    /// `None`: connections stay where they are, and losing one ends the run.
    cluster: Option<Cluster>,
    input: Vec<u8>,
    output: Vec<u8>,
    origin: Instant,
}

impl Engine {
    /// Takes over open connections. The CPU time of `server_pids` will be measured.
    pub(crate) fn new(
        mut connections: Vec<Connection>,
        requests: Requests,
        server_pids: Vec<u32>,
        cluster: Option<Cluster>,
    ) -> Result<Engine, BenchError> {
        let poll = Poll::new().map_err(BenchError::Poll)?;
        for (index, connection) in connections.iter_mut().enumerate() {
            poll.registry()
                .register(
                    connection.stream_mut(),
                    Token(index),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .map_err(BenchError::Poll)?;
        }
        let (input, output) = (vec![0; INPUT_BYTES], Vec::new());
        let origin = Instant::now();
        Ok(Engine { poll, connections, requests, server_pids, cluster, input, output, origin })
    }

    /// The length of the longest request, in bytes.
    pub(crate) fn request_bytes_max(&self) -> usize {
        self.requests.bytes_max()
    }

    /// Sends the requests of `workload` as planned, and waits for all replies.
    pub(crate) fn run(
        &mut self,
        protocol: Protocol,
        workload: &mut Workload,
        plan: &Plan,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Measurement, BenchError> {
        use super::replies::{BinaryReplies, RespReplies, TextReplies};
        let run = Run::new(self, workload, *plan, progress);
        match protocol {
            Protocol::Binary => run.drive::<BinaryReplies>(),
            Protocol::Text => run.drive::<TextReplies>(),
            Protocol::Resp => run.drive::<RespReplies>(),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("584 years of nanoseconds")
    }
}

/// One run of an engine.
struct Run<'a> {
    engine: &'a mut Engine,
    workload: &'a mut Workload,
    plan: Plan,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    span: Span,
    pacer: Pacer,
    recorder: Recorder,
    /// How many requests were sent.
    sent: u64,
    /// How many replies came. Never more than `sent`.
    answered: u64,
    last_reply_ns: u64,
    /// Open loop: requests below this have been offered to their connections.
    offered: u64,
    next_progress_ns: u64,
    next_follow_ns: u64,
    /// Of the cluster, as far as it was told.
    leader: Option<Leader>,
    answered_at_progress: u64,
    /// CPU times of the servers and of this process when the measurement began.
    cpu_before: Option<(CpuTimes, CpuTimes)>,
}

impl<'a> Run<'a> {
    fn new(
        engine: &'a mut Engine,
        workload: &'a mut Workload,
        plan: Plan,
        progress: &'a mut dyn FnMut(&Progress<'_>),
    ) -> Run<'a> {
        let leader = engine.cluster.as_ref().and_then(|cluster| cluster.view().leader());
        for connection in &mut engine.connections {
            connection.prepare(plan.pipeline);
        }
        let start_ns = engine.now_ns();
        let measured_from_ns = start_ns + nanoseconds(plan.warmup);
        let span = Span { start_ns, measured_from_ns, amount: plan.amount };
        let pacer = match plan.per_second {
            None => Pacer::Closed(Closed::new(span)),
            Some(rate) => Pacer::Open(Schedule::new(span, rate, engine.connections.len() as u64)),
        };
        Run {
            engine,
            workload,
            plan,
            progress,
            span,
            pacer,
            recorder: Recorder::new(measured_from_ns, plan.timeline.map(nanoseconds)),
            sent: 0,
            answered: 0,
            last_reply_ns: start_ns,
            offered: 0,
            next_progress_ns: start_ns + PROGRESS_INTERVAL_NS,
            next_follow_ns: start_ns,
            leader,
            answered_at_progress: 0,
            cpu_before: None,
        }
    }

    fn drive<D: ReplyDecoder>(mut self) -> Result<Measurement, BenchError> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let timer = self.start_timer().map_err(BenchError::Poll)?;
        if matches!(self.pacer, Pacer::Closed(_)) {
            for index in 0..self.engine.connections.len() {
                let result = self.send(index);
                self.contain(index, result)?;
            }
        }
        loop {
            let now_ns = self.engine.now_ns();
            self.offer_due_requests(now_ns)?;
            self.mark_time(now_ns)?;
            if self.is_finished(now_ns) {
                return Ok(self.finish());
            }
            match self.engine.poll.poll(&mut events, Some(self.poll_timeout(now_ns))) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.map_err(BenchError::Poll)?,
            }
            for event in &events {
                let Token(index) = event.token();
                if let (TIMER, Some(timer)) = (event.token(), &timer) {
                    acknowledge(timer).map_err(BenchError::Poll)?;
                    continue;
                }
                let result = self.serve::<D>(index, event);
                self.contain(index, result)?;
            }
        }
    }

    /// Does what a connection is ready for.
    fn serve<D: ReplyDecoder>(&mut self, index: usize, event: &Event) -> Result<(), BenchError> {
        let connection = &mut self.engine.connections[index];
        if matches!(connection.state, State::Down { .. } | State::Opening) {
            return Ok(());
        }
        if event.is_writable() {
            connection.flush().map_err(|error| broken(connection, error))?;
        }
        if event.is_readable() {
            self.receive::<D>(index, event.is_read_closed())?;
        }
        self.send(index)
    }

    /// Takes what has come on a connection.
    fn receive<D: ReplyDecoder>(
        &mut self,
        index: usize,
        read_closed: bool,
    ) -> Result<(), BenchError> {
        let Engine { connections, requests, cluster, input, origin, .. } = &mut *self.engine;
        let connection = &mut connections[index];
        let follows = cluster.is_some();
        let check = self.plan.check.then_some(&*requests);
        loop {
            let received = connection
                .receive(input, read_closed)
                .map_err(|error| broken(connection, error))?;
            let now_ns = nanoseconds(origin.elapsed());
            self.recorder.begin_read(now_ns);
            let mut rest = &input[..received.bytes];
            while let Some((reply, length)) =
                D::decode(rest).map_err(|source| bad_reply(connection, source))?
            {
                let sent = match reply.id {
                    Some(id) => connection.in_flight.take(id),
                    None => connection.in_flight.take_oldest(),
                };
                match (sent, reply.outcome) {
                    (Some(sent), Outcome::Done | Outcome::Count(1..)) if connection.is_waiting => {
                        connection.unconfirmed.push(sent);
                    }
                    (Some(sent), outcome) => {
                        if let (true, Outcome::Failed(failure)) = (follows, outcome) {
                            connection.refused(&failure, now_ns);
                        }
                        self.recorder.reply(sent, outcome, check);
                        self.answered += 1;
                    }
                    (None, outcome) if connection.is_waiting => {
                        connection.is_waiting = false;
                        let outcome = confirmation(outcome, self.plan.wait);
                        for sent in connection.unconfirmed.drain(..) {
                            self.recorder.reply(sent, outcome, check);
                            self.answered += 1;
                        }
                    }
                    (None, _) => return Err(bad_reply(connection, ReplyError::Unasked)),
                }
                self.last_reply_ns = now_ns;
                rest = &rest[length..];
            }
            connection.keep(rest);
            if received.drained {
                return Ok(());
            }
        }
    }

    /// Sends what a connection may send now.
    fn send(&mut self, index: usize) -> Result<(), BenchError> {
        let connection = &self.engine.connections[index];
        let part = connection.place.part;
        if connection.state != State::Up || !self.workload.has(part) {
            return Ok(());
        }
        let room = connection.in_flight.room();
        let waits_for_window = matches!(self.pacer, Pacer::Closed(_))
            && !self.plan.refill
            && (connection.in_flight.len() > 0 || connection.is_waiting);
        if connection.is_blocked() || room == 0 || waits_for_window {
            return Ok(());
        }
        let now_ns = self.engine.now_ns();
        let Engine { connections, requests, output, .. } = &mut *self.engine;
        let connection = &mut connections[index];
        let allowance = match &self.pacer {
            Pacer::Closed(closed) => closed.allowance(now_ns),
            Pacer::Open(schedule) => {
                schedule.due_on(index as u64, schedule.due(now_ns)) - connection.sent
            }
        };
        let count = allowance.min(room as u64);
        if count == 0 {
            return Ok(());
        }
        output.clear();
        let mut writes = false;
        for number in connection.sent..connection.sent + count {
            let at_ns = match &self.pacer {
                Pacer::Closed(_) => now_ns,
                Pacer::Open(schedule) => schedule.time_of(index as u64, number),
            };
            let (kind, key) = self.workload.draw(part);
            let id = connection.in_flight.push(Sent { kind, key, at_ns });
            requests.append(output, kind, key, id);
            writes |= kind != Kind::Get;
        }
        if let (true, Some(replicas)) = (writes, self.plan.wait) {
            Requests::append_wait(output, replicas);
            connection.is_waiting = true;
        }
        connection.sent += count;
        self.sent += count;
        if let Pacer::Closed(closed) = &mut self.pacer {
            closed.sent(now_ns, count);
        }
        connection.send(output).map_err(|error| broken(connection, error))
    }

    /// Open loop: lets the connections send whose requests have become due.
    fn offer_due_requests(&mut self, now_ns: u64) -> Result<(), BenchError> {
        let Pacer::Open(schedule) = &self.pacer else {
            return Ok(());
        };
        let connections = self.engine.connections.len() as u64;
        let due = schedule.due(now_ns);
        // One offer is enough for all the due requests of a connection.
        let first = self.offered.max(due.saturating_sub(connections));
        self.offered = due;
        for request in first..due {
            let index = usize::try_from(request % connections).expect("an index of a Vec");
            let result = self.send(index);
            self.contain(index, result)?;
        }
        Ok(())
    }

    /// Does what is to be done at certain times.
    fn mark_time(&mut self, now_ns: u64) -> Result<(), BenchError> {
        if now_ns >= self.next_follow_ns {
            self.follow(now_ns)?;
            self.next_follow_ns = now_ns + nanoseconds(FOLLOW_INTERVAL);
        }
        if self.cpu_before.is_none() && now_ns >= self.span.measured_from_ns {
            self.cpu_before = Some(self.read_cpu());
        }
        if now_ns >= self.next_progress_ns {
            let since_ns = now_ns - (self.next_progress_ns - PROGRESS_INTERVAL_NS);
            self.recorder.flush();
            let answered = self.answered - self.answered_at_progress;
            (self.progress)(&Progress {
                elapsed: Duration::from_nanos(now_ns - self.span.start_ns),
                is_warmup: now_ns < self.span.measured_from_ns,
                per_second: answered as f64 / Duration::from_nanos(since_ns).as_secs_f64(),
                recorder: &self.recorder,
            });
            self.answered_at_progress = self.answered;
            self.next_progress_ns = now_ns + PROGRESS_INTERVAL_NS;
        }
        let quiet = Duration::from_nanos(now_ns.saturating_sub(self.last_reply_ns));
        if self.sent > self.answered && quiet > STALL {
            return Err(BenchError::Stalled { unanswered: self.sent - self.answered });
        }
        Ok(())
    }

    fn is_finished(&self, now_ns: u64) -> bool {
        self.sent == self.answered
            && match &self.pacer {
                Pacer::Closed(closed) => closed.allowance(now_ns) == 0,
                Pacer::Open(schedule) => self.sent == schedule.total(),
            }
    }

    fn poll_timeout(&self, now_ns: u64) -> Duration {
        match &self.pacer {
            Pacer::Open(schedule)
                if self.spins(schedule) && self.may_send_before_a_reply(schedule) =>
            {
                Duration::ZERO
            }
            _ if self.engine.cluster.is_some() => {
                Duration::from_nanos(self.next_follow_ns.saturating_sub(now_ns))
            }
            _ => Duration::from_nanos(self.next_progress_ns.saturating_sub(now_ns)),
        }
    }

    /// Open loop: whether to look for work all the time instead of being woken.
    fn spins(&self, schedule: &Schedule) -> bool {
        self.plan.spin || schedule.interval() < SPIN_BELOW
    }

    /// Whether there is room on some connection, and a request left for it.
    fn may_send_before_a_reply(&self, schedule: &Schedule) -> bool {
        let room = self.engine.connections.len() as u64 * u64::from(self.plan.pipeline);
        self.sent < schedule.total() && self.sent - self.answered < room
    }

    /// Open loop at a moderate rate: a timer that wakes the poll for every request. `mio` cannot
    /// wait for less than a millisecond.
    fn start_timer(&self) -> std::io::Result<Option<OwnedFd>> {
        let interval = match &self.pacer {
            Pacer::Open(schedule) if !self.spins(schedule) => schedule.interval(),
            _ => return Ok(None),
        };
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let interval = Timespec::try_from(interval).expect("at most a second");
        let periodic = Itimerspec { it_interval: interval, it_value: interval };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &periodic)?;
        let registry = self.engine.poll.registry();
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Some(timer))
    }

    fn finish(mut self) -> Measurement {
        let planned_end_ns = match self.span.amount {
            Amount::Time(ns) => self.span.measured_from_ns + ns,
            Amount::Requests(_) => 0,
        };
        let end_ns = self.last_reply_ns.max(planned_end_ns).max(self.span.measured_from_ns);
        self.recorder.finish(end_ns);
        let (server_after, own_after) = self.read_cpu();
        let (server_before, own_before) = self.cpu_before.unwrap_or_default();
        Measurement {
            recorder: self.recorder,
            elapsed: Duration::from_nanos(end_ns - self.span.measured_from_ns),
            server_cpu: server_after.since(&server_before),
            generator_cpu: own_after.since(&own_before),
        }
    }

    fn read_cpu(&self) -> (CpuTimes, CpuTimes) {
        (CpuTimes::read(&self.engine.server_pids), CpuTimes::read(&[std::process::id()]))
    }
}

/// What the reply to a WAIT means for the writes before it.
fn confirmation(reply: Outcome<'_>, wanted: Option<u8>) -> Outcome<'_> {
    match reply {
        Outcome::Count(count) if count >= usize::from(wanted.unwrap_or(0)) => Outcome::Done,
        Outcome::Count(count) => Outcome::Failed(Failure::TooFewReplicas(count)),
        Outcome::Failed(failure) => Outcome::Failed(failure),
        _ => Outcome::Failed(Failure::Unexpected),
    }
}

/// Lets a periodic timer go on: it rests until its count is read (timerfd_create(2)).
fn acknowledge(timer: &OwnedFd) -> std::io::Result<()> {
    match rustix::io::read(timer, &mut [0; 8]) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cold]
fn broken(connection: &Connection, source: std::io::Error) -> BenchError {
    BenchError::Connection { server: connection.server(), source }
}

#[cold]
fn bad_reply(connection: &Connection, source: ReplyError) -> BenchError {
    BenchError::Reply { server: connection.server(), source }
}
