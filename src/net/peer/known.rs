//! Which data directory each voter had when it was met, the highest term that it has said it
//! remembers, and how much of the log it has said to be durable. A voter that comes with another
//! directory, or remembers less, may have forgotten votes and entries that the cluster counts on;
//! it is not let in. Why that never hits a healthy voter: `protocol/src/peer/PEER.md`, "Amnesia".
//!
//! This is the table; [`known_file`](super::known_file) keeps it on the disk, but for what voters
//! have acknowledged: that changes with every sync of theirs.

use std::collections::BTreeMap;

use kvorum_protocol::peer::{Introduction, Refusal};
use kvorum_protocol::{LogIndex, MemberList, NodeId, Role, Term};

const FIRST_LINE: &str = "kvorum peers 2";

/// What is known of the voters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    voters: BTreeMap<NodeId, Voter>,
    /// The same of learners, as this process has met them last. They have promised nothing, until
    /// they become voters.
    learners: BTreeMap<NodeId, Voter>,
}

/// What is known of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Voter {
    /// Of its data directory.
    incarnation: u64,
    /// The highest that it has said it remembers.
    term: Term,
    /// The highest that it has said to be durable, and its term then: there its log must not end
    /// before. Forgotten with this process.
    durable: (Term, LogIndex),
    /// The process that was let in last, if that was in this life. While a process lives it
    /// forgets nothing; but what it says on two connections may overtake each other.
    boot: Option<u64>,
}

impl Voter {
    /// One of which no more is known.
    fn new(incarnation: u64) -> Voter {
        Voter { incarnation, term: Term(0), durable: (Term(0), LogIndex(0)), boot: None }
    }
}

impl Known {
    /// Whether `theirs`, which has proved who it is, may be let in by node `own`.
    ///
    /// # Errors
    /// It may have forgotten what it has promised.
    pub fn judge(
        &self,
        own: NodeId,
        theirs: &Introduction,
        members: &MemberList,
    ) -> Result<(), Refusal> {
        let Some(voter) = self.voters.get(&theirs.from) else { return Ok(()) };
        let is_same = voter.incarnation == theirs.incarnation;
        let remembers_all =
            theirs.term >= voter.term && (theirs.term, theirs.durable) >= voter.durable;
        let is_fresh = voter.boot == Some(theirs.boot) || remembers_all;
        // A learner has promised nothing.
        if is_same && is_fresh || !is_voter(members, theirs.from) {
            return Ok(());
        }
        Err(Refusal::amnesia(own, theirs.from))
    }

    /// Learns what `theirs`, which was let in by node `own`, says of itself and of the others.
    /// Answers whether any of it is to be kept.
    pub fn learn(&mut self, own: NodeId, theirs: &Introduction, members: &MemberList) -> bool {
        let before = self.text();
        for (id, incarnation) in &theirs.known {
            if *id != own && is_voter(members, *id) {
                self.voters.entry(*id).or_insert(Voter::new(*incarnation));
            }
        }
        let met = Voter::new(theirs.incarnation);
        let voter = match is_voter(members, theirs.from) {
            true => self.voters.entry(theirs.from).or_insert(met),
            false => {
                self.learners.insert(theirs.from, met);
                self.learners.get_mut(&theirs.from).expect("just put there")
            }
        };
        voter.term = voter.term.max(theirs.term);
        voter.boot = Some(theirs.boot);
        self.text() != before
    }

    /// The member is a voter from now on, and what it is now must not change any more. `is_met`: it
    /// is connected; if not, it may have changed since it was met. Answers whether that is to be
    /// kept.
    pub fn promote(&mut self, member: NodeId, is_met: bool) -> bool {
        let before = self.text();
        self.voters.remove(&member);
        if let Some(learner) = self.learners.remove(&member).filter(|_| is_met) {
            self.voters.insert(member, learner);
        }
        self.text() != before
    }

    /// The member is none any more.
    pub fn forget(&mut self, member: NodeId) -> bool {
        self.learners.remove(&member);
        self.voters.remove(&member).is_some()
    }

    /// Learns that `member` remembers `term`. Answers whether that is to be kept.
    pub fn learn_term(&mut self, member: NodeId, term: Term) -> bool {
        match self.voters.get_mut(&member) {
            Some(voter) if voter.term < term => {
                voter.term = term;
                true
            }
            _ => false,
        }
    }

    /// Learns that the log of `member` never ends before `durable` again in `term`.
    pub fn learn_durable(&mut self, member: NodeId, term: Term, durable: LogIndex) {
        let voter = self.voters.get_mut(&member);
        if let Some(voter) = voter.or_else(|| self.learners.get_mut(&member)) {
            voter.durable = voter.durable.max((term, durable));
        }
    }

    /// Whether it has all that `theirs` says of itself.
    pub fn holds(&self, theirs: &Introduction) -> bool {
        let voter = self.voters.get(&theirs.from);
        voter.is_some_and(|voter| {
            voter.incarnation == theirs.incarnation && voter.term >= theirs.term
        })
    }

    /// The incarnations, for an introduction.
    pub fn incarnations(&self) -> Vec<(NodeId, u64)> {
        self.voters.iter().map(|(id, voter)| (*id, voter.incarnation)).collect()
    }

    /// The table as text, with the number of this version: a person can read it, and a checksum
    /// guards it.
    pub fn encode(&self, version: u64) -> String {
        let text = format!("{FIRST_LINE} version {version}\n{}", self.text());
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn text(&self) -> String {
        let line = |(id, voter): (&NodeId, &Voter)| {
            format!("node {id} incarnation {:016x} term {}\n", voter.incarnation, voter.term)
        };
        self.voters.iter().map(line).collect()
    }

    /// Reads the text, and the number of its version; `None` for anything that
    /// [`encode`](Known::encode) has not written.
    pub fn decode(bytes: &[u8]) -> Option<(u64, Known)> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (_, version) = text.lines().next()?.rsplit_once(' ')?;
        let version = version.parse().ok()?;
        let mut known = Known::default();
        for line in text.lines().skip(1).take_while(|line| line.starts_with("node ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["node", id, "incarnation", incarnation, "term", term] = words[..] else {
                return None;
            };
            let incarnation = u64::from_str_radix(incarnation, 16).ok()?;
            let voter = Voter { term: Term(term.parse().ok()?), ..Voter::new(incarnation) };
            known.voters.insert(NodeId(id.parse().ok()?), voter);
        }
        // The text has one form only, so writing it again checks every byte, the sum included.
        (known.encode(version) == text).then_some((version, known))
    }
}

#[cfg(test)]
impl Known {
    /// A table of these voters: id, incarnation, and the term that each remembers.
    pub fn of(voters: impl IntoIterator<Item = (NodeId, u64, Term)>) -> Known {
        let entry = |(id, incarnation, term)| (id, Voter { term, ..Voter::new(incarnation) });
        Known { voters: voters.into_iter().map(entry).collect(), ..Known::default() }
    }
}

fn is_voter(members: &MemberList, id: NodeId) -> bool {
    members.get(id).is_some_and(|member| member.role == Role::Voter)
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::peer::{Lane, Reason};
    use kvorum_protocol::{Change, ClusterId, Member};

    use super::*;

    const OWN: NodeId = NodeId(1);

    fn members() -> MemberList {
        let member = |id, role| Member::parse(&format!("{id}=a:{id}/b:{id}"), role).unwrap();
        let voters = (1..=3).map(|id| member(id, Role::Voter));
        MemberList::new(voters.chain([member(9, Role::Learner)]).collect()).unwrap()
    }

    fn introduction(from: u16, incarnation: u64, term: u64, boot: u64) -> Introduction {
        Introduction {
            from: NodeId(from),
            to: OWN,
            lane: Lane::Control,
            cluster: ClusterId(1),
            incarnation,
            boot,
            epoch: 1,
            members: members().fingerprint(),
            members_index: LogIndex(1),
            address: format!("b:{from}"),
            term: Term(term),
            durable: LogIndex(0),
            has_secret: false,
            nonce: [0; 16],
            known: Vec::new(),
        }
    }

    /// Whether a voter or learner is let in; if so, what it says is learnt.
    fn lets_in(known: &mut Known, theirs: &Introduction) -> bool {
        match known.judge(OWN, theirs, &members()) {
            Ok(()) => {
                known.learn(OWN, theirs, &members());
                true
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, Reason::Amnesia);
                false
            }
        }
    }

    #[test]
    fn a_voter_with_another_directory_is_not_let_in() {
        let mut known = Known::default();
        assert!(lets_in(&mut known, &introduction(2, 100, 5, 1)));
        assert!(lets_in(&mut known, &introduction(2, 100, 5, 2)));
        assert!(!lets_in(&mut known, &introduction(2, 101, 5, 3)));
        assert!(!lets_in(&mut known, &introduction(2, 101, 50, 2)));
    }

    #[test]
    fn a_voter_that_remembers_less_is_not_let_in() {
        let mut known = Known::default();
        assert!(lets_in(&mut known, &introduction(2, 100, 5, 1)));
        assert!(known.learn_term(NodeId(2), Term(6)));
        assert!(!known.learn_term(NodeId(2), Term(4)));
        assert!(!lets_in(&mut known, &introduction(2, 100, 5, 2)));
        // The same process has only said it in another order.
        assert!(lets_in(&mut known, &introduction(2, 100, 5, 1)));
        assert!(!lets_in(&mut known, &introduction(2, 100, 5, 2)));
        assert!(lets_in(&mut known, &introduction(2, 100, 6, 2)));
        assert!(!known.learn_term(NodeId(3), Term(6)));
    }

    #[test]
    fn a_voter_that_has_lost_what_it_has_acknowledged_is_not_let_in() {
        let mut known = Known::default();
        let at = |term, durable, boot| Introduction {
            durable: LogIndex(durable),
            ..introduction(2, 100, term, boot)
        };
        assert!(lets_in(&mut known, &at(5, 10, 1)));
        // What it says in an introduction is no promise: another leader may cut it off.
        assert!(lets_in(&mut known, &at(5, 8, 2)));
        known.learn_durable(NodeId(2), Term(5), LogIndex(9));
        known.learn_durable(NodeId(2), Term(5), LogIndex(7));
        known.learn_durable(NodeId(2), Term(4), LogIndex(99));
        assert!(!lets_in(&mut known, &at(5, 8, 3)));
        // The same process has only said it in another order.
        assert!(lets_in(&mut known, &at(5, 8, 2)));
        assert!(lets_in(&mut known, &at(5, 9, 3)));
        // The leader of a later term has cut off what nobody had decided.
        assert!(lets_in(&mut known, &at(6, 3, 4)));
        known.learn_durable(NodeId(3), Term(5), LogIndex(9));
        assert_eq!(known.incarnations(), [(NodeId(2), 100)]);
    }

    #[test]
    fn what_others_know_counts_until_the_voter_is_met() {
        let mut known = Known::default();
        let of_others = vec![(OWN, 1), (NodeId(3), 300), (NodeId(8), 800), (NodeId(9), 900)];
        let gossip = Introduction { known: of_others, ..introduction(2, 100, 5, 1) };
        assert!(known.learn(OWN, &gossip, &members()));
        assert!(!known.learn(OWN, &gossip, &members()));
        assert_eq!(known.incarnations(), [(NodeId(2), 100), (NodeId(3), 300)]);
        assert!(!lets_in(&mut known, &introduction(3, 301, 0, 1)));
        let later = Introduction { known: vec![(NodeId(3), 301)], ..gossip };
        assert!(!known.learn(OWN, &later, &members()));
    }

    #[test]
    fn a_table_holds_what_a_voter_says_of_itself() {
        let known = Known::of([(NodeId(2), 100, Term(5))]);
        assert!(known.holds(&introduction(2, 100, 5, 1)));
        assert!(known.holds(&introduction(2, 100, 4, 1)));
        assert!(!known.holds(&introduction(2, 100, 6, 1)));
        assert!(!known.holds(&introduction(2, 101, 5, 1)));
        assert!(!known.holds(&introduction(3, 100, 5, 1)));
    }

    #[test]
    fn a_learner_may_come_with_anything() {
        let mut known = Known::default();
        assert!(lets_in(&mut known, &introduction(9, 900, 5, 1)));
        assert!(lets_in(&mut known, &introduction(9, 901, 0, 2)));
    }

    #[test]
    fn a_learner_that_becomes_a_voter_has_to_stay_what_it_is() {
        let nine = NodeId(9);
        let voters = members().changed(&Change::Promote(nine)).unwrap();
        let mut known = Known::default();
        assert!(lets_in(&mut known, &introduction(9, 900, 5, 1)));
        assert!(lets_in(&mut known, &introduction(9, 901, 0, 2)));
        let mut connected = known.clone();
        assert!(connected.promote(nine, true));
        assert_eq!(connected.incarnations(), [(nine, 901)]);
        assert!(connected.judge(OWN, &introduction(9, 901, 0, 3), &voters).is_ok());
        assert!(connected.judge(OWN, &introduction(9, 902, 0, 3), &voters).is_err());
        // Who is away may have come to others with another directory before it was promoted.
        assert!(!known.promote(nine, false));
        assert!(known.judge(OWN, &introduction(9, 902, 0, 3), &voters).is_ok());
        assert!(connected.forget(nine));
        assert!(connected.incarnations().is_empty());
    }

    #[test]
    fn the_table_survives_and_no_flipped_bit_or_lost_byte_passes() {
        let mut known = Known::default();
        assert_eq!(Known::decode(known.encode(0).as_bytes()), Some((0, known.clone())));
        known = Known::of([(NodeId(2), 7, Term(3)), (NodeId(3), 8, Term(4))]);
        let text = known.encode(12);
        assert_eq!(Known::decode(text.as_bytes()), Some((12, known)));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Known::decode(&bytes), None, "bit {bit}");
        }
        for length in 0..text.len() {
            assert_eq!(Known::decode(&text.as_bytes()[..length]), None);
        }
    }
}
