//! What sessions cost that do nothing.

use std::io;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use crate::Bench;
use crate::pair::Pair;
use crate::report::{Figure, Goal, Group, Report};
use crate::socket::Kind;
use crate::usage::descriptor_limit;

/// A thousand sessions that do nothing: what they hold and what they use. Fresh processes, as
/// memory that was used once is not given back.
pub(crate) fn memory_and_cpu(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let count = bench.amount(1000, 100);
    let watch = Duration::from_secs(bench.amount(10, 1));
    let labels = Kind::USUAL.map(Kind::name);
    let sides = ["client", "server"];
    let mut memory = sides.map(|side| Group::new(&labels, &format!("memory {side}"), "B/idle"));
    let mut cpu = sides.map(|side| {
        let name = format!("idle-cpu {side}, {count} for {} s", watch.as_secs());
        let group = Group::new(&labels, &name, "ms").goal("direct", Goal::AtMost(5.0));
        group.goal("pumped", Goal::AtMost(5.0))
    });
    let mut pairs = Vec::new();
    for kind in Kind::USUAL {
        pairs.push(Pair::start(bench, kind)?);
    }
    let mut before = Vec::new();
    for pair in &mut pairs {
        // Threads, pools and tables that the first session makes.
        pair.open()?;
        before.push(pair.both("usage", "usage")?);
        let hold = format!("hold {count}");
        pair.both(&hold, &hold)?;
    }
    // The sweep looks once a second while acks are to be told.
    sleep(Duration::from_secs(bench.amount(4, 2)));
    let mut idle = Vec::new();
    for pair in &mut pairs {
        idle.push(pair.both("usage", "usage")?);
    }
    sleep(watch);
    for (at, pair) in pairs.iter_mut().enumerate() {
        let (client, server) = pair.both("usage", "usage")?;
        let each = |now: &[f64], then: &[f64]| (now[2] - then[2]).max(0.0) / count as f64;
        memory[0].add(at, each(&idle[at].0, &before[at].0));
        memory[1].add(at, each(&idle[at].1, &before[at].1));
        cpu[0].add(at, (client[0] - idle[at].0[0]) * 1e-6);
        cpu[1].add(at, (server[0] - idle[at].1[0]) * 1e-6);
    }
    if bench.options.wants("memory") {
        memory.iter().try_for_each(|group| report.group(group))?;
    }
    if bench.options.wants("idle-cpu") {
        cpu.iter().try_for_each(|group| report.group(group))?;
    }
    Ok(())
}

/// The same, unless `memory` was wanted too and has given these rows already.
pub(crate) fn cpu_unless_done(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    if bench.options.wants("memory") { Ok(()) } else { memory_and_cpu(bench, report) }
}

/// Many sessions in one pair of processes, for plain TCP and direct in turn: memory for each of
/// them, processor time, and how often threads wake up beyond those of plain TCP (whose only one
/// is the question itself).
pub(crate) fn many(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    for count in bench.amount([1000, 10_000, 50_000], [50, 200, 500]) {
        many_of(bench, report, count)?;
    }
    Ok(())
}

fn many_of(bench: &Bench<'_>, report: &mut Report, count: usize) -> io::Result<()> {
    const KINDS: [Kind; 2] = [Kind::Plain, Kind::Direct];
    let most = usize::try_from(descriptor_limit()).unwrap_or(usize::MAX);
    if most < count + 100 {
        let why = format!("{most} descriptors are too few for {count} sessions; ulimit -n");
        report.skipped("idle-many", &why);
        return Ok(());
    }
    let watch = bench.time(10_000, 1000);
    let labels = KINDS.map(Kind::name);
    let group =
        |what: &str, side: &str, unit| Group::new(&labels, &format!("{what} {side} {count}"), unit);
    let sides = ["client", "server"];
    let mut memory =
        sides.map(|side| group("memory", side, "B/idle").goal("direct", Goal::AtMost(1024.0)));
    let mut cpu = sides.map(|side| group("idle-cpu", side, "ms/s"));
    let mut sleeps = sides.map(|side| group("idle-sleeps", side, "1/s"));
    // What was used once is not given back: fresh processes for each turn.
    for _ in 0..bench.amount(bench.options.turns(), 1) {
        for (at, kind) in KINDS.into_iter().enumerate() {
            // More connections than one address has ports for.
            let loopback = Ipv4Addr::LOCALHOST;
            let server = format!("server@{}", Ipv4Addr::UNSPECIFIED);
            let mut pair = Pair::start_as(bench, kind, &server, &[], &[], |mut addr| {
                addr.set_ip(loopback.into());
                Ok(addr)
            })?;
            pair.set_patience(Duration::from_secs(300));
            pair.open()?;
            let before = pair.both("usage", "usage")?;
            let hold = format!("hold {count}");
            pair.both(&hold, &hold)?;
            sleep(bench.time(4000, 2000));
            let idle = pair.both("usage", "usage")?;
            sleep(watch);
            let after = pair.both("usage", "usage")?;
            for (side, (before, idle, after)) in
                [(&before.0, &idle.0, &after.0), (&before.1, &idle.1, &after.1)]
                    .into_iter()
                    .enumerate()
            {
                memory[side].add(at, (idle[2] - before[2]).max(0.0) / count as f64);
                cpu[side].add(at, (after[0] - idle[0]) * 1e-6 / watch.as_secs_f64());
                sleeps[side].add(at, (after[1] - idle[1]) / watch.as_secs_f64());
            }
        }
    }
    memory.iter().chain(&cpu).chain(&sleeps).try_for_each(|group| report.group(group))?;
    for (side, sleeps) in sides.iter().zip(&sleeps) {
        let name = format!("idle-wakeups {side} {count} direct");
        let mut beyond = Figure::new(name, "1/s").goal(Goal::AtMost(0.0));
        if let (Some(plain), Some(direct)) = (sleeps.median(0), sleeps.median(1)) {
            beyond.add((direct - plain).max(0.0));
        }
        report.row(&beyond, None)?;
    }
    Ok(())
}
