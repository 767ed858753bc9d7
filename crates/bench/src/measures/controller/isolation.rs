//! What a flood of a partner's devices costs a controller's own.

use std::io;
use std::time::{Duration, Instant};

use eversock_controller::wire::Role;

use super::client::{Client, device};
use super::served::{Served, us};
use super::site::{Site, worker};
use super::{HOME, PARTNER, USUAL};
use crate::Bench;
use crate::measures::spool::parts::Place;
use crate::report::{Figure, Goal, Group, Report, quantile};

/// Those who flood.
const SENDERS: usize = 64;
/// What goes on meanwhile; the first is the reference.
const MEANWHILE: [(&str, Option<&str>); 4] = [
    ("alone", None),
    ("other patient", Some("patient")),
    ("other flooded", Some("rude")),
    ("nobody flooded", Some("elsewhere")),
];

/// Devices of a controller register, and are asked, while its partner is away and 64 senders of
/// another process register the partner's devices: they honour what they are told, or come back at
/// once. In turn with nothing else going on, and with so many threads that ask no controller. The
/// door takes what doors take by default.
pub(crate) fn isolation(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "controller-isolation";
    const WHAT: [&str; 3] = ["registrations", "handshakes", "requests"];
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let site = Site::start(bench, HOME, &place.file(HOME), USUAL, (PARTNER, None))?;
    let mut client = Client::new(site.door, Role::Device)?;
    let mut served = Served::new(site.door, HOME, 100)?;
    let labels = MEANWHILE.map(|(label, _)| label);
    let groups =
        |of: &str| WHAT.map(|what| Group::new(&labels, &format!("{NAME} {what} {of}"), "us"));
    let mut medians = groups("p50");
    let mut tails = groups("p99").map(|group| group.goal("other flooded", Goal::RatioAtMost(1.2)));
    let figure = |name: &str| Figure::new(format!("{NAME} {name}"), "1/s");
    let mut asked = figure("flood, answers");
    let mut taken = figure("flood, registered");
    let mut sent_away = figure("own devices told to come again, flooded");
    let time = bench.time(2000, 200);
    let mut flood = worker(bench)?;
    for turn in 0..bench.options.turns() {
        for (at, (_, manners)) in MEANWHILE.into_iter().enumerate() {
            if let Some(manners) = manners {
                flood.ask(&format!("flood {manners} {SENDERS} {}", site.door))?;
            }
            let began = Instant::now();
            // The bucket of the door, which is full at first, is part of the flood's begin.
            std::thread::sleep(time);
            let name = format!("own-{turn}-{at}");
            let (registrations, retries) = registered(&mut client, &name, time)?;
            let until = Instant::now() + time;
            let waits = served.go_on(|| Instant::now() >= until)?;
            let took = began.elapsed().as_secs_f64();
            if let Some(manners) = manners {
                let told = flood.ask("dam")?;
                if manners == "rude" {
                    asked.add(told[0] / took);
                    taken.add(told[1] / took);
                    sent_away.add(retries as f64 / time.as_secs_f64());
                }
            }
            let all = [registrations, waits.handshakes, waits.requests];
            for (which, waits) in all.iter().enumerate() {
                medians[which].add(at, quantile(waits, 0.5));
                tails[which].add(at, quantile(waits, 0.99));
            }
        }
    }
    for (medians, tails) in medians.iter().zip(&tails) {
        report.group(medians)?;
        report.group(tails)?;
    }
    for figure in [&asked, &taken, &sent_away] {
        report.row(figure, None)?;
    }
    Ok(())
}

/// Microseconds that each registration of one sender takes, with all that it was told to wait; and
/// how often it was told.
pub(super) fn registered(
    client: &mut Client,
    name: &str,
    time: Duration,
) -> io::Result<(Vec<f64>, u64)> {
    let until = Instant::now() + time;
    let (mut waits, mut retries) = (Vec::new(), 0);
    while Instant::now() < until {
        let device = device(HOME, &format!("{name}-{}", waits.len()))?;
        waits.push(us(|| {
            retries += client.register(&device, 1)?;
            Ok(())
        })?);
    }
    Ok((waits, retries))
}
