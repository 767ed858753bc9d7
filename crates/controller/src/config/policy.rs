//! What a partition promises its devices, and how they go home.

use std::time::Duration;

use super::table::{Table, number, text, time};
use crate::limits::{LEASE_MAX, LEASE_MIN};
use crate::node::{Policy, fail_back};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MS: Duration = Duration::from_millis(1);

/// What the table says, and the rest as it is in `usual`.
pub(super) fn read(table: &mut Table<'_, '_>, usual: &Policy) -> Policy {
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
    policy
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
