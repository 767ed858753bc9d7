//! The front: listens, keeps to its limits, ends.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::session;
use super::talk::{Memory, Talk};
use crate::limits::{DEADLINE_MAX, KEY_MAX, PAIR_NAME_MAX, PAYLOAD_MAX};
use crate::submit::Submit;

/// How long the front waits after the system has refused it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A session keeps what it reads on the heap.
const STACK: usize = 512 << 10;

/// What an [`SmtpFront`] needs to know.
#[derive(Debug, Clone)]
pub struct SmtpConfig {
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// What it calls itself.
    pub hostname: String,
    /// The pair that the mail is for.
    pub pair: String,
    /// Domains that it takes mail for. Empty: any, which is right only where strangers cannot
    /// connect.
    pub domains: Vec<String>,
    /// Bytes of a message. Default 25 MiB.
    pub message_max: usize,
    /// Bytes of all messages that are being received at a time. Default 256 MiB.
    pub memory_max: usize,
    /// Recipients of a message. Default 100.
    pub recipients_max: usize,
    /// Connections at a time, with a thread each; more are told 421. Default 100.
    pub connections_max: usize,
    /// For a command, and for each piece of a message. Default 5 min.
    pub idle: Duration,
    /// For a whole message. Default 30 min.
    pub message_timeout: Duration,
    /// Errors of a client before the connection ends. Default 10.
    pub errors_max: u32,
    /// Of each request to the pair. Default 30 s.
    pub deadline: Duration,
}

impl SmtpConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(listen: SocketAddr, hostname: &str, pair: &str) -> Self {
        Self {
            listen,
            hostname: hostname.to_owned(),
            pair: pair.to_owned(),
            domains: Vec::new(),
            message_max: 25 << 20,
            memory_max: 256 << 20,
            recipients_max: 100,
            connections_max: 100,
            idle: Duration::from_secs(5 * 60),
            message_timeout: Duration::from_secs(30 * 60),
            errors_max: 10,
            deadline: Duration::from_secs(30),
        }
    }

    fn check(&self) -> Result<(), String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if self.hostname.is_empty() || self.hostname.len() > 255 || !self.hostname.bytes().all(word)
        {
            return Err(format!("{:?} is no host name: letters, digits, - and .", self.hostname));
        }
        let in_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !(1..=PAIR_NAME_MAX).contains(&self.pair.len()) || !self.pair.bytes().all(in_name) {
            return Err(format!(
                "the pair {:?} has no valid name: letters, digits, - and _, at most \
                 {PAIR_NAME_MAX}",
                self.pair
            ));
        }
        let most = PAYLOAD_MAX - 2 * KEY_MAX - 16;
        if self.message_max == 0 || self.message_max > most {
            return Err(format!("message_max is {}, and 1 to {most} fit", self.message_max));
        }
        if self.memory_max < self.message_max {
            return Err("memory_max is less than message_max: raise it".to_owned());
        }
        if self.recipients_max == 0 || self.connections_max == 0 || self.errors_max == 0 {
            return Err("recipients_max, connections_max and errors_max are at least 1".to_owned());
        }
        if self.deadline.is_zero() || self.deadline > DEADLINE_MAX {
            return Err(format!("deadline is not between 0 and {} s", DEADLINE_MAX.as_secs()));
        }
        if self.idle.is_zero() || self.message_timeout.is_zero() {
            return Err("idle and message_timeout are more than 0".to_owned());
        }
        Ok(())
    }
}

/// What every session needs.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SmtpConfig,
    pub(super) submit: Arc<dyn Submit>,
    pub(super) memory: Arc<Memory>,
    pub(super) closing: AtomicBool,
    open: Mutex<Open>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    streams: HashMap<u64, Arc<TcpStream>>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts mail and hands it to [`Submit`]; one thread listens, and each connection has its own.
/// Dropped, it accepts nothing more and cuts its connections.
#[derive(Debug)]
pub struct SmtpFront {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl SmtpFront {
    /// Listens, and accepts from now on.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with what is wrong with the configuration; whatever the system says when it
    /// gives no port or no thread.
    pub fn start(config: SmtpConfig, submit: Arc<dyn Submit>) -> io::Result<Self> {
        config.check().map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        let listener = Arc::new(TcpListener::bind(config.listen)?);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            memory: Memory::new(config.memory_max.next_multiple_of(64 << 10)),
            submit,
            closing: AtomicBool::new(false),
            open: Mutex::default(),
            ended: Condvar::new(),
            config,
        });
        let (for_thread, on) = (Arc::clone(&shared), Arc::clone(&listener));
        let accepting = thread::Builder::new()
            .name("evs-smtp".to_owned())
            .spawn(move || accept(&on, &for_thread))?;
        Ok(Self { address, shared, listener, accepting: Some(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections right now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open().streams.len()
    }

    /// Accepts nothing more and lets messages that are with the pair get their replies, for at most
    /// `timeout`. `true`: all connections have ended. Blocks.
    #[must_use]
    pub fn close(mut self, timeout: Duration) -> bool {
        self.stop();
        let until = Instant::now() + timeout;
        let mut open = self.shared.open();
        while !open.streams.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.shared.ended.wait_timeout(open, left);
            open = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn stop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        // Wakes the thread that accepts, and ends what waits in the system's queue.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.shared.open().streams.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

impl Drop for SmtpFront {
    fn drop(&mut self) {
        self.stop();
        for stream in self.shared.open().streams.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.closing.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, _)) => admit(stream, shared),
            Err(error) => {
                log::warn!("the SMTP front {} accepts nothing: {error}", shared.config.listen);
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn admit(stream: TcpStream, shared: &Arc<Shared>) {
    // Replies are sent when the client waits for them; more to send does not come.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let number = {
        let mut open = shared.open();
        if open.streams.len() >= shared.config.connections_max {
            None
        } else {
            open.next += 1;
            let number = open.next;
            open.streams.insert(number, Arc::clone(&stream));
            Some(number)
        }
    };
    let Some(number) = number else { return turn_away(&stream, shared, "too many connections") };
    let place = Place { shared: Arc::clone(shared), number };
    let for_thread = Arc::clone(&stream);
    let started = thread::Builder::new()
        .name(format!("evs-smtp-{number}"))
        .stack_size(STACK)
        .spawn(move || {
            let place = place;
            if let Ok(talk) = Talk::new(for_thread) {
                session::run(talk, &place.shared);
            }
        });
    if started.is_err() {
        turn_away(&stream, shared, "no thread left");
    }
}

/// The first line of a connection always fits what the system keeps for it: this does not wait.
fn turn_away(mut stream: &TcpStream, shared: &Shared, why: &str) {
    let reply = format!("421 4.3.2 {} {why}, come back later\r\n", shared.config.hostname);
    let _ = stream.write_all(reply.as_bytes());
}

/// A session's place among the connections.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open().streams.remove(&self.number);
        self.shared.ended.notify_all();
    }
}
