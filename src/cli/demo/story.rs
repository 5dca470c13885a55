//! What happens in the cluster, told in lines for a person. Pure: time is an argument.

use std::time::Duration;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub role: String,
    pub term: u64,
    /// The id of the leader that it knows.
    pub leader: Option<u16>,
}

/// One node of the story.
#[derive(Debug, Default)]
struct Character {
    pid: u32,
    is_running: bool,
    seen: Option<Seen>,
    /// It has answered since it was started.
    was_heard: bool,
}

/// Remembers what was told, so that each thing is told once.
#[derive(Debug)]
pub(super) struct Story {
    /// Node 1 comes first.
    nodes: Vec<Character>,
    /// Who leads the newest term, and that term; `None` while nobody does.
    leader: Option<(u16, u64)>,
    /// Since when there is no leader, and why.
    leaderless: Option<(Duration, String)>,
    lacks_majority: bool,
}

impl Story {
    /// Nodes 1 to `count`, none of them started.
    pub(super) fn new(count: usize) -> Story {
        Story {
            nodes: (0..count).map(|_| Character::default()).collect(),
            leader: None,
            leaderless: None,
            lacks_majority: false,
        }
    }

    fn node(&mut self, id: u16) -> &mut Character {
        &mut self.nodes[usize::from(id) - 1]
    }

    /// Whether the node has answered since it was started.
    pub(super) fn was_heard(&self, id: u16) -> bool {
        self.nodes[usize::from(id) - 1].was_heard
    }

    /// A node's process was started.
    pub(super) fn started(&mut self, id: u16, pid: u32) {
        *self.node(id) = Character { pid, is_running: true, ..Character::default() };
    }

    /// A node's process has ended, in these words.
    pub(super) fn ended(
        &mut self,
        now: Duration,
        id: u16,
        how: &str,
        again_in: Duration,
    ) -> String {
        self.node(id).is_running = false;
        self.node(id).seen = None;
        self.lose_leader(now, id, format!("node {id} died"));
        format!("node {id} {how}; it starts again in {} s", again_in.as_secs())
    }

    fn lose_leader(&mut self, now: Duration, id: u16, why: String) {
        if self.leader.is_some_and(|(leader, _)| leader == id) {
            self.leader = None;
            self.leaderless = Some((now, why));
        }
    }

    /// A node says something else than before, or has stopped answering.
    pub(super) fn heard(&mut self, now: Duration, id: u16, seen: Option<Seen>) -> Vec<String> {
        let node = self.node(id);
        if !node.is_running || node.seen == seen {
            return Vec::new();
        }
        let before = std::mem::replace(&mut node.seen, seen.clone());
        let is_new = !node.was_heard;
        node.was_heard |= seen.is_some();
        let mut lines = Vec::new();
        let Some(seen) = seen else {
            self.lose_leader(now, id, format!("node {id} fell silent"));
            lines.push(format!("node {id} does not answer, though its process is there"));
            return lines;
        };
        if before.is_none() && !is_new {
            lines.push(format!("node {id} answers again"));
        }
        match (seen.role.as_str(), seen.leader) {
            ("leader", _) => lines.extend(self.new_leader(now, id, seen.term)),
            ("candidate", _) if before.is_none_or(|before| before.role != "candidate") => {
                lines.push(format!("node {id} hears no leader and stands for election"));
            }
            ("candidate", _) => {}
            (_, Some(leader)) => {
                lines.push(format!("node {id} follows node {leader} in term {}", seen.term));
            }
            (_, None) => {}
        }
        lines.extend(self.majority());
        lines
    }

    fn new_leader(&mut self, now: Duration, id: u16, term: u64) -> Option<String> {
        if self.leader.is_some_and(|(_, known)| known >= term) {
            return None;
        }
        self.leader = Some((id, term));
        let since = self.leaderless.take().map(|(since, why)| {
            format!(", {} ms after {why}", now.saturating_sub(since).as_millis())
        });
        let pid = self.node(id).pid;
        let since = since.unwrap_or_default();
        Some(format!("node {id} leads in term {term}{since} (to kill it: kill -9 {pid})"))
    }

    /// Tells once when there are too few nodes for a leader, and once when there are enough.
    pub(super) fn majority(&mut self) -> Option<String> {
        let needed = self.nodes.len() / 2 + 1;
        let running = self.nodes.iter().filter(|node| node.is_running).count();
        let lacks = running < needed;
        if lacks == std::mem::replace(&mut self.lacks_majority, lacks) || !lacks {
            return None;
        }
        Some(format!(
            "{running} of {} nodes is no majority: nobody can be elected, writes are refused or \
             time out, reads with R = 1 go on",
            self.nodes.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn seen(role: &str, term: u64, leader: Option<u16>) -> Option<Seen> {
        Some(Seen { role: role.to_owned(), term, leader })
    }

    fn running() -> Story {
        let mut story = Story::new(3);
        (1..=3).for_each(|id| story.started(id, 100 + u32::from(id)));
        story
    }

    #[test]
    fn the_death_of_a_leader_and_the_next_election_are_told() {
        let mut story = running();
        let lines = story.heard(ms(5), 1, seen("leader", 1, Some(1)));
        assert_eq!(lines, ["node 1 leads in term 1 (to kill it: kill -9 101)"]);
        let lines = story.heard(ms(6), 2, seen("follower", 1, Some(1)));
        assert_eq!(lines, ["node 2 follows node 1 in term 1"]);
        assert_eq!(story.heard(ms(7), 2, seen("follower", 1, Some(1))), [""; 0]);
        let line = story.ended(ms(1000), 1, "was killed (signal 9)", ms(5000));
        assert_eq!(line, "node 1 was killed (signal 9); it starts again in 5 s");
        assert_eq!(story.majority(), None);
        assert_eq!(story.heard(ms(1001), 1, None), [""; 0]);
        let lines = story.heard(ms(1010), 2, seen("candidate", 2, None));
        assert_eq!(lines, ["node 2 hears no leader and stands for election"]);
        assert_eq!(story.heard(ms(1020), 2, seen("candidate", 3, None)), [""; 0]);
        let lines = story.heard(ms(1060), 2, seen("leader", 3, Some(2)));
        assert_eq!(
            lines,
            ["node 2 leads in term 3, 60 ms after node 1 died (to kill it: kill -9 102)"]
        );
        assert!(!story.was_heard(3));
        story.ended(ms(2000), 2, "was killed (signal 9)", ms(5000));
        assert!(story.majority().unwrap().starts_with("1 of 3 nodes is no majority"));
        assert_eq!(story.majority(), None);
        story.started(1, 201);
        assert_eq!(story.majority(), None);
        let lines = story.heard(ms(6000), 1, seen("leader", 4, Some(1)));
        assert_eq!(
            lines,
            ["node 1 leads in term 4, 4000 ms after node 2 died (to kill it: kill -9 201)"]
        );
    }

    #[test]
    fn a_node_that_is_held_up_falls_silent_and_comes_back() {
        let mut story = running();
        story.heard(ms(1), 1, seen("leader", 1, Some(1)));
        let lines = story.heard(ms(500), 1, None);
        assert_eq!(lines, ["node 1 does not answer, though its process is there"]);
        let lines = story.heard(ms(900), 3, seen("leader", 2, Some(3)));
        assert!(lines[0].contains("400 ms after node 1 fell silent"), "{lines:?}");
        // What it says of the old term is no news.
        let lines = story.heard(ms(2000), 1, seen("leader", 1, Some(1)));
        assert_eq!(lines, ["node 1 answers again"]);
        let lines = story.heard(ms(2010), 1, seen("follower", 2, Some(3)));
        assert_eq!(lines, ["node 1 follows node 3 in term 2"]);
    }
}
