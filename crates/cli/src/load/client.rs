//! The side that connects: one event loop for all sessions, their churn, and the end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eversock::wait::Epoll;
use eversock::{Config, State};

use super::content::Hello;
use super::figures::{ERRORS_MAX, Far, Held, Process, Summary, Times, Trips};
use super::helper::{END, Helper, Message, QUARTER};
use super::inbox::Inbox;
use super::live::{Live, Sample};
use super::messages::Mix;
use super::talk::{Common, Talk, Tally, Turn};
use crate::demo::content::Random;
use crate::failure::Failure;
use crate::gateway::target::Target;
use crate::wire::Wire;

/// What the loop is told by other threads.
#[derive(Debug)]
pub(super) enum Letter {
    Signal(&'static str),
    /// A line of a helper's output, or its end.
    Said {
        name: &'static str,
        line: Option<String>,
    },
}

/// What the run was asked to be.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) sessions: usize,
    pub(super) lasting: Duration,
    pub(super) mix: Mix,
    pub(super) interval: Option<Duration>,
    /// Between two sessions that are replaced.
    pub(super) churn: Option<Duration>,
    pub(super) target: Target,
    pub(super) config: Arc<Config>,
    pub(super) mode: &'static str,
    pub(super) seed: u64,
    pub(super) live: bool,
    /// Whether the far side and the proxy are our own processes.
    pub(super) helpers: Vec<Helper>,
}

const EVENTS_PER_WAIT: usize = 256;
const BUFFER_BYTES: usize = 64 << 10;
/// So many connects go on at one time, so that a listener need not keep others waiting.
const DIALS_MAX: usize = 64;
/// How long an open may take.
const DIAL_TIME_MAX: Duration = Duration::from_secs(30);
/// How long sessions may take to end once the time is over.
const END_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a helper may take for its last word.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for looking at what it holds.
const NOTE_TIME_MAX: Duration = Duration::from_secs(5);
const LISTEN_POLL: Duration = Duration::from_millis(2);
/// Before the next dial, for each open that broke off since the last one that did not.
const DIAL_PAUSE: Duration = Duration::from_millis(20);
const FAIL_PAUSE: Duration = Duration::from_millis(100);
const DIAL_PAUSES_MAX: u32 = 50;
/// So many opens may break off before one has succeeded.
const UNOPENED_MAX: u32 = 5;
const TICK: Duration = Duration::from_secs(1);
const INTEREST: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
const WAKE: u64 = u64::MAX;
/// Generations stay below, so that no session's events look like that.
const GENERATION_MAX: u32 = u32::MAX - 1;
/// Picks of a session to replace, until one is met that is not leaving already.
const CHURN_PICKS: usize = 8;

#[derive(Debug)]
struct Slot {
    generation: u32,
    talk: Option<Talk>,
    queued: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Running { until: Instant },
    Ending { until: Instant },
}

/// The run at work.
#[derive(Debug)]
pub(super) struct Client {
    orders: Orders,
    common: Common,
    epoll: Epoll,
    inbox: Inbox<Letter>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    work: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    random: Random,
    began: Instant,
    phase: Phase,
    /// None once it has been looked at.
    quarter_at: Option<Instant>,
    churn_at: Option<Instant>,
    tick_at: Instant,
    dial_at: Instant,
    dialling: usize,
    numbers: u64,
    /// Opens that broke off since the last one that did not.
    refused: u32,
    summary: Summary,
    process: Process,
    far: Option<Far>,
    /// Answers of helpers that are still to come.
    unheard: usize,
    live: Live,
    /// Why the run cannot go on.
    hopeless: Option<String>,
}

impl Client {
    pub(super) fn new(orders: Orders, inbox: Inbox<Letter>) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&inbox, libc::EPOLLIN, WAKE)?;
        let now = Instant::now();
        let tally = Tally {
            sent: 0,
            verified: 0,
            trips: Times::new(),
            stalls: 0,
            longest_stall: Duration::ZERO,
        };
        let common = Common {
            mix: orders.mix.clone(),
            interval: orders.interval,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            tally,
        };
        let has_proxy = orders.helpers.iter().any(|helper| helper.name == "proxy");
        let summary = Summary {
            ended_by: "time",
            mode: orders.mode,
            seed: orders.seed,
            sessions: orders.sessions,
            cuts: has_proxy.then_some(0),
            ..Summary::default()
        };
        Ok(Self {
            common,
            epoll,
            inbox,
            slots: Vec::new(),
            free: Vec::new(),
            work: VecDeque::new(),
            timers: BinaryHeap::new(),
            random: Random::new(orders.seed),
            began: now,
            phase: Phase::Running { until: now + orders.lasting },
            quarter_at: Some(now + orders.lasting / 4),
            churn_at: orders.churn.map(|every| now + every),
            tick_at: now + TICK,
            dial_at: now,
            dialling: 0,
            numbers: 0,
            refused: 0,
            summary,
            process: Process { name: "client".to_owned(), ..Process::default() },
            far: None,
            unheard: 0,
            live: Live::new(orders.live),
            hopeless: None,
            orders,
        })
    }

    /// Works until the time is over and all sessions have ended.
    pub(super) fn run(mut self) -> Result<Summary, Failure> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT];
        loop {
            let timeout = match self.work.is_empty() {
                true => self.next_time().saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            let n = match self.epoll.wait(&mut events, Some(timeout)) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(Failure::new(format!("cannot wait for events: {error}"))),
            };
            for event in &events[..n] {
                match event.u64 {
                    WAKE => self.read_letters(),
                    data => self.note(data, event.events.cast_signed()),
                }
            }
            for _ in 0..self.work.len() {
                let Some(index) = self.work.pop_front() else { break };
                self.slots[index].queued = false;
                self.turn(index);
            }
            self.keep_time();
            if let Some(why) = self.hopeless.take() {
                return Err(Failure::new(why));
            }
            match self.phase {
                Phase::Running { .. } => self.dial_more(),
                Phase::Ending { .. } if self.count() == 0 => break,
                Phase::Ending { until } if Instant::now() >= until => {
                    self.give_up();
                    break;
                }
                Phase::Ending { .. } => {}
            }
        }
        // What was written last still reaches the far side, before that is asked for its figures.
        eversock::shutdown();
        Ok(self.sum_up())
    }

    fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn next_time(&self) -> Instant {
        let (Phase::Running { until } | Phase::Ending { until }) = self.phase;
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let wants_more = self.count() < self.orders.sessions && self.dialling < DIALS_MAX;
        let is_running = matches!(self.phase, Phase::Running { .. });
        let dial = (is_running && wants_more).then_some(self.dial_at);
        let times = [timer, dial, self.quarter_at, self.churn_at];
        times.into_iter().flatten().fold(until.min(self.tick_at), Instant::min)
    }

    fn note(&mut self, data: u64, events: i32) {
        let index = data as u32 as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        // An event of a session that this very round has ended.
        if u64::from(slot.generation) != data >> 32 {
            return;
        }
        let Some(talk) = slot.talk.as_mut() else { return };
        talk.note(events);
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
        let Some(talk) = self.slots[index].talk.as_mut() else { return };
        match talk.turn(&mut self.common) {
            Turn::Idle => {}
            Turn::More => self.queue(index),
            Turn::At(due) => {
                self.timers.push(Reverse((due, index, self.slots[index].generation)));
            }
            Turn::Opened => {
                self.summary.opened += 1;
                self.dialling -= 1;
                self.refused = 0;
                self.queue(index);
            }
            Turn::Closed => {
                self.summary.closed += 1;
                drop(self.remove(index));
            }
            Turn::Failed(what) => self.failed(index, what),
            Turn::Mismatch(what) => {
                self.summary.mismatches += 1;
                self.failed(index, what);
            }
            Turn::Unopened(error) => self.unopened(index, &error),
        }
    }

    fn failed(&mut self, index: usize, what: String) {
        self.summary.failed += 1;
        // A far side that fails them all is not to be hammered.
        self.dial_at = Instant::now() + FAIL_PAUSE;
        self.complain(what);
        if let Some(talk) = self.remove(index) {
            talk.wire.reset();
        }
    }

    fn complain(&mut self, what: String) {
        if self.summary.errors.len() < ERRORS_MAX {
            self.live.say(&what);
            self.summary.errors.push(what);
        }
    }

    fn unopened(&mut self, index: usize, error: &io::Error) {
        let why = self.slots[index].talk.as_ref().and_then(|talk| talk.wire.why());
        if let Some(talk) = self.remove(index) {
            talk.wire.reset();
        }
        self.not_opened(&why.unwrap_or_else(|| error.to_string()));
    }

    fn not_opened(&mut self, why: &str) {
        self.summary.unopened += 1;
        self.refused += 1;
        self.dial_at = Instant::now() + DIAL_PAUSE * self.refused.min(DIAL_PAUSES_MAX);
        self.orders.target.look_again();
        log::info!("a session was not opened: {why}");
        if self.summary.opened == 0 && self.refused >= UNOPENED_MAX {
            self.hopeless = Some(format!(
                "no session can be opened to {}: {why}; the far side is `evs load --serve` with \
                 the same --key and --sealed",
                self.orders.target
            ));
        }
    }

    fn remove(&mut self, index: usize) -> Option<Talk> {
        let slot = &mut self.slots[index];
        let talk = slot.talk.take()?;
        slot.generation = (slot.generation + 1) % GENERATION_MAX;
        self.free.push(index);
        self.dialling -= usize::from(talk.is_dialling());
        if let Some(info) = talk.wire.info() {
            self.summary.resumes += info.resumes;
            self.summary.replayed_bytes += info.replayed;
        }
        Some(talk)
    }

    fn dial_more(&mut self) {
        while self.count() < self.orders.sessions
            && self.dialling < DIALS_MAX
            && self.dial_at <= Instant::now()
        {
            if let Err(error) = self.dial() {
                self.not_opened(&error.to_string());
            }
        }
    }

    fn dial(&mut self) -> io::Result<()> {
        let (addrs, name) = (self.orders.target.addrs(), self.orders.target.name());
        let wire = Wire::dial_session(&addrs, name, &self.orders.config)?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, talk: None, queued: false });
            self.slots.len() - 1
        });
        let generation = self.slots[index].generation;
        let data = u64::from(generation) << 32 | index as u64;
        if let Err(error) = self.epoll.add(&wire, INTEREST, data) {
            self.free.push(index);
            return Err(error);
        }
        self.numbers += 1;
        let hello = Hello { number: self.numbers, seed: self.random.next() };
        self.slots[index].talk = Some(Talk::new(wire, hello));
        self.dialling += 1;
        self.timers.push(Reverse((Instant::now() + DIAL_TIME_MAX, index, generation)));
        // What came before the registration may have no event of its own.
        self.queue(index);
        Ok(())
    }

    fn ask_to_leave(&mut self, index: usize) -> bool {
        let asked = self.slots[index].talk.as_mut().is_some_and(Talk::leave);
        if asked {
            self.queue(index);
        }
        asked
    }

    fn replace_one(&mut self) {
        for _ in 0..CHURN_PICKS.min(self.slots.len()) {
            let pick = self.random.below(self.slots.len() as u64);
            if self.ask_to_leave(usize::try_from(pick).unwrap_or(0)) {
                return;
            }
        }
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, index, generation))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(talk) = self.slots[index].talk.as_ref() else { continue };
            if self.slots[index].generation != generation {
                continue;
            }
            if talk.is_dialling() && talk.since() >= DIAL_TIME_MAX {
                self.unopened(index, &io::ErrorKind::TimedOut.into());
            } else {
                self.queue(index);
            }
        }
        if self.quarter_at.is_some_and(|at| at <= now) {
            self.quarter_at = None;
            self.process.first_quarter = Held::now().ok();
            self.orders.helpers.iter_mut().for_each(|helper| helper.tell(QUARTER));
            self.unheard += self.orders.helpers.len();
        }
        while let Some(at) = self.churn_at.filter(|at| *at <= now) {
            self.replace_one();
            let every = self.orders.churn.unwrap_or(TICK);
            // Who is late by a second does not catch up.
            self.churn_at = Some((at + every).max(now - TICK));
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.show();
        }
        if let Phase::Running { until } = self.phase
            && until <= now
        {
            self.end("time");
        }
    }

    fn show(&mut self) {
        if !self.live.is_on() {
            return;
        }
        let mut sample = Sample {
            at: self.began.elapsed(),
            sent: self.common.tally.sent,
            received: self.common.tally.verified,
            trips: self.common.tally.trips.count(),
            sessions: 0,
            attached: 0,
            resumes: self.summary.resumes,
            cuts: self.summary.cuts,
            errors: self.summary.failed + self.summary.mismatches,
        };
        let talks = self.slots.iter().filter_map(|slot| slot.talk.as_ref());
        for talk in talks.filter(|talk| !talk.is_dialling()) {
            let Some(info) = talk.wire.info() else { continue };
            sample.sessions += 1;
            sample.attached += u64::from(info.state == State::Attached);
            sample.resumes += info.resumes;
        }
        self.live.show(sample);
    }

    fn read_letters(&mut self) {
        while let Some(letter) = self.inbox.next() {
            match letter {
                Letter::Signal(name) => match self.phase {
                    Phase::Running { .. } => self.end(name),
                    Phase::Ending { .. } => {
                        self.phase = Phase::Ending { until: Instant::now() };
                    }
                },
                Letter::Said { name, line } => self.hear(name, line.as_deref()),
            }
        }
    }

    fn hear(&mut self, name: &'static str, line: Option<&str>) {
        let Some(line) = line else {
            // A helper that is told to leave is not heard here any more.
            self.hopeless = Some(format!("the process of the {name} has ended by itself"));
            return;
        };
        match serde_json::from_str(line) {
            Ok(Message::Cuts { cuts }) => self.summary.cuts = Some(cuts),
            Ok(Message::CutsDone { cuts, process }) => {
                self.summary.cuts = Some(cuts);
                self.summary.processes.push(process);
            }
            Ok(Message::Summary(far)) => self.far = Some(far),
            Ok(Message::Noted) => self.unheard = self.unheard.saturating_sub(1),
            Ok(Message::Listening { .. }) => {}
            Err(error) => log::warn!("the {name} said {line:?}: {error}"),
        }
    }

    /// Begins to end: what is under way is finished, and nothing new begins.
    fn end(&mut self, by: &'static str) {
        self.summary.ended_by = by;
        let elapsed = u64::try_from(self.began.elapsed().as_millis());
        self.summary.elapsed_ms = elapsed.unwrap_or(u64::MAX);
        self.process.end = Held::now().ok();
        self.orders.helpers.iter_mut().for_each(|helper| helper.tell(END));
        // They look at what they hold while the sessions are still there.
        self.unheard += self.orders.helpers.len();
        self.listen(NOTE_TIME_MAX, |client, _, _| client.unheard == 0);
        self.phase = Phase::Ending { until: Instant::now() + END_TIME_MAX };
        (self.churn_at, self.quarter_at) = (None, None);
        for index in 0..self.slots.len() {
            if self.slots[index].talk.as_ref().is_some_and(Talk::is_dialling) {
                drop(self.remove(index));
            } else {
                self.ask_to_leave(index);
            }
        }
    }

    /// The time for the end is over.
    fn give_up(&mut self) {
        for index in 0..self.slots.len() {
            let Some(talk) = &self.slots[index].talk else { continue };
            let (number, since) = (talk.number(), talk.since());
            self.failed(index, format!("session {number}: has not ended, for {since:.1?} now"));
        }
    }

    fn sum_up(mut self) -> Summary {
        self.live.finish();
        for mut helper in std::mem::take(&mut self.orders.helpers) {
            helper.dismiss();
            self.listen(PATIENCE, |_, name, line| name == helper.name && line.is_none());
            if let Err(what) = helper.leave() {
                self.complain(what);
                self.summary.failed += 1;
            }
        }
        let tally = &self.common.tally;
        self.summary.sent_bytes = tally.sent;
        self.summary.verified_bytes = tally.verified;
        self.summary.round_trips = Trips::of(&tally.trips);
        self.summary.stalls = tally.stalls;
        let stall = u64::try_from(tally.longest_stall.as_millis());
        self.summary.stall_max_ms = stall.unwrap_or(u64::MAX);
        self.summary.processes.insert(0, self.process.clone());
        if let Some(far) = self.far.take() {
            self.compare(far);
        }
        self.summary.ok = self.summary.failed == 0
            && self.summary.mismatches == 0
            && self.summary.opened > 0
            && self.summary.sent_bytes == self.summary.verified_bytes;
        self.summary
    }

    /// Does nothing but listen to the helpers, until something was heard; it is told who has said
    /// what.
    fn listen(
        &mut self,
        at_most: Duration,
        is_heard: impl Fn(&Self, &'static str, Option<&str>) -> bool,
    ) {
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            match self.inbox.next() {
                Some(Letter::Said { name, line }) => {
                    self.hear(name, line.as_deref());
                    if is_heard(self, name, line.as_deref()) {
                        return;
                    }
                }
                // It is ending as fast as it can.
                Some(Letter::Signal(_)) => {}
                None => std::thread::sleep(LISTEN_POLL),
            }
        }
    }

    /// What our own far side says must fit what was done here.
    fn compare(&mut self, far: Far) {
        let fits = far.verified_bytes == self.common.tally.sent
            && far.sent_bytes == self.common.tally.verified
            && far.closed == self.summary.closed;
        if !fits && self.summary.failed == 0 {
            self.summary.failed += 1;
            self.complain(format!(
                "the far side closed {} sessions with {} bytes verified and {} sent; here {} were \
                 closed with {} sent and {} verified",
                far.closed,
                far.verified_bytes,
                far.sent_bytes,
                self.summary.closed,
                self.common.tally.sent,
                self.common.tally.verified
            ));
        }
        self.summary.verified_bytes_far = Some(far.verified_bytes);
        self.summary.mismatches += far.mismatches;
        self.summary.failed += far.failed.saturating_sub(self.summary.failed);
        self.summary.processes.insert(1, far.process);
        for error in far.errors {
            if self.summary.errors.len() < ERRORS_MAX {
                self.summary.errors.push(format!("far side: {error}"));
            }
        }
    }
}
