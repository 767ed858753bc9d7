//! A batch of hand-overs.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::model::{ControllerId, DeviceId};
use crate::shard::input::{FailBackPolicy, Millis};

/// Busy devices of one batch that are asked again later; others stay until the next batch.
const BUSY_MAX: usize = 4096;
/// How often a busy device is asked again.
const BUSY_TRIES: u32 = 6;
/// How long it is left alone after the first time; twice as long after each other.
const BUSY_PAUSE: Millis = 1000;
/// Fewer that have ended tell nothing of how well it goes.
const RESULTS_MIN: u32 = 20;
/// More are not looked at, so that a batch that has gone well for long stops as soon as another.
const RESULTS_MAX: u32 = 100;

/// Why devices are handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// Home, as the policy says.
    Policy(FailBackPolicy),
    /// Home, as an operator says.
    FailBack,
    /// There, as an operator says.
    Move(ControllerId),
    /// To wherever they may go, as this controller is in maintenance.
    Maintenance,
}

/// Which devices.
#[derive(Debug)]
pub(super) enum Which {
    /// All behind this one.
    All(Option<DeviceId>),
    These(VecDeque<DeviceId>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) why: Why,
    /// Where its devices go, or went last.
    pub(super) target: ControllerId,
    pub(super) which: Which,
    /// All devices have been looked at once.
    pub(super) is_through: bool,
    /// Busy ones, and when they are asked again.
    again: BTreeSet<(Millis, DeviceId)>,
    tries: HashMap<DeviceId, u32>,
    /// Of it, begun and not ended.
    pub(super) in_flight: u32,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// The last results, the newest in the lowest bit; set where it failed.
    results: u128,
    results_count: u32,
    /// Nothing more begins, for this reason.
    pub(super) stopped: Option<String>,
    /// That is since too many failed.
    pub(super) has_failed: bool,
}

impl Job {
    pub(super) fn new(why: Why, target: ControllerId, which: Which) -> Self {
        Self {
            why,
            target,
            which,
            is_through: false,
            again: BTreeSet::new(),
            tries: HashMap::new(),
            in_flight: 0,
            done: 0,
            failed: 0,
            skipped: 0,
            results: 0,
            results_count: 0,
            stopped: None,
            has_failed: false,
        }
    }

    /// One ended.
    pub(super) fn count(&mut self, is_done: bool, failures_max_percent: u8) {
        *if is_done { &mut self.done } else { &mut self.failed } += 1;
        self.results = ((self.results << 1) | u128::from(!is_done)) & ((1 << RESULTS_MAX) - 1);
        self.results_count = (self.results_count + 1).min(RESULTS_MAX);
        let failed = self.results.count_ones();
        if self.results_count >= RESULTS_MIN
            && failed * 100 > u32::from(failures_max_percent) * self.results_count
        {
            self.has_failed |= self.stopped.is_none();
            let of = self.results_count;
            self.stop(&format!("{failed} of the last {of} hand-overs failed"));
        }
    }

    /// A device is busy: it is asked again later, if it has not been for too often.
    pub(super) fn put_off(&mut self, now: Millis, device: DeviceId) {
        let tries = self.tries.get(&device).copied().unwrap_or(0);
        if self.stopped.is_some() || tries >= BUSY_TRIES || self.again.len() >= BUSY_MAX {
            self.tries.remove(&device);
            self.skipped += 1;
            return;
        }
        self.again.insert((now.saturating_add(BUSY_PAUSE << tries), device.clone()));
        self.tries.insert(device, tries + 1);
    }

    /// A busy device whose time to be asked again has come.
    pub(super) fn next_again(&mut self, now: Millis) -> Option<DeviceId> {
        if self.again.first()?.0 > now {
            return None;
        }
        self.again.pop_first().map(|(_, device)| device)
    }

    /// When a busy one is asked again.
    pub(super) fn due(&self) -> Option<Millis> {
        self.again.first().map(|&(at, _)| at)
    }

    /// Nothing more begins.
    pub(super) fn stop(&mut self, why: &str) {
        if self.stopped.is_none() {
            self.stopped = Some(why.to_owned());
            self.skipped += self.again.len() as u64;
            self.again.clear();
        }
    }

    /// A device needs no more looking at.
    pub(super) fn settle(&mut self, device: &DeviceId) {
        self.tries.remove(device);
    }

    /// Nothing is left to begin.
    pub(super) fn is_spent(&self) -> bool {
        self.stopped.is_some() || (self.is_through && self.again.is_empty())
    }
}
