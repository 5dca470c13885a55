//! The one table of commands: how their names, subcommands and arity are recognised, and what
//! `COMMAND`, `COMMAND INFO` and `COMMAND DOCS` tell of them.

use super::args::Arguments;
use super::refusal::Refusal;
use super::spec::{Argument, Keys, Kind, Spec, Verb, argument, many, optional, token};

/// Finds the command that `args` name (there is at least one) and compares their number with its
/// arity.
#[inline]
pub(super) fn resolve(args: Arguments<'_>) -> Result<&'static Spec, Refusal<'_>> {
    let name = args.get(0);
    let spec = COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name));
    let Some(spec) = spec else {
        return Err(Refusal::UnknownCommand(args));
    };
    if spec.subcommands.is_empty() || args.len() == 1 {
        return check_arity(spec, args.len());
    }
    let subcommand = args.get(1);
    let mut subcommands = spec.subcommands.iter();
    match subcommands.find(|sub| sub.last_word().as_bytes().eq_ignore_ascii_case(subcommand)) {
        Some(sub) => check_arity(sub, args.len()),
        None => Err(Refusal::UnknownSubcommand { subcommand, command: spec.name }),
    }
}

/// The command with this full name, `get` or `client|id`.
pub(super) fn find(full_name: &[u8]) -> Option<&'static Spec> {
    let everything = COMMANDS.iter().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    everything.into_iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(full_name))
}

#[inline]
fn check_arity(spec: &'static Spec, count: usize) -> Result<&'static Spec, Refusal<'static>> {
    let wanted = usize::from(spec.arity.unsigned_abs());
    let right = if spec.arity < 0 { count >= wanted } else { count == wanted };
    if right { Ok(spec) } else { Err(Refusal::WrongArity(spec.name)) }
}

const KEY: Argument = argument("key", Kind::Key);
const VALUE: Argument = argument("value", Kind::String);
const NAMES: Argument = optional(many(argument("command-name", Kind::String)));

/// What most commands have in common.
const BASE: Spec = Spec {
    verb: Verb::Ping,
    name: "",
    arity: 0,
    flags: &[],
    categories: &[],
    keys: None,
    summary: "",
    since: "1.0.0",
    group: "",
    complexity: "O(1)",
    arguments: &[],
    subcommands: &[],
};

const READ: Spec = Spec {
    flags: &["readonly", "fast"],
    categories: &["@read", "@string", "@fast"],
    keys: Some(Keys { last: 1, step: 1, access: &["RO", "access"] }),
    group: "string",
    arguments: &[KEY],
    ..BASE
};

const WRITE: Spec = Spec {
    flags: &["write", "denyoom"],
    categories: &["@write", "@string", "@slow"],
    group: "string",
    ..BASE
};

const DELETE: Spec = Spec {
    verb: Verb::Del,
    arity: -2,
    flags: &["write"],
    categories: &["@keyspace", "@write", "@slow"],
    keys: Some(Keys { last: -1, step: 1, access: &["RM", "delete"] }),
    group: "generic",
    complexity: "O(N) where N is the number of keys",
    arguments: &[many(KEY)],
    ..BASE
};

const CONNECTION: Spec = Spec {
    flags: &["noscript", "loading", "stale", "fast"],
    categories: &["@fast", "@connection"],
    group: "connection",
    ..BASE
};

const CLUSTER: Spec = Spec {
    flags: &["loading", "stale", "fast"],
    categories: &["@fast", "@connection"],
    group: "cluster",
    ..BASE
};

const SERVER: Spec =
    Spec { flags: &["loading", "stale", "fast"], categories: &["@fast"], group: "server", ..BASE };

/// The table. The commands that are asked for most stand first.
pub(super) static COMMANDS: &[Spec] = &[
    Spec { verb: Verb::Get, name: "get", arity: 2, summary: "Returns the value of a key.", ..READ },
    Spec {
        verb: Verb::Set,
        name: "set",
        arity: -3,
        keys: Some(Keys { last: 1, step: 1, access: &["OW", "update"] }),
        summary: "Stores a value under a key.",
        arguments: &[KEY, VALUE],
        ..WRITE
    },
    Spec { name: "del", summary: "Removes keys, all at one point of the log.", ..DELETE },
    Spec { name: "unlink", summary: "The same as DEL.", since: "4.0.0", ..DELETE },
    Spec {
        verb: Verb::Exists,
        name: "exists",
        arity: -2,
        categories: &["@keyspace", "@read", "@fast"],
        keys: Some(Keys { last: -1, step: 1, access: &["RO"] }),
        summary: "Counts how many of the keys exist.",
        group: "generic",
        complexity: "O(N) where N is the number of keys",
        arguments: &[many(KEY)],
        ..READ
    },
    Spec {
        verb: Verb::Mget,
        name: "mget",
        arity: -2,
        keys: Some(Keys { last: -1, step: 1, access: &["RO", "access"] }),
        summary: "Returns the values of several keys at one point of the log.",
        complexity: "O(N) where N is the number of keys",
        arguments: &[many(KEY)],
        ..READ
    },
    Spec {
        verb: Verb::Mset,
        name: "mset",
        arity: -3,
        keys: Some(Keys { last: -1, step: 2, access: &["OW", "update"] }),
        summary: "Stores several values atomically.",
        since: "1.0.1",
        complexity: "O(N) where N is the number of keys",
        arguments: &[many(argument("data", Kind::Block(&[KEY, VALUE])))],
        ..WRITE
    },
    Spec {
        verb: Verb::Strlen,
        name: "strlen",
        arity: 2,
        keys: Some(Keys { last: 1, step: 1, access: &["RO"] }),
        summary: "Returns the length of a value in bytes.",
        since: "2.2.0",
        ..READ
    },
    Spec {
        verb: Verb::Type,
        name: "type",
        arity: 2,
        categories: &["@keyspace", "@read", "@fast"],
        keys: Some(Keys { last: 1, step: 1, access: &["RO"] }),
        summary: "Returns 'string', or 'none' for an absent key.",
        group: "generic",
        ..READ
    },
    Spec {
        verb: Verb::Wait,
        name: "wait",
        arity: 3,
        categories: &["@slow", "@connection"],
        summary: "Waits until so many other nodes hold the connection's last write durably.",
        group: "generic",
        since: "3.0.0",
        arguments: &[argument("numreplicas", Kind::Integer), argument("timeout", Kind::Integer)],
        ..BASE
    },
    Spec {
        verb: Verb::Waitaof,
        name: "waitaof",
        arity: 4,
        categories: &["@slow", "@connection"],
        summary: "The same, and whether this node holds it durably.",
        group: "generic",
        since: "7.2.0",
        arguments: &[
            argument("numlocal", Kind::Integer),
            argument("numreplicas", Kind::Integer),
            argument("timeout", Kind::Integer),
        ],
        ..BASE
    },
    Spec {
        verb: Verb::Readonly,
        name: "readonly",
        arity: 1,
        summary: "This node's own state answers the connection's reads, whatever its age.",
        since: "3.0.0",
        ..CLUSTER
    },
    Spec {
        verb: Verb::Readwrite,
        name: "readwrite",
        arity: 1,
        summary: "Undoes READONLY: reads are as the server is configured.",
        since: "3.0.0",
        ..CLUSTER
    },
    Spec {
        verb: Verb::Ping,
        name: "ping",
        arity: -1,
        flags: &["fast"],
        summary: "Answers PONG, or the message.",
        arguments: &[optional(argument("message", Kind::String))],
        ..CONNECTION
    },
    Spec {
        verb: Verb::Echo,
        name: "echo",
        arity: 2,
        summary: "Returns its argument.",
        arguments: &[argument("message", Kind::String)],
        ..CONNECTION
    },
    Spec {
        verb: Verb::Select,
        name: "select",
        arity: 2,
        summary: "Chooses a database; there is only 0.",
        arguments: &[argument("index", Kind::Integer)],
        ..CONNECTION
    },
    Spec {
        verb: Verb::Hello,
        name: "hello",
        arity: -1,
        flags: &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"],
        summary: "Chooses the protocol version and tells about the server.",
        since: "6.0.0",
        arguments: &[optional(argument("arguments", Kind::Block(HELLO_ARGUMENTS)))],
        ..CONNECTION
    },
    Spec {
        verb: Verb::Auth,
        name: "auth",
        arity: -2,
        flags: &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"],
        summary: "Always an error: there are no passwords.",
        arguments: &[
            optional(argument("username", Kind::String)),
            argument("password", Kind::String),
        ],
        ..CONNECTION
    },
    Spec {
        verb: Verb::Quit,
        name: "quit",
        arity: -1,
        flags: &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"],
        summary: "Closes the connection after all replies are sent.",
        ..CONNECTION
    },
    Spec {
        verb: Verb::Reset,
        name: "reset",
        arity: 1,
        flags: &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"],
        summary: "Returns the connection to its first state.",
        since: "6.2.0",
        ..CONNECTION
    },
    Spec {
        verb: Verb::Command,
        name: "command",
        arity: -1,
        flags: &["loading", "stale"],
        categories: &["@slow", "@connection"],
        summary: "Tells about all commands.",
        since: "2.8.13",
        complexity: "O(N) where N is the number of commands",
        subcommands: COMMAND_SUBCOMMANDS,
        ..SERVER
    },
    Spec {
        verb: Verb::Client,
        name: "client",
        arity: -2,
        flags: &[],
        categories: &["@slow"],
        summary: "Commands about connections.",
        since: "2.4.0",
        complexity: "Depends on the subcommand.",
        subcommands: CLIENT_SUBCOMMANDS,
        ..CONNECTION
    },
    Spec {
        verb: Verb::Config,
        name: "config",
        arity: -2,
        flags: &[],
        categories: &["@slow"],
        summary: "Commands about the configuration.",
        since: "2.0.0",
        complexity: "Depends on the subcommand.",
        subcommands: CONFIG_SUBCOMMANDS,
        ..SERVER
    },
    Spec {
        verb: Verb::Info,
        name: "info",
        arity: -1,
        flags: &["loading", "stale"],
        categories: &["@slow", "@dangerous"],
        summary: "Returns the state and the statistics of the server.",
        arguments: &[optional(many(argument("section", Kind::String)))],
        ..SERVER
    },
    Spec {
        verb: Verb::Dbsize,
        name: "dbsize",
        arity: 1,
        flags: &["readonly", "fast"],
        categories: &["@keyspace", "@read", "@fast"],
        summary: "Returns the number of keys.",
        ..SERVER
    },
    Spec {
        verb: Verb::Bgsave,
        name: "bgsave",
        arity: -1,
        flags: &["admin", "noscript", "no_async_loading"],
        categories: &["@admin", "@slow", "@dangerous"],
        summary: "Begins a snapshot of the node.",
        arguments: &[optional(token("SCHEDULE", "schedule", Kind::PureToken))],
        ..SERVER
    },
    Spec {
        verb: Verb::Lastsave,
        name: "lastsave",
        arity: 1,
        categories: &["@admin", "@fast", "@dangerous"],
        summary: "Returns when the last snapshot of the node was finished.",
        ..SERVER
    },
    Spec {
        verb: Verb::Role,
        name: "role",
        arity: 1,
        flags: &["noscript", "loading", "stale", "fast"],
        categories: &["@admin", "@fast", "@dangerous"],
        summary: "Returns the node's role in the cluster.",
        since: "2.8.12",
        ..SERVER
    },
    Spec {
        verb: Verb::Time,
        name: "time",
        arity: 1,
        summary: "Returns the server's clock.",
        since: "2.6.0",
        ..SERVER
    },
];

const HELLO_ARGUMENTS: &[Argument] = &[
    argument("protover", Kind::Integer),
    optional(token(
        "AUTH",
        "auth",
        Kind::Block(&[argument("username", Kind::String), argument("password", Kind::String)]),
    )),
    optional(token("SETNAME", "clientname", Kind::String)),
];

const ABOUT_COMMANDS: Spec =
    Spec { flags: &["loading", "stale"], categories: &["@slow", "@connection"], ..SERVER };

const COMMAND_SUBCOMMANDS: &[Spec] = &[
    Spec {
        verb: Verb::CommandCount,
        name: "command|count",
        arity: 2,
        summary: "Returns the number of commands.",
        since: "2.8.13",
        ..ABOUT_COMMANDS
    },
    Spec {
        verb: Verb::CommandDocs,
        name: "command|docs",
        arity: -2,
        summary: "Returns what a person should know of commands.",
        since: "7.0.0",
        complexity: "O(N) where N is the number of commands",
        arguments: &[NAMES],
        ..ABOUT_COMMANDS
    },
    Spec {
        verb: Verb::CommandInfo,
        name: "command|info",
        arity: -2,
        summary: "Returns what a client should know of commands.",
        since: "2.8.13",
        complexity: "O(N) where N is the number of commands",
        arguments: &[NAMES],
        ..ABOUT_COMMANDS
    },
    Spec {
        verb: Verb::CommandHelp,
        name: "command|help",
        arity: 2,
        summary: "Lists the subcommands.",
        since: "5.0.0",
        ..ABOUT_COMMANDS
    },
];

const ABOUT_CLIENT: Spec = Spec {
    flags: &["noscript", "loading", "stale"],
    categories: &["@slow", "@connection"],
    ..CONNECTION
};

const CLIENT_SUBCOMMANDS: &[Spec] = &[
    Spec {
        verb: Verb::ClientSetname,
        name: "client|setname",
        arity: 3,
        summary: "Names the connection.",
        since: "2.6.9",
        arguments: &[argument("connection-name", Kind::String)],
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientGetname,
        name: "client|getname",
        arity: 2,
        summary: "Returns the connection's name.",
        since: "2.6.9",
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientSetinfo,
        name: "client|setinfo",
        arity: 4,
        summary: "Names the client's library.",
        since: "7.2.0",
        arguments: &[argument(
            "attr",
            Kind::OneOf(&[
                token("LIB-NAME", "libname", Kind::String),
                token("LIB-VER", "libver", Kind::String),
            ]),
        )],
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientId,
        name: "client|id",
        arity: 2,
        summary: "Returns the connection's number.",
        since: "5.0.0",
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientInfo,
        name: "client|info",
        arity: 2,
        summary: "Tells about this connection.",
        since: "6.2.0",
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientList,
        name: "client|list",
        arity: -2,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous", "@connection"],
        summary: "Tells about the RESP connections of the node, one a line.",
        since: "2.4.0",
        complexity: "O(N) where N is the number of connections",
        arguments: &[
            optional(token("TYPE", "client-type", Kind::OneOf(CLIENT_TYPES))),
            optional(token("ID", "client-id", Kind::Block(CLIENT_IDS))),
        ],
        ..ABOUT_CLIENT
    },
    Spec {
        verb: Verb::ClientHelp,
        name: "client|help",
        arity: 2,
        summary: "Lists the subcommands.",
        since: "5.0.0",
        ..ABOUT_CLIENT
    },
];

const CLIENT_TYPES: &[Argument] = &[
    token("NORMAL", "normal", Kind::PureToken),
    token("MASTER", "master", Kind::PureToken),
    token("REPLICA", "replica", Kind::PureToken),
    token("PUBSUB", "pubsub", Kind::PureToken),
];
const CLIENT_IDS: &[Argument] = &[many(argument("client-id", Kind::Integer))];

const CONFIG_SUBCOMMANDS: &[Spec] = &[
    Spec {
        verb: Verb::ConfigGet,
        name: "config|get",
        arity: -3,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous"],
        summary: "Returns the settings whose names match a pattern.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of settings",
        arguments: &[many(argument("parameter", Kind::Pattern))],
        ..SERVER
    },
    Spec {
        verb: Verb::ConfigHelp,
        name: "config|help",
        arity: 2,
        flags: &["loading", "stale"],
        categories: &["@slow"],
        summary: "Lists the subcommands.",
        since: "5.0.0",
        ..SERVER
    },
];
