//! What may leave a node: nothing that a crash could make untrue (Raft paper, figure 2: "updated on
//! stable storage before responding").

use kvorum::core::log::EntryId;
use kvorum_protocol::peer::Message;
use kvorum_protocol::{LogIndex, Term};

use super::elections::is_of_no_term;
use super::{Checked, ensure};
use crate::image::LogImage;
use crate::network::Place;

/// The term, the vote and the entries that a message vouches for are on the sender's disk.
pub fn is_backed_by_the_disk(
    from: Place,
    to: Place,
    message: &Message,
    sealed: &LogImage,
    durable: &LogImage,
) -> Checked {
    let term = message.term();
    let has_term = is_of_no_term(message) || term <= durable.term;
    ensure(has_term, "no term leaves before it is durable", || {
        format!("n{} says {message:?}, and its disk has term {}", from + 1, durable.term)
    })?;
    match *message {
        Message::VoteReply { term, granted: true } => {
            let vote = durable.voted_for.map(|id| usize::from(id.0) - 1);
            let has_vote = term < durable.term || vote == Some(to);
            ensure(has_vote, "no vote leaves before it is durable", || {
                format!("n{} votes for n{}, and its disk has {vote:?}", from + 1, to + 1)
            })
        }
        Message::Ack { matched, durable: claimed, .. } => {
            let holds = holds_durably(sealed, durable, claimed) && matched <= sealed.end();
            ensure(holds && claimed <= matched, "no acknowledgement before it is durable", || {
                let ends = (sealed.end(), durable.end());
                format!("n{} says {message:?}, and its log and disk end at {ends:?}", from + 1)
            })
        }
        Message::DurableReply { last, last_term, .. } => {
            let found = durable.batch_at(last).map_or(Term(0), |batch| batch.header().term);
            let claimed = EntryId { term: last_term, index: last };
            let is_former = claimed == durable.former_end && durable.last() < claimed;
            ensure(
                found == last_term || is_former,
                "no acknowledgement before it is durable",
                || {
                    format!(
                        "n{} says {message:?}, and its disk ends at {}",
                        from + 1,
                        durable.end()
                    )
                },
            )
        }
        _ => Ok(()),
    }
}

fn holds_durably(sealed: &LogImage, durable: &LogImage, index: LogIndex) -> bool {
    index == LogIndex(0)
        || sealed.batch_at(index).is_some_and(|batch| durable.holds(batch.header()))
}

/// What a follower says to match the leader's log does.
pub fn acknowledges_the_leaders_entries(
    from: Place,
    matched: LogIndex,
    follower: &LogImage,
    leader: &LogImage,
) -> Checked {
    let of = |log: &LogImage| log.batch_at(matched).map(|batch| *batch.header());
    ensure(of(follower) == of(leader), "acknowledged entries are the leader's", || {
        format!("n{} at index {matched}: {:?}, {:?}", from + 1, of(follower), of(leader))
    })
}
