//! What a node keeps for one RESP connection.

use super::encode::Version;
use crate::limits::RESP_NAME_BYTES_MAX;

/// The state of one RESP connection; two words until the client names itself.
#[derive(Debug, Default)]
pub struct Session {
    version: Version,
    read_only: bool,
    names: Option<Box<Names>>,
}

/// Each is empty until it is set.
#[derive(Debug, Default)]
struct Names {
    connection: Box<str>,
    library: Box<str>,
    library_version: Box<str>,
}

/// Which of a session's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Connection,
    Library,
    LibraryVersion,
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameError {
    /// Only printable ASCII without spaces, so that `CLIENT LIST` stays one line a connection.
    SpecialCharacters,
    /// Over [`RESP_NAME_BYTES_MAX`].
    TooLong,
}

impl Session {
    /// The protocol version that replies are printed in.
    #[inline]
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Whether `READONLY` is in force: this node's own state answers reads, whatever its age.
    #[inline]
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// What `CLIENT SETNAME` has set; empty before that.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name_of(Name::Connection)
    }

    pub(super) fn name_of(&self, which: Name) -> &str {
        self.names.as_deref().map_or("", |names| match which {
            Name::Connection => &names.connection,
            Name::Library => &names.library,
            Name::LibraryVersion => &names.library_version,
        })
    }

    /// An empty name removes it.
    pub(super) fn set_name(&mut self, which: Name, name: &str) {
        let names = self.names.get_or_insert_default();
        let place = match which {
            Name::Connection => &mut names.connection,
            Name::Library => &mut names.library,
            Name::LibraryVersion => &mut names.library_version,
        };
        *place = name.into();
    }

    /// `RESET`: back to RESP2, no name, `READWRITE`. What the library said of itself stays, as in
    /// Redis.
    pub(super) fn reset(&mut self) {
        self.version = Version::Resp2;
        self.read_only = false;
        if self.names.is_some() {
            self.set_name(Name::Connection, "");
        }
    }
}

/// Checks a name that a client gives itself.
pub(super) fn check_name(name: &[u8]) -> Result<&str, NameError> {
    if name.len() > RESP_NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    match std::str::from_utf8(name) {
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(name),
        _ => Err(NameError::SpecialCharacters),
    }
}
