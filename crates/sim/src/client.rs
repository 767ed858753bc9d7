//! What an engine does for a client: it dials, and dials again.
//!
//! The rules are those of PROTOCOL 6.5 and 6.6 and of the proof of a refusal (3.3); when to dial is
//! asked of `eversock_proto::redial`. What the real engine does besides (a limiter, one prober per
//! destination, hooks) is not here.

use std::time::Duration;

use eversock_proto::control::{Control, Role};
use eversock_proto::open::{Offer, OpenClient, OpenError};
use eversock_proto::redial::BackOff;
use eversock_proto::resume::{Reason, Reject, ResumeClient, ResumeError};
use eversock_proto::wire::hello::HelloReader;

use crate::Bug;
use crate::core::Core;
use crate::end::Ending;
use crate::net::{ConnId, EndId, Owner};
use crate::trace::{On, S, Time};
use crate::world::World;

/// One dial and its handshake.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) conn: ConnId,
    pub(crate) deadline: Time,
    reader: HelloReader,
    state: State,
}

#[derive(Debug)]
enum State {
    Dialing,
    Opening(Box<OpenClient>),
    Resuming(ResumeClient),
}

/// Attempts of one session at a time.
const ATTEMPTS_MAX: usize = 2;
/// Nobody proves when to come again: anybody on the path may have said it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// A connection that stood so long ends the back-off (PROTOCOL 6.5).
const STOOD_WELL: Time = S;

impl World {
    pub(crate) fn begin(&mut self, link: usize) {
        let id = (link, 0);
        self.links[link].ends[0].proc = self.hosts[self.links[link].client_host].listener;
        if self.is_over(id) {
            return;
        }
        if !self.procs[self.end(id).proc].alive {
            return self.finish(id, Ending::Killed);
        }
        // The server may have been started anew since the plan was made.
        let listener = self.hosts[self.links[link].server_host].listener;
        self.links[link].ends[1].proc = listener;
        self.dial(id);
        self.arm(id);
    }

    pub(crate) fn client_deadline(&self, id: EndId) -> Option<Time> {
        let end = self.end(id);
        let crate::end::First::Client(client) = &end.first else { return None };
        let attempts = client.attempts.iter().map(|attempt| attempt.deadline).min();
        let gives_up = client.down_since.map(|at| at + self.plan.give_up);
        let own = [client.retry_at, client.goaway_at, attempts, gives_up, self.probe_at(id)];
        own.into_iter().flatten().min()
    }

    /// When silence makes the client dial beside the connection that stands.
    fn probe_at(&self, id: EndId) -> Option<Time> {
        let end = self.end(id);
        let crate::end::First::Client(client) = &end.first else { return None };
        let expects = end.core.as_ref().is_some_and(|core| core.tx.is_expecting());
        if end.standing.is_none() || !client.attempts.is_empty() || !expects {
            return None;
        }
        let since = end.last_heard.max(client.probed_at);
        Some(since + self.plan.probe_after * (1 << client.probes.min(6)))
    }

    pub(crate) fn client_due(&mut self, id: EndId) {
        let now = self.local(id);
        let give_up = self.plan.give_up;
        let probe = self.probe_at(id).is_some_and(|at| at <= now);
        let end = self.end_mut(id);
        let has_session = end.core.is_some();
        let Some(client) = end.client() else { return };
        if client.down_since.is_some_and(|at| at + give_up <= now) {
            let ending = if has_session { Ending::TimedOut } else { Ending::NotOpened };
            return self.finish(id, ending);
        }
        let late: Vec<ConnId> = client
            .attempts
            .iter()
            .filter(|attempt| attempt.deadline <= now)
            .map(|attempt| attempt.conn)
            .collect();
        for conn in late {
            self.attempt_failed(id, conn);
        }
        let Some(client) = self.end_mut(id).client() else { return };
        if client.retry_at.is_some_and(|at| at <= now) {
            client.retry_at = None;
            self.dial(id);
        } else if client.goaway_at.is_some_and(|at| at <= now) {
            client.goaway_at = None;
            self.dial(id);
        } else if probe {
            client.probes += 1;
            client.probed_at = now;
            self.dial(id);
        }
    }

    /// Dials: for a session, for the next epoch of one, or beside the connection that stands.
    pub(crate) fn dial(&mut self, id: EndId) {
        let races = self.plan.links[id.0].races;
        self.dial_one(id);
        let knows = self.end_mut(id).client().map_or(0, |client| client.known.len());
        if races && knows > 1 && self.end(id).core.is_some() {
            self.dial_one(id);
        }
    }

    fn dial_one(&mut self, id: EndId) {
        if self.is_over(id) {
            return;
        }
        let now = self.local(id);
        let deadline = now + self.plan.attempt;
        let is_down = self.end(id).standing.is_none();
        let Some(client) = self.end_mut(id).client() else { return };
        if client.attempts.len() >= ATTEMPTS_MAX || client.known.is_empty() {
            return;
        }
        if is_down {
            client.down_since.get_or_insert(now);
        }
        let addr = client.known[client.next_addr % client.known.len()];
        client.next_addr += 1;
        let server_host = self.links[id.0].server_host;
        let Some(client) = self.links[id.0].ends[0].client() else { return };
        if client.next_addr % (2 * client.known.len()) == 0 {
            // None of them has answered twice: the name is looked up again.
            let found = &self.hosts[server_host].addrs;
            let new = found.iter().filter(|&addr| !client.known.contains(addr));
            let new: Vec<usize> = new.copied().collect();
            client.known.retain(|&addr| self.addrs[addr].up);
            client.known.extend(new);
        }
        let client_host = self.links[id.0].client_host;
        let conn = self.connect(id.0, [client_host, server_host], self.end(id).proc, addr);
        self.conns[conn].owner[0] = Owner::Attempt(id);
        self.ail_new(id.0, conn);
        let state = State::Dialing;
        let attempt = Attempt { conn, deadline, reader: HelloReader::default(), state };
        if let Some(client) = self.end_mut(id).client() {
            client.attempts.push(attempt);
        }
    }

    pub(crate) fn attempt_ready(&mut self, id: EndId, conn: ConnId) {
        let end = self.end_mut(id);
        let Some(client) = end.client() else { return };
        let Some(at) = client.attempts.iter().position(|attempt| attempt.conn == conn) else {
            return;
        };
        if matches!(client.attempts[at].state, State::Dialing) && self.conns[conn].established[0] {
            self.ask(id, at);
        }
        loop {
            let Some(client) = self.end_mut(id).client() else { return };
            let Some(attempt) = client.attempts.iter().find(|attempt| attempt.conn == conn) else {
                break;
            };
            let wants = attempt.reader.wants();
            let Some(bytes) = self.take(conn, 0, wants) else { break };
            let Some(client) = self.end_mut(id).client() else { return };
            let Some(at) = client.attempts.iter().position(|attempt| attempt.conn == conn) else {
                break;
            };
            match client.attempts[at].reader.feed(&bytes) {
                Ok(Some(message)) => {
                    let attempt = client.attempts.remove(at);
                    self.answered(id, attempt, &message);
                    break;
                }
                Ok(None) => {}
                Err(_) => {
                    self.attempt_failed(id, conn);
                    break;
                }
            }
        }
        if self.conns[conn].owner[0] == Owner::Attempt(id) && self.conns[conn].is_ended(0) {
            self.attempt_failed(id, conn);
        }
        self.pump(id);
    }

    /// The dial came through: the first handshake message goes out.
    fn ask(&mut self, id: EndId, at: usize) {
        let random = self.rng.bytes();
        let window = self.plan.links[id.0].window[0];
        let (sealing, aes) = (self.plan.sealing[0], self.plan.aes[0]);
        let offer = Offer { key: self.key(), window, sealing, aes, ..Offer::default() };
        let end = self.end_mut(id);
        let (epoch, state, message) = match &mut end.core {
            Some(core) => {
                let receive = core.rx.next();
                let (resume, message) = core.control.resume(receive, random);
                (resume.epoch(), State::Resuming(resume), message)
            }
            None => match OpenClient::start(&offer, random) {
                Ok((open, message)) => (1, State::Opening(Box::new(open)), message),
                Err(_) => return self.find(4, On::End(id.0, id.1), "an OPEN cannot begin"),
            },
        };
        let Some(client) = end.client() else { return };
        client.attempts[at].state = state;
        let conn = client.attempts[at].conn;
        self.check_asked(id, epoch);
        self.conns[conn].epoch = epoch;
        self.conns[conn].said.push(message.clone());
        self.note(On::End(id.0, id.1), "asks over conn, for epoch", conn as u64, epoch);
        self.send(conn, 0, message, true);
    }

    pub(crate) fn attempt_failed(&mut self, id: EndId, conn: ConnId) {
        if let Some(client) = self.end_mut(id).client() {
            client.attempts.retain(|attempt| attempt.conn != conn);
        }
        self.note(On::End(id.0, id.1), "an attempt fails", conn as u64, 0);
        self.close(conn, 0);
        self.retry_later(id);
    }

    fn retry_later(&mut self, id: EndId) {
        let random = self.random();
        let now = self.local(id);
        let end = self.end_mut(id);
        if end.standing.is_some() || end.ending.is_some() {
            return;
        }
        let stood = end.epoch > 0 && end.stood_since > 0;
        let crate::end::First::Client(client) = &mut end.first else { return };
        if !client.attempts.is_empty() || client.retry_at.is_some() {
            return;
        }
        let redial = match &mut end.core {
            Some(core) => &mut core.control.redial,
            None => &mut client.opening,
        };
        if stood
            && client.down_since.is_some_and(|at| at == now)
            && now >= end.stood_since + STOOD_WELL
        {
            redial.progress();
        }
        let wait = redial.next(BackOff::default(), random).max(client.retry_after);
        client.retry_after = Duration::ZERO;
        client.retry_at = Some(now + wait.as_micros() as Time);
    }

    /// The standing connection is gone.
    pub(crate) fn client_down(&mut self, id: EndId) {
        let now = self.local(id);
        if let Some(client) = self.end_mut(id).client() {
            client.down_since.get_or_insert(now);
        }
        self.retry_later(id);
    }

    fn answered(&mut self, id: EndId, attempt: Attempt, message: &[u8]) {
        let conn = attempt.conn;
        let confirm = match attempt.state {
            State::Dialing => None,
            State::Opening(open) => self.open_answered(id, *open, message),
            State::Resuming(resume) => self.resume_answered(id, conn, &resume, message),
        };
        let Some(confirm) = confirm else {
            self.close(conn, 0);
            if !self.is_over(id) {
                self.retry_later(id);
            }
            return;
        };
        self.stand(id, conn);
        self.conns[conn].said.push(confirm.clone());
        let now = self.local(id);
        let Some(client) = self.end_mut(id).client() else { return };
        client.down_since = None;
        client.retry_at = None;
        client.probed_at = now;
        let others: Vec<ConnId> = client.attempts.drain(..).map(|other| other.conn).collect();
        for other in others {
            self.close(other, 0);
        }
        self.send(conn, 0, confirm, true);
    }

    fn open_answered(&mut self, id: EndId, open: OpenClient, message: &[u8]) -> Option<Vec<u8>> {
        match open.answered(message) {
            Ok((mut opened, confirm)) => {
                let keys = opened.keys.take();
                let told: Vec<usize> =
                    opened.addrs.iter().filter_map(|&addr| self.addr_of(addr)).collect();
                let window_max = self.plan.links[id.0].window_max[0];
                let window = self.plan.links[id.0].window[0];
                let pool = self.procs[self.end(id).proc].pool.clone();
                let core = Core::new(Role::Client, opened, window, window_max, &pool, self.bug);
                let end = self.end_mut(id);
                end.core = Some(core);
                self.seal(id, keys);
                self.learn(id, &told);
                Some(confirm)
            }
            Err(OpenError::Refused(reject)) if reject.reason == Reason::Busy => {
                if let Some(client) = self.end_mut(id).client() {
                    client.retry_after = reject.retry_after.min(RETRY_AFTER_MAX);
                }
                None
            }
            // A refusal is unproven, as no session exists: it ends the attempt, and the program
            // that asked gets the error.
            Err(OpenError::Refused(_) | OpenError::Key) => {
                self.finish(id, Ending::NotOpened);
                None
            }
            Err(_) => None,
        }
    }

    fn resume_answered(
        &mut self,
        id: EndId,
        conn: ConnId,
        resume: &ResumeClient,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let core = self.end(id).core.as_ref()?;
        match resume.answered(&core.control.secret, message) {
            Ok((receive, confirm)) => {
                self.drop_standing(id, conn);
                self.stats.resumes += 1;
                let skips = self.has_bug(Bug::ReplaysFromTheWrongPlace);
                let core = self.end_mut(id).core.as_mut()?;
                let receive = if skips && receive > core.tx.acked() && receive < core.tx.cursor() {
                    receive + 1
                } else {
                    receive
                };
                if core.begin_epoch(receive).is_err() {
                    self.finish(id, Ending::DataLost);
                    return None;
                }
                let offsets = core.offsets();
                if core.control.resumed_as(resume.epoch(), offsets).is_err() {
                    self.finish(id, Ending::Stale);
                    return None;
                }
                let Control { cipher, secret, .. } = &core.control;
                let keys = cipher.map(|cipher| resume.keys(secret, cipher, message));
                self.seal(id, keys);
                Some(confirm)
            }
            Err(ResumeError::Refused(reject)) => {
                let proven = reject.is_proven(&core.control.secret, resume.message());
                self.refused(id, &reject, proven);
                None
            }
            Err(_) => None,
        }
    }

    fn refused(&mut self, id: EndId, reject: &Reject, proven: bool) {
        self.note(On::End(id.0, id.1), "is refused", reject.reason as u64, proven.into());
        let is_final = !matches!(
            reject.reason,
            Reason::UnknownSession | Reason::OldEpoch | Reason::Busy | Reason::Key
        );
        let believes = proven || self.has_bug(Bug::BelievesUnprovenRefusals);
        if !(is_final && believes) {
            let retry_after = reject.retry_after.min(RETRY_AFTER_MAX);
            if let Some(client) = self.end_mut(id).client() {
                client.retry_after = retry_after;
            }
            return;
        }
        let Some(core) = &self.end(id).core else { return };
        let delivered = reject.offset >= core.tx.total_end() && core.rx.fin_seen();
        let ending = if reject.reason == Reason::Closed && delivered {
            Ending::Done
        } else {
            Ending::Refused(reject.reason)
        };
        self.finish(id, ending);
    }

    /// Frames were heard: only what advances an offset makes the probes quick again.
    pub(crate) fn client_heard(&mut self, id: EndId, conn: ConnId) {
        let now = self.local(id);
        let random = self.random();
        let end = self.end_mut(id);
        let crate::end::First::Client(client) = &mut end.first else { return };
        let Some(core) = &mut end.core else { return };
        let gained = (core.tx.acked(), core.rx.next());
        if gained != client.gained {
            client.gained = gained;
            client.probes = 0;
        }
        if core.take_goaway() {
            let wait = client.goaways.next(BackOff::default(), random);
            client.goaway_at.get_or_insert(now + wait.as_micros() as Time);
        }
        if let Some(addrs) = core.take_addrs() {
            let told: Vec<usize> = addrs.iter().filter_map(|&addr| self.addr_of(addr)).collect();
            self.note(On::End(id.0, id.1), "learns addresses over", conn as u64, told.len() as u64);
            self.learn(id, &told);
        }
    }

    /// Alternative addresses: a new list replaces the old one, the one in use stays.
    fn learn(&mut self, id: EndId, told: &[usize]) {
        let host = self.links[id.0].server_host;
        // A list that was changed under way may name anybody; only the server's own are of use.
        let told = told.iter().copied().filter(|&addr| self.addrs[addr].host == host);
        let told: Vec<usize> = told.collect();
        let Some(client) = self.end_mut(id).client() else { return };
        let first = client.known.first().copied();
        client.known = first.into_iter().chain(told).collect();
        client.known.dedup();
    }
}
