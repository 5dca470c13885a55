//! What a person can do about an error of the file system.

use std::io::{Error, ErrorKind};

use rustix::io::Errno;

/// Whether the process or the system has too many files open, so that it is not about the disk.
#[must_use]
pub fn is_out_of_descriptors(error: &Error) -> bool {
    let limits = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| limits.contains(&code))
}

/// The end of a message about `error`: what to do.
#[must_use]
pub fn advice(error: &Error) -> &'static str {
    match error.kind() {
        _ if is_out_of_descriptors(error) => "raise the limit of open files (ulimit -n)",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free disk space",
        ErrorKind::PermissionDenied => "give the user that runs kvorum access to it",
        ErrorKind::ReadOnlyFilesystem => "find out why it is mounted read-only",
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists => "check the path",
        _ => "check the disk",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_error() {
        for (error, expected) in [
            (Errno::MFILE, "ulimit"),
            (Errno::NFILE, "ulimit"),
            (Errno::NOSPC, "free disk space"),
            (Errno::DQUOT, "free disk space"),
            (Errno::ACCESS, "access"),
            (Errno::ROFS, "read-only"),
            (Errno::NOTDIR, "path"),
            (Errno::IO, "check the disk"),
        ] {
            let advice = advice(&error.into());
            assert!(advice.contains(expected), "{error}: {advice}");
        }
    }
}
