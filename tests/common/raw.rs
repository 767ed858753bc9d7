//! A peer made of plain sockets and the protocol crate: it can say and leave out what it likes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use eversock_proto::control::Role;
use eversock_proto::open::{Offer, OpenClient};
use eversock_proto::session::{Session, Start};
use eversock_proto::wire::hello::HelloReader;

/// The credit that a raw peer gives, and never more.
pub(crate) const WINDOW: u64 = 256 * 1024;

static SEED: AtomicU8 = AtomicU8::new(1);

fn seed() -> [u8; 32] {
    [SEED.fetch_add(1, Ordering::Relaxed); 32]
}

pub(crate) fn offer() -> Offer {
    Offer { window: WINDOW, grace: Duration::from_secs(60), ..Offer::default() }
}

/// The client's end of a session, without an engine.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) session: Session,
    /// The handshake messages that it has sent.
    pub(crate) said: Vec<Vec<u8>>,
}

/// Reads one handshake message.
pub(crate) fn hear_hello(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = HelloReader::default();
    loop {
        let mut buf = vec![0; reader.wants()];
        let n = stream.read(&mut buf).ok().filter(|&n| n > 0)?;
        if let Some(message) = reader.feed(&buf[..n]).expect("a handshake message") {
            return Some(message);
        }
    }
}

pub(crate) fn option(fd: &impl AsRawFd, name: i32, value: i32) {
    let value = value.to_ne_bytes();
    // SAFETY: the value is four readable bytes.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, value.as_ptr().cast(), 4)
    };
    assert_eq!(result, 0, "setsockopt {name}");
}

impl Raw {
    /// Opens a session; its START is sent, nothing more.
    pub(crate) fn open(addr: SocketAddr) -> Self {
        Self::open_over(TcpStream::connect(addr).unwrap())
    }

    pub(crate) fn open_over(mut stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (client, open) = OpenClient::start(&offer(), seed()).unwrap();
        stream.write_all(&open).unwrap();
        let answer = hear_hello(&stream).expect("an answer to OPEN");
        let (opened, confirm) = client.answered(&answer).unwrap();
        stream.write_all(&confirm).unwrap();
        let start = Start { send: 0, receive: 0, window: WINDOW, window_max: WINDOW };
        let session = Session::new(Role::Client, opened, &start, Arc::default());
        let mut raw = Self { stream, session, said: vec![open, confirm] };
        raw.transmit();
        raw
    }

    /// Puts all that the session has to say on the connection.
    pub(crate) fn transmit(&mut self) {
        let bytes = self.session.transmit(usize::MAX);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The program of this end writes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert_eq!(self.session.write(bytes), bytes.len(), "no credit");
        self.transmit();
    }

    /// Takes what comes until something is so; at most 20 s.
    pub(crate) fn take_until(&mut self, what: &str, is_so: impl Fn(&Session) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        let mut buf = vec![0; 64 * 1024];
        while !is_so(&self.session) {
            assert!(Instant::now() < until, "not within 20 s: {what}");
            match self.stream.read(&mut buf) {
                Ok(0) => panic!("the connection ended before: {what}"),
                Ok(n) => self.session.handle_bytes(&buf[..n]).unwrap(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }

    /// Takes and reads so many bytes.
    pub(crate) fn read_exactly(&mut self, n: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < n {
            self.take_until("bytes", |session| session.rx.stashed() > 0);
            let mut some = vec![0; self.session.rx.stashed().min(n - all.len())];
            let got = self.session.read(&mut some);
            all.extend_from_slice(&some[..got]);
            self.transmit();
        }
        all
    }
}

/// What the engine's thread has used of the processor.
pub(crate) fn engine_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut used = Duration::ZERO;
    for task in tasks.map_while(Result::ok).map(|entry| entry.path()) {
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim() == "eversock" {
            let times = std::fs::read_to_string(task.join("schedstat")).unwrap();
            let nanos = times.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
            used += Duration::from_nanos(nanos);
        }
    }
    used
}
