//! Clients that do not speak eversock, for listeners that take them too (`Peers::Any`): their first
//! bytes are looked at and left where they are, and the program gets the connection as it came.

use std::os::fd::AsRawFd;
use std::time::Duration;

use core::net::SocketAddr;
use eversock_proto::control::Role;
use eversock_proto::secret::{KEY_BYTES, Secret, SessionId};
use eversock_proto::wire::hello;

use super::{Reactor, Stage};
use crate::clock;
use crate::config::Config;
use crate::error::would_block;
use crate::listener::{Birth, PLAIN};
use crate::reactor::timer::Timer;
use crate::sys::{self, fd, tcp};

/// A client of a server that speaks first is taken for a plain one after this silence. Ours sends
/// its first message together with the last of TCP's own handshake.
const SILENCE: Duration = Duration::from_millis(500);

impl Reactor {
    /// Sets the time after which a silent client is a plain one, for a server that speaks first.
    pub(super) fn expect_silence(&mut self, token: usize, listener: Option<u64>) {
        if self.takes_plain(listener).is_some_and(|config| config.server_speaks_first) {
            self.timers.set(clock::now() + SILENCE, Timer::Handshake(token));
        }
    }

    /// Looks at an unproven connection that may be a plain one. True when its bytes are ours to
    /// read; if not, it waits, is the program's, or is gone.
    pub(super) fn is_ours(&mut self, token: usize, raw: i32) -> bool {
        let Some(handshake) = self.handshakes.get(&token) else { return false };
        let undecided = matches!(handshake.stage, Stage::First) && handshake.reader.is_untouched();
        if !undecided || self.takes_plain(handshake.listener).is_none() {
            return true;
        }
        match first_bytes(raw) {
            First::Eversock => return true,
            First::Nothing | First::Unclear => {}
            First::Foreign => self.plain(token),
            First::Dead => self.drop_handshake(token),
        }
        false
    }

    /// A client has said nothing for [`SILENCE`].
    pub(super) fn silent_client(&mut self, token: usize) {
        let Some(handshake) = self.handshakes.get(&token) else { return };
        let waits =
            self.takes_plain(handshake.listener).is_some_and(|config| config.server_speaks_first)
                && matches!(handshake.stage, Stage::First)
                && handshake.reader.is_untouched()
                && handshake
                    .fd
                    .as_ref()
                    .is_some_and(|fd| matches!(first_bytes(fd.as_raw_fd()), First::Nothing));
        if waits {
            self.plain(token);
        }
    }

    /// True for a client whose bytes could have become ours and have stopped.
    pub(super) fn stopped_short(&self, token: usize) -> bool {
        self.handshakes.get(&token).is_some_and(|handshake| {
            self.takes_plain(handshake.listener).is_some()
                && matches!(handshake.stage, Stage::First)
                && handshake.reader.is_untouched()
                && handshake
                    .fd
                    .as_ref()
                    .is_some_and(|fd| matches!(first_bytes(fd.as_raw_fd()), First::Unclear))
        })
    }

    /// The configuration of a listener that also serves plain clients.
    fn takes_plain(&self, listener: Option<u64>) -> Option<&Config> {
        let served = listener.and_then(|id| self.listeners.get(&id))?;
        let config = &*served.listener.config;
        (config.takes_plain(Role::Server) && !served.closed).then_some(config)
    }

    /// A client does not speak eversock: the program gets its connection as it is, and every byte.
    pub(super) fn plain(&mut self, token: usize) {
        let Some(handshake) = self.handshakes.get_mut(&token) else { return };
        let served = handshake.listener.and_then(|id| self.listeners.get_mut(&id));
        let Some(served) = served.filter(|served| !served.closed) else {
            return self.drop_handshake(token);
        };
        if served.is_full() {
            handshake.stage = Stage::ParkedPlain;
            let id = served.listener.id;
            return self.open_door(id);
        }
        let (peer, fd) = (handshake.peer, handshake.fd.take());
        let Some(fd) = fd else { return self.drop_handshake(token) };
        let raw = fd.as_raw_fd();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 1));
        let birth = Birth {
            token: served.listener.token,
            id: SessionId::new(self.engine.instance, fd::random_u64()),
            secret: Secret::from_bytes([0; KEY_BYTES]),
            keys: None,
            window: 0,
            peer_key: None,
            shares: false,
            epoch: PLAIN,
            peer: peer.unwrap_or(nowhere),
            local: tcp::local_addr(raw).or(served.listener.local).unwrap_or(nowhere),
        };
        served.ready.push_back((birth, fd));
        let id = served.listener.id;
        let _gone = self.poll.registry().deregister(&mut mio::unix::SourceFd(&raw));
        self.drop_handshake(token);
        self.hand_over(id);
    }
}

/// What a client's first bytes say of it.
enum First {
    Eversock,
    /// Other bytes, or an end without any: as a plain listener would, the program sees them.
    Foreign,
    /// Some bytes of what may become ours.
    Unclear,
    Nothing,
    Dead,
}

/// Looks at a client's first bytes, which stay where they are.
fn first_bytes(number: i32) -> First {
    let mut first = [0; hello::MAGIC.len()];
    match sys::io::peek(number, &mut first) {
        Ok(0) => First::Foreign,
        Ok(n) if !hello::may_be_eversock(&first[..n]) => First::Foreign,
        Ok(n) if n < first.len() => First::Unclear,
        Ok(_) => First::Eversock,
        Err(error) if would_block(&error) => First::Nothing,
        Err(_) => First::Dead,
    }
}
