//! Connections to controllers, each shared by a group of devices.

use std::collections::{BTreeSet, HashMap};

use crate::conn::ConnId;
use crate::model::ControllerId;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Dialling,
    Greeting(ConnId),
    Up(ConnId),
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) controller: ControllerId,
    pub(super) group: u32,
    pub(super) stage: Stage,
    pub(super) users: BTreeSet<u32>,
}

impl Line {
    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.stage {
            Stage::Dialling => None,
            Stage::Greeting(conn) | Stage::Up(conn) => Some(conn),
        }
    }
}

/// All of them, by numbers that are never used twice.
#[derive(Debug, Default)]
pub(super) struct Lines {
    last: u64,
    lines: HashMap<u64, Line>,
    by_key: HashMap<(ControllerId, u32), u64>,
    by_conn: HashMap<ConnId, u64>,
}

impl Lines {
    pub(super) fn find(&self, controller: &ControllerId, group: u32) -> Option<u64> {
        self.by_key.get(&(controller.clone(), group)).copied()
    }

    pub(super) fn of_conn(&self, conn: ConnId) -> Option<u64> {
        self.by_conn.get(&conn).copied()
    }

    pub(super) fn get(&self, number: u64) -> Option<&Line> {
        self.lines.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Line> {
        self.lines.get_mut(&number)
    }

    pub(super) fn add(&mut self, controller: ControllerId, group: u32, user: u32) -> u64 {
        self.last += 1;
        self.by_key.insert((controller.clone(), group), self.last);
        let users = BTreeSet::from([user]);
        let line = Line { controller, group, stage: Stage::Dialling, users };
        self.lines.insert(self.last, line);
        self.last
    }

    /// The connection stands; false if nobody wants it any more.
    pub(super) fn opened(&mut self, number: u64, conn: ConnId) -> bool {
        let Some(line) = self.lines.get_mut(&number) else { return false };
        line.stage = Stage::Greeting(conn);
        self.by_conn.insert(conn, number);
        true
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Line> {
        let line = self.lines.remove(&number)?;
        self.by_key.remove(&(line.controller.clone(), line.group));
        if let Some(conn) = line.conn() {
            self.by_conn.remove(&conn);
        }
        Some(line)
    }
}
