//! Streams over a path with delay.

use std::io;

use eversock_chaos::Plan;

use super::recovery::cut_pair;
use super::streams::one_way_rate;
use crate::Bench;
use crate::lane::{Lane, labels, take_turns};
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;

/// 64 KiB writes one way, over the fault proxy with half of this round trip's delay in each
/// direction. What is under way is bounded by the proxy (2 MiB for each direction, see its
/// `Config`), as a path's bandwidth bounds it, for plain TCP as for the session.
pub(crate) fn stream(bench: &Bench<'_>, report: &mut Report, trip_ms: usize) -> io::Result<()> {
    const BYTES: usize = 64 << 10;
    let total: usize = bench.amount(256 << 20, 8 << 20) * 20 / trip_ms;
    let count = total / BYTES;
    let name = format!("path-{trip_ms}ms");
    let delay = format!("always delay {}ms", trip_ms / 2);
    let plan = Plan::parse(&delay).map_err(io::Error::other)?;
    let mut lanes = Vec::new();
    for kind in [Kind::Plain, Kind::Direct] {
        let (pair, proxy) = cut_pair(bench, kind, |config| config.with_plan(plan.clone()))?;
        lanes.push(Lane::through(kind.name(), pair, proxy));
    }
    let rates = Group::new(&labels(&lanes), &name, "MiB/s");
    let mut rates = rates.goal(Kind::Direct.name(), Goal::RatioAtLeast(0.97));
    take_turns(bench, report, &name, lanes, |_, at, pair| {
        rates.add(at, one_way_rate(pair, count, BYTES)?);
        Ok(())
    });
    report.group(&rates)
}
