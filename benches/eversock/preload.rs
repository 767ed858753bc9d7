//! What the preload costs: a plain C program (`peer.c`) with it and without, in turn.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Options;
use crate::pair::Pair;
use crate::report::{Figure, Goal, Rows};
use crate::socket::Kind;

/// Every connection and listener of the program is virtual, or the call fails.
const RULES: &str = "[[connect]]\nmode = \"require\"\n[[listen]]\nmode = \"require\"\n";
const LIBRARY: &str = "libeversock_preload.so";
/// In the order of each turn; the reference comes first.
const LABELS: [&str; 2] = ["plain", "preloaded"];

/// The program, and the library to put under it.
#[derive(Debug)]
struct Parts {
    program: PathBuf,
    library: PathBuf,
}

/// Runs what `options` want; says so where the compiler or the library is missing.
pub(crate) fn all(options: &Options, rows: &mut Rows) -> io::Result<()> {
    let (trips, streams) = (options.wants("preload-round-trip"), options.wants("preload-stream"));
    if !trips && !streams {
        return Ok(());
    }
    let parts = match Parts::make() {
        Ok(parts) => parts,
        Err(error) => {
            rows.failed("preload-round-trip, preload-stream", &error);
            return Ok(());
        }
    };
    if trips {
        round_trip(options, rows, &parts)?;
    }
    if streams {
        stream(options, rows, &parts)?;
    }
    Ok(())
}

impl Parts {
    fn make() -> io::Result<Self> {
        let own = std::env::current_exe()?;
        // <target>/<profile>/deps/<this program>
        let Some(profile) = own.parent().and_then(Path::parent) else {
            return Err(io::Error::other("this program is not in a target directory"));
        };
        Ok(Self { program: compile(profile)?, library: library(profile)? })
    }

    fn pair(&self, label: &str) -> io::Result<Pair> {
        let preloaded = label != LABELS[0];
        // A preloaded socket is a direct one, but for who calls it.
        let kind = if preloaded { Kind::Direct } else { Kind::Plain };
        Pair::start_of(kind, |role| {
            let mut command = Command::new(&self.program);
            command.arg(role);
            if preloaded {
                command.env("LD_PRELOAD", &self.library).env("EVERSOCK_RULES", RULES);
            }
            Ok(command)
        })
    }

    fn pairs(&self) -> io::Result<Vec<Option<Pair>>> {
        LABELS.into_iter().map(|label| self.pair(label).map(Some)).collect()
    }
}

fn compile(profile: &Path) -> io::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/eversock/peer.c");
    let program = profile.join("eversock-bench-peer");
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-O2", "-Wall", "-o"]).arg(&program).arg(source);
    finished("cc", &mut command)?;
    Ok(program)
}

/// The library of the same profile: cargo builds it for no benchmark by itself.
fn library(profile: &Path) -> io::Result<PathBuf> {
    let name = profile.file_name().and_then(OsStr::to_str).unwrap_or("release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "eversock-preload", "--lib", "--profile"]);
    command.arg(if name == "debug" { "dev" } else { name }).current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo told this benchmark of its package would make crates that ask for it build anew.
    for (name, _) in std::env::vars_os() {
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name.to_str().is_some_and(|name| about_us.iter().any(|part| name.starts_with(part))) {
            command.env_remove(name);
        }
    }
    if let Some(target) = profile.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    finished("cargo build -p eversock-preload", &mut command)?;
    let library = profile.join(LIBRARY);
    if library.is_file() {
        return Ok(library);
    }
    Err(io::Error::other(format!("{}: cargo has built no such file", library.display())))
}

fn finished(what: &str, command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| {
        io::Error::new(error.kind(), format!("{what} cannot be run ({error}); install it"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what}: {}\n{text}", output.status)))
}

fn figures(make: impl Fn(&str) -> Figure) -> Vec<(&'static str, Figure)> {
    LABELS.into_iter().map(|label| (label, make(label))).collect()
}

/// Each program in turn; one that fails is told of and left out from then on.
fn turns(
    options: &Options,
    rows: &mut Rows,
    parts: &Parts,
    name: &str,
    mut turn: impl FnMut(usize, &mut Pair) -> io::Result<()>,
) -> io::Result<()> {
    let mut pairs = parts.pairs()?;
    for _ in 0..options.turns() {
        for (at, slot) in pairs.iter_mut().enumerate() {
            if let Some(pair) = slot
                && let Err(error) = turn(at, pair)
            {
                rows.failed(&format!("{name} {}", LABELS[at]), &error);
                *slot = None;
            }
        }
    }
    Ok(())
}

/// 64 bytes there and back, by send(2) and recv(2): see `round-trip` for `apart` and `together`.
fn round_trip(options: &Options, rows: &mut Rows, parts: &Parts) -> io::Result<()> {
    let count = if options.quick { 500 } else { 20_000 };
    for (place, client_cpu, server_cpu) in [("apart", 0, 1), ("together", 0, 0)] {
        let name = format!("preload-round-trip-64B {place}");
        let mut medians = figures(|label| {
            let figure = Figure::new(format!("{name} p50"), "us");
            if label == LABELS[0] { figure } else { figure.goal(Goal::RatioAtMost(1.10)) }
        });
        let mut tails = figures(|_| Figure::new(format!("{name} p99"), "us"));
        turns(options, rows, parts, &name, |at, pair| {
            pair.both(&format!("pin {client_cpu}"), &format!("pin {server_cpu}"))?;
            pair.open()?;
            let (client, _) = pair.both(&format!("ping {count} 64"), "echo 64")?;
            medians[at].1.add(client[0] * 1e-3);
            tails[at].1.add(client[1] * 1e-3);
            Ok(())
        })?;
        rows.group_of(medians);
        rows.group_of(tails);
    }
    Ok(())
}

/// 64 KiB at a time by write(2), as fast as it goes; timed until the reader has all.
fn stream(options: &Options, rows: &mut Rows, parts: &Parts) -> io::Result<()> {
    const BYTES: usize = 64 << 10;
    let total: usize = if options.quick { 32 << 20 } else { 1 << 30 };
    let count = total / BYTES;
    let mut rates = figures(|label| {
        let figure = Figure::new("preload-stream-64KiB", "MiB/s");
        if label == LABELS[0] { figure } else { figure.goal(Goal::RatioAtLeast(0.90)) }
    });
    let mut costs = figures(|_| Figure::new("preload-stream-64KiB processor", "s/GiB"));
    turns(options, rows, parts, "preload-stream-64KiB", |at, pair| {
        pair.open()?;
        let (client, server) =
            pair.both(&format!("write {count} {BYTES}"), &format!("read {BYTES}"))?;
        let moved = (count * BYTES) as f64;
        rates[at].1.add(moved / (1 << 20) as f64 / (client[0] * 1e-9));
        // The reader's cost includes the warm-up; so does its amount.
        let gib = (1u64 << 30) as f64;
        costs[at].1.add(client[1] * 1e-9 / (moved / gib) + server[0] * 1e-9 / (server[1] / gib));
        Ok(())
    })?;
    rows.group_of(rates);
    rows.group_of(costs);
    Ok(())
}
