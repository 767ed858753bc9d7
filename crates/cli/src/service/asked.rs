//! The other end of a control socket: one line of JSON each way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Bytes of an answer: rows of it have less than 10 KiB each.
const REPLY_MAX: u64 = 16 << 20;
/// A command waits for a disk up to 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply<T> {
    Ok(T),
    Error(String),
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    path: &'a Path,
    /// Who it is: "the front".
    what: &'static str,
    patience: Duration,
}

impl<'a> Asked<'a> {
    /// The program behind this socket, if one runs.
    pub(crate) fn find(path: &'a Path, what: &'static str) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(path) {
            Ok(_) => Ok(Some(Self { path, what, patience: PATIENCE })),
            Err(error) if is_nobody(&error) => Ok(None),
            Err(error) => Err(Failure::new(format!(
                "{}: {what} cannot be asked: {error}; only its own user may",
                path.display()
            ))),
        }
    }

    /// The same for what may take longer.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience: self.patience.max(patience), ..self }
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, request: &impl Serialize) -> Result<T, Failure> {
        let (path, what) = (self.path.display(), self.what);
        match self.exchange(request) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Error(text)) => Err(Failure::new(text)),
            Err(error) if is_nobody(&error) => {
                Err(Failure::new(format!("{path}: {what} has ended; start it again")))
            }
            Err(error) => Err(Failure::new(format!(
                "{path}: {what} does not answer: {error}; look at what it logs"
            ))),
        }
    }

    fn exchange<T: DeserializeOwned>(&self, request: &impl Serialize) -> io::Result<Reply<T>> {
        let mut stream = UnixStream::connect(self.path)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut reply = Vec::new();
        BufReader::new(stream).take(REPLY_MAX).read_until(b'\n', &mut reply)?;
        if reply.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&reply)?)
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}
