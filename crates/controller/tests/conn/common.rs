//! A handler that does what a test says, and a peer that says anything.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use eversock_controller::conn::{ConnId, Handler, Opened, Reactor, ReactorThread};
use eversock_controller::wire::client::ClientMessage;
use eversock_controller::wire::{Bye, HEADER_BYTES, Message, header};
use eversock_engine::Config;
use eversock_socket::{VirtualListener, VirtualStream};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test when the condition does not come true in time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn config() -> Config {
    let linger = Duration::from_secs(1);
    let grace = Duration::from_secs(120);
    Config { grace, grace_after_close: grace, linger, ..Config::default() }
}

/// One whose peer takes no more than this before it reads.
pub(crate) fn narrow(window: u64) -> Config {
    Config { window, window_max: window, ..config() }
}

pub(crate) fn listen_with(config: Config) -> (VirtualListener, SocketAddr) {
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// What a handler was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Opened(ConnId, Opened),
    Frame(ConnId, u16, Vec<u8>),
    Closed(ConnId, String),
    DialFailed(u64, String),
    Turn,
}

type OnFrame = dyn FnMut(&Reactor, ConnId, u16, &[u8]) -> Result<(), Bye> + Send;
type OnTurn = dyn FnMut() -> Option<Instant> + Send;

/// Tells what it hears, and does what it is made with.
pub(crate) struct Tells {
    reactor: Reactor,
    to: Sender<Heard>,
    greets: bool,
    on_frame: Box<OnFrame>,
    on_turn: Option<Box<OnTurn>>,
}

impl Handler for Tells {
    fn opened(&mut self, conn: ConnId, opened: Opened) {
        if self.greets {
            self.reactor.greeted(conn);
        }
        let _test_over = self.to.send(Heard::Opened(conn, opened));
    }

    fn frame(&mut self, conn: ConnId, kind: u16, body: &[u8]) -> Result<(), Bye> {
        let _test_over = self.to.send(Heard::Frame(conn, kind, body.to_vec()));
        (self.on_frame)(&self.reactor, conn, kind, body)
    }

    fn closed(&mut self, conn: ConnId, why: &str) {
        let _test_over = self.to.send(Heard::Closed(conn, why.to_owned()));
    }

    fn dial_failed(&mut self, token: u64, why: String) {
        let _test_over = self.to.send(Heard::DialFailed(token, why));
    }

    fn turn(&mut self) -> Option<Instant> {
        let on_turn = self.on_turn.as_mut()?;
        let _test_over = self.to.send(Heard::Turn);
        on_turn()
    }
}

/// A reactor of a test.
pub(crate) struct Running {
    pub(crate) reactor: Reactor,
    pub(crate) thread: ReactorThread,
    pub(crate) heard: Receiver<Heard>,
}

/// Starts one whose connections are greeted from the beginning.
pub(crate) fn start(
    on_frame: impl FnMut(&Reactor, ConnId, u16, &[u8]) -> Result<(), Bye> + Send + 'static,
) -> Running {
    start_with(true, None, on_frame)
}

pub(crate) fn start_with(
    greets: bool,
    on_turn: Option<Box<OnTurn>>,
    on_frame: impl FnMut(&Reactor, ConnId, u16, &[u8]) -> Result<(), Bye> + Send + 'static,
) -> Running {
    let (to, heard) = unbounded();
    let on_frame = Box::new(on_frame);
    let (reactor, thread) =
        Reactor::start("test", move |reactor| Tells { reactor, to, greets, on_frame, on_turn })
            .unwrap();
    Running { reactor, thread, heard }
}

impl Running {
    pub(crate) fn next(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("nothing was heard in time")
    }

    pub(crate) fn opened(&self) -> (ConnId, Opened) {
        match self.next() {
            Heard::Opened(conn, opened) => (conn, opened),
            other => panic!("{other:?} instead of a connection"),
        }
    }

    pub(crate) fn frame(&self) -> (ConnId, u16, Vec<u8>) {
        match self.next() {
            Heard::Frame(conn, kind, body) => (conn, kind, body),
            other => panic!("{other:?} instead of a message"),
        }
    }

    pub(crate) fn closed(&self) -> (ConnId, String) {
        match self.next() {
            Heard::Closed(conn, why) => (conn, why),
            other => panic!("{other:?} instead of an end"),
        }
    }
}

/// Any frame.
pub(crate) fn raw(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes()[..], &kind.to_le_bytes(), body].concat()
}

/// A peer without a reactor, whose reads block, but not for ever.
pub(crate) struct Peer(pub(crate) Arc<VirtualStream>);

impl Peer {
    pub(crate) fn dial(addr: SocketAddr) -> Self {
        Self::dial_with(addr, config())
    }

    pub(crate) fn dial_with(addr: SocketAddr, config: Config) -> Self {
        let stream = VirtualStream::connect_with(addr, config).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(Arc::new(stream))
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.0).write_all(bytes)
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn read(&self) -> Option<(u16, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        let n = (&*self.0).read(&mut head).unwrap();
        if n == 0 {
            return None;
        }
        (&*self.0).read_exact(&mut head[n..]).unwrap();
        let (length, kind) = header(head);
        let mut body = vec![0; length];
        (&*self.0).read_exact(&mut body).unwrap();
        Some((kind, body))
    }

    /// What it is told before the end, with nothing behind it.
    pub(crate) fn bye(&self) -> Bye {
        let (kind, body) = self.read().expect("the end without a word");
        let ClientMessage::Bye(bye) = ClientMessage::decode(kind, &body).unwrap() else {
            panic!("a message of type {kind:#06x} instead of a bye");
        };
        assert_eq!(self.read(), None, "something behind the bye");
        bye
    }
}
