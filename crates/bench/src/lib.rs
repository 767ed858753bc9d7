//! What eversock costs beside plain TCP: the measurements behind `evs bench` and
//! `cargo bench --bench eversock`.
//!
//! Every figure is taken in turns, plain TCP (or the reference that the row names) and what is held
//! against it one after the other (A B A B ...), after a warm-up, between processes that this
//! program starts from itself. The median of the turns is given with its least and greatest.
//!
//! * `measures`: the list of measurements, and one file for each kind of them.
//! * `pair`, `lane`: two processes, and several such pairs in turn. `child`: what they do.
//! * `socket`, `tls`: the kinds of stream that a process can hold.  `relay`, `net`: what may stand
//!   between the two: other programs, or networks.
//! * `measures::spool` (feature `spool`): fronts and their spools beside databases.
//! * `measures::controller` (feature `controller`): controllers and their devices.
//! * `report`: figures, goals, the table and the JSON.  `page`, `plot`: `docs/BENCHMARKS.md`.

mod child;
mod lane;
mod measures;
mod net;
mod page;
mod pair;
mod plot;
mod relay;
mod report;
mod socket;
mod tls;
mod usage;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use child::main as child;
pub use report::{Report, Row};

/// What to measure, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Small amounts and few turns: shows that it works, not how fast.
    pub quick: bool,
    /// One JSON object instead of the table.
    pub json: bool,
    /// Only measurements whose name contains one of these; all if there are none.
    pub only: Vec<String>,
    /// So many turns, instead of 5 (3 with `quick`).
    pub repeat: Option<usize>,
}

impl Options {
    /// True when the measurement was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// Turns of each measurement.
    pub fn turns(&self) -> usize {
        self.repeat.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }
}

/// Where a program of ours is; asked once it is needed, as finding it may mean building it.
pub type Find = Box<dyn Fn() -> Result<PathBuf, String>>;

/// The program that measures, and where its relatives are.
pub struct Host {
    /// Starts this program as one of the two ends: a kind and a role follow.
    pub child: Vec<OsString>,
    /// The library that goes under programs.
    pub preload: Find,
    /// The program `evs`, for its gateway.
    pub evs: Find,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("child", &self.child).finish_non_exhaustive()
    }
}

/// What a measurement works with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) host: &'a Host,
}

impl Bench<'_> {
    /// So much, or with `quick` so much.
    pub(crate) fn amount<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    pub(crate) fn time(&self, full_ms: u64, quick_ms: u64) -> Duration {
        Duration::from_millis(self.amount(full_ms, quick_ms))
    }
}

/// The names of all measurements, in their order.
pub fn names() -> impl Iterator<Item = &'static str> {
    measures::ALL.iter().map(|measure| measure.name)
}

/// Measures what `options` want, and writes each row to `out` as it comes (with `json` the whole at
/// the end). A measurement that breaks off is told of on standard error and left out.
///
/// # Errors
/// If nothing is called as `options` want, or `out` takes no more.
pub fn run(options: &Options, host: &Host, out: Box<dyn Write>) -> io::Result<Report> {
    let mut wanted = measures::ALL.iter().filter(|measure| options.wants(measure.name)).peekable();
    if wanted.peek().is_none() {
        let what = format!("no measurement is called {}; see --list", options.only.join(" or "));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    usage::raise_descriptor_limit();
    let bench = Bench { options, host };
    let mut report = Report::begin(options, out)?;
    for measure in wanted {
        report.set_table(measure.table);
        if let Err(error) = (measure.run)(&bench, &mut report) {
            if report.is_shut() {
                return Err(error);
            }
            report.failed(measure.name, &error);
        }
    }
    report.finish()?;
    Ok(report)
}

/// Writes `BENCHMARKS.md` into the folder, and the plots into `bench` below it.
///
/// # Errors
/// If a file cannot be written; the error names it.
pub fn write(report: &Report, command: &str, folder: &Path) -> io::Result<()> {
    let plots = folder.join("bench");
    let named = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&plots).map_err(|error| named(&plots, error))?;
    let put =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|error| named(path, error));
    for (table, rows) in report.by_table() {
        if let Some(plot) = plot::svg(table.title, &rows)? {
            put(&plots.join(format!("{}.svg", table.file)), &plot)?;
        }
    }
    put(&folder.join("BENCHMARKS.md"), &page::page(report, command))
}
