//! Commands that are refused before anything is done, in the words of Redis.

use super::args::Arguments;
use super::encode::Reply;
use super::session::NameError;
use crate::error::DecodeError;
use crate::limits::RESP_NAME_BYTES_MAX;

/// Redis shows at most so much of an unknown command and of its arguments.
const QUOTED_BYTES_MAX: usize = 128;

/// Why a command is refused. The connection goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refusal<'a> {
    /// No command has this name.
    UnknownCommand(Arguments<'a>),
    /// The command (in upper case) has no such subcommand.
    UnknownSubcommand { subcommand: &'a [u8], command: &'static str },
    /// Too few or too many arguments for this command (`get`, `client|id`).
    WrongArity(&'static str),
    /// Words that this command does not know.
    Syntax,
    /// An option of SET that Redis has and this version does not.
    SetOption(&'a [u8]),
    /// A key, value or request is over its limit.
    OverLimit(DecodeError),
    /// SELECT's or WAIT's argument is no number.
    NotAnInteger,
    /// WAITAOF's numlocal is neither 0 nor 1.
    NotZeroOrOne,
    /// WAIT's timeout is no number of milliseconds.
    Timeout,
    /// SELECT of anything but 0.
    DbIndex,
    /// HELLO's version is no number.
    ProtocolVersion,
    /// HELLO with a version other than 2 and 3.
    NoProtocol,
    /// A word behind HELLO's version that is no complete option.
    HelloOption(&'a [u8]),
    /// AUTH, and there is no password to compare with.
    NoPassword,
    /// AUTH as a user that does not exist.
    WrongPassword,
    /// CLIENT SETNAME or SETINFO; `what` is "Client names" or the attribute.
    Name { what: &'a str, error: NameError },
    /// CLIENT SETINFO of something else.
    ClientAttribute(&'a [u8]),
    /// CLIENT LIST of another type.
    ClientType(&'a [u8]),
    /// CLIENT LIST ID of no number.
    ClientId,
    /// BGSAVE while a snapshot is being made.
    SaveInProgress,
}

impl Refusal<'_> {
    /// Appends the error reply.
    #[cold]
    pub(super) fn write(&self, reply: &mut Reply<'_>) {
        reply.error(&self.text());
    }

    fn text(&self) -> Vec<u8> {
        match *self {
            Refusal::UnknownCommand(args) => unknown_command(args),
            Refusal::UnknownSubcommand { subcommand, command } => quote(
                "ERR unknown subcommand '",
                subcommand,
                &format!("'. Try {} HELP.", command.to_ascii_uppercase()),
            ),
            Refusal::WrongArity(name) => {
                format!("ERR wrong number of arguments for '{name}' command").into()
            }
            Refusal::Syntax => b"ERR syntax error".into(),
            Refusal::SetOption(option) => {
                quote("ERR syntax error, SET option '", option, "' is not supported yet")
            }
            Refusal::OverLimit(error) => format!("ERR {error}").into(),
            Refusal::NotAnInteger => b"ERR value is not an integer or out of range".into(),
            Refusal::NotZeroOrOne => b"ERR value is out of range, must be between 0 and 1".into(),
            Refusal::Timeout => b"ERR timeout is not an integer or out of range".into(),
            Refusal::DbIndex => b"ERR DB index is out of range".into(),
            Refusal::ProtocolVersion => {
                b"ERR Protocol version is not an integer or out of range".into()
            }
            Refusal::NoProtocol => b"NOPROTO unsupported protocol version".into(),
            Refusal::HelloOption(option) => {
                quote("ERR Syntax error in HELLO option '", option, "'")
            }
            Refusal::NoPassword => b"ERR AUTH <password> called without any password configured \
                for the default user. Are you sure your configuration is correct?"
                .into(),
            Refusal::WrongPassword => {
                b"WRONGPASS invalid username-password pair or user is disabled.".into()
            }
            Refusal::Name { what, error: NameError::SpecialCharacters } => {
                format!("ERR {what} cannot contain spaces, newlines or special characters.").into()
            }
            Refusal::Name { what, error: NameError::TooLong } => {
                format!("ERR {what} cannot be longer than {RESP_NAME_BYTES_MAX} bytes.").into()
            }
            Refusal::ClientAttribute(attribute) => {
                quote("ERR Unrecognized option '", attribute, "'")
            }
            Refusal::ClientType(word) => quote("ERR Unknown client type '", word, "'"),
            Refusal::ClientId => b"ERR Invalid client ID".into(),
            Refusal::SaveInProgress => b"ERR Background save already in progress".into(),
        }
    }
}

fn quote(before: &str, word: &[u8], behind: &str) -> Vec<u8> {
    let word = &word[..word.len().min(QUOTED_BYTES_MAX)];
    [before.as_bytes(), word, behind.as_bytes()].concat()
}

fn unknown_command(args: Arguments<'_>) -> Vec<u8> {
    let mut text = quote("ERR unknown command '", args.get(0), "', with args beginning with: ");
    let mut shown = 0;
    for arg in args.from(1) {
        if shown >= QUOTED_BYTES_MAX {
            break;
        }
        let arg = &arg[..arg.len().min(QUOTED_BYTES_MAX - shown)];
        text.push(b'\'');
        text.extend_from_slice(arg);
        text.extend_from_slice(b"' ");
        shown += arg.len() + 3;
    }
    text
}
