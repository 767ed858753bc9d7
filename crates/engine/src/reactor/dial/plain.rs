//! Connections to peers that do not speak eversock, where the configuration allows them.

use super::*;

impl Dial {
    /// A proven connection waits to be put under the socket.
    pub(in crate::reactor) fn has_won(&self) -> bool {
        self.won.is_some()
    }
}

impl Reactor {
    /// True when an attempt's peer has answered nothing that only eversock says, and may be plain.
    pub(super) fn may_be_plain(&self, token: usize) -> bool {
        let Some(attempt) = self.attempts.get(&token) else { return false };
        let dial = self.dials.get(&attempt.socket);
        matches!(attempt.stage, Stage::Opening(_) | Stage::Done)
            && dial.is_some_and(|dial| {
                dial.is_open && dial.won.is_none() && dial.socket.config.takes_plain(Role::Client)
            })
    }

    /// An attempt's peer does not speak eversock: it is remembered and dialled again, plainly.
    pub(super) fn dial_plain(&mut self, token: usize) {
        let Some(attempt) = self.attempts.get(&token) else { return };
        let (id, addr) = (attempt.socket, attempt.addr);
        log::info!("connect: {addr} does not speak eversock; a plain connection is made");
        self.drop_attempt(token);
        let now = clock::now();
        self.plain_peers.retain(|_, since| now - *since < PLAIN_FOR);
        if self.plain_peers.len() < PLAIN_MAX {
            self.plain_peers.insert(addr, now);
        }
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.queue.push_front(addr);
        }
        self.next_attempt(id);
    }

    pub(super) fn is_plain(&self, socket: &Socket, addr: SocketAddr) -> bool {
        let since = self.plain_peers.get(&addr);
        socket.config.takes_plain(Role::Client)
            && since.is_some_and(|since| clock::now() - *since < PLAIN_FOR)
    }

    /// A peer that may be plain has had its time to answer.
    pub(in crate::reactor) fn silent(&mut self, token: usize) {
        if self.attempts.get(&token).is_some_and(|attempt| matches!(attempt.stage, Stage::Plain)) {
            // Its turn has come again after a taken lock.
            return self.attempt_ready(token);
        }
        if self.may_be_plain(token)
            && self.attempts.get(&token).is_some_and(|attempt| attempt.reader.is_untouched())
        {
            self.dial_plain(token);
        }
    }

    /// A plain connection stands: it is the program's.
    pub(super) fn plain_stands(&mut self, token: usize) -> Result<(), DialError> {
        let Some(attempt) = self.attempts.get_mut(&token) else { return Ok(()) };
        let id = attempt.socket;
        let Some(raw) = attempt.fd.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
        let Some(dial) = self.dials.get(&id) else {
            return Err(errno(libc::ECANCELED).into());
        };
        if dial.won.is_some() {
            return Err(errno(libc::ECANCELED).into());
        }
        let socket = Arc::clone(&dial.socket);
        match socket.become_plain(&mut attempt.fd) {
            Ok(Err(Busy)) => {
                self.timers.set(clock::now() + Duration::from_micros(100), Timer::Silent(token));
                return Ok(());
            }
            Ok(Ok(())) => {}
            Err(error) => return Err(error.into()),
        }
        let _gone = self.poll.registry().deregister(&mut mio::unix::SourceFd(&raw));
        self.end_dial(id);
        self.owned.remove(&id);
        self.engine.strike(id);
        Ok(())
    }
}
