//! Durable registrations at one controller, beside single commits of a database.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eversock_controller::wire::Role;

use super::client::{Client, device};
use super::site::Site;
use super::{HOME, PARTNER, WIDE};
use crate::Bench;
use crate::measures::spool::parts::{Place, rate};
use crate::measures::spool::writes::sqlite_commits;
use crate::report::{Group, Report};

/// What is measured in each turn; the first is the reference.
const KINDS: [(&str, Option<usize>); 3] =
    [("single SQLite commits", None), ("of 1", Some(1)), ("of 64", Some(64))];

/// Devices that were not registered before, one after the other on each connection; a new table for
/// each turn.
pub(crate) fn registrations(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "controller-registrations";
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let mut rates = Group::new(&KINDS.map(|(label, _)| label), NAME, "1/s");
    let time = bench.time(2000, 200);
    for turn in 0..bench.options.turns() {
        for (at, (label, senders)) in KINDS.into_iter().enumerate() {
            let folder = place.file(&format!("{turn}-{at}"));
            let done = match senders {
                None => sqlite_commits(&folder, time),
                Some(senders) => {
                    let site = Site::start(bench, HOME, &folder, WIDE, (PARTNER, None))?;
                    registered(site.door, senders, time)
                }
            };
            let rate = done.map_err(|error| io::Error::other(format!("{label}: {error}")))?;
            rates.add(at, rate);
        }
    }
    report.group(&rates)
}

fn registered(door: SocketAddr, senders: usize, time: Duration) -> io::Result<f64> {
    let next = AtomicUsize::new(0);
    rate(senders, time, || {
        let mut client = Client::new(door, Role::Device)?;
        let next = &next;
        Ok(move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            client.register(&device(HOME, &format!("new-{number}"))?, 1)?;
            Ok(())
        })
    })
}
