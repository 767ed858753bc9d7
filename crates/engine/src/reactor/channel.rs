//! The way from one process to another: a named channel for each engine, over which connections are
//! passed on and relatives ask for sessions.
//!
//! The name says only which process. A connection that comes through is a descriptor and bytes from
//! the network, and is treated as such; what relatives say proves itself (`family`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use eversock_proto::limits::HELLO_MAX_BYTES;
use eversock_proto::secret::SessionId;
use mio::Interest;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::timer::Timer;
use super::{Command, Reactor, family::Guest};
use crate::clock;
use crate::error::{is_shortage, would_block};
use crate::family::{self, MESSAGE_MAX_BYTES, Message};
use crate::sys::{self, Fd, fd, pass, tcp};

const BACKLOG: i32 = 64;
/// When to look again at lines that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);
/// Lines on which nothing was said yet, at most; the oldest goes when one more comes.
const LINES_MAX: usize = 256;
/// Messages of one line that one turn of the engine takes: others wait too.
const MESSAGES_PER_TURN: usize = 64;
/// How long a line may be silent before it has said anything.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often a connection is passed on, at most: two processes could do so for ever.
pub(super) const HOPS_MAX: u8 = 4;

/// A connection from another process.
#[derive(Debug)]
pub(super) enum Line {
    /// It has said nothing yet.
    Silent(Fd),
    /// A guest's.
    Guest(Guest),
    /// Of a process that waits for our end.
    Heir(Fd),
}

fn name(instance: u64) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(format!("eversock-{instance:016x}").as_bytes())?)
}

fn socket() -> io::Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    fd::internal(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// Listens under this process's name.
pub(crate) fn listen(instance: u64) -> io::Result<Fd> {
    let fd = socket()?;
    rustix::net::bind(&fd, &name(instance)?)?;
    // Those who connect see who we are at this moment.
    family::note_user(sys::process::user());
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// A line to the process `instance`; ECONNREFUSED when there is none, also when a stranger has
/// taken its name since: he would keep those waiting who wait for its end.
pub(crate) fn connect(instance: u64) -> io::Result<Fd> {
    let fd = socket()?;
    rustix::net::connect(&fd, &name(instance)?)?;
    if !family::has_user(pass::peer_user(&fd)?) {
        log::debug!("the name of process {instance:x} is a stranger's");
        return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    }
    Ok(fd)
}

/// Passes a connection and what was read from it to the process `instance`.
pub(super) fn pass(
    instance: u64,
    hops: u8,
    message: &[u8],
    connection: BorrowedFd<'_>,
) -> io::Result<()> {
    let fd = connect(instance)?;
    if !pass::may_be_passed(&fd) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    pass::send(fd.as_raw_fd(), &family::passed(hops, message), &[connection])
}

/// True while the process `instance` lives, as far as its name tells.
pub(super) fn is_alive(instance: u64) -> bool {
    // Whatever else goes wrong says nothing about it.
    !matches!(connect(instance), Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED))
}

impl Reactor {
    /// Another process has something for us.
    pub(super) fn channel_ready(&mut self) {
        for _ in 0..BACKLOG {
            let line = match self.accept_line() {
                Ok(Some(line)) => line,
                Ok(None) => continue,
                Err(error) if would_block(&error) => return,
                Err(error) => {
                    if is_shortage(&error) {
                        self.refusals.note_shortage("what other processes have for us waits");
                    } else {
                        log::debug!("a line was not accepted: {error}");
                    }
                    break;
                }
            };
            let token = self.token();
            if self.register(line.as_raw_fd(), token, Interest::READABLE).is_err() {
                self.close_line(line.as_raw_fd(), line);
                continue;
            }
            self.lines.insert(token, Line::Silent(line));
            self.timers.set(clock::now() + SILENCE_MAX, Timer::Line(token));
            let silent = |line: &&usize| matches!(self.lines.get(*line), Some(Line::Silent(_)));
            if self.lines.keys().filter(silent).count() > LINES_MAX
                && let Some(&oldest) = self.lines.keys().filter(silent).min()
            {
                self.drop_line(oldest);
            }
            // What was sent before we accepted gives no event of its own.
            self.read_line(token);
        }
        // Edge-triggered: what still waits gives no event of its own.
        if self.channel.is_some() {
            self.look_at_lines_again();
        }
    }

    /// Plans another look at who wants something over a local socket.
    pub(crate) fn look_at_lines_again(&mut self) {
        self.timers.set(clock::now() + ACCEPT_AGAIN, Timer::Channel);
    }

    /// Accepts a line and notes its number; `None` for one that could not be kept.
    ///
    /// Under the lock that a fork holds: a child that had a line and did not know it would keep it
    /// open, and whoever waits at its other end for the end of this process would wait for ever.
    fn accept_line(&self) -> io::Result<Option<Fd>> {
        let Some(channel) = &self.channel else { return Err(io::ErrorKind::NotFound.into()) };
        let mut numbers = self.engine.line_numbers.lock().map_err(|_| crate::error::poisoned())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let line = fd::internal(rustix::net::accept_with(channel, flags)?).ok();
        numbers.extend(line.as_ref().map(AsRawFd::as_raw_fd));
        Ok(line)
    }

    /// A line has had its time to say something.
    pub(super) fn line_deadline(&mut self, token: usize) {
        if matches!(self.lines.get(&token), Some(Line::Silent(_))) {
            self.drop_line(token);
        }
    }

    pub(super) fn drop_line(&mut self, token: usize) {
        match self.lines.remove(&token) {
            Some(Line::Silent(line) | Line::Heir(line)) => {
                self.deregister(line.as_raw_fd());
                self.close_line(line.as_raw_fd(), line);
            }
            Some(Line::Guest(guest)) => {
                self.far_ends.remove(&guest.far_token);
                self.deregister(guest.end.pair()[0]);
                self.deregister(guest.end.line.as_raw_fd());
                self.close_line(guest.end.line.as_raw_fd(), guest.end);
            }
            None => {}
        }
    }

    /// Closes a line by dropping what holds it. No child is made between that and its number's
    /// being forgotten.
    fn close_line<T>(&self, number: RawFd, line: T) {
        let numbers = self.engine.line_numbers.lock();
        drop(line);
        if let Ok(mut numbers) = numbers {
            numbers.remove(&number);
        }
    }

    /// A line has a message, or its other end is gone.
    pub(super) fn read_line(&mut self, token: usize) {
        if self.line_ready(token) {
            self.again.push(Command::Line { token });
        }
    }

    /// Reads what a line has; true if there may be more.
    pub(super) fn line_ready(&mut self, token: usize) -> bool {
        let mut wants_input = false;
        for _ in 0..MESSAGES_PER_TURN {
            let raw = match self.lines.get(&token) {
                Some(Line::Silent(line) | Line::Heir(line)) => line.as_raw_fd(),
                Some(Line::Guest(guest)) => guest.end.line.as_raw_fd(),
                None => return false,
            };
            let mut message = [0; MESSAGE_MAX_BYTES];
            let (n, passed) = match pass::recv(raw, &mut message, true) {
                Err(error) if would_block(&error) => {
                    if wants_input {
                        self.guest_reads(token);
                    }
                    return false;
                }
                Ok((n, passed)) if n > 0 => (n, passed),
                _ => {
                    self.line_ended(token);
                    return false;
                }
            };
            let said = Message::decode(&message[..n], self.engine.instance);
            match (said, passed) {
                (Some(Message::Passed { hops, hello }), Some(passed)) => {
                    let trusted = pass::may_be_passed(&sys::borrow(raw));
                    self.drop_line(token);
                    if trusted && hello.len() <= HELLO_MAX_BYTES {
                        self.take_passed(passed, hops, &hello);
                    }
                }
                (Some(Message::Ask(ask)), None) => self.asked(token, &ask),
                (Some(Message::NowAt { session, instance }), None) => {
                    self.drop_line(token);
                    self.now_at(session, instance);
                }
                // It may say so more often than it can be answered.
                (Some(Message::Read), None) => wants_input = true,
                (Some(Message::MayRead), None) => self.guest_may_read(token),
                (Some(Message::Heir), None) => {
                    if let Some(line) = self.take_line(token) {
                        self.lines.insert(token, Line::Heir(line));
                    }
                }
                _ => {
                    self.line_ended(token);
                    return false;
                }
            }
        }
        if wants_input {
            self.guest_reads(token);
        }
        true
    }

    fn line_ended(&mut self, token: usize) {
        if let Some(Line::Guest(_)) = self.lines.get(&token) {
            return self.guest_gone(token);
        }
        self.drop_line(token);
    }

    fn take_passed(&mut self, passed: Fd, hops: u8, message: &[u8]) {
        let _blocking = fd::set_nonblocking(passed.as_raw_fd(), true);
        if let Ok(passed) = fd::internal(passed) {
            let peer = tcp::peer_addr(passed.as_raw_fd());
            self.begin_handshake(passed, peer, None, Some((hops, message)));
        }
    }

    /// Takes the descriptor of a line that has said what it is.
    pub(super) fn take_line(&mut self, token: usize) -> Option<Fd> {
        match self.lines.remove(&token) {
            Some(Line::Silent(line)) => Some(line),
            other => {
                self.lines.extend(other.map(|line| (token, line)));
                None
            }
        }
    }

    /// Tells the process `to` that we have a session, so that resumes find it.
    pub(super) fn tell_where(&self, to: u64, session: SessionId) {
        let us = self.engine.instance;
        if to == us || to == 0 {
            return;
        }
        let told = connect(to)
            .and_then(|line| pass::send(line.as_raw_fd(), &family::now_at(to, session, us), &[]));
        if let Err(error) = told {
            log::debug!("session {session}: process {to:x} was not told: {error}");
        }
    }
}
