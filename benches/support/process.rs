//! Processes that end with the value that stands for them.

use std::process::{Child, Command};

/// A process that ends with this value.
pub struct Process(pub Child);

impl Process {
    /// Starts it; the error says which program is missing.
    pub fn spawn(command: &mut Command) -> Result<Process, String> {
        let spawned = command.spawn();
        spawned
            .map(Process)
            .map_err(|error| format!("cannot run '{}': {error}", command_line(command)))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and nothing to do about it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As one would type it, but for the place of kvorum.
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| match word.to_string_lossy() {
        word if word.is_empty() => "''".to_owned(),
        word if word.ends_with("/kvorum") => "kvorum".to_owned(),
        word => word.into_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
