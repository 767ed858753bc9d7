//! The other end of a session, played by the test with `eversock_proto` over a plain socket.
#![allow(dead_code, reason = "each test target uses its own part")]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use eversock_engine::{BackOff, Config, posix};
use eversock_proto::control::Role;
use eversock_proto::open::{Offer, OpenClient, OpenServer, Opened};
use eversock_proto::secret::SessionId;
use eversock_proto::session::{Session, Start};
use eversock_proto::wire::hello::HelloReader;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const WINDOW: u64 = 256 * 1024;

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A configuration whose waits suit a test.
pub(crate) fn quick() -> Config {
    Config {
        grace: PATIENCE,
        grace_after_close: PATIENCE,
        linger: Duration::from_secs(2),
        back_off: BackOff { base: Duration::from_millis(10), cap: Duration::from_millis(100) },
        ..Config::default()
    }
}

/// More than any test target takes on a busy machine.
const WHOLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Ends a test process in which somebody waits for ever, as for a thread that has panicked.
fn limit_the_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(WHOLE_MAX);
            // Not through the test's captured output, which nobody would print.
            let text = format!("this test process: not done within {WHOLE_MAX:?}\n");
            let _gone = std::io::stderr().write_all(text.as_bytes());
            std::process::abort();
        });
    });
}

/// A fresh socket of the engine's.
pub(crate) fn socket(config: Config) -> RawFd {
    limit_the_process();
    posix::socket(libc::AF_INET, libc::SOCK_STREAM, 0, Arc::new(config)).unwrap()
}

/// A socket of the engine's that is connected to `addr`.
pub(crate) fn connect(addr: SocketAddr, config: Config) -> RawFd {
    let number = socket(config);
    posix::connect(number, addr).unwrap();
    number
}

/// A listener of the engine's, and its address.
pub(crate) fn listen(config: Config) -> (RawFd, SocketAddr) {
    let number = socket(config);
    posix::bind(number, ([127, 0, 0, 1], 0).into()).unwrap();
    posix::listen(number, 16).unwrap();
    (number, posix::getsockname(number).unwrap().unwrap())
}

/// The engine's two ends of a session, and the listener.
pub(crate) fn pair(client: Config, server: Config) -> [RawFd; 3] {
    let (listener, addr) = listen(server);
    let client = connect(addr, client);
    let (server, _) = posix::accept4(listener, 0).unwrap();
    [client, server, listener]
}

pub(crate) fn send(number: RawFd, bytes: &[u8]) -> std::io::Result<usize> {
    posix::send(number, &[IoSlice::new(bytes)], libc::MSG_NOSIGNAL)
}

pub(crate) fn recv(number: RawFd, buf: &mut [u8]) -> std::io::Result<usize> {
    posix::recv(number, &mut [IoSliceMut::new(buf)], 0)
}

/// The errno of a call that must fail.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).expect("an error with a number")
}

/// One handshake message; `None` when the connection ends first.
pub(crate) fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut reader = HelloReader::default();
    loop {
        let mut buf = [0; 1024];
        let wants = reader.wants();
        let n = stream.read(&mut buf[..wants]).ok()?;
        if n == 0 {
            return None;
        }
        if let Some(message) = reader.feed(&buf[..n]).unwrap() {
            return Some(message);
        }
    }
}

fn offer() -> Offer {
    Offer { window: WINDOW, grace: PATIENCE, ..Offer::default() }
}

fn start() -> Start {
    Start { send: 0, receive: 0, window: WINDOW, window_max: WINDOW }
}

/// A server that the test plays: one session.
pub(crate) struct PlayedServer {
    pub(crate) listener: TcpListener,
    pub(crate) session: Option<Session>,
}

impl PlayedServer {
    pub(crate) fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), session: None }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Takes the next connection that proves itself: the open, or a resume.
    pub(crate) fn take(&mut self) -> TcpStream {
        loop {
            let (mut stream, _) = self.listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let Some(first) = message(&mut stream) else { continue };
            match self.session.as_mut() {
                None => {
                    let id = SessionId::new(1, 2);
                    let (mut server, answer) =
                        OpenServer::answer(&offer(), &first, id, [3; 32]).unwrap();
                    stream.write_all(&answer).unwrap();
                    let Some(confirm) = message(&mut stream) else { continue };
                    let opened = server.confirmed(&confirm).unwrap();
                    let session = Session::new(Role::Server, opened, &start(), Arc::default());
                    self.session = Some(session);
                }
                Some(session) => {
                    let receive = session.rx.next();
                    let nonce = [session.control.epoch() as u8; 32];
                    let (pending, answer) = session.control.answer(&first, receive, nonce).unwrap();
                    stream.write_all(&answer).unwrap();
                    let Some(confirm) = message(&mut stream) else { continue };
                    let offsets = session.offsets();
                    let from = session.control.confirm(pending, &confirm, offsets).unwrap();
                    session.begin_epoch(from).unwrap();
                }
            }
            return stream;
        }
    }

    /// Says what the session has to say.
    pub(crate) fn say(&mut self, stream: &mut TcpStream) {
        let bytes = self.session.as_mut().unwrap().transmit(usize::MAX);
        stream.write_all(&bytes).unwrap();
    }
}

/// A client that the test plays: it proves itself, and has said nothing behind its CONFIRM.
pub(crate) fn played_client(addr: SocketAddr) -> (TcpStream, Session) {
    let (mut stream, opened, confirm) = half_open(addr);
    stream.write_all(&confirm).unwrap();
    (stream, Session::new(Role::Client, opened, &start(), Arc::default()))
}

/// Its open as far as the server's answer, and the CONFIRM that is still to be said.
pub(crate) fn half_open(addr: SocketAddr) -> (TcpStream, Opened, Vec<u8>) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (client, open) = OpenClient::start(&offer(), [4; 32]).unwrap();
    stream.write_all(&open).unwrap();
    let answer = message(&mut stream).expect("an answer");
    let (opened, confirm) = client.answered(&answer).unwrap();
    (stream, opened, confirm.to_vec())
}

/// A new connection for the session of a played client: it proves itself, and the old one stays.
pub(crate) fn resume(addr: SocketAddr, session: &mut Session) -> TcpStream {
    resume_and(addr, session, || ())
}

/// The same; does something between the answer and its CONFIRM.
pub(crate) fn resume_and(
    addr: SocketAddr,
    session: &mut Session,
    between: impl FnOnce(),
) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = session.rx.next();
    let (client, question) = session.control.resume(receive, [5; 32]);
    stream.write_all(&question).unwrap();
    let answer = message(&mut stream).expect("an answer");
    let (from, confirm) = client.answered(&session.control.secret, &answer).unwrap();
    between();
    stream.write_all(&confirm).unwrap();
    session.control.resumed_as(client.epoch(), session.offsets()).unwrap();
    session.begin_epoch(from).unwrap();
    stream
}
