//! What the table of commands says of each.

/// Every command and subcommand, as it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Set,
    Del,
    Exists,
    Mget,
    Mset,
    Strlen,
    Type,
    Wait,
    Waitaof,
    Readonly,
    Readwrite,
    Ping,
    Echo,
    Select,
    Auth,
    Command,
    CommandCount,
    CommandDocs,
    CommandInfo,
    CommandHelp,
    Hello,
    Quit,
    Reset,
    Client,
    ClientSetname,
    ClientGetname,
    ClientSetinfo,
    ClientId,
    ClientInfo,
    ClientList,
    ClientHelp,
    Config,
    ConfigGet,
    ConfigHelp,
    Info,
    Dbsize,
    Bgsave,
    Lastsave,
    Role,
    Time,
}

/// One row of the table. The columns are those of Redis's COMMAND and COMMAND DOCS replies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) verb: Verb,
    /// In lower case; `client|id` for a subcommand.
    pub(super) name: &'static str,
    /// How many arguments with the name; a negative number is a minimum.
    pub(super) arity: i8,
    pub(super) flags: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    pub(super) keys: Option<Keys>,
    pub(super) summary: &'static str,
    /// The version of Redis that brought the command.
    pub(super) since: &'static str,
    pub(super) group: &'static str,
    pub(super) complexity: &'static str,
    pub(super) arguments: &'static [Argument],
    pub(super) subcommands: &'static [Spec],
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// The last one; -1: the last argument. The first key is always argument 1.
    pub(super) last: i8,
    pub(super) step: u8,
    /// What happens to the keys, in the words of Redis's key specifications.
    pub(super) access: &'static [&'static str],
}

/// One argument, as redis-cli shows it while a command is typed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) token: Option<&'static str>,
    pub(super) optional: bool,
    pub(super) multiple: bool,
}

/// The type of an argument.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Key,
    String,
    Integer,
    Pattern,
    PureToken,
    OneOf(&'static [Argument]),
    Block(&'static [Argument]),
}

impl Spec {
    /// `id` of `client|id`.
    pub(super) fn last_word(&self) -> &'static str {
        self.name.rsplit_once('|').map_or(self.name, |(_, word)| word)
    }
}

/// An argument that stands where it stands.
pub(super) const fn argument(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, token: None, optional: false, multiple: false }
}

/// An argument with a word in front.
pub(super) const fn token(word: &'static str, name: &'static str, kind: Kind) -> Argument {
    Argument { token: Some(word), ..argument(name, kind) }
}

/// The argument, which may be left out.
pub(super) const fn optional(argument: Argument) -> Argument {
    Argument { optional: true, ..argument }
}

/// The argument, which may be repeated.
pub(super) const fn many(argument: Argument) -> Argument {
    Argument { multiple: true, ..argument }
}
