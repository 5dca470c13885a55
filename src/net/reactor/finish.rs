//! The end, after a signal: leadership goes to another, what was admitted becomes durable, is
//! answered, and is sent.

use std::time::Duration;

use mio::Events;

use super::clients::{connection_mut, enqueue};
use super::{Fatal, Reactor};
use crate::core::raft::Role;
use crate::net::connection::Connection;

/// How long the log may take at least, how long clients may take to read their replies.
const FINISH_LOG_MIN: Duration = Duration::from_secs(5);
const FINISH_REPLIES: Duration = Duration::from_secs(1);

impl Reactor {
    /// Does what is left to do, and stops the log.
    ///
    /// # Errors
    /// What was written last may not be durable.
    pub(super) fn finish(&mut self, events: &mut Events) -> Result<(), Fatal> {
        self.hand_over(events)?;
        log::info!("stopping: finishing the log");
        let all = self.connections.iter().filter_map(|(_, slot)| slot.as_deref());
        let ids: Vec<u64> = all.map(Connection::id).collect();
        for id in ids {
            if let Some(connection) = connection_mut(&mut self.connections, id) {
                connection.end();
                enqueue(connection, id, &mut self.queue);
            }
        }
        let patience = self.node.config().quorum_timeout.max(FINISH_LOG_MIN);
        let log_deadline = self.clock.monotonic().after(patience);
        while self.log.is_busy() || self.node.has_records() {
            self.turn(events)?;
            if self.clock.monotonic() > log_deadline {
                return Err(Fatal::LogStuck(patience));
            }
        }
        let deadline = self.clock.monotonic().after(FINISH_REPLIES);
        let is_owed = |(_, slot): (usize, &Option<Box<Connection>>)| {
            slot.as_deref().is_some_and(Connection::is_owed)
        };
        while self.connections.iter().any(is_owed) && self.clock.monotonic() < deadline {
            self.turn(events)?;
        }
        self.log.stop().map_err(Fatal::Log)
    }

    /// Lets another node lead, if this one does and there is another, so that nobody has to notice
    /// that it is gone.
    fn hand_over(&mut self, events: &mut Events) -> Result<(), Fatal> {
        let now = self.clock.now();
        if self.leads() && self.node.transfer(&now, None).is_ok() {
            log::info!("stopping: handing leadership over");
            let patience = self.node.config().election_timeout;
            let deadline = now.monotonic.after(patience);
            while self.leads() && self.clock.monotonic() < deadline {
                self.turn(events)?;
            }
        }
        if !self.leads() {
            // Whoever leads would go on sending, and the log would never be finished.
            self.peers = None;
        }
        Ok(())
    }

    fn leads(&self) -> bool {
        matches!(self.node.status().role, Role::Leader { .. })
    }
}
