//! Bugs that other systems had, to be switched on one at a time: the simulator has to find each
//! of them, or it would not find ours. Without the feature `seeded-bugs`, which only tests
//! enable, none of this is compiled in.

use kvorum_protocol::NodeId;

/// The node that has a bug which the others do not have.
pub const ODD_NODE: NodeId = NodeId(2);

/// One known way to get it wrong. The letters are those of the reliability checklist's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A vote leaves before it is durable.
    VoteBeforeDurable,
    /// A candidate counts its own vote before it is durable.
    OwnVoteBeforeDurable,
    /// A term is adopted without a record of it.
    TermNotPersisted,
    /// A second candidate of a term gets a vote too.
    VotesTwice,
    /// Candidates' logs are compared by length alone.
    LongerLogWins,
    /// A leader counts its own entries before its sync.
    CountsOwnUnsynced,
    /// A follower reports what it has received as durable.
    AcksBeforeDurable,
    /// A leader commits entries of earlier terms by counting.
    CommitsOldTerm,
    /// The commit index is what one voter has, not what a majority has.
    CommitsWithoutQuorum,
    /// Learners count for commit.
    LearnersCount,
    /// A short or late Append cuts off what stands behind it.
    TruncatesBehindAppend,
    /// Acknowledgements of an earlier term count.
    CountsStaleAcks,
    /// A follower commits what the leader has committed, though its own entries may differ.
    CommitsUnmatched,
    /// After a truncation the durable mark still covers the entries that were cut.
    DurableMarkSurvivesTruncation,
    /// A follower does not look whether the entry before an Append is its own.
    SkipsLogCheck,
    /// A new leader answers reads before an entry of its term is committed.
    ReadsBeforeNoop,
    /// A leader answers reads without asking whether it still is one.
    ReadsWithoutRound,
    /// Reads of an earlier leadership are confirmed by rounds of a later one.
    ReadsSurviveLeadership,
    /// A follower answers a read without waiting for the index that the leader has named.
    FollowerReadsAtOnce,
    /// A read with R = k hears one voter less.
    ReadsOneVoterLess,
    /// Waiting writes are not told that leadership is lost, and fire for another leader's entries.
    WaitersSurviveLeadership,
    /// A timeout is reported as a refusal.
    TimeoutMeansRefused,
    /// After a restart the whole log is applied, decided or not.
    RecoveryAppliesAll,
    /// W = N answers when a majority has the write.
    AnswersAtMajority,
    /// A write that is refused because another node leads is in the log nevertheless.
    RefusedButLogged,
    /// A follower takes what it may have no room for, and its votes have to wait behind that.
    TakesBeyondRoom,
    /// A write that was applied is applied again when it is sent again.
    RetryRunsAgain,
    /// Only the leader remembers what its clients were told.
    SessionsOnlyAtLeader,
    /// After a restart nobody has a session.
    SessionsLostAtRestart,
    /// A write of a session that is over is applied as if it had none.
    ExpiredSessionWrites,
    /// A write that its session's window has left behind is applied as if it were new.
    TooOldRunsAgain,
    /// A write that is sent again is told the version of its second entry.
    RetryTellsItself,
    /// A write of a session with W below a majority is answered before it is committed.
    SessionAnswersBeforeCommit,
    /// One node does not apply DELETEs.
    DeleteSkipped,
    /// One node stores values with the version of another entry.
    VersionOff,
    /// The members are changed before the last change of them is committed.
    TwoChangesInFlight,
    /// A leader changes the members before it has committed an entry of its own term.
    ChangeBeforeOwnTerm,
    /// A member list counts only when it is committed.
    ListInForceAtCommit,
    /// A list stays in force though its entry was taken back.
    TruncatedListStays,
    /// A learner is promoted that lacks most of the log.
    PromotesBlank,
    /// A leader that is no voter any more counts itself.
    RemovedLeaderCounts,
    /// A snapshot lacks what was changed before the walk came to it.
    SnapshotMissesPreImage,
    /// A snapshot has no sessions.
    SnapshotLosesSessions,
    /// A snapshot has sessions as they are when the walk comes to them, not as they were.
    SnapshotOfUsedSessions,
    /// A snapshot says that it goes to the end of the log, which is not applied yet.
    SnapshotOfLaterIndex,
    /// The log is given up to what is committed, not to what snapshots cover.
    CompactsBeyondSnapshot,
    /// When a snapshot takes the place of a log, the vote that stands in that is void too.
    VoteLostAtInstall,
    /// The state of a snapshot that comes late takes the place of a newer one.
    LateSnapshotReplacesState,
    /// Who installs a snapshot goes on with the members that it knew.
    InstallKeepsMembers,
    /// A node whose log was cut votes as one whose log never went further.
    RepairForgetsFormerEnd,
    /// A node whose log was cut forgets the vote that stood in what was damaged.
    RepairForgetsVote,
    /// A node whose log was cut stands for election before it has got back what it lacks.
    RepairedNodeStands,
}

impl Bug {
    /// Every one.
    pub const ALL: [Bug; 52] = [
        Bug::VoteBeforeDurable,
        Bug::OwnVoteBeforeDurable,
        Bug::TermNotPersisted,
        Bug::VotesTwice,
        Bug::LongerLogWins,
        Bug::CountsOwnUnsynced,
        Bug::AcksBeforeDurable,
        Bug::CommitsOldTerm,
        Bug::CommitsWithoutQuorum,
        Bug::LearnersCount,
        Bug::TruncatesBehindAppend,
        Bug::CountsStaleAcks,
        Bug::CommitsUnmatched,
        Bug::DurableMarkSurvivesTruncation,
        Bug::SkipsLogCheck,
        Bug::ReadsBeforeNoop,
        Bug::ReadsWithoutRound,
        Bug::ReadsSurviveLeadership,
        Bug::FollowerReadsAtOnce,
        Bug::ReadsOneVoterLess,
        Bug::WaitersSurviveLeadership,
        Bug::TimeoutMeansRefused,
        Bug::RecoveryAppliesAll,
        Bug::AnswersAtMajority,
        Bug::RefusedButLogged,
        Bug::TakesBeyondRoom,
        Bug::RetryRunsAgain,
        Bug::SessionsOnlyAtLeader,
        Bug::SessionsLostAtRestart,
        Bug::ExpiredSessionWrites,
        Bug::TooOldRunsAgain,
        Bug::RetryTellsItself,
        Bug::SessionAnswersBeforeCommit,
        Bug::DeleteSkipped,
        Bug::VersionOff,
        Bug::TwoChangesInFlight,
        Bug::ChangeBeforeOwnTerm,
        Bug::ListInForceAtCommit,
        Bug::TruncatedListStays,
        Bug::PromotesBlank,
        Bug::RemovedLeaderCounts,
        Bug::SnapshotMissesPreImage,
        Bug::SnapshotLosesSessions,
        Bug::SnapshotOfUsedSessions,
        Bug::SnapshotOfLaterIndex,
        Bug::CompactsBeyondSnapshot,
        Bug::VoteLostAtInstall,
        Bug::LateSnapshotReplacesState,
        Bug::InstallKeepsMembers,
        Bug::RepairForgetsFormerEnd,
        Bug::RepairForgetsVote,
        Bug::RepairedNodeStands,
    ];

    /// Whether it is a bug of one node, [`ODD_NODE`], and not of all.
    #[must_use]
    pub fn is_of_one_node(self) -> bool {
        matches!(self, Bug::DeleteSkipped | Bug::VersionOff)
    }
}
