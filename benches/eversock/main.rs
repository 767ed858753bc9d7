//! eversock beside plain TCP, in one run: `cargo bench --bench eversock [-- OPTIONS]`.
//!
//! Every figure is taken for plain TCP, direct and pumped in turn (A B C A B C ...), after a
//! warm-up, between two processes that this program starts from itself; the median of the turns is
//! printed with its least and greatest. The `preload` figures are those of a C program, compiled
//! for the purpose, alone and under the preload library in turn. Options, also in the variable
//! `EVERSOCK_BENCH`:
//!
//! * `--quick`: small amounts and few turns, seconds in all; shows that it works, not how fast
//! * `--json`: one object with the keys `machine`, `quick`, `rows` instead of the table
//! * `--only NAME`: only measurements whose name contains NAME; may be given again
//! * `--repeat N`: so many turns (5; with `--quick` 3)
//! * `--list`: the names

mod child;
mod measure;
mod pair;
mod preload;
mod report;
mod socket;
mod usage;

use std::process::ExitCode;

/// What to do, from the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    json: bool,
    list: bool,
    only: Vec<String>,
    repeat: Option<usize>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // What cargo itself passes.
                "--bench" | "--test" => {}
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--list" => options.list = true,
                "--only" => options.only.push(args.next().ok_or("--only needs a name")?),
                "--repeat" => {
                    let n = args.next().ok_or("--repeat needs a number")?;
                    options.repeat = Some(n.parse().map_err(|_| format!("not a number: {n}"))?);
                }
                other => return Err(format!("unknown option {other}; see benches/eversock")),
            }
        }
        Ok(options)
    }

    /// True when the measurement was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }

    /// Turns of each measurement.
    pub(crate) fn turns(&self) -> usize {
        self.repeat.unwrap_or(if self.quick { 3 } else { 5 }).max(1)
    }
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--child") {
        return child::main(&args[1..]);
    }
    if let Ok(more) = std::env::var("EVERSOCK_BENCH") {
        args.extend(more.split_whitespace().map(str::to_owned));
    }
    let options = match Options::parse(args.into_iter()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for name in measure::NAMES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    usage::raise_descriptor_limit();
    let mut rows = report::Rows::new(options.json);
    let result = measure::all(&options, &mut rows);
    rows.finish(options.quick);
    match result {
        Ok(()) if rows.is_complete() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the measurement broke off: {error}");
            ExitCode::FAILURE
        }
    }
}
