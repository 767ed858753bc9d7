//! What sessions cost that do nothing.

use std::io;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use super::recovery::{of_pairs, spread};
use crate::Bench;
use crate::pair::Pair;
use crate::report::{Figure, Goal, Group, Report};
use crate::socket::Kind;

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
    let (pairs, each) = spread(count, 1);
    let watch = bench.time(10_000, 1000);
    let labels = KINDS.map(Kind::name);
    let of_pairs = of_pairs(pairs);
    let sides = ["client", "server"];
    let groups = |what: &str, unit| {
        sides.map(|side| Group::new(&labels, &format!("{what} {side} {count}{of_pairs}"), unit))
    };
    let mut memory =
        groups("memory", "B/idle").map(|group| group.goal("direct", Goal::AtMost(1024.0)));
    let mut cpu = groups("idle-cpu", "ms/s");
    let mut sleeps = groups("idle-sleeps", "1/s");
    // What was used once is not given back: fresh processes for each turn.
    for _ in 0..bench.amount(bench.options.turns(), 1) {
        for (at, kind) in KINDS.into_iter().enumerate() {
            for [before, idle, after] in rest(bench, kind, pairs, each, watch)? {
                for side in 0..sides.len() {
                    let held = (idle[side][2] - before[side][2]).max(0.0);
                    memory[side].add(at, held / each as f64);
                    let spent = (after[side][0] - idle[side][0]) * 1e-6;
                    cpu[side].add(at, spent / watch.as_secs_f64());
                    let slept = after[side][1] - idle[side][1];
                    sleeps[side].add(at, slept / watch.as_secs_f64());
                }
            }
        }
    }
    memory.iter().chain(&cpu).chain(&sleeps).try_for_each(|group| report.group(group))?;
    for (side, sleeps) in sides.iter().zip(&sleeps) {
        let name = format!("idle-wakeups {side} {count}{of_pairs} direct");
        let mut beyond = Figure::new(name, "1/s").goal(Goal::AtMost(0.0));
        if let (Some(plain), Some(direct)) = (sleeps.median(0), sleeps.median(1)) {
            beyond.add((direct - plain).max(0.0));
        }
        report.row(&beyond, None)?;
    }
    Ok(())
}

/// What the client and the server of a pair have used.
pub(crate) type Used = [Vec<f64>; 2];

/// So many sessions in so many pairs of processes, which do nothing for a while: what each pair had
/// used before they were opened, when they had come to rest, and after the while.
pub(crate) fn rest(
    bench: &Bench<'_>,
    kind: Kind,
    pairs: usize,
    each: usize,
    watch: Duration,
) -> io::Result<Vec<[Used; 3]>> {
    let mut all = Vec::new();
    for _ in 0..pairs {
        // More connections than one address has ports for.
        let server = format!("server@{}", Ipv4Addr::UNSPECIFIED);
        let mut pair = Pair::start_as(bench, kind, &server, &[], &[], |mut addr| {
            addr.set_ip(Ipv4Addr::LOCALHOST.into());
            Ok(addr)
        })?;
        pair.set_patience(Duration::from_secs(300));
        // Threads, pools and tables that the first session makes.
        pair.open()?;
        let before = pair.both("usage", "usage")?;
        let hold = format!("hold {each}");
        pair.both(&hold, &hold)?;
        all.push((pair, before));
    }
    // The sweep looks once a second while acks are to be told.
    sleep(bench.time(4000, 2000));
    let mut idle = Vec::new();
    for (pair, _) in &mut all {
        idle.push(pair.both("usage", "usage")?);
    }
    sleep(watch);
    let used = |(client, server): (Vec<f64>, Vec<f64>)| [client, server];
    let mut answers = Vec::new();
    for ((mut pair, before), idle) in all.into_iter().zip(idle) {
        let after = pair.both("usage", "usage")?;
        answers.push([used(before), used(idle), used(after)]);
    }
    Ok(answers)
}
