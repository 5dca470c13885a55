//! `COMMAND` and its subcommands: the table, printed.

use super::args::Arguments;
use super::encode::Reply;
use super::refusal::Refusal;
use super::spec::{Argument, Kind, Spec};
use super::table::{self, COMMANDS};

/// The most names that COMMAND INFO and COMMAND DOCS take: an entry is a hundred times as long as
/// its name, and replies must not outgrow requests without bound.
const NAMES_MAX: usize = 256;

/// `COMMAND`: everything, as ten-element entries.
pub(super) fn all(reply: &mut Reply<'_>) {
    reply.array(COMMANDS.len());
    for spec in COMMANDS {
        entry(reply, spec);
    }
}

/// `COMMAND INFO [name ...]`: null for a name that no command has.
pub(super) fn info<'a>(reply: &mut Reply<'_>, args: Arguments<'a>) -> Result<(), Refusal<'a>> {
    let names = names(args, "command|info")?;
    if names.len() == 0 {
        all(reply);
        return Ok(());
    }
    reply.array(names.len());
    for name in names {
        match table::find(name) {
            Some(spec) => entry(reply, spec),
            None => reply.null(),
        }
    }
    Ok(())
}

/// `COMMAND DOCS [name ...]`: names that no command has are left out.
pub(super) fn docs<'a>(reply: &mut Reply<'_>, args: Arguments<'a>) -> Result<(), Refusal<'a>> {
    let names = names(args, "command|docs")?;
    if names.len() == 0 {
        named_docs(reply, COMMANDS.iter());
        return Ok(());
    }
    let known = names.filter_map(table::find).collect::<Vec<_>>();
    named_docs(reply, known.into_iter());
    Ok(())
}

fn names<'a>(
    args: Arguments<'a>,
    command: &'static str,
) -> Result<impl ExactSizeIterator<Item = &'a [u8]>, Refusal<'a>> {
    let names = args.from(2);
    if names.len() > NAMES_MAX { Err(Refusal::WrongArity(command)) } else { Ok(names) }
}

/// `COMMAND HELP`, `CLIENT HELP` and the like, for the command in `args`.
pub(super) fn help(reply: &mut Reply<'_>, args: Arguments<'_>) {
    let spec = table::find(args.get(0)).expect("the command was found when it was dispatched");
    reply.array(1 + 2 * spec.subcommands.len());
    let name = spec.name.to_ascii_uppercase();
    reply.simple(&format!("{name} <subcommand> [<arg> ...]. Subcommands are:"));
    for sub in spec.subcommands {
        reply.simple(&sub.last_word().to_ascii_uppercase());
        reply.simple(&format!("    {}", sub.summary));
    }
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications,
/// subcommands.
fn entry(reply: &mut Reply<'_>, spec: &Spec) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.signed(i64::from(spec.arity));
    words(reply, spec.flags);
    reply.signed(i64::from(spec.keys.is_some()));
    reply.signed(spec.keys.map_or(0, |keys| i64::from(keys.last)));
    reply.signed(spec.keys.map_or(0, |keys| i64::from(keys.step)));
    words(reply, spec.categories);
    words(reply, &[]);
    key_specifications(reply, spec);
    reply.array(spec.subcommands.len());
    for sub in spec.subcommands {
        entry(reply, sub);
    }
}

fn words(reply: &mut Reply<'_>, words: &[&str]) {
    reply.set(words.len());
    for word in words {
        reply.simple(word);
    }
}

fn key_specifications(reply: &mut Reply<'_>, spec: &Spec) {
    let Some(keys) = spec.keys else {
        return reply.set(0);
    };
    reply.set(1);
    reply.map(3);
    reply.bulk(b"flags");
    words(reply, keys.access);
    reply.bulk(b"begin_search");
    reply.map(2);
    field(reply, "type", "index");
    reply.bulk(b"spec");
    reply.map(1);
    number(reply, "index", 1);
    reply.bulk(b"find_keys");
    reply.map(2);
    field(reply, "type", "range");
    reply.bulk(b"spec");
    reply.map(3);
    // Counted from the first key, which is argument 1.
    number(reply, "lastkey", i64::from(keys.last.min(0)));
    number(reply, "keystep", i64::from(keys.step));
    number(reply, "limit", 0);
}

fn named_docs(reply: &mut Reply<'_>, specs: impl ExactSizeIterator<Item = &'static Spec>) {
    reply.map(specs.len());
    for spec in specs {
        reply.bulk(spec.name.as_bytes());
        doc(reply, spec);
    }
}

fn doc(reply: &mut Reply<'_>, spec: &Spec) {
    let lists = [!spec.arguments.is_empty(), !spec.subcommands.is_empty()];
    reply.map(4 + lists.into_iter().filter(|list| *list).count());
    field(reply, "summary", spec.summary);
    field(reply, "since", spec.since);
    field(reply, "group", spec.group);
    field(reply, "complexity", spec.complexity);
    arguments(reply, spec.arguments);
    if !spec.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        named_docs(reply, spec.subcommands.iter());
    }
}

fn arguments(reply: &mut Reply<'_>, arguments: &[Argument]) {
    if arguments.is_empty() {
        return;
    }
    reply.bulk(b"arguments");
    reply.array(arguments.len());
    for argument in arguments {
        one_argument(reply, argument);
    }
}

fn one_argument(reply: &mut Reply<'_>, argument: &Argument) {
    let (kind, inner): (&str, &[Argument]) = match argument.kind {
        Kind::Key => ("key", &[]),
        Kind::String => ("string", &[]),
        Kind::Integer => ("integer", &[]),
        Kind::Pattern => ("pattern", &[]),
        Kind::PureToken => ("pure-token", &[]),
        Kind::OneOf(inner) => ("oneof", inner),
        Kind::Block(inner) => ("block", inner),
    };
    let is_key = matches!(argument.kind, Kind::Key);
    let flags = [(argument.optional, "optional"), (argument.multiple, "multiple")];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>();
    // The last one: what redis-cli 7.2 and later show instead of the name.
    let extra = [is_key, argument.token.is_some(), !flags.is_empty(), !inner.is_empty(), true];
    reply.map(2 + extra.into_iter().filter(|present| *present).count());
    field(reply, "name", argument.name);
    field(reply, "type", kind);
    field(reply, "display_text", argument.name);
    if is_key {
        number(reply, "key_spec_index", 0);
    }
    if let Some(token) = argument.token {
        field(reply, "token", token);
    }
    if !flags.is_empty() {
        reply.bulk(b"flags");
        words(reply, &flags);
    }
    self::arguments(reply, inner);
}

fn field(reply: &mut Reply<'_>, name: &str, value: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(value.as_bytes());
}

fn number(reply: &mut Reply<'_>, name: &str, value: i64) {
    reply.bulk(name.as_bytes());
    reply.signed(value);
}
