//! `evs ls`: the sessions of this user's processes.

use clap::Args;

use crate::control::{self, Entry};
use crate::failure::Failure;
use crate::output;
use crate::units::show_size;

/// List the sessions of your running programs.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print a JSON array with all that is known of each session.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let entries = control::entries()?;
        if self.json {
            output::json_line(&entries)?;
        } else if entries.is_empty() {
            let dir = eversock::control_dir();
            eprintln!("evs: no program of yours has a session (looked in {})", dir.display());
        } else {
            let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
            rows.extend(entries.iter().map(row));
            output::text(&output::table(&rows))?;
        }
        Ok(true)
    }
}

const HEADINGS: [&str; 10] = [
    "ID",
    "SESSION",
    "PROGRAM",
    "ROLE",
    "STATE",
    "PEER",
    "SENT",
    "UNCONFIRMED",
    "RECEIVED",
    "RESUMES",
];

fn row(entry: &Entry) -> Vec<String> {
    let info = &entry.info;
    vec![
        entry.id.clone(),
        short(&info.session).to_owned(),
        entry.program.clone(),
        dash(&info.role).to_owned(),
        entry.state().to_owned(),
        info.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string()),
        show_size(info.written),
        show_size(info.written.saturating_sub(info.acked)),
        show_size(info.received),
        info.resumes.to_string(),
    ]
}

/// So much of a session's id as is unique in practice.
pub(crate) fn short(session: &str) -> &str {
    dash(session.get(..12).unwrap_or(session))
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
