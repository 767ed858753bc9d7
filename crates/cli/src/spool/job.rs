//! `evs spool export`: a spool as a job file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use eversock_spool::config::PairReader;
use eversock_spool::job::{JobError, JobWriter};
use eversock_spool::store::Found;
use serde_json::json;

use super::{Which, pair};
use crate::failure::Failure;
use crate::output;

/// Write what waits in a spool into a file, which `run-job` gives to a server.
///
/// The spool stays as it is. Records that are damaged or were set aside are left out; held ones are
/// in it. Beside a front that runs, what is drained meanwhile may be in the file as well: servers
/// with a ledger do nothing twice.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    which: Which,
    /// Which pair.
    pair: String,
    /// Where to; an existing file is not overwritten. Default: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Records, and bytes, that are read at once.
const PAGE: usize = 256;
const PAGE_BYTES: u64 = 8 << 20;

/// What was written.
#[derive(Debug, Default)]
struct Written {
    records: u64,
    damaged: Vec<u64>,
    /// Why there are fewer than there were.
    left_out: u64,
}

impl Export {
    pub(super) fn run(self) -> Result<bool, Failure> {
        let file = self.which.file()?;
        let pair = pair(&file, &self.pair)?;
        let mut reader = file.open_reader(pair).map_err(Failure::new)?;
        let written = match &self.out {
            Some(path) => into_file(&mut reader, &pair.name, path)?,
            None => {
                let out = io::stdout().lock();
                if out.is_terminal() || self.which.json {
                    return Err(Failure::usage(
                        "a job is no text: name a file with --out, or pipe standard output",
                    ));
                }
                let failed = |error: JobError| match error {
                    JobError::Io(error) => Failure::output(&error),
                    other => Failure::new(other),
                };
                write(&mut reader, &pair.name, BufWriter::new(out), failed)?.1
            }
        };
        let Written { records, damaged, left_out } = written;
        if self.which.json {
            output::json_line(&json!({
                "pair": pair.name, "records": records, "damaged": damaged, "left_out": left_out,
            }))?;
        } else {
            eprintln!("evs: {}: {records} records are exported", pair.name);
        }
        if left_out > 0 {
            eprintln!(
                "evs: {}: {left_out} records are damaged and left out, the first at {}; see `evs \
                 spool verify`",
                pair.name,
                damaged.first().copied().unwrap_or(0)
            );
        }
        Ok(left_out == 0)
    }
}

/// Whole, or not at all.
fn into_file(reader: &mut PairReader, pair: &str, path: &Path) -> Result<Written, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("{}: cannot be written: {error}", path.display()))
    };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Part(PathBuf::from(name));
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0);
    let out = BufWriter::new(new.map_err(|error| failed(&error))?);
    let (out, written) = write(reader, pair, out, |error| failed(&error))?;
    let file: File = out.into_inner().map_err(|error| failed(&error.into_error()))?;
    file.sync_all().map_err(|error| failed(&error))?;
    // Not `rename`, which would take the place of a file that is there.
    fs::hard_link(&part.0, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => failed(&"it is there already; take another name"),
        _ => failed(&error),
    })?;
    Ok(written)
}

/// Removed in the end, whatever happens.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It is a second name of what was written, or nobody needs it.
        let _gone = fs::remove_file(&self.0);
    }
}

fn write<W: Write>(
    reader: &mut PairReader,
    pair: &str,
    out: W,
    failed: impl Fn(JobError) -> Failure,
) -> Result<(W, Written), Failure> {
    let mut job = JobWriter::new(out, pair).map_err(&failed)?;
    let (mut written, mut after) = (Written::default(), 0);
    loop {
        let page = reader.reader().pending(after, PAGE, PAGE_BYTES).map_err(Failure::new)?;
        let Some(last) = page.last() else { break };
        after = last.lsn();
        for found in page {
            match found {
                Found::Whole { record, .. } => job.add(&record).map_err(&failed)?,
                Found::Damaged { lsn, .. } => {
                    written.left_out += 1;
                    // The first will do; `verify` names more.
                    if written.damaged.len() < PAGE {
                        written.damaged.push(lsn);
                    }
                }
            }
        }
    }
    let (out, records) = job.end().map_err(failed)?;
    written.records = records;
    Ok((out, written))
}
