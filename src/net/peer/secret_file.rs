//! The file with the cluster's secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kvorum_protocol::peer::{SECRET_BYTES_MIN, Secret};

/// More is no secret but some other file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why there is no secret. Displays as one line.
#[derive(Debug)]
pub struct SecretError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Read(io::Error),
    /// The permissions.
    Exposed(u32),
    Long,
    Short,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Read(error) => write!(f, "{path}: can not read the cluster secret: {error}"),
            Fault::Exposed(mode) => write!(
                f,
                "{path}: everybody on this machine may read or change the cluster secret (mode \
                 {mode:03o}): chmod 600 it"
            ),
            Fault::Long => {
                write!(f, "{path}: a cluster secret has at most {FILE_BYTES_MAX} bytes")
            }
            Fault::Short => write!(
                f,
                "{path}: a cluster secret needs at least {SECRET_BYTES_MIN} bytes: head -c 32 \
                 /dev/urandom | base64 makes a good one"
            ),
        }
    }
}

impl std::error::Error for SecretError {}

/// Reads the secret. White space around it is not part of it.
///
/// # Errors
/// The file can not be read, is open to everybody, or too short.
pub fn read_secret(path: &Path) -> Result<Secret, SecretError> {
    read(path).map_err(|fault| SecretError { path: path.to_owned(), fault })
}

fn read(path: &Path) -> Result<Secret, Fault> {
    let file = File::open(path).map_err(Fault::Read)?;
    let mode = file.metadata().map_err(Fault::Read)?.mode() & 0o777;
    if mode & 0o006 != 0 {
        return Err(Fault::Exposed(mode));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Fault::Read)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Fault::Long);
    }
    Secret::new(bytes.trim_ascii().to_vec()).ok_or(Fault::Short)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_private_and_long_enough() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secret");
        assert!(read_secret(&path).unwrap_err().to_string().contains("can not read"));
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("  correct horse battery staple \n", 0o640);
        read_secret(&path).unwrap();
        write("correct horse battery staple", 0o644);
        assert!(read_secret(&path).unwrap_err().to_string().contains("mode 644"));
        write("   too short          \n\n", 0o600);
        assert!(read_secret(&path).unwrap_err().to_string().contains("at least 16 bytes"));
    }
}
