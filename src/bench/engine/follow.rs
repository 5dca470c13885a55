//! What an engine does when the servers are one cluster: its connections go where the cluster
//! wants them, and a lost one is replaced instead of ending the run.

use std::time::Duration;

use mio::{Interest, Token};

use super::super::cluster::Cluster;
use super::{Engine, Run, nanoseconds};
use crate::bench::BenchError;
use crate::bench::connection::{Connection, State};

/// How often the connections are compared with what the cluster looks like.
pub(super) const FOLLOW_INTERVAL: Duration = Duration::from_millis(5);

/// How long a connection that was told that nobody leads, or another does, sends nothing: the
/// next answer would be the same.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the answers of a server are waited for when another one has become the right one.
const LINGER: Duration = Duration::from_secs(1);

/// Between two attempts to reach a server.
const RETRY: Duration = Duration::from_millis(50);

impl Run<'_> {
    /// Takes the loss of a connection, where the run is to survive it.
    pub(super) fn contain(
        &mut self,
        index: usize,
        result: Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        match result {
            Err(BenchError::Connection { .. }) if self.engine.cluster.is_some() => {
                self.lose(index, self.engine.now_ns());
                Ok(())
            }
            result => result,
        }
    }

    /// Brings the connections to where they belong now.
    pub(super) fn follow(&mut self, now_ns: u64) -> Result<(), BenchError> {
        // Out of the engine meanwhile, whose connections change with what it says.
        let Some(cluster) = self.engine.cluster.take() else { return Ok(()) };
        let result = self.settle(&cluster, now_ns);
        self.engine.cluster = Some(cluster);
        result
    }

    fn settle(&mut self, cluster: &Cluster, now_ns: u64) -> Result<(), BenchError> {
        while let Some(opened) = cluster.opened() {
            match opened.connection {
                Ok(connection) => self.install(opened.index, opened.server, connection)?,
                Err(_) => {
                    let until_ns = now_ns + nanoseconds(RETRY);
                    self.engine.connections[opened.index].state = State::Down { until_ns };
                }
            }
        }
        let view = cluster.view();
        let leader = view.leader();
        if let Some(leader) = leader.filter(|_| leader != self.leader) {
            let address = cluster.address(leader.server);
            let words = format!("{address} leads in term {}", leader.term);
            self.recorder.mark(now_ns, words);
            self.leader = Some(leader);
        }
        for index in 0..self.engine.connections.len() {
            let connection = &mut self.engine.connections[index];
            let target = view.target(connection.place);
            let is_elsewhere = target.is_some_and(|target| target != connection.at);
            match connection.state {
                State::Up if is_elsewhere => connection.state = State::Paused { since_ns: now_ns },
                State::Up | State::Opening => {}
                State::Paused { since_ns } if is_elsewhere => {
                    let is_late = now_ns >= since_ns + nanoseconds(LINGER);
                    if connection.in_flight.len() == 0 {
                        connection.state = State::Down { until_ns: now_ns };
                    } else if is_late || !view.is_alive(connection.at) {
                        self.lose(index, now_ns);
                    }
                }
                State::Paused { since_ns } if now_ns >= since_ns + nanoseconds(PAUSE) => {
                    connection.state = State::Up;
                    if let Err(BenchError::Connection { .. }) = self.send(index) {
                        self.lose(index, now_ns);
                    }
                }
                State::Paused { .. } => {}
                State::Down { until_ns } => {
                    if let Some(target) = target.filter(|_| now_ns >= until_ns) {
                        connection.state = State::Opening;
                        cluster.order(index, target);
                    }
                }
            }
        }
        Ok(())
    }

    /// A new connection in the place of one that was lost. Its first event makes it send.
    fn install(
        &mut self,
        index: usize,
        server: usize,
        connection: Connection,
    ) -> Result<(), BenchError> {
        let Engine { connections, poll, .. } = &mut *self.engine;
        let old = &mut connections[index];
        // A connection that was left in peace is registered still.
        let _ = poll.registry().deregister(old.stream_mut());
        old.replace_by(connection, server, self.plan.pipeline);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(old.stream_mut(), Token(index), interest).map_err(BenchError::Poll)
    }

    /// A connection is of no more use: its requests have failed, and what its writes have done is
    /// not known.
    fn lose(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.engine.connections[index];
        connection.state = State::Down { until_ns: now_ns };
        self.recorder.begin_read(now_ns);
        for sent in connection.in_flight.abandon() {
            self.recorder.lost(sent);
            self.answered += 1;
        }
    }
}
