//! How a partition behaves, and the parameters that all controllers share.

use std::time::Duration;

use eversock_units::Time;
use serde::Deserialize;

use crate::limits::{LEASE_MAX, LEASE_MIN, PARAMETERS_MAX};
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

/// The parameters that all controllers share, read from their text: what stands there goes before
/// what a controller's own configuration says, for all partitions. Names, addresses and keys are
/// none of them. For example:
///
/// ```toml
/// lease = "120s"
/// handshake = "20s"
/// misses = 3
/// fail-back = "auto 5min"
/// pace = 50
///
/// [env]
/// anything = "that devices or people want to know"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Parameters {
    lease: Option<Time>,
    handshake: Option<Time>,
    misses: Option<u8>,
    fail_back: Option<String>,
    pace: Option<u32>,
    pace_in_flight: Option<u32>,
    pace_deadline: Option<Time>,
    pace_failures: Option<u8>,
    keep_ends: Option<Time>,
    snapshot_from: Option<u32>,
    devices_max: Option<u32>,
    requests_max: Option<u32>,
    /// Whatever people want.
    env: Option<toml::Table>,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST: Duration = Duration::from_secs(1000 * 24 * 3600);

impl Parameters {
    /// Reads the text of them.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PARAMETERS_MAX {
            return Err(format!("{} bytes are more than {PARAMETERS_MAX}", text.len()));
        }
        let read: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        read.bounded(&Policy::default())?;
        Ok(read)
    }

    /// What stands here, and the rest as it is in `usual`.
    ///
    /// # Errors
    ///
    /// What is out of bounds, or does not go together.
    pub fn over(&self, usual: &Policy) -> Result<Policy, String> {
        let policy = self.bounded(usual)?;
        let silence = policy.handshake.saturating_mul(u32::from(policy.misses) + 1);
        if policy.lease < silence {
            return Err(format!(
                "a lease of {:?} is over before a device has missed {} handshakes of {:?}: take \
                 {silence:?} or more, or shorter handshakes",
                policy.lease, policy.misses, policy.handshake
            ));
        }
        Ok(policy)
    }

    /// Each value for itself.
    fn bounded(&self, usual: &Policy) -> Result<Policy, String> {
        let mut policy = usual.clone();
        set_time(&mut policy.lease, "lease", self.lease, LEASE_MIN..=LEASE_MAX)?;
        let handshakes = Duration::from_millis(100)..=DAY;
        set_time(&mut policy.handshake, "handshake", self.handshake, handshakes)?;
        set(&mut policy.misses, "misses", self.misses, 1..=100)?;
        if let Some(text) = &self.fail_back {
            policy.fail_back = fail_back(text)?;
        }
        let pace = &mut policy.pace;
        set(&mut pace.per_second, "pace", self.pace, 1..=1_000_000)?;
        set(&mut pace.in_flight_max, "pace-in-flight", self.pace_in_flight, 1..=1_000_000)?;
        let mut deadline = Duration::from_millis(pace.deadline);
        set_time(&mut deadline, "pace-deadline", self.pace_deadline, SECOND..=DAY)?;
        pace.deadline = millis(deadline);
        set(&mut pace.failures_max_percent, "pace-failures", self.pace_failures, 0..=100)?;
        set_time(&mut policy.keep_ends, "keep-ends", self.keep_ends, SECOND..=LONGEST)?;
        let wide = self.snapshot_from.map(u64::from);
        set(&mut policy.snapshot_from, "snapshot-from", wide, 1..=u64::from(u32::MAX))?;
        let wide = |narrow: Option<u32>| narrow.and_then(|n| usize::try_from(n).ok());
        set(&mut policy.devices_max, "devices-max", wide(self.devices_max), 1..=usize::MAX)?;
        set(&mut policy.requests_max, "requests-max", wide(self.requests_max), 1..=1_000_000)?;
        Ok(policy)
    }
}

fn set<T: PartialOrd + std::fmt::Display + Copy>(
    into: &mut T,
    name: &str,
    value: Option<T>,
    bounds: std::ops::RangeInclusive<T>,
) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    if !bounds.contains(&value) {
        return Err(format!("{name} is {value}: take {} to {}", bounds.start(), bounds.end()));
    }
    *into = value;
    Ok(())
}

fn set_time(
    into: &mut Duration,
    name: &str,
    value: Option<Time>,
    bounds: std::ops::RangeInclusive<Duration>,
) -> Result<(), String> {
    let Some(Time(value)) = value else { return Ok(()) };
    if !bounds.contains(&value) {
        return Err(format!(
            "{name} is {value:?}: take {:?} to {:?}",
            bounds.start(),
            bounds.end()
        ));
    }
    *into = value;
    Ok(())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `manual`, `window 02:00-04:00` (each day, UTC) or `auto 5min`.
///
/// # Errors
///
/// It is none of them.
pub fn fail_back(text: &str) -> Result<FailBackPolicy, String> {
    let wrong = || {
        format!(
            "{text:?} is no way home; take \"manual\", \"window 02:00-04:00\" (each day, UTC) or \
             \"auto 5min\""
        )
    };
    let (way, rest) = text.trim().split_once(' ').unwrap_or_else(|| (text.trim(), ""));
    match (way, rest.trim()) {
        ("manual", "") => Ok(FailBackPolicy::Manual),
        ("auto", after) => {
            let Time(after) = eversock_units::time(after).ok_or_else(wrong)?;
            Ok(FailBackPolicy::Auto { after: millis(after) })
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
