//! One session of the side that connects: writes a message, reads as many bytes of the far side's
//! stream, and compares every one of them.

use std::io;
use std::time::{Duration, Instant};

use super::content::{HELLO_BYTES, Hello, Stream, Way};
use super::figures::Times;
use super::messages::Mix;
use crate::demo::content::Random;
use crate::wire::Wire;

/// What one session moves before others have their turn.
const TURN_BYTES_MAX: usize = 256 << 10;
/// A round trip that takes longer is looked at: did the connection change in it?
const STALL_MIN: Duration = Duration::from_millis(20);

/// What the sessions of a run have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) mix: Mix,
    /// Between the beginnings of two messages of a session; none for no pause.
    pub(super) interval: Option<Duration>,
    /// For what is written and read.
    pub(super) buffer: Box<[u8]>,
    pub(super) tally: Tally,
}

/// What has been done so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) verified: u64,
    pub(super) trips: Times,
    pub(super) stalls: u64,
    pub(super) longest_stall: Duration,
}

/// How a session stands after its turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done until an event comes.
    Idle,
    /// There is more to do now.
    More,
    /// The next message is due then.
    At(Instant),
    /// It has just been opened.
    Opened,
    /// Both directions have ended, and nothing was missing.
    Closed,
    Failed(String),
    /// A wrong byte.
    Mismatch(String),
    /// The open broke off.
    Unopened(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialling,
    /// Waits for the time of its next message.
    Resting,
    Talking,
    /// Has ended its direction and waits for the other's end.
    Ending,
}

/// One session.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) wire: Wire,
    hello: Hello,
    hello_sent: usize,
    up: Stream,
    down: Stream,
    random: Random,
    stage: Stage,
    /// False from "would block" to the next event: events are edge-triggered.
    readable: bool,
    writable: bool,
    is_leaving: bool,
    sent: u64,
    got: u64,
    /// Where the message ends that is under way.
    goal: u64,
    began: Instant,
    due: Instant,
    /// When the message that is under way began.
    resumes: u64,
}

impl Talk {
    /// A session whose connect was begun.
    pub(super) fn new(wire: Wire, hello: Hello) -> Self {
        let now = Instant::now();
        Self {
            wire,
            hello,
            hello_sent: 0,
            up: Stream::new(hello.seed, Way::Up),
            down: Stream::new(hello.seed, Way::Down),
            random: Random::new(hello.seed),
            stage: Stage::Dialling,
            readable: false,
            writable: false,
            is_leaving: false,
            sent: 0,
            got: 0,
            goal: 0,
            began: now,
            due: now,
            resumes: 0,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.hello.number
    }

    pub(super) fn is_dialling(&self) -> bool {
        self.stage == Stage::Dialling
    }

    /// How long it has been so far, in the stage or the message that it is in.
    pub(super) fn since(&self) -> Duration {
        self.began.elapsed()
    }

    /// True if it is to end, and has not been asked before.
    pub(super) fn leave(&mut self) -> bool {
        let asked = !self.is_leaving && self.stage != Stage::Dialling;
        self.is_leaving |= asked;
        asked
    }

    /// An event of epoll.
    pub(super) fn note(&mut self, events: i32) {
        let ends = libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP;
        self.readable |= events & (libc::EPOLLIN | ends) != 0;
        self.writable |= events & (libc::EPOLLOUT | ends) != 0;
    }

    /// Does what can be done.
    pub(super) fn turn(&mut self, common: &mut Common) -> Turn {
        if self.stage == Stage::Dialling {
            return match self.wire.is_connected() {
                Ok(false) => Turn::Idle,
                Ok(true) => {
                    (self.readable, self.writable) = (true, true);
                    self.stage = Stage::Resting;
                    // Sessions that were opened together do not all speak together.
                    let interval = common.interval.unwrap_or_default().as_micros();
                    let interval = u64::try_from(interval).unwrap_or(u64::MAX);
                    self.due =
                        Instant::now() + Duration::from_micros(self.random.below(interval.max(1)));
                    Turn::Opened
                }
                Err(error) => Turn::Unopened(error),
            };
        }
        match self.move_bytes(common) {
            Ok(turn) | Err(turn) => turn,
        }
    }

    fn move_bytes(&mut self, common: &mut Common) -> Result<Turn, Turn> {
        let mut moved = 0;
        loop {
            self.step(common)?;
            if moved >= TURN_BYTES_MAX {
                return Ok(Turn::More);
            }
            let n = self.write(common)? + self.read(common)?;
            if n == 0 && !self.is_between() {
                return Ok(Turn::Idle);
            }
            if n == 0 && self.stage == Stage::Resting {
                return Ok(Turn::At(self.due));
            }
            moved += n;
        }
    }

    /// True when a message is through, and the next has not begun.
    fn is_between(&self) -> bool {
        let is_through = self.got == self.goal && self.hello_sent == HELLO_BYTES;
        is_through && self.stage != Stage::Ending
    }

    /// Goes from one stage to the next, if it is time.
    fn step(&mut self, common: &mut Common) -> Result<(), Turn> {
        if !self.is_between() {
            return Ok(());
        }
        let now = Instant::now();
        if self.stage == Stage::Talking {
            self.finish_trip(now, &mut common.tally);
            self.stage = Stage::Resting;
            self.due = match common.interval {
                // Who is late by a second does not catch up.
                Some(interval) => (self.due + interval).max(now - Duration::from_secs(1)),
                None => now,
            };
        }
        if self.is_leaving {
            self.wire.finish().map_err(|error| self.failed(&error))?;
            (self.stage, self.began) = (Stage::Ending, now);
        } else if self.due <= now {
            (self.stage, self.began) = (Stage::Talking, now);
            // Those of the pauses between messages are nobody's stall.
            self.resumes = self.count_resumes();
            self.goal = self.sent + common.mix.draw(&mut self.random);
        }
        Ok(())
    }

    fn count_resumes(&self) -> u64 {
        self.wire.info().map_or(0, |info| info.resumes)
    }

    fn finish_trip(&mut self, now: Instant, tally: &mut Tally) {
        let took = now - self.began;
        tally.trips.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if took < STALL_MIN {
            return;
        }
        if self.count_resumes() > self.resumes {
            tally.stalls += 1;
            tally.longest_stall = tally.longest_stall.max(took);
        }
    }

    fn write(&mut self, common: &mut Common) -> Result<usize, Turn> {
        if !self.writable {
            return Ok(0);
        }
        let hello_left = HELLO_BYTES - self.hello_sent;
        let (buffer, tally) = (&mut common.buffer, &mut common.tally);
        let bytes = if hello_left > 0 {
            buffer[..hello_left].copy_from_slice(&self.hello.to_bytes()[self.hello_sent..]);
            &buffer[..hello_left]
        } else {
            let most = buffer.len();
            let n = usize::try_from(self.goal - self.sent).unwrap_or(most).min(most);
            self.up.fill(self.sent, &mut buffer[..n]);
            &buffer[..n]
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.wire.write(bytes) {
            Ok(n) if hello_left > 0 => {
                self.hello_sent += n;
                Ok(n)
            }
            Ok(n) => {
                self.sent += n as u64;
                tally.sent += n as u64;
                Ok(n)
            }
            Err(error) if is_passing(&error, &mut self.writable) => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn read(&mut self, common: &mut Common) -> Result<usize, Turn> {
        if !self.readable {
            return Ok(0);
        }
        match self.wire.read(&mut common.buffer) {
            Ok(0) if self.stage == Stage::Ending && self.got == self.sent => Err(Turn::Closed),
            Ok(0) => Err(Turn::Failed(format!(
                "session {}: the far side ended it behind byte {} of {} that were due",
                self.number(),
                self.got,
                self.sent
            ))),
            Ok(n) if n as u64 > self.sent - self.got => Err(Turn::Mismatch(format!(
                "session {}, down, offset {}: more came than was due",
                self.number(),
                self.sent
            ))),
            Ok(n) => {
                self.down.check(self.got, &common.buffer[..n]).map_err(|offset| {
                    let number = self.number();
                    Turn::Mismatch(format!("session {number}, down, offset {offset}: a wrong byte"))
                })?;
                self.got += n as u64;
                common.tally.verified += n as u64;
                Ok(n)
            }
            Err(error) if is_passing(&error, &mut self.readable) => Ok(0),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> Turn {
        let (number, got, sent) = (self.number(), self.got, self.sent);
        let why = self.wire.why().map(|why| format!(" ({why})")).unwrap_or_default();
        Turn::Failed(format!(
            "session {number}: {error}{why}, with {sent} bytes written and {got} read"
        ))
    }
}

/// True for what is no failure: an interruption, or "would block", which clears `ready`.
pub(super) fn is_passing(error: &io::Error, ready: &mut bool) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            *ready = false;
            true
        }
        io::ErrorKind::Interrupted => true,
        _ => false,
    }
}
