//! Pumped mode: the program holds one end of a loopback TCP pair, the engine copies between the
//! other end and the session.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use eversock_proto::resume::Reason;
use mio::Interest;

use super::timer::Timer;
use super::{Command, Reactor};
use crate::clock;
use crate::error::would_block;
use crate::socket::recv::RecvMode;
use crate::socket::send::Flushed;
use crate::socket::{Socket, bits};
use crate::sys::{self, Fd, tcp};

const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers copied in one turn, so that one busy pump does not starve the others.
const ROUNDS: usize = 16;

/// One pumped session.
#[derive(Debug)]
pub(super) struct Pump {
    socket: Arc<Socket>,
    far: Fd,
    /// The program's end, until the session stands.
    near: Option<Fd>,
    /// Bytes that only kept the program's end unwritable until the session stood.
    junk: usize,
    /// Bytes for the program that its end had no room for.
    pending: Vec<u8>,
    sent: usize,
    /// The program will write no more.
    program_ended: bool,
    /// The program has been told that the peer will write no more.
    peer_ended: bool,
    /// The program closed its number; `Some(true)` wants a reset.
    closing: Option<bool>,
    /// The session had no room for the program's bytes.
    starved: bool,
    /// The session is over but for what the program has not taken yet.
    over: bool,
}

impl Pump {
    fn has_delivered(&self) -> bool {
        self.peer_ended && self.sent == self.pending.len()
    }
}

enum Turn {
    /// Nothing more to do now.
    Idle,
    /// The turn is used up.
    More,
    /// The program's end is gone.
    Gone,
}

impl Reactor {
    /// Begins to copy for a socket.
    pub(super) fn pump(&mut self, socket: Arc<Socket>, far: Fd, near: Option<Fd>, junk: usize) {
        let token = self.token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.register(far.as_raw_fd(), token, both) {
            return self.give_up(&socket, libc::ENOMEM, &format!("cannot pump: {error}"));
        }
        self.pump_of.insert(socket.id, token);
        let pump = Pump {
            socket,
            far,
            near,
            junk,
            pending: Vec::new(),
            sent: 0,
            program_ended: false,
            peer_ended: false,
            closing: None,
            starved: false,
            over: false,
        };
        self.pumps.insert(token, pump);
        self.pump_ready(token, true, true);
    }

    /// The session of a pump has something.
    pub(super) fn pump_session(&mut self, id: u64) {
        if let Some(&token) = self.pump_of.get(&id) {
            self.pump_ready(token, true, true);
        }
    }

    /// Either end of a pump has something.
    pub(super) fn pump_ready(&mut self, token: usize, _readable: bool, _writable: bool) {
        let Some(pump) = self.pumps.get_mut(&token) else { return };
        // Of a failed session the program learns by a reset, from `failed`.
        if pump.socket.has(bits::CONNECTING | bits::FAILED) {
            return;
        }
        let turn = match pump.turn() {
            Ok(turn) => turn,
            Err(error) => {
                log::debug!("pump of session {}: {error}", pump.socket.id);
                Turn::Gone
            }
        };
        let socket = Arc::clone(&pump.socket);
        if socket.has(bits::FAILED) {
            return;
        }
        if pump.program_ended && pump.peer_ended && pump.sent == pump.pending.len() {
            // A pair that was given away: nobody else will say that it is closed.
            pump.closing.get_or_insert(false);
        }
        if pump.over && pump.peer_ended && pump.sent == pump.pending.len() {
            return self.over(&socket);
        }
        if pump.program_ended
            && let Some(reset) = pump.closing
        {
            self.stop_pump(token);
            socket.change(bits::CLOSED, 0);
            self.again.push(Command::Closed { socket, reset });
            return;
        }
        match turn {
            Turn::Idle => {}
            Turn::More => self.timers.set(clock::now(), Timer::Pump(token)),
            Turn::Gone => {
                if let Some(pump) = self.pumps.remove(&token) {
                    self.deregister(pump.far.as_raw_fd());
                    self.pump_of.remove(&socket.id);
                    // A RST, so that the program's next write says so.
                    tcp::discard(pump.far);
                }
                socket.change(bits::CLOSED, 0);
                let reset = socket
                    .meta
                    .lock()
                    .is_ok_and(|meta| meta.options.linger == Some(Duration::ZERO));
                if !reset
                    && let Ok(mut tx) = socket.tx.lock()
                    && let Some(sender) = tx.sender.as_mut()
                {
                    sender.finish();
                    socket.flush(&mut tx, false);
                }
                self.again.push(Command::Closed { socket, reset });
            }
        }
    }

    fn stop_pump(&mut self, token: usize) {
        if let Some(pump) = self.pumps.remove(&token) {
            self.deregister(pump.far.as_raw_fd());
            self.pump_of.remove(&pump.socket.id);
        }
    }

    /// A pumped program may have closed its number with bytes still on their way to us: they come
    /// first. True when the close must wait for them.
    pub(super) fn defer_close_for_pump(&mut self, socket: &Socket, reset: bool) -> bool {
        let Some(&token) = self.pump_of.get(&socket.id) else { return false };
        if let Some(pump) = self.pumps.get_mut(&token) {
            pump.closing = Some(reset);
        }
        // A reset does not wait for what was written before it.
        if reset || socket.has(bits::CONNECTING) {
            self.stop_pump(token);
            return false;
        }
        self.pump_ready(token, true, true);
        true
    }

    /// True when an ended session must wait until its pump has given the program everything.
    pub(super) fn defer_over_for_pump(&mut self, id: u64) -> bool {
        let Some(token) = self.pump_of.get(&id) else { return false };
        let Some(pump) = self.pumps.get_mut(token) else { return false };
        pump.over = !pump.has_delivered();
        pump.over
    }

    /// The session of a pump has ended.
    pub(super) fn end_pump(&mut self, socket: &Socket, reason: Reason) {
        let Some(&token) = self.pump_of.get(&socket.id) else { return };
        let Some(pump) = self.pumps.remove(&token) else { return };
        self.pump_of.remove(&socket.id);
        self.deregister(pump.far.as_raw_fd());
        if reason == Reason::Closed { drop(pump.far) } else { tcp::discard(pump.far) }
    }
}

impl Pump {
    fn turn(&mut self) -> io::Result<Turn> {
        let mut buf = vec![0; BUFFER_BYTES];
        if let Some(near) = self.near.take() {
            tcp::enlarge(near.as_raw_fd(), self.far.as_raw_fd());
        }
        let socket = Arc::clone(&self.socket);
        let number = self.far.as_raw_fd();
        for _ in 0..ROUNDS {
            let out = self.read_program(&socket, number, &mut buf)?;
            let back = self.write_program(&socket, number, &mut buf)?;
            // The credit that the first half lacked may have come with the second.
            let credit = self.starved && !socket.has(bits::NO_ROOM);
            if !out && !back && !credit {
                return Ok(Turn::Idle);
            }
        }
        Ok(Turn::More)
    }

    /// Moves bytes from the program to the session; true if it should be called again.
    fn read_program(
        &mut self,
        socket: &Arc<Socket>,
        number: i32,
        buf: &mut [u8],
    ) -> io::Result<bool> {
        if self.program_ended {
            return Ok(false);
        }
        while self.junk > 0 {
            let most = self.junk.min(buf.len());
            match sys::io::recv_one(number, &mut buf[..most]) {
                Ok(0) => break,
                Ok(n) => self.junk -= n,
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Ok(mut tx) = socket.tx.lock() else { return Ok(false) };
        socket.absorb(&mut tx);
        if socket.flush(&mut tx, false) == Flushed::Owed {
            socket.owe();
            return Ok(false);
        }
        let Some(sender) = tx.sender.as_mut() else { return Ok(false) };
        let room = sender.room().min(buf.len());
        if room == 0 && !sender.is_stopped() {
            // The session is read all the time, so the credit will be seen when it comes.
            socket.change(bits::NO_ROOM, 0);
            self.starved = true;
            drop(tx);
            socket.grow_own_window();
            return Ok(false);
        }
        self.starved = false;
        let most = if room == 0 { buf.len() } else { room };
        let n = match sys::io::recv_one(number, &mut buf[..most]) {
            Ok(n) => n,
            Err(error) if would_block(&error) => return Ok(false),
            Err(error) => {
                drop(tx);
                return Err(error);
            }
        };
        if n == 0 {
            self.program_ended = true;
            sender.finish();
            socket.change(bits::WRITE_SHUT, 0);
        } else {
            if sender.is_stopped() && self.peer_ended {
                // As TCP does when one writes to a peer that has closed.
                drop(tx);
                return Err(crate::error::errno(libc::EPIPE));
            }
            // A peer that reads no more gets nothing more.
            sender.write_all(&buf[..n]);
            let written = sender.written();
            socket.shared.written.store(written, std::sync::atomic::Ordering::SeqCst);
        }
        let flushed = socket.flush(&mut tx, false);
        socket.finish_tx(tx);
        socket.list_for_sweep();
        if flushed == Flushed::Owed {
            socket.owe();
        }
        Ok(flushed == Flushed::All && n > 0)
    }

    /// Moves bytes from the session to the program; true if it should be called again.
    fn write_program(
        &mut self,
        socket: &Arc<Socket>,
        number: i32,
        buf: &mut [u8],
    ) -> io::Result<bool> {
        if self.sent < self.pending.len() {
            match sys::io::send(number, &[IoSlice::new(&self.pending[self.sent..])], false) {
                Ok(n) => self.sent += n,
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error),
            }
            if self.sent < self.pending.len() {
                // The program does not read; acks and credit still must be read.
                socket.read_ahead();
                return Ok(false);
            }
            self.pending = Vec::new();
            self.sent = 0;
        }
        if self.peer_ended {
            socket.read_ahead();
            return Ok(false);
        }
        let mode = RecvMode { dont_wait: true, ..RecvMode::default() };
        match socket.recv(-1, &mut [IoSliceMut::new(buf)], mode) {
            Ok(0) => {
                self.peer_ended = true;
                rustix::net::shutdown(&self.far, rustix::net::Shutdown::Write)?;
                Ok(false)
            }
            Ok(n) => {
                let sent = match sys::io::send(number, &[IoSlice::new(&buf[..n])], false) {
                    Ok(sent) => sent,
                    Err(error) if would_block(&error) => 0,
                    Err(error) => return Err(error),
                };
                if sent < n {
                    self.pending = buf[sent..n].to_vec();
                    self.sent = 0;
                }
                Ok(true)
            }
            Err(error) if would_block(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
