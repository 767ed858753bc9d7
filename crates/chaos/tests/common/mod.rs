//! Plain clients and servers around a proxy; every wait has a limit.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use eversock_chaos::{Config, Event, EventKind, Events, Plan, Proxy};

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A proxy with its upstream.
pub(crate) struct Rig {
    pub(crate) proxy: Proxy,
    pub(crate) events: Events,
    pub(crate) server: TcpListener,
}

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn rig(script: &str) -> Rig {
    rig_with(Plan::parse(script).unwrap(), |_| {})
}

pub(crate) fn rig_with(plan: Plan, change: impl FnOnce(&mut Config)) -> Rig {
    let server = TcpListener::bind(local()).unwrap();
    let mut config = Config::new(local(), server.local_addr().unwrap()).with_plan(plan);
    // A machine under load must not make a cut inexact.
    config.flush = LIMIT;
    change(&mut config);
    let proxy = Proxy::spawn(config).unwrap();
    let events = proxy.events();
    Rig { proxy, events, server }
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Rig {
    pub(crate) fn connect(&self) -> TcpStream {
        patient(TcpStream::connect_timeout(&self.proxy.local_addr(), LIMIT).unwrap())
    }

    /// Client and server end of a new connection through the proxy.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let (server, _) = self.server.accept().unwrap();
        (client, patient(server))
    }

    pub(crate) fn wait_for(&mut self, wanted: impl FnMut(&Event) -> bool) -> Event {
        self.events.find_timeout(LIMIT, wanted).expect("the event comes in time")
    }

    pub(crate) fn wait_for_fault(&mut self, kind: &str) -> Event {
        self.wait_for(|e| matches!(&e.kind, EventKind::Fault { fault } if fault.kind() == kind))
    }

    pub(crate) fn wait_until(&self, what: &str, done: impl Fn(&eversock_chaos::Stats) -> bool) {
        let start = Instant::now();
        while !done(&self.proxy.stats()) {
            assert!(start.elapsed() < LIMIT, "{what}: {:?}", self.proxy.stats());
            std::thread::yield_now();
        }
    }
}

/// Reproducible noise.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(step).collect()
}

/// All that comes until the stream ends, and how it ends.
pub(crate) fn read_all(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, Ok(())),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

pub(crate) fn is_reset(end: &io::Result<()>) -> bool {
    matches!(end, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

/// Sends bytes there and sees them arrive unchanged.
pub(crate) fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert!(got == bytes, "bytes arrive unchanged");
}

/// Whether nothing comes for a while; the one thing that cannot be waited for.
pub(crate) fn is_silent(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    let result = stream.read(&mut [0; 1]);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    matches!(result.map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}
