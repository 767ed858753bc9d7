//! What is to be written to a connection, by a thread of its own.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use eversock_socket::VirtualStream;

use super::{lock, wait, wait_until};
use crate::wire::{Message, frame};

/// Bytes that are written together, if so many wait.
const WRITE_BYTES: usize = 64 << 10;
/// A buffer that has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Messages on their way to a connection. Whoever puts one in never blocks; who reads from the peer
/// waits for [`Outbox::wait_room`] and so bounds it.
#[derive(Debug)]
pub(crate) struct Outbox<M> {
    state: Mutex<State<M>>,
    /// Something came, or the end.
    ready: Condvar,
    /// Something was written, or the end.
    room: Condvar,
}

#[derive(Debug)]
struct State<M> {
    queue: VecDeque<(M, usize)>,
    /// Those in the writer's hands included.
    messages: usize,
    bytes: usize,
    /// Of these, those of places for which nothing has come yet.
    reserved: usize,
    /// Nothing more is taken; what waits is still written.
    closed: bool,
    /// Nothing more is read.
    intake_over: bool,
    /// Nobody writes any more.
    gone: bool,
}

impl<M: Message> Outbox<M> {
    pub(crate) fn new() -> Self {
        let state = State {
            queue: VecDeque::new(),
            messages: 0,
            bytes: 0,
            reserved: 0,
            closed: false,
            intake_over: false,
            gone: false,
        };
        Self { state: Mutex::new(state), ready: Condvar::new(), room: Condvar::new() }
    }

    /// Puts a message in. It counts for `bytes`. False if the connection ends.
    pub(crate) fn push(&self, message: M, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        if state.closed {
            return false;
        }
        state.queue.push_back((message, bytes));
        state.messages += 1;
        state.bytes += bytes;
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Makes a place for an answer to come: until it is written, it counts for `bytes`.
    pub(crate) fn reserve(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.messages += 1;
        state.bytes += bytes;
        state.reserved += bytes;
    }

    /// Puts a message into a place that [`Self::reserve`] has made. It counts for `bytes`. False if
    /// the connection ends.
    pub(crate) fn push_reserved(&self, message: M, reserved: usize, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        state.bytes -= reserved;
        state.reserved -= reserved;
        let is_open = !state.closed;
        if is_open {
            state.bytes += bytes;
            state.queue.push_back((message, bytes));
        } else {
            state.messages -= 1;
        }
        drop(state);
        self.ready.notify_one();
        self.room.notify_all();
        is_open
    }

    /// Bytes that wait or are being written.
    pub(crate) fn bytes_unwritten(&self) -> usize {
        let state = lock(&self.state);
        state.bytes - state.reserved
    }

    /// Blocks while so much waits, places included. False if nothing more is to be read.
    pub(crate) fn wait_room(&self, messages: usize, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let is_full = |state: &State<M>| {
            state.messages > 0 && (state.messages >= messages || state.bytes >= bytes)
        };
        while !state.closed && !state.intake_over && is_full(&state) {
            state = wait(&self.room, state);
        }
        !state.closed && !state.intake_over
    }

    /// Nothing more is to be read.
    pub(crate) fn end_intake(&self) {
        lock(&self.state).intake_over = true;
        self.room.notify_all();
    }

    /// Takes nothing more; the writer ends after what waits.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_all();
        self.room.notify_all();
    }

    /// As [`Self::close`], and waits for the writer to end, until then at most. False if it does
    /// not.
    pub(crate) fn finish(&self, until: Instant) -> bool {
        self.close();
        let mut state = lock(&self.state);
        while !state.gone && Instant::now() < until {
            state = wait_until(&self.room, state, until);
        }
        state.gone
    }

    /// Whether nothing more is taken.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Writes until the end, on the thread of the caller. After an error, what waits is dropped.
    pub(crate) fn run(&self, stream: &VirtualStream) -> io::Result<()> {
        let mut wire = Vec::new();
        let mut batch = Vec::new();
        let mut result = Ok(());
        while self.take(&mut batch) {
            if result.is_ok() {
                result = write(stream, &batch, &mut wire);
                if result.is_err() {
                    self.close();
                }
            }
            let (messages, bytes) = (batch.len(), batch.iter().map(|(_, bytes)| bytes).sum());
            batch.clear();
            self.done(messages, bytes);
        }
        result
    }

    /// Waits for the next messages; false at the end.
    fn take(&self, batch: &mut Vec<(M, usize)>) -> bool {
        let mut state = lock(&self.state);
        while state.queue.is_empty() && !state.closed {
            state = wait(&self.ready, state);
        }
        let mut bytes = 0;
        while bytes < WRITE_BYTES {
            let Some((message, weight)) = state.queue.pop_front() else { break };
            bytes += weight;
            batch.push((message, weight));
        }
        if batch.is_empty() {
            state.gone = true;
            self.room.notify_all();
        }
        !batch.is_empty()
    }

    fn done(&self, messages: usize, bytes: usize) {
        let mut state = lock(&self.state);
        state.messages -= messages;
        state.bytes -= bytes;
        drop(state);
        self.room.notify_all();
    }
}

/// Closes it also when its reader panics, so that its writer ends.
#[derive(Debug)]
pub(crate) struct Closing<'a, M: Message>(pub(crate) &'a Outbox<M>);

impl<M: Message> Drop for Closing<'_, M> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn write<M: Message>(
    mut stream: &VirtualStream,
    batch: &[(M, usize)],
    wire: &mut Vec<u8>,
) -> io::Result<()> {
    wire.clear();
    wire.shrink_to(KEPT_BYTES_MAX);
    for (message, _) in batch {
        if let Err(error) = frame::put(message, wire) {
            // Whoever waits for it would wait for ever: better to end the connection.
            return Err(io::Error::other(error));
        }
    }
    stream.write_all(wire)
}
