//! `evs spool verify`: looks at every record.

use clap::Args;
use eversock_spool::store::Checked;
use serde_json::json;

use super::{Which, pairs};
use crate::failure::Failure;
use crate::output;

/// Look at every record of the spools, also beside a front that runs.
///
/// Exit status 1 if something is wrong; then it says what, and what can be done about it.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    which: Which,
    /// This pair alone.
    #[arg(long, value_name = "PAIR")]
    pair: Option<String>,
}

/// Places that a line names.
const NAMED: usize = 20;

impl Verify {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let (mut all_well, mut found) = (true, Vec::new());
        for pair in pairs(&file, self.pair.as_deref())? {
            let checked = file.open_reader(pair).and_then(|mut reader| reader.reader().check());
            let is_well = matches!(&checked, Ok(checked) if is_well(checked));
            all_well &= is_well;
            if self.which.json {
                found.push(match checked {
                    Ok(Checked { records, damaged, faults }) => json!({
                        "pair": pair.name, "ok": is_well, "records": records, "damaged": damaged,
                        "faults": faults,
                    }),
                    Err(error) => {
                        json!({ "pair": pair.name, "ok": false, "error": error.to_string() })
                    }
                });
                continue;
            }
            match checked {
                Ok(checked) if is_well => {
                    output::text(&format!(
                        "{}: {} records are whole\n",
                        pair.name, checked.records
                    ))?;
                }
                Ok(checked) => say(&pair.name, &checked),
                Err(error) => eprintln!("evs: {}: {error}", pair.name),
            }
        }
        if self.which.json {
            output::json_line(&found)?;
        }
        Ok(all_well)
    }
}

fn is_well(checked: &Checked) -> bool {
    checked.damaged.is_empty() && checked.faults.is_empty()
}

fn say(name: &str, checked: &Checked) {
    if !checked.damaged.is_empty() {
        let mut places: Vec<String> =
            checked.damaged.iter().take(NAMED).map(u64::to_string).collect();
        if checked.damaged.len() > NAMED {
            places.push("...".to_owned());
        }
        eprintln!(
            "evs: {name}: {} of {} records are damaged: {}; the front sets them aside when it \
             comes to them, and the later ones of their keys go on: keep a copy of the spool, ask \
             their senders, then `evs spool purge {name} LSN`",
            checked.damaged.len(),
            checked.records,
            places.join(", ")
        );
    }
    for fault in &checked.faults {
        eprintln!("evs: {name}: {fault}");
    }
    if !checked.faults.is_empty() {
        eprintln!(
            "evs: {name}: look at the disk and its log; save what is whole with `evs spool export \
             {name}`, stop the front, put the spool aside, and start with a new one"
        );
    }
}
