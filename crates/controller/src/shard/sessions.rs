//! The devices that are served here: on which connection, and until when without a word.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use super::input::{ConnId, Millis};
use crate::model::DeviceId;

/// A device whose newest registration, as far as is known here, is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    /// The counter of the registration.
    pub(super) seq: u64,
    /// Where it is heard; `None`: it has not been heard since the connection was lost, or since
    /// the start.
    pub(super) conn: Option<ConnId>,
    /// How long it stands without a word.
    lease: Millis,
    /// When that is over.
    until: Millis,
    /// Its entry among the deadlines, never later than `until`: a handshake moves `until` alone.
    due: Millis,
    /// Only partners say that it is here: it was not heard of yet.
    is_adopted: bool,
}

/// All of them. Each step costs the logarithm of their number.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: HashMap<DeviceId, Session>,
    conns: HashMap<ConnId, BTreeSet<DeviceId>>,
    deadlines: BTreeSet<(Millis, DeviceId)>,
    /// Those that have a connection, as a walk over the others could be long.
    connected: BTreeSet<DeviceId>,
    adopted: usize,
    /// The time that does not count: leases are kept on a clock that is so much behind.
    shift: Millis,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.connected.len()
    }

    pub(super) fn get(&self, device: &DeviceId) -> Option<&Session> {
        self.all.get(device)
    }

    /// The first device behind this one, in the order of their names, that has a connection.
    pub(super) fn connected_after(&self, device: Option<&DeviceId>) -> Option<(DeviceId, ConnId)> {
        let device =
            self.connected.range((device.map_or(Unbounded, Excluded), Unbounded)).next()?.clone();
        let conn = self.all.get(&device)?.conn?;
        Some((device, conn))
    }

    /// How many only partners speak of.
    pub(super) fn adopted(&self) -> usize {
        self.adopted
    }

    /// When the first lease may be over.
    pub(super) fn due(&self) -> Option<Millis> {
        self.deadlines.first().map(|(due, _)| due.saturating_add(self.shift))
    }

    /// All leases that have begun last so much longer.
    pub(super) fn shift(&mut self, by: Millis) {
        self.shift = self.shift.saturating_add(by);
    }

    fn clock(&self, now: Millis) -> Millis {
        now.saturating_sub(self.shift)
    }

    /// Begins a session in place of the one there may be, with a full lease.
    pub(super) fn begin(
        &mut self,
        now: Millis,
        device: &DeviceId,
        seq: u64,
        lease: Millis,
        conn: Option<ConnId>,
    ) {
        self.put(device, seq, lease, self.clock(now).saturating_add(lease), false);
        if let Some(conn) = conn {
            self.bind(device, conn);
        }
    }

    /// The same for a device that partners speak of: it has `first` to be heard of.
    pub(super) fn adopt(
        &mut self,
        now: Millis,
        device: &DeviceId,
        seq: u64,
        lease: Millis,
        first: Millis,
    ) {
        self.put(device, seq, lease, self.clock(now).saturating_add(first), true);
    }

    fn put(&mut self, device: &DeviceId, seq: u64, lease: Millis, until: Millis, is_adopted: bool) {
        self.end(device);
        self.deadlines.insert((until, device.clone()));
        let session = Session { seq, conn: None, lease, until, due: until, is_adopted };
        self.all.insert(device.clone(), session);
        self.adopted += usize::from(is_adopted);
    }

    /// A word of the device on this connection: its lease begins anew.
    pub(super) fn heard(&mut self, now: Millis, device: &DeviceId, conn: ConnId) {
        let now = self.clock(now);
        if let Some(session) = self.all.get_mut(device) {
            session.until = now.saturating_add(session.lease);
            self.adopted -= usize::from(std::mem::take(&mut session.is_adopted));
            self.bind(device, conn);
        }
    }

    fn bind(&mut self, device: &DeviceId, conn: ConnId) {
        let Some(session) = self.all.get_mut(device) else { return };
        let before = session.conn.replace(conn);
        if before == Some(conn) {
            return;
        }
        match before {
            Some(before) => self.unlist(device, before),
            None => {
                self.connected.insert(device.clone());
            }
        }
        self.conns.entry(conn).or_default().insert(device.clone());
    }

    fn unlist(&mut self, device: &DeviceId, conn: ConnId) {
        if let Some(devices) = self.conns.get_mut(&conn) {
            devices.remove(device);
            if devices.is_empty() {
                self.conns.remove(&conn);
            }
        }
    }

    /// Ends a session.
    pub(super) fn end(&mut self, device: &DeviceId) -> Option<Session> {
        let (device, session) = self.all.remove_entry(device)?;
        if let Some(conn) = session.conn {
            self.connected.remove(&device);
            self.unlist(&device, conn);
        }
        self.adopted -= usize::from(session.is_adopted);
        self.deadlines.remove(&(session.due, device));
        Some(session)
    }

    /// A connection is over.
    pub(super) fn conn_lost(&mut self, conn: ConnId) {
        for device in self.conns.remove(&conn).unwrap_or_default() {
            if let Some(session) = self.all.get_mut(&device) {
                session.conn = None;
                self.connected.remove(&device);
            }
        }
    }

    /// The next device whose lease is over; its session stays until it is ended. Looks at so many
    /// devices at most, and counts them down: there may be more while [`Self::due`] is not later.
    pub(super) fn overdue(&mut self, now: Millis, looks: &mut usize) -> Option<DeviceId> {
        let now = self.clock(now);
        loop {
            *looks = looks.checked_sub(1)?;
            let (due, device) = self.deadlines.first()?;
            if *due > now {
                return None;
            }
            let Some(session) = self.all.get_mut(device) else {
                self.deadlines.pop_first();
                continue;
            };
            if session.until <= now {
                return Some(device.clone());
            }
            session.due = session.until;
            let until = session.until;
            if let Some((_, device)) = self.deadlines.pop_first() {
                self.deadlines.insert((until, device));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;

    fn device(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    #[test]
    fn a_word_moves_the_end_of_the_lease_and_silence_does_not() {
        let mut sessions = Sessions::default();
        let (a, b) = (device("a"), device("b"));
        sessions.begin(0, &a, 1, 100, Some(1));
        sessions.begin(0, &b, 1, 100, Some(1));
        sessions.heard(50, &a, 1);
        assert_eq!(sessions.overdue(99, &mut 9), None);
        assert_eq!(sessions.overdue(100, &mut 9), Some(b.clone()));
        sessions.end(&b);
        assert_eq!(sessions.overdue(149, &mut 9), None);
        assert_eq!(sessions.due(), Some(150));
        assert_eq!(sessions.overdue(150, &mut 9), Some(a.clone()));
        sessions.end(&a);
        assert_eq!((sessions.due(), sessions.len(), sessions.connected()), (None, 0, 0));
        assert!(sessions.conns.is_empty());
    }

    #[test]
    fn a_shorter_lease_of_a_new_registration_counts() {
        let mut sessions = Sessions::default();
        sessions.begin(0, &device("a"), 1, 1000, Some(1));
        sessions.begin(0, &device("a"), 2, 10, Some(1));
        assert_eq!(sessions.overdue(10, &mut 9), Some(device("a")));
        assert_eq!(sessions.deadlines.len(), 1);
    }

    #[test]
    fn a_lost_connection_takes_only_the_devices_that_are_still_on_it() {
        let mut sessions = Sessions::default();
        let (a, b) = (device("a"), device("b"));
        sessions.begin(0, &a, 1, 100, Some(1));
        sessions.begin(0, &b, 1, 100, Some(1));
        sessions.heard(1, &b, 2);
        sessions.conn_lost(1);
        assert_eq!(sessions.get(&a).unwrap().conn, None);
        assert_eq!(sessions.get(&b).unwrap().conn, Some(2));
        assert_eq!((sessions.len(), sessions.connected()), (2, 1));
        assert_eq!(sessions.connected_after(None), Some((b.clone(), 2)));
        assert_eq!(sessions.connected_after(Some(&b)), None);
        sessions.conn_lost(1);
        sessions.end(&b);
        assert_eq!((sessions.len(), sessions.connected(), sessions.conns.len()), (1, 0, 0));
    }

    #[test]
    fn one_step_looks_at_so_many_deadlines_and_no_more() {
        let mut sessions = Sessions::default();
        for n in 0..100 {
            let name = device(&format!("d{n}"));
            sessions.begin(0, &name, 1, 100, Some(1));
            sessions.heard(50, &name, 1);
        }
        for step in 1..=10 {
            assert_eq!(sessions.overdue(100, &mut 10), None);
            let old = sessions.deadlines.range(..(101, device("a"))).count();
            assert_eq!(old, 100 - step * 10);
        }
        assert_eq!(sessions.due(), Some(150));
    }

    #[test]
    fn a_lease_is_longer_by_the_time_that_does_not_count() {
        let mut sessions = Sessions::default();
        sessions.begin(0, &device("a"), 1, 100, Some(1));
        sessions.shift(30);
        sessions.begin(40, &device("b"), 1, 50, Some(1));
        assert_eq!(sessions.due(), Some(90));
        assert_eq!(sessions.overdue(90, &mut 9), Some(device("b")));
        sessions.end(&device("b"));
        assert_eq!(sessions.overdue(129, &mut 9), None);
        assert_eq!(sessions.overdue(130, &mut 9), Some(device("a")));
    }
}
