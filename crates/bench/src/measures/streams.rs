//! Bytes one way, both ways, on many sessions, and sealed.

use std::io;

use crate::Bench;
use crate::lane::{labels, lanes, take_some_turns, take_turns};
use crate::pair::Pair;
use crate::report::{Goal, Group, Report};
use crate::socket::Kind;

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1u64 << 30) as f64;

/// As people write it: `64B`, `16KiB`, `1MiB`.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        n if n >= 1 << 20 => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// How often to write `bytes`, so that a turn takes a second or two.
fn count(bench: &Bench<'_>, bytes: usize) -> usize {
    let total: usize = match bytes {
        0..1024 => 32 << 20,
        1024..4096 => 128 << 20,
        _ => 1 << 30,
    };
    bench.amount(total, total / 32) / bytes
}

/// Turns of a stream: more than usual, as single turns of one and the same program differ by half.
pub(crate) fn turns(bench: &Bench<'_>) -> usize {
    let turns = bench.options.turns();
    if bench.options.quick || bench.options.repeat.is_some() { turns } else { turns.max(11) }
}

/// One way, as fast as it goes; timed until the reader has all: MiB/s.
pub(crate) fn one_way_rate(pair: &mut Pair, count: usize, bytes: usize) -> io::Result<f64> {
    pair.open()?;
    let (client, _) = pair.both(&format!("write {count} {bytes}"), &format!("read {bytes}"))?;
    Ok((count * bytes) as f64 / MIB / (client[0] * 1e-9))
}

/// One way, as fast as it goes; timed until the reader has all. Also the processor time of both
/// processes for each GiB.
pub(crate) fn one_way(bench: &Bench<'_>, report: &mut Report, bytes: usize) -> io::Result<()> {
    let least = if bytes <= 1024 { Some(1.0) } else { (bytes >= 16 << 10).then_some(0.97) };
    let goal = least.map(|least| ("direct", Goal::RatioAtLeast(least)));
    moved(bench, report, &format!("stream-{}", size(bytes)), &Kind::USUAL, bytes, goal)
}

/// A sealed session beside TLS: the same program, the same writes.
pub(crate) fn sealed(bench: &Bench<'_>, report: &mut Report, bytes: usize) -> io::Result<()> {
    let goal = Some(("sealed", Goal::RatioAtLeast(1.2)));
    let kinds = [Kind::Tls, Kind::Sealed, Kind::Plain];
    moved(bench, report, &format!("sealed-stream-{}", size(bytes)), &kinds, bytes, goal)
}

pub(crate) fn moved(
    bench: &Bench<'_>,
    report: &mut Report,
    name: &str,
    kinds: &[Kind],
    bytes: usize,
    goal: Option<(&str, Goal)>,
) -> io::Result<()> {
    let count = count(bench, bytes);
    let lanes = lanes(bench, kinds)?;
    let mut rates = Group::new(&labels(&lanes), name, "MiB/s");
    if let Some((label, goal)) = goal {
        rates = rates.goal(label, goal);
    }
    let mut costs = Group::new(&labels(&lanes), &format!("{name} processor"), "s/GiB");
    take_some_turns(turns(bench), report, name, lanes, |_, at, pair| {
        pair.open()?;
        let (client, server) =
            pair.both(&format!("write {count} {bytes}"), &format!("read {bytes}"))?;
        let moved = (count * bytes) as f64;
        rates.add(at, moved / MIB / (client[0] * 1e-9));
        // The reader's cost includes the warm-up; so does its amount.
        costs.add(at, client[1] * 1e-9 / (moved / GIB) + server[1] * 1e-9 / (server[3] / GIB));
        Ok(())
    });
    report.group(&rates)?;
    report.group(&costs)
}

/// Both ends write and read at the same time, by a thread for each; the sum of both directions.
pub(crate) fn both_ways(bench: &Bench<'_>, report: &mut Report, bytes: usize) -> io::Result<()> {
    let count = count(bench, bytes) / 2;
    let name = format!("both-ways-{}", size(bytes));
    let lanes = lanes(bench, &Kind::USUAL)?;
    let mut rates = Group::new(&labels(&lanes), &name, "MiB/s");
    let command = format!("duplex {count} {bytes}");
    take_turns(bench, report, &name, lanes, |_, at, pair| {
        pair.open()?;
        let (client, server) = pair.both(&command, &command)?;
        let slower = client[0].max(server[0]);
        rates.add(at, 2.0 * (count * bytes) as f64 / MIB / (slower * 1e-9));
        Ok(())
    });
    report.group(&rates)
}

/// The same amount over so many sessions of one pair of processes, a thread for each at both ends.
pub(crate) fn parallel(bench: &Bench<'_>, report: &mut Report, sessions: usize) -> io::Result<()> {
    let name = format!("parallel-{sessions}");
    beside(bench, report, &name, &Kind::USUAL, (sessions, 16 << 10))
}

/// So many streams of each kind at once, and so many bytes at a time.
pub(crate) fn beside(
    bench: &Bench<'_>,
    report: &mut Report,
    name: &str,
    kinds: &[Kind],
    (sessions, bytes): (usize, usize),
) -> io::Result<()> {
    let total: usize = bench.amount(1 << 30, 64 << 20);
    let count = total / bytes / sessions;
    let lanes = lanes(bench, kinds)?;
    let mut rates = Group::new(&labels(&lanes), name, "MiB/s");
    take_turns(bench, report, name, lanes, |number, at, pair| {
        let mut once = |count: usize| {
            let hold = format!("hold {sessions}");
            pair.both(&hold, &hold)?;
            let spread = format!("spread {count} {bytes}");
            pair.both(&spread, &format!("gather {bytes}"))
        };
        if number == 0 {
            once(count / 8 + 1)?;
        }
        let (client, _) = once(count)?;
        rates.add(at, (count * sessions * bytes) as f64 / MIB / (client[0] * 1e-9));
        Ok(())
    });
    report.group(&rates)
}
