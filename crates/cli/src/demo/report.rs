//! The result of the demo, as a table or as JSON.

use serde::Serialize;

use super::transfer::Report;
use crate::failure::Failure;
use crate::output;
use crate::units::{show_millis, show_size};

#[derive(Serialize)]
struct Json<'a> {
    bytes: u64,
    cuts: u64,
    resumes: u64,
    replayed_bytes: u64,
    longest_stall_ms: u64,
    sha256_sent: Option<&'a str>,
    sha256_received: Option<&'a str>,
    intact: bool,
    plain_tcp: Plain<'a>,
}

#[derive(Serialize)]
struct Plain<'a> {
    intact: bool,
    bytes: u64,
    error: Option<&'a str>,
}

/// Prints the result of the session and of the control, each of which had to move `total` bytes.
pub(crate) fn print(
    json: bool,
    mode: &str,
    total: u64,
    session: &Report,
    control: &Report,
) -> Result<(), Failure> {
    if json {
        return output::json_line(&Json {
            bytes: session.bytes,
            cuts: session.cuts,
            resumes: session.resumes,
            replayed_bytes: session.replayed,
            longest_stall_ms: session.longest_stall_ms,
            sha256_sent: session.sha256_sent.as_deref(),
            sha256_received: session.sha256_received.as_deref(),
            intact: session.intact,
            plain_tcp: Plain {
                intact: control.intact,
                bytes: control.bytes,
                error: control.error.as_deref(),
            },
        });
    }
    let mut rows = vec![["", "plain TCP", &format!("eversock ({mode})")].map(str::to_owned)];
    let mut row = |name: &str, cell: &dyn Fn(&Report) -> String| {
        rows.push([name.to_owned(), cell(control), cell(session)]);
    };
    row("bytes", &|report| format!("{} of {}", show_size(report.bytes), show_size(total)));
    row("time", &|report| {
        show_millis(u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX))
    });
    row("cuts", &|report| match (report.cuts, report.cuts_flowing) {
        (0, _) => "0".to_owned(),
        (cuts, flowing) if cuts == flowing => format!("{cuts}, all while data was flowing"),
        (cuts, flowing) => format!("{cuts}, {flowing} while data was flowing"),
    });
    row("resumes", &|report| report.resumes.to_string());
    row("replayed bytes", &|report| show_size(report.replayed));
    row("longest stall", &|report| match report.error {
        None => show_millis(report.longest_stall_ms),
        Some(_) => "did not end".to_owned(),
    });
    row("digests", &|report| match (&report.sha256_sent, &report.sha256_received) {
        (Some(sent), Some(received)) if sent == received => "equal".to_owned(),
        (Some(_), Some(_)) => "different".to_owned(),
        _ => "unknown".to_owned(),
    });
    row("result", &|report| if report.intact { "intact" } else { "broken" }.to_owned());
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.to_vec()).collect();
    output::text(&format!("\n{}", output::table(&rows)))
}
