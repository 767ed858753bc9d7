//! Our multiplexer with one that others wrote, the crate `yamux`, at the other end: what the two
//! say to each other is what the specification means, and not what we alone make of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use eversock_dedup::mux::{Limits, Mux, Role, StreamError, news, reason};
use futures::io::{AsyncRead, AsyncWrite};
use futures::task::noop_waker;
use yamux::{Config, Connection, Mode};

/// What is carried each way by each stream: eight windows.
const STREAM_BYTES: u64 = 2 * 1024 * 1024;

/// Turns until the two must have come to an end; each moves at least a frame when there is one.
const TURNS_MAX: u32 = 200_000;

/// Both directions of a connection, each no longer than a socket's buffer.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<[VecDeque<u8>; 2]>>);

const WIRE_BYTES_MAX: usize = 64 * 1024;
const TO_THEM: usize = 0;
const TO_US: usize = 1;

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let lane = &mut self.0.lock().unwrap()[TO_THEM];
        let n = buf.len().min(lane.len());
        if n == 0 {
            // Nobody wakes anybody here: all are asked each turn.
            return Poll::Pending;
        }
        for (slot, byte) in buf.iter_mut().zip(lane.drain(..n)) {
            *slot = byte;
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let lane = &mut self.0.lock().unwrap()[TO_US];
        let n = buf.len().min(WIRE_BYTES_MAX.saturating_sub(lane.len()));
        if n == 0 {
            return Poll::Pending;
        }
        lane.extend(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What one end has done with a stream.
#[derive(Default)]
struct Lane {
    written: u64,
    read: u64,
    finished: bool,
    at_end: bool,
}

impl Lane {
    fn is_done(&self) -> bool {
        self.finished && self.at_end
    }
}

/// The byte at an offset of what one of the two says on a stream.
fn byte(number: u32, by_us: bool, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 9) ^ (u64::from(number) * 7) ^ u64::from(by_us)) as u8
}

fn bytes(number: u32, by_us: bool, from: u64, max: u64) -> Vec<u8> {
    (from..STREAM_BYTES.min(from + max)).map(|at| byte(number, by_us, at)).collect()
}

fn check(number: u32, by_us: bool, lane: &mut Lane, got: &[u8]) {
    for found in got {
        assert_eq!(*found, byte(number, by_us, lane.read), "stream {number} at {}", lane.read);
        lane.read += 1;
    }
}

/// Both ends.
struct Talk {
    wire: Wire,
    mux: Mux,
    ours: BTreeMap<u32, Lane>,
    connection: Connection<Wire>,
    theirs: BTreeMap<u32, (yamux::Stream, Lane)>,
    /// What is left of our streams' numbers, divided by two.
    our_parity: u32,
    /// Streams on which the one that accepts speaks only when the other has ended.
    turns: bool,
    /// Streams that they have opened, of those that they are to open.
    opened: u32,
    to_open: u32,
    told: Vec<(u32, u8)>,
}

impl Talk {
    fn new(mode: Mode) -> Self {
        let wire = Wire::default();
        let role = if mode == Mode::Client { Role::Server } else { Role::Client };
        Self {
            mux: Mux::new(role, Limits::default()),
            ours: BTreeMap::new(),
            connection: Connection::new(wire.clone(), Config::default(), mode),
            theirs: BTreeMap::new(),
            wire,
            our_parity: u32::from(role == Role::Client),
            turns: false,
            opened: 0,
            to_open: 0,
            told: Vec::new(),
        }
    }

    fn carry(&mut self, now: u64) {
        let mut lanes = self.wire.0.lock().unwrap();
        let arrived: Vec<u8> = lanes[TO_US].drain(..).collect();
        if lanes[TO_THEM].len() < WIRE_BYTES_MAX {
            let mut out = Vec::new();
            self.mux.fill(&mut out, WIRE_BYTES_MAX);
            lanes[TO_THEM].extend(out);
        }
        drop(lanes);
        // Cut where no frame ends.
        for part in arrived.chunks(1009) {
            self.mux.feed(part, now).unwrap();
        }
        while let Some((number, news)) = self.mux.next_news() {
            self.told.push((number, news));
            if news & news::OPENED != 0 {
                self.mux.accept(number).unwrap();
                self.ours.insert(number, Lane::default());
            }
        }
    }

    fn we_speak(&mut self, now: u64) {
        let numbers: Vec<u32> = self.ours.keys().copied().collect();
        for number in numbers {
            let waits = self.turns && number % 2 != self.our_parity;
            let lane = self.ours.get_mut(&number).unwrap();
            let mut out = vec![0; 100_000];
            let n = self.mux.read(number, &mut out, now).unwrap();
            check(number, false, lane, &out[..n]);
            lane.at_end = self.mux.is_at_end(number);
            if lane.finished || waits && !lane.at_end {
                continue;
            }
            let room = self.mux.room(number) as u64;
            let n = self.mux.write(number, &bytes(number, true, lane.written, room)).unwrap();
            lane.written += n as u64;
            if lane.written == STREAM_BYTES {
                self.mux.finish(number).unwrap();
                lane.finished = true;
            }
        }
    }

    fn they_speak(&mut self, cx: &mut Context<'_>) {
        while self.opened < self.to_open {
            let Poll::Ready(stream) = self.connection.poll_new_outbound(cx) else { break };
            let stream = stream.unwrap();
            self.opened += 1;
            self.theirs.insert(stream.id().val(), (stream, Lane::default()));
        }
        // This is also what moves its bytes.
        while let Poll::Ready(Some(stream)) = self.connection.poll_next_inbound(cx) {
            let stream = stream.unwrap();
            self.theirs.insert(stream.id().val(), (stream, Lane::default()));
        }
        for (number, (stream, lane)) in &mut self.theirs {
            let mut out = vec![0; 100_000];
            if !lane.at_end
                && let Poll::Ready(n) = Pin::new(&mut *stream).poll_read(cx, &mut out)
            {
                let n = n.unwrap();
                check(*number, true, lane, &out[..n]);
                lane.at_end = n == 0;
            }
            if lane.finished || self.turns && number % 2 == self.our_parity && !lane.at_end {
                continue;
            }
            let next = bytes(*number, false, lane.written, 50_000);
            if !next.is_empty()
                && let Poll::Ready(n) = Pin::new(&mut *stream).poll_write(cx, &next)
            {
                lane.written += n.unwrap() as u64;
            }
            if lane.written == STREAM_BYTES
                && let Poll::Ready(done) = Pin::new(stream).poll_close(cx)
            {
                done.unwrap();
                lane.finished = true;
            }
        }
    }

    fn turn(&mut self, now: u64) {
        let waker = noop_waker();
        self.carry(now);
        self.we_speak(now);
        self.carry(now);
        self.they_speak(&mut Context::from_waker(&waker));
    }

    fn is_done(&self, streams: usize) -> bool {
        self.ours.len() == streams
            && self.theirs.len() == streams
            && self.ours.values().all(Lane::is_done)
            && self.theirs.values().all(|(_, lane)| lane.is_done())
    }
}

fn each_way_of_several_streams(turns: bool) {
    for mode in [Mode::Client, Mode::Server] {
        let mut talk = Talk::new(mode);
        talk.turns = turns;
        talk.to_open = 3;
        for _ in 0..3 {
            let number = talk.mux.open(0).unwrap();
            talk.ours.insert(number, Lane::default());
        }
        let mut now = 0;
        while !talk.is_done(6) {
            now += 1;
            assert!(now < u64::from(TURNS_MAX), "the two never come to an end");
            talk.turn(now);
        }
        for (number, lane) in &talk.ours {
            assert_eq!((lane.written, lane.read), (STREAM_BYTES, STREAM_BYTES));
            let (_, lane) = &talk.theirs[number];
            assert_eq!((lane.written, lane.read), (STREAM_BYTES, STREAM_BYTES));
            talk.mux.close(*number);
        }
        talk.ours.clear();
        talk.theirs.clear();
        (0..10).for_each(|more| talk.turn(now + more));
        assert!(talk.mux.is_empty(), "a stream that both have ended is kept");
        let accepted = talk.told.iter().filter(|(_, news)| news & news::ACCEPTED != 0);
        assert_eq!(accepted.count(), 3);
    }
}

#[test]
fn streams_of_both_ends_are_exact_both_ways_at_once() {
    each_way_of_several_streams(false);
}

#[test]
fn one_direction_goes_on_when_the_other_has_ended() {
    each_way_of_several_streams(true);
}

/// A stream that is reset by us is of no use to them, and their other ones are as before; one that
/// they leave open is told to us as reset.
#[test]
fn a_reset_of_either_end_is_understood_by_the_other() {
    for mode in [Mode::Client, Mode::Server] {
        let mut talk = Talk::new(mode);
        let waker = noop_waker();
        let (gone, left, kept) = (talk.mux.open(0), talk.mux.open(0), talk.mux.open(0));
        let (gone, left, kept) = (gone.unwrap(), left.unwrap(), kept.unwrap());
        for number in [gone, left, kept] {
            talk.ours.insert(number, Lane::default());
        }
        (1..10).for_each(|now| talk.turn(now));
        assert_eq!(talk.theirs.len(), 3);
        // Ours.
        talk.ours.remove(&gone);
        // With a reason, of which they know nothing.
        talk.mux.reset_with(gone, reason::MISDIRECTED);
        let (mut stream, lane) = talk.theirs.remove(&gone).unwrap();
        assert!(lane.read > 0 && !lane.at_end);
        (10..20).for_each(|now| talk.turn(now));
        let mut cx = Context::from_waker(&waker);
        let written = Pin::new(&mut stream).poll_write(&mut cx, b"x");
        assert!(matches!(written, Poll::Ready(Err(_))), "{written:?}");
        drop(stream);
        // Theirs.
        talk.ours.remove(&left);
        drop(talk.theirs.remove(&left));
        for now in 20..30 {
            talk.turn(now);
            assert!(!talk.mux.is_at_end(left));
        }
        assert!(talk.told.iter().any(|(of, news)| *of == left && news & news::RESET != 0));
        assert_eq!(talk.mux.read(left, &mut [0; 1], 30), Err(StreamError::Reset));
        // The other one.
        let mut now = 30;
        while !talk.is_done(1) {
            now += 1;
            assert!(now < u64::from(TURNS_MAX), "the two never come to an end");
            talk.turn(now);
        }
        assert_eq!(talk.ours[&kept].read, STREAM_BYTES);
    }
}
