//! How a device behaves.

use std::time::Duration;

use crate::limits::LEASE_MAX;
use crate::shard::Millis;
use crate::wire::Place;

/// Controllers that a device can be given.
pub const CONTROLLERS_MAX: usize = 16;

/// Which hand-overs a device follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOffs {
    /// To controllers that it was given, or that the one which serves it has named as alternates.
    Known,
    /// To any.
    Any,
    /// To none.
    Never,
}

/// Why a policy is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// There is nowhere to go.
    #[error("the device has no controller: give its home, and perhaps backups")]
    NoController,
    /// Too many.
    #[error("the device has {0} controllers: give at most {CONTROLLERS_MAX}")]
    TooMany(usize),
    /// One controller twice.
    #[error("the device has the controller {0} twice: give it once, with all its addresses")]
    Twice(String),
    /// One without addresses.
    #[error("the controller {0} has no address: give at least one HOST:PORT")]
    NoAddress(String),
    /// A number out of bounds.
    #[error("{what} is {value}: give {bounds}")]
    OutOfBounds {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
        /// What it may be.
        bounds: &'static str,
    },
}

/// How a device behaves. One policy may be shared by many devices. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its home, then its backups in the order in which they are tried.
    pub controllers: Vec<Place>,
    /// The first wait before the next controller is tried while some are untried; doubled each
    /// time. What is waited is chosen at random between half of it and all of it. Default: 1 s.
    pub base: Millis,
    /// The same when all have failed. Default: 10 s.
    pub base_all: Millis,
    /// The longest wait, also of those that controllers ask for. Default: 30 min.
    pub cap: Millis,
    /// How long a controller may take to be connected to and to answer. Default: 15 s.
    pub answer_within: Millis,
    /// A controller that says "come again" is waited for up to this, a few times; if it is longer,
    /// the next one is tried. Default: 60 s.
    pub patience: Millis,
    /// Registrations are begun this far apart in the long run, whatever controllers say...
    /// Default: 2 s.
    pub attempt_every: Millis,
    /// ...and so many at once. Default: 8.
    pub attempt_burst: u32,
    /// The first registration is begun within this, at random: for devices that get their power
    /// together. Default: 3 s.
    pub start_within: Millis,
    /// Handshakes are no closer than this, whatever controllers say. Default: 1 s.
    pub handshake_min: Millis,
    /// How long it wants to be kept without a word; zero: the controller's default.
    pub lease: Duration,
    /// Requests under way, at most; others are answered `Busy`. Default: 16.
    pub requests_max: usize,
    /// Which hand-overs it follows. Default: to controllers that it knows.
    pub hand_offs: HandOffs,
}

impl Policy {
    /// The defaults, with these controllers: the home first.
    #[must_use]
    pub fn new(controllers: Vec<Place>) -> Self {
        Self {
            controllers,
            base: 1_000,
            base_all: 10_000,
            cap: 30 * 60_000,
            answer_within: 15_000,
            patience: 60_000,
            attempt_every: 2_000,
            attempt_burst: 8,
            start_within: 3_000,
            handshake_min: 1_000,
            lease: Duration::ZERO,
            requests_max: 16,
            hand_offs: HandOffs::Known,
        }
    }

    /// Whether a device can live by it.
    ///
    /// # Errors
    ///
    /// What is wrong, and what it may be.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.controllers.is_empty() {
            return Err(PolicyError::NoController);
        }
        if self.controllers.len() > CONTROLLERS_MAX {
            return Err(PolicyError::TooMany(self.controllers.len()));
        }
        for (i, place) in self.controllers.iter().enumerate() {
            if place.addrs.is_empty() {
                return Err(PolicyError::NoAddress(place.controller.to_string()));
            }
            if self.controllers[..i].iter().any(|other| other.controller == place.controller) {
                return Err(PolicyError::Twice(place.controller.to_string()));
            }
        }
        let day = 24 * 3_600_000;
        for (what, value) in [
            ("base", self.base),
            ("base_all", self.base_all),
            ("cap", self.cap),
            ("answer_within", self.answer_within),
            ("attempt_every", self.attempt_every),
            ("handshake_min", self.handshake_min),
        ] {
            if !(1..=day).contains(&value) {
                let bounds = "1 ms to a day";
                return Err(PolicyError::OutOfBounds { what, value, bounds });
            }
        }
        for (what, value) in [("patience", self.patience), ("start_within", self.start_within)] {
            if value > day {
                return Err(PolicyError::OutOfBounds { what, value, bounds: "at most a day" });
            }
        }
        if !(1..=1_000).contains(&self.attempt_burst) {
            let value = self.attempt_burst.into();
            return Err(PolicyError::OutOfBounds {
                what: "attempt_burst",
                value,
                bounds: "1 to 1000",
            });
        }
        if !(1..=4_096).contains(&self.requests_max) {
            let value = u64::try_from(self.requests_max).unwrap_or(u64::MAX);
            return Err(PolicyError::OutOfBounds {
                what: "requests_max",
                value,
                bounds: "1 to 4096",
            });
        }
        if self.lease > LEASE_MAX {
            let value = self.lease.as_secs();
            return Err(PolicyError::OutOfBounds {
                what: "lease",
                value,
                bounds: "at most a week",
            });
        }
        Ok(())
    }
}
