//! Watching one node: what it says of itself, again and again.

use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::Request;
use kvorum_protocol::binary::RequestHead;

use super::Event;
use super::story::Seen;
use crate::cli::servers::pause;
use crate::cli::status::pairs;
use crate::client::{Connection, ConnectionError, Reason, Reply};

/// A node that takes longer to answer is silent.
const PATIENCE: Duration = Duration::from_millis(300);

/// Watches the node at `address` until nobody listens any more, and tells what changes.
pub(super) fn watch(id: u16, address: String, events: Sender<Event>) {
    thread::spawn(move || {
        let mut connection = None;
        let mut told = None;
        loop {
            match look(&mut connection, &address) {
                Ok(seen) => {
                    if seen != told && events.send(Event::Heard(id, seen.clone())).is_err() {
                        return;
                    }
                    told = seen;
                }
                Err(Gone) => told = None,
            }
            pause();
        }
    });
}

/// Nobody is there: the process has ended, which whoever has started it hears first, or does not
/// listen yet.
struct Gone;

/// Asks over the connection that there is, or a new one; `None` when there is no answer in time.
fn look(connection: &mut Option<Connection>, address: &str) -> Result<Option<Seen>, Gone> {
    let deadline = Instant::now() + PATIENCE;
    let open = connection.take().map_or_else(|| Connection::open(address, deadline), Ok);
    let answer = open.and_then(|mut open| {
        let reply = open.call(RequestHead::default(), &Request::Status, deadline)?;
        *connection = Some(open);
        Ok(reply)
    });
    match answer {
        Ok(Reply::Status(line)) => Ok(seen(&line)),
        Err(error) if is_late(&error) => Ok(None),
        _ => Err(Gone),
    }
}

fn is_late(error: &ConnectionError) -> bool {
    use ConnectionError::{Lost, Unreachable};
    matches!(
        error,
        Unreachable { reason: Reason::Deadline, .. } | Lost { reason: Reason::Deadline, .. }
    )
}

fn seen(line: &str) -> Option<Seen> {
    let pairs = pairs(line);
    let value = |name| pairs.iter().find(|(this, _)| *this == name).map(|(_, value)| *value);
    Some(Seen {
        role: value("role")?.to_owned(),
        term: value("term")?.parse().ok()?,
        leader: value("leader")?.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_understood() {
        let line = "id=2 role=candidate term=7 leader=none commit=1";
        let expected = Seen { role: "candidate".into(), term: 7, leader: None };
        assert_eq!(seen(line), Some(expected));
        assert_eq!(seen("id=2"), None);
    }
}
