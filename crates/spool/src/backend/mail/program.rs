//! A mail server as a whole: for tests, demonstrations and the command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use eversock_engine::Config;
use eversock_socket::VirtualListener;

use crate::backend::ledger::LedgerConfig;
use crate::backend::ledgered::LedgerBackend;
use crate::backend::mail::{self, Mailboxes};
use crate::backend::monitor::{MonitorConfig, PairMonitor};
use crate::backend::replica::{Pusher, ReplicaConfig, Replicated};
use crate::backend::{Backend, BackendServer, Guarded};
use crate::link::{LinkConfig, SocketTarget};
use crate::serve::{ServeConfig, Serving, serve};
use crate::target::Target;

/// A mail server.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// Where fronts connect.
    pub listen: SocketAddr,
    /// Keys and windows of the sockets to fronts.
    pub socket: Config,
    /// Where messages and index lie.
    pub directory: PathBuf,
    /// How the ledger is kept.
    pub ledger: LedgerConfig,
    /// How old a file must be that is swept at the start because no message has it.
    pub grace: Duration,
    /// Threads and queues.
    pub serve: ServeConfig,
    /// The other server, if it has storage of its own.
    pub replica: Option<MailReplica>,
    /// The other server, if this one is to ask for a switch when it misses it.
    pub watch: Option<Watch>,
}

/// The other server of the pair, with a directory of its own.
#[derive(Debug, Clone)]
pub struct MailReplica {
    /// Where the other server pushes to: nobody else may be able to connect.
    pub listen: SocketAddr,
    /// Keys and windows of the sockets of that listener.
    pub socket: Config,
    /// Where the other server listens for pushes.
    pub peer: Vec<SocketAddr>,
    /// How it is reached.
    pub link: LinkConfig,
    /// How the two keep together.
    pub config: ReplicaConfig,
}

/// The other server of the pair, to be watched.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Where it listens, for fronts or for pushes.
    pub peer: Vec<SocketAddr>,
    /// How it is reached.
    pub link: LinkConfig,
    /// How often it is asked.
    pub config: MonitorConfig,
}

/// What a log for the other server may grow to when nothing else is said: 1 GiB.
const LOG_BYTES: u64 = 1 << 30;

impl MailConfig {
    /// With defaults for the rest.
    #[must_use]
    pub fn new(listen: SocketAddr, directory: PathBuf) -> Self {
        Self {
            listen,
            socket: Config::default(),
            directory,
            ledger: LedgerConfig::default(),
            grace: Duration::from_secs(3600),
            serve: ServeConfig::default(),
            replica: None,
            watch: None,
        }
    }
}

#[derive(Debug)]
enum Storage {
    Shared(Arc<LedgerBackend<Mailboxes>>),
    Own { replicated: Arc<Replicated<Mailboxes>>, serving: Serving, _pusher: Pusher },
}

/// A mail server that runs, until it is dropped.
#[derive(Debug)]
pub struct MailServer {
    _sweeper: Sweeper,
    server: BackendServer,
    storage: Storage,
}

/// Sweeps once, beside calls, until it is done or dropped.
#[derive(Debug)]
struct Sweeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    fn start(storage: &Storage, grace: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mailboxes = storage.handle();
        let sweep = move || {
            let swept = mail::sweep(mailboxes.get(), grace, &|| stopped.load(Ordering::SeqCst));
            if let Err(error) = swept {
                log::warn!(
                    "mail: the sweep ended early, and begins anew at the next start: {error}"
                );
            }
        };
        let thread =
            std::thread::Builder::new().name("spool-mail-sweep".to_owned()).spawn(sweep)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The mailboxes, wherever they are kept.
enum Handle {
    Shared(Arc<LedgerBackend<Mailboxes>>),
    Own(Arc<Replicated<Mailboxes>>),
}

impl Handle {
    fn get(&self) -> &LedgerBackend<Mailboxes> {
        match self {
            Self::Shared(backend) => backend,
            Self::Own(replicated) => replicated.inner(),
        }
    }
}

impl Storage {
    fn handle(&self) -> Handle {
        match self {
            Self::Shared(backend) => Handle::Shared(Arc::clone(backend)),
            Self::Own { replicated, .. } => Handle::Own(Arc::clone(replicated)),
        }
    }
}

impl MailServer {
    /// Opens the directory and serves fronts; sweeps the directory meanwhile.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, or an address cannot be listened on.
    pub fn start(config: MailConfig) -> io::Result<Self> {
        let mut ledger = config.ledger;
        if config.replica.is_some() {
            ledger.log_bytes = ledger.log_bytes.or(Some(LOG_BYTES));
        }
        let backend = mail::open_unswept(&config.directory, ledger)?;
        let (guarded, storage) = match config.replica {
            None => {
                let backend = Arc::new(backend);
                let shared: Arc<dyn Backend> = Arc::<LedgerBackend<Mailboxes>>::clone(&backend);
                (Guarded::new(shared)?, Storage::Shared(backend))
            }
            Some(replica) => own_storage(backend, replica)?,
        };
        if let Some(Watch { peer, link, config }) = config.watch {
            let other: Arc<dyn Target> = SocketTarget::new(peer, link)?;
            guarded.set_monitor(PairMonitor::start(other, config)?);
        }
        let listener = VirtualListener::bind_with(config.listen, config.socket)?;
        let server = BackendServer::serve(listener, guarded, config.serve)?;
        let sweeper = Sweeper::start(&storage, config.grace)?;
        Ok(Self { _sweeper: sweeper, server, storage })
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &BackendServer {
        &self.server
    }

    /// The mailboxes.
    #[must_use]
    pub fn backend(&self) -> &LedgerBackend<Mailboxes> {
        match &self.storage {
            Storage::Shared(backend) => backend,
            Storage::Own { replicated, .. } => replicated.inner(),
        }
    }

    /// What keeps it together with the other server, and where that one is to push to, if it has
    /// storage of its own.
    #[must_use]
    pub fn replica(&self) -> Option<(&Replicated<Mailboxes>, SocketAddr)> {
        match &self.storage {
            Storage::Shared(_) => None,
            Storage::Own { replicated, serving, .. } => Some((replicated, serving.addr())),
        }
    }
}

fn own_storage(
    backend: LedgerBackend<Mailboxes>,
    replica: MailReplica,
) -> io::Result<(Arc<Guarded>, Storage)> {
    let MailReplica { listen, socket, peer, link, config } = replica;
    let replicated = Replicated::new(backend, config)?;
    let guarded = Guarded::new(Arc::<Replicated<Mailboxes>>::clone(&replicated))?;
    let handler = Arc::new(replicated.replica_handler(&guarded));
    let listener = VirtualListener::bind_with(listen, socket)?;
    // One main pushes, one call at a time.
    let serving = serve(listener, handler, ServeConfig { workers: 2, ..ServeConfig::default() })?;
    let other: Arc<dyn Target> = SocketTarget::new(peer, link)?;
    let pusher = replicated.push_to(other, &guarded)?;
    Ok((guarded, Storage::Own { replicated, serving, _pusher: pusher }))
}

/// Runs a mail server until `stop` says so or its sender is gone. `up` is told when it can be
/// reached, and where.
///
/// # Errors
///
/// As [`MailServer::start`].
pub fn run(
    config: MailConfig,
    up: impl FnOnce(&MailServer),
    stop: &Receiver<()>,
) -> io::Result<()> {
    let mail = MailServer::start(config)?;
    up(&mail);
    let _said_or_gone = stop.recv();
    mail.server.close();
    Ok(())
}
