//! `kvorum status`: the STATUS lines of several nodes as one table.

use std::io::{self, Write as _};

use kvorum_protocol::Request;

use super::Error;
use super::client::{ClientFlags, ask};
use crate::client::Reply;

pub(super) fn run(flags: &ClientFlags) -> Result<(), Error> {
    let mut rows = Vec::new();
    let mut silent = Vec::new();
    for server in &flags.servers {
        match ask(server, &Request::Status, flags.timeout()) {
            Ok(Reply::Status(line)) => rows.push((server.as_str(), line)),
            Ok(other) => silent.push(format!("{server}: a wrong answer: {other:?}")),
            Err(error) => silent.push(error.to_string()),
        }
    }
    let mut out = io::stdout().lock();
    out.write_all(table(&rows).as_bytes())?;
    for line in &silent {
        writeln!(io::stderr(), "kvorum: {line}")?;
    }
    out.flush()?;
    if silent.is_empty() { Ok(()) } else { Err(Error::Silent) }
}

/// One row a server, one column a name, in the order in which the names first appear.
fn table(rows: &[(&str, String)]) -> String {
    let parsed: Vec<(&str, Vec<(&str, &str)>)> =
        rows.iter().map(|(server, line)| (*server, pairs(line))).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in parsed.iter().flat_map(|(_, pairs)| pairs) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let mut cells = vec![["server"].into_iter().chain(names.iter().copied()).collect::<Vec<_>>()];
    for (server, pairs) in &parsed {
        let value = |name| {
            let found = pairs.iter().find(|(this, _)| *this == name);
            found.map(|(_, value)| *value).filter(|value| !value.is_empty()).unwrap_or("-")
        };
        cells.push([*server].into_iter().chain(names.iter().map(|name| value(*name))).collect());
    }
    if rows.is_empty() {
        return String::new();
    }
    let widths: Vec<usize> = (0..=names.len())
        .map(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &cells {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The `name=value` pairs of a STATUS line; a value may be empty.
fn pairs(line: &str) -> Vec<(&str, &str)> {
    line.split_ascii_whitespace().filter_map(|word| word.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_has_every_name() {
        let rows = [
            ("127.0.0.1:6379", "id=1 role=leader keys=1000 learners=".to_owned()),
            ("b:1", "STATUS id=2 role=follower keys=7 learners= extra=x".to_owned()),
        ];
        let expected = "\
server          id  role      keys  learners  extra
127.0.0.1:6379  1   leader    1000  -         -
b:1             2   follower  7     -         x
";
        assert_eq!(table(&rows), expected);
        assert_eq!(table(&[]), "");
    }
}
