//! A partner that has nothing yet is given a whole table.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_controller::wire::Role;

use super::client::Client;
use super::isolation::registered;
use super::site::{Site, fill};
use super::{HOME, PARTNER, WIDE};
use crate::Bench;
use crate::measures::spool::parts::Place;
use crate::report::{Figure, Goal, Group, Report, quantile};

/// Of the registrations meanwhile.
const STEP: Duration = Duration::from_millis(100);

/// What one exchange came to.
struct Exchange {
    seconds: f64,
    bytes: f64,
    /// Bytes by which the memory of the donor and of the joiner has grown at most.
    grown: [f64; 2],
    /// Microseconds of the donor's registrations before and meanwhile.
    waits: [Vec<f64>; 2],
}

/// A controller with many records, and a partner that begins with an empty disk: from the link
/// until the partner has all of them. Meanwhile one sender registers devices in the partition that
/// is sent. The same with a tenth of the records, for the memory. Once in a run.
pub(crate) fn bulk(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "controller-bulk";
    let counts: [usize; 2] = bench.amount([100_000, 1_000_000], [11_000, 22_000]);
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let figures =
        |what: &str, unit| counts.map(|count| Figure::new(format!("{NAME} {what} {count}"), unit));
    let (mut records, mut bytes) = (figures("records", "1/s"), figures("bytes", "MiB/s"));
    let mut memory = ["donor", "joiner"].map(|who| {
        let [few, many] = figures(&format!("memory of the {who}"), "MiB");
        [few, many.goal(Goal::RatioAtMost(1.5))]
    });
    let mut tails = Vec::new();
    for (at, count) in counts.into_iter().enumerate() {
        let folder = |of: &str| place.file(&format!("{count}-{of}"));
        fill(bench, HOME, &folder(HOME), count)?;
        let mut donor = Site::start(bench, HOME, &folder(HOME), WIDE, (PARTNER, None))?;
        let known = (HOME, Some(donor.partners));
        let joiner = || Site::start(bench, PARTNER, &folder(PARTNER), WIDE, known);
        let came = exchange(&mut donor, joiner, count, bench.time(3000, 200))?;
        records[at].add(count as f64 / came.seconds);
        bytes[at].add(came.bytes / came.seconds / f64::from(1 << 20));
        for (memory, grown) in memory.iter_mut().zip(came.grown) {
            memory[at].add(grown / f64::from(1 << 20));
        }
        let label = format!("{NAME} {count} registrations p99");
        let mut group = Group::new(&["before", "during"], &label, "us");
        for (at, waits) in came.waits.iter().enumerate() {
            group.add(at, quantile(waits, 0.99));
        }
        tails.push(group);
    }
    for [few, many] in [records, bytes].iter().chain(&memory) {
        report.row(few, None)?;
        let reference = format!("{} records", counts[0]);
        report.row(many, Some((reference.as_str(), few.median().unwrap_or(0.0))))?;
    }
    tails.iter().try_for_each(|group| report.group(group))
}

fn exchange(
    donor: &mut Site,
    joiner: impl FnOnce() -> io::Result<Site>,
    count: usize,
    before: Duration,
) -> io::Result<Exchange> {
    let mut client = Client::new(donor.door, Role::Device)?;
    let (usual, _) = registered(&mut client, "before", before)?;
    donor.end.ask("forget-memory")?;
    let donor_before = donor.stat()?;
    let is_over = AtomicBool::new(false);
    let (came, during) = thread::scope(|scope| {
        let local = scope.spawn(|| -> io::Result<Vec<f64>> {
            let mut waits = Vec::new();
            for step in 0.. {
                let (some, _) = registered(&mut client, &format!("during-{step}"), STEP)?;
                waits.extend(some);
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
            }
            Ok(waits)
        });
        let came = (|| -> io::Result<_> {
            let mut joiner = joiner()?;
            joiner.end.ask("forget-memory")?;
            let began = Instant::now();
            let first = joiner.stat()?;
            let all = |stat: &super::site::Stat| stat.records >= count as f64;
            let last = joiner.wait("the partner has all", all)?;
            Ok((began.elapsed(), last.bytes, last.resident_most - first.resident))
        })();
        is_over.store(true, Ordering::SeqCst);
        let during = local.join().map_err(|_| io::Error::other("the sender has panicked"))?;
        Ok::<_, io::Error>((came?, during?))
    })?;
    let (took, bytes, joiner_grown) = came;
    let donor_after = donor.stat()?;
    let donor_grown = donor_after.resident_most - donor_before.resident;
    Ok(Exchange {
        seconds: took.as_secs_f64(),
        bytes,
        grown: [donor_grown, joiner_grown],
        waits: [usual, during],
    })
}
