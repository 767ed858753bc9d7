//! What sessions do, and what the engine says of their connections.

use super::*;

impl Client {
    pub(super) fn work(&mut self) {
        let now = self.clock.now();
        let ids: Vec<u32> = self.held.keys().copied().collect();
        for id in ids {
            let Some(held) = self.held.get_mut(&id) else { continue };
            let mut tell = Vec::new();
            match &mut held.load {
                Load::Shared(carrier) => carrier.turn(&mut self.buf, now, &mut tell),
                Load::Lone(lone) => {
                    if lone.turn(&mut self.buf) {
                        tell.push(Happening::Over { connection: lone.connection });
                        tell.push(Happening::Ended { error: None });
                    }
                }
            }
            self.happened(id, tell);
        }
    }

    pub(super) fn happened(&mut self, id: u32, tell: Vec<Happening>) {
        let Some(session) = self.held.get(&id).map(|held| held.session) else { return };
        for happening in tell {
            let now = self.clock.now();
            match happening {
                Happening::Over { connection } => {
                    self.unaccepted.remove(&connection);
                    self.close_connection(connection);
                }
                Happening::Accepted { connection } => {
                    self.unaccepted.remove(&connection);
                }
                Happening::Opened { stream, .. } => {
                    // A server has nothing to open here.
                    if let Some(Held { load: Load::Shared(carrier), .. }) = self.held.get_mut(&id) {
                        carrier.refuse(stream, reason::UNKNOWN_SERVICE);
                    }
                }
                Happening::SentBack { connection, far, skip, said, reason } => {
                    // It will be known by another number.
                    self.inbox.watch.remove(&far);
                    let Some((how, preface)) = self.unaccepted.remove(&connection) else {
                        crate::hub::pipe::reset(&far);
                        self.close_connection(connection);
                        continue;
                    };
                    let pending = Pending {
                        ticket: 0,
                        how,
                        preface,
                        far,
                        skip,
                        near: None,
                        said,
                        tell: None,
                    };
                    self.pending.insert(connection, pending);
                    let todo = {
                        let state = &mut look(&self.books).state;
                        if reason == reason::GONE_AWAY {
                            // Said before it is heard in its own right: nobody else is sent there.
                            state.leave(session);
                        }
                        match reason {
                            reason::MISDIRECTED => state.misdirected(connection, now),
                            reason => state.sent_back(connection, reason == reason::FULL, now),
                        }
                    };
                    self.perform(todo);
                }
                Happening::GoesAway { code } => {
                    log::info!("session {session}: its server takes no more connections ({code})");
                    let todo = look(&self.books).state.went_away(session);
                    self.perform(todo);
                }
                Happening::Ended { error } => {
                    if let Some(error) = error {
                        log::info!("session {session} has ended, and what was on it: {error}");
                    }
                    self.held.remove(&id);
                    self.by_session.remove(&session);
                    self.lines.ended(session);
                    let mut shown = look(&self.books);
                    shown.state.died(session);
                    shown.lines.remove(&session);
                    shown.links.remove(&session);
                    shown.hints.remove(&session);
                }
            }
        }
    }

    /// What the engine says of the sessions' connections.
    pub(super) fn hear_sessions(&mut self) {
        let mut heard = Vec::new();
        for held in self.held.values() {
            let Some(events) = &held.events else { continue };
            heard.extend(events.try_iter().map(|event| (held.session, held.number, event.kind)));
        }
        let now = self.clock.now();
        let spoken_of: std::collections::BTreeSet<(u64, RawFd)> =
            heard.iter().map(|(session, number, _)| (*session, *number)).collect();
        for (session, number, kind) in heard {
            match kind {
                EventKind::Fault { .. } => look(&self.books).state.lost(session),
                EventKind::Resumed { .. } => self.resumed(session, number),
                EventKind::MoveFailed { addr, cause } => {
                    log::info!("session {session} is not moved to {addr}: {cause}");
                    look(&self.books).state.metrics_mut().migrations_failed += 1;
                    self.lines.failed(session, addr, now);
                    self.with(session, |held, _| held.moving = None);
                }
                EventKind::Refused { addr, proven: false, .. } => {
                    log::debug!("session {session} is not known at {addr}: who is there now?");
                    let flight = look(&self.books).state.check(session);
                    if let Some(flight) = flight {
                        let todo = self.take_off_to_check(flight, session);
                        self.perform(todo);
                    }
                }
                _ => {}
            }
        }
        // The channels hold so many events and no more: what is, counts.
        for (session, number) in spoken_of {
            if let Ok(link) = posix::link(number) {
                look(&self.books).state.set_attached(session, link.attached);
            }
        }
    }

    pub(super) fn resumed(&mut self, session: u64, number: RawFd) {
        let now = self.clock.now();
        let Ok(link) = posix::link(number) else { return };
        let held = self.by_session.get(&session).and_then(|id| self.held.get_mut(id));
        let is_hint = held
            .as_ref()
            .is_some_and(|held| link.peer.is_some_and(|addr| held.only_hinted.contains(&addr)));
        let moving = held.and_then(|held| held.moving.take());
        let mut shown = look(&self.books);
        shown.links.insert(session, (link.id, link.epoch));
        let before = shown.state.addr(session);
        if let Some(addr) = link.peer {
            let by_choice = moving == Some(addr);
            shown.state.resumed(session, addr, by_choice, is_hint, now);
            self.lines.resumed(session, before != Some(addr), now);
        }
        drop(shown);
        self.measure(session);
    }

    /// What the kernel knows of the session's line.
    pub(super) fn measure(&mut self, session: u64) {
        let Some(held) = self.by_session.get(&session).and_then(|id| self.held.get_mut(id)) else {
            return;
        };
        let Ok(line) = posix::line(held.number) else { return };
        if let (Load::Shared(carrier), Some(rtt)) = (&mut held.load, line.rtt_us) {
            carrier.set_rtt(u64::from(rtt));
        }
        let link = posix::link(held.number).ok();
        let local = link.and_then(|link| link.local);
        self.lines.kernel_says(session, &line, local);
        if let Some(line) = self.lines.active(session) {
            look(&self.books).lines.insert(session, line);
        }
    }

    pub(super) fn keep_time(&mut self) {
        let now = self.clock.now();
        let todo = look(&self.books).state.tick(now);
        self.perform(todo);
        self.time_lines(now);
    }

    pub(super) fn server_of(&self, session: u64) -> Option<Server> {
        look(&self.books).state.server(session)
    }
}
