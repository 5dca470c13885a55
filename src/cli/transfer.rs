//! `kvorum transfer`: asks the leader to hand its office over, and watches until it has.

use std::fmt;
use std::io::{self, Write as _};
use std::time::Instant;

use kvorum_protocol::NodeId;

use super::Error;
use super::servers::{ClientError, ClientFlags, pause};
use super::status::pairs;
use crate::client::Client;

#[derive(Debug, clap::Args)]
pub(super) struct TransferFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The voter that is to lead [default: the one whose log is furthest]
    #[arg(long, value_name = "ID")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    to: Option<u16>,
}

/// Who leads, and since which term: what a node says that knows the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    term: u64,
    leader: u16,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} leads in term {}", self.leader, self.term)
    }
}

pub(super) fn run(flags: &TransferFlags) -> Result<(), Error> {
    let client = flags.client.client()?;
    let deadline = flags.client.deadline();
    let before = view(&flags.client, &client);
    if before.is_some_and(|before| flags.to == Some(before.leader)) {
        return report(before);
    }
    client.transfer(flags.to.map(NodeId)).map_err(ClientError::Call)?;
    // When the time is over there may be no time left to be told, too.
    let mut newest = before;
    loop {
        let now = view(&flags.client, &client);
        if now.is_some_and(|now| has_moved(before, now, flags.to)) {
            return report(now);
        }
        newest = newest.max(now);
        if Instant::now() >= deadline {
            return Err(Error::NotMoved(newest.map(|newest| newest.to_string())));
        }
        pause();
    }
}

fn has_moved(before: Option<View>, now: View, to: Option<u16>) -> bool {
    match (before, to) {
        (_, Some(to)) => now.leader == to,
        (Some(before), None) => now > before && now.leader != before.leader,
        (None, None) => true,
    }
}

fn report(view: Option<View>) -> Result<(), Error> {
    Ok(view.map_or(Ok(()), |view| writeln!(io::stdout(), "{view}"))?)
}

/// Asks every server: a single one may be the old leader, which is the last to know.
fn view(flags: &ClientFlags, client: &Client) -> Option<View> {
    let answers = flags.statuses(client).into_iter();
    answers.filter_map(|(_, answer)| view_of(&answer.ok()?)).max()
}

/// `None` when the node knows no leader.
fn view_of(status: &str) -> Option<View> {
    let pairs = pairs(status);
    let value = |name| pairs.iter().find(|(this, _)| *this == name).map(|(_, value)| *value);
    Some(View { term: value("term")?.parse().ok()?, leader: value("leader")?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_has_moved_when_another_leads_in_a_later_term() {
        let view = |term, leader| View { term, leader };
        let before = view_of("id=1 role=leader term=5 leader=1").unwrap();
        assert_eq!(before, view(5, 1));
        assert_eq!(view_of("id=2 role=candidate term=6 leader=none"), None);
        assert!(!has_moved(Some(before), before, None));
        assert!(!has_moved(Some(before), view(7, 1), None));
        assert!(has_moved(Some(before), view(6, 3), None));
        assert!(!has_moved(Some(before), view(6, 3), Some(2)));
        assert!(has_moved(None, view(6, 2), Some(2)));
    }
}
