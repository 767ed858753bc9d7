//! What becomes of sessions, and what is asked about them.

use super::*;

impl State {
    pub(super) fn verify(&mut self, session: u64, addr: SocketAddr, now: u64) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        if session.verified.len() >= VERIFIED_MAX && !session.verified.contains_key(&addr) {
            let oldest = session.verified.iter().min_by_key(|(_, at)| **at).map(|(addr, _)| *addr);
            oldest.and_then(|oldest| session.verified.remove(&oldest));
        }
        session.verified.insert(addr, now);
    }

    /// The session has lost its connection and looks for another.
    pub fn lost(&mut self, session: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.attached = false;
        }
    }

    /// Whether a connection carries the session.
    pub fn set_attached(&mut self, session: u64, attached: bool) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.attached = attached;
        }
    }

    /// The address that has proven last to be the session's server's.
    pub fn freshest(&self, session: u64) -> Option<SocketAddr> {
        let verified = &self.sessions.get(&session)?.verified;
        verified.iter().max_by_key(|(_, at)| **at).map(|(addr, _)| *addr)
    }

    /// The session goes on, over this address: which has thereby proven to be its server's.
    /// `by_choice`: it was to go there, and had not lost its line. `is_hint`: it was known by
    /// names alone; that it leads there does not make it the server's, as whoever is there may pass
    /// on what it hears.
    pub fn resumed(
        &mut self,
        session: u64,
        addr: SocketAddr,
        by_choice: bool,
        is_hint: bool,
        now: u64,
    ) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        found.attached = true;
        let before = std::mem::replace(&mut found.addr, addr);
        if found.server.is_some() && !is_hint {
            self.verify(session, addr, now);
        }
        if before != addr {
            let count =
                if by_choice { &mut self.metrics.migrations } else { &mut self.metrics.failovers };
            *count += 1;
        }
    }

    /// The session has ended. Its connections are told one by one ([`Self::closed`]).
    pub fn died(&mut self, session: u64) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        found.phase = Phase::Dead;
        if found.references == 0 {
            self.sessions.remove(&session);
        }
    }

    /// As [`Self::went_away`], while connections of it are being sent elsewhere.
    pub fn leave(&mut self, session: u64) {
        let found = self.sessions.get_mut(&session);
        if let Some(found) = found.filter(|found| matches!(found.phase, Phase::Active)) {
            self.metrics.goaways += 1;
            found.phase = Phase::Draining;
        }
    }

    /// The server takes no more connections on this session.
    pub fn went_away(&mut self, session: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(found) = self.sessions.get_mut(&session) else { return todo };
        if matches!(found.phase, Phase::Active | Phase::Lingering(_)) {
            self.metrics.goaways += 1;
            found.phase = Phase::Draining;
            if found.references == 0 {
                self.sessions.remove(&session);
                todo.push(Todo::Close { session });
            }
        }
        todo
    }

    /// The server of the connection's session does not have the service: it is tried once more, on
    /// a session that is made for it. The second time it fails.
    pub fn misdirected(&mut self, connection: u64, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(found) = self.connections.get_mut(&connection) else { return todo };
        let Place::On(session) = found.place else { return todo };
        self.metrics.misdirected += 1;
        let again = !std::mem::replace(&mut found.was_misdirected, true);
        found.place = Place::Waiting;
        let key = found.want.key;
        if let Some(server) = self.sessions.get(&session).and_then(|session| session.server) {
            if self.misdirected.len() >= MISDIRECTED_MAX {
                let oldest = self.misdirected.iter().min_by_key(|(_, until)| **until);
                let oldest = oldest.map(|(pair, _)| *pair);
                oldest.and_then(|oldest| self.misdirected.remove(&oldest));
            }
            self.misdirected.insert((key, server.id), now.saturating_add(self.rules.refused_for));
        }
        self.release(session, now, &mut todo);
        if again {
            self.place(connection, now, &mut todo);
        } else {
            self.connections.remove(&connection);
            todo.push(Todo::Fail { connection, error: ECONNREFUSED });
        }
        todo
    }

    /// The session has not taken the connection, as it takes no more now: it goes elsewhere, with a
    /// few tries.
    pub fn sent_back(&mut self, connection: u64, is_full: bool, now: u64) -> Vec<Todo> {
        let mut todo = Vec::new();
        let Some(found) = self.connections.get_mut(&connection) else { return todo };
        let Place::On(session) = found.place else { return todo };
        found.place = Place::Waiting;
        found.sent_back = found.sent_back.saturating_add(1);
        let again = found.sent_back <= SENT_BACK_MAX;
        if let Some(session) = self.sessions.get_mut(&session).filter(|_| is_full) {
            session.full_until = now.saturating_add(FULL_FOR);
        }
        self.release(session, now, &mut todo);
        if again {
            self.place(connection, now, &mut todo);
        } else {
            self.connections.remove(&connection);
            todo.push(Todo::Fail { connection, error: EAGAIN });
        }
        todo
    }

    /// What is due by now.
    pub fn tick(&mut self, now: u64) -> Vec<Todo> {
        #[cfg(test)]
        if self.bug == Some(tests::Bug::LingersForEver) {
            return Vec::new();
        }
        let is_due = |session: &Session| match session.phase {
            Phase::Lingering(until) => until <= now,
            _ => false,
        };
        let due = self.sessions.iter().filter(|(_, session)| is_due(session));
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        for session in &due {
            self.sessions.remove(session);
        }
        self.alone.retain(|_, (until, _)| *until > now);
        self.misdirected.retain(|_, until| *until > now);
        due.into_iter().map(|session| Todo::Close { session }).collect()
    }

    /// When [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let lingering = |session: &Session| match session.phase {
            Phase::Lingering(until) => Some(until),
            _ => None,
        };
        self.sessions.values().filter_map(lingering).min()
    }

    /// Every session, none of which goes on: the pool ends, or is a child's copy.
    pub fn clear(&mut self) -> Vec<Todo> {
        self.flights.clear();
        self.connections.clear();
        let sessions = std::mem::take(&mut self.sessions);
        sessions.into_keys().map(|session| Todo::Close { session }).collect()
    }

    /// A session that stands to a server that these addresses might belong to, by all that a
    /// connection must have in common with it: whom to ask for a proof.
    pub fn might_be(&self, flight: u64, now: u64) -> Vec<u64> {
        let Some(flight) = self.flights.get(&flight) else { return Vec::new() };
        let fits = |(number, session): &(&u64, &Session)| {
            session.key == flight.key && session.attached && self.takes_more(**number, now)
        };
        self.sessions.iter().filter(fits).map(|(number, _)| *number).collect()
    }

    /// The addresses that the flight dials.
    pub fn flight_addrs(&self, flight: u64) -> Vec<SocketAddr> {
        self.flights.get(&flight).map(|flight| flight.addrs.clone()).unwrap_or_default()
    }

    /// The first connection that waits for the flight.
    pub fn first_of(&self, flight: u64) -> Option<u64> {
        self.flights.get(&flight)?.waiting.first().copied()
    }

    /// The session that the connection is on.
    pub fn session_of(&self, connection: u64) -> Option<u64> {
        match self.connections.get(&connection)?.place {
            Place::On(session) => Some(session),
            Place::Waiting => None,
        }
    }

    /// Nothing that was learned of addresses holds any more: the network is another.
    pub fn forget_addresses(&mut self) {
        self.alone.clear();
        self.sessions.values_mut().for_each(|session| session.verified.clear());
    }

    /// The addresses that have proven to be the session's server's.
    pub fn verified(&self, session: u64) -> Vec<SocketAddr> {
        let session = self.sessions.get(&session);
        session.map(|session| session.verified.keys().copied().collect()).unwrap_or_default()
    }

    /// The address that the session is over, or was last.
    pub fn addr(&self, session: u64) -> Option<SocketAddr> {
        self.sessions.get(&session).map(|session| session.addr)
    }

    /// The session's server.
    pub fn server(&self, session: u64) -> Option<Server> {
        self.sessions.get(&session).and_then(|session| session.server)
    }

    /// Connections on the session.
    pub fn references(&self, session: u64) -> u32 {
        self.sessions.get(&session).map_or(0, |session| session.references)
    }
}
