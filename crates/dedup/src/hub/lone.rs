//! A connection whose peer does not share: a virtual socket of its own, copied byte by byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use eversock_engine::host::Kept;
use eversock_engine::posix;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::{Readiness, Watch, would_block};

/// Bytes that one direction moves before others have their turn.
const BUDGET: usize = 1024 * 1024;

/// What was read and found no room behind, or was said before.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    at: usize,
    /// The direction has ended, and the end has been passed on.
    ended: bool,
    told: bool,
}

impl Held {
    fn left(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn took(&mut self, n: usize) {
        self.at += n;
        if self.at == self.bytes.len() {
            (self.bytes, self.at) = (Vec::new(), 0);
        }
    }
}

/// A program's connection and the session that is its alone.
#[derive(Debug)]
pub(super) struct Lone {
    number: RawFd,
    pub(super) far: Kept,
    pub(super) connection: u64,
    /// Of the socket, and of the descriptor.
    ready: [(bool, bool); 2],
    /// As a pipe's.
    skip: usize,
    to_session: Held,
    to_program: Held,
    /// Only what the program has written is waited for.
    stops: bool,
    is_over: bool,
    /// The kernel says that something is wrong with the descriptor.
    broken: bool,
}

impl Lone {
    pub(super) fn new(
        number: RawFd,
        far: Kept,
        skip: usize,
        said: Vec<u8>,
        connection: u64,
        id: u32,
        watch: &Watch,
    ) -> io::Result<Self> {
        let watched = posix::set_nonblocking(number, true)
            .and_then(|()| watch.add_virtual(number, super::token(id, 0, false)))
            .and_then(|()| watch.add(&far, super::token(id, 0, true)));
        if let Err(error) = watched {
            super::pipe::reset(&far);
            return Err(error);
        }
        super::pipe::watch_over(&far);
        let to_session = Held { bytes: said, ..Held::default() };
        let to_program = Held::default();
        let ready = [(true, true); 2];
        Ok(Self {
            number,
            far,
            connection,
            ready,
            skip,
            to_session,
            to_program,
            stops: false,
            is_over: false,
            broken: false,
        })
    }

    /// Ends in order when what the program has written until now is sent.
    pub(super) fn stop(&mut self) {
        self.stops = true;
        self.ready[1].0 = true;
    }

    pub(super) fn note(&mut self, is_far: bool, ready: Readiness) {
        let (read, write) = &mut self.ready[usize::from(is_far)];
        *read |= ready.readable;
        *write |= ready.writable;
        self.broken |= is_far && ready.broken;
    }

    pub(super) fn has_work(&self) -> bool {
        let [(read, write), (far_read, far_write)] = self.ready;
        // What is still readable was left for the budget's sake.
        read && far_write && !self.to_program.ended || far_read && write && !self.to_session.ended
    }

    /// True when the connection is over, both ways or by an error.
    pub(super) fn turn(&mut self, buf: &mut [u8]) -> bool {
        let is_gone = std::mem::take(&mut self.broken)
            && !matches!(rustix::net::sockopt::socket_error(&self.far), Ok(Ok(())));
        let result = match is_gone {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => self.up(buf).and_then(|()| self.down(buf)),
        };
        let is_done = match result {
            Err(_) => {
                super::reset_virtual(self.number);
                super::pipe::reset(&self.far);
                true
            }
            Ok(()) if self.stops => {
                let is_read = self.to_session.ended || !self.ready[1].0;
                if is_read && self.to_session.left().is_empty() {
                    // No close at once: with something unread it would be a reset, which may
                    // overtake what was written.
                    if !std::mem::replace(&mut self.to_session.told, true) {
                        self.to_session.ended = true;
                        let _gone = posix::shutdown(self.number, libc::SHUT_WR);
                    }
                }
                self.to_session.told && self.to_program.ended
            }
            Ok(()) => self.to_session.told && self.to_program.told,
        };
        if is_done {
            self.close();
        }
        is_done
    }

    fn up(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut moved = 0;
        if self.skip > 0 {
            if !super::pipe::drain(&self.far, &mut self.skip, buf) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.skip > 0 {
                self.ready[1].0 = false;
                return Ok(());
            }
        }
        loop {
            let held = &mut self.to_session;
            if !held.left().is_empty() {
                if !self.ready[0].1 {
                    return Ok(());
                }
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                match posix::send(self.number, &[IoSlice::new(held.left())], flags) {
                    Ok(n) => held.took(n),
                    Err(error) if would_block(&error) => self.ready[0].1 = false,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            if held.ended {
                if !std::mem::replace(&mut held.told, true) {
                    posix::shutdown(self.number, libc::SHUT_WR)?;
                }
                return Ok(());
            }
            if !self.ready[1].0 || moved >= BUDGET {
                return Ok(());
            }
            match rustix::net::recv(&self.far, &mut *buf, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => held.ended = true,
                Ok((_, n)) => {
                    moved += n;
                    held.bytes.extend_from_slice(&buf[..n]);
                }
                Err(Errno::AGAIN) => self.ready[1].0 = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn down(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut moved = 0;
        loop {
            let held = &mut self.to_program;
            if !held.left().is_empty() {
                if !self.ready[1].1 {
                    return Ok(());
                }
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&self.far, held.left(), flags) {
                    Ok(n) => held.took(n),
                    Err(Errno::AGAIN) => self.ready[1].1 = false,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            if held.ended {
                if !std::mem::replace(&mut held.told, true) {
                    let _gone = rustix::net::shutdown(&self.far, Shutdown::Write);
                }
                return Ok(());
            }
            if !self.ready[0].0 || moved >= BUDGET {
                return Ok(());
            }
            match posix::recv(self.number, &mut [IoSliceMut::new(buf)], libc::MSG_DONTWAIT) {
                Ok(0) => held.ended = true,
                Ok(n) => {
                    moved += n;
                    held.bytes.extend_from_slice(&buf[..n]);
                }
                Err(error) if would_block(&error) => self.ready[0].0 = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if let Err(error) = posix::close(self.number) {
            log::debug!("session closed: {error}");
        }
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        if !self.is_over {
            super::reset_virtual(self.number);
            super::pipe::reset(&self.far);
            self.close();
        }
    }
}
