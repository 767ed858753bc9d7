//! Requests over virtual sockets: a [`Router`] on a thread of its own.

mod host;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use eversock_engine::Config;

use self::host::Host;
use super::client::RouterConfig;
use super::routes::Routes;
use crate::conn::{Reactor, ReactorThread};
use crate::limits::DEADLINE_MAX;
use crate::model::{ControllerId, DeviceId};
use crate::wire::client::Outcome;

/// How much longer than the deadline [`ThirdParty::request_and_wait`] waits, should its thread not
/// get to it.
const WAIT_MORE: Duration = Duration::from_secs(10);

/// Told what came of a request, once. It is called on the thread of the [`ThirdParty`], or on the
/// caller's if nothing can be done any more, and must not block.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// How a third party works.
#[derive(Debug)]
pub struct ThirdPartyConfig {
    /// Whom to ask for which device.
    pub routes: Routes,
    /// The rest of what is decided without I/O.
    pub router: RouterConfig,
    /// Connections to controllers, but for those below. Whoever has all keys of controllers in it
    /// can go where a controller sends it.
    pub socket: Config,
    /// Connections to some of them: each controller has a key of its own.
    pub sockets: HashMap<ControllerId, Config>,
}

/// A request as it was handed in.
struct Wish {
    device: DeviceId,
    deadline: Duration,
    payload: Vec<u8>,
    is_idempotent: bool,
    since: Instant,
    reply: Reply,
}

/// What other threads hand in.
#[derive(Default)]
struct Inbox {
    wishes: VecDeque<Wish>,
    routes: Option<Routes>,
    is_over: bool,
}

/// Sends requests to devices, wherever they are registered. All methods can be called from any
/// thread. Dropping it is [`ThirdParty::close`].
pub struct ThirdParty {
    inbox: Arc<Mutex<Inbox>>,
    requests_max: usize,
    reactor: Reactor,
    // Joined when it is dropped.
    _thread: ReactorThread,
}

impl fmt::Debug for ThirdParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThirdParty").finish_non_exhaustive()
    }
}

impl ThirdParty {
    /// Starts its thread. Controllers are connected to when there are requests for them.
    ///
    /// # Errors
    ///
    /// The system has no descriptors or threads left.
    pub fn start(config: ThirdPartyConfig) -> io::Result<Self> {
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let (own, requests_max) = (Arc::clone(&inbox), config.router.requests_max);
        let (reactor, thread) =
            Reactor::start("third-party", move |reactor| Host::new(config, reactor, own))?;
        Ok(Self { inbox, requests_max, reactor, _thread: thread })
    }

    /// Sends a request that must not be done twice: what may have been done is not tried again.
    /// `reply` is called until the deadline, give or take a few milliseconds; it is at most
    /// [`DEADLINE_MAX`]. Does not block.
    pub fn request(&self, device: DeviceId, deadline: Duration, payload: Vec<u8>, reply: Reply) {
        self.hand_in(device, deadline, payload, false, reply);
    }

    /// Sends a request that does no harm if the device does it twice: it is tried again elsewhere
    /// if nobody knows whether it was done. The rest is as with [`Self::request`].
    pub fn request_idempotent(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
        reply: Reply,
    ) {
        self.hand_in(device, deadline, payload, true, reply);
    }

    /// [`Self::request`], and waits for what comes of it. Blocks for as long as the deadline says;
    /// must not be called by a [`Reply`].
    #[must_use]
    pub fn request_and_wait(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
    ) -> Outcome {
        let (tell, told) = bounded(1);
        let reply = move |outcome| _ = tell.try_send(outcome);
        self.request(device, deadline, payload, Box::new(reply));
        told.recv_timeout(deadline.min(DEADLINE_MAX) + WAIT_MORE).unwrap_or(Outcome::TimedOut)
    }

    /// Takes other routes soon. What was learnt of devices is learnt anew.
    pub fn set_routes(&self, routes: Routes) {
        lock(&self.inbox).routes = Some(routes);
        self.reactor.wake();
    }

    /// Answers all requests that are under way, with [`Outcome::TimedOut`] if they were sent, and
    /// ends all connections. Blocks a few seconds at most, or as long as the `connect_timeout` of
    /// what is being dialled.
    pub fn close(self) {}

    fn hand_in(
        &self,
        device: DeviceId,
        deadline: Duration,
        payload: Vec<u8>,
        is_idempotent: bool,
        reply: Reply,
    ) {
        let since = Instant::now();
        let wish = Wish { device, deadline, payload, is_idempotent, since, reply };
        let mut inbox = lock(&self.inbox);
        let outcome = if inbox.is_over {
            Outcome::Unreachable("this third party has ended: start a new one".to_owned())
        } else if inbox.wishes.len() >= self.requests_max {
            Outcome::Busy { after: Duration::from_millis(100) }
        } else {
            inbox.wishes.push_back(wish);
            drop(inbox);
            self.reactor.wake();
            return;
        };
        drop(inbox);
        (wish.reply)(outcome);
    }
}

/// Nothing panics with the lock held, so what is in it is whole.
fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}
