//! What a data command expects to be answered.

/// How the [`Response`](crate::Response) to one data command is printed. A reactor keeps it beside
/// the request until the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shape {
    /// `OK` (SET, MSET).
    Done,
    /// How many keys were removed (DEL, UNLINK).
    Deleted,
    /// A bulk string, or null (GET).
    Value,
    /// An array of those (MGET).
    Values,
    /// A number; an absent key counts 0 (EXISTS, STRLEN).
    Number,
    /// How many other nodes hold the last write (WAIT).
    Wait,
    /// Whether this node does, as 0 or 1, and how many others do (WAITAOF).
    Waitaof,
    /// The word `string` or `none`, from a number of existing keys (TYPE).
    Type,
}

impl Shape {
    /// Whether the command changes the state, so that its failure can leave its outcome open.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Shape::Done | Shape::Deleted)
    }

    /// Whether the command waits for copies of an earlier write.
    #[must_use]
    pub fn is_wait(self) -> bool {
        matches!(self, Shape::Wait | Shape::Waitaof)
    }
}
