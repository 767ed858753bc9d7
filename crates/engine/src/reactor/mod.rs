//! The engine's one thread: it dials, shakes hands, notices faults, copies for pumped sockets and
//! keeps time. It is started by the first virtual socket and sleeps when nothing happens.

mod candidates;
pub(crate) mod channel;
mod check;
mod dial;
mod end;
mod family;
mod fault;
mod foreign;
mod heir;
mod idle;
mod owned;
mod pump;
mod put_off;
mod serve;
mod timer;

pub(crate) use dial::furnish;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use core::net::SocketAddr;
use crossbeam_channel::{Receiver as ChannelReceiver, Sender as ChannelSender, unbounded};
use eversock_proto::log::Pool;
use eversock_proto::secret::SessionId;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::clock;
use crate::config::Answer;
use crate::listener::Listener;
use crate::process;
use crate::socket::gather::Bursts;
use crate::socket::{Socket, Watch};
use crate::sys::{self, Fd, fd};
use owned::Owned;
use timer::{Timer, Timers};

/// What other threads tell the engine.
#[derive(Debug)]
pub(crate) enum Command {
    /// Dial for the first time.
    Connect { socket: Arc<Socket> },
    /// A session was accepted, or claimed after a fork, by this process.
    Adopt { socket: Arc<Socket> },
    /// A connection is dead.
    Fault { socket: Arc<Socket>, epoch: u64, cause: String },
    /// The session has failed; its bits say so already.
    Failed { socket: Arc<Socket>, cause: String },
    /// The peer has other addresses.
    Addrs { socket: Arc<Socket>, addrs: Vec<SocketAddr> },
    /// The program has set where to dial.
    Candidates { socket: Arc<Socket> },
    /// Someone wants a dial now, beside the connection that stands if one does.
    Redial { socket: Arc<Socket> },
    /// The program wants one to this address; an errno is the answer, or 0.
    RedialAt { socket: Arc<Socket>, addr: SocketAddr, answer: ChannelSender<i32> },
    /// The peer asks to be resumed elsewhere or later.
    Goaway { socket: Arc<Socket> },
    /// The program closed its last number.
    Closed { socket: Arc<Socket>, reset: bool },
    /// A number of it was closed past us: perhaps the last.
    Look { socket: Arc<Socket> },
    /// The program closed its last number while relatives go on, or guests are due for a turn.
    Orphaned { socket: Arc<Socket> },
    /// A line has more messages than one turn takes.
    Line { token: usize },
    /// The program listens.
    Listen { listener: Arc<Listener> },
    /// The program waits at a listener that another process serves.
    Heir { listener: Arc<Listener> },
    /// The program closed its listener.
    Unlisten { listener: Arc<Listener> },
    /// The answer to a question about recovery.
    Answered { socket: Arc<Socket>, answer: Answer },
    /// The line-up hook has run.
    LineUp { socket: Arc<Socket>, up: bool },
    /// Copy for this socket. `near` is the program's end while `junk` bytes keep it unwritable.
    Pump { socket: Arc<Socket>, far: Fd, near: Option<Fd>, junk: usize },
    /// The sweep has something to do.
    Sweep,
    /// The network may have changed.
    NetworkChanged,
    /// Finish all sessions and say so; `exits` when the process ends afterwards.
    Drain { done: ChannelSender<()>, exits: bool },
    /// A name was resolved.
    Resolved { socket: Arc<Socket>, addrs: Vec<SocketAddr> },
}

/// What other threads may touch of the engine.
#[derive(Debug)]
pub(crate) struct Engine {
    commands: ChannelSender<Command>,
    /// Not mio's, whose number would be any: programs close what they do not know.
    waker: Fd,
    /// The fault watch: RDHUP, ERR, HUP; ONESHOT; OUT and IN where wanted.
    watch: Fd,
    poll_number: RawFd,
    /// Of the named channel: a child must not answer for its parent.
    channel_number: AtomicI32,
    /// Of lines from other processes: they must end with this process.
    pub(crate) line_numbers: Mutex<BTreeSet<RawFd>>,
    pub(crate) pool: Arc<Pool>,
    /// This process, in session ids and owner words; another one after a fork.
    pub(crate) instance: u64,
    sweep: Mutex<Vec<Weak<Socket>>>,
    pub(crate) sockets: Mutex<BTreeMap<u64, Weak<Socket>>>,
    poisoned: AtomicBool,
    sleeping: AtomicBool,
    exit: AtomicU32,
    pub(crate) bursts: Bursts,
}

thread_local! {
    // Without a destructor, so that it may be asked at any time.
    static ON_ENGINE: Cell<bool> = const { Cell::new(false) };
}

/// True in the engine's own thread, whose calls are never the program's.
#[inline]
pub fn on_engine_thread() -> bool {
    ON_ENGINE.get()
}

static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());
static STARTING: Mutex<()> = Mutex::new(());
/// Goes on in a child, whose inherited sockets keep their numbers.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The engine, started if need be.
pub(crate) fn engine() -> io::Result<&'static Engine> {
    if let Some(engine) = engine_if_running() {
        if engine.poisoned.load(Ordering::Relaxed) {
            return Err(crate::error::poisoned());
        }
        return Ok(engine);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = engine_if_running() {
        return Ok(engine);
    }
    // Before the first fork, so that all relatives know them.
    crate::family::secret();
    crate::family::note_user(sys::process::user());
    process::install_hooks()?;
    start()
}

/// The engine, if it was started in this process.
pub(crate) fn engine_if_running() -> Option<&'static Engine> {
    let engine = ENGINE.load(Ordering::Acquire);
    // SAFETY: the pointer is null or from `Box::leak`, never freed.
    unsafe { engine.as_ref() }
}

/// In a fork child: the thread is gone and its descriptors are the parent's.
pub(crate) fn after_fork() {
    if let Some(engine) = engine_if_running() {
        let channel = engine.channel_number.load(Ordering::SeqCst);
        let waker = engine.waker.as_raw_fd();
        let timer = engine.bursts.number().unwrap_or(-1);
        for number in [engine.watch.as_raw_fd(), engine.poll_number, waker, channel, timer] {
            if number >= 0 {
                fd::close(number);
            }
        }
        let lines = engine.line_numbers.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().for_each(|&number| fd::close(number));
        ENGINE.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// True when the engine's thread has panicked: every call on a virtual socket then fails with
/// ENOTRECOVERABLE.
pub fn poisoned() -> bool {
    engine_if_running().is_some_and(|engine| engine.poisoned.load(Ordering::Relaxed))
}

/// Sets the process-wide cap on what replay logs may hold beyond 64 KiB each, in bytes.
///
/// # Errors
/// Those of starting the engine: out of descriptors, memory or threads.
pub fn set_log_cap(bytes: u64) -> io::Result<()> {
    engine()?.pool.set_cap(bytes);
    Ok(())
}

/// Tells the engine that the network may have changed (another Wi-Fi, a VPN, a wake-up): sessions
/// whose path is gone are redialled at once instead of when the kernel notices. Never blocks.
pub fn network_changed() {
    if let Some(engine) = engine_if_running() {
        engine.command(Command::NetworkChanged);
    }
}

/// Ends all sessions that this process owns in order, and waits until the peers have confirmed, as
/// a normal exit does. Blocks up to the sessions' linger.
pub fn shutdown() {
    drain(false);
}

/// The same for a process that ends when this returns.
pub(crate) fn shutdown_to_exit() {
    drain(true);
}

fn drain(exits: bool) {
    let Some(engine) = engine_if_running() else { return };
    let (done, wait) = crossbeam_channel::bounded(1);
    engine.command(Command::Drain { done, exits });
    // The engine drops the channel when it dies.
    let _ended = wait.recv();
}

/// The same for `_exit`, which a signal handler may call: no lock and no allocation here.
pub fn shutdown_from_exit() {
    let Some(engine) = engine_if_running() else { return };
    engine.exit.store(EXIT_ASKED, Ordering::SeqCst);
    fd::notify(engine.waker.as_raw_fd());
    while engine.exit.load(Ordering::SeqCst) != EXIT_DONE && !engine.poisoned.load(Ordering::SeqCst)
    {
        crate::wait::epoll::sleep(Duration::from_micros(200));
    }
}

/// The program is about to end and waits for [`EXIT_DONE`].
const EXIT_ASKED: u32 = 1;
/// All that was to be delivered before the end has been, or never will be.
const EXIT_DONE: u32 = 2;

const WAKER: Token = Token(0);
const WATCH: Token = Token(1);
const NETLINK: Token = Token(2);
const CHANNEL: Token = Token(3);
const CONTROL: Token = Token(4);
const BURSTS: Token = Token(5);
const FIRST: usize = 16;

const STACK_BYTES: usize = 512 * 1024;

fn start() -> io::Result<&'static Engine> {
    let _kept = crate::mark::address();
    fd::seed_jitter();
    // Under the preload its number is moved up: what this thread makes now is not the program's.
    let before = ON_ENGINE.replace(true);
    let poll = Poll::new();
    ON_ENGINE.set(before);
    let poll = poll?;
    fd::note_own(poll.as_raw_fd());
    let waker = fd::eventfd()?;
    // Edge-triggered, as mio registers all: nobody need take the notices.
    poll.registry().register(&mut SourceFd(&waker.as_raw_fd()), WAKER, Interest::READABLE)?;
    let watch = {
        let flags = rustix::event::epoll::CreateFlags::CLOEXEC;
        fd::internal(rustix::event::epoll::create(flags)?)?
    };
    poll.registry().register(&mut SourceFd(&watch.as_raw_fd()), WATCH, Interest::READABLE)?;
    let bursts = Bursts::new();
    if let Some(timer) = bursts.number() {
        poll.registry().register(&mut SourceFd(&timer), BURSTS, Interest::READABLE)?;
    }
    let (commands, inbox) = unbounded();
    let engine = Box::leak(Box::new(Engine {
        commands,
        waker,
        watch,
        poll_number: poll.as_raw_fd(),
        channel_number: AtomicI32::new(-1),
        line_numbers: Mutex::default(),
        pool: Arc::default(),
        instance: process::new_instance(),
        sweep: Mutex::default(),
        sockets: Mutex::default(),
        poisoned: AtomicBool::new(false),
        sleeping: AtomicBool::new(false),
        exit: AtomicU32::new(0),
        bursts,
    }));
    let engine: &'static Engine = engine;
    let mut reactor = Reactor::new(engine, poll, inbox);
    reactor.open_channels();
    sys::thread::spawn(c"eversock", STACK_BYTES, move || {
        ON_ENGINE.set(true);
        sys::process::block_signals();
        let run = std::panic::AssertUnwindSafe(|| reactor.run());
        if std::panic::catch_unwind(run).is_err() {
            engine.poison();
        }
    })?;
    ENGINE.store(std::ptr::from_ref(engine).cast_mut(), Ordering::Release);
    Ok(engine)
}

impl Engine {
    pub(crate) fn command(&self, command: Command) {
        // The receiver lives as long as the thread; a poisoned engine needs no commands.
        if self.commands.send(command).is_ok() && self.sleeping.swap(false, Ordering::SeqCst) {
            fd::notify(self.waker.as_raw_fd());
        }
    }

    /// A number for a new socket.
    pub(crate) fn next_id(&self) -> u64 {
        NEXT_ID.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a socket known to `sessions()` and the hooks around fork.
    pub(crate) fn enroll(&self, socket: &Arc<Socket>) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.insert(socket.id, Arc::downgrade(socket));
    }

    pub(crate) fn strike(&self, id: u64) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The list of the next sweep, for the hooks around fork.
    pub(crate) fn sweep_list(&self) -> &Mutex<Vec<Weak<Socket>>> {
        &self.sweep
    }

    pub(crate) fn list_for_sweep(&self, socket: &Arc<Socket>) {
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        sweep.push(Arc::downgrade(socket));
        if sweep.len() == 1 {
            drop(sweep);
            self.command(Command::Sweep);
        }
    }

    fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
        log::error!("the eversock engine has failed; its sockets are dead, the program is not");
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.values().filter_map(Weak::upgrade) {
            socket.set_failure(libc::ENOTRECOVERABLE);
        }
    }

    fn watch_control(&self, op: i32, number: RawFd, events: i32, data: u64) {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
        // SAFETY: `event` is valid for the call.
        let result = unsafe {
            (sys::calls::calls().epoll_ctl)(self.watch.as_raw_fd(), op, number, &raw mut event)
        };
        if result != 0 {
            log::debug!("fault watch of {number}: {}", io::Error::last_os_error());
        }
    }

    pub(crate) fn watch_add(&self, watch: &Watch, id: u64) {
        self.watch_control(libc::EPOLL_CTL_ADD, watch.number, watch_events(watch), id);
    }

    pub(crate) fn watch_modify(&self, watch: &Watch, id: u64) {
        self.watch_control(libc::EPOLL_CTL_MOD, watch.number, watch_events(watch), id);
    }

    pub(crate) fn watch_remove(&self, number: RawFd) {
        self.watch_control(libc::EPOLL_CTL_DEL, number, 0, 0);
    }
}

fn watch_events(watch: &Watch) -> i32 {
    let mut events = libc::EPOLLRDHUP | libc::EPOLLONESHOT;
    if watch.wants_out {
        events |= libc::EPOLLOUT;
    }
    if watch.wants_in {
        events |= libc::EPOLLIN;
    }
    events
}

/// What the thread itself holds.
pub(crate) struct Reactor {
    engine: &'static Engine,
    poll: Poll,
    inbox: ChannelReceiver<Command>,
    /// Commands that found a lock taken.
    again: Vec<Command>,
    timers: Timers,
    /// Boxed, as the nodes of a tree that grows at its end stay half empty.
    owned: BTreeMap<u64, Box<Owned>>,
    by_session: HashMap<SessionId, u64>,
    /// Sessions that were handed to another process, by that process.
    foreign: foreign::Foreign,
    tombstones: end::Tombstones,
    dials: HashMap<u64, dial::Dial>,
    attempts: HashMap<usize, dial::Attempt>,
    listeners: HashMap<u64, serve::Served>,
    handshakes: HashMap<usize, serve::Handshake>,
    pumps: HashMap<usize, pump::Pump>,
    pump_of: HashMap<u64, usize>,
    /// mio tokens of listeners and their channels.
    listener_tokens: HashMap<usize, (u64, bool)>,
    pub(crate) connections: HashMap<usize, crate::inspect::Connection>,
    netlink: Option<Fd>,
    channel: Option<Fd>,
    pub(crate) control: Option<crate::inspect::ControlSocket>,
    next_token: usize,
    suspended: Duration,
    draining: Option<ChannelSender<()>>,
    /// Until when a process that ends waits for guests that read what came before an end.
    guests_until: Option<Instant>,
    /// Until when a process that ends sees to those who have come to its listeners.
    births_until: Option<Instant>,
    resolving: usize,
    swept: bool,
    waiting_dials: VecDeque<u64>,
    /// Dials so far, to tell one from the next.
    dialled: u64,
    /// The fault watch may have more than was taken from it.
    watch_again: bool,
    /// Peers that do not speak eversock, and since when that is known.
    plain_peers: HashMap<SocketAddr, Instant>,
    /// What was said of connections that were refused.
    refusals: serve::Refusals,
    /// Where connections come from that do not go on.
    suspects: serve::Suspects,
    /// Listeners with more to accept than one turn takes.
    accept_again: HashSet<u64>,
    /// The looks for lost numbers; `None` while none is planned.
    looks: Option<idle::Looks>,
    /// Lines from other processes.
    lines: HashMap<usize, channel::Line>,
    /// The far ends of guests' pumps, and which line each belongs to.
    far_ends: HashMap<usize, usize>,
    /// Lines to the processes that serve our listeners.
    masters: HashMap<usize, heir::Master>,
}

impl Reactor {
    fn new(engine: &'static Engine, poll: Poll, inbox: ChannelReceiver<Command>) -> Self {
        Self {
            engine,
            poll,
            inbox,
            again: Vec::new(),
            timers: Timers::default(),
            owned: BTreeMap::new(),
            by_session: HashMap::new(),
            foreign: foreign::Foreign::default(),
            tombstones: end::Tombstones::default(),
            dials: HashMap::new(),
            attempts: HashMap::new(),
            listeners: HashMap::new(),
            handshakes: HashMap::new(),
            pumps: HashMap::new(),
            pump_of: HashMap::new(),
            listener_tokens: HashMap::new(),
            connections: HashMap::new(),
            netlink: None,
            channel: None,
            control: None,
            next_token: FIRST,
            suspended: clock::suspended(),
            draining: None,
            guests_until: None,
            births_until: None,
            resolving: 0,
            swept: false,
            waiting_dials: VecDeque::new(),
            dialled: 0,
            watch_again: false,
            plain_peers: HashMap::new(),
            refusals: serve::Refusals::default(),
            suspects: serve::Suspects::default(),
            accept_again: HashSet::new(),
            looks: None,
            lines: HashMap::new(),
            far_ends: HashMap::new(),
            masters: HashMap::new(),
        }
    }

    /// Opens what the thread listens to besides sockets. Each is a help, none a need.
    fn open_channels(&mut self) {
        self.netlink = sys::tcp::route_changes().ok();
        if let Some(netlink) = &self.netlink {
            let source = &mut SourceFd(&netlink.as_raw_fd());
            let _ = self.poll.registry().register(source, NETLINK, Interest::READABLE);
        }
        self.channel = channel::listen(self.engine.instance).ok();
        if let Some(channel) = &self.channel {
            let source = &mut SourceFd(&channel.as_raw_fd());
            let _ = self.poll.registry().register(source, CHANNEL, Interest::READABLE);
            self.engine.channel_number.store(channel.as_raw_fd(), Ordering::SeqCst);
        }
        self.control = crate::inspect::ControlSocket::open().ok();
        if let Some(control) = &self.control {
            let source = &mut SourceFd(&control.number());
            let _ = self.poll.registry().register(source, CONTROL, Interest::READABLE);
        }
    }

    pub(crate) fn token(&mut self) -> usize {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn register(
        &self,
        number: RawFd,
        token: usize,
        interest: Interest,
    ) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&number), Token(token), interest)
    }

    pub(crate) fn deregister(&self, number: RawFd) {
        let _gone = self.poll.registry().deregister(&mut SourceFd(&number));
    }

    /// Ends a connection that came to nothing. A child that was forked meanwhile has a copy, which
    /// would keep it open: the peer must see its end all the same.
    fn drop_connection(&self, fd: Fd) {
        self.deregister(fd.as_raw_fd());
        if process::has_relatives() {
            sys::tcp::shut_both(fd.as_raw_fd());
        }
        drop(fd);
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let wait = self.time_to_sleep();
            self.engine.sleeping.store(true, Ordering::SeqCst);
            // A command that came before the flag was seen has rung nobody.
            let wait = if self.inbox.is_empty() { wait } else { Some(Duration::ZERO) };
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("the engine cannot wait for events: {error}");
                wait_a_little();
            }
            self.engine.sleeping.store(false, Ordering::SeqCst);
            self.notice_suspend();
            if !events.is_empty() {
                self.note_stir();
            }
            if std::mem::take(&mut self.watch_again) {
                self.watched();
            }
            for event in &events {
                self.dispatch(
                    event.token(),
                    event.is_readable() || event.is_error(),
                    event.is_writable(),
                );
            }
            let again = std::mem::take(&mut self.again);
            for command in again {
                self.obey(command);
            }
            self.obey_waiting();
            self.expire();
            if self.engine.exit.load(Ordering::SeqCst) == EXIT_ASKED && self.draining.is_none() {
                let (done, _nobody) = crossbeam_channel::bounded(1);
                self.drain(done, true);
            }
            if self.is_drained() {
                self.draining = None;
                // A drain that exit(3) asked for is one for `_exit` too.
                self.engine.exit.store(EXIT_DONE, Ordering::SeqCst);
            }
        }
    }

    fn time_to_sleep(&mut self) -> Option<Duration> {
        if self.watch_again {
            return Some(Duration::ZERO);
        }
        if !self.again.is_empty() {
            return Some(Duration::from_micros(200));
        }
        self.weed_timers();
        let now = clock::now();
        self.timers.next().map(|at| at.saturating_duration_since(now))
    }

    fn dispatch(&mut self, token: Token, readable: bool, writable: bool) {
        match token {
            WAKER => {}
            WATCH => self.watched(),
            NETLINK => self.netlink_changed(),
            CHANNEL => self.channel_ready(),
            CONTROL => self.control_ready(),
            BURSTS => self.look_at_bursts(),
            Token(token) if self.attempts.contains_key(&token) => self.attempt_ready(token),
            Token(token) if self.handshakes.contains_key(&token) => self.handshake_ready(token),
            Token(token) if self.pumps.contains_key(&token) => {
                self.pump_ready(token, readable, writable);
            }
            Token(token) if self.connections.contains_key(&token) => self.connection_ready(token),
            Token(token) if self.lines.contains_key(&token) => self.read_line(token),
            Token(token) if self.masters.contains_key(&token) => self.master_ready(token),
            Token(token) if self.far_ends.contains_key(&token) => self.far_ready(token),
            Token(token) => {
                if let Some(&(listener, is_channel)) = self.listener_tokens.get(&token) {
                    if is_channel {
                        self.hand_over_ready(listener);
                    } else {
                        self.accept_ready(listener);
                    }
                }
            }
        }
    }

    /// Does what other threads have told. Bounded, so that a flood of commands starves neither
    /// sockets nor timers.
    fn obey_waiting(&mut self) {
        for _ in 0..1024 {
            let Ok(command) = self.inbox.try_recv() else { break };
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect { socket } => self.connect(socket),
            Command::Adopt { socket } => self.adopt(socket),
            Command::Fault { socket, epoch, cause } => self.fault(socket, epoch, cause),
            Command::Failed { socket, cause } => self.failed(socket, cause),
            Command::Addrs { socket, addrs } => self.addrs(&socket, addrs),
            Command::RedialAt { socket, addr, answer } => {
                let _gone = answer.send(self.redial_at(&socket, addr).err().unwrap_or(0));
            }
            Command::Candidates { socket } => self.candidates_set(&socket),
            Command::Redial { socket } => self.redial_wanted(&socket),
            Command::Goaway { socket } => self.goaway(&socket),
            Command::Closed { socket, reset } => self.closed(socket, reset),
            Command::Orphaned { socket } => self.serve_guests(&socket),
            Command::Line { token } => self.read_line(token),
            Command::Look { socket } => self.look_at(&socket),
            Command::Listen { listener } => self.listen(listener),
            Command::Heir { listener } => self.become_heir(listener),
            Command::Unlisten { listener } => self.unlisten(&listener),
            Command::Answered { socket, answer } => self.answered(&socket, answer),
            Command::LineUp { socket, up } => self.line_is_up(&socket, up),
            Command::Pump { socket, far, near, junk } => self.pump(socket, far, near, junk),
            Command::Sweep => self.arm_sweep(),
            Command::NetworkChanged => self.check_paths(true),
            Command::Drain { done, exits } => self.drain(done, exits),
            Command::Resolved { socket, addrs } => self.resolved(&socket, addrs),
        }
    }

    fn look_at_bursts(&mut self) {
        for lost in self.engine.bursts.look(self.engine.instance) {
            self.look_at(&lost);
        }
    }

    fn expire(&mut self) {
        let now = clock::now();
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Sweep => self.sweep(),
                Timer::Redial(id) => self.redial_due(id),
                Timer::Stagger(id) => self.stagger(id),
                Timer::Silent(token) => self.silent(token),
                Timer::DialDeadline(id, serial) => self.dial_deadline(id, serial),
                Timer::DialAgain(id, serial) => self.dial_again(id, serial),
                Timer::Handshake(token) => self.handshake_deadline(token),
                Timer::Grace(id) => self.grace_over(id),
                Timer::Unclaimed(id) => self.unclaimed(id),
                Timer::Fault(id) => self.fault_again(id),
                Timer::Guests(id) => self.look_at_guests(id),
                Timer::Linger(id) => self.linger_over(id),
                Timer::Paths => self.check_paths(false),
                Timer::Pump(token) => self.pump_ready(token, true, true),
                Timer::Away(id) => self.away_due(id),
                Timer::Foreign => self.look_at_foreign(),
                Timer::Exit => self.look_at_exit(),
                Timer::Numbers => self.look_at_numbers(),
                Timer::Start(id, epoch) => self.start_due(id, epoch),
                Timer::Master(token) => self.find_master(token),
                Timer::Line(token) => self.line_deadline(token),
                Timer::Channel => {
                    self.channel_ready();
                    self.control_ready();
                }
            }
        }
    }

    fn notice_suspend(&mut self) {
        if has_jumped(&mut self.suspended, clock::suspended()) {
            log::info!("the machine was suspended; checking all paths");
            self.check_paths(true);
        }
    }
}

/// True when so much more time was spent suspended that it was a suspend, and not two clocks read
/// one after the other.
fn has_jumped(known: &mut Duration, now: Duration) -> bool {
    let jumped = now > *known + SUSPEND_MIN;
    if jumped {
        *known = now;
    }
    jumped
}

/// A shorter suspend is left to the faults that it makes.
const SUSPEND_MIN: Duration = Duration::from_secs(1);

fn wait_a_little() {
    crate::wait::epoll::sleep(Duration::from_millis(10));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::socket::Tx;
    use eversock_proto::control::Control;
    use eversock_proto::recv::Receiver;
    use eversock_proto::send::Sender;

    /// With the allocator's and the tables' share an idle session is to cost less than 2 KiB
    /// (`cargo bench -- --only memory` measures it).
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_parts_of_a_session_leave_room_below_two_kibibytes() {
        let state = size_of::<Socket>() + size_of::<Owned>();
        let proto = size_of::<Sender>() + size_of::<Receiver>() + size_of::<Control>();
        assert!(state + proto <= 1376, "{state} B in the engine, {proto} B in the protocol");
    }

    impl Reactor {
        /// One that runs no thread: the test calls what the thread would.
        pub(super) fn for_test() -> Self {
            let poll = Poll::new().expect("a poll");
            Self::new(engine().expect("an engine"), poll, unbounded().1)
        }

        /// A session of this process over a connection whose epoch is 6, and the other end of it.
        pub(super) fn session_for_test(&mut self, config: Config) -> (Arc<Socket>, Fd) {
            let (near, far) = sys::tcp::loopback_pair().expect("a pair");
            let local = self.engine.next_id();
            let socket = Arc::new(Socket::new(local, Arc::new(config), Vec::new(), 0));
            assert!(socket.owner.claim(self.engine.instance, true));
            let mut sender = Sender::new(Arc::default(), 0, 0);
            sender.begin_epoch(0).expect("nothing was sent");
            *socket.lock_tx().expect("a lock") = Tx {
                sender: Some(Box::new(sender)),
                number: near.as_raw_fd(),
                epoch: 6,
                pace: None,
            };
            socket.place.lock().expect("a lock").private = Some(near);
            let id = SessionId::new(self.engine.instance, local);
            self.owned.insert(local, Owned::new(Arc::clone(&socket), id));
            (socket, far)
        }
    }

    #[test]
    fn a_jump_of_the_clock_that_counts_suspends_is_noticed_once() {
        let second = Duration::from_secs(1);
        let mut known = Duration::from_secs(100);
        assert!(!has_jumped(&mut known, Duration::from_secs(100)));
        assert!(!has_jumped(&mut known, Duration::from_secs(100) + second));
        assert!(has_jumped(
            &mut known,
            Duration::from_secs(100) + second + Duration::from_nanos(1)
        ));
        assert!(!has_jumped(&mut known, Duration::from_millis(101_001)));
        assert!(!has_jumped(&mut known, Duration::from_secs(99)), "clocks set back are none");
        assert!(has_jumped(&mut known, Duration::from_secs(3600)));
    }
}
