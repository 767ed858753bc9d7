//! What the threads of a controller share: the ways to each other, and what anybody may look at.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::admission::{Admission, Appointments, spread};
use super::environment::{self, Applied, Environment};
use super::queue::{Full, Queue, Room, Work};
use super::status::PartnerStatus;
use super::worker::{Gauges, Outlet};
use super::{NodeConfig, NodeEvent, SHARED};
use crate::conn::Reactor;
use crate::model::{ControllerId, DeviceId, Dispatch, DispatchMode, Record};
use crate::shard::Input;
use crate::shard::input::ConnId;
use crate::store::Position;
use crate::wire::client::{ClientMessage, Outcome};
use crate::wire::frame;
use crate::wire::peer::{Lane, PeerMessage};

/// Events that nobody has taken.
pub(super) const EVENTS_MAX: usize = 4096;

/// When a request comes again that has found a partition full, and nobody waits there.
const REQUEST_AFTER: Duration = Duration::from_millis(200);

/// Who is told what came of a request.
pub(super) type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// What other threads have for the front.
pub(super) enum Note {
    /// Where a partition stands with a partner; `None`: it has nothing to exchange now.
    Standpoint { conn: ConnId, index: usize, standpoint: Option<(Position, Option<Position>)> },
    /// A partition has begun anew.
    Relink(ControllerId),
    /// A partner's link may be read again, as far as this partition goes.
    Release { partition: ControllerId, partner: ControllerId },
    /// The operator has set something.
    Mode,
    /// Other parameters are in use, or refused.
    Parameters,
}

/// A partition, as other threads see it.
pub(super) struct Partition {
    pub(super) name: ControllerId,
    pub(super) queue: Arc<Queue>,
    pub(super) gauges: Arc<Gauges>,
    /// When those come again who found it full.
    pub(super) full: Mutex<Admission>,
}

/// See the module.
pub(super) struct Hub {
    pub(super) config: NodeConfig,
    /// All partitions; [`SHARED`] is the last one.
    pub(super) partitions: Vec<Partition>,
    pub(super) reactor: OnceLock<Reactor>,
    pub(super) dispatch: RwLock<Arc<Dispatch>>,
    pub(super) environment: Mutex<Environment>,
    /// The generation of the parameters that were kept last.
    pub(super) kept: Mutex<u64>,
    pub(super) notes: Sender<Note>,
    pub(super) events: Sender<NodeEvent>,
    pub(super) events_taken: Receiver<NodeEvent>,
    pub(super) events_lost: AtomicU64,
    pub(super) replies: Mutex<HashMap<u64, Reply>>,
    pub(super) next_reply: AtomicU64,
    /// The links, as the front has told last; since when, and their connections.
    pub(super) board: Mutex<Vec<(PartnerStatus, Instant, Option<ConnId>)>>,
    pub(super) connections: AtomicUsize,
    pub(super) retries: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) maintenance: AtomicBool,
    pub(super) paused: AtomicBool,
    pub(super) is_closed: AtomicBool,
}

/// What is done for a device here.
pub(super) struct Route {
    pub(super) index: usize,
    pub(super) mode: DispatchMode,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn index(&self, partition: &ControllerId) -> Option<usize> {
        self.partitions.iter().position(|known| known.name == *partition)
    }

    pub(super) fn shared(&self) -> &Partition {
        &self.partitions[self.partitions.len() - 1]
    }

    /// The partitions with devices.
    pub(super) fn of_devices(&self) -> &[Partition] {
        &self.partitions[..self.partitions.len() - 1]
    }

    pub(super) fn dispatch(&self) -> Arc<Dispatch> {
        Arc::clone(&self.dispatch.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn route(&self, device: &DeviceId) -> Route {
        let table = self.dispatch();
        let found = table.lookup(device);
        match self.index(&found.partition) {
            Some(index) => Route { index, mode: found.mode },
            // Tables are checked before they are taken.
            None => Route { index: 0, mode: DispatchMode::Refuse },
        }
    }

    /// Something from or for a partner, to a partition; its link is held when there is no room.
    pub(super) fn to_partition(
        &self,
        index: usize,
        partner: &ControllerId,
        conn: ConnId,
        input: Input,
    ) -> Result<Room, Full> {
        let work = Work::Link { partner: partner.clone(), conn, input };
        self.partitions[index].queue.push_partner(partner, work)
    }

    /// When a device comes again that has found a partition full; `who`: on whose account, if it
    /// is to be registered. Requests put no device off.
    pub(super) fn full_for(&self, index: usize, who: Option<&mut Appointments>) -> Duration {
        let partition = &self.partitions[index];
        let now = Instant::now();
        let rate = locked(&partition.gauges.latencies).rate(now).max(50.0);
        #[expect(clippy::cast_precision_loss, reason = "a number of inputs that wait")]
        let waiting = partition.queue.waiting_new() as f64 / rate;
        let booked = match who {
            Some(who) => locked(&partition.full).book(now, rate, who),
            None => spread(REQUEST_AFTER),
        };
        booked + spread(Duration::from_secs_f64(waiting.min(60.0)))
    }

    pub(super) fn note(&self, note: Note) {
        let _gone = self.notes.send(note);
        if let Some(reactor) = self.reactor.get() {
            reactor.wake();
        }
    }

    pub(super) fn send_client(&self, conn: ConnId, message: &ClientMessage) {
        if let Some(reactor) = self.reactor.get() {
            reactor.send(conn, Lane::Control, frame(message));
        }
    }

    pub(super) fn send_partner(&self, conn: ConnId, message: &PeerMessage) {
        if let Some(reactor) = self.reactor.get() {
            reactor.send(conn, message.lane(), frame(message));
        }
    }

    /// Tells all partitions what they are to do, after something of it has changed.
    pub(super) fn renew_settings(&self, environment: &Environment) {
        for partition in &self.partitions {
            let settings = Arc::new(environment.settings(&self.config, &partition.name));
            partition.queue.control(Work::Input(Input::Settings(settings)));
        }
    }

    /// A record with parameters stands now.
    pub(super) fn apply(&self, record: &Record) {
        let mut environment = locked(&self.environment);
        let event = match environment.apply(&self.config, record) {
            Applied::Known => return,
            Applied::Used(generation) => {
                log::info!("the parameters of generation {generation} are in use");
                self.renew_settings(&environment);
                NodeEvent::Parameters { generation }
            }
            Applied::Refused(generation, error) => {
                log::error!("the parameters of generation {generation} are refused: {error}");
                NodeEvent::ParametersRefused { generation, error }
            }
        };
        let text = environment.text().to_owned();
        drop(environment);
        if let NodeEvent::Parameters { generation } = event {
            self.keep(generation, &text);
        }
        self.announce(event);
        self.note(Note::Parameters);
    }

    /// The connections do not wait for the disk meanwhile.
    fn keep(&self, generation: u64, text: &str) {
        let mut kept = locked(&self.kept);
        let Ok(shared) = SHARED.parse() else { return };
        if generation < *kept {
            return;
        }
        *kept = generation;
        let folder = self.config.opens.folder(&shared);
        if let Err(error) = environment::keep(&folder, generation, text) {
            log::error!("the parameters that are in use cannot be kept: {error}");
        }
    }

    pub(super) fn announce(&self, event: NodeEvent) {
        if let Err(TrySendError::Full(_)) = self.events.try_send(event) {
            self.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What came of a request of this process.
    pub(super) fn reply(&self, number: u64, outcome: Outcome) {
        let reply = locked(&self.replies).remove(&number);
        if let Some(reply) = reply
            && catch_unwind(AssertUnwindSafe(|| reply(outcome))).is_err()
        {
            log::error!("a callback of a request has panicked");
        }
    }
}

impl Outlet for Hub {
    fn say(&self, conn: ConnId, message: &ClientMessage) {
        self.send_client(conn, message);
    }

    fn tell(&self, conn: ConnId, message: &PeerMessage) {
        self.send_partner(conn, message);
    }

    fn answer(&self, number: u64, outcome: Outcome) {
        self.reply(number, outcome);
    }

    fn changed(&self, record: Record) {
        self.apply(&record);
    }

    fn event(&self, event: NodeEvent) {
        self.announce(event);
    }

    fn relink(&self, partition: &ControllerId) {
        self.note(Note::Relink(partition.clone()));
    }

    fn release(&self, partition: &ControllerId, partner: &ControllerId) {
        let (partition, partner) = (partition.clone(), partner.clone());
        self.note(Note::Release { partition, partner });
    }
}
