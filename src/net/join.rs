//! Joining a cluster that runs: a node with an empty directory asks it whose log it shall get.

use std::io;
use std::time::{Duration, Instant};

use kvorum_protocol::{ClusterId, LogIndex, MemberList, MembersLine, NodeId};

use super::signals::Signals;
use crate::disk::Disk;

/// Notes in the directory whom to ask, until there is a log: the process may be killed before, and
/// be started without the flag.
pub const NAME: &str = "join";

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// As long as nothing changes, this often it is said what is waited for.
const REMINDER: Duration = Duration::from_secs(60);

/// Asks one of these servers who is in its cluster.
pub type AskMembers<'a> = &'a dyn Fn(&[String]) -> Result<MembersLine, String>;

/// What a cluster tells a new member.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its members, the new one among them.
    pub members: MemberList,
    /// Where that list stands in the log.
    pub index: LogIndex,
}

/// Asks until the cluster says that node `id` is a member; `None` when a signal says stop before.
pub fn wait_for_invitation(
    id: NodeId,
    servers: &[String],
    ask: AskMembers<'_>,
    signals: &mut Signals,
) -> Option<Invitation> {
    let mut said: Option<(String, Instant)> = None;
    loop {
        let line = match ask(servers).map(|line| judge(id, line)) {
            Ok(Ok(invitation)) => return Some(invitation),
            Ok(Err(line)) => line,
            Err(error) => format!("no server of the cluster to join answers: {error}"),
        };
        let is_news =
            |(before, at): &(String, Instant)| *before != line || at.elapsed() >= REMINDER;
        if said.as_ref().is_none_or(is_news) {
            log::warn!("{line}; trying on");
            said = Some((line, Instant::now()));
        }
        if signals.await_wish_to_stop(PAUSE) {
            return None;
        }
    }
}

/// Whether the node is a member by now; if not, what is missing.
fn judge(id: NodeId, line: MembersLine) -> Result<Invitation, String> {
    let (Some(cluster), Some(index)) = (line.cluster, line.index) else {
        return Err("the cluster to join runs an older release, which takes no members".into());
    };
    if line.members.get(id).is_none() {
        return Err(format!(
            "the cluster has no member {id} yet: kvorum member add {id}=CLIENT/PEER --servers ...; \
             if it was removed, use a new id and an empty --data"
        ));
    }
    Ok(Invitation { cluster, members: line.members, index })
}

/// Notes whom to ask.
///
/// # Errors
/// What the disk refuses.
pub fn note(disk: &dyn Disk, servers: &[String]) -> io::Result<()> {
    disk.write_file(NAME, (servers.join(",") + "\n").as_bytes())?;
    disk.sync_dir()
}

/// Whom to ask, if the directory was first used to join a cluster.
///
/// # Errors
/// The note can not be read.
pub fn noted(disk: &dyn Disk) -> io::Result<Option<Vec<String>>> {
    let bytes = match disk.read(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let servers: Vec<String> =
        text.trim().split(',').filter(|server| !server.is_empty()).map(str::to_owned).collect();
    Ok((!servers.is_empty()).then_some(servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_joins_when_it_is_a_member() {
        let line = |line: &str| MembersLine::parse(line).unwrap();
        let whole = "id=1 member=1=a:1/a:2 learner=4=d:1/d:2 index=9 cluster=00000000000000ff";
        let invitation = judge(NodeId(4), line(whole)).unwrap();
        assert_eq!((invitation.cluster, invitation.index), (ClusterId(255), LogIndex(9)));
        let missing = judge(NodeId(5), line(whole)).unwrap_err();
        assert!(missing.contains("member add 5="), "{missing}");
        assert!(missing.contains("use a new id"), "{missing}");
        let old = "id=1 member=1=a:1/a:2 learner=4=d:1/d:2";
        assert!(judge(NodeId(4), line(old)).is_err());
    }
}
