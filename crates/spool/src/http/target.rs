//! A server that speaks HTTP, as a server of a pair.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::codec::BODY_MAX;
use super::headers::{EPOCH, PAIR, SERVER, SWITCH};
use super::hook::{self, Hook, Occasion};
use super::{Promise, Runtime};
use crate::target::{Call, CallFailed, CallResult, Class, Grant, Reply, Report, Stamp, Target};

mod call;

/// What of a health response is read, so that its connection can be used again.
const HEALTH_MAX: usize = 64 << 10;
/// A connection of which nothing is heard is asked whether it lives after so long, and every so
/// often then; dead after three times without an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What an [`HttpTarget`] needs to know.
#[derive(Debug, Clone)]
pub struct HttpTargetConfig {
    /// The pair it is of: for hooks and logs.
    pub pair: String,
    /// Its name: for hooks and logs.
    pub name: String,
    /// `http://host:port` or `http://host:port/prefix`: stands before each path.
    pub base: String,
    /// Path of a health check, below the base: only a 2xx is good. `None`: `/`, and all but a 5xx
    /// is good.
    pub health: Option<String>,
    /// What the service promises: [`Class::Ledger`] if it keeps `Idempotency-Key` with the effect,
    /// [`Class::Idempotent`] if nothing but PUT, DELETE and their like comes through, else
    /// [`Class::Opaque`]. Default: `Opaque`, since a POST done twice may be two effects.
    pub class: Class,
    /// Makes it the main server; `grant` says yes only if this worked.
    pub promote: Option<Hook>,
    /// Stops it by force.
    pub fence: Option<Hook>,
    /// Makes it stop working as the main server, after its last request.
    pub release: Option<Hook>,
    /// Headers for each request to it, for example to log in.
    pub headers: Vec<(String, String)>,
    /// For a connection. Default 2 s.
    pub connect_timeout: Duration,
    /// Requests under way at a time. Default 64.
    pub in_flight_max: usize,
    /// Lanes of one call that are worked on at a time. Default 16.
    pub lanes_max: usize,
    /// Bytes of an answer's body. Default [`BODY_MAX`].
    pub answer_max: usize,
    /// How long a request whose call has timed out is waited for still, before its connection is
    /// given up: [`Target::release`] is not done before. Default 60 s.
    pub linger: Duration,
}

impl HttpTargetConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(pair: &str, name: &str, base: &str) -> Self {
        Self {
            pair: pair.to_owned(),
            name: name.to_owned(),
            base: base.to_owned(),
            health: None,
            class: Class::Opaque,
            promote: None,
            fence: None,
            release: None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(2),
            in_flight_max: 64,
            lanes_max: 16,
            answer_max: BODY_MAX,
            linger: Duration::from_secs(60),
        }
    }
}

/// A server that speaks HTTP/1.1.
///
/// It knows no locks of its own: this adapter keeps count of what it has granted, lets no request
/// pass under another epoch, and runs hooks. Each request says its epoch in `Eversock-Epoch`; a
/// service that keeps the highest and answers a lower one with any status and the header
/// `Eversock-Fenced: <highest>` is safe even from a front that was cut off.
///
/// An item whose connection was refused has surely had no effect; one whose answer was lost has its
/// whole call end with [`CallFailed::Lost`], since an item has no result for that: a front sends
/// items for an [`Class::Opaque`] server one by one. What responses mean: [`judge`](super::judge).
pub struct HttpTarget {
    shared: Arc<Shared>,
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget")
            .field("pair", &self.shared.config.pair)
            .field("name", &self.shared.config.name)
            .field("base", &self.shared.config.base)
            .finish_non_exhaustive()
    }
}

/// Where the service is.
struct Base {
    authority: Authority,
    /// Without a slash at its end.
    prefix: String,
}

/// What this adapter knows of the lock.
#[derive(Debug, Default)]
struct Lock {
    granted: Option<u64>,
    seen: u64,
    /// The highest epoch that was given back or ended by force: never granted again.
    ended: u64,
}

struct Shared {
    config: HttpTargetConfig,
    base: Base,
    headers: HeaderMap,
    client: Client<HttpConnector, Full<Bytes>>,
    handle: Handle,
    places: Arc<Semaphore>,
    lock: Mutex<Lock>,
    /// Hooks that give and take the lock run one after the other.
    turn: tokio::sync::Mutex<()>,
    under_way: watch::Sender<usize>,
    closed: watch::Sender<bool>,
    run: u64,
    began: Instant,
}

/// Requests of one call: as long as it lives, the server may be working on them.
struct Flight(Arc<Shared>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

impl HttpTarget {
    /// Makes it ready; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with what is wrong with the configuration; no randomness.
    pub fn start(config: HttpTargetConfig, runtime: &Runtime) -> io::Result<Arc<Self>> {
        let base = Base::parse(&config.base).map_err(invalid)?;
        let health = config.health.as_deref().unwrap_or("/");
        if !health.starts_with('/') {
            return Err(invalid(format!("the health path {health:?} does not begin with /")));
        }
        base.uri(health).map_err(invalid)?;
        for hook in [&config.promote, &config.fence, &config.release].into_iter().flatten() {
            check_hook(hook).map_err(invalid)?;
        }
        if config.in_flight_max == 0 || config.lanes_max == 0 {
            return Err(invalid("in_flight_max and lanes_max are at least 1".to_owned()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
            let (Ok(name), Ok(value)) = parsed else {
                return Err(invalid(format!("{name:?} with its value is no valid header")));
            };
            headers.append(name, value);
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEP_ALIVE));
        connector.set_keepalive_interval(Some(KEEP_ALIVE));
        connector.set_keepalive_retries(Some(3));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(config.in_flight_max)
            .build(connector);
        let shared = Shared {
            base,
            headers,
            client,
            handle: runtime.handle(),
            places: Arc::new(Semaphore::new(config.in_flight_max.min(Semaphore::MAX_PERMITS))),
            lock: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            under_way: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            run: crate::RequestId::random()?.0 as u64,
            began: Instant::now(),
            config,
        };
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn check_hook(hook: &Hook) -> Result<(), String> {
    match hook {
        Hook::Command { argv, .. } if argv.is_empty() => Err("a hook names no program".to_owned()),
        Hook::Command { .. } => Ok(()),
        Hook::Post { url, .. } => Base::parse(url).map(drop),
    }
}

impl Base {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no http://host:port with or without a path behind it");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        if uri.scheme() != Some(&Scheme::HTTP) || uri.query().is_some() {
            return Err(format!("{}; for TLS put a proxy that speaks it between", wrong()));
        }
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(wrong)?.clone();
        Ok(Self { authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    fn uri(&self, target: &str) -> Result<Uri, String> {
        let path = format!("{}{target}", self.prefix);
        let path: PathAndQuery =
            path.parse().map_err(|_| format!("{path:?} is no path on a server"))?;
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|error| error.to_string())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Counts a call as under way, if the lock allows it: both at once, so that a release that has
    /// taken the lock away finds every call that got past it.
    fn begin(self: &Arc<Self>, epoch: u64) -> Result<Flight, CallFailed> {
        let lock = self.lock();
        if lock.granted != Some(epoch) {
            return Err(CallFailed::Fenced { asked: epoch, seen: lock.seen });
        }
        self.under_way.send_modify(|count| *count += 1);
        Ok(Flight(Arc::clone(self)))
    }

    fn occasion(&self, epoch: u64) -> Occasion {
        let (pair, server) = (self.config.pair.clone(), self.config.name.clone());
        Occasion { pair, server, epoch }
    }

    /// Runs a hook. `true`: it worked.
    async fn run_hook(&self, hook: &Hook, epoch: u64) -> bool {
        let occasion = self.occasion(epoch);
        match hook.clone() {
            Hook::Command { argv, timeout } => {
                let run = move || hook::run(&argv, timeout, &occasion);
                self.handle.spawn_blocking(run).await.unwrap_or(false)
            }
            Hook::Post { url, timeout: patience } => {
                let posted = timeout(patience, self.post(&url, &occasion)).await;
                let done = posted.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")));
                if let Err(what) = &done {
                    log::error!("the hook {url} of {} failed: {what}", self.config.name);
                }
                done.is_ok()
            }
        }
    }

    async fn post(&self, url: &str, occasion: &Occasion) -> Result<(), String> {
        let mut request = Request::post(url);
        for (name, value) in [(PAIR, &occasion.pair), (SERVER, &occasion.server)] {
            request = request.header(name, value.as_str());
        }
        let request = request.header(EPOCH, occasion.epoch).body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| call::chain(&error))?;
        let status = response.status();
        // To its end: a hook that is still at it has not yet worked.
        Limited::new(response.into_body(), HEALTH_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        if status.is_success() { Ok(()) } else { Err(format!("it said {status}")) }
    }

    /// Gives the lock, if the epoch is one that may have it.
    async fn take_lock(&self, epoch: u64) -> bool {
        let _turn = self.turn.lock().await;
        {
            let mut lock = self.lock();
            if lock.granted == Some(epoch) {
                return true;
            }
            if epoch < lock.seen || epoch <= lock.ended {
                return false;
            }
            lock.seen = epoch;
            if lock.granted.is_some_and(|granted| granted + 1 == epoch) {
                // It is main already, and no other was since: the new epoch only bars what is late.
                lock.granted = Some(epoch);
                return true;
            }
            lock.granted = None;
        }
        let worked = match &self.config.promote {
            Some(hook) => self.run_hook(hook, epoch).await,
            None => true,
        };
        let mut lock = self.lock();
        // Somebody may have fenced it meanwhile.
        let worked = worked && epoch > lock.ended && !self.is_closed();
        if worked {
            lock.granted = Some(epoch);
        }
        worked
    }

    /// Takes the lock back: from now on nothing passes.
    fn end_epoch(&self, epoch: u64) {
        let mut lock = self.lock();
        lock.ended = lock.ended.max(epoch);
        lock.seen = lock.seen.max(epoch);
        if lock.granted.is_some_and(|granted| granted <= epoch) {
            lock.granted = None;
        }
    }

    async fn give_back(&self, epoch: u64) -> bool {
        self.end_epoch(epoch);
        // An error would mean that the sender is gone, which `self` holds.
        let _ = self.under_way.subscribe().wait_for(|&count| count == 0).await;
        let _turn = self.turn.lock().await;
        // Asked too late: what the hook would take away is the next epoch's.
        if self.lock().granted.is_some_and(|granted| granted > epoch) {
            return true;
        }
        match &self.config.release {
            Some(hook) => self.run_hook(hook, epoch).await,
            None => true,
        }
    }

    async fn ask_health(&self) -> Option<Report> {
        let path = self.config.health.as_deref();
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.base.uri(path.unwrap_or("/")).ok()?;
        *request.headers_mut() = self.headers.clone();
        let response = self.client.request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        // A health page that is endless is one all the same.
        let _ = Limited::new(body, HEALTH_MAX).collect().await;
        let ready = match path {
            Some(_) => parts.status.is_success(),
            None => !parts.status.is_server_error(),
        };
        let wants_switch = parts.headers.get(SWITCH).is_some_and(|value| value == "1");
        let (holds, seen) = {
            let lock = self.lock();
            (lock.granted.filter(|_| ready), lock.seen)
        };
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let stamp = Stamp { run: self.run, at_us };
        Some(Report { ready, holds, seen, wants_switch, stamp })
    }
}

impl Target for HttpTarget {
    fn class(&self) -> Class {
        self.shared.config.class
    }

    fn call(&self, call: Call, reply: Reply<CallResult>) {
        let shared = Arc::clone(&self.shared);
        if shared.is_closed() {
            return reply(Err(CallFailed::Unreachable("it was closed".to_owned())));
        }
        match shared.begin(call.epoch) {
            Err(fenced) => reply(Err(fenced)),
            Ok(flight) => {
                let lost = CallFailed::Lost("its adapter was closed".to_owned());
                let promise = Promise::new(reply, Err(lost));
                let handle = shared.handle.clone();
                handle.spawn(async move {
                    let result = call::run(&shared, call, flight).await;
                    promise.keep(result);
                });
            }
        }
    }

    fn probe(&self, patience: Duration, reply: Reply<Option<Report>>) {
        let (shared, promise) = (Arc::clone(&self.shared), Promise::new(reply, None));
        self.shared.handle.spawn(async move {
            if shared.is_closed() {
                return;
            }
            let report = timeout(patience, shared.ask_health()).await;
            promise.keep(report.ok().flatten());
        });
    }

    fn grant(&self, grant: Grant, reply: Reply<bool>) {
        let (shared, promise) = (Arc::clone(&self.shared), Promise::new(reply, false));
        self.shared.handle.spawn(async move {
            if !shared.is_closed() {
                promise.keep(shared.take_lock(grant.epoch).await);
            }
        });
    }

    fn release(&self, epoch: u64, patience: Duration, reply: Reply<bool>) {
        let (shared, promise) = (Arc::clone(&self.shared), Promise::new(reply, false));
        self.shared.handle.spawn(async move {
            let given_back = timeout(patience, shared.give_back(epoch)).await;
            promise.keep(given_back.unwrap_or(false));
        });
    }

    fn fence(&self, reply: Reply<bool>) {
        let (shared, promise) = (Arc::clone(&self.shared), Promise::new(reply, false));
        self.shared.handle.spawn(async move {
            let Some(hook) = &shared.config.fence else { return };
            let epoch = shared.lock().seen;
            let fenced = shared.run_hook(hook, epoch).await;
            if fenced {
                shared.end_epoch(epoch);
            }
            promise.keep(fenced);
        });
    }

    fn close(&self) {
        self.shared.closed.send_replace(true);
    }
}

impl Drop for HttpTarget {
    fn drop(&mut self) {
        self.close();
    }
}
