//! Where sessions are kept: each in a place that is its own until it ends, so that a walk over
//! the places meets each once, whatever comes and goes meanwhile.

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use kvorum_protocol::LogIndex;

use super::Session;

/// Where a session is kept. Those that come later may have a lower one: it was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u32);

/// All sessions, by name and by place.
pub(super) struct Table {
    slots: Vec<Option<(LogIndex, Session)>>,
    /// The slots of sessions that have ended.
    free: Vec<Place>,
    places: HashMap<LogIndex, Place, FixedState>,
}

impl Place {
    /// The lowest one.
    pub const FIRST: Place = Place(0);

    /// The one behind it.
    pub fn next(self) -> Place {
        Place(self.0 + 1)
    }
}

impl Table {
    pub fn new() -> Table {
        // The cluster chooses the names, not its clients: no seed is needed.
        let places = HashMap::with_hasher(FixedState::default());
        Table { slots: Vec::new(), free: Vec::new(), places }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes asked of the allocator, without the outcomes.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<(LogIndex, Session)>>()
            + self.free.capacity() * size_of::<Place>()
            + self.places.allocation_size()
    }

    #[inline]
    pub fn place_of(&self, id: LogIndex) -> Option<Place> {
        self.places.get(&id).copied()
    }

    /// The session at a place that [`place_of`](Table::place_of) has named.
    #[inline]
    pub fn at(&self, place: Place) -> &Session {
        &self.slots[place.0 as usize].as_ref().expect("a session is there").1
    }

    #[inline]
    pub fn at_mut(&mut self, place: Place) -> &mut Session {
        &mut self.slots[place.0 as usize].as_mut().expect("a session is there").1
    }

    /// What is kept at any place before the [`end`](Table::end).
    pub fn get(&self, place: Place) -> Option<&(LogIndex, Session)> {
        self.slots[place.0 as usize].as_ref()
    }

    /// Behind the last place that was ever used.
    pub fn end(&self) -> Place {
        place(self.slots.len())
    }

    pub fn iter(&self) -> impl Iterator<Item = (LogIndex, &Session)> {
        self.slots.iter().flatten().map(|(id, session)| (*id, session))
    }

    /// # Panics
    /// When there is one of that name.
    pub fn insert(&mut self, id: LogIndex, session: Session) {
        let slot = Some((id, session));
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place.0 as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                place(self.slots.len() - 1)
            }
        };
        let before = self.places.insert(id, place);
        assert!(before.is_none(), "session {id} was there");
    }

    /// Takes the session out that is kept at `place`.
    pub fn remove(&mut self, place: Place) -> (LogIndex, Session) {
        let (id, session) = self.slots[place.0 as usize].take().expect("a session is there");
        self.places.remove(&id);
        self.free.push(place);
        (id, session)
    }
}

fn place(at: usize) -> Place {
    Place(u32::try_from(at).expect("bounded by SESSIONS_MAX"))
}
