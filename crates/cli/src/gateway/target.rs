//! Where a gateway connects to: a host by name or address, looked up aside from the event loop.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Addresses older than this are looked up again when somebody connects; the known ones are used
/// meanwhile.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// A name may have so many addresses; the rest is not tried.
const ADDRS_MAX: usize = 16;

/// A host and a port.
#[derive(Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    known: Arc<Mutex<Vec<SocketAddr>>>,
    /// Asks for a look-up; none for an address, which needs none.
    ask: Option<SyncSender<()>>,
    asked: Instant,
}

impl Target {
    /// Reads `HOST:PORT` and looks the name up, which must succeed this first time.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let (host, port) = split(text)
            .ok_or_else(|| format!("{text}: expected HOST:PORT, as db.example.org:5432"))?;
        let addrs = look_up(&host, port).map_err(|error| format!("{text}: {error}"))?;
        let known = Arc::new(Mutex::new(addrs));
        let mut ask = None;
        if host.parse::<IpAddr>().is_err() {
            // One question may wait: more would have the same answer.
            let (sender, questions) = sync_channel(1);
            let (host, known) = (host.clone(), Arc::clone(&known));
            thread::Builder::new()
                .name("names".to_owned())
                .spawn(move || answer(&questions, &host, port, &known))
                .map_err(|error| format!("cannot start the thread that looks up names: {error}"))?;
            ask = Some(sender);
        }
        Ok(Self { host, port, known, ask, asked: Instant::now() })
    }

    /// The addresses as they are known now; never blocks.
    pub(crate) fn addrs(&mut self) -> Vec<SocketAddr> {
        if self.asked.elapsed() > FRESH_FOR {
            self.look_again();
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the name looked up again: the addresses have failed, or are old.
    pub(crate) fn look_again(&mut self) {
        if let Some(ask) = &self.ask {
            self.asked = Instant::now();
            // Full: somebody has asked already.
            let _asked = ask.try_send(());
        }
    }

    /// The name that a session looks up again at each redial.
    pub(crate) fn name(&self) -> Option<(String, u16)> {
        self.ask.is_some().then(|| (self.host.clone(), self.port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn answer(questions: &Receiver<()>, host: &str, port: u16, known: &Mutex<Vec<SocketAddr>>) {
    for () in questions {
        match look_up(host, port) {
            Ok(addrs) => *known.lock().unwrap_or_else(PoisonError::into_inner) = addrs,
            Err(error) => log::warn!("{host}: {error}; the addresses known before stay"),
        }
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.take(ADDRS_MAX).collect();
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addrs)
}

/// Splits `HOST:PORT`, where an IPv6 address stands in brackets.
pub(crate) fn split(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && (host.contains(':') || host.is_empty()) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((bare.unwrap_or(host).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        let pair = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(split("db.example:5432"), pair("db.example", 5432));
        assert_eq!(split("[::1]:80"), pair("::1", 80));
        for wrong in ["db", "db:", "db:0", "db:70000", "::1:80", ":80", "[::1]", ""] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_target_that_is_an_address_needs_no_look_up() {
        let mut target = Target::new("[::1]:80").unwrap();
        assert_eq!(target.to_string(), "[::1]:80");
        assert_eq!(target.addrs(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(target.name(), None);
        assert!(Target::new("127.0.0.1").unwrap_err().contains("expected HOST:PORT"));
    }
}
