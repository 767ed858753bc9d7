//! Where the demo cuts: a plan for the proxy, the first step for plain TCP, the others for the
//! session.

use eversock_chaos::{Direction, Fault, Peer, Plan, Scope, Step, When};

use super::content::Random;

/// Fewer bytes between two cuts are mostly handshakes.
pub(crate) const SPACING_MIN_BYTES: u64 = 64 << 10;

/// What plain TCP cannot survive need not take long.
const CONTROL_BYTES_MAX: u64 = 64 << 20;

/// A plan that cuts at one random byte in each of `cuts` equal parts of `total_bytes`. The control
/// connection comes first and is reset at the byte at which the session will be cut first, or
/// sooner ([`CONTROL_BYTES_MAX`]); the session's steps count on from there.
///
/// What a session forwards is more than its payload, so every step comes before the payload is
/// through.
pub(crate) fn plan(seed: u64, cuts: usize, total_bytes: u64) -> Plan {
    // The dice of the cuts are not those of the content.
    let mut random = Random::new(!seed);
    let parts = cuts as u64;
    let Some(part) = total_bytes.checked_div(parts) else { return Plan::none() };
    // A margin keeps cuts off each other and off the first handshake.
    let margin = part / 8;
    let places: Vec<u64> = (0..parts)
        .map(|index| index * part + margin + random.below((part - 2 * margin).max(1)))
        .collect();
    let first = places[0].min(CONTROL_BYTES_MAX);
    let mut steps = vec![step(first, Fault::Reset)];
    for place in places {
        let fault = match random.below(5) {
            0..3 => Fault::Reset,
            3 => Fault::Fin,
            // The client learns of it and the server does not.
            _ => Fault::HalfOpen { left_open: Peer::Server },
        };
        steps.push(step(first + place, fault));
    }
    Plan { steps }
}

fn step(bytes: u64, fault: Fault) -> Step {
    let when = When::After { bytes, direction: Direction::Both };
    Step { scope: Scope::Total, when, fault }
}

/// Whether a fault ends a connection.
pub(crate) fn is_cut(fault: &Fault) -> bool {
    matches!(fault, Fault::Reset | Fault::Fin | Fault::HalfOpen { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_cut_in_each_part_after_that_of_the_control() {
        let total = 50 * SPACING_MIN_BYTES;
        let places: Vec<u64> = plan(3, 50, total)
            .steps
            .iter()
            .map(|step| match step.when {
                When::After { bytes, .. } => bytes,
                _ => unreachable!("all steps are at bytes"),
            })
            .collect();
        assert_eq!(places.len(), 51);
        for (index, place) in places[1..].iter().enumerate() {
            let part = index as u64 * SPACING_MIN_BYTES;
            let own = place - places[0];
            assert!((part + 1..part + SPACING_MIN_BYTES).contains(&own), "{index}: {own}");
        }
    }

    #[test]
    fn no_cuts_are_no_steps() {
        assert_eq!(plan(3, 0, 1 << 20), Plan::none());
    }

    #[test]
    fn a_seed_gives_the_same_plan() {
        assert_eq!(plan(3, 9, 1 << 20), plan(3, 9, 1 << 20));
        assert_ne!(plan(3, 9, 1 << 20), plan(4, 9, 1 << 20));
    }
}
