//! `evs dedup`: which connections of this user's processes share a session, and why others do not.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::control;
use crate::failure::Failure;
use crate::output;

/// Show which connections share a session with others to the same server, and why, or why not.
#[derive(Debug, Args)]
pub(crate) struct Dedup {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the connections of your programs' pools, with their servers, sessions and lines.
    ///
    /// WHY is `first`, `shared` or `late-merge` (a session was dialled before its server was known
    /// to be one that there was a session to), or what stood against sharing. A process with
    /// several pools has them as PID, PID/2 and so on.
    Ls(Scope),
    /// Show what your programs' pools have counted: sessions opened and saved, moves, fail-overs.
    Metrics(Scope),
}

#[derive(Debug, Args)]
struct Scope {
    /// Print a JSON array with all that is known: an object a connection, or a pool.
    #[arg(long)]
    json: bool,
    /// Of this process alone.
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
}

/// A pool of a process.
#[derive(Debug, Deserialize)]
struct Pool {
    rows: Vec<Map<String, Value>>,
    metrics: Map<String, Value>,
}

impl Dedup {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match self.what {
            What::Ls(scope) => scope.ls(),
            What::Metrics(scope) => scope.metrics(),
        }?;
        Ok(true)
    }
}

impl Scope {
    fn ls(&self) -> Result<(), Failure> {
        let rows: Vec<Map<String, Value>> = self
            .pools()?
            .into_iter()
            .flat_map(|(pid, number, pool)| {
                pool.rows.into_iter().map(move |row| named(pid, number, row))
            })
            .collect();
        if self.json {
            return output::json_line(&rows);
        }
        if rows.is_empty() {
            return self.nothing("no program of yours has a connection that could share a session");
        }
        let mut shown = vec![HEADINGS.map(str::to_owned).to_vec()];
        shown.extend(rows.iter().map(row));
        output::text(&output::table(&shown))
    }

    fn metrics(&self) -> Result<(), Failure> {
        let pools: Vec<Map<String, Value>> = self
            .pools()?
            .into_iter()
            .map(|(pid, number, pool)| named(pid, number, pool.metrics))
            .collect();
        if self.json {
            return output::json_line(&pools);
        }
        if pools.is_empty() {
            return self.nothing("no program of yours has a pool of sessions");
        }
        // A pool has more figures than a line has room for: they stand below each other.
        let mut shown = vec![vec!["PID".to_owned()]];
        shown[0].extend(pools.iter().map(process));
        for name in METRICS {
            let mut line = vec![name.replace('_', " ")];
            line.extend(pools.iter().map(|pool| text(pool, name)));
            shown.push(line);
        }
        for (at, why) in refusals(&pools).into_iter().enumerate() {
            let mut line = vec![if at == 0 { "not shared: ".to_owned() } else { " ".repeat(12) }];
            line[0].push_str(&why);
            line.extend(
                pools
                    .iter()
                    .map(|pool| pool["refused"][&why].as_u64().unwrap_or(0))
                    .map(|count| count.to_string()),
            );
            shown.push(line);
        }
        output::text(&output::table(&shown))
    }

    fn nothing(&self, what: &str) -> Result<(), Failure> {
        let dir = eversock::control_dir();
        match self.pid {
            Some(pid) => eprintln!("evs: process {pid} has nothing of the kind"),
            None => eprintln!("evs: {what} (looked in {})", dir.display()),
        }
        Ok(())
    }

    /// The pools, with their processes, and their numbers within those from 1.
    fn pools(&self) -> Result<Vec<(u32, usize, Pool)>, Failure> {
        let mut all = Vec::new();
        for (pid, table) in control::tables("dedup", self.pid)? {
            let pools: Vec<Pool> = serde_json::from_value(table).map_err(|error| {
                Failure::new(format!(
                    "what process {pid} tells of its pools is not understood ({error}); is it of \
                     another version than this evs?"
                ))
            })?;
            all.extend(pools.into_iter().zip(1..).map(|(pool, number)| (pid, number, pool)));
        }
        Ok(all)
    }
}

/// In the order of the patent's table: the connection, where it goes, its line, who else is on it.
const HEADINGS: [&str; 13] = [
    "MGMT",
    "PID",
    "APPLICATION",
    "REQUESTED",
    "ADDRESS",
    "SERVER",
    "SESSION",
    "EPOCH",
    "STATE",
    "REFS",
    "RTT",
    "LOSS",
    "WHY",
];

const METRICS: [&str; 12] = [
    "opens",
    "sessions_opened",
    "sessions_saved",
    "late_merges",
    "query_hits",
    "forged",
    "migrations",
    "migrations_failed",
    "failovers",
    "resets_by_boot",
    "goaways",
    "misdirected",
];

fn named(pid: u32, number: usize, mut object: Map<String, Value>) -> Map<String, Value> {
    object.insert("pid".to_owned(), pid.into());
    object.insert("pool".to_owned(), number.into());
    object
}

fn row(row: &Map<String, Value>) -> Vec<String> {
    let short = |key: &str| text(row, key).chars().take(8).collect();
    let number = |key: &str| row.get(key).and_then(Value::as_f64);
    let rtt = number("rtt_us").map(|micros| format!("{:.3} ms", micros / 1e3));
    let loss = number("loss_ppm").map(|ppm| format!("{:.2} %", ppm / 1e4));
    let dash = || "-".to_owned();
    vec![
        text(row, "management"),
        process(row),
        text(row, "application"),
        text(row, "requested"),
        text(row, "address"),
        short("server"),
        short("session"),
        text(row, "epoch"),
        text(row, "state"),
        text(row, "references"),
        rtt.unwrap_or_else(dash),
        loss.unwrap_or_else(dash),
        text(row, "why"),
    ]
}

fn process(of: &Map<String, Value>) -> String {
    match text(of, "pool").as_str() {
        "1" => text(of, "pid"),
        number => format!("{}/{number}", text(of, "pid")),
    }
}

/// A cell; what is not known is a dash.
fn text(of: &Map<String, Value>, key: &str) -> String {
    match of.get(key) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Why connections of any of the pools got a session of their own.
fn refusals(pools: &[Map<String, Value>]) -> Vec<String> {
    let all = pools.iter().filter_map(|pool| pool.get("refused")?.as_object());
    let mut names: Vec<String> = all.flat_map(|refused| refused.keys().cloned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
