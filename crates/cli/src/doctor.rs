//! `evs doctor`: tells in advance whether `evs run` works with a program.

use std::ffi::OsString;

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::program::{self, Report, Weight};

/// Tell whether a program's connections can be made to survive by `evs run`.
///
/// Nothing of the program is run, and what it loads later is not seen. Exit status 0: it works;
/// 1: with limits; 2: it cannot work.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The program, by name or path.
    program: OsString,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The exit status for what cannot work.
const CANNOT_WORK: u8 = 2;

impl Doctor {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let report = program::examine(&self.program)
            .map_err(|error| Failure::with_status(CANNOT_WORK, error))?;
        let (verdict, done) = match report.weight() {
            Weight::Note => ("works", Ok(true)),
            Weight::Limit => ("works with limits", Ok(false)),
            Weight::Obstacle => ("cannot work", Err(Failure::silent(CANNOT_WORK))),
        };
        if self.json {
            let line = json!({ "verdict": verdict, "report": report });
            output::json_line(&line)?;
        } else {
            output::text(&text(&report, verdict))?;
        }
        done
    }
}

fn text(report: &Report, verdict: &str) -> String {
    let mut lines = vec![format!("{}: {verdict}", report.program.display())];
    for file in report.files.iter().skip(1) {
        lines.push(format!("  run by    {}", file.display()));
    }
    if let Some(library) = &report.preload {
        lines.push(format!("  preload   {}", library.display()));
    }
    if !report.calls.is_empty() {
        let calls: Vec<&str> = report.calls.iter().map(String::as_str).collect();
        lines.push(format!("  calls     {}", calls.join(" ")));
    }
    for finding in &report.findings {
        let weight = match finding.weight {
            Weight::Note => "note",
            Weight::Limit => "limit",
            Weight::Obstacle => "obstacle",
        };
        lines.push(format!("  {weight:<9} {}", finding.what));
        if let Some(remedy) = &finding.remedy {
            lines.push(format!("            remedy: {remedy}"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}
