//! What a power cut leaves of what was not synced.

use rand::RngExt;
use rand::rngs::StdRng;

/// What a power cut does to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is gone.
    All,
    /// All of it is there.
    Nothing,
    /// Each write and each directory operation is there or not.
    Some,
    /// Each sector of each write, and each directory operation, is there or not.
    Torn,
    /// The first writes to a file are there, one is torn, and all behind it is gone, as with a
    /// device that keeps the order. So with the directory operations.
    Tail,
}

impl Loss {
    pub const EACH: [Loss; 5] = [Loss::All, Loss::Nothing, Loss::Some, Loss::Torn, Loss::Tail];
}

/// Which of a sequence of operations survive a power cut.
pub struct Keep {
    loss: Loss,
    /// The last one that survives with [`Loss::Tail`], perhaps in part.
    last: Option<usize>,
}

impl Keep {
    pub fn new(loss: Loss, count: usize, rng: &mut StdRng) -> Keep {
        let last = (loss == Loss::Tail && count > 0).then(|| rng.random_range(0..count));
        Keep { loss, last }
    }

    pub fn is_last(&self, number: usize) -> bool {
        self.last == Some(number)
    }

    pub fn keeps(&self, number: usize, rng: &mut StdRng) -> bool {
        match self.loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Some | Loss::Torn => rng.random_bool(0.5),
            Loss::Tail => self.last.is_some_and(|last| number <= last),
        }
    }
}
