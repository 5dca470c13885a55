//! Members that come and go: the operator who asks for it, and what becomes of connections.
//!
//! A machine that is no member yet starts when it is added; one that was removed is told so by the
//! first who knows, when it calls, and stops for good.

use kvorum::core::{Node, Now, ReplyTo};
use kvorum_protocol::{Change, Member, Role};

use crate::life::Death;
use crate::network::Place;
use crate::node::{Input, id_of};
use crate::queue::{MILLISECOND, SECOND};
use crate::world::{Event, World};

/// The connection of the operator, who looks at the cluster and not at answers.
pub const OPERATOR: u64 = u64::MAX;

/// Logs here are short.
pub const PROMOTION_LAG_MAX: u64 = 20;

impl World {
    /// An operator asks whoever leads, or believes to, for a change; or for two at once.
    pub fn ask_for_change(&mut self, anybody: Place) {
        let leads = |place: &Place| {
            self.machines[*place].process.as_ref().is_some_and(|process| process.core.leads())
        };
        let leaders: Vec<Place> = (0..self.machines.len()).filter(leads).collect();
        let place = match leaders[..] {
            [] => anybody,
            _ => leaders[self.chance.below(leaders.len())],
        };
        let count = self.chance.one_of(&[1, 1, 2]);
        for _ in 0..count {
            let Some(change) = self.some_change(place) else { return };
            self.give(place, Input::Change(change));
        }
    }

    /// A change that may make sense, by the list of the node at a place.
    fn some_change(&mut self, place: Place) -> Option<Change> {
        let core = &self.machines[place].process.as_ref()?.core;
        let list = core.members().clone();
        let is_new =
            |place: &Place| list.get(id_of(*place)).is_none() && !list.is_retired(id_of(*place));
        let new: Vec<Place> = (0..self.machines.len()).filter(is_new).collect();
        let learners: Vec<_> = list.learners().map(|member| member.id).collect();
        let voters: Vec<_> = list.voters().map(|member| member.id).collect();
        let everybody: Vec<_> = list.members().iter().map(|member| member.id).collect();
        let kind = self.chance.weighted(&[(3, 0), (4, 1), (1, 2), (2, 3), (1, 4)]);
        Some(match kind {
            0 if !new.is_empty() => {
                let id = id_of(new[self.chance.below(new.len())]);
                let (client, peer) = (format!("n:{id}"), format!("n:{}", 1000 + id.0));
                Change::Add(Member { id, role: Role::Learner, client, peer })
            }
            1 if !learners.is_empty() => Change::Promote(self.chance.one_of(&learners)),
            2 => Change::Demote(self.chance.one_of(&voters)),
            3 => Change::Remove(self.chance.one_of(&everybody)),
            // The leader, most often.
            _ => Change::Remove(id_of(place)),
        })
    }

    /// The change reaches the node.
    pub fn change_members(&mut self, place: Place, core: &mut Node, now: &Now, change: &Change) {
        // Nobody who knows that a disk is bad asks for voters that can never decide anything.
        if core.members().changed(change).is_ok_and(|list| !self.is_sound(&list, None)) {
            return self.note_node(place, || format!("better not {change}"));
        }
        let to = ReplyTo { connection: OPERATOR, tag: 0 };
        let begun = core.change_members(now, to, change, None, None);
        self.note_node(place, || format!("shall {change}: {begun:?}"));
        if let (Ok(_), Change::Add(member)) = (begun, change) {
            let place = crate::node::place_of(member.id);
            self.machines[place].is_out = false;
            let at = self.now + self.chance.between(0, 1000) * MILLISECOND;
            self.queue.schedule(at, Event::Start(place));
        }
    }

    /// Whether a node knows that another was removed, which is decided then.
    pub fn knows_removed(&self, place: Place, other: Place) -> bool {
        let process = self.machines[place].process.as_ref();
        process.is_some_and(|process| process.core.committed_members().1.is_retired(id_of(other)))
    }

    /// A node looks whether it has connections with members that are none any more. True when it
    /// is none itself.
    pub fn leave_removed(&mut self, place: Place) -> bool {
        let Some(process) = &mut self.machines[place].process else { return false };
        let version = process.core.members_version();
        if version == process.members_version {
            return false;
        }
        let leader = process.core.status().leader;
        if process.core.is_removed() && !process.core.leads() {
            self.dismiss(place);
            return true;
        }
        for other in 0..self.machines.len() {
            if other == place || !self.knows_removed(place, other) {
                continue;
            }
            if leader == Some(id_of(other)) {
                // It has to hand over first.
                return false;
            }
            if self.network.connection(place, other).is_some() {
                self.network.disconnect(place, other);
                self.connect_soon(place, other);
            }
        }
        if let Some(process) = &mut self.machines[place].process {
            process.members_version = version;
        }
        false
    }

    /// A node learns that it was removed, and stops.
    pub fn dismiss(&mut self, place: Place) {
        self.note_node(place, || "was removed".to_owned());
        self.machines[place].is_out = true;
        let died = self.die(place, Death::Process, SECOND);
        died.expect("a process may always die");
    }
}
