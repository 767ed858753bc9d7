//! What a partition promises its devices, and how they go home.

use std::time::Duration;

use super::table::{Table, number, text, time};
use crate::limits::{LEASE_MAX, LEASE_MIN};
use crate::shard::input::{FailBackPolicy, Pace};

/// How a partition behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a device is kept without a word of it.
    pub lease: Duration,
    /// How often devices should shake hands.
    pub handshake: Duration,
    /// How many handshakes without an answer make a fault.
    pub misses: u8,
    /// When devices that are guests here go home.
    pub fail_back: FailBackPolicy,
    /// The pace of all hand-overs.
    pub pace: Pace,
    /// Ends of registrations are kept at least so long.
    pub keep_ends: Duration,
    /// A partner that lacks more records than this gets a snapshot.
    pub snapshot_from: u64,
    /// Devices of this partition that may be registered here, at most.
    pub devices_max: usize,
    /// Requests under way, at most.
    pub requests_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(120),
            handshake: Duration::from_secs(20),
            misses: 3,
            fail_back: FailBackPolicy::Manual,
            pace: Pace {
                per_second: 50,
                in_flight_max: 200,
                deadline: 30_000,
                failures_max_percent: 5,
            },
            keep_ends: Duration::from_secs(24 * 3600),
            snapshot_from: 100_000,
            devices_max: 1_000_000,
            requests_max: 10_000,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MS: Duration = Duration::from_millis(1);

impl Policy {
    /// What the table says, and the rest as it is in `usual`.
    pub(super) fn read(mut table: Table<'_, '_>, usual: &Self) -> Self {
        let mut policy = usual.clone();
        let all = u32::MAX.into();
        table.set(&mut policy.lease, "lease", time(LEASE_MIN, LEASE_MAX));
        table.set(&mut policy.handshake, "handshake", time(100 * MS, DAY));
        table.set(&mut policy.misses, "misses", number(1, 100));
        if let Some(text) = table.take("fail-back", |value| fail_back(&text(value)?)) {
            policy.fail_back = text;
        }
        let pace = &mut policy.pace;
        table.set(&mut pace.per_second, "pace", number(1, 1_000_000));
        table.set(&mut pace.in_flight_max, "pace-in-flight", number(1, 1_000_000));
        if let Some(deadline) = table.take("pace-deadline", time(SECOND, DAY)) {
            pace.deadline = millis(deadline);
        }
        table.set(&mut pace.failures_max_percent, "pace-failures", number(0, 100));
        table.set(&mut policy.keep_ends, "keep-ends", time(SECOND, 1000 * DAY));
        table.set(&mut policy.snapshot_from, "snapshot-from", number(1, all));
        table.set(&mut policy.devices_max, "devices-max", number(1, all));
        table.set(&mut policy.requests_max, "requests-max", number(1, 1_000_000));
        let silence = policy.handshake.saturating_mul(u32::from(policy.misses) + 1);
        if policy.lease < silence {
            let problem = format!(
                "{:?} is over before a device has missed {} handshakes of {:?}: take {silence:?} \
                 or more, or shorter handshakes",
                policy.lease, policy.misses, policy.handshake
            );
            table.wrong(table.at(), "lease", &problem);
        }
        table.end();
        policy
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `manual`, `window 02:00-04:00` or `auto 5min`.
fn fail_back(text: &str) -> Result<FailBackPolicy, String> {
    let wrong = || {
        format!(
            "{text:?} is no way home; take \"manual\", \"window 02:00-04:00\" (each day, UTC) or \
             \"auto 5min\""
        )
    };
    let (kind, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match (kind, rest.trim()) {
        ("manual", "") => Ok(FailBackPolicy::Manual),
        ("auto", after) => {
            let after = eversock_units::time(after).ok_or_else(wrong)?;
            Ok(FailBackPolicy::Auto { after: millis(after.0) })
        }
        ("window", times) => {
            let (from, until) = times.split_once('-').ok_or_else(wrong)?;
            let from = of_day(from.trim()).ok_or_else(wrong)?;
            let until = of_day(until.trim()).ok_or_else(wrong)?;
            if from == until {
                return Err(format!("{text:?} is no time at all; let it end later than it begins"));
            }
            Ok(FailBackPolicy::Window { from, until })
        }
        _ => Err(wrong()),
    }
}

/// `HH:MM` in seconds after midnight; 24:00 is the end of the day.
fn of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let is_two = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        if is_two { part.parse::<u32>().ok() } else { None }
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let seconds = hours * 3600 + minutes * 60;
    (minutes < 60 && seconds <= 24 * 3600).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_home_are_read() {
        assert_eq!(fail_back("manual"), Ok(FailBackPolicy::Manual));
        assert_eq!(fail_back("auto 5min"), Ok(FailBackPolicy::Auto { after: 300_000 }));
        let window = FailBackPolicy::Window { from: 22 * 3600, until: 4 * 3600 + 1800 };
        assert_eq!(fail_back("window 22:00-04:30"), Ok(window));
        for wrong in ["", "auto", "auto 5", "manual 5min", "window", "window 2:00-4:00", "later"] {
            assert!(fail_back(wrong).unwrap_err().contains("take \"manual\""), "{wrong}");
        }
        for wrong in ["window 25:00-26:00", "window 02:60-03:00", "window 02:00"] {
            assert!(fail_back(wrong).is_err(), "{wrong}");
        }
        assert!(fail_back("window 02:00-02:00").unwrap_err().contains("no time at all"));
    }
}
