//! The other end of the control sockets: finds the processes of this user that have sessions, and
//! asks them.
//!
//! Each such process listens on `<dir>/<pid>.sock` and answers one line of JSON with one line of
//! JSON.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use eversock::{SessionInfo, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

/// How long a process may take to answer, once for the request and once for the reply.
const PATIENCE: Duration = Duration::from_secs(2);
/// No reply is longer; a session takes less than 1 KiB.
const REPLY_BYTES_MAX: u64 = 256 << 20;

/// What is asked. See `inspect.rs` of the engine.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// All sessions of the process.
    Ls,
    /// End a session.
    Kill { id: u64 },
    /// Dial again now.
    Redial { id: u64 },
    /// Whether to recover.
    Answer { id: u64, answer: Word },
    /// What somebody above the engine tells of itself.
    Table { name: &'static str },
}

/// An answer to the question whether a session is to be recovered.
#[derive(Clone, Copy, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    /// Redial.
    Continue,
    /// End the session with one error.
    GiveUp,
}

/// A process and its sessions.
#[derive(Debug, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) sessions: Vec<SessionInfo>,
}

/// What a process says to a request that changes something.
#[derive(Debug, Deserialize)]
struct Reply {
    error: Option<String>,
}

/// A session and where it is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// What names it for sure: `<pid>:<local_id>`.
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) program: String,
    #[serde(flatten)]
    pub(crate) info: SessionInfo,
}

impl Entry {
    /// Asks its process to do something to it.
    pub(crate) fn request(&self, request: Request) -> Result<(), Failure> {
        let path = eversock::control_dir().join(format!("{}.sock", self.pid));
        let failed = |what: &dyn std::fmt::Display| {
            Failure::new(format!(
                "session {} of {} (process {}): {what}",
                self.id, self.program, self.pid
            ))
        };
        let reply: Reply = ask(&path, request).map_err(|error| {
            failed(&format!("cannot be asked on {}: {error}; has it ended?", path.display()))
        })?;
        reply.error.map_or(Ok(()), |error| Err(failed(&error)))
    }

    /// The state in the word that JSON has for it.
    pub(crate) fn state(&self) -> &'static str {
        match self.info.state {
            State::Fresh => "fresh",
            State::Connecting => "connecting",
            State::Attached => "attached",
            State::Detached => "detached",
            State::Asking => "asking",
            State::Lingering => "lingering",
            State::Closed => "closed",
            State::Failed => "failed",
        }
    }

    /// A few words for lists of candidates.
    fn brief(&self) -> String {
        let role = if self.info.role.is_empty() { "not connected" } else { &self.info.role };
        format!("  {}  {}, {role}, {}", self.id, self.program, self.state())
    }
}

/// All sessions of this user's processes, by process and number. Processes that do not answer are
/// left out with a warning; sockets that a dead process left behind silently.
pub(crate) fn entries() -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for (pid, path) in sockets()? {
        let process: Process = match ask(&path, Request::Ls) {
            Ok(process) => process,
            Err(error) if is_stale(&error) => continue,
            Err(error) => {
                eprintln!("evs: process {pid} does not answer on {}: {error}", path.display());
                continue;
            }
        };
        let Process { pid, program, sessions } = process;
        entries.extend(sessions.into_iter().map(|info| Entry {
            id: format!("{pid}:{}", info.local_id),
            pid,
            program: program.clone(),
            info,
        }));
    }
    entries.sort_by_key(|entry| (entry.pid, entry.info.local_id));
    Ok(entries)
}

/// What a process says to [`Request::Table`].
#[derive(Debug, Deserialize)]
struct Told {
    table: Option<Value>,
    error: Option<String>,
}

/// What the engine says where there is no such table.
const NO_TABLE: &str = "no such table in this process";

/// The tables of this name of this user's processes, or of one of them. As with [`entries`],
/// processes that do not answer are left out.
pub(crate) fn tables(name: &'static str, of: Option<u32>) -> Result<Vec<(u32, Value)>, Failure> {
    let mut sockets = sockets()?;
    if let Some(of) = of {
        sockets.retain(|(pid, _)| *pid == of);
        if sockets.is_empty() {
            return Err(Failure::new(format!(
                "process {of} has no control socket in {}; `evs ls` shows the processes that have \
                 sessions",
                eversock::control_dir().display()
            )));
        }
    }
    let mut tables = Vec::new();
    for (pid, path) in sockets {
        let problem = match ask::<Told>(&path, Request::Table { name }) {
            Ok(Told { table: Some(table), .. }) => {
                tables.push((pid, table));
                continue;
            }
            Ok(Told { error: Some(error), .. }) if error == NO_TABLE => continue,
            Ok(Told { error, .. }) => error.unwrap_or_else(|| "no table in its answer".to_owned()),
            Err(error) if is_stale(&error) => continue,
            Err(error) => error.to_string(),
        };
        eprintln!("evs: process {pid} gives no table {name} on {}: {problem}", path.display());
    }
    Ok(tables)
}

/// The one session that `name` names: `<pid>:<local_id>`, or the beginning of a session's id. Both
/// ends of a session have its id; `is_meant` says which of them the command can be about.
pub(crate) fn find(name: &str, is_meant: impl Fn(&Entry) -> bool) -> Result<Entry, Failure> {
    let all = entries()?;
    let wanted = name.to_ascii_lowercase();
    let is_number = wanted.contains(':');
    if !is_number && (wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(Failure::usage(format!(
            "{name:?} names no session; an ID is PID:NUMBER or the beginning of a session's id, \
             both as `evs ls` shows them"
        )));
    }
    let named: Vec<Entry> = all
        .into_iter()
        .filter(|entry| match is_number {
            true => entry.id == wanted,
            false => entry.info.session.starts_with(&wanted),
        })
        .collect();
    let meant: Vec<&Entry> = named.iter().filter(|entry| is_meant(entry)).collect();
    match (meant.as_slice(), named.as_slice()) {
        ([one], _) => Ok(Entry::clone(one)),
        ([], [one]) => Ok(one.clone()),
        ([], []) => Err(Failure::new(format!(
            "there is no session {name} in {}; `evs ls` shows those that there are",
            eversock::control_dir().display()
        ))),
        ([], several) => Err(ambiguous(name, several.iter())),
        (several, _) => Err(ambiguous(name, several.iter().copied())),
    }
}

fn ambiguous<'a>(name: &str, entries: impl Iterator<Item = &'a Entry>) -> Failure {
    let list: Vec<String> = entries.map(Entry::brief).collect();
    Failure::usage(format!(
        "{name} names {} sessions; give the PID:NUMBER of one:\n{}",
        list.len(),
        list.join("\n")
    ))
}

/// The control sockets that there are, with the number of the process in their names.
fn sockets() -> Result<Vec<(u32, PathBuf)>, Failure> {
    let dir = eversock::control_dir();
    let failed = |error: io::Error| {
        let dir = dir.display();
        Failure::new(format!("cannot read the directory {dir} of the control sockets: {error}"))
    };
    let found = match fs::symlink_metadata(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    // In /tmp anyone may have made it first, to be asked in place of our own processes.
    let ours = fs::metadata("/proc/self").map_err(failed)?.uid();
    if !found.is_dir() || found.uid() != ours || found.mode() & 0o077 != 0 {
        return Err(Failure::new(format!(
            "{} is not a directory of this user alone, so what it holds is not trusted; remove it, \
             or set XDG_RUNTIME_DIR (for the programs too)",
            dir.display()
        )));
    }
    let mut sockets = Vec::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let pid = name.and_then(|name| name.strip_suffix(".sock")?.parse().ok());
        sockets.extend(pid.map(|pid| (pid, path)));
    }
    sockets.sort_unstable();
    Ok(sockets)
}

fn is_stale(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn ask<T: for<'a> Deserialize<'a>>(path: &Path, request: Request) -> io::Result<T> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(REPLY_BYTES_MAX).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&reply)?)
}
