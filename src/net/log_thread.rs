//! The thread that writes and syncs the log, so that the reactor never waits for the disk longer
//! than it chooses to.
//!
//! It owns the [`Writer`] and nothing else. The reactor hands over the records of a turn
//! ([`LogThread::submit`]) and learns from [`LogThread::news`] what became of them. At most one
//! group of records is on its way: while it is, the next one grows, which makes the batches as
//! large as the disk is slow.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvorum_protocol::{LogIndex, Lsn};
use mio::Waker;

use crate::config::Fsync;
use crate::core::{NextSegment, Record};
use crate::wal::{WalError, Writer};

/// How the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Every record up to here counts as durable, by the configured meaning of the word.
    pub durable: Lsn,
    /// The last record that has its place in the log, though it may not be written yet: the room
    /// below is what comes behind it.
    pub staged: Lsn,
    /// Bytes that the log takes with certainty from there on.
    pub room_bytes: u64,
    /// Whether more may come.
    pub next_segment: NextSegment,
    /// Bytes of all records since the thread was started, as they take room in the log.
    pub appended_bytes: u64,
    /// Bytes of all segments that hold records.
    pub log_bytes: u64,
}

/// What is submitted at once.
#[derive(Debug)]
struct Group {
    records: Vec<(Lsn, Record)>,
    commit: LogIndex,
}

/// The two sides' meeting point.
#[derive(Debug, Default)]
struct Mailbox {
    group: Option<Group>,
    /// Everything up to here may be given up.
    release: Option<LogIndex>,
    /// The group that was taken last is written, and synced if that is asked for.
    group_is_done: bool,
    news: Option<Result<News, WalError>>,
    /// The reactor sleeps on `news_signal` and needs no wake-up through the poll.
    reactor_waits: bool,
    /// The thread sleeps on `group_signal`.
    thread_waits: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    mailbox: Mutex<Mailbox>,
    group_signal: Condvar,
    news_signal: Condvar,
}

const NO_PANIC: &str = "neither side panics while it holds the mailbox";

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect(NO_PANIC)
    }

    /// Leaves a message for the reactor.
    fn post(&self, waker: &Waker, change: impl FnOnce(&mut Mailbox)) {
        let mut mailbox = self.lock();
        change(&mut mailbox);
        let direct = mailbox.reactor_waits;
        drop(mailbox);
        if direct {
            self.news_signal.notify_one();
        } else if let Err(error) = waker.wake() {
            log::error!("can not wake the reactor: {error}");
        }
    }
}

/// The reactor's handle of the thread.
#[derive(Debug)]
pub struct LogThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// A group was submitted, and no news have said that it is done.
    busy: bool,
}

impl LogThread {
    /// Starts the thread. `waker` interrupts the reactor's poll when there are news.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(writer: Writer, fsync: Fsync, waker: Arc<Waker>) -> std::io::Result<LogThread> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let run = move || LogLoop::new(writer, fsync, theirs, waker).run();
        let thread = thread::Builder::new().name("kvorum-log".into()).spawn(run)?;
        Ok(LogThread { shared, thread: Some(thread), busy: false })
    }

    /// Whether a group is on its way.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a group of records, with consecutive positions. Entries up to `commit` are
    /// decided, in the log that ends with this group; it is noted in records as a hint. One beyond
    /// that end is a broken invariant.
    pub fn submit(&mut self, records: Vec<(Lsn, Record)>, commit: LogIndex) {
        assert!(!self.busy, "one group at a time");
        self.busy = true;
        let mut mailbox = self.shared.lock();
        mailbox.group = Some(Group { records, commit });
        if mailbox.thread_waits {
            drop(mailbox);
            self.shared.group_signal.notify_one();
        }
    }

    /// Snapshots cover everything up to `index`, and nobody else needs it: the log may give it up.
    pub fn release(&mut self, index: LogIndex) {
        let mut mailbox = self.shared.lock();
        mailbox.release = Some(index);
        if mailbox.thread_waits {
            drop(mailbox);
            self.shared.group_signal.notify_one();
        }
    }

    /// How the log stands, if that has changed.
    ///
    /// # Errors
    /// What makes the log unusable: the process has to stop.
    pub fn news(&mut self) -> Result<Option<News>, WalError> {
        let shared = Arc::clone(&self.shared);
        self.take_news(&mut shared.lock())
    }

    /// The same, after waiting at most `timeout` for the group that is on its way.
    ///
    /// # Errors
    /// As [`news`](LogThread::news).
    pub fn wait_for_news(&mut self, timeout: Duration) -> Result<Option<News>, WalError> {
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + timeout;
        let mut mailbox = shared.lock();
        while !mailbox.group_is_done && !matches!(mailbox.news, Some(Err(_))) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            mailbox.reactor_waits = true;
            (mailbox, _) = shared.news_signal.wait_timeout(mailbox, left).expect(NO_PANIC);
            mailbox.reactor_waits = false;
        }
        self.take_news(&mut mailbox)
    }

    /// Ends the log: writes what is left, syncs it, marks the end, and waits for that.
    ///
    /// # Errors
    /// What was written since the last sync may not be durable. With `--fsync never` or some
    /// milliseconds it was acknowledged nevertheless.
    pub fn stop(&mut self) -> Result<(), WalError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.lock().stop = true;
        self.shared.group_signal.notify_one();
        // It has panicked only on a broken invariant, and then the process is gone.
        let _ = thread.join();
        match self.shared.lock().news.take() {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn take_news(&mut self, mailbox: &mut Mailbox) -> Result<Option<News>, WalError> {
        if std::mem::take(&mut mailbox.group_is_done) {
            self.busy = false;
        }
        mailbox.news.take().transpose()
    }
}

impl Drop for LogThread {
    /// For who stops for another reason, and will not ask how the log ended. The thread ends by
    /// itself; nobody waits for it, because the disk may be stuck, and what was acknowledged is
    /// durable already, by the configured meaning of the word.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.group_signal.notify_one();
    }
}

/// The thread's side.
struct LogLoop {
    writer: Writer,
    fsync: Fsync,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    /// Something is written and not synced, since then.
    unsynced_since: Option<Instant>,
    /// Staged, but the disk had no room for it.
    waits_for_room: bool,
    /// A term or vote is staged or written, and not synced.
    has_vote: bool,
    told: Option<News>,
}

/// What the thread wakes up for.
enum Task {
    Group(Group),
    /// Give up what stands up to there.
    Release(LogIndex),
    /// The time has come that `tend` named.
    Tend,
    Stop,
}

impl LogLoop {
    fn new(writer: Writer, fsync: Fsync, shared: Arc<Shared>, waker: Arc<Waker>) -> LogLoop {
        LogLoop {
            writer,
            fsync,
            shared,
            waker,
            unsynced_since: None,
            waits_for_room: false,
            has_vote: false,
            told: None,
        }
    }

    fn run(mut self) {
        let served = self.serve();
        let ended = served.and_then(|()| self.writer.close());
        if let Err(error) = ended {
            self.shared.post(&self.waker, |mailbox| mailbox.news = Some(Err(error)));
        }
    }

    fn serve(&mut self) -> Result<(), WalError> {
        // At once: until the next segment is made, there may be no room for a first group.
        let mut wake_at = self.tend()?;
        self.tell(false);
        loop {
            let is_due = match self.next_task(wake_at) {
                Task::Stop => return Ok(()),
                Task::Release(index) => {
                    self.writer.release(index);
                    false
                }
                Task::Tend => self.waits_for_room && !self.writer.lacks_next_segment(),
                Task::Group(group) => {
                    let is_vote = |(_, record): &_| matches!(record, Record::TermVote { .. });
                    self.has_vote |= group.records.iter().any(is_vote);
                    self.writer.stage_all(&group.records, group.commit);
                    true
                }
            };
            if is_due && self.write()? {
                self.tell(true);
            }
            wake_at = self.tend()?;
            self.tell(false);
        }
    }

    /// Writes what is staged, and syncs it if that is asked for; false when there is no room.
    fn write(&mut self) -> Result<bool, WalError> {
        let lacks_room = match self.writer.write() {
            Ok(_) => false,
            Err(error) if !error.is_fatal() => {
                if !self.waits_for_room {
                    log::error!("{error}");
                }
                true
            }
            Err(error) => return Err(error),
        };
        self.waits_for_room = lacks_room;
        // What stands before the rest that lacks room counts as durable all the same.
        self.sync_as_configured()?;
        self.has_vote &= lacks_room;
        Ok(!lacks_room)
    }

    /// Terms and votes are synced always. Whoever relaxes --fsync gives up writes, not the rule
    /// that a term has one leader; and a node that has forgotten a term is not let in again.
    fn sync_as_configured(&mut self) -> Result<(), WalError> {
        if self.has_vote {
            self.writer.sync()?;
            self.unsynced_since = None;
            return Ok(());
        }
        match self.fsync {
            Fsync::Always => _ = self.writer.sync()?,
            Fsync::EveryMs(_) => _ = self.unsynced_since.get_or_insert_with(Instant::now),
            Fsync::Never => {}
        }
        Ok(())
    }

    /// What is to be done beside groups, and when again.
    fn tend(&mut self) -> Result<Option<Instant>, WalError> {
        let now = Instant::now();
        let mut sync_at = None;
        if let (Fsync::EveryMs(ms), Some(since)) = (self.fsync, self.unsynced_since) {
            let due = since + Duration::from_millis(ms);
            if now < due {
                sync_at = Some(due);
            } else {
                self.writer.sync()?;
                self.unsynced_since = None;
            }
        }
        // Behind the sync, because only what is durable is marked.
        let writer_at = self.writer.tend(now)?;
        let has_room_again = self.waits_for_room && !self.writer.lacks_next_segment();
        let write_at = has_room_again.then_some(now);
        Ok([sync_at, writer_at, write_at].into_iter().flatten().min())
    }

    /// Tells the reactor how the log stands, if that is new to it.
    fn tell(&mut self, group_is_done: bool) {
        let durable = match self.fsync {
            Fsync::Always => self.writer.durable(),
            Fsync::EveryMs(_) | Fsync::Never => self.writer.written(),
        };
        let news = News {
            durable,
            staged: self.writer.staged(),
            room_bytes: self.writer.room(),
            next_segment: self.writer.next_segment(),
            appended_bytes: self.writer.appended_bytes(),
            log_bytes: self.writer.log_bytes(),
        };
        if group_is_done || self.told != Some(news) {
            self.told = Some(news);
            self.shared.post(&self.waker, |mailbox| {
                mailbox.group_is_done |= group_is_done;
                mailbox.news = Some(Ok(news));
            });
        }
    }

    fn next_task(&self, wake_at: Option<Instant>) -> Task {
        let mut mailbox = self.shared.lock();
        loop {
            if let Some(group) = mailbox.group.take() {
                return Task::Group(group);
            }
            if let Some(index) = mailbox.release.take() {
                return Task::Release(index);
            }
            if mailbox.stop {
                return Task::Stop;
            }
            let Some(wake_at) = wake_at else {
                mailbox.thread_waits = true;
                mailbox = self.shared.group_signal.wait(mailbox).expect(NO_PANIC);
                mailbox.thread_waits = false;
                continue;
            };
            let left = wake_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Task::Tend;
            }
            mailbox.thread_waits = true;
            let waited = self.shared.group_signal.wait_timeout(mailbox, left);
            (mailbox, _) = waited.expect(NO_PANIC);
            mailbox.thread_waits = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kvorum_protocol::{Batch, BatchBuilder, Command, LogTimeMs, NodeId, Op, Term};
    use mio::{Poll, Token};

    use super::*;
    use crate::core::ReplayError;
    use crate::core::log::LogEnd;
    use crate::disk::{BLOCK_BYTES, FileDisk};
    use crate::wal::{self, Identity, RecordView, RecoverySink, WalConfig};

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Nobody;

    impl RecoverySink for Nobody {
        fn record(&mut self, _: Lsn, _: LogIndex, _: &RecordView<'_>) -> Result<(), ReplayError> {
            Ok(())
        }

        fn progress(&mut self, _: u64, _: u64) {}
    }

    fn start(directory: &Path, fsync: Fsync, poll: &Poll) -> LogThread {
        let disk = Arc::new(FileDisk::open(directory, false).unwrap());
        let config = WalConfig {
            segment_bytes_min: 1 << 20,
            segment_bytes_max: 1 << 20,
            batch_bytes_max: 64 << 10,
            ..WalConfig::new(Identity::random(NodeId(1), None))
        };
        let (writer, _) = wal::open(disk, config, &mut Nobody).unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        LogThread::start(writer, fsync, Arc::new(waker)).unwrap()
    }

    fn vote() -> Record {
        Record::TermVote { term: Term(1), voted_for: Some(NodeId(1)) }
    }

    /// One entry behind `end`.
    fn noop(end: LogEnd, term: u64) -> Batch {
        let mut builder = BatchBuilder::new(end.index.next());
        builder.push(&Command::new(Op::Noop));
        builder.seal(Term(term), LogTimeMs(1), end.crc).unwrap()
    }

    fn write(log: &mut LogThread, records: Vec<(Lsn, Record)>, commit: LogIndex) {
        log.submit(records, commit);
        while log.is_busy() {
            log.wait_for_news(PATIENCE).unwrap();
        }
    }

    fn dump(directory: &Path) -> String {
        let mut text = Vec::new();
        wal::dump(directory, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_committed_is_noted_in_the_records_behind_it() {
        let temp = tempfile::tempdir().unwrap();
        let poll = Poll::new().unwrap();
        let mut log = start(temp.path(), Fsync::Always, &poll);
        let noop = Record::Batch(noop(LogEnd::default(), 1));
        write(&mut log, vec![(Lsn(1), vote()), (Lsn(2), noop)], LogIndex(0));
        assert!(dump(temp.path()).contains(" last=1 commit=0 "));
        write(&mut log, vec![(Lsn(3), vote())], LogIndex(1));
        assert!(dump(temp.path()).contains(" last=1 commit=1 "));
        log.stop().unwrap();
    }

    #[test]
    fn what_is_committed_with_the_entries_that_bring_it_is_noted_behind_them() {
        let temp = tempfile::tempdir().unwrap();
        let poll = Poll::new().unwrap();
        let mut log = start(temp.path(), Fsync::Always, &poll);
        let first = noop(LogEnd::default(), 1);
        let end = LogEnd::of(first.header());
        let [first, lost] = [first, noop(end, 1)].map(Record::Batch);
        let records = vec![(Lsn(1), vote()), (Lsn(2), first), (Lsn(3), lost)];
        write(&mut log, records, LogIndex(0));
        // Another leader's entry takes the place of the second one, and is decided. The term comes
        // first, and must not call decided what is there.
        let records = vec![
            (Lsn(4), Record::TermVote { term: Term(2), voted_for: None }),
            (Lsn(5), Record::Truncate { end }),
            (Lsn(6), Record::Batch(noop(end, 2))),
        ];
        write(&mut log, records, LogIndex(2));
        assert!(dump(temp.path()).contains(" last=2 commit=0 "));
        log.stop().unwrap();
        assert!(dump(temp.path()).contains(" last=2 commit=2 "), "the mark at the end knows it");
    }

    /// How much of the first segment was synced when its second group was written: a record says
    /// so itself (`wal/FORMAT.md`).
    fn synced_before_second_group(directory: &Path) -> u64 {
        const SECOND_GROUP: usize = 2 * BLOCK_BYTES;
        const SYNCED: usize = 48;
        let segment = std::fs::read(directory.join("segment-0000000000000001.log")).unwrap();
        let record = &segment[SECOND_GROUP..];
        assert!(record.starts_with(b"KVR1"), "there is no second group");
        u64::from_le_bytes(record[SYNCED..SYNCED + 8].try_into().unwrap())
    }

    #[test]
    fn a_vote_is_synced_whatever_the_configuration_says() {
        for fsync in [Fsync::Always, Fsync::EveryMs(600_000), Fsync::Never] {
            let temp = tempfile::tempdir().unwrap();
            let poll = Poll::new().unwrap();
            let mut log = start(temp.path(), fsync, &poll);
            let noop = Record::Batch(noop(LogEnd::default(), 1));
            write(&mut log, vec![(Lsn(1), vote())], LogIndex(0));
            write(&mut log, vec![(Lsn(2), noop)], LogIndex(0));
            let synced = synced_before_second_group(temp.path());
            assert_eq!(synced, 2 * BLOCK_BYTES as u64, "with {fsync}");
        }
    }

    #[test]
    fn entries_are_synced_as_the_configuration_says() {
        for (fsync, blocks) in [(Fsync::Always, 2), (Fsync::EveryMs(600_000), 1), (Fsync::Never, 1)]
        {
            let temp = tempfile::tempdir().unwrap();
            let poll = Poll::new().unwrap();
            let mut log = start(temp.path(), fsync, &poll);
            let first = noop(LogEnd::default(), 0);
            let end = LogEnd::of(first.header());
            write(&mut log, vec![(Lsn(1), Record::Batch(first))], LogIndex(0));
            write(&mut log, vec![(Lsn(2), Record::Batch(noop(end, 0)))], LogIndex(0));
            let synced = synced_before_second_group(temp.path());
            assert_eq!(synced, blocks * BLOCK_BYTES as u64, "with {fsync}");
        }
    }

    #[test]
    fn what_is_synced_is_marked_when_nothing_follows() {
        for fsync in [Fsync::Always, Fsync::EveryMs(20)] {
            let temp = tempfile::tempdir().unwrap();
            let poll = Poll::new().unwrap();
            let mut log = start(temp.path(), fsync, &poll);
            write(&mut log, vec![(Lsn(1), vote())], LogIndex(0));
            let deadline = Instant::now() + PATIENCE;
            while !dump(temp.path()).contains(" MARK ") {
                assert!(Instant::now() < deadline, "no mark with {fsync}");
                log.wait_for_news(Duration::from_millis(20)).unwrap();
            }
        }
    }
}
