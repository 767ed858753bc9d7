//! A front that begins with many records in its spool, as after a crash.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use super::parts::Place;
use crate::Bench;
use crate::pair::End;
use crate::report::{Figure, Goal, Report};

/// Filling a file with a million records takes minutes on a slow disk.
const PATIENCE: Duration = Duration::from_secs(1200);

/// From the opening of the store until the main is given the first record, and what memory the
/// front has taken by then, each with few records and with many. Each front is a fresh process, the
/// one before it ended as in a crash, and nothing of the files is in memory.
pub(crate) fn restart(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const NAME: &str = "spool-restart";
    let counts: [usize; 2] = bench.amount([1000, 1_000_000], [100, 5000]);
    let (place, why) = Place::new()?;
    if let Some(why) = why {
        report.skipped(NAME, &why);
    }
    let files = counts.map(|count| place.file(&format!("{count}.db")));
    for (count, file) in counts.iter().zip(&files) {
        let mut filler = worker(bench)?;
        filler.set_patience(PATIENCE);
        filler.ask(&format!("fill {count} {}", file.display()))?;
    }
    let figures =
        |what: &str, unit| counts.map(|count| Figure::new(format!("{NAME} {what} {count}"), unit));
    let [few, many] = figures("first record", "s");
    let mut times = [few, many.goal(Goal::AtMost(2.0))];
    let [few, many] = figures("memory", "MiB");
    let mut memory = [few, many.goal(Goal::RatioAtMost(1.5))];
    for _ in 0..bench.options.turns() {
        for (at, file) in files.iter().enumerate() {
            forget(file)?;
            let mut worker = worker(bench)?;
            worker.set_patience(PATIENCE);
            let told = worker.ask(&format!("start {}", file.display()))?;
            times[at].add(told[0] * 1e-9);
            memory[at].add(told[1] / (1 << 20) as f64);
        }
    }
    for [few, many] in [times, memory] {
        report.row(&few, None)?;
        let reference = format!("{} records", counts[0]);
        let median = few.median().unwrap_or(0.0);
        report.row(&many, Some((reference.as_str(), median)))?;
    }
    Ok(())
}

pub(super) fn worker(bench: &Bench<'_>) -> io::Result<End> {
    End::of(bench, ["spool", "worker"])
}

/// What the kernel has of a store in memory goes.
fn forget(store: &Path) -> io::Result<()> {
    for suffix in ["", "-wal"] {
        let mut name = store.as_os_str().to_owned();
        name.push(suffix);
        let file = match File::open(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        file.sync_all()?;
        let (whole, advice) = (0, libc::POSIX_FADV_DONTNEED);
        // SAFETY: no memory is passed, and the descriptor is open.
        match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, whole, advice) } {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
    Ok(())
}
