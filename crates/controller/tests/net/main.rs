//! Three controllers, 200 devices and a third party, each a process on a host of its own, with a
//! line of its own between any two hosts (network namespaces of the tests' own): what the patent
//! has happen (core take-over, partial take-over, recovery policy), and what else may break.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod bulk;
#[path = "../../../../tests/common/child.rs"]
#[allow(dead_code, reason = "each test target uses its own part")]
mod child;
mod clocks;
mod controller;
mod copies;
mod disks;
mod fleet;
mod lab;
#[path = "../../../../tests/common/limit.rs"]
mod limit;
mod links;
#[path = "../../../../tests/common/netns.rs"]
#[allow(dead_code, reason = "each test target uses its own part")]
mod netns;
mod recovery;
mod site;
mod take_over;
mod third;
mod versions;

use std::sync::OnceLock;
use std::time::Duration;

/// More than all tests together take on a busy machine.
const WHOLE_MAX: Duration = Duration::from_secs(15 * 60);

/// A limit on the whole process: a helper that hangs would hold it for ever.
pub(crate) fn begin() {
    static WHOLE: OnceLock<limit::Limit> = OnceLock::new();
    WHOLE.get_or_init(|| limit::Limit::new("this test process", WHOLE_MAX));
}

/// What runs on one of the hosts.
#[test]
fn helper_process() {
    let Some((role, argument)) = child::role() else { return };
    match role.as_str() {
        "controller" => controller::run(&argument),
        "fleet" => fleet::run(&argument),
        "third" => third::run(),
        "newer" => versions::run(&argument),
        other => panic!("no role {other}"),
    }
}
