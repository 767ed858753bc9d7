//! Many devices in one process, over few connections: for simulations, benches, and gateways whose
//! devices speak something else.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use eversock_engine::Config;

use super::agent::{DeviceError, bounded, random, socket_config};
use super::histogram::Histogram;
use super::host::{Command, Host, Program};
use super::machine::{Event, Input, Machine, State};
use super::policy::Policy;
use crate::conn::{Reactor, ReactorThread};
use crate::model::{ControllerId, DeviceId};
use crate::wire::client::{Outcome, Request};

/// Devices of a fleet.
pub const DEVICES_MAX: usize = 1 << 20;
/// Controllers that a fleet tells apart; more than are in any table.
const CONTROLLERS_MAX: usize = u16::MAX as usize - 1;

/// Answers the requests for a fleet's devices.
pub type Traffic = Box<dyn FnMut(&DeviceId, Request) -> Outcome + Send>;

/// Many devices.
pub struct FleetConfig {
    /// Their names.
    pub devices: Vec<DeviceId>,
    /// Devices that share a connection to a controller: 1 to 65,536. Default: 1,000.
    pub per_connection: u32,
    /// The controllers of all of them, and how they deal with those.
    pub policy: Policy,
    /// Of the virtual sockets. Default: [`socket_config`].
    pub socket: Config,
    /// The last counter that each may have used; `None`: they ask. Default: 0, that none was used.
    pub counter: Option<u64>,
    /// Seeds the waits of the devices. `None`: by chance.
    pub seed: Option<u64>,
    /// Answers requests, on the fleet's thread, which it must not block. If it panics, the request
    /// is refused. Default: an echo.
    pub traffic: Traffic,
}

impl FleetConfig {
    /// The defaults.
    #[must_use]
    pub fn new(devices: Vec<DeviceId>, policy: Policy) -> Self {
        Self {
            devices,
            per_connection: 1_000,
            policy,
            socket: socket_config(),
            counter: Some(0),
            seed: None,
            traffic: Box::new(|_, request| Outcome::Done(request.payload)),
        }
    }
}

impl fmt::Debug for FleetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetConfig")
            .field("devices", &self.devices.len())
            .field("per_connection", &self.per_connection)
            .finish_non_exhaustive()
    }
}

/// What has happened to a fleet, and where it stands.
#[derive(Debug, Clone, Default)]
pub struct FleetStatus {
    /// Devices in each state; those in none are left out.
    pub states: BTreeMap<&'static str, usize>,
    /// Devices that each controller serves.
    pub served: BTreeMap<ControllerId, usize>,
    /// Registrations since the start.
    pub registrations: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Registrations that were lost: the controller did not answer, or did not know the device.
    pub losses: u64,
    /// Hand-overs done.
    pub handed_over: u64,
    /// Hand-overs that failed.
    pub hand_overs_failed: u64,
    /// Requests answered.
    pub requests: u64,
    /// How long devices were without a registration, or took to be handed over.
    pub took: Histogram,
    /// How long controllers took to answer a registration.
    pub answers: Histogram,
    /// Why the fleet's thread has ended by itself; empty if it has not.
    pub failure: String,
}

/// See the module. From any number of threads. Dropping it is [`Fleet::close`].
#[derive(Debug)]
pub struct Fleet {
    reactor: Reactor,
    commands: Sender<Command>,
    table: Arc<Mutex<Table>>,
    by_name: HashMap<DeviceId, u32>,
    thread: Mutex<Option<ReactorThread>>,
}

/// Where each device stands.
#[derive(Debug, Default)]
struct Table {
    devices: Vec<Entry>,
    controllers: Vec<ControllerId>,
    status: FleetStatus,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: u64,
    state: State,
    /// Who serves it, by its place among the controllers.
    controller: Option<u16>,
}

impl Fleet {
    /// Starts them: they register in the background.
    ///
    /// # Errors
    ///
    /// See [`DeviceError`].
    pub fn start(config: FleetConfig) -> Result<Self, DeviceError> {
        let FleetConfig { devices, per_connection, policy, socket, counter, seed, traffic } =
            config;
        if !(1..=DEVICES_MAX).contains(&devices.len()) {
            let (value, bounds) = (devices.len(), format!("1 to {DEVICES_MAX}"));
            return Err(DeviceError::OutOfBounds { what: "devices", value, bounds });
        }
        if !(1..=65_536).contains(&per_connection) {
            let (value, bounds) = (per_connection as usize, "1 to 65536".to_owned());
            return Err(DeviceError::OutOfBounds { what: "per_connection", value, bounds });
        }
        let mut by_name = HashMap::with_capacity(devices.len());
        for (index, device) in (0..).zip(&devices) {
            if by_name.insert(device.clone(), index).is_some() {
                return Err(DeviceError::Twice(device.clone()));
            }
        }
        let seed = seed.map_or_else(random, Ok)?;
        let policy = Arc::new(policy);
        let machines = devices.into_iter().zip(0u64..).map(|(device, i)| {
            let own = seed.wrapping_add(i.wrapping_mul(0xd134_2543_de82_ef95));
            Machine::new(Arc::clone(&policy), device, b"", counter, own)
        });
        let machines: Vec<Machine> = machines.collect::<Result<_, _>>()?;
        let idle = Entry { seq: 0, state: State::Idle, controller: None };
        let table = Table { devices: vec![idle; machines.len()], ..Table::default() };
        let table = Arc::new(Mutex::new(table));
        let program = Devices { table: Arc::clone(&table), traffic };
        let (commands, commanded) = crossbeam_channel::unbounded();
        let (reactor, thread) = Reactor::start("fleet", move |reactor| {
            Host::new(reactor, socket, machines, per_connection, program, commanded)
        })?;
        Ok(Self { reactor, commands, table, by_name, thread: Mutex::new(Some(thread)) })
    }

    /// What has happened, and where they stand. O(devices).
    #[must_use]
    pub fn status(&self) -> FleetStatus {
        let table = lock(&self.table);
        let mut status = table.status.clone();
        let mut served = vec![0; table.controllers.len()];
        for entry in &table.devices {
            *status.states.entry(entry.state.as_str()).or_insert(0) += 1;
            if let Some(served) = entry.controller.and_then(|c| served.get_mut(usize::from(c))) {
                *served += 1;
            }
        }
        status.served = table.controllers.iter().cloned().zip(served).collect();
        drop(table);
        status.failure = self.reactor.failure().unwrap_or_default();
        status
    }

    /// How many devices a controller serves.
    #[must_use]
    pub fn registered(&self) -> usize {
        let table = lock(&self.table);
        table.devices.iter().filter(|entry| entry.controller.is_some()).count()
    }

    /// Where one of them stands: its state, who serves it and the counter of that registration.
    /// `None`: it is none of these.
    #[must_use]
    pub fn device(&self, device: &DeviceId) -> Option<(State, Option<(ControllerId, u64)>)> {
        let index = *self.by_name.get(device)?;
        let table = lock(&self.table);
        let entry = table.devices.get(index as usize)?;
        let controller = entry.controller.and_then(|c| table.controllers.get(usize::from(c)));
        Some((entry.state, controller.map(|controller| (controller.clone(), entry.seq))))
    }

    /// Ends the registrations of these, or of all if it is empty. Returns at once.
    pub fn deregister(&self, devices: &[DeviceId]) {
        self.give(devices, &Input::Deregister);
    }

    /// Registers those again that were deregistered; all of them if it is empty. Returns at once.
    pub fn register(&self, devices: &[DeviceId]) {
        self.give(devices, &Input::Start);
    }

    /// These, or all if it is empty, have something to do that no hand-over may tear, or have done
    /// it. Returns at once.
    pub fn set_busy(&self, devices: &[DeviceId], is_busy: bool) {
        self.give(devices, &Input::Busy(is_busy));
    }

    /// Ends the fleet's threads. The registrations stay until their leases are over. Blocks for a
    /// few seconds at most.
    pub fn close(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            thread.close();
        }
    }

    fn give(&self, devices: &[DeviceId], input: &Input) {
        let give = |index: u32| {
            // After the end nobody is there.
            let _closed = self.commands.send(Command::Give(index, input.clone()));
        };
        if devices.is_empty() {
            self.by_name.values().copied().for_each(give);
        } else {
            devices.iter().filter_map(|device| self.by_name.get(device)).copied().for_each(give);
        }
        self.reactor.wake();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.close();
    }
}

/// The devices as their host sees them.
struct Devices {
    table: Arc<Mutex<Table>>,
    traffic: Traffic,
}

impl Program for Devices {
    fn save(&mut self, _device: u32, _seq: u64) {}

    fn serve(
        &mut self,
        _device: u32,
        name: &DeviceId,
        _from: &ControllerId,
        request: Request,
    ) -> Option<Outcome> {
        lock(&self.table).status.requests += 1;
        let traffic = &mut self.traffic;
        let outcome = catch_unwind(AssertUnwindSafe(|| traffic(name, request)));
        let failed = |_| Outcome::Refused("the device's program has failed".to_owned());
        Some(bounded(outcome.unwrap_or_else(failed)))
    }

    fn event(&mut self, _device: u32, event: Event) {
        let mut table = lock(&self.table);
        let status = &mut table.status;
        match event {
            Event::Registered { took, answer, .. } => {
                status.registrations += 1;
                status.took.add(took);
                status.answers.add(answer);
            }
            Event::Failed { .. } => status.failures += 1,
            Event::Lost { .. } => status.losses += 1,
            Event::HandedOver { .. } => status.handed_over += 1,
            Event::HandOverFailed { .. } => status.hand_overs_failed += 1,
            Event::Odd { controller, text } => log::debug!("{controller} is not heeded: {text}"),
            Event::Silent { .. } | Event::Generation(_) | Event::Ended { .. } => {}
        }
    }

    fn changed(&mut self, device: u32, machine: &Machine) {
        let mut table = lock(&self.table);
        let registered = machine.registered();
        let index = registered.and_then(|(controller, _)| table.index(controller));
        if let Some(entry) = table.devices.get_mut(device as usize) {
            let seq = registered.map_or(0, |(_, seq)| seq);
            *entry = Entry { seq, state: machine.state(), controller: index };
        }
    }
}

impl Table {
    fn index(&mut self, controller: &ControllerId) -> Option<u16> {
        let found = self.controllers.iter().position(|known| known == controller);
        let index = found.unwrap_or(self.controllers.len());
        if found.is_none() && index < CONTROLLERS_MAX {
            self.controllers.push(controller.clone());
        }
        u16::try_from(index).ok().filter(|_| index < CONTROLLERS_MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
