//! The far side: verifies what comes and answers every byte with one of its own stream.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use eversock::wait::Epoll;

use super::content::{HELLO_BYTES, Hello, Stream, Way};
use super::figures::{ERRORS_MAX, Far, Held, Process};
use super::helper;
use super::inbox::Inbox;
use super::live::{Live, Sample};
use super::talk::is_passing;
use crate::failure::Failure;
use crate::wire::{Listener, Wire};

/// What the loop is told by other threads.
#[derive(Debug)]
pub(super) enum Letter {
    Signal,
    /// A line of the standard input, or its end.
    Input(Option<String>),
}

const EVENTS_PER_WAIT: usize = 256;
const ACCEPTS_PER_TURN: usize = 64;
const BUFFER_BYTES: usize = 64 << 10;
/// What one session moves before others have their turn.
const TURN_BYTES_MAX: usize = 256 << 10;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sessions may take to end when this side is to.
const END_TIME_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
const WAKE: u64 = u64::MAX;
const LISTEN: u64 = u64::MAX - 1;
/// Generations stay below, so that no session's events look like the two above.
const GENERATION_MAX: u32 = u32::MAX - 1;

/// One session.
#[derive(Debug)]
struct Answer {
    wire: Wire,
    hello: [u8; HELLO_BYTES],
    hello_got: usize,
    talk: Option<(Hello, Stream, Stream)>,
    readable: bool,
    writable: bool,
    has_ended: bool,
    got: u64,
    sent: u64,
}

enum Turn {
    Idle,
    More,
    Closed,
    Unused,
    Failed(String),
    Mismatch(String),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    answer: Option<Answer>,
    queued: bool,
}

/// The far side at work.
#[derive(Debug)]
pub(super) struct Server {
    listener: Option<Listener>,
    epoll: Epoll,
    inbox: Inbox<Letter>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    work: VecDeque<usize>,
    buffer: Box<[u8]>,
    began: Instant,
    quarter_at: Option<Instant>,
    until: Option<Instant>,
    /// Set once it is to end.
    give_up_at: Option<Instant>,
    accept_again_at: Option<Instant>,
    tick_at: Instant,
    far: Far,
    live: Live,
}

impl Server {
    /// Ends by itself after `lasting`, if that is given.
    pub(super) fn new(
        listener: Listener,
        inbox: Inbox<Letter>,
        lasting: Option<Duration>,
        live: Live,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&inbox, libc::EPOLLIN, WAKE)?;
        epoll.add(&listener, libc::EPOLLIN, LISTEN)?;
        let now = Instant::now();
        let process = Process { name: "server".to_owned(), ..Process::default() };
        Ok(Self {
            listener: Some(listener),
            epoll,
            inbox,
            slots: Vec::new(),
            free: Vec::new(),
            work: VecDeque::new(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            began: now,
            quarter_at: lasting.map(|lasting| now + lasting / 4),
            until: lasting.map(|lasting| now + lasting),
            give_up_at: None,
            accept_again_at: None,
            tick_at: now + TICK,
            far: Far { process, ..Far::default() },
            live,
        })
    }

    pub(super) fn run(mut self) -> Result<Far, Failure> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT];
        loop {
            let timeout = match self.work.is_empty() {
                true => self.next_time().map(|at| at.saturating_duration_since(Instant::now())),
                false => Some(Duration::ZERO),
            };
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(Failure::new(format!("cannot wait for events: {error}"))),
            };
            let mut may_accept = false;
            for event in &events[..n] {
                match event.u64 {
                    WAKE => self.read_letters()?,
                    LISTEN => may_accept = true,
                    data => self.note(data, event.events.cast_signed()),
                }
            }
            for _ in 0..self.work.len() {
                let Some(index) = self.work.pop_front() else { break };
                self.slots[index].queued = false;
                self.turn(index);
            }
            if may_accept && self.accept_again_at.is_none() {
                self.accept();
            }
            self.keep_time();
            if let Some(at) = self.give_up_at
                && (self.count() == 0 || at <= Instant::now())
            {
                break;
            }
        }
        self.live.finish();
        for index in 0..self.slots.len() {
            if let Some(answer) = &self.slots[index].answer {
                let what = format!("{}: cut off, as this side ended", answer.name());
                self.failed(index, what);
            }
        }
        eversock::shutdown();
        Ok(self.far)
    }

    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn next_time(&self) -> Option<Instant> {
        let tick = self.live.is_on().then_some(self.tick_at);
        let times = [tick, self.quarter_at, self.until, self.give_up_at, self.accept_again_at];
        times.into_iter().flatten().min()
    }

    fn note(&mut self, data: u64, events: i32) {
        let index = data as u32 as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        // An event of a session that this very round has ended.
        if u64::from(slot.generation) != data >> 32 {
            return;
        }
        let Some(answer) = slot.answer.as_mut() else { return };
        let ends = libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP;
        answer.readable |= events & (libc::EPOLLIN | ends) != 0;
        answer.writable |= events & (libc::EPOLLOUT | ends) != 0;
        self.queue(index);
    }

    fn queue(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.queued {
            slot.queued = true;
            self.work.push_back(index);
        }
    }

    fn turn(&mut self, index: usize) {
        let Some(answer) = self.slots[index].answer.as_mut() else { return };
        let before = (answer.got, answer.sent);
        let turn = answer.turn(&mut self.buffer);
        self.far.verified_bytes += answer.got - before.0;
        self.far.sent_bytes += answer.sent - before.1;
        match turn {
            Turn::Idle => {}
            Turn::More => self.queue(index),
            Turn::Closed => {
                self.far.closed += 1;
                drop(self.remove(index));
            }
            Turn::Unused => {
                self.far.unused += 1;
                drop(self.remove(index));
            }
            Turn::Failed(what) => self.failed(index, what),
            Turn::Mismatch(what) => {
                self.far.mismatches += 1;
                self.failed(index, what);
            }
        }
    }

    fn failed(&mut self, index: usize, what: String) {
        self.far.failed += 1;
        if self.far.errors.len() < ERRORS_MAX {
            self.live.say(&what);
            self.far.errors.push(what);
        }
        if let Some(answer) = self.remove(index) {
            answer.wire.reset();
        }
    }

    fn remove(&mut self, index: usize) -> Option<Answer> {
        let slot = &mut self.slots[index];
        let answer = slot.answer.take()?;
        slot.generation = (slot.generation + 1) % GENERATION_MAX;
        self.free.push(index);
        Some(answer)
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((wire, _from)) => self.begin(wire),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A session that died in the queue: the next may be well (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.live.say(&format!("cannot accept: {error}; others wait meanwhile"));
                    return self.watch_listener(Some(Instant::now() + ACCEPT_PAUSE));
                }
            }
        }
    }

    /// Accepts again at that time, or from now on.
    fn watch_listener(&mut self, again_at: Option<Instant>) {
        self.accept_again_at = again_at;
        let events = if again_at.is_some() { 0 } else { libc::EPOLLIN };
        if let Some(listener) = &self.listener
            && let Err(error) = self.epoll.modify(listener, events, LISTEN)
        {
            log::warn!("the listener cannot be watched: {error}");
        }
    }

    fn begin(&mut self, wire: Wire) {
        self.far.accepted += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, answer: None, queued: false });
            self.slots.len() - 1
        });
        let data = u64::from(self.slots[index].generation) << 32 | index as u64;
        let watched = self.epoll.add(&wire, INTEREST, data);
        self.slots[index].answer = Some(Answer::new(wire));
        match watched {
            // What came before the registration may have no event of its own.
            Ok(()) => self.queue(index),
            Err(error) => self.failed(index, format!("a session cannot be watched: {error}")),
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.watch_listener(None);
        }
        if self.quarter_at.is_some_and(|at| at <= now) {
            self.quarter_at = None;
            self.far.process.first_quarter = Held::now().ok();
        }
        if self.until.is_some_and(|at| at <= now) {
            self.end();
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            if self.live.is_on() {
                self.show();
            }
        }
    }

    fn show(&mut self) {
        let mut sample = Sample {
            at: self.began.elapsed(),
            sent: self.far.verified_bytes,
            received: self.far.sent_bytes,
            errors: self.far.failed,
            ..Sample::default()
        };
        for answer in self.slots.iter().filter_map(|slot| slot.answer.as_ref()) {
            let Some(info) = answer.wire.info() else { continue };
            sample.sessions += 1;
            sample.attached += u64::from(info.state == eversock::State::Attached);
            sample.resumes += info.resumes;
        }
        self.live.show(sample);
    }

    fn read_letters(&mut self) -> Result<(), Failure> {
        while let Some(letter) = self.inbox.next() {
            match letter {
                Letter::Signal | Letter::Input(None) if self.give_up_at.is_some() => {
                    self.give_up_at = Some(Instant::now());
                }
                Letter::Signal | Letter::Input(None) => self.end(),
                Letter::Input(Some(line)) => helper::heed(&line, &mut self.far.process)?,
            }
        }
        Ok(())
    }

    /// Takes no more sessions, and waits for a while until those that there are have ended.
    fn end(&mut self) {
        (self.until, self.quarter_at, self.accept_again_at) = (None, None, None);
        self.listener = None;
        if self.far.process.end.is_none() {
            self.far.process.end = Held::now().ok();
        }
        self.give_up_at = Some(Instant::now() + END_TIME_MAX);
    }
}

impl Answer {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            hello: [0; HELLO_BYTES],
            hello_got: 0,
            talk: None,
            readable: true,
            writable: true,
            has_ended: false,
            got: 0,
            sent: 0,
        }
    }

    /// As its peer calls it.
    fn name(&self) -> String {
        match &self.talk {
            Some((hello, ..)) => format!("session {}", hello.number),
            None => "a session that has not said its number".to_owned(),
        }
    }

    fn turn(&mut self, buffer: &mut [u8]) -> Turn {
        match self.move_bytes(buffer) {
            Ok(turn) | Err(turn) => turn,
        }
    }

    fn move_bytes(&mut self, buffer: &mut [u8]) -> Result<Turn, Turn> {
        let mut moved = 0;
        while moved < TURN_BYTES_MAX {
            let n = match self.talk {
                None => self.read_hello()?,
                Some((_, up, down)) => self.read(up, buffer)? + self.write(down, buffer)?,
            };
            if self.has_ended && self.got == self.sent {
                // Behind its last byte; the engine delivers it when this end is closed.
                return Err(match self.wire.finish() {
                    Ok(()) => Turn::Closed,
                    Err(error) => self.failed(&error),
                });
            }
            if n == 0 {
                return Ok(Turn::Idle);
            }
            moved += n;
        }
        Ok(Turn::More)
    }

    fn read_hello(&mut self) -> Result<usize, Turn> {
        if !self.readable {
            return Ok(0);
        }
        match self.wire.read(&mut self.hello[self.hello_got..]) {
            Ok(0) if self.hello_got == 0 => Err(Turn::Unused),
            Ok(0) => Err(Turn::Failed("a session ended before it had said its number".to_owned())),
            Ok(n) => {
                self.hello_got += n;
                if self.hello_got == HELLO_BYTES {
                    let hello = Hello::from_bytes(&self.hello).ok_or_else(|| {
                        Turn::Mismatch("a session of another program than `evs load`".to_owned())
                    })?;
                    let stream = |way| Stream::new(hello.seed, way);
                    self.talk = Some((hello, stream(Way::Up), stream(Way::Down)));
                }
                Ok(n)
            }
            Err(error) if is_passing(&error, &mut self.readable) => Ok(0),
            // Its program had not said anything: an open that was broken off.
            Err(_) if self.hello_got == 0 => Err(Turn::Unused),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn read(&mut self, up: Stream, buffer: &mut [u8]) -> Result<usize, Turn> {
        if !self.readable || self.has_ended {
            return Ok(0);
        }
        match self.wire.read(buffer) {
            Ok(0) => {
                self.has_ended = true;
                Ok(0)
            }
            Ok(n) => {
                up.check(self.got, &buffer[..n]).map_err(|offset| {
                    let name = self.name();
                    Turn::Mismatch(format!("{name}, up, offset {offset}: a wrong byte"))
                })?;
                self.got += n as u64;
                Ok(n)
            }
            Err(error) if is_passing(&error, &mut self.readable) => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn write(&mut self, down: Stream, buffer: &mut [u8]) -> Result<usize, Turn> {
        let n = usize::try_from(self.got - self.sent).unwrap_or(buffer.len()).min(buffer.len());
        if !self.writable || n == 0 {
            return Ok(0);
        }
        down.fill(self.sent, &mut buffer[..n]);
        match self.wire.write(&buffer[..n]) {
            Ok(n) => {
                self.sent += n as u64;
                Ok(n)
            }
            Err(error) if is_passing(&error, &mut self.writable) => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> Turn {
        let why = self.wire.why().map(|why| format!(" ({why})")).unwrap_or_default();
        Turn::Failed(format!(
            "{}: {error}{why}, with {} bytes read and {} written",
            self.name(),
            self.got,
            self.sent
        ))
    }
}
