//! What the tests of this binary have in common: patience, and a peer that says anything.

use std::io::{self, BufRead, BufReader, Read, Write};
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
    // A session that is closed while it is cut keeps its listener's port that long.
    let linger = Duration::from_secs(1);
    Config { grace: Duration::from_secs(60), linger, ..Config::default() }
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

/// A process of its own, which is killed when this is dropped.
pub(crate) struct Elsewhere {
    child: std::process::Child,
    pub(crate) addr: SocketAddr,
}

/// Says to a test of this binary, run in a process of its own, where to listen.
const ELSEWHERE: &str = "SPOOL_TEST_LISTEN";

impl Elsewhere {
    /// Runs one test of this binary, which has to call [`Self::listener`] and to serve there.
    pub(crate) fn start(test: &str, addr: SocketAddr) -> Self {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ELSEWHERE, addr.to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let addr = lines.find_map(|line| Some(line.split_once("listens at ")?.1.parse().unwrap()));
        Self { child, addr: addr.unwrap() }
    }

    /// The listener of a process that was started so, and whether it is the first at its address;
    /// nothing in any other.
    pub(crate) fn listener() -> Option<(VirtualListener, bool)> {
        let addr: SocketAddr = std::env::var(ELSEWHERE).ok()?.parse().unwrap();
        let listener = listen_again(addr);
        println!("listens at {}", listener.local_addr().unwrap());
        Some((listener, addr.port() == 0))
    }

    /// In such a process: waits until it is killed, or nobody is there to kill it.
    pub(crate) fn serve() {
        let _nothing = io::stdin().read_to_end(&mut Vec::new());
    }

    /// Kills it, and waits until it is dead.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.addr
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Says to a test that it is the only one in its process.
const ALONE: &str = "SPOOL_TEST_ALONE";

/// Runs a test in a process of its own, so that it can count what the process has.
pub(crate) fn alone(test: &str, run: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return run();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{test} is no test: {text}");
}

/// How many threads and descriptors this process has.
pub(crate) fn threads_and_descriptors() -> (usize, usize) {
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count();
    (count("task"), count("fd"))
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
