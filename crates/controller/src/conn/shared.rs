//! What handles and the reactor's thread have in common.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eversock_engine::{PublicKey, posix};
use eversock_socket::{VirtualListener, VirtualStream};
use rustix::event::{EventfdFlags, eventfd};

use super::dial::Pool;
use super::{ConnId, Lane, PARTIAL_MAX, QUEUE_MAX};
use crate::limits::MESSAGE_MAX;
use crate::wire::HEADER_BYTES;

/// A lock whose holders leave it whole even when they panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers of connections, so that two reactors of a process never have the same.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_conn() -> ConnId {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the reactor's thread is to do.
pub(super) enum Order {
    Listen {
        listener: VirtualListener,
        token: u64,
        connections_max: usize,
    },
    Dialled {
        token: u64,
        result: io::Result<VirtualStream>,
    },
    Send {
        conn: ConnId,
        lane: Lane,
        frame: Vec<u8>,
    },
    /// Whether it is held has changed.
    Look {
        conn: ConnId,
    },
    Close {
        conn: ConnId,
    },
    /// Ends it at once.
    Reset {
        conn: ConnId,
        why: &'static str,
    },
}

/// One connection as all threads see it.
pub(super) struct Gauge {
    pub(super) stream: VirtualStream,
    queued: AtomicUsize,
    queue_max: AtomicUsize,
    is_greeted: AtomicBool,
    is_held: AtomicBool,
    is_closing: AtomicBool,
    is_spared: AtomicBool,
}

impl Gauge {
    pub(super) fn new(stream: VirtualStream) -> Self {
        Self {
            stream,
            queued: AtomicUsize::new(0),
            queue_max: AtomicUsize::new(QUEUE_MAX),
            is_greeted: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            is_spared: AtomicBool::new(false),
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_queue_max(&self, bytes: usize) {
        self.queue_max.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.is_greeted.load(Ordering::Relaxed)
    }

    pub(super) fn set_greeted(&self) {
        self.is_greeted.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_held(&self, on: bool) {
        self.is_held.store(on, Ordering::Relaxed);
    }

    pub(super) fn set_closing(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_spared(&self) -> bool {
        self.is_spared.load(Ordering::Relaxed)
    }

    pub(super) fn set_spared(&self) {
        self.is_spared.store(true, Ordering::Relaxed);
    }

    /// Whether messages are to be read.
    pub(super) fn reads(&self) -> bool {
        !self.is_held.load(Ordering::Relaxed) && !self.is_closing.load(Ordering::Relaxed)
    }

    /// Also of a session that is over, until that is read from it.
    pub(super) fn is_cut(&self) -> bool {
        posix::link(self.stream.as_raw_fd()).is_ok_and(|link| !link.attached)
    }

    /// The static key that the peer has proven to have.
    pub(super) fn peer_key(&self) -> Option<PublicKey> {
        posix::link(self.stream.as_raw_fd()).ok()?.key
    }
}

/// See the module.
pub(super) struct Shared {
    name: String,
    bell: OwnedFd,
    partial_max: AtomicUsize,
    state: Mutex<State>,
    pub(super) pool: Mutex<Pool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    orders: Vec<Order>,
    gauges: HashMap<ConnId, Arc<Gauge>>,
    /// The thread waits for events, and hears the bell only.
    sleeps: bool,
    /// The bell was rung since.
    rung: bool,
    woken: bool,
    stopping: bool,
    /// The thread takes no orders any more.
    ended: bool,
    failure: Option<String>,
}

impl Shared {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            partial_max: AtomicUsize::new(PARTIAL_MAX),
            state: Mutex::default(),
            pool: Mutex::default(),
        })
    }

    pub(super) fn partial_max(&self) -> usize {
        self.partial_max.load(Ordering::Relaxed)
    }

    pub(super) fn set_partial_max(&self, bytes: usize) {
        self.partial_max.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn gauge(&self, conn: ConnId) -> Option<Arc<Gauge>> {
        lock(&self.state).gauges.get(&conn).cloned()
    }

    pub(super) fn add(&self, conn: ConnId, gauge: &Arc<Gauge>) {
        lock(&self.state).gauges.insert(conn, Arc::clone(gauge));
    }

    pub(super) fn remove(&self, conn: ConnId) {
        let gone = lock(&self.state).gauges.remove(&conn);
        // Closing a stream is not done under the lock.
        drop(gone);
    }

    pub(super) fn order(&self, order: Order) {
        let mut state = lock(&self.state);
        if state.ended {
            drop(state);
            return drop(order);
        }
        state.orders.push(order);
        self.ring(state);
    }

    pub(super) fn send(&self, conn: ConnId, lane: Lane, frame: Vec<u8>) {
        let mut state = lock(&self.state);
        let Some(gauge) = state.gauges.get(&conn) else { return };
        if gauge.is_closing.load(Ordering::Relaxed) {
            return;
        }
        let bytes = frame.len();
        let waits = gauge.queued.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let reset = if bytes > MESSAGE_MAX + HEADER_BYTES {
            Some("a message for the peer is longer than any may be")
        } else if waits > gauge.queue_max.load(Ordering::Relaxed) {
            Some("the peer does not read what is sent to it")
        } else {
            None
        };
        if let Some(why) = reset {
            gauge.written(bytes);
            gauge.set_closing();
            state.orders.push(Order::Reset { conn, why });
        } else {
            state.orders.push(Order::Send { conn, lane, frame });
        }
        self.ring(state);
    }

    pub(super) fn wake(&self) {
        let mut state = lock(&self.state);
        state.woken = true;
        self.ring(state);
    }

    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopping = true;
        self.ring(state);
    }

    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.state).stopping
    }

    fn ring(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.sleeps) {
            state.rung = true;
            // Under the lock: a bell that is rung later would wake the next sleep for nothing.
            if let Err(error) = rustix::io::write(&self.bell, &1u64.to_ne_bytes()) {
                log::debug!("the bell of {} rings already: {error}", self.name);
            }
        }
    }

    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Takes what there is to do, on the reactor's thread.
    pub(super) fn take(&self, orders: &mut Vec<Order>) {
        let mut state = lock(&self.state);
        state.woken = false;
        std::mem::swap(&mut state.orders, orders);
    }

    /// Whether the reactor's thread may sleep; from here on until [`Self::awake`] the bell is rung.
    pub(super) fn may_sleep(&self, was_stopping: bool) -> bool {
        let mut state = lock(&self.state);
        let idle = state.orders.is_empty() && !state.woken && state.stopping == was_stopping;
        state.sleeps = idle;
        idle
    }

    pub(super) fn awake(&self) {
        let was_rung = {
            let mut state = lock(&self.state);
            state.sleeps = false;
            std::mem::take(&mut state.rung)
        };
        if was_rung {
            let _empty = rustix::io::read(&self.bell, &mut [0; 8]);
        }
    }

    /// No more orders are taken, and all connections are let go.
    pub(super) fn ended(&self, failure: Option<String>) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.failure = failure;
        let orders = std::mem::take(&mut state.orders);
        let gauges = std::mem::take(&mut state.gauges);
        drop(state);
        drop((orders, gauges));
    }

    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.state).failure.clone()
    }
}
