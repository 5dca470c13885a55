//! What a refusal means for a request: the rules that every way of asking shares.

use kvorum_protocol::ErrorCode;

/// What the error code of a server says about sending the request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not applied; another server may know who leads.
    NoLeader,
    /// Not applied; the same server will take it soon.
    Busy,
    /// A write may have been applied, or may yet be.
    Open {
        /// The server leads no longer.
        leads_not: bool,
    },
    /// Not applied; nor will any other write of its session be.
    SessionOver,
    /// Not applied; asking again would not help.
    Final,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        match code {
            ErrorCode::NoLeader => Refusal::NoLeader,
            ErrorCode::Busy => Refusal::Busy,
            ErrorCode::QuorumTimeout => Refusal::Open { leads_not: false },
            ErrorCode::LeaderChanged => Refusal::Open { leads_not: true },
            ErrorCode::SessionExpired => Refusal::SessionOver,
            ErrorCode::UnknownCommand
            | ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::MemoryLimit
            | ErrorCode::DiskFull => Refusal::Final,
        }
    }
}
