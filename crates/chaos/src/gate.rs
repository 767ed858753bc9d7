//! The listening side: accepts, refuses, and stops listening for a while.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Socket, Type};

use crate::fault::Refusal;
use crate::schedule::later;
use crate::shape::Spell;

const BACKLOG: i32 = 1024;
/// Pause after an error that will not go away at once: out of descriptors, port in use.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
enum Mode {
    Accepting,
    Resetting(Spell),
    ResettingNext(u64),
    Closed(Spell),
}

/// What came of a look at the accept queue.
#[derive(Debug)]
pub(crate) enum Arrival {
    Accepted(TcpStream, SocketAddr),
    Refused(SocketAddr),
    Nobody,
}

#[derive(Debug)]
pub(crate) struct Gate {
    addr: SocketAddr,
    token: Token,
    listener: Option<TcpListener>,
    /// Bound and never listening: keeps the port ours while the listener is closed.
    _guard: Option<Socket>,
    mode: Mode,
    ready: bool,
    pause: Option<Instant>,
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // On Windows the option would let two listeners share the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Gate {
    pub(crate) fn bind(addr: SocketAddr, token: Token) -> io::Result<Self> {
        let socket = bound(addr)?;
        let addr = socket.local_addr()?.as_socket().unwrap_or(addr);
        // It has to be bound before the other one listens. Without it everything still works, but
        // for the risk that another process takes the port meanwhile.
        let guard = bound(addr).inspect_err(|error| log::debug!("{addr}: no guard: {error}")).ok();
        let listener = Some(listening(socket)?);
        let mode = Mode::Accepting;
        Ok(Self { addr, token, listener, _guard: guard, mode, ready: true, pause: None })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.listener {
            Some(listener) => registry.register(listener, self.token, Interest::READABLE),
            None => Ok(()),
        }
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal, now: Instant) {
        self.mode = match refusal {
            Refusal::Reset(time) => Mode::Resetting(Spell::lasting(now, time)),
            Refusal::ResetNext(count) => Mode::ResettingNext(count),
            Refusal::Closed(time) => Mode::Closed(Spell::lasting(now, time)),
        };
    }

    pub(crate) fn heal(&mut self) {
        self.mode = Mode::Accepting;
    }

    /// Ends what is over, and closes or opens the listener accordingly. Whether that changed.
    pub(crate) fn tend(&mut self, registry: &Registry, now: Instant) -> bool {
        if let Mode::Resetting(spell) | Mode::Closed(spell) = self.mode
            && !spell.is_on(now)
        {
            self.mode = Mode::Accepting;
        }
        if self.pause.is_some_and(|end| end <= now) {
            self.pause = None;
        }
        let wanted = !matches!(self.mode, Mode::Closed(_));
        if !wanted {
            return self.listener.take().is_some();
        }
        if self.listener.is_some() || self.pause.is_some() {
            return false;
        }
        match bound(self.addr).and_then(listening) {
            Ok(listener) => {
                self.listener = Some(listener);
                self.ready = true;
                let registered = self.register(registry);
                if let Err(error) = &registered {
                    self.fail("cannot be watched", error, now);
                    self.listener = None;
                }
                registered.is_ok()
            }
            Err(error) => {
                self.fail("cannot be opened again yet", &error, now);
                false
            }
        }
    }

    fn fail(&mut self, what: &str, error: &io::Error, now: Instant) {
        log::warn!("listener {}: {what}: {error}; trying again in {PAUSE:?}", self.addr);
        self.pause = Some(later(now, PAUSE));
    }

    /// Takes one connection out of the accept queue.
    pub(crate) fn accept(&mut self, now: Instant) -> Arrival {
        let Some(listener) = self.listener.as_ref().filter(|_| self.is_ready()) else {
            return Arrival::Nobody;
        };
        match listener.accept() {
            Ok((stream, peer)) => {
                let refused = match &mut self.mode {
                    Mode::Resetting(_) => true,
                    Mode::ResettingNext(0) => false,
                    Mode::ResettingNext(count) => {
                        *count -= 1;
                        true
                    }
                    Mode::Accepting | Mode::Closed(_) => false,
                };
                if !refused {
                    return Arrival::Accepted(stream, peer);
                }
                // Fails only if the peer has gone already, and then no RST is missed.
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                Arrival::Refused(peer)
            }
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.ready = false,
                    // The peer gave up while it waited in the queue; the next one may be there.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => self.fail("cannot accept", &error, now),
                }
                Arrival::Nobody
            }
        }
    }

    /// Whether it is worth looking at the accept queue now.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready && self.pause.is_none() && self.listener.is_some()
    }

    /// When something changes without any news from the kernel.
    pub(crate) fn wake(&self, now: Instant) -> Option<Instant> {
        let spell = match self.mode {
            Mode::Resetting(spell) | Mode::Closed(spell) => spell.end(now),
            _ => None,
        };
        spell.into_iter().chain(self.pause).min()
    }
}
