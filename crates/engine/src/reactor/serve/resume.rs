//! Resumes: of sessions that are here, that are elsewhere, and that nobody has confirmed yet.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::config::RecoveryPolicy;

/// How long the end of a connection waits for the CONFIRM of another.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);

impl Reactor {
    pub(super) fn hello_resume(&mut self, token: usize, raw: i32, message: &[u8]) {
        let Ok(id) = hello::resume_session(message) else { return self.drop_handshake(token) };
        if !self.by_session.contains_key(&id) {
            // Whoever accepts a session says so before anybody can know; we may have yet to hear.
            self.obey_waiting();
            if !self.handshakes.contains_key(&token) {
                return;
            }
        }
        let Some(local) = self.by_session.get(&id).copied() else {
            return self.resume_elsewhere(token, raw, id, message);
        };
        let Some(owned) = self.owned.get(&local) else { return self.drop_handshake(token) };
        let socket = Arc::clone(&owned.socket);
        match socket.owner.holder(self.engine.instance) {
            Holder::Mine => {}
            // It is answered all the same; nobody owns it before the CONFIRM has proven something.
            Holder::Nobody if self.may_claim(&socket) => {}
            Holder::Nobody => {
                return self.reject(token, raw, &Reject::plain(Reason::Busy, BUSY_RETRY));
            }
            Holder::Other(owner) => return self.pass_on(token, raw, owner, id, message),
        }
        let receive = socket.shared.receive.load(Ordering::SeqCst);
        let peer = self.handshakes.get(&token).and_then(|handshake| handshake.peer);
        let answered = {
            let Ok(meta) = socket.meta.lock() else { return self.drop_handshake(token) };
            let Some(control) = meta.control.as_ref() else { return self.drop_handshake(token) };
            match control.answer(message, receive, fd::random()) {
                Err(ResumeError::OldEpoch { .. }) => {
                    Err(Some(Reject::proven(Reason::OldEpoch, 0, &control.secret, message)))
                }
                Err(error) => {
                    self.refusals.note(peer, &format_args!("its resume: {error}"));
                    Err(None)
                }
                Ok(ok) => Ok(ok),
            }
        };
        match answered {
            Ok((pending, answer)) => {
                if let Some(handshake) = self.handshakes.get_mut(&token) {
                    handshake.stage = Stage::Resuming(Some(pending), socket);
                }
                if send_whole(raw, &answer, false).is_err() {
                    self.drop_handshake(token);
                }
            }
            Err(Some(reject)) => self.reject(token, raw, &reject),
            Err(None) => self.drop_handshake(token),
        }
    }

    /// Answers the resume of a session whose CONFIRM has not come; false if there is none.
    fn resume_half_open(&mut self, token: usize, raw: i32, id: SessionId, message: &[u8]) -> bool {
        let now = clock::now();
        let mut found = None;
        for served in self.listeners.values_mut() {
            let grace = served.listener.config.grace_after_close;
            served.half_open.retain(|(since, _)| now - *since < grace);
            found = found.or_else(|| served.half_open.iter().find(|(_, o)| o.id() == id));
        }
        let standing = self.handshakes.values().find_map(|handshake| match &handshake.stage {
            Stage::Opening(open) if open.id() == id => Some(&**open),
            _ => None,
        });
        let Some(open) = found.map(|(_, open)| open).or(standing) else { return false };
        match open.answer_resume(message, fd::random()) {
            Ok((pending, answer)) => {
                if let Some(handshake) = self.handshakes.get_mut(&token) {
                    handshake.stage = Stage::ResumingOpen(Box::new(pending), id);
                }
                if send_whole(raw, &answer, false).is_err() {
                    self.drop_handshake(token);
                }
            }
            Err(error) => {
                let peer = self.handshakes.get(&token).and_then(|handshake| handshake.peer);
                self.refusals.note(peer, &format_args!("its resume: {error}"));
                self.drop_handshake(token);
            }
        }
        true
    }

    /// The CONFIRM of such a resume: the session begins with it.
    pub(super) fn confirmed_late(
        &mut self,
        token: usize,
        pending: &ResumeServer,
        id: SessionId,
        message: &[u8],
    ) {
        let mut opened = None;
        for served in self.listeners.values_mut() {
            let Some(at) = served.half_open.iter().position(|(_, open)| open.id() == id) else {
                continue;
            };
            if let Ok(session) = served.half_open[at].1.resumed(pending, message) {
                served.half_open.remove(at);
                opened = Some((session, served.listener.id));
            }
        }
        let standing: Vec<usize> = self
            .handshakes
            .iter()
            .filter(|(_, handshake)| {
                matches!(&handshake.stage, Stage::Opening(open) if open.id() == id)
            })
            .map(|(&token, _)| token)
            .collect();
        for other in standing {
            let Some(handshake) = self.handshakes.get(&other) else { continue };
            let Stage::Opening(open) = &handshake.stage else { continue };
            if let (Ok(session), Some(listener)) =
                (open.resumed(pending, message), handshake.listener)
            {
                opened = Some((session, listener));
                if let Some(handshake) = self.handshakes.get_mut(&other) {
                    handshake.stage = Stage::First;
                }
                self.drop_handshake(other);
            }
        }
        let Some((session, listener)) = opened else { return self.drop_handshake(token) };
        if let Some(handshake) = self.handshakes.get_mut(&token) {
            handshake.listener = Some(listener);
        }
        let keys = session.cipher.map(|cipher| pending.keys(&session.secret, cipher));
        self.born(token, Opened { keys, ..session }, pending.epoch());
    }

    /// A session that is not in this process's books: ended, or another process's.
    fn resume_elsewhere(&mut self, token: usize, raw: i32, id: SessionId, message: &[u8]) {
        if let Some(tombstone) = self.tombstones.get(&id) {
            return match tombstone.answer(message) {
                Some(reject) => self.reject(token, raw, &reject),
                None => self.drop_handshake(token),
            };
        }
        if self.resume_half_open(token, raw, id, message) {
            return;
        }
        if let Some(owner) = self.foreign.owner(&id) {
            return self.pass_on(token, raw, owner, id, message);
        }
        if id.instance() != self.engine.instance && id.instance() != 0 {
            return self.pass_on(token, raw, id.instance(), id, message);
        }
        let untaken = self.listeners.values().any(|served| {
            served.untaken.contains_key(&id) || served.ready.iter().any(|(birth, _)| birth.id == id)
        });
        let reason = if untaken { Reason::Busy } else { Reason::UnknownSession };
        self.reject(token, raw, &Reject::plain(reason, BUSY_RETRY));
    }

    /// Hands an unproven connection to the process that has the session.
    fn pass_on(&mut self, token: usize, raw: i32, owner: u64, id: SessionId, message: &[u8]) {
        let Some(handshake) = self.handshakes.get(&token) else { return };
        if handshake.hops >= channel::HOPS_MAX || owner == self.engine.instance {
            // Two processes could pass it on for ever.
            let unknown = Reject::plain(Reason::UnknownSession, Duration::from_millis(200));
            return self.reject(token, raw, &unknown);
        }
        let Some(fd) = handshake.fd.as_ref() else { return };
        match channel::pass(owner, handshake.hops + 1, message, fd.as_fd()) {
            Ok(()) => {
                // It lives on there.
                self.deregister(raw);
                if let Some(handshake) = self.handshakes.get_mut(&token) {
                    handshake.fd = None;
                }
                return self.drop_handshake(token);
            }
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
                self.foreign.remove(&id);
            }
            // Busy, or out of descriptors: it is there all the same.
            Err(_) => return self.reject(token, raw, &Reject::plain(Reason::Busy, BUSY_RETRY)),
        }
        // Gone: a relative that has the secret can say so with proof.
        let local = self.by_session.get(&id).and_then(|local| self.owned.get(local));
        let proven = local.and_then(|owned| {
            let meta = owned.socket.meta.lock().ok()?;
            let control = meta.control.as_ref()?;
            control.bury(Reason::Reset, 0).answer(message)
        });
        let reject = proven
            .unwrap_or_else(|| Reject::plain(Reason::UnknownSession, Duration::from_millis(200)));
        self.reject(token, raw, &reject);
    }

    pub(super) fn confirmed(
        &mut self,
        token: usize,
        pending: Option<ResumeServer>,
        socket: &Arc<Socket>,
        message: &[u8],
    ) {
        let Some(pending) = pending else { return self.drop_handshake(token) };
        let epoch = pending.epoch();
        let us = self.engine.instance;
        if !socket.owner.is(us) && !self.may_claim(socket) {
            // A relative's meanwhile: the client comes again.
            return self.drop_handshake(token);
        }
        let offsets = offsets(socket);
        let receive = {
            let Ok(mut meta) = socket.meta.lock() else { return self.drop_handshake(token) };
            let Some(control) = meta.control.as_mut() else { return self.drop_handshake(token) };
            let cipher = control.cipher;
            let keys = cipher.map(|cipher| pending.keys(&control.secret, cipher));
            let keys = Box::new(keys.map(|keys| keys.split(Role::Server)));
            control.confirm(pending, message, offsets).map(|receive| (receive, keys))
        };
        match receive {
            // Proven: now, and not before, it is ours.
            Ok(_) if !socket.owner.is(us) && !self.claim_unclaimed(socket) => {
                self.drop_handshake(token);
            }
            Ok((receive, keys)) => {
                if let Some(handshake) = self.handshakes.get_mut(&token) {
                    let socket = Arc::clone(socket);
                    handshake.stage = Stage::Attaching { socket, epoch, receive, keys };
                }
                self.attach_resumed(token);
            }
            Err(error) => {
                let peer = self.handshakes.get(&token).and_then(|handshake| handshake.peer);
                self.refusals.note(peer, &format_args!("its resume: {error}"));
                self.drop_handshake(token);
            }
        }
    }

    /// Looks for the CONFIRM of a resume that was answered. True while it has not come and may be
    /// on its way behind the end of the connection that stands: for a moment, as who has recorded
    /// a RESUME can ask for an answer too, as often as he likes: it counts from when the fault was
    /// seen. Under the policy "automatic" a fault loses nothing.
    pub(in crate::reactor) fn awaits_confirm(&mut self, ours: &Arc<Socket>, seen: Instant) -> bool {
        let answered = |stage: &Stage| match stage {
            Stage::Resuming(_, socket) => Arc::ptr_eq(socket, ours),
            _ => false,
        };
        let of_ours = self.handshakes.iter().filter(|(_, handshake)| answered(&handshake.stage));
        let tokens: Vec<usize> = of_ours.map(|(&token, _)| token).collect();
        for &token in &tokens {
            self.handshake_ready(token);
        }
        if self.is_attaching(ours) {
            return true;
        }
        let now = clock::now();
        !matches!(ours.config.policy, RecoveryPolicy::Automatic)
            && now - seen < CONFIRM_WITHIN
            && tokens.iter().filter_map(|token| self.handshakes.get(token)).any(|handshake| {
                answered(&handshake.stage) && now - handshake.moved < CONFIRM_WITHIN
            })
    }

    /// True while a proven resume waits to be put under the socket.
    pub(in crate::reactor) fn is_attaching(&self, ours: &Arc<Socket>) -> bool {
        self.handshakes.values().any(|handshake| {
            matches!(&handshake.stage, Stage::Attaching { socket, .. } if Arc::ptr_eq(socket, ours))
        })
    }

    pub(super) fn attach_resumed(&mut self, token: usize) {
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let Stage::Attaching { socket, epoch, receive, .. } = &handshake.stage else { return };
        let (socket, epoch, receive) = (Arc::clone(socket), *epoch, *receive);
        // Another resume may have been confirmed meanwhile.
        let standing = socket
            .meta
            .lock()
            .is_ok_and(|meta| meta.control.as_ref().is_some_and(|c| c.epoch() == epoch));
        if !standing || !socket.owner.is(self.engine.instance) {
            return self.drop_handshake(token);
        }
        if let Some(fd) = &handshake.fd {
            let raw = fd.as_raw_fd();
            let _gone = self.poll.registry().deregister(&mut mio::unix::SourceFd(&raw));
            tcp::tune(raw, socket.config.keepalive);
            if let Ok(meta) = socket.meta.lock() {
                // After ours: what the program set counts.
                meta.options.apply(raw);
            }
        }
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let Stage::Attaching { keys, .. } = &mut handshake.stage else { return };
        match socket.attach(&mut handshake.fd, epoch, receive, keys) {
            Ok(Err(Busy)) => {
                let soon = clock::now() + Duration::from_micros(100);
                self.timers.set(soon, Timer::Handshake(token));
            }
            Ok(Ok(replayed)) => {
                self.drop_handshake(token);
                self.attached(&socket, epoch, replayed);
            }
            Err(error) => {
                if let Some(fd) = &handshake.fd {
                    // The client takes it for a session that goes on.
                    send_reset(self.engine, 0, fd.as_raw_fd(), keys.take());
                }
                self.drop_handshake(token);
                self.give_up(&socket, libc::ECONNRESET, &error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Who said a recorded RESUME again and again put off two faults for ever, the late word of the
    /// connection before and that of the one that stood: each took the other's note of the time.
    #[test]
    fn faults_of_two_connections_put_each_other_off_no_longer_than_a_second() {
        let mut reactor = Reactor::for_test();
        let config = Config { policy: RecoveryPolicy::AskOutside, ..Config::default() };
        let (socket, _far) = reactor.session_for_test(config);
        let now = clock::now();
        let unconfirmed = Handshake {
            fd: None,
            peer: None,
            listener: None,
            hops: 0,
            reader: HelloReader::default(),
            stage: Stage::Resuming(None, Arc::clone(&socket)),
            since: now,
            moved: now,
        };
        reactor.handshakes.insert(1, unconfirmed);
        let cause = || "it has died".to_owned();
        reactor.fault(Arc::clone(&socket), 6, cause());
        assert!(!socket.has(bits::DETACHED), "the CONFIRM may be on its way");
        // That was a second ago by now.
        reactor.owned.get_mut(&socket.id).expect("ours").trouble_mut().put_off = None;
        reactor.put_off(&socket, 6, now - CONFIRM_WITHIN, "");
        reactor.fault(Arc::clone(&socket), 5, cause());
        reactor.fault(Arc::clone(&socket), 6, cause());
        assert!(socket.has(bits::DETACHED), "it is put off still");
    }
}
