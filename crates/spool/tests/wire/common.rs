//! What the tests of this binary have in common: patience, and a peer that says anything.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use eversock_engine::Config;
use eversock_socket::{VirtualListener, VirtualStream};
use eversock_spool::limits::MESSAGE_MAX;
use eversock_spool::wire::{FrameReader, Hello, Message, Role, frame};
use eversock_spool::{Kind, Request, RequestId};

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Fails the test when the condition does not come true in time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn config() -> Config {
    Config { grace: Duration::from_secs(60), ..Config::default() }
}

pub(crate) fn listen() -> VirtualListener {
    VirtualListener::bind_with("127.0.0.1:0", config()).unwrap()
}

/// Listens where somebody has just stopped to.
pub(crate) fn listen_again(addr: SocketAddr) -> VirtualListener {
    let mut listener = None;
    wait_for("the port is free again", || {
        listener = VirtualListener::bind_with(addr, config()).ok();
        listener.is_some()
    });
    listener.unwrap()
}

pub(crate) fn request(id: u128, kind: Kind, payload: &[u8]) -> Request {
    Request {
        id: RequestId(id),
        kind,
        key: format!("key {id}").into_bytes(),
        payload: payload.to_vec(),
        deadline: PATIENCE,
    }
}

/// A peer that says what the test wants.
pub(crate) struct Raw {
    pub(crate) stream: Arc<VirtualStream>,
    reader: FrameReader<Source>,
}

struct Source(Arc<VirtualStream>);

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Raw {
    /// Connects and says nothing.
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::of(VirtualStream::connect_with(addr, config()).unwrap())
    }

    pub(crate) fn of(stream: VirtualStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let stream = Arc::new(stream);
        Self { reader: FrameReader::new(Source(Arc::clone(&stream))), stream }
    }

    /// Connects and says hello; the welcome is still to be read.
    pub(crate) fn hello<M: Message>(addr: SocketAddr, role: Role, of: fn(Hello) -> M) -> Self {
        let raw = Self::connect(addr);
        raw.send(&of(Hello::new(role)));
        raw
    }

    pub(crate) fn send<M: Message>(&self, message: &M) {
        let mut wire = Vec::new();
        frame::put(message, &mut wire).unwrap();
        self.write(&wire);
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        (&*self.stream).write_all(bytes).unwrap();
    }

    /// The next message; nothing at the end.
    pub(crate) fn next<M: Message>(&mut self) -> Option<M> {
        Some(self.reader.read(MESSAGE_MAX).unwrap()?.decode().unwrap())
    }
}
