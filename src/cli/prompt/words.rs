//! The verbs as the prompt explains them: help, completion and hints.

use kvorum_protocol::NodeId;

/// One verb of the text protocol.
struct Verb {
    name: &'static str,
    /// What stands behind the name; empty for nothing.
    arguments: &'static str,
    meaning: &'static str,
}

const fn verb(name: &'static str, arguments: &'static str, meaning: &'static str) -> Verb {
    Verb { name, arguments, meaning }
}

const VERBS: [Verb; 13] = [
    verb("GET", "key", "the value of a key"),
    verb("SET", "key value", "stores a value: all that stands behind the key, spaces too"),
    verb("DELETE", "key", "removes a key"),
    verb("WHO_IS_LEADER", "", "the address of the leader"),
    verb(
        "QUORUM",
        "w=<n|majority|all> r=<n|majority>",
        "how many voters a write, a read needs from now on; either may be left out",
    ),
    verb("TRANSFER", "[id]", "hands leadership to that voter, or to the one furthest"),
    verb(
        "MEMBER",
        "add id=client/peer|remove id|promote id|demote id",
        "changes who is in the cluster, one at a time",
    ),
    verb("STATUS", "", "the state of this node"),
    verb("MEMBERS", "", "everybody in the cluster, with their addresses"),
    verb("SNAPSHOT", "", "has the node take a snapshot now; its index"),
    verb("PING", "", "whether the node answers"),
    verb("HELP", "", "this list"),
    verb("QUIT", "", "ends the prompt, as Ctrl-D does"),
];

const QUORUMS: [&str; 4] = ["w=majority", "w=all", "r=majority", "r=1"];

/// All verbs, one a line, for a person.
pub(super) fn help() -> String {
    let line = |verb: &Verb| {
        let usage = format!("{} {}", verb.name, verb.arguments);
        format!("  {usage:<41} {}\n", verb.meaning)
    };
    VERBS.iter().map(line).collect()
}

/// What the word that ends `line` may become: where it begins, and the candidates.
pub(super) fn complete(line: &str, voters: &[NodeId]) -> (usize, Vec<String>) {
    let start = line.rfind(' ').map_or(0, |space| space + 1);
    let word = &line[start..];
    let begins = |candidate: &str| {
        candidate.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let Some((name, _)) = line.split_once(' ') else {
        let verbs = VERBS.iter().filter(|verb| begins(verb.name));
        let completed = |verb: &Verb| {
            let space = if verb.arguments.is_empty() { "" } else { " " };
            format!("{}{space}", verb.name)
        };
        return (start, verbs.map(completed).collect());
    };
    let candidates: Vec<String> = match &name.to_ascii_uppercase()[..] {
        "QUORUM" => QUORUMS.map(str::to_owned).to_vec(),
        "TRANSFER" => voters.iter().map(NodeId::to_string).collect(),
        _ => Vec::new(),
    };
    (start, candidates.into_iter().filter(|candidate| begins(candidate)).collect())
}

/// The arguments that are still to come behind a line that ends in a space.
pub(super) fn hint(line: &str) -> Option<String> {
    let mut typed = line.strip_suffix(' ')?.split(' ');
    let name = typed.next()?;
    let verb = VERBS.iter().find(|verb| verb.name.eq_ignore_ascii_case(name))?;
    let rest: Vec<&str> = verb.arguments.split(' ').skip(typed.count()).collect();
    let rest = rest.join(" ");
    (!rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::Limits;
    use kvorum_protocol::text::{self, Line};

    use super::*;

    #[test]
    fn every_verb_of_the_help_is_one_and_none_is_missing() {
        let limits = Limits::default();
        for Verb { name, .. } in &VERBS {
            let line = format!("{name}\n");
            let (parsed, _) = text::parse(line.as_bytes(), 0, &limits).unwrap().unwrap();
            let is_unknown = matches!(parsed, Err(text::LineError::UnknownVerb(_)));
            assert!(!is_unknown, "{name}");
            assert_eq!(*name == "QUIT", parsed == Ok(Line::Quit), "{name}");
        }
        let mut listed = Vec::new();
        text::encode_help(&mut listed);
        let listed = String::from_utf8(listed).unwrap();
        let listed = listed.trim_end().strip_prefix("HELP ").unwrap();
        for usage in listed.split(" | ") {
            assert!(help().contains(&format!("  {usage} ")), "{usage} is not in:\n{}", help());
        }
    }

    #[test]
    fn words_are_completed_where_they_belong() {
        let voters = [NodeId(1), NodeId(12), NodeId(3)];
        let complete = |line: &str| complete(line, &voters);
        assert_eq!(complete("g"), (0, vec!["GET ".to_owned()]));
        assert_eq!(complete("P"), (0, vec!["PING".to_owned()]));
        assert_eq!(complete("").1.len(), VERBS.len());
        assert_eq!(complete("x"), (0, vec![]));
        assert_eq!(complete("\u{e4}"), (0, vec![]));
        assert_eq!(complete("transfer 1"), (9, vec!["1".to_owned(), "12".to_owned()]));
        assert_eq!(complete("QUORUM w=m"), (7, vec!["w=majority".to_owned()]));
        assert_eq!(complete("QUORUM w=all r=1"), (13, vec!["r=1".to_owned()]));
        assert_eq!(complete("GET G"), (4, vec![]));
    }

    #[test]
    fn a_hint_shows_the_arguments_that_are_missing() {
        for (line, expected) in [
            ("SET ", Some("key value")),
            ("set k ", Some("value")),
            ("SET k v ", None),
            ("SET k", None),
            ("PING ", None),
            ("nonsense ", None),
            ("QUORUM w=all ", Some("r=<n|majority>")),
            ("", None),
        ] {
            assert_eq!(hint(line).as_deref(), expected, "{line:?}");
        }
    }
}
