//! The turn of a process, in the order of `src/net/reactor.rs`: what the log says, what the others
//! say, timers, requests; then everything that the core has to say is done at once.

use kvorum::core::seeded::Bug;
use kvorum::core::{
    Answer, Asker, Fetch, Node, Now, Options, Output, ReadOutcome, Record, Refusal, ReplyTo,
    SnapshotFetch, WriteOutcome,
};
use kvorum_protocol::peer::{Message, SnapshotChunk};
use kvorum_protocol::{Command, LogIndex, Lsn, MemberList, NodeId, Op, Read};

use crate::clients::{OpNumber, Told, Wish, key_bytes};
use crate::invariants::{Checked, ensure};
use crate::members::OPERATOR;
use crate::network::Place;
use crate::node::{Input, Process, place_of};
use crate::queue::{MICROSECOND, MILLISECOND, Time};
use crate::register::Action;
use crate::trace::words;
use crate::wire;
use crate::world::{Event, World};

/// How often a request that the core could not take is tried again without news from the log.
const BACKLOG_RETRY: Time = 50 * MILLISECOND;

/// How late an answer may be: the core looks every 10 ms, and turns take their time.
const ANSWER_SLACK: Time = 60 * MILLISECOND;

/// How often in a row a process may want its next turn at once: one may have a reason.
const HURRIES_MAX: u32 = 4;

/// Messages on one link at once. What a core may have under way to one member is bounded, whatever
/// the network does; this is far above it, and far below what an endless repetition makes.
const IN_FLIGHT_MAX: usize = 4_000;

impl World {
    pub fn turn(&mut self, place: Place) -> Checked {
        let machine = &mut self.machines[place];
        if machine.turn_at != self.now {
            return Ok(());
        }
        machine.turn_at = Time::MAX;
        if machine.paused_until > self.now {
            self.turn_by(place, self.now);
            return Ok(());
        }
        let Some(mut process) = machine.process.take() else { return Ok(()) };
        let checked = self.run_turn(place, &mut process);
        let deadline = process.core.deadline();
        let machine = &mut self.machines[place];
        machine.process = Some(process);
        checked?;
        if self.leave_removed(place) {
            return Ok(());
        }
        let machine = &mut self.machines[place];
        let local = machine.clock.now(self.now).monotonic;
        let process = machine.process.as_mut().expect("it was put back");
        process.hurries = if deadline > local { 0 } else { process.hurries + 1 };
        ensure(process.hurries < HURRIES_MAX, "timers that have run out are done with", || {
            let status = process.core.status();
            format!("n{} wants to be called again at once: {deadline:?}, {status:?}", place + 1)
        })?;
        if let Some(at) = machine.clock.time_of(deadline) {
            self.turn_by(place, at.max(self.now + MICROSECOND));
        }
        self.submit(place)
    }

    fn run_turn(&mut self, place: Place, process: &mut Process) -> Checked {
        let now = self.machines[place].clock.now(self.now);
        let standing = process.log.standing();
        let has_news = process.told != Some(standing);
        if has_news {
            process.told = Some(standing);
            process.core.durable(standing.durable);
            let (room, next) = (standing.room_bytes, standing.next_segment);
            process.core.set_log_room(standing.staged, room, next);
        }
        for input in std::mem::take(&mut process.inbox) {
            self.take_in(place, process, &now, input)?;
        }
        let disagreement = process.core.take_disagreement();
        ensure(disagreement.is_none(), "nobody is found to have another state", || {
            format!("n{}: {disagreement:?}", place + 1)
        })?;
        process.core.tick(&now);
        let mut said = Said::default();
        while process.core.poll(&mut process.out) {
            said.take(&mut process.out, &self.members);
        }
        said.take(&mut process.out, &self.members);
        self.serve_requests(place, process, &now, &mut said);
        process.core.seal(&now, &mut process.out);
        said.take(&mut process.out, &self.members);
        self.deliver(place, process, said)?;
        self.step_snapshots(place, process)?;
        if !process.backlog.is_empty() {
            self.turn_by(place, self.now + BACKLOG_RETRY);
        }
        Ok(())
    }

    fn take_in(&mut self, place: Place, process: &mut Process, now: &Now, input: Input) -> Checked {
        let core = &mut process.core;
        match input {
            Input::Message(from, message) => {
                let received = core.receive(now, from, message);
                ensure(received.is_ok(), "nobody sends what nobody may send", || {
                    format!("n{} refuses a message of n{from}: {received:?}", place + 1)
                })?;
            }
            Input::Joined(member) => core.member_joined(now, member),
            Input::Lost(member) => {
                self.note_node(place, || format!("finds that n{member} is gone"));
                core.member_lost(now, member);
            }
            Input::Fetched(member, from, batches) => core.fetched(now, member, from, batches),
            Input::Change(change) => self.change_members(place, core, now, &change),
            Input::SnapshotFetched(member, part) => core.snapshot_fetched(now, member, part),
            Input::SnapshotKept(index, file, offset) => core.snapshot_kept(index, file, offset),
            Input::Loaded(loaded) => self.install(place, process, now, *loaded)?,
            Input::Transfer(to) => {
                let begun = core.transfer(now, to);
                self.note_node(place, || format!("shall hand over to {to:?}: {begun:?}"));
            }
        }
        Ok(())
    }

    // What the core says

    /// Does what the core has said. All of it may be done in any order; the observer wants to see
    /// what is written before what is said of it.
    fn deliver(&mut self, place: Place, process: &mut Process, mut said: Said) -> Checked {
        for (lsn, record) in &said.records {
            self.note_node(place, || format!("seals {lsn}: {}", words_of_record(record)));
            self.checks.seals(place, *lsn, record)?;
        }
        let (status, core) = (process.core.status(), &process.core);
        self.checks.goes_by(place, core.members_index(), core.members())?;
        self.checks.shows(place, &status)?;
        if self.bug != Some(Bug::DeleteSkipped) {
            self.checks.hashes(place, status.applied, process.core.state().hash())?;
        }
        for member in process.core.progress() {
            self.checks.counts(place, status.term, &member)?;
        }
        process.log.take(&mut said.records, status.committed);
        for (to, message) in said.messages {
            self.send(place, place_of(to), message)?;
        }
        for fetch in said.fetches {
            let at = self.now + self.chance.between(100, 10_000) * MICROSECOND;
            let life = self.machines[place].life;
            self.queue.schedule(at, Event::ReadBack { place, life, fetch });
        }
        for fetch in said.snapshot_fetches {
            let at = self.now + self.chance.between(100, 10_000) * MICROSECOND;
            let life = self.machines[place].life;
            self.queue.schedule(at, Event::ReadSnapshot { place, life, fetch });
        }
        for (_, chunk) in said.snapshot_parts {
            self.keep_part(place, process, &chunk)?;
        }
        for (number, told) in said.late_answers {
            let is_due = process.waiting.remove(&number).is_some();
            ensure(is_due, "every request gets one answer", || {
                format!("n{} answers request {number} unasked: {told:?}", place + 1)
            })?;
            self.answer(place, &process.core, number, told)?;
        }
        let mut at_once = said.answers.into_iter();
        at_once.try_for_each(|(number, told)| self.answer(place, &process.core, number, told))
    }

    fn send(&mut self, from: Place, to: Place, message: Message) -> Checked {
        self.checks.sends(from, to, &message)?;
        let Some(connection) = self.network.connection(from, to) else {
            self.note_node(from, || format!("-> n{} {} (no connection)", to + 1, words(&message)));
            return Ok(());
        };
        let arrivals = self.network.send(&mut self.chance, self.now, from, to);
        let now = self.now;
        self.note_node(from, || {
            let fate = match arrivals.as_slice() {
                [] => "lost".to_owned(),
                [at] => format!("{} us", (at - now) / MICROSECOND),
                all => format!("{} times", all.len()),
            };
            format!("-> n{} {} ({fate})", to + 1, words(&message))
        });
        let in_flight = self.network.in_flight(from, to);
        ensure(in_flight <= IN_FLIGHT_MAX, "queues are bounded", || {
            format!("{in_flight} messages from n{} to n{}", from + 1, to + 1)
        })?;
        let whole = wire::encode(&message);
        for at in arrivals {
            let was_changed = self.network.changes(&mut self.chance);
            let frame = match was_changed {
                true => wire::flip_bits(&mut self.chance, &whole),
                false => whole.clone(),
            };
            self.queue.schedule(at, Event::Deliver { from, to, connection, frame, was_changed });
        }
        Ok(())
    }

    // Requests

    fn serve_requests(&mut self, place: Place, process: &mut Process, now: &Now, said: &mut Said) {
        for (op, give_up_at) in std::mem::take(&mut process.backlog) {
            if give_up_at <= self.now {
                said.answers.push((op, Told::Refused(Refusal::Busy)));
            } else {
                self.serve(place, process, now, op, Some(give_up_at), said);
            }
        }
        while let Some(op) = process.requests.pop_front() {
            self.serve(place, process, now, op, None, said);
        }
    }

    fn serve(
        &mut self,
        place: Place,
        process: &mut Process,
        now: &Now,
        number: OpNumber,
        give_up_at: Option<Time>,
        said: &mut Said,
    ) {
        self.clients.op_mut(number).members_version = process.core.members_version();
        let op = self.clients.op(number).clone();
        let to = ReplyTo { connection: op.connection, tag: number };
        let options = Options { quorum: op.quorum, timeout: None };
        let timeout = self.options.quorum_timeout;
        let deadline = self.machines[place].clock.time_of(now.monotonic.after(timeout));
        let deadline = deadline.expect("timeouts are short");
        let outcome = match &op.wish {
            Wish::Key(call) if call.action == Action::Get => {
                let after = process.last_writes.get(&op.connection).copied();
                let after = after.unwrap_or(LogIndex(0));
                let asker = Asker { to, after, hash: None, options };
                let key = key_bytes(call);
                match process.core.read(now, &asker, &Read::Get(&key), &mut process.scratch) {
                    Ok(ReadOutcome::Ready(response)) => Served::Now(Told::from(&response)),
                    Ok(ReadOutcome::Waiting { .. }) => Served::Waits,
                    Ok(ReadOutcome::Later) => Served::Later,
                    Err(refusal) => Served::Now(Told::Refused(refusal)),
                }
            }
            Wish::Key(call) => {
                let (key, value) = (key_bytes(call), self.clients.value_bytes(call));
                let change = match &value {
                    Some(value) => Op::Set { key: &key, value },
                    None => Op::Delete { key: &key },
                };
                let session = self.clients.course(&op).map(|course| course.name);
                write(process, now, to, &Command { session, op: change }, &options)
            }
            Wish::Session(window) => {
                let open = Command::new(Op::OpenSession { window: *window });
                write(process, now, to, &open, &options)
            }
        };
        match outcome {
            Served::Now(told) => said.answers.push((number, told)),
            Served::Waits => {
                process.waiting.insert(number, deadline + ANSWER_SLACK);
            }
            Served::Later => process.backlog.push_back((number, give_up_at.unwrap_or(deadline))),
        }
    }

    /// An answer leaves a node: what it says is checked before anybody hears it.
    fn answer(&mut self, place: Place, core: &Node, number: OpNumber, told: Told) -> Checked {
        let voters: Vec<NodeId> = core.members().voters().map(|voter| voter.id).collect();
        let op = self.clients.op_mut(number);
        let is_read = matches!(told, Told::Value(..) | Told::NotFound);
        if !is_read || op.members_version == core.members_version() {
            op.voters.clone_from(&voters);
        }
        let op = self.clients.op(number);
        let write = self.clients.write(op, voters.len());
        let course = self.clients.course(op);
        let effects = self.checks.ledger().effects();
        if is_read && op.is_strict() {
            self.checks.has_applied(place, op.decided)?;
        }
        match (&told, course) {
            (Told::Written(_) | Told::Deleted(..), Some(course)) => {
                effects.is_told(course.name, &told)?;
            }
            (Told::Refused(Refusal::SessionExpired), Some(course)) => {
                effects.is_over(course.name)?;
            }
            (Told::Refused(Refusal::SequenceTooOld), Some(course)) => {
                ensure(course.is_over, "a window holds what its client may send", || {
                    format!("n{} has forgotten {:?}", place + 1, course.name)
                })?;
            }
            _ => {}
        }
        match (&told, &write) {
            (Told::Written(version) | Told::Deleted(version, _), Some(write)) => {
                self.checks.acknowledges(place, write, *version)?;
            }
            (Told::Value(version, value), _) => {
                let key = key_bytes(op.call().expect("a read"));
                self.checks.reads(place, &key, *version, value.as_bytes())?;
            }
            // A write of a session may be in the log nevertheless, by another sending.
            (Told::Refused(refusal), Some(write))
                if course.is_none() && is_not_applied(*refusal) =>
            {
                self.checks.promises.refuses(write)?;
            }
            _ => {}
        }
        self.tally.answers += 1;
        self.note_node(place, || format!("answers request {number}: {told:?}"));
        let at = self.now + self.clients.delay(&mut self.chance);
        self.queue.schedule(at, Event::Answer(number, told));
        Ok(())
    }

    /// Every request is answered in time, unless its node dies.
    pub fn look_for_overdue(&mut self) -> Checked {
        for (place, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { continue };
            // A process that was paused needs a moment.
            let grace = machine.paused_until + ANSWER_SLACK;
            let overdue = process.waiting.iter().find(|(_, at)| self.now > **at.max(&&grace));
            ensure(overdue.is_none(), "every request gets one answer", || {
                format!("n{} owes an answer to request, since: {overdue:?}", place + 1)
            })?;
        }
        Ok(())
    }
}

fn write(
    process: &mut Process,
    now: &Now,
    to: ReplyTo,
    command: &Command<'_>,
    options: &Options,
) -> Served {
    match process.core.write(now, to, command, options) {
        WriteOutcome::Waiting(index) => {
            process.last_writes.insert(to.connection, index);
            Served::Waits
        }
        WriteOutcome::Later => Served::Later,
        WriteOutcome::Refused(refusal) => Served::Now(Told::Refused(refusal)),
    }
}

enum Served {
    Now(Told),
    Waits,
    Later,
}

/// Whether the contract promises, for a write, that this means "not in the log, and never will be".
pub fn is_not_applied(refusal: Refusal) -> bool {
    !matches!(refusal, Refusal::QuorumTimeout | Refusal::LeaderChanged)
}

pub fn words_of_record(record: &Record) -> String {
    match record {
        Record::Batch(batch) => {
            let header = batch.header();
            format!("BATCH {}..{} term={}", header.first_index, header.last_index(), header.term)
        }
        Record::TermVote { term, voted_for } => format!("TERM {term} vote={voted_for:?}"),
        Record::Truncate { end } => format!("TRUNCATE to {}", end.index),
        Record::Install { end } => format!("INSTALL up to {}", end.index),
    }
}

/// What a core says in a turn.
#[derive(Default)]
struct Said {
    records: Vec<(Lsn, Record)>,
    messages: Vec<(NodeId, Message)>,
    fetches: Vec<Fetch>,
    snapshot_fetches: Vec<SnapshotFetch>,
    snapshot_parts: Vec<(NodeId, SnapshotChunk)>,
    /// To requests that have waited.
    late_answers: Vec<(OpNumber, Told)>,
    /// To requests of this turn.
    answers: Vec<(OpNumber, Told)>,
}

impl Said {
    /// Takes over all of an output.
    fn take(&mut self, out: &mut Output, members: &MemberList) {
        self.records.append(&mut out.records);
        self.messages.append(&mut out.messages);
        self.fetches.append(&mut out.fetches);
        self.snapshot_fetches.append(&mut out.snapshot_fetches);
        self.snapshot_parts.append(&mut out.snapshot_parts);
        let of_clients = out.replies.iter().filter(|reply| reply.to.connection != OPERATOR);
        let answers = of_clients.map(|reply| {
            let told = match &reply.answer {
                Answer::Refused(refusal) => Told::Refused(*refusal),
                answer => Told::from(&out.response(answer, members)),
            };
            (reply.to.tag, told)
        });
        self.late_answers.extend(answers);
        out.clear();
    }
}
