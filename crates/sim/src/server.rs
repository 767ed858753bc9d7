//! What an engine does for a server: it answers strangers, and keeps what they may come back for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use eversock_proto::control::{Control, Role, Tombstone};
use eversock_proto::limits::HANDSHAKE_DEADLINE;
use eversock_proto::open::{Offer, OpenServer, Opened};
use eversock_proto::resume::{Reason, Reject, ResumeError, ResumeServer};
use eversock_proto::secret::SessionId;
use eversock_proto::wire::hello::{HelloKind, HelloReader, resume_session, split};

use crate::Bug;
use crate::core::Core;
use crate::end::{Ending, First};
use crate::net::{ConnId, EndId, Owner, STRANGE};
use crate::trace::{On, S, Time};
use crate::world::{Event, World};

/// A connection that brought no whole message for so long has stalled.
const STALLED: Time = S;

/// What a process that listens keeps.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) instance: u64,
    /// Connections that the kernel has, and nobody has accepted.
    pub(crate) backlog: VecDeque<ConnId>,
    pub(crate) unproven: BTreeMap<ConnId, Hello>,
    /// Opens whose connection died before their CONFIRM came, oldest first: of which session they
    /// are, as only the simulation knows, and until when they are kept.
    pub(crate) half_open: VecDeque<(usize, OpenServer, Time)>,
    sessions: BTreeMap<SessionId, usize>,
    pub(crate) tombs: VecDeque<(SessionId, usize, Tombstone)>,
    names: u64,
    tick_at: Time,
}

#[derive(Debug)]
pub(crate) struct Hello {
    reader: HelloReader,
    deadline: Time,
    heard: Time,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Opening(Box<OpenServer>),
    Resuming(SessionId, Box<ResumeServer>),
}

impl Serving {
    pub(crate) fn new(instance: u64) -> Self {
        Self {
            instance,
            backlog: VecDeque::new(),
            unproven: BTreeMap::new(),
            half_open: VecDeque::new(),
            sessions: BTreeMap::new(),
            tombs: VecDeque::new(),
            names: 0,
            tick_at: Time::MAX,
        }
    }

    /// The open of a session whose CONFIRM has not come.
    fn open_of(&self, session: SessionId) -> Option<&OpenServer> {
        let kept = self.half_open.iter().map(|(_, open, _)| open);
        let standing = self.unproven.values().filter_map(|hello| match &hello.state {
            State::Opening(open) => Some(&**open),
            _ => None,
        });
        kept.chain(standing).find(|open| open.id() == session)
    }
}

impl Hello {
    fn opens(&self, session: SessionId) -> bool {
        matches!(&self.state, State::Opening(open) if open.id() == session)
    }

    /// Bytes that it holds of a message that is not whole.
    pub(crate) fn holds(&self) -> usize {
        self.reader.taken().len()
    }
}

impl World {
    fn serving(&mut self, proc: usize) -> Option<&mut Serving> {
        self.procs[proc].serving.as_deref_mut()
    }

    /// The kernel has a connection for the listener; false when its backlog is full.
    pub(crate) fn incoming(&mut self, conn: ConnId) -> bool {
        let proc = self.conns[conn].procs[1];
        let backlog_max = self.plan.backlog_max;
        let Some(serving) = self.serving(proc) else { return false };
        if serving.backlog.len() >= backlog_max {
            self.stats.backlog_full += 1;
            if let Some(link) = self.links.get_mut(self.conns[conn].link) {
                link.turned_away = true;
            }
            self.note(On::Proc(proc), "its backlog is full", conn as u64, 0);
            return false;
        }
        serving.backlog.push_back(conn);
        let at = self.now;
        self.tick(proc, at);
        true
    }

    /// Looks after the listener of `proc` at `at`.
    fn tick(&mut self, proc: usize, at: Time) {
        let Some(serving) = self.serving(proc) else { return };
        if at < serving.tick_at {
            serving.tick_at = at;
            self.push(at, Event::ServerTick(proc));
        }
    }

    pub(crate) fn on_server_tick(&mut self, proc: usize) {
        if !self.procs[proc].alive {
            return;
        }
        let now = self.clock(proc);
        let world_now = self.now;
        let most = if self.has_bug(Bug::UnboundedHandshakes) {
            usize::MAX
        } else {
            self.plan.unproven_max
        };
        let Some(serving) = self.serving(proc) else { return };
        if serving.tick_at > world_now {
            return;
        }
        serving.tick_at = Time::MAX;
        serving.half_open.retain(|&(_, _, until)| until > now);
        let late: Vec<ConnId> = serving
            .unproven
            .iter()
            .filter(|(_, hello)| hello.deadline <= now)
            .map(|(&conn, _)| conn)
            .collect();
        for conn in late {
            self.drop_unproven(proc, conn);
        }
        loop {
            let Some(serving) = self.serving(proc) else { return };
            if serving.backlog.is_empty() {
                break;
            }
            if serving.unproven.len() >= most {
                // The oldest that has stalled gives way; while none has, the next waits.
                let stalled = serving.unproven.iter().find(|(_, h)| h.heard + STALLED <= now);
                let Some((&oldest, _)) = stalled else { break };
                self.drop_unproven(proc, oldest);
                continue;
            }
            let Some(conn) = serving.backlog.pop_front() else { break };
            let hello = Hello {
                reader: HelloReader::default(),
                deadline: now + HANDSHAKE_DEADLINE.as_micros() as Time,
                heard: now,
                state: State::First,
            };
            serving.unproven.insert(conn, hello);
            self.conns[conn].owner[1] = Owner::Unproven;
            self.wake(conn, 1);
        }
        self.check_serving(proc);
        let Some(serving) = self.serving(proc) else { return };
        let deadline = serving.unproven.values().map(|hello| hello.deadline).min();
        let waits = !serving.backlog.is_empty();
        let stalls = serving.unproven.values().map(|hello| hello.heard + STALLED).min();
        let next = deadline.into_iter().chain(stalls.filter(|_| waits)).min();
        if let Some(next) = next {
            let at = world_now + next.saturating_sub(now).max(1);
            self.tick(proc, at);
        }
    }

    fn drop_unproven(&mut self, proc: usize, conn: ConnId) {
        let until = self.clock(proc) + self.plan.grace;
        let most = 2 * self.plan.unproven_max;
        let link = self.conns[conn].link;
        let mut forgotten = None;
        if let Some(serving) = self.serving(proc) {
            if let Some(Hello { state: State::Opening(open), .. }) = serving.unproven.remove(&conn)
            {
                // The client may hold that its session stands, and come back for it.
                serving.half_open.push_back((link, *open, until));
                if serving.half_open.len() > most {
                    forgotten = serving.half_open.pop_front();
                }
            }
            if !serving.backlog.is_empty() {
                let at = self.now;
                self.tick(proc, at);
            }
        }
        self.close(conn, 1);
        if let Some((link, _, _)) = forgotten.filter(|&(link, _, _)| link != STRANGE) {
            self.note(On::End(link, 1), "its open is forgotten, as too many are kept", 0, 0);
            self.links[link].forgotten = true;
            self.stats.forgotten += 1;
        }
    }

    /// Bytes of a handshake may have come.
    pub(crate) fn hello_ready(&mut self, conn: ConnId) {
        let proc = self.conns[conn].procs[1];
        loop {
            let now = self.clock(proc);
            let Some(serving) = self.serving(proc) else { return };
            let Some(hello) = serving.unproven.get(&conn) else { return };
            let wants = hello.reader.wants();
            let Some(bytes) = self.take(conn, 1, wants) else { break };
            let Some(serving) = self.serving(proc) else { return };
            let Some(hello) = serving.unproven.get_mut(&conn) else { return };
            match hello.reader.feed(&bytes) {
                Ok(None) => {}
                Ok(Some(message)) => {
                    // Whole messages count as going on. Single bytes do not: strangers who trickled
                    // them held every place for the whole deadline, and kept a client out.
                    hello.heard = now;
                    if !self.asked(proc, conn, &message) {
                        return self.drop_unproven(proc, conn);
                    }
                }
                Err(_) => return self.drop_unproven(proc, conn),
            }
        }
        if self.conns[conn].is_ended(1) {
            self.drop_unproven(proc, conn);
        }
    }

    /// A whole message has come; false when the connection is to be closed.
    fn asked(&mut self, proc: usize, conn: ConnId, message: &[u8]) -> bool {
        let Ok((kind, _)) = split(message) else { return false };
        let is_busy = matches!(kind, HelloKind::Open | HelloKind::Resume)
            && self.busy_until.get(&proc).is_some_and(|&until| until > self.now);
        if is_busy {
            let reject = Reject::plain(Reason::Busy, Duration::from_secs(1));
            self.say(conn, reject.encode());
            return false;
        }
        let Some(serving) = self.serving(proc) else { return false };
        let Some(hello) = serving.unproven.get_mut(&conn) else { return false };
        match (std::mem::replace(&mut hello.state, State::First), kind) {
            (State::First, HelloKind::Open) => self.asked_open(proc, conn, message),
            (State::First, HelloKind::Resume) => {
                let standing = |world: &Self| -> Vec<Option<ConnId>> {
                    world.links.iter().map(|link| link.ends[1].standing).collect()
                };
                let before = standing(self);
                let goes_on = self.asked_resume(proc, conn, message);
                if standing(self) != before {
                    let what = "a RESUME that nobody has confirmed ends a connection";
                    self.find(3, On::Conn(conn), what);
                }
                goes_on
            }
            // Whatever it says: a message that was changed on its way ends no open.
            (State::Opening(open), _) => self.open_confirmed(proc, conn, open, message),
            (State::Resuming(id, pending), HelloKind::Confirm) => {
                self.resume_confirmed(proc, conn, id, *pending, message)
            }
            _ => false,
        }
    }

    fn say(&mut self, conn: ConnId, mut message: Vec<u8>) {
        if self.overheard.len() < 64 {
            self.overheard.push(message.clone());
        }
        if std::mem::take(&mut self.conns[conn].forged) {
            message = self.forged_word(message.len());
            self.note(On::Conn(conn), "the server's word is replaced", message.len() as u64, 0);
        }
        self.send(conn, 1, message, true);
    }

    fn offer(&self, link: usize, host: usize) -> Offer {
        let plan = self.plan.links.get(link).or_else(|| self.plan.links.first());
        Offer {
            key: self.key(),
            window: plan.map_or(64 * 1024, |plan| plan.window[1]),
            grace: Duration::from_micros(self.plan.grace),
            addrs: self.hosts[host].addrs.iter().map(|&addr| Self::socket_addr(addr)).collect(),
            sealing: self.plan.sealing[1],
            aes: self.plan.aes[1],
            ..Offer::default()
        }
    }

    fn asked_open(&mut self, proc: usize, conn: ConnId, message: &[u8]) -> bool {
        let random = self.rng.bytes();
        // Only the simulation knows for which session this is; it decides the window.
        let offer = self.offer(self.conns[conn].link, self.procs[proc].host);
        let Some(serving) = self.serving(proc) else { return false };
        serving.names += 1;
        let id = SessionId::new(serving.instance, serving.names);
        let Ok((open, answer)) = OpenServer::answer(&offer, message, id, random) else {
            return false;
        };
        if let Some(hello) = serving.unproven.get_mut(&conn) {
            hello.state = State::Opening(Box::new(open));
        }
        self.say(conn, answer);
        true
    }

    fn open_confirmed(
        &mut self,
        proc: usize,
        conn: ConnId,
        mut open: Box<OpenServer>,
        message: &[u8],
    ) -> bool {
        let confirmed = open.confirmed(message);
        let Some(serving) = self.serving(proc) else { return false };
        let Ok(opened) = confirmed else {
            // Who changed the CONFIRM on its way costs the client a connection, not the session.
            if let Some(hello) = serving.unproven.get_mut(&conn) {
                hello.state = State::Opening(open);
            }
            return false;
        };
        serving.unproven.remove(&conn);
        let Some(id) = self.begin_session(proc, conn, opened) else { return false };
        self.stand(id, conn);
        self.wake_server(id);
        true
    }

    fn begin_session(&mut self, proc: usize, conn: ConnId, mut opened: Opened) -> Option<EndId> {
        let keys = opened.keys.take();
        let link = self.conns[conn].link;
        if link == STRANGE {
            self.find(3, On::Conn(conn), "a stranger opened a session by what it had recorded");
            return None;
        }
        self.links[link].sessions_made += 1;
        if self.links[link].sessions_made > 1 {
            self.find(1, On::End(link, 1), "one client has opened two sessions");
            return None;
        }
        let plan = &self.plan.links[link];
        let (window, window_max) = (plan.window[1], plan.window_max[1]);
        let delay = plan.scripts[1].delay;
        let (session, pool) = (opened.id, self.procs[proc].pool.clone());
        let core = Core::new(Role::Server, opened, window, window_max, &pool, self.bug);
        if let Some(serving) = self.serving(proc) {
            serving.sessions.insert(session, link);
        }
        let take_at = self.clock(proc) + delay;
        let end = &mut self.links[link].ends[1];
        end.proc = proc;
        end.core = Some(core);
        if let Some(server) = end.server() {
            server.take_at = take_at;
        }
        self.stats.sessions += 1;
        self.stats.sealed += u64::from(self.plan.is_sealed());
        self.seal((link, 1), keys);
        Some((link, 1))
    }

    fn asked_resume(&mut self, proc: usize, conn: ConnId, message: &[u8]) -> bool {
        let Ok(id) = resume_session(message) else { return false };
        let nonce = self.rng.bytes();
        let unknown = Reject::plain(Reason::UnknownSession, Duration::from_secs(1));
        let Some(serving) = self.serving(proc) else { return false };
        let tomb = serving.tombs.iter().find(|(of, _, _)| *of == id);
        if let Some((_, _, tombstone)) = tomb {
            let reject = tombstone.answer(message).unwrap_or(unknown);
            self.say(conn, reject.encode());
            return false;
        }
        let link = serving.sessions.get(&id).copied();
        let answered = match (link, serving.open_of(id)) {
            (Some(link), _) => {
                let Some(core) = &self.links[link].ends[1].core else { return false };
                core.control.answer(message, core.rx.next(), nonce)
            }
            (None, Some(open)) => open.answer_resume(message, nonce),
            (None, None) => {
                self.say(conn, unknown.encode());
                return false;
            }
        };
        match answered {
            Ok((pending, answer)) => {
                if let Some(link) = link
                    && self.has_bug(Bug::ActsBeforeConfirm)
                {
                    // The old connection ends now, whoever asked.
                    self.drop_standing((link, 1), conn);
                    self.lose((link, 1));
                }
                let Some(serving) = self.serving(proc) else { return false };
                if let Some(hello) = serving.unproven.get_mut(&conn) {
                    hello.state = State::Resuming(id, Box::new(pending));
                }
                self.say(conn, answer);
                true
            }
            Err(ResumeError::OldEpoch { .. }) => {
                self.stats.old_epochs += 1;
                let reject = Reject::plain(Reason::OldEpoch, Duration::ZERO);
                self.say(conn, reject.encode());
                false
            }
            Err(_) => false,
        }
    }

    fn resume_confirmed(
        &mut self,
        proc: usize,
        conn: ConnId,
        session: SessionId,
        pending: ResumeServer,
        message: &[u8],
    ) -> bool {
        let Some(serving) = self.serving(proc) else { return false };
        if let Some(open) = serving.open_of(session) {
            let Ok(opened) = open.resumed(&pending, message) else { return false };
            serving.half_open.retain(|(_, open, _)| open.id() != session);
            let first = serving.unproven.iter().find(|(_, hello)| hello.opens(session));
            let first = first.map(|(&first, _)| first);
            if let Some(first) = first {
                serving.unproven.remove(&first);
                self.close(first, 1);
            }
            self.stats.opened_by_resume += 1;
            if self.begin_session(proc, conn, opened).is_none() {
                return false;
            }
        }
        let Some(serving) = self.serving(proc) else { return false };
        let Some(&link) = serving.sessions.get(&session) else { return false };
        let id = (link, 1);
        if self.is_over(id) {
            return false;
        }
        let Some(core) = &mut self.end_mut(id).core else { return false };
        let offsets = core.offsets();
        let Control { cipher, secret, .. } = &core.control;
        let keys = cipher.map(|cipher| pending.keys(secret, cipher));
        let Ok(receive) = core.control.confirm(pending, message, offsets) else { return false };
        let stale = core.control.is_stale();
        if let Some(serving) = self.serving(proc) {
            serving.unproven.remove(&conn);
        }
        self.drop_standing(id, conn);
        let Some(core) = &mut self.end_mut(id).core else { return false };
        let receive = match core.begin_epoch(receive) {
            Ok(()) => receive,
            Err(_) => {
                self.finish(id, Ending::DataLost);
                return false;
            }
        };
        self.note(On::End(link, 1), "is resumed at offset", receive, 0);
        self.seal(id, keys);
        self.stand(id, conn);
        if let Some(server) = self.end_mut(id).server() {
            server.grace_at = None;
        }
        if stale {
            self.reset_now(id, Ending::Stale);
            return true;
        }
        self.wake_server(id);
        true
    }

    /// A session has a connection: bytes may be there already, and the listener has a free place.
    fn wake_server(&mut self, id: EndId) {
        if let Some(conn) = self.end(id).standing {
            self.wake(conn, 1);
        }
        let proc = self.end(id).proc;
        let at = self.now;
        self.tick(proc, at);
        self.pump(id);
    }

    pub(crate) fn server_due(&mut self, id: EndId) {
        let now = self.local(id);
        let First::Server(server) = &self.end(id).first else { return };
        if server.grace_at.is_some_and(|at| at <= now) && self.end(id).standing.is_none() {
            self.finish(id, Ending::Expired);
        }
    }

    pub(crate) fn bury(&mut self, id: EndId, ending: Ending) {
        let tombs_max = self.plan.tombs_max;
        let end = self.end(id);
        let proc = end.proc;
        let forgets = self.has_bug(Bug::NoTombstones);
        let Some(core) = &end.core else { return };
        let reason = match ending {
            Ending::Done => Reason::Closed,
            Ending::Lingered if core.tx.is_done() => Reason::Closed,
            Ending::Reset | Ending::ResetByPeer | Ending::Stale | Ending::Lingered => Reason::Reset,
            Ending::DataLost => Reason::DataLost,
            _ => Reason::Expired,
        };
        let session = core.control.id;
        let tombstone = core.control.bury(reason, core.rx.acks().ack);
        let Some(serving) = self.serving(proc) else { return };
        serving.sessions.remove(&session);
        if forgets {
            return;
        }
        let oldest =
            if serving.tombs.len() >= tombs_max { serving.tombs.pop_front() } else { None };
        serving.tombs.push_back((session, id.0, tombstone));
        if let Some((_, link, _)) = oldest {
            self.links[link].unburied = true;
        }
    }
}
