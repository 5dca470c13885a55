//! etcd's data for quorums: which index is committed when these are acknowledged, and what comes of
//! an election with these votes. The files come in the package of raft-rs (Apache-2.0 licence), and
//! were made for etcd's `raft/quorum`.

use std::collections::BTreeMap;

use kvorum::core::quorum::{majority, reached_by};
use kvorum::core::raft::Raft;
use kvorum_protocol::{NodeId, Term};

use crate::package::package;

/// `command name=(values) ...`, then `----` and what comes out.
struct Case {
    /// The command in its line.
    line: String,
    /// The last line: the lines before draw a picture.
    expected: String,
}

fn cases(file: &str) -> Vec<Case> {
    let path = package("raft").join("src/quorum/testdata").join(file);
    let text = std::fs::read_to_string(&path).expect("the package has the data");
    let mut cases = Vec::new();
    let mut lines = text.lines();
    let mut command = String::new();
    while let Some(line) = lines.next() {
        match line {
            "----" => {
                let answer: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                let expected = (*answer.last().expect("an answer")).to_owned();
                cases.push(Case { line: std::mem::take(&mut command), expected });
            }
            line if line.starts_with('#') || line.is_empty() => {}
            line => line.clone_into(&mut command),
        }
    }
    cases
}

impl Case {
    /// The values of `name=(...)`; `None` without it.
    fn values(&self, name: &str) -> Option<Vec<&str>> {
        let (_, rest) = self.line.split_once(&format!(" {name}=("))?;
        let (values, _) = rest.split_once(')').expect("a closing bracket");
        Some(values.split(',').map(str::trim).collect())
    }

    /// The voters, if this is about one set of them. Two sets at once (joint consensus) are no
    /// concern of a cluster whose members never change; one of the two may be empty.
    fn voters(&self) -> Option<Vec<u16>> {
        let is_joint = self.line.contains(" cfgj=(");
        let ids = self.values("cfg").filter(|_| !is_joint)?;
        Some(ids.iter().map(|id| id.parse().expect("a number")).collect())
    }

    /// What each voter has said, where it has.
    fn said(&self, voters: &[u16], name: &str) -> BTreeMap<u16, &str> {
        let said = voters.iter().copied().zip(self.values(name).expect("as many values"));
        said.filter(|(_, value)| *value != "_").collect()
    }
}

fn committed(case: &Case, voters: &[u16]) -> String {
    let said = case.said(voters, "idx");
    let index = |voter| said.get(voter).map_or(0, |index| index.parse::<u64>().expect("an index"));
    let reached = reached_by(majority(voters.len()), voters.iter().map(index));
    reached.expect("there are voters").to_string()
}

fn vote(case: &Case, voters: &[u16]) -> String {
    let ids: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
    let mut raft = Raft::new(ids[0], ids, Term(1), None);
    for (voter, vote) in case.said(voters, "votes") {
        match vote {
            "y" => raft.grant(NodeId(voter)),
            _ => raft.refuse(NodeId(voter)),
        }
    }
    let word = match (raft.is_granted(), raft.is_refused()) {
        (true, false) => "VoteWon",
        (false, true) => "VoteLost",
        (false, false) => "VotePending",
        (true, true) => "both at once",
    };
    word.to_owned()
}

#[test]
fn etcd_and_kvorum_agree_on_quorums() {
    let files = [
        "majority_commit.txt",
        "majority_vote.txt",
        "joint_commit.txt",
        "joint_vote.txt",
        "joint_group_commit.txt",
    ];
    let (mut judged, mut left_out) = (0, 0);
    for file in files {
        for case in cases(file) {
            let answer = match (case.voters(), case.line.split(' ').next()) {
                (Some(voters), Some("committed")) => committed(&case, &voters),
                (Some(voters), Some("vote")) => vote(&case, &voters),
                // Joint consensus, groups of voters, and no voters at all.
                _ => {
                    left_out += 1;
                    continue;
                }
            };
            assert_eq!(answer, case.expected, "{file}: {}", case.line);
            judged += 1;
        }
    }
    println!("{judged} quorums judged as etcd does, {left_out} (joint ones, groups) left out");
    assert_eq!((judged, left_out), (40, 101), "of 141 cases");
}
