//! From a file to a front at work.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
#[cfg(any(feature = "http", feature = "smtp"))]
use std::time::Duration;

use eversock_engine::Config;
use eversock_socket::VirtualListener;

use super::servers::Threads;
use super::{ConfigError, FrontFile, Gate, SocketFile};
use crate::door::SocketDoor;
use crate::front::{Front, PairSetup};
use crate::submit::Submit;

/// How long clients that have been told may take to read it when the front ends.
#[cfg(any(feature = "http", feature = "smtp"))]
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where a front takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// "socket", "http" or "smtp".
    pub door: &'static str,
    /// With the port that it has got.
    pub addr: SocketAddr,
}

/// A front at work, with its doors. Dropped, it ends as with [`Running::close`].
#[derive(Debug)]
pub struct Running {
    gate: Arc<Gate>,
    sockets: Vec<SocketDoor>,
    #[cfg(feature = "http")]
    https: Vec<crate::http::HttpFront>,
    #[cfg(feature = "smtp")]
    smtps: Vec<crate::smtp::SmtpFront>,
    /// Needed by servers for as long as the front asks them something.
    _threads: Threads,
}

impl FrontFile {
    /// Opens the spools, begins to connect to the servers, and listens. Blocks for as long as disks
    /// and name servers take; not from a thread of tokio's.
    ///
    /// # Errors
    ///
    /// What cannot be had, with the line of the file; nothing is served then.
    pub fn start(&self) -> Result<Running, ConfigError> {
        self.make_dir()?;
        let threads = Threads::default();
        let mut setups = Vec::new();
        for pair in &self.pairs {
            // First of all: it tells whether another front is at work here.
            let store = self.open_store(pair);
            let store = store.map_err(|error| self.unusable(error.to_string()))?;
            let target = |at: usize| {
                let server = &pair.servers[at];
                server
                    .target(&threads)
                    .map_err(|error| self.wrong(server.place, &format!("{}: {error}", server.url)))
            };
            setups.push(PairSetup {
                name: pair.name.clone(),
                config: pair.config.clone(),
                store,
                committer: pair.committer,
                servers: [target(0)?, target(1)?],
            });
        }
        let front = Front::start(setups).map_err(|error| self.unusable(error.to_string()))?;
        let mut running = Running {
            gate: Arc::new(Gate::new(front)),
            sockets: Vec::new(),
            #[cfg(feature = "http")]
            https: Vec::new(),
            #[cfg(feature = "smtp")]
            smtps: Vec::new(),
            _threads: threads,
        };
        self.open_doors(&mut running)?;
        Ok(running)
    }

    /// Makes the directory of the spools, for its user alone, if it is not there.
    ///
    /// # Errors
    ///
    /// The system does not let it.
    pub fn make_dir(&self) -> Result<(), ConfigError> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|error| {
            let dir = self.dir.display();
            self.unusable(format!("`dir`: {dir} cannot be made: {error}; make it, or name another"))
        })
    }

    fn open_doors(&self, running: &mut Running) -> Result<(), ConfigError> {
        let refused = |place, listen: SocketAddr, error: &io::Error| {
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => "; stop who listens there, or take another port",
                io::ErrorKind::AddrNotAvailable => "; take an address of this machine",
                _ => "",
            };
            self.wrong(place, &format!("`listen` = {listen}: {error}{remedy}"))
        };
        for file in &self.sockets {
            let door = file.open(running.submit());
            let door = door.map_err(|error| refused(file.place, file.listen, &error))?;
            running.sockets.push(door);
        }
        #[cfg(feature = "http")]
        for (place, config) in &self.https {
            let door = crate::http::HttpFront::start(config.clone(), running.submit());
            running.https.push(door.map_err(|error| refused(*place, config.listen, &error))?);
        }
        #[cfg(feature = "smtp")]
        for (place, config) in &self.smtps {
            let door = crate::smtp::SmtpFront::start(config.clone(), running.submit());
            running.smtps.push(door.map_err(|error| refused(*place, config.listen, &error))?);
        }
        Ok(())
    }
}

impl SocketFile {
    fn open(&self, submit: Arc<dyn Submit>) -> io::Result<SocketDoor> {
        let mut socket = Config::default();
        socket.grace = self.grace.unwrap_or(socket.grace);
        socket.sessions_max = self.sessions_max.unwrap_or(socket.sessions_max);
        socket.memory_max = self.memory_max.unwrap_or(socket.memory_max);
        socket.handshakes_per_source =
            self.handshakes_per_source.unwrap_or(socket.handshakes_per_source);
        self.keys.read_into(&mut socket).map_err(io::Error::other)?;
        let listener = VirtualListener::bind_with(self.listen, socket)?;
        SocketDoor::start(listener, submit, self.door.clone())
    }
}

impl Running {
    /// The front, for commands and questions.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    fn submit(&self) -> Arc<dyn Submit> {
        Arc::<Gate>::clone(&self.gate) as Arc<dyn Submit>
    }

    /// Where it takes requests, in the order of the file.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        let mut all = Vec::new();
        let mut add = |door, addr| all.push(Listening { door, addr });
        self.sockets.iter().for_each(|door| add("socket", door.addr()));
        #[cfg(feature = "http")]
        self.https.iter().for_each(|door| add("http", door.local_addr()));
        #[cfg(feature = "smtp")]
        self.smtps.iter().for_each(|door| add("smtp", door.local_addr()));
        all
    }

    /// Ends: whoever waits is told so, what was accepted is written, doors are closed when those
    /// who were told have read it, or after some seconds. Blocks until then.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Doors stay open until those who wait in them have been told.
        self.gate.close();
        self.sockets.drain(..).for_each(|door| door.close());
        #[cfg(feature = "http")]
        for door in self.https.drain(..) {
            if !door.close(LAST_WORDS) {
                log::warn!("clients of HTTP were cut off: they did not read their answers");
            }
        }
        #[cfg(feature = "smtp")]
        for door in self.smtps.drain(..) {
            if !door.close(LAST_WORDS) {
                log::warn!("clients of SMTP were cut off: they did not read their replies");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
