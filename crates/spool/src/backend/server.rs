//! A backend at an address: what fronts call, under the lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use eversock_socket::VirtualListener;

use crate::backend::Backend;
use crate::backend::clock::{BootClock, Clock};
use crate::backend::lock::{GrantRefused, Lock};
use crate::backend::monitor::PairMonitor;
use crate::limits::BATCH_MAX;
use crate::serve::{self, CallReplyMessage, Handler, IncomingCall, ServeConfig, Serving};
use crate::target::{CallFailed, CallResult, Class, Grant, Report};

/// A backend behind its lock: checks epoch and lease before each call. Independent of how messages
/// come.
pub struct Guarded {
    backend: Arc<dyn Backend>,
    lock: Arc<Lock>,
    /// Someone here has asked for a switch since the lock was granted.
    asked: AtomicBool,
    monitor: Mutex<Option<PairMonitor>>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Guarded {
    /// Around a backend, which holds nothing yet.
    ///
    /// # Errors
    ///
    /// The store of its epoch cannot be opened or read.
    pub fn new(backend: Arc<dyn Backend>) -> io::Result<Arc<Self>> {
        Self::with_clock(backend, Arc::new(BootClock))
    }

    /// The same, with a clock of the caller's.
    ///
    /// # Errors
    ///
    /// The store of its epoch cannot be opened or read.
    pub fn with_clock(backend: Arc<dyn Backend>, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        let lock = Lock::new(backend.epoch_store()?, clock)?;
        let monitor = Mutex::new(None);
        Ok(Arc::new(Self { backend, lock, asked: AtomicBool::new(false), monitor }))
    }

    /// The lock.
    #[must_use]
    pub fn lock(&self) -> &Arc<Lock> {
        &self.lock
    }

    /// Lets a monitor of the other server speak for this one: while it does not hold the lock, and
    /// the other one is gone, its reports ask for a switch.
    pub fn set_monitor(&self, monitor: PairMonitor) {
        *self.monitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor);
    }

    /// Asks the front to let the other server take over, until the lock changes hands.
    pub fn ask_for_switch(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// What it promises.
    #[must_use]
    pub fn class(&self) -> Class {
        self.backend.class()
    }

    /// Does what a front asks for. Blocks as long as the backend does.
    ///
    /// # Errors
    ///
    /// See [`CallFailed`].
    pub fn execute(&self, call: &IncomingCall) -> CallResult {
        // The message layer bounds it too; direct callers do not go through that.
        if call.items.len() > BATCH_MAX {
            let what = format!("{} items in one call: {BATCH_MAX} are allowed", call.items.len());
            return Err(CallFailed::Unreachable(what));
        }
        let permit = self.lock.check(call.epoch)?;
        let work = || match call.job {
            Some(job) => self.backend.run_job(call.epoch, job, &call.items, &permit),
            None => self.backend.execute(call.epoch, &call.items, &permit),
        };
        // A backend of somebody else's must not take the whole server with it.
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(CallFailed::Lost("the backend panicked".to_owned())))?;
        if result.len() == call.items.len() {
            return Ok(result);
        }
        let (given, asked) = (result.len(), call.items.len());
        Err(CallFailed::Lost(format!("the backend gave {given} results for {asked} items")))
    }

    /// How the server is.
    #[must_use]
    pub fn report(&self) -> Report {
        // First: a lease that counts from a moment before the rest was looked at is no longer.
        let stamp = self.lock.stamp();
        let holds = self.lock.holds();
        let monitor = self.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        let main_is_gone = holds.is_none() && monitor.as_ref().is_some_and(PairMonitor::is_gone);
        drop(monitor);
        let asked = self.asked.load(Ordering::SeqCst);
        let wants_switch = asked || main_is_gone || self.backend.wants_switch();
        Report { ready: self.backend.ready(), holds, seen: self.lock.seen(), wants_switch, stamp }
    }

    /// Takes a grant. Blocks while the epoch is stored.
    ///
    /// # Errors
    ///
    /// Why it was refused.
    pub fn grant(&self, grant: &Grant) -> Result<(), GrantRefused> {
        let is_new = grant.epoch > self.lock.seen() || self.lock.holds() != Some(grant.epoch);
        // A grant that cannot be taken anyway must not make the backend prepare for its epoch.
        self.lock.examine(grant)?;
        self.backend.admit(grant.epoch).map_err(|why| GrantRefused::NotAble { why })?;
        self.lock.grant(grant)?;
        if is_new {
            self.asked.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Gives the lock back; see [`Lock::release`].
    #[must_use]
    pub fn release(&self, epoch: u64, timeout: Duration) -> bool {
        let released = self.lock.release(epoch, timeout);
        if released {
            self.asked.store(false, Ordering::SeqCst);
        }
        released
    }
}

impl Handler for Guarded {
    fn class(&self) -> Class {
        Self::class(self)
    }

    fn execute(&self, call: IncomingCall) -> CallReplyMessage {
        match Self::execute(self, &call) {
            Ok(results) => CallReplyMessage::Results(results),
            Err(CallFailed::Fenced { seen, .. }) => CallReplyMessage::Fenced { seen },
            Err(failed) => {
                log::error!("a call of {} items failed: {failed}", call.items.len());
                // No result for an item is no answer: the front takes them for done or not done.
                CallReplyMessage::Results(Vec::new())
            }
        }
    }

    fn report(&self) -> Report {
        Self::report(self)
    }

    fn grant(&self, grant: Grant) -> bool {
        let granted = Self::grant(self, &grant);
        if let Err(why) = &granted {
            log::warn!("a grant of epoch {} was refused: {why}", grant.epoch);
        }
        granted.is_ok()
    }

    fn release(&self, epoch: u64, timeout: Duration) -> bool {
        Self::release(self, epoch, timeout)
    }
}

/// A backend at an address, until it is dropped or closed.
#[derive(Debug)]
pub struct BackendServer {
    guarded: Arc<Guarded>,
    serving: Serving,
}

impl BackendServer {
    /// Serves the fronts that connect to this listener.
    ///
    /// # Errors
    ///
    /// The epoch cannot be read, the listener has no address, or the system has no thread.
    pub fn start(
        listener: VirtualListener,
        backend: Arc<dyn Backend>,
        config: ServeConfig,
    ) -> io::Result<Self> {
        Self::serve(listener, Guarded::new(backend)?, config)
    }

    /// Serves a backend whose lock somebody else uses as well.
    ///
    /// # Errors
    ///
    /// The listener has no address, or the system has no thread.
    pub fn serve(
        listener: VirtualListener,
        guarded: Arc<Guarded>,
        config: ServeConfig,
    ) -> io::Result<Self> {
        let handler: Arc<dyn Handler> = Arc::<Guarded>::clone(&guarded);
        let serving = serve::serve(listener, handler, config)?;
        Ok(Self { guarded, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> std::net::SocketAddr {
        self.serving.addr()
    }

    /// The backend behind its lock.
    #[must_use]
    pub fn guarded(&self) -> &Arc<Guarded> {
        &self.guarded
    }

    /// Asks the front to let the other server take over, until the lock changes hands.
    pub fn ask_for_switch(&self) {
        self.guarded.ask_for_switch();
    }

    /// Ends connections and threads; blocks until calls under way are done.
    pub fn close(&self) {
        self.serving.close();
    }
}
