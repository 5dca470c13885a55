//! A word to many threads that they should end.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Said at most once.
#[derive(Default)]
pub struct Stop {
    is_said: Mutex<bool>,
    said: Condvar,
}

impl Stop {
    pub fn say(&self) {
        *self.is_said.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.said.notify_all();
    }

    /// Waits for the word, at most so long; answers whether to go on.
    pub fn is_not_said_within(&self, time: Duration) -> bool {
        let is_said = self.is_said.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.said.wait_timeout_while(is_said, time, |is_said| !*is_said);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
