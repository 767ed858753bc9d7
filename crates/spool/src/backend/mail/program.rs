//! A mail server as a whole: for tests, demonstrations and the command line.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use eversock_engine::Config;
use eversock_socket::VirtualListener;

use crate::backend::ledger::LedgerConfig;
use crate::backend::ledgered::LedgerBackend;
use crate::backend::mail::{self, Mailboxes};
use crate::backend::{Backend, BackendServer, Guarded};
use crate::serve::ServeConfig;

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
}

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
        }
    }
}

/// A mail server that runs, until it is dropped.
#[derive(Debug)]
pub struct MailServer {
    server: BackendServer,
    backend: Arc<LedgerBackend<Mailboxes>>,
}

impl MailServer {
    /// Opens the directory, sweeps it and serves fronts.
    ///
    /// # Errors
    ///
    /// The directory cannot be used, or the address cannot be listened on.
    pub fn start(config: MailConfig) -> io::Result<Self> {
        let MailConfig { listen, socket, directory, ledger, grace, serve } = config;
        let backend = Arc::new(mail::open(&directory, ledger, grace)?);
        let guarded =
            Guarded::new(Arc::<LedgerBackend<Mailboxes>>::clone(&backend) as Arc<dyn Backend>)?;
        let listener = VirtualListener::bind_with(listen, socket)?;
        let server = BackendServer::serve(listener, guarded, serve)?;
        Ok(Self { server, backend })
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &BackendServer {
        &self.server
    }

    /// The mailboxes.
    #[must_use]
    pub fn backend(&self) -> &LedgerBackend<Mailboxes> {
        &self.backend
    }
}

/// Runs a mail server until `stop` says so or its sender is gone. `up` is told the address.
///
/// # Errors
///
/// As [`MailServer::start`].
pub fn run(config: MailConfig, up: impl FnOnce(SocketAddr), stop: &Receiver<()>) -> io::Result<()> {
    let mail = MailServer::start(config)?;
    up(mail.server.addr());
    let _said_or_gone = stop.recv();
    mail.server.close();
    Ok(())
}
