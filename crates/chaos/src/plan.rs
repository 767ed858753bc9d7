//! Which fault comes when: a list of steps, from a script or from a seed.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::fault::{Direction, Fault, Peer};
use crate::rng::Rng;
use crate::units::{Size, Time};

/// Whose bytes and whose clock a step goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Bytes of all connections together, time since the proxy started. A fault after a number
    /// of bytes hits the connection that carried the last of them; a fault at a time hits all
    /// ([`Target::All`](crate::Target::All)).
    Total,
    /// Every connection for itself: its own bytes, time since it was accepted.
    Each,
    /// One connection, by its number; the first has number 1.
    Conn(u64),
}

/// The moment of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// For every connection in the scope, as soon as it is open.
    Always,
    /// Once, at this time.
    At(Duration),
    /// Again and again, with this much time between; less than 1 ms counts as 1 ms.
    EveryTime(Duration),
    /// Once, exactly when so many bytes have been forwarded, be it inside a message.
    After {
        /// How many.
        bytes: u64,
        /// In which direction; `Both` is the sum of the two.
        direction: Direction,
    },
    /// Again and again, whenever so many more bytes have been forwarded.
    EveryBytes {
        /// How many.
        bytes: NonZeroU64,
        /// In which direction; `Both` is the sum of the two.
        direction: Direction,
    },
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Whose bytes and clock.
    pub scope: Scope,
    /// At which moment.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Total => {}
            Scope::Each => f.write_str("each ")?,
            Scope::Conn(id) => write!(f, "conn {id} ")?,
        }
        let bytes = |f: &mut fmt::Formatter<'_>, word, bytes, direction| {
            write!(f, "{word} {} ", Size(bytes))?;
            match direction {
                Direction::Both => Ok(()),
                one => write!(f, "{one} "),
            }
        };
        match self.when {
            When::Always => f.write_str("always ")?,
            When::At(time) => write!(f, "at {} ", Time(time))?,
            When::EveryTime(time) => write!(f, "every {} ", Time(time))?,
            When::After { bytes: n, direction } => bytes(f, "after", n, direction)?,
            When::EveryBytes { bytes: n, direction } => bytes(f, "every", n.get(), direction)?,
        }
        self.fault.fmt(f)
    }
}

/// The faults that a proxy does by itself. Its text form is a script that
/// [`Plan::parse`](Plan::parse) reads back, so a seeded plan can be kept and edited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In any order; steps of one and the same moment are done in the order of the list.
    pub steps: Vec<Step>,
}

impl Plan {
    /// A plan without faults: the proxy only forwards.
    pub fn none() -> Self {
        Self::default()
    }

    /// `cuts` faults spread over a stream of `total_bytes` (both directions summed, all
    /// connections together), each of which ends a connection: resets, FINs, and half-open
    /// connections of which the client learns. The same arguments give the same plan, everywhere.
    ///
    /// The stream is divided into `cuts` equal parts with one fault at a random byte of each, so
    /// every one of them comes if `total_bytes` are really forwarded. Faults that a TCP stream
    /// never shows (repeated or damaged bytes) are not among them: see [`Plan::seeded_from`].
    pub fn seeded(seed: u64, cuts: usize, total_bytes: u64) -> Self {
        let silent_server = Fault::HalfOpen { left_open: Peer::Server };
        let kinds = [Fault::Reset, Fault::Reset, Fault::Reset, Fault::Fin, silent_server];
        Self::seeded_from(seed, cuts, total_bytes, &kinds)
    }

    /// Like [`Plan::seeded`], with faults drawn from `kinds`; one that is listed twice comes twice
    /// as often. No kinds, no steps.
    pub fn seeded_from(seed: u64, cuts: usize, total_bytes: u64, kinds: &[Fault]) -> Self {
        let mut rng = Rng::new(seed);
        let parts = cuts as u128;
        let edge = |part: u128| (u128::from(total_bytes) * part / parts) as u64;
        let mut steps = Vec::new();
        for part in 0..parts {
            let (from, to) = (edge(part), edge(part + 1));
            let bytes = from + rng.below(to - from);
            let pick = rng.below(kinds.len() as u64) as usize;
            if let Some(fault) = kinds.get(pick) {
                let when = When::After { bytes, direction: Direction::Both };
                steps.push(Step { scope: Scope::Total, when, fault: fault.clone() });
            }
        }
        Self { steps }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(plan: &Plan) -> Vec<u64> {
        let position = |step: &Step| match step.when {
            When::After { bytes, .. } => bytes,
            _ => u64::MAX,
        };
        plan.steps.iter().map(position).collect()
    }

    #[test]
    fn a_seed_gives_the_same_plan_every_time() {
        let plan = Plan::seeded(42, 50, 256 << 20);
        assert_eq!(plan, Plan::seeded(42, 50, 256 << 20));
        assert_ne!(plan, Plan::seeded(43, 50, 256 << 20));
        assert_eq!(Plan::seeded(1, 0, 100), Plan::none());
    }

    #[test]
    fn cuts_are_spread_one_to_each_part() {
        let total = 10_000_000;
        let cuts = positions(&Plan::seeded(7, 50, total));
        assert_eq!(cuts.len(), 50);
        for (part, at) in cuts.iter().enumerate() {
            let part = part as u64;
            assert!((part * total / 50..(part + 1) * total / 50).contains(at), "{part}: {at}");
        }
    }

    #[test]
    fn more_cuts_than_bytes_is_no_error() {
        let cuts = positions(&Plan::seeded(7, 10, 3));
        assert_eq!(cuts.len(), 10);
        assert!(cuts.iter().all(|at| *at < 3));
    }
}
