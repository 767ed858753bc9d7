//! A device in a program, over virtual sockets.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use eversock_engine::Config;

use super::counter::{CounterError, CounterFile};
use super::host::{Command, Host, Program, Reply};
use super::machine::{Event, Input, Machine, State};
use super::policy::{Policy, PolicyError};
use crate::conn::{Reactor, ReactorThread};
use crate::limits::{DEADLINE_MAX, PAYLOAD_MAX};
use crate::model::{ControllerId, DeviceId};
use crate::wire::client::{Outcome, Request};

/// Events that wait for the program to read them; more are dropped.
const EVENTS_MAX: usize = 1_024;
/// Threads that call the program, at most.
const WORKERS_MAX: usize = 64;

/// What a program does with a request: its answer.
pub type OnRequest = Arc<dyn Fn(&Request) -> Outcome + Send + Sync>;

/// A device.
#[derive(Clone)]
pub struct DeviceConfig {
    /// Its name.
    pub device: DeviceId,
    /// Its controllers, and how it deals with them.
    pub policy: Policy,
    /// Of the virtual sockets. Default: [`socket_config`].
    pub socket: Config,
    /// How to reach it besides: its own business, at most
    /// [`ADDRESS_MAX`](crate::limits::ADDRESS_MAX) bytes.
    pub address: Vec<u8>,
    /// Where its counter is kept; `None`: it asks its controller at each start.
    pub counter: Option<PathBuf>,
    /// What it does with requests. Called on threads of its own, `workers` at a time: it may block.
    /// If it panics, the request is refused. Default: all are refused.
    pub on_request: OnRequest,
    /// Threads that call `on_request`: 1 to 64. Default: 1.
    pub workers: usize,
}

impl DeviceConfig {
    /// The defaults.
    #[must_use]
    pub fn new(device: DeviceId, policy: Policy) -> Self {
        Self {
            device,
            policy,
            socket: socket_config(),
            address: Vec::new(),
            counter: None,
            on_request: Arc::new(|_| Outcome::Refused("the device takes no requests".to_owned())),
            workers: 1,
        }
    }
}

impl fmt::Debug for DeviceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceConfig").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Virtual sockets of devices: a connection is resumed for 30 s, and attempts to connect take up to
/// 5 s.
#[must_use]
pub fn socket_config() -> Config {
    Config {
        grace: Duration::from_secs(30),
        grace_after_close: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        ..Config::default()
    }
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Its policy is none.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// Its counter cannot be had.
    #[error("{0}")]
    Counter(#[from] CounterError),
    /// A number out of bounds.
    #[error("{what} is {value}: give {bounds}")]
    OutOfBounds {
        /// Of what.
        what: &'static str,
        /// The number.
        value: usize,
        /// What it may be.
        bounds: String,
    },
    /// A name that is there twice.
    #[error("there are two devices {0}: give each name once")]
    Twice(DeviceId),
    /// The system has no threads, descriptors or random numbers left.
    #[error("the device's threads cannot be started: {0}")]
    System(#[from] io::Error),
}

/// What the program is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// About its registration.
    Machine(Event),
    /// The parameters that its controller has; it knows that the device has them now.
    Parameters {
        /// Their generation.
        generation: u64,
        /// Their text.
        text: String,
    },
    /// The counter cannot be kept: after a restart the device may use numbers again, until a
    /// controller says so. Told once until it can be kept again.
    NotSaved {
        /// Why.
        why: String,
    },
}

/// Where a device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// See there.
    pub state: State,
    /// Who serves it, and the counter of that registration.
    pub registered: Option<(ControllerId, u64)>,
    /// The last counter that it has used, or that it knows to be used.
    pub counter: u64,
    /// Whether the last deregistration was confirmed.
    pub confirmed: bool,
    /// Why its threads have ended by themselves; empty if they have not.
    pub failure: String,
}

/// See the module. From any number of threads. Dropping it is [`DeviceAgent::close`].
#[derive(Debug)]
pub struct DeviceAgent {
    reactor: Reactor,
    shared: Arc<Shared>,
    commands: Sender<Command>,
    events: Receiver<DeviceEvent>,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    reactor: ReactorThread,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<DeviceState>,
    changed: Condvar,
}

impl DeviceAgent {
    /// Starts the device: it registers in the background, with what is told by
    /// [`Self::wait_registered`] and [`Self::events`]. Blocks while its counter is read.
    ///
    /// # Errors
    ///
    /// See [`DeviceError`].
    pub fn start(config: DeviceConfig) -> Result<Self, DeviceError> {
        let DeviceConfig { device, policy, socket, address, counter, on_request, workers } = config;
        if !(1..=WORKERS_MAX).contains(&workers) {
            let bounds = format!("1 to {WORKERS_MAX}");
            return Err(DeviceError::OutOfBounds { what: "workers", value: workers, bounds });
        }
        let (file, known) = match counter {
            Some(path) => {
                let (file, known) = CounterFile::open(&path, &device)?;
                (Some(file), known)
            }
            None => (None, None),
        };
        let requests_max = policy.requests_max;
        let machine = Machine::new(Arc::new(policy), device, &address, known, random()?)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(DeviceState {
                state: State::Idle,
                registered: None,
                counter: machine.counter(),
                confirmed: false,
                failure: String::new(),
            }),
            changed: Condvar::new(),
        });
        let (commands, commanded) = crossbeam_channel::unbounded();
        let (tell, events) = crossbeam_channel::bounded(EVENTS_MAX);
        // The machine lets no more through; what nobody waits for any more is in it besides.
        let (work, works) = crossbeam_channel::bounded(requests_max);
        let program = Agent { shared: Arc::clone(&shared), file, saves: true, tell, work };
        let (reactor, thread) = Reactor::start("device", move |reactor| {
            Host::new(reactor, socket, vec![machine], 1, program, commanded)
        })?;
        let mut threads = Threads { reactor: thread, workers: Vec::new() };
        for _ in 0..workers {
            let worker = Worker {
                works: works.clone(),
                on_request: Arc::clone(&on_request),
                commands: commands.clone(),
                reactor: reactor.clone(),
            };
            let builder = thread::Builder::new().name("device-request".to_owned());
            threads.workers.push(builder.spawn(move || worker.run())?);
        }
        let threads = Mutex::new(Some(threads));
        Ok(Self { reactor, shared, commands, events, threads })
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        let mut state = lock(&self.shared.state).clone();
        state.failure = self.reactor.failure().unwrap_or_default();
        state
    }

    /// What happens to it. If 1024 events wait, further ones are dropped. All receivers share them.
    #[must_use]
    pub fn events(&self) -> Receiver<DeviceEvent> {
        self.events.clone()
    }

    /// Waits until a controller serves it; false after the time. Blocks.
    #[must_use]
    pub fn wait_registered(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.registered.is_some() && state.state != State::Leaving)
    }

    /// Asks another device, through the controller that serves this one. Blocks up to the deadline,
    /// at most [`DEADLINE_MAX`].
    #[must_use]
    pub fn request(&self, device: DeviceId, deadline: Duration, payload: Vec<u8>) -> Outcome {
        let (tell, told) = crossbeam_channel::bounded(1);
        let reply = move |outcome| {
            let _nobody_waits = tell.send(outcome);
        };
        self.request_with(device, deadline, payload, Box::new(reply));
        // The host ends it at the deadline; this is for a host that does not.
        let patience = deadline.min(DEADLINE_MAX) + Duration::from_secs(5);
        told.recv_timeout(patience).unwrap_or(Outcome::TimedOut)
    }

    /// The same without blocking: `reply` is called once, also when the agent is closed; on the
    /// agent's thread, which it must not block.
    pub fn request_with(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
        reply: Box<dyn FnOnce(Outcome) + Send>,
    ) {
        let reply = Reply::new(reply);
        if payload.len() > PAYLOAD_MAX {
            let text = format!("a request of {} bytes: at most {PAYLOAD_MAX} go", payload.len());
            return reply.tell(Outcome::Refused(text));
        }
        self.command(Command::Ask { device: 0, to: device, deadline, payload, reply });
    }

    /// The program has something to do that no hand-over may tear, or has done it. Requests under
    /// way count by themselves.
    pub fn set_busy(&self, is_busy: bool) {
        self.command(Command::Give(0, Input::Busy(is_busy)));
    }

    /// Ends its registration; true if a controller has confirmed that, or there was none. Blocks up
    /// to the policy's `answer_within`. It can be started again by [`Self::register`].
    #[must_use]
    pub fn deregister(&self) -> bool {
        self.command(Command::Give(0, Input::Deregister));
        let longest = Duration::from_secs(24 * 3_600);
        self.wait(longest, |state| state.state == State::Ended) && self.state().confirmed
    }

    /// Registers it again after [`Self::deregister`].
    pub fn register(&self) {
        self.command(Command::Give(0, Input::Start));
    }

    /// Ends the threads. The registration stays until its lease is over; see
    /// [`Self::deregister`]. Blocks for a few seconds at most, and until `on_request` has returned.
    pub fn close(&self) {
        let threads = lock(&self.threads).take();
        let Some(Threads { reactor, workers }) = threads else { return };
        reactor.close();
        self.shared.changed.notify_all();
        for worker in workers {
            // A callback that drops the last handle runs on one of them.
            if worker.thread().id() != thread::current().id() && worker.join().is_err() {
                log::error!("a thread of a device has panicked");
            }
        }
    }

    fn command(&self, command: Command) {
        // Without a host it is dropped, and whoever waits is told.
        let _closed = self.commands.send(command);
        self.reactor.wake();
    }

    fn wait(&self, timeout: Duration, until: impl Fn(&DeviceState) -> bool) -> bool {
        let end = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            let now = Instant::now();
            if until(&state) {
                return true;
            }
            if now >= end || lock(&self.threads).is_none() || self.reactor.failure().is_some() {
                return false;
            }
            // A reactor that fails tells nobody: it is looked after.
            let some = (end - now).min(Duration::from_secs(1));
            let waited = self.shared.changed.wait_timeout(state, some);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for DeviceAgent {
    fn drop(&mut self) {
        self.close();
    }
}

/// The device as its host sees it.
struct Agent {
    shared: Arc<Shared>,
    file: Option<CounterFile>,
    /// The counter could be kept the last time.
    saves: bool,
    tell: Sender<DeviceEvent>,
    work: Sender<Work>,
}

struct Work {
    from: ControllerId,
    request: Request,
    until: Instant,
}

impl Agent {
    fn tell(&self, event: DeviceEvent) {
        if self.tell.try_send(event).is_err() {
            log::debug!("an event of a device is dropped: nobody reads them");
        }
    }
}

impl Program for Agent {
    fn save(&mut self, _device: u32, seq: u64) {
        let Some(file) = &mut self.file else { return };
        match file.save(seq) {
            Ok(()) => self.saves = true,
            Err(error) if std::mem::take(&mut self.saves) => {
                log::error!("the device goes on without a counter that is kept: {error}");
                self.tell(DeviceEvent::NotSaved { why: error.to_string() });
            }
            Err(_) => {}
        }
    }

    fn serve(
        &mut self,
        _device: u32,
        _name: &DeviceId,
        from: &ControllerId,
        request: Request,
    ) -> Option<Outcome> {
        let until = Instant::now() + request.deadline.min(DEADLINE_MAX);
        let work = Work { from: from.clone(), request, until };
        match self.work.try_send(work) {
            Ok(()) => None,
            Err(_) => Some(Outcome::Busy { after: Duration::from_millis(200) }),
        }
    }

    fn event(&mut self, _device: u32, event: Event) {
        match &event {
            Event::Ended { confirmed } => {
                lock(&self.shared.state).confirmed = *confirmed;
                self.shared.changed.notify_all();
            }
            Event::Odd { controller, text } => log::warn!("{controller} is not heeded: {text}"),
            _ => {}
        }
        self.tell(DeviceEvent::Machine(event));
    }

    fn changed(&mut self, _device: u32, machine: &Machine) {
        let mut state = lock(&self.shared.state);
        let registered = machine.registered();
        let is_same = state.registered.as_ref().map(|(controller, seq)| (controller, *seq))
            == registered
            && state.state == machine.state()
            && state.counter == machine.counter();
        if is_same {
            return;
        }
        state.registered = registered.map(|(controller, seq)| (controller.clone(), seq));
        (state.state, state.counter) = (machine.state(), machine.counter());
        drop(state);
        self.shared.changed.notify_all();
    }

    fn wants_parameters(&self) -> bool {
        true
    }

    fn parameters(&mut self, generation: u64, text: String) {
        self.tell(DeviceEvent::Parameters { generation, text });
    }
}

/// Calls the program.
struct Worker {
    works: Receiver<Work>,
    on_request: OnRequest,
    commands: Sender<Command>,
    reactor: Reactor,
}

impl Worker {
    fn run(&self) {
        // Until the host is gone, and with it the other end.
        while let Ok(Work { from, request, until }) = self.works.recv() {
            if Instant::now() >= until {
                continue;
            }
            let call = AssertUnwindSafe(|| (self.on_request)(&request));
            let outcome = catch_unwind(call).unwrap_or_else(|_| {
                log::error!("the callback for requests has panicked");
                Outcome::Refused("the device's program has failed".to_owned())
            });
            let answer = Input::Answer { from, id: request.id, outcome: bounded(outcome) };
            if self.commands.send(Command::Give(0, answer)).is_err() {
                return;
            }
            self.reactor.wake();
        }
    }
}

/// An answer that may be sent.
pub(super) fn bounded(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Done(payload) if payload.len() > PAYLOAD_MAX => Outcome::Refused(format!(
            "the device's answer has {} bytes: at most {PAYLOAD_MAX} go",
            payload.len()
        )),
        outcome => outcome,
    }
}

/// A seed.
pub(super) fn random() -> io::Result<u64> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 8];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
