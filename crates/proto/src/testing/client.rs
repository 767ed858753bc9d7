//! What an engine does for a client: it dials, and dials again.

use std::time::Duration;

use super::end::Ending;
use super::net::{ConnId, Side, Status};
use super::pair::Pair;
use crate::control::{Control, Role};
use crate::open::{OpenClient, OpenError};
use crate::redial::Redial;
use crate::resume::{Reason, Reject, ResumeClient, ResumeError};
use crate::session::Session;
use crate::wire::hello::HelloReader;

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) attempt: Option<Attempt>,
    pub(super) retry_at: Option<Duration>,
    pub(super) down_since: Option<Duration>,
    /// Back-off while there is no session yet.
    opening: Redial,
    /// Probes since something was gained, and what had arrived at the last of them.
    probes: u32,
    probed_at: Duration,
    gained: (u64, u64),
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) conn: ConnId,
    pub(super) deadline: Duration,
    reader: HelloReader,
    state: State,
}

#[derive(Debug)]
enum State {
    Dialing,
    Opening(Box<OpenClient>),
    Resuming(ResumeClient),
}

impl Pair {
    pub(super) fn client_timers(&self, offer: &mut dyn FnMut(Duration)) {
        self.client.retry_at.iter().for_each(|&at| offer(at));
        self.client.attempt.iter().for_each(|attempt| offer(attempt.deadline));
        self.client.down_since.iter().for_each(|&at| offer(at + self.config.give_up));
        self.probe_at().iter().for_each(|&at| offer(at));
    }

    /// When silence makes the client dial beside the connection that stands.
    fn probe_at(&self) -> Option<Duration> {
        let end = &self.ends[0];
        let expecting = end.session.as_ref().is_some_and(|session| session.offsets().expecting);
        let quiet = end.standing.is_some() && self.client.attempt.is_none() && expecting;
        let since = end.last_heard.max(self.client.probed_at);
        quiet.then(|| since + self.config.probe_after * (1 << self.client.probes.min(6)))
    }

    /// Acts on what is due; true if anything was done.
    pub(super) fn client_due(&mut self) -> bool {
        let now = self.net.now;
        if self.ends[0].ending.is_some() {
            return false;
        }
        if self.client.down_since.is_some_and(|at| at + self.config.give_up <= now) {
            self.finish(Side::Client, Ending::TimedOut);
            return true;
        }
        if self.client.attempt.as_ref().is_some_and(|attempt| attempt.deadline <= now) {
            self.attempt_failed();
            return true;
        }
        if self.client.retry_at.is_some_and(|at| at <= now) {
            self.client.retry_at = None;
            self.dial();
            return true;
        }
        if self.probe_at().is_some_and(|at| at <= now) {
            self.client.probes += 1;
            self.client.probed_at = now;
            self.dial();
            return true;
        }
        let Some(Attempt { conn, state, .. }) = &self.client.attempt else { return false };
        match (self.net.status(*conn, Side::Client), state) {
            (Status::Ended, _) => self.attempt_failed(),
            (Status::Open, State::Dialing) => self.ask(),
            _ => return false,
        }
        true
    }

    /// Dials: for a session, for the next epoch of one, or beside the connection that stands.
    pub(super) fn dial(&mut self) {
        let now = self.net.now;
        if self.client.attempt.is_some() || self.ends[0].ending.is_some() {
            return;
        }
        if self.ends[0].standing.is_none() {
            self.client.down_since.get_or_insert(now);
        }
        let Some(conn) = self.net.dial(false) else {
            self.retry_later();
            return;
        };
        self.client.attempt = Some(Attempt {
            conn,
            deadline: now + self.config.attempt_deadline,
            reader: HelloReader::default(),
            state: State::Dialing,
        });
    }

    /// The dial came through: the first handshake message goes out.
    fn ask(&mut self) {
        let random = self.rng.bytes();
        let offer = self.offer(Side::Client);
        let Some(attempt) = &mut self.client.attempt else { return };
        let conn = attempt.conn;
        let message = match &mut self.ends[0].session {
            Some(session) => {
                let (resume, message) = session.control.resume(session.rx.next(), random);
                attempt.state = State::Resuming(resume);
                message
            }
            None => match OpenClient::start(&offer, random) {
                Ok((open, message)) => {
                    attempt.state = State::Opening(Box::new(open));
                    message
                }
                Err(error) => panic!("an OPEN that cannot begin: {error}"),
            },
        };
        self.send_hello(conn, Side::Client, message);
    }

    pub(super) fn attempt_failed(&mut self) {
        if let Some(attempt) = self.client.attempt.take() {
            self.net.close(attempt.conn, Side::Client);
        }
        self.retry_later();
    }

    fn retry_later(&mut self) {
        if self.ends[0].standing.is_some() || self.ends[0].ending.is_some() {
            return;
        }
        let random = self.rng.draw() as u32;
        let redial = match &mut self.ends[0].session {
            Some(session) => &mut session.control.redial,
            None => &mut self.client.opening,
        };
        let wait = redial.next(self.config.back_off, random);
        self.client.retry_at = Some(self.net.now + wait);
    }

    /// The standing connection is gone.
    pub(super) fn client_down(&mut self) {
        self.client.down_since.get_or_insert(self.net.now);
        if self.client.attempt.is_none() && self.client.retry_at.is_none() {
            self.retry_later();
        }
    }

    /// Bytes have come; the handshake takes its own, the session the rest.
    pub(super) fn client_bytes(&mut self, conn: ConnId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.client.attempt {
                Some(attempt) if attempt.conn == conn => {
                    let n = attempt.reader.wants().min(bytes.len());
                    let fed = attempt.reader.feed(&bytes[..n]);
                    bytes = &bytes[n..];
                    match fed {
                        Ok(Some(message)) => self.answered(&message),
                        Ok(None) => {}
                        Err(_) => self.attempt_failed(),
                    }
                }
                _ => return self.hear(Side::Client, conn, bytes),
            }
        }
    }

    fn answered(&mut self, message: &[u8]) {
        let Some(Attempt { conn, state, .. }) = self.client.attempt.take() else { return };
        let confirm = match state {
            State::Dialing => None,
            State::Opening(open) => match open.answered(message) {
                Ok((mut opened, confirm)) => {
                    opened.keys = opened.keys.map(|keys| self.prepare_keys(keys));
                    let start = self.start(Side::Client);
                    let pool = self.pools[0].clone();
                    self.ends[0].session = Some(Session::new(Role::Client, opened, &start, pool));
                    Some(confirm)
                }
                Err(OpenError::Key) => {
                    self.finish(Side::Client, Ending::Refused(Reason::Key));
                    None
                }
                Err(_) => None,
            },
            State::Resuming(resume) => self.resume_answered(conn, &resume, message),
        };
        match confirm {
            Some(confirm) => {
                self.stand(Side::Client, conn);
                self.client.down_since = None;
                self.client.retry_at = None;
                self.send_hello(conn, Side::Client, confirm);
            }
            None => {
                self.net.close(conn, Side::Client);
                self.retry_later();
            }
        }
    }

    fn resume_answered(
        &mut self,
        conn: ConnId,
        resume: &ResumeClient,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let session = self.ends[0].session.as_ref()?;
        match resume.answered(&session.control.secret, message) {
            Ok((receive, confirm)) => {
                self.drop_standing(Side::Client, conn);
                let session = self.ends[0].session.as_mut()?;
                if session.begin_epoch(receive).is_err() {
                    self.finish(Side::Client, Ending::DataLost);
                    return None;
                }
                let offsets = session.offsets();
                if session.control.resumed(offsets).is_err() {
                    self.finish(Side::Client, Ending::Stale);
                    return None;
                }
                let Control { cipher, secret, .. } = &session.control;
                let keys = cipher.map(|cipher| resume.keys(secret, cipher, message));
                self.begin_sealed(Side::Client, keys);
                Some(confirm)
            }
            Err(ResumeError::Refused(reject)) => {
                if reject.is_proven(&session.control.secret, resume.message()) {
                    self.refused(&reject);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// A refusal that is proven and final.
    fn refused(&mut self, reject: &Reject) {
        let delivered = self.ends[0].session.as_ref().is_some_and(|session| {
            reject.offset >= session.tx.total_end() && session.rx.fin_seen()
        });
        let ending = if reject.reason == Reason::Closed && delivered {
            Ending::Done
        } else {
            Ending::Refused(reject.reason)
        };
        self.finish(Side::Client, ending);
    }

    /// Something was heard; only what advances an offset makes the probes quick again.
    pub(super) fn heard(&mut self) {
        let Some(session) = &self.ends[0].session else { return };
        let now = (session.tx.acked(), session.rx.next());
        if now != self.client.gained {
            self.client.gained = now;
            self.client.probes = 0;
        }
    }
}
