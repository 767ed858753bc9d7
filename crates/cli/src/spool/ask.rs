//! What is said on the control socket of a front.

use std::path::Path;

use eversock_spool::pair::Command;
use serde::{Deserialize, Serialize};

use super::stat::{Front, Row};
use crate::failure::Failure;
use crate::service::asked;

/// Bytes of a request.
pub(super) const REQUEST_MAX: u64 = 64 << 10;
/// Rows of one answer.
pub(super) const ROWS_MAX: usize = 1000;
/// Places in one request.
pub(super) const LSNS_MAX: usize = 1000;

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

/// A front that runs.
#[derive(Debug)]
pub(super) struct Asked<'a>(asked::Asked<'a>);

impl<'a> Asked<'a> {
    /// The front behind this socket, if one runs.
    pub(super) fn find(path: &'a Path) -> Result<Option<Self>, Failure> {
        Ok(asked::Asked::find(path, "the front")?.map(Self))
    }

    pub(super) fn stat(&self) -> Result<Front, Failure> {
        self.0.ask(&Request::Stat)
    }

    pub(super) fn rows(&self, pair: &str, after: u64, limit: usize) -> Result<Vec<Row>, Failure> {
        let limit = limit.min(ROWS_MAX);
        self.0.ask(&Request::Ls { pair: pair.to_owned(), after, limit })
    }

    pub(super) fn order(&self, pair: &str, order: Order) -> Result<String, Failure> {
        self.0.ask(&Request::Do { pair: pair.to_owned(), order })
    }
}
