//! `kvorum status`: the STATUS lines of several nodes as one table.

use std::io::{self, Write as _};

use serde_json::{Map, Value};

use super::Error;
use super::servers::ClientFlags;

#[derive(Debug, clap::Args)]
pub(super) struct StatusFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// Print an array of JSON objects, one for each server
    #[arg(long)]
    json: bool,
}

/// What one server says of itself, or why it says nothing.
type Row<'a> = (&'a str, Result<String, String>);

pub(super) fn run(flags: &StatusFlags) -> Result<(), Error> {
    let answers = flags.client.statuses(&flags.client.client()?);
    let rows: Vec<Row<'_>> = answers
        .into_iter()
        .map(|(server, answer)| {
            (server, answer.map_err(|error| format!("{server}: {}", error.cause())))
        })
        .collect();
    let mut out = io::stdout().lock();
    out.write_all(if flags.json { json(&rows) } else { table(&rows) }.as_bytes())?;
    out.flush()?;
    let silent: Vec<&String> = rows.iter().filter_map(|(_, row)| row.as_ref().err()).collect();
    for reason in &silent {
        writeln!(io::stderr(), "kvorum: {reason}")?;
    }
    if silent.is_empty() { Ok(()) } else { Err(Error::Silent) }
}

/// One row a server, one column a name, in the order in which the names first appear.
fn table(rows: &[Row<'_>]) -> String {
    const SILENT: &str = "role=silent";
    let parsed: Vec<(&str, Vec<(&str, &str)>)> = rows
        .iter()
        .map(|(server, line)| (*server, pairs(line.as_deref().unwrap_or(SILENT))))
        .collect();
    // Those of a server that answers come first, in its order.
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in
        parsed.iter().max_by_key(|(_, pairs)| pairs.len()).map_or(&[][..], |row| &row.1)
    {
        names.push(name);
    }
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

/// The same for programs; what is a number stays one.
fn json(rows: &[Row<'_>]) -> String {
    let objects = rows.iter().map(|(server, line)| {
        let mut object = Map::new();
        object.insert("server".into(), Value::from(*server));
        match line {
            Ok(line) => object.extend(pairs(line).into_iter().map(|(name, value)| {
                let number = value.parse::<u64>().map(Value::from);
                (name.to_owned(), number.unwrap_or_else(|_| Value::from(value)))
            })),
            Err(reason) => {
                object.insert("error".into(), Value::from(reason.as_str()));
            }
        }
        Value::Object(object)
    });
    format!("{:#}\n", Value::Array(objects.collect()))
}

/// The `name=value` pairs of a STATUS line; a value may be empty.
pub(super) fn pairs(line: &str) -> Vec<(&str, &str)> {
    line.split_ascii_whitespace().filter_map(|word| word.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [Row<'static>; 3] {
        [
            ("down:1", Err("down:1: no answer in time".to_owned())),
            ("127.0.0.1:6379", Ok("id=1 role=leader keys=1000 learners=".to_owned())),
            ("b:1", Ok("id=2 role=follower keys=7 learners= extra=x".to_owned())),
        ]
    }

    #[test]
    fn the_table_is_aligned_and_has_every_server_and_name() {
        let expected = "\
server          id  role      keys  learners  extra
down:1          -   silent    -     -         -
127.0.0.1:6379  1   leader    1000  -         -
b:1             2   follower  7     -         x
";
        assert_eq!(table(&rows()), expected);
    }

    #[test]
    fn the_json_has_the_same() {
        let value: Value = serde_json::from_str(&json(&rows())).unwrap();
        assert_eq!(value[0]["server"], "down:1");
        assert!(value[0]["error"].as_str().unwrap().contains("no answer"));
        assert_eq!((&value[1]["keys"], &value[1]["role"]), (&1000.into(), &"leader".into()));
        assert_eq!(value[2]["learners"], "");
    }
}
