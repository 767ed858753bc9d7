//! What is said on the control socket of a front: one line of JSON each way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use eversock_spool::pair::Command;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::stat::{Front, Row};
use crate::failure::Failure;

/// Bytes of a request.
pub(super) const REQUEST_MAX: u64 = 64 << 10;
/// Rows of one answer.
pub(super) const ROWS_MAX: usize = 1000;
/// Places in one request: as many as fit.
pub(super) const LSNS_MAX: usize = 1000;
/// Bytes of an answer: rows of it have less than 10 KiB each.
const REPLY_MAX: u64 = 16 << 20;
/// A command waits for a disk up to 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    /// How everything is: [`Front`].
    Stat,
    /// Records above a place: [`Row`]s.
    Ls { pair: String, after: u64, limit: usize },
    /// Do something: a sentence.
    Do { pair: String, order: Order },
}

/// What a pair is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    Hold,
    Release,
    Switch,
    SwitchNow,
    Suspect,
    Retry(Vec<u64>),
    Purge(Vec<u64>),
}

impl From<Order> for Command {
    fn from(order: Order) -> Self {
        match order {
            Order::Hold => Self::Hold,
            Order::Release => Self::Release,
            Order::Switch => Self::Switch,
            Order::SwitchNow => Self::SwitchNow,
            Order::Suspect => Self::Suspect,
            Order::Retry(lsns) => Self::Retry(lsns),
            Order::Purge(lsns) => Self::Purge(lsns),
        }
    }
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply<T> {
    Ok(T),
    Error(String),
}

/// A front that runs.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    path: &'a Path,
}

impl<'a> Asked<'a> {
    /// The front behind this socket, if one runs.
    pub(super) fn find(path: &'a Path) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(path) {
            Ok(_) => Ok(Some(Self { path })),
            Err(error) if is_nobody(&error) => Ok(None),
            Err(error) => Err(Failure::new(format!(
                "{}: the front cannot be asked: {error}; only its own user may",
                path.display()
            ))),
        }
    }

    pub(super) fn stat(&self) -> Result<Front, Failure> {
        self.ask(&Request::Stat)
    }

    pub(super) fn rows(&self, pair: &str, after: u64, limit: usize) -> Result<Vec<Row>, Failure> {
        let limit = limit.min(ROWS_MAX);
        self.ask(&Request::Ls { pair: pair.to_owned(), after, limit })
    }

    pub(super) fn order(&self, pair: &str, order: Order) -> Result<String, Failure> {
        self.ask(&Request::Do { pair: pair.to_owned(), order })
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let path = self.path.display();
        match self.exchange(request) {
            Ok(Reply::Ok(value)) => Ok(value),
            Ok(Reply::Error(text)) => Err(Failure::new(text)),
            Err(error) if is_nobody(&error) => {
                Err(Failure::new(format!("{path}: the front has ended; start it again")))
            }
            Err(error) => Err(Failure::new(format!(
                "{path}: the front does not answer: {error}; look at what it logs"
            ))),
        }
    }

    fn exchange<T: DeserializeOwned>(&self, request: &Request) -> io::Result<Reply<T>> {
        let mut stream = UnixStream::connect(self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
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
