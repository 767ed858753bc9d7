//! What the preload costs: a plain C program (`peer.c`) with it and without, in turn.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::trips::timed;
use crate::Bench;
use crate::lane::{Lane, labels, take_some_turns};
use crate::pair::Pair;
use crate::report::{Goal, Group, Report};

/// Every connection and listener of the program is virtual, or the call fails.
const RULES: &str = "[[connect]]\nmode = \"require\"\n[[listen]]\nmode = \"require\"\n";
const PROGRAM: &str = include_str!("../peer.c");
/// In the order of each turn; the reference comes first.
const LABELS: [&str; 2] = ["plain", "preloaded"];

/// The program, and the library to put under it. The program's folder goes with it.
#[derive(Debug)]
struct Parts {
    folder: PathBuf,
    library: PathBuf,
}

impl Drop for Parts {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

impl Parts {
    /// Says so where the compiler or the library is missing.
    fn make(bench: &Bench<'_>, report: &mut Report, name: &str) -> io::Result<Option<Self>> {
        let library = match (bench.host.preload)() {
            Ok(library) => library,
            Err(why) => {
                report.skipped(name, &why);
                return Ok(None);
            }
        };
        let folder = std::env::temp_dir().join(format!("evs-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let parts = Self { folder, library };
        if let Err(why) = compile(&parts.folder) {
            report.skipped(name, &why);
            return Ok(None);
        }
        Ok(Some(parts))
    }

    fn lane(&self, label: &'static str) -> io::Result<Lane> {
        let pair = Pair::start_of(|role| {
            let mut command = Command::new(self.folder.join("peer"));
            command.arg(role);
            if label != LABELS[0] {
                command.env("LD_PRELOAD", &self.library).env("EVERSOCK_RULES", RULES);
            }
            Ok(command)
        })?;
        Ok(Lane::new(label, pair))
    }

    fn lanes(&self) -> io::Result<Vec<Lane>> {
        LABELS.into_iter().map(|label| self.lane(label)).collect()
    }
}

fn compile(folder: &Path) -> Result<(), String> {
    let source = folder.join("peer.c");
    std::fs::write(&source, PROGRAM).map_err(|error| format!("{}: {error}", source.display()))?;
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-O2", "-Wall", "-o"]).arg(folder.join("peer")).arg(&source);
    let output =
        command.output().map_err(|error| format!("cc cannot be run ({error}); install it"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cc: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// 64 bytes there and back, by send(2) and recv(2).
pub(crate) fn round_trip(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    let Some(parts) = Parts::make(bench, report, "preload-round-trip")? else { return Ok(()) };
    let goals = Some((LABELS[1], 1.05, None));
    timed(bench, report, "preload-round-trip-64B", 64, goals, || parts.lanes())
}

/// 64 KiB at a time by write(2), as fast as it goes; timed until the reader has all.
pub(crate) fn stream(bench: &Bench<'_>, report: &mut Report) -> io::Result<()> {
    const BYTES: usize = 64 << 10;
    let Some(parts) = Parts::make(bench, report, "preload-stream")? else { return Ok(()) };
    let total: usize = bench.amount(1 << 30, 32 << 20);
    let count = total / BYTES;
    let lanes = parts.lanes()?;
    let rates = Group::new(&labels(&lanes), "preload-stream-64KiB", "MiB/s");
    let mut rates = rates.goal(LABELS[1], Goal::RatioAtLeast(0.95));
    let mut costs = Group::new(&labels(&lanes), "preload-stream-64KiB processor", "s/GiB");
    let turns = super::streams::turns(bench);
    take_some_turns(turns, report, "preload-stream-64KiB", lanes, |_, at, pair| {
        pair.open()?;
        let (client, server) =
            pair.both(&format!("write {count} {BYTES}"), &format!("read {BYTES}"))?;
        let moved = (count * BYTES) as f64;
        rates.add(at, moved / (1 << 20) as f64 / (client[0] * 1e-9));
        // The reader's cost includes the warm-up; so does its amount.
        let gib = (1u64 << 30) as f64;
        costs.add(at, client[1] * 1e-9 / (moved / gib) + server[0] * 1e-9 / (server[1] / gib));
        Ok(())
    });
    report.group(&rates)?;
    report.group(&costs)
}
