//! Somebody on the path: sees every byte between two ends, keeps it, and does with it what a plan
//! says. He has no key.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done to the bytes at one place of one direction.
#[derive(Clone, Debug)]
pub(crate) enum Attack {
    /// The next byte is changed.
    Flip(u8),
    /// So many bytes are taken out of the stream.
    Drop(usize),
    /// The last so many bytes come again.
    Repeat(usize),
    /// These come in between.
    Insert(Vec<u8>),
    /// The next so many bytes change places with those behind them.
    Swap(usize),
    /// The last so many bytes of the other direction are sent back to whoever sent them.
    Reflect(usize),
    /// The connection is closed.
    Cut,
}

/// What one connection has carried, as its ends have sent it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) up: Vec<u8>,
    pub(crate) down: Vec<u8>,
}

impl Seen {
    fn of(&mut self, is_up: bool) -> &mut Vec<u8> {
        if is_up { &mut self.up } else { &mut self.down }
    }
}

/// A plan for one direction: for each connection in turn, at which of its bytes what is done.
pub(crate) type Plan = Vec<(u64, Attack)>;

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    plans: [Plan; 2],
    /// Answers that new connections get instead of being passed on, one each.
    answers: Mutex<Vec<Vec<u8>>>,
    answered: AtomicUsize,
    done: AtomicUsize,
    stop: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

pub(crate) struct Mitm {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Mitm {
    /// Stands before `upstream`.
    pub(crate) fn new(upstream: SocketAddr, up: Plan, down: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { plans: [up, down], ..Shared::default() });
        let mine = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if mine.stop.load(Ordering::SeqCst) {
                    return;
                }
                mine.take(client, upstream);
            }
        });
        Self { addr, shared }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All that has passed so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many attacks of the plans were made.
    pub(crate) fn done(&self) -> usize {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// The next connections are answered so, in the server's place.
    pub(crate) fn answer_next(&self, answers: Vec<Vec<u8>>) {
        *self.shared.answers.lock().unwrap() = answers;
    }

    /// How many connections were answered in the server's place.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Mitm {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect(self.addr);
    }
}

impl Shared {
    fn take(self: &Arc<Self>, client: TcpStream, upstream: SocketAddr) {
        client.set_nodelay(true).unwrap();
        let answer = self.answers.lock().unwrap().pop();
        if let Some(answer) = answer {
            let mine = Arc::clone(self);
            std::thread::spawn(move || {
                let mut client = client;
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let _asked = client.read(&mut [0; 1024]);
                let _gone = client.write_all(&answer);
                mine.answered.fetch_add(1, Ordering::SeqCst);
                // Until the client has had enough of it.
                while matches!(client.read(&mut [0; 1024]), Ok(n) if n > 0) {}
            });
            return;
        }
        let Ok(server) = TcpStream::connect(upstream) else { return };
        server.set_nodelay(true).unwrap();
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(Seen::default());
            seen.len() - 1
        };
        let clone = |stream: &TcpStream| stream.try_clone().unwrap();
        self.streams.lock().unwrap().extend([clone(&client), clone(&server)]);
        for (is_up, from, to) in [(true, clone(&client), clone(&server)), (false, server, client)] {
            let mine = Arc::clone(self);
            std::thread::spawn(move || mine.pump(nth, is_up, from, to));
        }
    }

    fn pump(&self, nth: usize, is_up: bool, mut from: TcpStream, mut to: TcpStream) {
        let mut buf = [0; 16 * 1024];
        let mut way = Way { nth, is_up, count: 0, dropping: 0, is_attacked: false };
        while let Ok(n) = from.read(&mut buf) {
            if n == 0 {
                break;
            }
            self.seen.lock().unwrap()[nth].of(is_up).extend_from_slice(&buf[..n]);
            let mut out = Vec::with_capacity(2 * n);
            let goes_on = self.attack(&mut way, &buf[..n], &mut out);
            if to.write_all(&out).is_err() || !goes_on {
                break;
            }
        }
        let _gone = from.shutdown(Shutdown::Both);
        let _gone = to.shutdown(Shutdown::Both);
    }

    /// What goes on of these bytes; false if the connection does not.
    fn attack(&self, way: &mut Way, mut bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let begin = way.count;
        way.count += bytes.len() as u64;
        let planned = self.plans[usize::from(!way.is_up)].get(way.nth);
        if let Some((place, attack)) = planned.filter(|(place, _)| *place < way.count)
            && !way.is_attacked
        {
            let before = usize::try_from(place - begin).unwrap();
            out.extend_from_slice(&bytes[..before]);
            bytes = &bytes[before..];
            way.is_attacked = true;
            self.done.fetch_add(1, Ordering::SeqCst);
            let mut seen = self.seen.lock().unwrap();
            match attack {
                Attack::Flip(mask) => {
                    out.push(bytes[0] ^ mask);
                    bytes = &bytes[1..];
                }
                Attack::Drop(n) => way.dropping = *n,
                Attack::Repeat(n) => {
                    let seen = seen[way.nth].of(way.is_up);
                    let end = seen.len() - bytes.len();
                    out.extend_from_slice(&seen[end.saturating_sub(*n)..end]);
                }
                Attack::Insert(more) => out.extend_from_slice(more),
                Attack::Swap(n) => {
                    let n = (*n).min(bytes.len() / 2);
                    out.extend_from_slice(&bytes[n..2 * n]);
                    out.extend_from_slice(&bytes[..n]);
                    bytes = &bytes[2 * n..];
                }
                Attack::Reflect(n) => {
                    let seen = seen[way.nth].of(!way.is_up);
                    out.extend_from_slice(&seen[seen.len().saturating_sub(*n)..]);
                }
                Attack::Cut => return false,
            }
        }
        let dropped = way.dropping.min(bytes.len());
        way.dropping -= dropped;
        out.extend_from_slice(&bytes[dropped..]);
        true
    }
}

/// One direction of one connection.
struct Way {
    nth: usize,
    is_up: bool,
    count: u64,
    dropping: usize,
    is_attacked: bool,
}

/// The handshake messages at the front of what one side has sent.
pub(crate) fn hellos(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while bytes.len() >= 8 && bytes[..4] == eversock_proto::wire::hello::MAGIC {
        let length = 8 + usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        if bytes.len() < length {
            break;
        }
        let (message, rest) = bytes.split_at(length);
        all.push(message);
        bytes = rest;
    }
    all
}
