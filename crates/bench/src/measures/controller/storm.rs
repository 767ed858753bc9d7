//! All devices of a controller come back at the same moment.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::served::{Served, Waits};
use super::site::{Site, fill, worker};
use super::{HOME, PARTNER, USUAL};
use crate::Bench;
use crate::measures::spool::parts::Place;
use crate::report::{Figure, Goal, Group, Report, quantile};

/// Those that are served already.
const SERVED: usize = 100;

/// A controller with so many registrations in its table, whose devices all register again at once,
/// from another process and over connections with 1,000 of them each; the door takes what doors
/// take by default. 100 other devices are served before and during that. Once in a run: it takes as
/// long as the door makes it.
pub(crate) fn storm(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let count = bench.amount(100_000, 300);
    let name = format!("controller-storm {count}");
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped("controller-storm", &why);
    }
    let folder = place.file(HOME);
    fill(bench, HOME, &folder, count)?;
    let mut site = Site::start(bench, HOME, &folder, USUAL, (PARTNER, None))?;
    let mut served = Served::new(site.door, HOME, SERVED)?;
    let until = Instant::now() + bench.time(15_000, 500);
    let before = served.go_on(|| Instant::now() >= until)?;
    let stood = site.stat()?;

    let is_over = AtomicBool::new(false);
    let (told, during) = thread::scope(|scope| -> io::Result<(Vec<f64>, Waits)> {
        let traffic = scope.spawn(|| served.go_on(|| is_over.load(Ordering::SeqCst)));
        let told = worker(bench).and_then(|mut fleet| {
            let told = fleet.ask(&format!("fleet {count} {}", site.door));
            is_over.store(true, Ordering::SeqCst);
            told
        });
        is_over.store(true, Ordering::SeqCst);
        let waits = traffic.join().map_err(|_| io::Error::other("the traffic has panicked"))?;
        Ok((told?, waits?))
    })?;
    let [took, longest, median, failures, cpu] = told[..] else {
        return Err(io::Error::other(format!("the devices said {told:?}")));
    };
    let stands = site.stat()?;
    let single = |what: &str, unit, value| {
        let mut figure = Figure::new(format!("{name} {what}"), unit);
        figure.add(value);
        figure
    };
    for figure in [
        single("all registered", "s", took),
        single("longest wait", "s", longest),
        single("median wait", "s", median),
        single("told to come again", "times", stands.retries - stood.retries),
        single("attempts that failed", "times", failures),
        single("processor of the controller", "s", stands.cpu - stood.cpu),
        single("processor of the devices", "s", cpu),
    ] {
        report.row(&figure, None)?;
    }
    let pairs = [
        ("handshakes", &before.handshakes, &during.handshakes),
        ("requests", &before.requests, &during.requests),
    ];
    for (what, before, during) in pairs {
        for (of, share) in [("p50", 0.5), ("p99", 0.99)] {
            let mut group = Group::new(&["before", "during"], &format!("{name} {what} {of}"), "us");
            if share > 0.9 {
                group = group.goal("during", Goal::RatioAtMost(2.0));
            }
            group.add(0, quantile(before, share));
            group.add(1, quantile(during, share));
            report.group(&group)?;
        }
    }
    Ok(())
}
