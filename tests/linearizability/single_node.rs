//! One node, with clients at it all the time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::clients::{Client, Protocol, Recorder};
use crate::support::linearizable::STEPS_MAX;
use crate::support::register::{StoreHistory, check_store};
use crate::support::server::Server;
use crate::support::strace::{DISK_SYNCS, DISK_WRITES, Strace};

/// The most that one client asks between two restarts. More than is ever answered before the
/// trouble comes, so that it meets a server at work.
const REQUESTS_MAX: usize = 5000;

/// What ends a round.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// A crash. Some of its last answers are lost with it.
    Kill,
    /// A crash of a server that has stopped for a moment, so that its last answers, the most
    /// interesting, arrive.
    PauseAndKill,
    /// A crash while nothing can be written: what was in the log but not in its file is lost.
    KillWithStuckWrites,
    /// The disk takes its time, and then a crash.
    KillAfterStuckSync,
    /// An order to stop.
    Terminate,
}

use Trouble::{Kill, KillAfterStuckSync, KillWithStuckWrites, PauseAndKill, Terminate};

fn clients() -> Vec<Client> {
    let kinds = [
        (Protocol::Binary, 1),
        (Protocol::Binary, 1),
        (Protocol::Binary, 8),
        (Protocol::Binary, 8),
        (Protocol::Text, 1),
        (Protocol::Text, 4),
        (Protocol::Resp, 4),
    ];
    let numbered = (1..).zip(kinds);
    numbered.map(|(number, (protocol, depth))| Client::new(number, protocol, depth)).collect()
}

/// Runs the clients through these troubles, the server started again after each, and checks what
/// they saw.
fn live_through(arguments: &[&str], troubles: &[Trouble]) {
    // No write gives up while the disk is stuck, however slow this machine is.
    let mut server = Server::start(&[arguments, &["--quorum-timeout-ms", "60000"]].concat());
    let mut clients = clients();
    let observer = Client::new(99, Protocol::Binary, 1);
    let recorder = Recorder::default();
    for (round, trouble) in (1..).zip(troubles) {
        // Another number of answers each time, so that the trouble meets another moment.
        let answers = recorder.history().returned_count() + 1500 + round * 97;
        run_round(&mut server, &mut clients, &observer, &recorder, answers, *trouble);
        server.start_again();
        observer.look(server.address(), &recorder);
    }
    let history = recorder.history();
    match check_store(&history, STEPS_MAX) {
        Err(failure) => panic!("{failure}"),
        Ok(steps) => {
            let (all, returned) = (history.operations().len(), history.returned_count());
            println!("{returned} of {all} calls returned; decided in {steps} steps");
        }
    }
}

fn run_round(
    server: &mut Server,
    clients: &mut [Client],
    observer: &Client,
    recorder: &Recorder,
    answers: usize,
    trouble: Trouble,
) {
    let stop = AtomicBool::new(false);
    let depth: usize = clients.iter().map(|client| client.depth).sum();
    let address = server.address().to_owned();
    // Before the trouble begins.
    let links: Vec<_> = clients.iter().map(|client| client.connect(&address)).collect();
    let open_before = open_calls(&recorder.history());
    // Until every client waits, or (which is a fault, but not one to stop at) answers go on.
    let all_wait = || {
        recorder.wait_until(|history| {
            let open = open_calls(history) - open_before;
            open == depth || history.returned_count() > answers + 500
        });
    };
    thread::scope(|scope| {
        let asking: Vec<_> = clients
            .iter_mut()
            .zip(links)
            .map(|(client, link)| {
                let stop = &stop;
                scope.spawn(move || client.ask(link, recorder, REQUESTS_MAX, stop))
            })
            .collect();
        let _last_call = LastCall(&stop);
        recorder.wait_until(|history| history.returned_count() >= answers);
        match trouble {
            Kill => {}
            PauseAndKill => {
                server.pause();
                stop.store(true, Relaxed);
                for thread in asking {
                    thread.join().expect("a client failed");
                }
            }
            KillWithStuckWrites => {
                let stuck = Strace::inject(server.pid(), DISK_WRITES, "delay_enter=600000000");
                all_wait();
                observer.look(&address, recorder);
                server.kill_in_the_middle_of(stuck);
                return;
            }
            KillAfterStuckSync => {
                let stuck = Strace::inject(server.pid(), DISK_SYNCS, "delay_enter=600000000");
                all_wait();
                observer.look(&address, recorder);
                stuck.detach();
                let more = recorder.history().returned_count() + 100;
                recorder.wait_until(|history| history.returned_count() >= more);
            }
            Terminate => {
                assert_eq!(server.terminate().code, Some(0));
                return;
            }
        }
        server.kill();
    });
}

/// Clients ask for as long as there is a server: a test that fails must tell them to stop.
struct LastCall<'a>(&'a AtomicBool);

impl Drop for LastCall<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn open_calls(history: &StoreHistory) -> usize {
    history.operations().len() - history.returned_count()
}

#[test]
fn a_node_that_crashes_and_stalls_is_linearizable() {
    let troubles = [
        KillWithStuckWrites,
        Kill,
        PauseAndKill,
        KillAfterStuckSync,
        Terminate,
        PauseAndKill,
        KillWithStuckWrites,
        Kill,
        KillWithStuckWrites,
        PauseAndKill,
        KillAfterStuckSync,
        PauseAndKill,
    ];
    live_through(&[], &troubles);
}

#[test]
fn a_node_without_fsync_is_linearizable_while_the_machine_lives() {
    let troubles = [PauseAndKill, KillWithStuckWrites, Kill, PauseAndKill, Terminate, PauseAndKill];
    live_through(&["--fsync", "never"], &troubles);
}
