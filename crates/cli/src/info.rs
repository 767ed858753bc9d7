//! `evs info`: all about one session.

use clap::Args;

use crate::control::{self, Entry};
use crate::failure::Failure;
use crate::output;
use crate::units::{show_millis, show_size};

/// Show all that is known of a session.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The session: PID:NUMBER, or the beginning of its id.
    id: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let entry = control::find(&self.id, |_| true)?;
        if self.json {
            output::json_line(&entry)?;
        } else {
            output::text(&output::table(&rows(&entry)))?;
        }
        Ok(true)
    }
}

fn rows(entry: &Entry) -> Vec<Vec<String>> {
    let info = &entry.info;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let exact = |bytes: u64| format!("{bytes} ({})", show_size(bytes));
    let named = |text: &str| or_dash(Some(text.to_owned()).filter(|text| !text.is_empty()));
    [
        ("id", entry.id.clone()),
        ("session", named(&info.session)),
        ("program", format!("{} (process {})", entry.program, entry.pid)),
        ("role", named(&info.role)),
        ("state", entry.state().to_owned()),
        ("without connection for", or_dash(info.detached_ms.map(show_millis))),
        ("next try in", or_dash(info.next_try_ms.map(show_millis))),
        ("last error", or_dash(info.last_error.clone())),
        ("mode", info.mode.clone()),
        ("local address", or_dash(info.local.map(|addr| addr.to_string()))),
        ("peer address", or_dash(info.peer.map(|addr| addr.to_string()))),
        ("epoch", info.epoch.to_string()),
        ("resumes", info.resumes.to_string()),
        ("replayed", exact(info.replayed)),
        ("written", exact(info.written)),
        ("confirmed of it", exact(info.acked)),
        ("kept for replay", exact(info.log_used)),
        ("received", exact(info.received)),
        ("read of it", exact(info.consumed)),
        ("window", exact(info.window)),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec()
}
