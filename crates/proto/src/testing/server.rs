//! What an engine does for a server: it answers strangers, and keeps what they may come back for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::end::Ending;
use super::net::{ConnId, Side, Status};
use super::pair::Pair;
use crate::control::{Control, Role, Tombstone};
use crate::limits::HANDSHAKE_DEADLINE;
use crate::open::OpenServer;
use crate::resume::{Reason, Reject, ResumeError, ResumeServer};
use crate::secret::SessionId;
use crate::session::Session;
use crate::wire::hello::{HelloKind, HelloReader, resume_session, split};

/// Connections that may be in the middle of a handshake; the oldest gives way to the next.
const UNPROVEN_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Server {
    unproven: BTreeMap<ConnId, Hello>,
    /// Opens without a CONFIRM, and until when they are kept.
    opens: Vec<(ConnId, OpenServer, Duration)>,
    pub(super) grace_at: Option<Duration>,
    pub(super) tombstone: Option<Tombstone>,
    pub(super) accepted: u32,
    known: Option<SessionId>,
    names: u64,
}

#[derive(Debug)]
struct Hello {
    reader: HelloReader,
    deadline: Duration,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Opening,
    Resuming(SessionId, Box<ResumeServer>),
}

impl Pair {
    pub(super) fn server_timers(&self, offer: &mut dyn FnMut(Duration)) {
        self.server.unproven.values().for_each(|hello| offer(hello.deadline));
        self.server.opens.iter().for_each(|&(_, _, until)| offer(until));
        self.server.grace_at.iter().for_each(|&at| offer(at));
    }

    /// Acts on what is due; true if anything was done.
    pub(super) fn server_due(&mut self) -> bool {
        let now = self.net.now;
        self.server.opens.retain(|&(_, _, until)| until > now);
        if self.server.grace_at.is_some_and(|at| at <= now) {
            self.server.grace_at = None;
            self.finish(Side::Server, Ending::Expired);
            return true;
        }
        let late = self.server.unproven.iter().find(|(conn, hello)| {
            hello.deadline <= now || self.net.status(**conn, Side::Server) == Status::Ended
        });
        if let Some((&conn, _)) = late {
            self.server_drop(conn);
            return true;
        }
        let fresh = self.net.ids().into_iter().find(|&conn| {
            !self.server.unproven.contains_key(&conn)
                && conn >= self.accepted_conns
                && self.net.status(conn, Side::Server) == Status::Open
        });
        let Some(conn) = fresh else { return false };
        self.accepted_conns = conn + 1;
        let hello = Hello {
            reader: HelloReader::default(),
            deadline: now + HANDSHAKE_DEADLINE,
            state: State::First,
        };
        self.server.unproven.insert(conn, hello);
        if self.server.unproven.len() > UNPROVEN_MAX
            && let Some(&oldest) = self.server.unproven.keys().next()
        {
            self.server_drop(oldest);
        }
        true
    }

    fn server_drop(&mut self, conn: ConnId) {
        self.server.unproven.remove(&conn);
        self.net.close(conn, Side::Server);
    }

    /// Bytes have come; the handshake takes its own, the session the rest.
    pub(super) fn server_bytes(&mut self, conn: ConnId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(hello) = self.server.unproven.get_mut(&conn) else {
                return self.hear(Side::Server, conn, bytes);
            };
            let n = hello.reader.wants().min(bytes.len());
            let fed = hello.reader.feed(&bytes[..n]);
            bytes = &bytes[n..];
            match fed {
                Ok(None) => {}
                Ok(Some(message)) => {
                    if !self.asked(conn, &message) {
                        self.server_drop(conn);
                    }
                }
                Err(_) => self.server_drop(conn),
            }
        }
    }

    /// A whole message has come; false when the connection is to be closed.
    fn asked(&mut self, conn: ConnId, message: &[u8]) -> bool {
        let Some(hello) = self.server.unproven.get_mut(&conn) else { return false };
        let Ok((kind, _)) = split(message) else { return false };
        match (std::mem::replace(&mut hello.state, State::First), kind) {
            (State::First, HelloKind::Open) => self.asked_open(conn, message),
            (State::First, HelloKind::Resume) => self.asked_resume(conn, message),
            (State::Opening, HelloKind::Confirm) => self.open_confirmed(conn, message),
            (State::Resuming(id, pending), HelloKind::Confirm) => {
                self.resume_confirmed(conn, id, *pending, message)
            }
            _ => false,
        }
    }

    fn asked_open(&mut self, conn: ConnId, message: &[u8]) -> bool {
        let random = self.rng.bytes();
        self.server.names += 1;
        let id = SessionId::new(7, self.server.names);
        let offer = self.offer(Side::Server);
        let Ok((open, answer)) = OpenServer::answer(&offer, message, id, random) else {
            return false;
        };
        if self.server.opens.len() == UNPROVEN_MAX {
            self.server.opens.remove(0);
        }
        self.server.opens.push((conn, open, self.net.now + self.config.grace));
        if let Some(hello) = self.server.unproven.get_mut(&conn) {
            hello.state = State::Opening;
        }
        self.send_hello(conn, Side::Server, answer);
        true
    }

    fn open_confirmed(&mut self, conn: ConnId, message: &[u8]) -> bool {
        let Some(at) = self.server.opens.iter().position(|(of, _, _)| *of == conn) else {
            return false;
        };
        let open = &mut self.server.opens[at].1;
        let id = open.id();
        let Ok(mut opened) = open.confirmed(message) else { return false };
        self.server.opens.remove(at);
        opened.keys = opened.keys.map(|keys| self.prepare_keys(keys));
        self.accept(opened, id);
        self.server.unproven.remove(&conn);
        self.stand(Side::Server, conn);
        true
    }

    fn accept(&mut self, opened: crate::open::Opened, id: SessionId) {
        self.server.accepted += 1;
        assert_eq!(self.server.accepted, 1, "one client has opened two sessions");
        let start = self.start(Side::Server);
        let pool = self.pools[1].clone();
        self.ends[1].session = Some(Session::new(Role::Server, opened, &start, pool));
        self.server.known = Some(id);
    }

    /// For a pair that begins with an open session.
    pub(super) fn accept_opened(&mut self, opened: crate::open::Opened) {
        let id = opened.id;
        self.accept(opened, id);
        self.accepted_conns = 1;
    }

    fn asked_resume(&mut self, conn: ConnId, message: &[u8]) -> bool {
        let Ok(id) = resume_session(message) else { return false };
        let nonce = self.rng.bytes();
        let unknown = Reject::plain(Reason::UnknownSession, Duration::from_secs(1));
        let answered = if self.server.known == Some(id) {
            if let Some(tombstone) = &self.server.tombstone {
                let reject = tombstone.answer(message).unwrap_or(unknown);
                self.send_hello(conn, Side::Server, reject.encode());
                return false;
            }
            let Some(session) = &self.ends[1].session else { return false };
            session.control.answer(message, session.rx.next(), nonce)
        } else if let Some((_, open, _)) =
            self.server.opens.iter().find(|(_, open, _)| open.id() == id)
        {
            open.answer_resume(message, nonce)
        } else {
            self.send_hello(conn, Side::Server, unknown.encode());
            return false;
        };
        match answered {
            Ok((pending, answer)) => {
                if let Some(hello) = self.server.unproven.get_mut(&conn) {
                    hello.state = State::Resuming(id, Box::new(pending));
                }
                self.send_hello(conn, Side::Server, answer);
                true
            }
            Err(ResumeError::OldEpoch { .. }) => {
                let reject = Reject::plain(Reason::OldEpoch, Duration::ZERO);
                self.send_hello(conn, Side::Server, reject.encode());
                false
            }
            Err(_) => false,
        }
    }

    fn resume_confirmed(
        &mut self,
        conn: ConnId,
        id: SessionId,
        pending: ResumeServer,
        message: &[u8],
    ) -> bool {
        if let Some(at) = self.server.opens.iter().position(|(_, open, _)| open.id() == id) {
            let Ok(opened) = self.server.opens[at].1.resumed(&pending, message) else {
                return false;
            };
            self.server.opens.remove(at);
            self.accept(opened, id);
        }
        if self.server.known != Some(id) || self.ends[1].ending.is_some() {
            return false;
        }
        let Some(session) = &mut self.ends[1].session else { return false };
        let offsets = session.offsets();
        let Control { cipher, secret, .. } = &session.control;
        let keys = cipher.map(|cipher| pending.keys(secret, cipher));
        let Ok(receive) = session.control.confirm(pending, message, offsets) else { return false };
        let stale = session.control.is_stale();
        self.server.unproven.remove(&conn);
        self.drop_standing(Side::Server, conn);
        let Some(session) = &mut self.ends[1].session else { return false };
        if session.begin_epoch(receive).is_err() {
            self.finish(Side::Server, Ending::DataLost);
            return false;
        }
        self.begin_sealed(Side::Server, keys);
        self.stand(Side::Server, conn);
        self.server.grace_at = None;
        if stale {
            self.reset_now(Side::Server, Ending::Stale);
        }
        true
    }

    /// The standing connection is gone.
    pub(super) fn server_down(&mut self) {
        self.server.grace_at.get_or_insert(self.net.now + self.config.grace);
    }

    pub(super) fn bury(&mut self, ending: Ending) {
        let reason = match ending {
            Ending::Done => Reason::Closed,
            Ending::Reset | Ending::ResetByPeer(_) | Ending::Stale => Reason::Reset,
            Ending::DataLost => Reason::DataLost,
            _ => Reason::Expired,
        };
        self.server.grace_at = None;
        let Some(session) = &self.ends[1].session else { return };
        self.server.tombstone = Some(session.control.bury(reason, session.rx.acks().ack));
    }
}
