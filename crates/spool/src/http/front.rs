//! The front: listens, keeps to its limits, ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::header::HeaderName;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::codec::{BODY_MAX, HEADER_BYTES_MAX, TARGET_MAX};
use super::headers::PER_ATTEMPT;
use super::patient::Patient;
use super::serve::{Path, answer};
use super::{Runtime, codec};
use crate::limits::{DEADLINE_MAX, PAIR_NAME_MAX};
use crate::submit::Submit;

/// How long the front waits after the system has refused it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Which pair gets which paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whole segments: `/a` is for `/a` and `/a/b`, not for `/ab`. The longest that fits counts.
    pub path_prefix: String,
    /// Name of the pair.
    pub pair: String,
    /// GET and HEAD of these and of what is below them are searches: they have no key of their own.
    pub search_prefixes: Vec<String>,
    /// POST on a search prefix is a search too, not a write.
    pub search_post: bool,
}

impl Route {
    /// Without searches.
    #[must_use]
    pub fn new(path_prefix: &str, pair: &str) -> Self {
        Self {
            path_prefix: path_prefix.to_owned(),
            pair: pair.to_owned(),
            search_prefixes: Vec::new(),
            search_post: false,
        }
    }
}

/// What an [`HttpFront`] needs to know.
#[derive(Debug, Clone)]
pub struct HttpFrontConfig {
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// At least one.
    pub routes: Vec<Route>,
    /// Bytes of a request's body; at most [`codec::BODY_MAX`]. Default: that.
    pub body_max: usize,
    /// Bytes of all bodies that are in memory at a time; a request waits for its share as long as
    /// its body may take. At least `body_max`. Default 256 MiB.
    pub bodies_max: usize,
    /// Of each request. Default 30 s.
    pub deadline: Duration,
    /// Connections at a time; more wait in the system's queue. Default 1024.
    pub connections_max: usize,
    /// For what is spooled: 200 to 299. Default 202.
    pub spooled_status: u16,
    /// For the headers of a request, and between two requests of a connection. Default 15 s.
    pub header_timeout: Duration,
    /// For the body of a request. Default 30 s.
    pub body_timeout: Duration,
    /// For a client that does not read its answer. Default 30 s.
    pub write_timeout: Duration,
    /// The service gets the client's `Host`, not the one of its own address. Default no.
    pub keep_host: bool,
    /// Headers that do not go to the service. Default: [`PER_ATTEMPT`].
    pub dropped_headers: Vec<String>,
    /// Default 2.
    pub threads: usize,
}

impl HttpFrontConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, routes: Vec<Route>) -> Self {
        Self {
            listen,
            routes,
            body_max: BODY_MAX,
            bodies_max: 256 << 20,
            deadline: Duration::from_secs(30),
            connections_max: 1024,
            spooled_status: 202,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            keep_host: false,
            dropped_headers: PER_ATTEMPT.iter().map(|&name| name.to_owned()).collect(),
            threads: 2,
        }
    }

    /// What is wrong with it, if something is.
    fn check(&self) -> Result<(), String> {
        if self.routes.is_empty() {
            return Err("an HTTP front needs a route: name a path_prefix and its pair".into());
        }
        for route in &self.routes {
            let name_fits = (1..=PAIR_NAME_MAX).contains(&route.pair.len())
                && route.pair.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !name_fits {
                return Err(format!(
                    "the pair {:?} of the route {} has no valid name: letters, digits, - and _, \
                     at most {PAIR_NAME_MAX}",
                    route.pair, route.path_prefix
                ));
            }
            for prefix in std::iter::once(&route.path_prefix).chain(&route.search_prefixes) {
                if Path::of(prefix).is_err() {
                    return Err(format!("{prefix:?} is no path: begin it with /"));
                }
            }
        }
        if self.body_max > BODY_MAX {
            return Err(format!("body_max is {}, and at most {BODY_MAX} fit", self.body_max));
        }
        if self.bodies_max < self.body_max {
            return Err("bodies_max is less than body_max: raise it".into());
        }
        if !(200..=299).contains(&self.spooled_status) {
            return Err(format!(
                "spooled_status is {}: take one of 200 to 299",
                self.spooled_status
            ));
        }
        if self.deadline.is_zero() || self.deadline > DEADLINE_MAX {
            return Err(format!("deadline is not between 0 and {} s", DEADLINE_MAX.as_secs()));
        }
        if self.connections_max == 0 {
            return Err("connections_max is 0: nobody could connect".into());
        }
        Ok(())
    }
}

/// What every request needs.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: HttpFrontConfig,
    pub(super) dropped: Vec<HeaderName>,
    pub(super) submit: Arc<dyn Submit>,
    /// Bytes of bodies that may come.
    pub(super) bodies: Arc<Semaphore>,
    places: Arc<Semaphore>,
    connections: AtomicUsize,
    closing: watch::Sender<bool>,
}

/// Accepts HTTP/1.1 and hands it to [`Submit`]; on threads of its own. Dropped, it ends at once.
///
/// What a request is: PUT, POST and PATCH are writes, DELETE deletes, GET and HEAD read or, on a
/// search prefix, search; the key is the path without its query, with percent signs written in one
/// way (`%7e` is `~`, `%c3` is `%C3`). A path with `.` or `..` in it is refused, since it is the
/// same as another one. The id comes from `Idempotency-Key`, with method and path, or from
/// `Eversock-Id`; else it is random, and a retry is a new request.
#[derive(Debug)]
pub struct HttpFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl HttpFront {
    /// Listens, and accepts from now on.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with what is wrong with the configuration; whatever the system says when it
    /// gives no port or no threads.
    pub fn start(config: HttpFrontConfig, submit: Arc<dyn Submit>) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        config.check().map_err(wrong)?;
        let name = |text: &String| {
            HeaderName::from_bytes(text.as_bytes())
                .map_err(|_| wrong(format!("{text:?} in dropped_headers is no header's name")))
        };
        let dropped = config.dropped_headers.iter().map(name).collect::<io::Result<_>>()?;
        let runtime = Runtime::start("evs-http", config.threads)?;
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let handle = runtime.handle();
        let listener = {
            let _inside = handle.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared {
            dropped,
            submit,
            bodies: Arc::new(Semaphore::new(shares(config.bodies_max) as usize)),
            places: Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS))),
            connections: AtomicUsize::new(0),
            closing: watch::Sender::new(false),
            config,
        });
        handle.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections right now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Accepts nothing more and lets the requests under way end, for at most `timeout`. `true`: all
    /// have. Blocks; not for threads of the front itself.
    #[must_use]
    pub fn close(self, timeout: Duration) -> bool {
        self.shared.closing.send_replace(true);
        let until = Instant::now() + timeout;
        while self.connections() > 0 {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Shares of [`Shared::bodies`] that so many bytes need.
pub(super) fn shares(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Gives `None` if the front ends before `future` does.
async fn unless_closing<F: Future>(
    closing: &mut watch::Receiver<bool>,
    future: F,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut closing = pin!(closing.wait_for(|&closing| closing));
    poll_fn(|cx| {
        if closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    loop {
        // The place first: who finds none waits in the system's queue.
        let place = Arc::clone(&shared.places).acquire_owned();
        let Some(Ok(place)) = unless_closing(&mut closing, place).await else { return };
        match unless_closing(&mut closing, listener.accept()).await {
            None => return,
            Some(Ok((stream, _))) => {
                shared.connections.fetch_add(1, Ordering::AcqRel);
                let place = Place { shared: Arc::clone(&shared), _permit: place };
                tokio::spawn(connection(stream, place));
            }
            Some(Err(error)) => {
                log::warn!("the HTTP front {} accepts nothing: {error}", shared.config.listen);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection's place among those that may be open.
struct Place {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves one connection until either side ends it.
async fn connection(stream: TcpStream, place: Place) {
    let shared = &place.shared;
    // Answers are written whole; waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let mut closing = shared.closing.subscribe();
    let mut closing = pin!(closing.wait_for(|&closing| closing));
    let config = &shared.config;
    let io = TokioIo::new(Patient::new(stream, config.write_timeout));
    let service = service_fn(|request| answer(Arc::clone(shared), request));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(codec::HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX + 2 * TARGET_MAX);
    let mut connection = pin!(server.serve_connection(io, service));
    let mut told = false;
    let end = poll_fn(|cx| {
        if !told && closing.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = end.await {
        log::debug!("a connection of the HTTP front {} has ended: {error}", config.listen);
    }
}
