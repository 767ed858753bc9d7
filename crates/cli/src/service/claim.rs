//! A control socket: its own user, and nobody else, may look at a program and command it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Places;
use super::asked::Reply;
use crate::failure::Failure;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// How long somebody who is connected may say nothing, or read nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the socket is left alone after the system has refused it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A control socket that is this process's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    listener: UnixListener,
    /// Locked: tells a program that runs from a socket that a dead one has left behind.
    _lock: File,
}

impl Claim {
    /// Makes the socket, in the place of one that a dead program has left behind. `what` is who it
    /// is for: "a front".
    pub(crate) fn new(path: &Path, what: &str) -> Result<Self, Failure> {
        let shown = path.display();
        let failed = |error: io::Error| {
            Failure::new(format!("{shown}: the control socket cannot be made: {error}"))
        };
        let beside = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // No partition can be called so that its own lock has this name.
            .open(beside("~lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::new(format!(
                    "{shown}: {what} runs here already; stop it first, or name another `dir` or \
                     `control`"
                )));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // It appears only once nobody else may connect to it.
        let new = beside(".new");
        remove(&new).map_err(failed)?;
        let listener = UnixListener::bind(&new).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                let long = "the name of a socket has 100 bytes at most: name a shorter `control`";
                failed(io::Error::other(long))
            }
            _ => failed(error),
        })?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&new, path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, _lock: lock })
    }

    /// Answers on threads of its own, whose names begin with `name`, for as long as the process
    /// lives. A request has `request_max` bytes at most; `answer` makes a line of JSON of it: see
    /// [`reply`].
    pub(crate) fn serve<R: DeserializeOwned>(
        &self,
        name: &'static str,
        request_max: u64,
        answer: impl Fn(R) -> Vec<u8> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let answer = Arc::new(answer);
        let places = Places::new(CONNECTIONS_MAX);
        thread::Builder::new().name(format!("{name}-control")).spawn(move || {
            loop {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                };
                // Beyond that it is closed at once: whoever asks is told that nobody answers.
                let Some(place) = places.take() else { continue };
                let answer = Arc::clone(&answer);
                let begun = thread::Builder::new().name(format!("{name}-asked")).spawn(move || {
                    let _place = place;
                    // Whoever asked has gone.
                    let _gone = talk(&stream, request_max, &*answer);
                });
                if let Err(error) = begun {
                    log::warn!("no thread for a connection to the control socket: {error}");
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without it nobody connects to a socket that nobody listens to.
        let _gone = fs::remove_file(&self.path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn talk<R: DeserializeOwned>(
    stream: &UnixStream,
    request_max: u64,
    answer: &dyn Fn(R) -> Vec<u8>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(request_max).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        let reply = match serde_json::from_slice(&line) {
            _ if !is_whole => {
                refusal(format!("a request is one line of at most {} KiB", request_max >> 10))
            }
            Ok(request) => answer(request),
            Err(error) => refusal(format!("not understood: {error}; is it of another version?")),
        };
        let mut writer = stream;
        writer.write_all(&reply)?;
        if !is_whole {
            return Ok(());
        }
    }
}

/// The answer to what cannot be done.
pub(crate) fn refusal(text: impl Into<String>) -> Vec<u8> {
    reply(&Reply::<()>::Error(text.into()))
}

/// An answer as a line.
pub(crate) fn reply(reply: &impl Serialize) -> Vec<u8> {
    // Of strings and numbers alone, which JSON has; an empty line is no answer.
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    line
}
