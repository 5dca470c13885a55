//! The arguments of one command, as ranges of the bytes they were read from.

/// Where the arguments of the command decoded last are: scratch space that a whole reactor can
/// share, because it is only read between one `decode` and the next.
#[derive(Debug, Default)]
pub struct Args {
    /// Start and length of each argument, in `unquoted` or in the decoder's input.
    ranges: Vec<(u32, u32)>,
    /// The words of an inline command, one behind the other, without their quotes.
    unquoted: Vec<u8>,
    /// Whether the ranges are of `unquoted`.
    inline: bool,
}

impl Args {
    /// Empty scratch space; it grows with the largest command seen.
    #[must_use]
    pub fn new() -> Args {
        Args::default()
    }

    /// The arguments, given the same input that the decoder was given.
    ///
    /// # Panics
    /// When `input` is shorter than what the decoder saw.
    #[inline]
    #[must_use]
    pub fn of<'a>(&'a self, input: &'a [u8]) -> Arguments<'a> {
        let bytes = if self.inline { &self.unquoted } else { input };
        Arguments { bytes, ranges: &self.ranges }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.unquoted.clear();
        self.inline = false;
    }

    /// Notes an argument of the input.
    #[inline]
    pub(super) fn push(&mut self, start: usize, length: usize) {
        self.ranges.push((offset(start), offset(length)));
    }

    /// Takes over one word of an inline command, which `write` appends to the buffer it is given.
    pub(super) fn push_word<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.inline = true;
        let start = self.unquoted.len();
        write(&mut self.unquoted)?;
        self.ranges.push((offset(start), offset(self.unquoted.len() - start)));
        Ok(())
    }
}

/// `limits.rs` asserts that no request is longer than a `u32` can say.
#[inline]
fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("requests are bounded far below 4 GiB")
}

/// The arguments of one command, the first being its name.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    ranges: &'a [(u32, u32)],
}

impl<'a> Arguments<'a> {
    /// How many there are, the command's name included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is not even a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The argument at `index`.
    ///
    /// # Panics
    /// When there is none: a command's arity is checked before its arguments are asked for.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &'a [u8] {
        self.slice(self.ranges[index])
    }

    /// The arguments from `first` on.
    ///
    /// # Panics
    /// When there are fewer than `first`.
    #[inline]
    pub fn from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let this = *self;
        self.ranges[first..].iter().map(move |range| this.slice(*range))
    }

    /// The arguments from `first` on, two by two; one that is left over at the end is not given.
    ///
    /// # Panics
    /// When there are fewer than `first`.
    pub fn pairs_from(
        &self,
        first: usize,
    ) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let this = *self;
        self.ranges[first..]
            .as_chunks()
            .0
            .iter()
            .map(move |[key, value]| (this.slice(*key), this.slice(*value)))
    }

    #[inline]
    fn slice(&self, (start, length): (u32, u32)) -> &'a [u8] {
        &self.bytes[start as usize..][..length as usize]
    }
}
