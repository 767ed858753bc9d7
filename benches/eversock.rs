//! eversock beside plain TCP, in one run: `cargo bench --bench eversock [-- OPTIONS]`. The same as
//! `evs bench` (see `crates/bench`), with the library and the `evs` that it needs built on the way.
//! Options, also in the variable `EVERSOCK_BENCH`:
//!
//! * `--quick`: small amounts and few turns, minutes in all; shows that it works, not how fast
//! * `--json`: one object instead of the table
//! * `--only NAME`: only measurements whose name contains NAME; may be given again
//! * `--repeat N`: so many turns (5; with `--quick` 3)
//! * `--write DIR`: `BENCHMARKS.md` and its plots into that folder
//! * `--list`: the names

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use eversock_bench::{Find, Host, Options};

/// What the command line says.
#[derive(Debug, Default)]
struct Args {
    options: Options,
    list: bool,
    write: Option<PathBuf>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                // What cargo itself passes.
                "--bench" | "--test" => {}
                "--quick" => args.options.quick = true,
                "--json" => args.options.json = true,
                "--list" => args.list = true,
                "--only" => args.options.only.push(value()?),
                "--write" => args.write = Some(value()?.into()),
                "--repeat" => {
                    let n = value()?;
                    args.options.repeat =
                        Some(n.parse().map_err(|_| format!("not a number: {n}"))?);
                }
                _ => return Err(format!("unknown option {word}; see benches/eversock.rs")),
            }
        }
        Ok(args)
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--child") {
        return eversock_bench::child(&words[1..]);
    }
    if let Ok(more) = std::env::var("EVERSOCK_BENCH") {
        words.extend(more.split_whitespace().map(str::to_owned));
    }
    let command = format!("cargo bench --bench eversock -- {}", words.join(" "));
    let args = match Args::parse(words.into_iter()) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if args.list {
        eversock_bench::names().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    match measure(&args, &command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the measurement broke off: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True when everything that was begun has been measured.
fn measure(args: &Args, command: &str) -> io::Result<bool> {
    let own = std::env::current_exe()?;
    let host = Host {
        child: vec![own.into_os_string(), OsString::from("--child")],
        preload: built(&["-p", "eversock-preload", "--lib"], "libeversock_preload.so"),
        evs: built(&["-p", "eversock-cli", "--bin", "evs"], "evs"),
    };
    let report = eversock_bench::run(&args.options, &host, Box::new(io::stdout()))?;
    if let Some(folder) = &args.write {
        eversock_bench::write(&report, command, folder)?;
    }
    Ok(report.is_complete())
}

/// A file of the same profile, built once it is needed: cargo builds it for no benchmark by itself.
fn built(what: &'static [&'static str], file: &'static str) -> Find {
    Box::new(move || build(what, file).map_err(|error| error.to_string()))
}

fn build(what: &[&str], file: &str) -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // <target>/<profile>/deps/<this program>
    let Some(profile) = own.parent().and_then(Path::parent) else {
        return Err(io::Error::other("this program is not in a target directory"));
    };
    let name = profile.file_name().and_then(OsStr::to_str).unwrap_or("release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet"]).args(what).arg("--profile");
    command.arg(if name == "debug" { "dev" } else { name }).current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo told this benchmark of its package would make crates that ask for it build anew.
    for (name, _) in std::env::vars_os() {
        // OUT_DIR is that of our build script; ring's, and all that uses ring, would go by it.
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"];
        if name.to_str().is_some_and(|name| about_us.iter().any(|part| name.starts_with(part))) {
            command.env_remove(name);
        }
    }
    if let Some(target) = profile.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    let output = command.output()?;
    let file = profile.join(file);
    if output.status.success() && file.is_file() {
        return Ok(file);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("cargo has not built {}: {}", file.display(), said.trim())))
}
