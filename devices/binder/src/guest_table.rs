//! The guests of a domain, found by id. There are few, and they are asked for at every step of a message: a
//! look along a short list is the fastest way, and most often the first one is the only one.

use serde::{Deserialize, Serialize};

use crate::check::{Inconsistent, holds};
use crate::domain::Guest;
use crate::ids::GuestId;

/// Guests by ascending id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GuestTable(Vec<(GuestId, Guest)>);

impl GuestTable {
    /// Adds a guest, if it is not there.
    pub(crate) fn attach(&mut self, id: GuestId) {
        if let Err(place) = self.0.binary_search_by_key(&id, |(id, _)| *id) {
            self.0.insert(place, (id, Guest::default()));
        }
    }

    fn find(&self, id: &GuestId) -> Option<usize> {
        let is_it = |(found, _): &(GuestId, Guest)| found == id;
        if self.0.first().is_some_and(is_it) { Some(0) } else { self.0.iter().position(is_it) }
    }

    pub(crate) fn get(&self, id: &GuestId) -> Option<&Guest> {
        self.0.get(self.find(id)?).map(|(_, guest)| guest)
    }

    pub(crate) fn get_mut(&mut self, id: &GuestId) -> Option<&mut Guest> {
        let place = self.find(id)?;
        self.0.get_mut(place).map(|(_, guest)| guest)
    }

    pub(crate) fn contains_key(&self, id: &GuestId) -> bool {
        self.get(id).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&GuestId, &Guest)> {
        self.0.iter().map(|(id, guest)| (id, guest))
    }

    /// Each guest is there once.
    pub(crate) fn check(&self) -> Result<(), Inconsistent> {
        holds(self.0.is_sorted_by(|(one, _), (other, _)| one < other), "a guest is there twice")
    }
}
