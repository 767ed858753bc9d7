//! Dials of the pool: a virtual socket for each, and what its handshake shows.

use super::*;
use crate::key::ServerId;
use crate::state::Found;

/// A dial that is under way.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) number: RawFd,
    how: How,
    addrs: Vec<SocketAddr>,
    /// It asks for no key: a server had none.
    is_keyless: bool,
    /// The number is another's now.
    has_landed: bool,
}

impl Flying {
    /// Ends the dial, and the session that it may have reached.
    pub(super) fn cancel(self) {}

    /// The number is the caller's from here on.
    pub(super) fn landed(mut self) -> How {
        self.has_landed = true;
        self.how.clone()
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        if !self.has_landed
            && let Err(error) = posix::close(self.number)
        {
            log::debug!("a dial's socket: {error}");
        }
    }
}

impl Client {
    /// Dials for a flight, and asks its addresses who they are.
    pub(super) fn take_off(&mut self, flight: u64) -> Vec<Todo> {
        let addrs = look(&self.books).state.flight_addrs(flight);
        let connection = look(&self.books).state.first_of(flight);
        let how = connection.and_then(|connection| self.pending.get(&connection));
        let Some(how) = how.map(|pending| pending.how.clone()) else {
            return look(&self.books).state.dial_failed(flight, libc::ECANCELED, self.clock.now());
        };
        let todo = self.dial(flight, how, addrs.clone(), false);
        if self.config.ask && self.flights.contains_key(&flight) {
            self.ask_for_proofs(flight, &addrs);
        }
        todo
    }

    /// Dials to see who is at the address of a session that is lost.
    pub(super) fn take_off_to_check(&mut self, flight: u64, session: u64) -> Vec<Todo> {
        let addrs = look(&self.books).state.flight_addrs(flight);
        let held = self.by_session.get(&session).and_then(|id| self.held.get(id));
        let Some(how) = held.map(|held| held.how.clone()) else {
            return look(&self.books).state.dial_failed(flight, libc::ECANCELED, self.clock.now());
        };
        self.dial(flight, how, addrs, false)
    }

    fn dial(
        &mut self,
        flight: u64,
        how: How,
        addrs: Vec<SocketAddr>,
        is_keyless: bool,
    ) -> Vec<Todo> {
        let now = self.clock.now();
        let config = match (&how.keyless, is_keyless) {
            (Some(keyless), true) => keyless,
            _ => &how.config,
        };
        match self.begin(flight, config, &how, &addrs) {
            Ok(number) => {
                let has_landed = false;
                let flying = Flying { number, how, addrs, is_keyless, has_landed };
                self.flights.insert(flight, flying);
                Vec::new()
            }
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                look(&self.books).state.dial_failed(flight, number, now)
            }
        }
    }

    fn begin(
        &self,
        flight: u64,
        config: &Arc<Config>,
        how: &How,
        addrs: &[SocketAddr],
    ) -> io::Result<RawFd> {
        let order = self.lines.order(addrs, self.clock.now());
        let first =
            order.first().ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
        let domain = if first.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let number = posix::socket(domain, kind, 0, Arc::clone(config))?;
        let started = Self::set_out(number, how, &order)
            .and_then(|()| self.inbox.watch.add_virtual(number, OTHERS + flight));
        if let Err(error) = started {
            let _closed = posix::close(number);
            return Err(error);
        }
        Ok(number)
    }

    fn set_out(number: RawFd, how: &How, order: &[SocketAddr]) -> io::Result<()> {
        if let Some(device) = &how.device {
            let name = device.as_bytes();
            posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name)?;
        }
        if let Some(source) = how.source {
            posix::bind(number, SocketAddr::new(source, 0))?;
        }
        match posix::connect_any(number, order, how.host.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            result => result,
        }
    }

    /// A flight's socket has something to say.
    pub(super) fn landed(&mut self, flight: u64) {
        let Some(flying) = self.flights.get(&flight) else { return };
        let mut value = [0; 4];
        let asked = posix::getsockopt(flying.number, libc::SOL_SOCKET, libc::SO_ERROR, &mut value);
        let error = match asked {
            Ok(_) => i32::from_ne_bytes(value),
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        };
        if error == 0 {
            match posix::link(flying.number) {
                Ok(link) => self.reached(flight, &link),
                // Not yet: woken for something else.
                Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {}
                Err(error) => self.crashed(flight, error.raw_os_error().unwrap_or(libc::EIO)),
            }
            return;
        }
        self.crashed(flight, error);
    }

    fn crashed(&mut self, flight: u64, error: i32) {
        let Some(flying) = self.flights.remove(&flight) else { return };
        let (how, addrs) = (flying.how.clone(), flying.addrs.clone());
        let may_be_keyless = error == libc::EACCES && how.keyless.is_some() && !flying.is_keyless;
        self.inbox.watch.remove_virtual(flying.number);
        let why = posix::info(flying.number).ok().and_then(|info| info.last_error);
        flying.cancel();
        let todo = if may_be_keyless {
            self.dial(flight, how, addrs, true)
        } else {
            let now = self.clock.now();
            addrs.iter().for_each(|addr| self.lines.dial_failed(*addr, now));
            look(&self.books).state.dial_failed(flight, error, now)
        };
        self.why = why;
        self.perform(todo);
        self.why = None;
    }

    fn reached(&mut self, flight: u64, link: &posix::Link) {
        let now = self.clock.now();
        let Some(flying) = self.flights.get(&flight) else { return };
        let peer = link.peer.or_else(|| flying.addrs.first().copied());
        let Some(addr) = peer else { return };
        self.lines.dial_worked(addr);
        let has_psk = flying.how.config.key.is_some();
        let id = match link.key {
            Some(key) => Some(ServerId::of_key(&key.0)),
            // Whoever has the key may speak for any server that has it.
            None if has_psk => Some(ServerId::of_process(link.instance)),
            None => None,
        };
        if flying.how.pin.is_some() && flying.how.pin != link.key.map(|key| key.0) {
            // Of several addresses, one whose server has another key than that of the first.
            return self.crashed(flight, libc::EACCES);
        }
        let found = match id {
            None => Found::Alone(Why::NoKey),
            Some(_) if !link.shares => Found::Alone(Why::PeerDoesNotShare),
            Some(id) => Found::Shared(Server { id, boot: link.instance }),
        };
        let todo = look(&self.books).state.stands(flight, addr, found, now);
        self.perform(todo);
    }
}
