//! The reactor's thread.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eversock_engine::posix;
use eversock_socket::{VirtualListener, VirtualStream, wait::Epoll};

use super::doors::{self, Door};
use super::line::{Given, Line, Written};
use super::shared::{Gauge, Order, Shared, next_conn};
use super::{CLOSE_TIMEOUT, ConnId, GREETING_TIMEOUT, Handler, Lane, Opened};
use crate::wire::client::ClientMessage;
use crate::wire::codes::bye;
use crate::wire::{Bye, frame};

/// Events that are looked at in a turn, at least.
const EVENTS: usize = 256;
/// Bytes that are read with one call.
const READ_BYTES: usize = 64 << 10;
/// Bytes that a connection may bring in a turn.
const READ_BUDGET: usize = 256 << 10;
/// Messages that a connection may bring in a turn.
const SHARE: usize = 256;
/// How long all ends may take once the reactor is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Between looks at whether a peer that was dialled, and is gone, was started anew.
const DIALLED_LOOK: Duration = Duration::from_secs(1);

/// The bell among the events' data; connections have their numbers there.
const BELL: u64 = u64::MAX;
/// The first listener; the others follow.
const DOORS: u64 = 1 << 63;

/// What the peer did.
const GONE: i32 = libc::EPOLLERR | libc::EPOLLHUP;

/// Runs a reactor to its end, which may be its handler's panic.
pub(super) fn run<H: Handler>(shared: &Arc<Shared>, make: impl FnOnce() -> H) {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut turns = Turns::new(Arc::clone(shared), make())?;
        turns.run()
    }));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("waiting for connections failed: {error}")),
        Err(panic) => Some(format!("its handler has panicked: {}", said(&*panic))),
    };
    if let Some(failure) = &failure {
        log::error!("{} has ended with all its connections: {failure}", shared.name());
    }
    shared.ended(failure);
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

struct Turns<H> {
    shared: Arc<Shared>,
    handler: H,
    epoll: Epoll,
    lines: HashMap<ConnId, Line>,
    doors: Vec<Door>,
    deadlines: BTreeSet<(Instant, ConnId)>,
    /// Those that something came to be written for.
    dirty: Vec<ConnId>,
    /// Those that have had their share, or are held no more: there is no event of what is here.
    again: Vec<ConnId>,
    /// Those that this side has dialled, and when to look at them.
    dialled: BTreeSet<ConnId>,
    look_at: Instant,
    /// Bytes of messages that are not whole yet.
    partial: usize,
    orders: Vec<Order>,
    scratch: Vec<u8>,
    /// When it is over whatever waits; stopping.
    stop_at: Option<Instant>,
}

impl<H: Handler> Turns<H> {
    fn new(shared: Arc<Shared>, handler: H) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(shared.bell(), libc::EPOLLIN, BELL)?;
        Ok(Self {
            shared,
            handler,
            epoll,
            lines: HashMap::new(),
            doors: Vec::new(),
            deadlines: BTreeSet::new(),
            dirty: Vec::new(),
            again: Vec::new(),
            dialled: BTreeSet::new(),
            look_at: Instant::now(),
            partial: 0,
            orders: Vec::new(),
            scratch: vec![0; READ_BYTES],
            stop_at: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        const NONE: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };
        let mut events = vec![NONE; EVENTS];
        loop {
            self.obey();
            // What it orders keeps the thread from sleeping, and so is done next. To take orders
            // here as well would take a wake that came after its look at what others have for it.
            let next = self.handler.turn();
            if self.stop_at.is_none() && self.shared.is_stopping() {
                self.stop();
            }
            if self.stop_at.is_some_and(|at| self.lines.is_empty() || Instant::now() >= at) {
                self.end_all();
                return Ok(());
            }
            let n = self.wait(&mut events, next)?;
            for event in &events[..n] {
                self.happened(event.u64, event.events.cast_signed());
            }
            // Those with the lowest descriptors come first: with no room for the others these would
            // have to wait for as long as the first are busy.
            if n == events.len() && n < self.lines.len() + EVENTS {
                events.resize(2 * n, NONE);
            } else if n < events.len() / 8 && events.len() > EVENTS {
                events.truncate(events.len() / 2);
            }
            for conn in std::mem::take(&mut self.again) {
                if let Some(line) = self.lines.get_mut(&conn) {
                    line.is_again = false;
                    self.read(conn);
                }
            }
            self.expire();
        }
    }

    fn wait(
        &mut self,
        events: &mut [libc::epoll_event],
        next: Option<Instant>,
    ) -> io::Result<usize> {
        let doors = self.doors.iter().filter_map(|door| door.paused).min();
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let look = (!self.dialled.is_empty()).then_some(self.look_at);
        let until = [next, doors, deadline, look, self.stop_at].into_iter().flatten().min();
        let may_sleep = self.again.is_empty() && self.shared.may_sleep(self.stop_at.is_some());
        let timeout = match until {
            _ if !may_sleep => Some(Duration::ZERO),
            Some(until) => Some(until.saturating_duration_since(Instant::now())),
            None => None,
        };
        let result = self.epoll.wait(events, timeout);
        self.shared.awake();
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Does what was ordered, and writes.
    fn obey(&mut self) {
        let mut orders = std::mem::take(&mut self.orders);
        self.shared.take(&mut orders);
        for order in orders.drain(..) {
            match order {
                Order::Listen { listener, token, connections_max } => {
                    self.listen(listener, token, connections_max);
                }
                Order::Dialled { token, result } => match result {
                    _ if self.stop_at.is_some() => {}
                    Ok(stream) => self.dialled(stream, token),
                    Err(error) => self.handler.dial_failed(token, error.to_string()),
                },
                Order::Send { conn, lane, frame } => self.queue(conn, lane, frame),
                Order::Look { conn } => self.look(conn),
                Order::Close { conn } => self.close(conn, "this side has closed it"),
                Order::Reset { conn, why } => self.reset(conn, why),
            }
        }
        self.orders = orders;
        for conn in std::mem::take(&mut self.dirty) {
            if let Some(line) = self.lines.get_mut(&conn) {
                line.is_dirty = false;
                self.write(conn);
            }
        }
    }

    fn queue(&mut self, conn: ConnId, lane: Lane, frame: Vec<u8>) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.push(lane, frame);
            self.dirty(conn);
        }
    }

    fn dirty(&mut self, conn: ConnId) {
        if let Some(line) = self.lines.get_mut(&conn)
            && !std::mem::replace(&mut line.is_dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    /// It is held, or is no more.
    fn look(&mut self, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.gauge.reads() && !std::mem::replace(&mut line.is_again, true) {
            self.again.push(conn);
        }
        self.interest(conn);
    }

    /// Asks for the events that are of use now.
    fn interest(&mut self, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let read = if line.gauge.reads() { libc::EPOLLIN } else { 0 };
        let write = if line.is_idle() { 0 } else { libc::EPOLLOUT };
        if line.interest != read | write {
            line.interest = read | write;
            if let Err(error) = self.epoll.modify(&line.gauge.stream, read | write, conn) {
                self.reset(conn, &format!("it cannot be waited for: {error}"));
            }
        }
    }

    fn happened(&mut self, data: u64, events: i32) {
        if data == BELL {
            return;
        }
        if data >= DOORS {
            return self.accept(usize::try_from(data - DOORS).unwrap_or(usize::MAX));
        }
        let Some(line) = self.lines.get(&data) else { return };
        if !line.gauge.reads() && events & GONE != 0 {
            return self.end(data, "the peer is gone");
        }
        if events & (libc::EPOLLIN | GONE) != 0 {
            self.read(data);
        }
        if events & libc::EPOLLOUT != 0 {
            self.write(data);
        }
    }

    fn read(&mut self, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let kept_before = line.kept();
        let mut share = SHARE;
        let mut given = line.give_kept(conn, &mut self.handler, &mut share);
        let mut budget = READ_BUDGET;
        let mut ended = None;
        while matches!(given, Given::All) && budget > 0 {
            match (&line.gauge.stream).read(&mut self.scratch) {
                Ok(0) if line.kept() > 0 => {
                    ended = Some("the connection ended inside a message".to_owned());
                }
                Ok(0) => ended = Some("the peer has ended it".to_owned()),
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    let came = &self.scratch[..n];
                    given = line.give_new(conn, &mut self.handler, came, &mut share);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => ended = Some(error.to_string()),
            }
            break;
        }
        self.partial = self.partial - kept_before + line.kept();
        if line.closing.is_none() && line.gauge.is_greeted() {
            Self::no_deadline(&mut self.deadlines, conn, line);
        }
        if let Some(why) = ended {
            return self.end(conn, &why);
        }
        match given {
            Given::All => {}
            Given::Stopped => self.interest(conn),
            Given::Share => {
                if !std::mem::replace(&mut line.is_again, true) {
                    self.again.push(conn);
                }
            }
            Given::Bye(bye) => self.dismiss(conn, bye),
        }
        while self.partial > self.shared.partial_max() && self.dismiss_the_largest() {}
    }

    fn write(&mut self, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        match line.write() {
            Ok(Written::All) if line.closing.is_some() => {
                let why = line.closing.take().unwrap_or_default();
                self.end(conn, &why);
            }
            Ok(_) => self.interest(conn),
            Err(error) => self.end(conn, &error.to_string()),
        }
    }

    /// Peers that begin large messages and do not end them must not take all memory. False if there
    /// is none that could be ended for it.
    fn dismiss_the_largest(&mut self) -> bool {
        let can_go = |line: &Line| line.kept() > 0 && !line.gauge.is_spared();
        let some = self.lines.iter().filter(|(_, line)| can_go(line));
        let Some(conn) = some.max_by_key(|(_, line)| line.kept()).map(|(conn, _)| *conn) else {
            return false;
        };
        let text = "too many connections have begun large messages: come later";
        self.dismiss(conn, Bye { after_ms: 2000, ..Bye::new(bye::FULL, text) });
        true
    }

    /// Tells the peer why, and closes.
    fn dismiss(&mut self, conn: ConnId, bye: Bye) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let why = bye.text.clone();
        line.drop_the_less_urgent();
        self.partial -= line.kept();
        line.drop_kept();
        let frame = frame(&ClientMessage::Bye(bye));
        // Not `send`, which takes no more for one that closes.
        line.gauge.count(frame.len());
        line.gauge.set_closing();
        line.push(Lane::Control, frame);
        self.close(conn, &why);
    }

    /// Ends it when nothing waits any more, or later by force.
    fn close(&mut self, conn: ConnId, why: &str) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.closing.is_some() {
            return;
        }
        line.closing = Some(why.to_owned());
        line.gauge.set_closing();
        Self::no_deadline(&mut self.deadlines, conn, line);
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        line.deadline = Some(deadline);
        self.deadlines.insert((deadline, conn));
        self.dirty(conn);
    }

    fn no_deadline(deadlines: &mut BTreeSet<(Instant, ConnId)>, conn: ConnId, line: &mut Line) {
        if let Some(deadline) = line.deadline.take() {
            deadlines.remove(&(deadline, conn));
        }
    }

    /// Ends it at once; what was written before is delivered if that is possible.
    fn end(&mut self, conn: ConnId, why: &str) {
        let Some(mut line) = self.lines.remove(&conn) else { return };
        Self::no_deadline(&mut self.deadlines, conn, &mut line);
        self.partial -= line.kept();
        self.dialled.remove(&conn);
        if let Some(door) = line.door.and_then(|door| self.doors.get_mut(door)) {
            door.connections -= 1;
        }
        if let Err(error) = self.epoll.delete(&line.gauge.stream) {
            log::debug!("a connection was not waited for: {error}");
        }
        self.shared.remove(conn);
        drop(line);
        self.handler.closed(conn, why);
    }

    /// Ends it at once, and what was written with it.
    fn reset(&mut self, conn: ConnId, why: &str) {
        if let Some(line) = self.lines.get(&conn) {
            // Linger, for no time.
            let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
            let number = line.gauge.stream.as_raw_fd();
            let set = posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
            if let Err(error) = set {
                log::debug!("what waits for a peer that does not read is kept: {error}");
            }
        }
        self.end(conn, why);
    }

    /// Does what is due.
    fn expire(&mut self) {
        let now = Instant::now();
        for number in 0..self.doors.len() {
            if self.doors[number].paused.is_some_and(|until| until <= now) {
                self.doors[number].paused = None;
                self.accept(number);
                self.watch(number);
            }
        }
        if self.look_at <= now {
            self.look_at = now + DIALLED_LOOK;
            self.look_at_the_dialled();
        }
        while let Some(&(at, conn)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            let Some(line) = self.lines.get_mut(&conn) else { continue };
            line.deadline = None;
            if line.closing.is_some() {
                self.reset(conn, "the peer did not read what was sent to it before the end");
            } else if !line.gauge.is_greeted() {
                let seconds = GREETING_TIMEOUT.as_secs();
                let text = format!("the greeting was not done in {seconds} s");
                self.dismiss(conn, Bye::new(bye::SLOW, text));
            }
        }
    }

    fn look_at_the_dialled(&mut self) {
        let lines = &mut self.lines;
        let is_unknown = |conn: &&ConnId| lines.get_mut(conn).is_some_and(|line| line.is_unknown());
        let unknown: Vec<ConnId> = self.dialled.iter().filter(is_unknown).copied().collect();
        for conn in unknown {
            self.reset(conn, "the peer was started anew and does not know the session");
        }
    }

    fn listen(&mut self, listener: VirtualListener, token: u64, connections_max: usize) {
        if self.stop_at.is_some() {
            return;
        }
        let number = self.doors.len();
        let added = Door::new(listener, token, connections_max).and_then(|door| {
            self.epoll.add(&door.listener, libc::EPOLLIN, DOORS + number as u64)?;
            self.doors.push(door);
            Ok(())
        });
        if let Err(error) = added {
            log::error!("{}: a listener cannot be waited for: {error}", self.shared.name());
        }
    }

    /// Waits for a door's connections, or not while it is paused.
    fn watch(&mut self, number: usize) {
        let Some(door) = self.doors.get_mut(number) else { return };
        let events = if door.paused.is_some() { 0 } else { libc::EPOLLIN };
        if let Err(error) = self.epoll.modify(&door.listener, events, DOORS + number as u64) {
            door.pause(&error);
        }
    }

    fn accept(&mut self, number: usize) {
        for _ in 0..doors::SHARE {
            let Some(door) = self.doors.get_mut(number) else { return };
            if door.paused.is_some() {
                return;
            }
            let accepted = door.listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((stream, peer))
            });
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    door.pause(&error);
                    return self.watch(number);
                }
            };
            let conn = next_conn();
            if door.connections >= door.connections_max {
                doors::refuse(&stream, door.connections_max, conn);
                continue;
            }
            let token = door.token;
            self.open(conn, stream, Some(number), (token, peer));
        }
    }

    fn dialled(&mut self, stream: VirtualStream, token: u64) {
        let ready = stream.set_nonblocking(true).and_then(|()| stream.peer_addr());
        match ready {
            Ok(peer) => {
                self.open(next_conn(), stream, None, (token, peer));
            }
            Err(error) => self.handler.dial_failed(token, error.to_string()),
        }
    }

    fn open(
        &mut self,
        conn: ConnId,
        stream: VirtualStream,
        door: Option<usize>,
        (token, peer): (u64, SocketAddr),
    ) {
        if let Err(error) = self.epoll.add(&stream, libc::EPOLLIN, conn) {
            log::warn!("a connection of {peer} cannot be waited for: {error}");
            if door.is_none() {
                self.handler.dial_failed(token, error.to_string());
            }
            return;
        }
        let gauge = Arc::new(Gauge::new(stream));
        let dialled = door.is_none();
        let opened = Opened { token, dialled, peer, peer_key: gauge.peer_key() };
        self.shared.add(conn, &gauge);
        let deadline = Instant::now() + GREETING_TIMEOUT;
        self.deadlines.insert((deadline, conn));
        self.lines.insert(conn, Line::new(gauge, door, deadline));
        match door.and_then(|door| self.doors.get_mut(door)) {
            Some(door) => door.connections += 1,
            None => drop(self.dialled.insert(conn)),
        }
        self.handler.opened(conn, opened);
    }

    /// Takes no more connections, and closes those there are; those that are cut at once.
    fn stop(&mut self) {
        self.stop_at = Some(Instant::now() + STOP_TIMEOUT);
        let conns: Vec<ConnId> = self.lines.keys().copied().collect();
        for conn in conns {
            if self.lines.get(&conn).is_some_and(|line| line.gauge.is_cut()) {
                self.end(conn, "this side ends");
            } else {
                self.close(conn, "this side ends");
            }
        }
        for door in std::mem::take(&mut self.doors) {
            if let Err(error) = self.epoll.delete(&door.listener) {
                log::debug!("a listener was not waited for: {error}");
            }
        }
        self.obey();
    }

    fn end_all(&mut self) {
        let conns: Vec<ConnId> = self.lines.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.end(conn, "this side ends"));
    }
}
