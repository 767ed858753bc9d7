//! What a pair whose spool is full costs another pair of the same front.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use eversock_spool::front::Front;
use eversock_spool::store::Quota;
use eversock_spool::{Outcome, Reason};

use super::parts::{Absent, Asker, Place, QUOTA, Ready, front, pair, rate, store};
use crate::Bench;
use crate::report::{Figure, Goal, Group, Report, quantile};

/// Of the pair that is full.
const FULL: &str = "full";
const FULL_RECORDS: u64 = 1000;
/// Those who write to it.
const SENDERS: usize = 64;

/// What goes on in the full pair meanwhile; the first is the reference.
const MEANWHILE: [(&str, Option<Manners>); 4] = [
    ("alone", None),
    ("other full", Some(Manners::Patient)),
    ("other flooded", Some(Manners::Rude)),
    ("no front flooded", Some(Manners::Elsewhere)),
];

/// What a sender does that was rejected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// It comes back after the time that it was told, or up to half that more or less, as
    /// `eversock_spool::sender` does.
    Patient,
    /// It comes back at once.
    Rude,
    /// It asks a thread that answers at once and has nothing to do with the front, again and again:
    /// what so many threads cost by themselves.
    Elsewhere,
}

/// One sender that waits for each outcome writes to a pair of its own: one that has a main (in this
/// process, so that nothing but the front is timed), or one that spools. In turn with nothing else
/// going on, and with 64 senders that write to a full pair of the same front: they come back when
/// they were told to, or at once.
pub(crate) fn isolation(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "spool-isolation";
    const PAIRS: [&str; 2] = ["normal", "spooling"];
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let quota = Quota { records: FULL_RECORDS, ..QUOTA };
    let open = |name: &str, quota| store(&place.file(&format!("{name}.db")), name, quota);
    let front = front(vec![
        pair(FULL, Box::new(open(FULL, quota)?), Arc::new(Absent)),
        pair(PAIRS[0], Box::new(open(PAIRS[0], QUOTA)?), Ready::at_once()),
        pair(PAIRS[1], Box::new(open(PAIRS[1], QUOTA)?), Arc::new(Absent)),
    ])?;
    make_full(&front)?;
    await_main(&front, PAIRS[0])?;
    let labels = MEANWHILE.map(|(label, _)| label);
    let groups =
        |of: &str| PAIRS.map(|name| Group::new(&labels, &format!("{NAME} {of} {name}"), "us"));
    let mut medians = groups("p50");
    let mut tails = groups("p99").map(|group| {
        let goal = Goal::RatioAtMost(1.2);
        group.goal("other full", goal).goal("other flooded", goal)
    });
    let mut rejected = Figure::new(format!("{NAME} rejected, flooded"), "1/s");
    let time = bench.time(3000, 300);
    for _ in 0..bench.options.turns() {
        for (which, name) in PAIRS.into_iter().enumerate() {
            for (at, (_, manners)) in MEANWHILE.into_iter().enumerate() {
                let (waits, count) = beside(&front, manners, || latencies(&front, name, time))?;
                medians[which].add(at, quantile(&waits, 0.5));
                tails[which].add(at, quantile(&waits, 0.99));
                if manners == Some(Manners::Rude) {
                    rejected.add(count as f64 / time.as_secs_f64());
                }
            }
        }
    }
    for (medians, tails) in medians.iter().zip(&tails) {
        report.group(medians)?;
        report.group(tails)?;
    }
    report.row(&rejected, None)
}

/// Writes until the pair takes no more.
fn make_full(front: &Front) -> io::Result<()> {
    let asker = Asker::new(front, FULL);
    for _ in 0..=FULL_RECORDS {
        match asker.ask()? {
            Outcome::Spooled { .. } => {}
            Outcome::Rejected { reason: Reason::SpoolFull, .. } => return Ok(()),
            other => return Err(io::Error::other(format!("not spooled: {other:?}"))),
        }
    }
    Err(io::Error::other("the quota does not hold"))
}

/// Writes until the main does what is asked.
fn await_main(front: &Front, pair: &str) -> io::Result<()> {
    let asker = Asker::new(front, pair);
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if let Outcome::Applied { .. } = asker.ask()? {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("pair {pair} has no main: {:?}", front.status(pair))))
}

/// Microseconds that each write of one sender takes.
fn latencies(front: &Front, pair: &str, time: Duration) -> io::Result<Vec<f64>> {
    let waits = Mutex::new(Vec::new());
    rate(1, time, || {
        let asker = Asker::new(front, pair);
        let mut waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(move || {
            let began = Instant::now();
            let outcome = asker.ask()?;
            waits.push(began.elapsed().as_secs_f64() * 1e6);
            match outcome {
                Outcome::Applied { .. } | Outcome::Spooled { .. } => Ok(()),
                other => Err(io::Error::other(format!("neither done nor spooled: {other:?}"))),
            }
        })
    })?;
    Ok(waits.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The pair that is full, while senders write to it.
#[derive(Debug)]
struct Full<'a> {
    front: &'a Front,
    is_over: AtomicBool,
    rejected: AtomicU64,
}

/// Ends when there is nothing more to do.
type Stopped = mpsc::Receiver<()>;

/// Does `work` while senders write to the full pair; gives how many writes were rejected too.
fn beside<T>(
    front: &Front,
    manners: Option<Manners>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, u64)> {
    let Some(manners) = manners else { return Ok((work()?, 0)) };
    let full = Full { front, is_over: AtomicBool::new(false), rejected: AtomicU64::new(0) };
    let done = thread::scope(|scope| {
        let (mut stops, mut senders) = (Vec::new(), Vec::new());
        let (elsewhere, asked) = mpsc::channel::<mpsc::Sender<()>>();
        scope.spawn(move || {
            for reply in asked {
                let _ = reply.send(());
            }
        });
        for number in 0..SENDERS {
            let (stop, stopped) = mpsc::channel::<()>();
            stops.push(stop);
            let (full, elsewhere) = (&full, elsewhere.clone());
            senders.push(scope.spawn(move || match manners {
                Manners::Elsewhere => ask_elsewhere(full, &elsewhere),
                Manners::Patient | Manners::Rude => sender(full, manners, number, &stopped),
            }));
        }
        drop(elsewhere);
        let done = work();
        full.is_over.store(true, Ordering::SeqCst);
        drop(stops);
        for sender in senders {
            sender.join().map_err(|_| io::Error::other("a sender has panicked"))??;
        }
        done
    })?;
    Ok((done, full.rejected.into_inner()))
}

/// Writes to the full pair until it is over.
fn sender(full: &Full<'_>, manners: Manners, number: usize, stopped: &Stopped) -> io::Result<()> {
    let asker = Asker::new(full.front, FULL);
    // Even shares of the time, another for each sender and time. They were rejected before: all of
    // them at once would be a flood.
    let mut share = number as f64 / SENDERS as f64;
    let mut pause = PATIENT_AFTER.mul_f64(share);
    loop {
        if manners == Manners::Patient {
            let _ = stopped.recv_timeout(pause);
        }
        if full.is_over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let after = match asker.ask()? {
            Outcome::Rejected { reason: Reason::SpoolFull, retry_after } => retry_after,
            other => return Err(io::Error::other(format!("the full pair said {other:?}"))),
        };
        full.rejected.fetch_add(1, Ordering::Relaxed);
        share = (share + GOLDEN) % 1.0;
        pause = after.mul_f64(0.5 + share);
    }
}

/// Asks the thread that is no front until it is over.
fn ask_elsewhere(full: &Full<'_>, thread: &mpsc::Sender<mpsc::Sender<()>>) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    while !full.is_over.load(Ordering::SeqCst) {
        thread.send(tell.clone()).map_err(io::Error::other)?;
        told.recv().map_err(io::Error::other)?;
    }
    Ok(())
}

/// Its multiples are spread evenly between whole numbers.
const GOLDEN: f64 = 0.618_033_988_749_895;
/// The time that rejected senders are told by default.
const PATIENT_AFTER: Duration = Duration::from_secs(5);
