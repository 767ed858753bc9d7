//! From the answer to a registration until the partner knows of it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::wire::Role;

use super::client::{Client, device};
use super::site::Site;
use super::{HOME, PARTNER, WIDE};
use crate::Bench;
use crate::measures::spool::parts::Place;
use crate::report::{Figure, Group, Report, quantile};
use crate::usage::monotonic_ns;

/// What goes on meanwhile; the first is the reference.
const MEANWHILE: [(&str, bool); 2] = [("idle", false), ("1000/s", true)];
/// Connections that bring the load, and how often each registers a device.
const SENDERS: u32 = 8;
const EACH: Duration = Duration::from_millis(8);

/// One registration after the other at one controller; the partner, in a process of its own, is
/// asked for each until it has it, with pauses of 0.2 ms. In turn while nothing else goes on and
/// while 1,000 devices are registered in a second.
pub(crate) fn updates(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "controller-updates";
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let mut home = Site::start(bench, HOME, &place.file(HOME), WIDE, (PARTNER, None))?;
    let known = (HOME, Some(home.partners));
    let mut partner = Site::start(bench, PARTNER, &place.file(PARTNER), WIDE, known)?;
    for site in [&mut home, &mut partner] {
        site.wait("the two are in sync", |stat| stat.in_sync)?;
    }
    let labels = MEANWHILE.map(|(label, _)| label);
    let mut medians = Group::new(&labels, &format!("{NAME} p50"), "ms");
    let mut tails = Group::new(&labels, &format!("{NAME} p99"), "ms");
    let mut load = Figure::new(format!("{NAME} registrations, 1000/s"), "1/s");
    let count = bench.amount(300, 20);
    for turn in 0..bench.options.turns() {
        for (at, (label, is_loaded)) in MEANWHILE.into_iter().enumerate() {
            let name = format!("{turn}-{at}");
            let mut waits = || latencies(&home, &mut partner, &name, count);
            let (waits, rate) =
                if is_loaded { beside(home.door, &name, waits) } else { Ok((waits()?, 0.0)) }
                    .map_err(|error| io::Error::other(format!("{label}: {error}")))?;
            medians.add(at, quantile(&waits, 0.5));
            tails.add(at, quantile(&waits, 0.99));
            if is_loaded {
                load.add(rate);
            }
        }
    }
    report.group(&medians)?;
    report.group(&tails)?;
    report.row(&load, None)
}

/// Milliseconds until the partner has each.
fn latencies(home: &Site, partner: &mut Site, turn: &str, count: usize) -> io::Result<Vec<f64>> {
    let mut client = Client::new(home.door, Role::Device)?;
    let mut waits = Vec::with_capacity(count);
    for number in 0..count {
        let device = device(HOME, &format!("told-{turn}-{number}"))?;
        partner.end.tell(&format!("await {device} 1"))?;
        client.register(&device, 1)?;
        let registered = monotonic_ns();
        let known = partner.end.numbers()?;
        // It may be there before this thread has been told.
        waits.push((known[0] - registered as f64).max(0.0) / 1e6);
    }
    Ok(waits)
}

/// Does `work` while devices are registered; gives how many were in a second too.
fn beside<T>(
    door: SocketAddr,
    turn: &str,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, f64)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let began = Instant::now();
        let sender = |number: u32| {
            let is_over = &is_over;
            move || -> io::Result<u32> {
                let mut client = Client::new(door, Role::Device)?;
                let (mut due, mut count) = (Instant::now(), 0);
                while !is_over.load(Ordering::SeqCst) {
                    client.register(&device(HOME, &format!("load-{turn}-{number}-{count}"))?, 1)?;
                    count += 1;
                    due += EACH;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                Ok(count)
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(|number| scope.spawn(sender(number))).collect();
        let done = work();
        is_over.store(true, Ordering::SeqCst);
        let took = began.elapsed().as_secs_f64();
        let mut count = 0;
        for sender in senders {
            count += sender.join().map_err(|_| io::Error::other("a sender has panicked"))??;
        }
        Ok((done?, f64::from(count) / took))
    })
}
