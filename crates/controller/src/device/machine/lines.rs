//! The connections that a device uses: at most the one of whoever serves it, that of an attempt to
//! register, and those by which answers are still to be given.

use super::{Machine, Output};
use crate::limits::{ADDRS_MAX, ALTERNATES_MAX};
use crate::model::ControllerId;
use crate::wire::Place;

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) controller: ControllerId,
    pub(super) up: Up,
}

/// Whether it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Up {
    /// It is asked for.
    Soon,
    /// It stands.
    Yes,
}

impl Machine {
    pub(super) fn line(&self, controller: &ControllerId) -> Option<Up> {
        self.lines.iter().find(|line| line.controller == *controller).map(|line| line.up)
    }

    /// Asks for a connection, if there is none.
    pub(super) fn open(&mut self, place: Place, out: &mut Vec<Output>) {
        if self.line(&place.controller).is_none() {
            self.lines.push(Line { controller: place.controller.clone(), up: Up::Soon });
            out.push(Output::Open(place));
        }
    }

    pub(super) fn set_up(&mut self, controller: &ControllerId) -> bool {
        let mut lines = self.lines.iter_mut();
        let found = lines.find(|line| line.controller == *controller && line.up == Up::Soon);
        found.map(|line| line.up = Up::Yes).is_some()
    }

    /// Forgets a connection; false if there was none.
    pub(super) fn drop_line(&mut self, controller: &ControllerId) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| line.controller != *controller);
        self.underway.retain(|underway| underway.from != *controller);
        self.lines.len() < before
    }

    /// Leaves the connections that nothing needs any more.
    pub(super) fn leave_unused(&mut self, out: &mut Vec<Output>) {
        let (serving, attempt) = (&self.serving, &self.attempt);
        let (seek, underway) = (&self.seek, &self.underway);
        self.lines.retain(|Line { controller, .. }| {
            let is_used = serving.as_ref().is_some_and(|serving| serving.controller == *controller)
                || attempt.as_ref().is_some_and(|attempt| attempt.controller == *controller)
                || seek.as_ref().is_some_and(|seek| seek.first.as_ref() == Some(controller))
                || underway.iter().any(|underway| underway.from == *controller);
            if !is_used {
                out.push(Output::Leave(controller.clone()));
            }
            is_used
        });
    }

    /// Where a controller is: as the policy says, then as others have said.
    pub(super) fn place(&self, controller: &ControllerId) -> Option<Place> {
        let is_it = |place: &&Place| place.controller == *controller;
        let known = self.policy.controllers.iter().find(is_it);
        let told = self.alternates.iter().find(is_it);
        let mut place = known.or(told)?.clone();
        for addr in told.iter().flat_map(|told| &told.addrs) {
            if !place.addrs.contains(addr) {
                place.addrs.push(*addr);
            }
        }
        Some(place)
    }

    /// Takes over what a controller that has registered it says of others, in the place of what the
    /// one before said. It stays known itself.
    pub(super) fn learn(&mut self, mut places: Vec<Place>, serving: &ControllerId) {
        places.truncate(ALTERNATES_MAX);
        if !places.iter().any(|place| place.controller == *serving) {
            // At the front: the last one makes room for a target of a hand-over.
            let known = self.alternates.iter().find(|place| place.controller == *serving);
            places.splice(0..0, known.cloned());
        }
        for i in (0..places.len()).rev() {
            places[i].addrs.truncate(ADDRS_MAX);
            let (before, rest) = places.split_at(i);
            let known = self.policy.controllers.iter().chain(before);
            let is_known = known
                .filter(|known| known.controller == rest[0].controller)
                .any(|known| rest[0].addrs.iter().all(|addr| known.addrs.contains(addr)));
            // Of those with one name the first counts.
            let is_twice = before.iter().any(|place| place.controller == rest[0].controller);
            if is_known || is_twice || rest[0].addrs.is_empty() {
                places.remove(i);
            }
        }
        places.shrink_to_fit();
        self.alternates = places;
    }

    /// Adds one that the controller in charge has named.
    pub(super) fn learn_one(&mut self, mut place: Place) {
        place.addrs.truncate(ADDRS_MAX);
        match self.alternates.iter_mut().find(|known| known.controller == place.controller) {
            Some(known) => {
                // The newest first; the others may still be right.
                let old = std::mem::take(&mut known.addrs);
                place.addrs.extend(
                    old.into_iter().filter(|addr| !place.addrs.contains(addr)).collect::<Vec<_>>(),
                );
                place.addrs.truncate(ADDRS_MAX);
                known.addrs = place.addrs;
            }
            None => {
                // One more than a controller can name, so that there is room for it.
                self.alternates.truncate(ALTERNATES_MAX);
                self.alternates.push(place);
            }
        }
    }

    /// Whom to try, best first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &ControllerId> {
        let given = &self.policy.controllers;
        let more = self
            .alternates
            .iter()
            .filter(|place| !given.iter().any(|known| known.controller == place.controller));
        given.iter().chain(more).map(|place| &place.controller)
    }
}
