//! Forged, repeated and forwarded replies, names and streams that lie: each costs at most a probe.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eversock_dedup::ident::{MAC_BYTES, Query, Reply};
use eversock_dedup::key::ServerId;
use eversock_dedup::{Pool, PoolConfig, SharedConfig, SharedListener};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that echoes, on one address with a port of its own.
fn server(on: &str, answers: bool) -> Arc<SharedListener> {
    let config = SharedConfig { answer: answers, ..SharedConfig::default() };
    let on = [on.parse().expect("an address")];
    let listener = Arc::new(SharedListener::bind_with(&on, config).expect("a listener"));
    let served = Arc::clone(&listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = served.accept() {
            thread::spawn(move || {
                let _gone = std::io::copy(&mut &stream, &mut &stream);
                let _gone = stream.shutdown(Shutdown::Write);
            });
        }
    });
    listener
}

fn says(mut stream: &TcpStream, text: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(text).expect("written");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(back, text);
}

/// Answers each datagram at `at` with what `lie` makes of it, as often as it says.
struct Liar {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicUsize>,
}

impl Liar {
    fn at(at: SocketAddr, mut lie: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind(at).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&heard));
        thread::spawn(move || {
            let mut buf = [0; 2048];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((n, from)) = socket.recv_from(&mut buf) else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                for reply in lie(&buf[..n]) {
                    let _lost = socket.send_to(&reply, from);
                }
            }
        });
        Self { stop, heard }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// What a query is answered with by somebody who says what he likes.
fn reply(query: &[u8], server: ServerId, at: SocketAddr, mac: u8) -> Reply {
    Reply {
        more: false,
        shares: true,
        nonce: Query::decode(query).expect("a query").nonce,
        server,
        boot: 1,
        address_set: 1,
        hop_limit: 64,
        cookie: [0; 16],
        asked_at: Some(at),
        addresses: Vec::new(),
        mac: [mac; MAC_BYTES],
    }
}

/// Connects to an honest server and then to one whose port number somebody else answers at.
fn with_liar(lie: impl Fn(&[u8], SocketAddr, SocketAddr) -> Vec<Vec<u8>> + Send + 'static) -> Pool {
    let honest = server("127.0.0.1:0", true);
    let here = honest.local_addrs()[0];
    // The same port: another one would be another service, and nobody would be asked.
    let other = server(&format!("127.0.0.2:{}", here.port()), false);
    let there = other.local_addrs()[0];
    let liar = Liar::at(there, move |query| lie(query, here, there));
    let pool = Pool::new(PoolConfig::default()).expect("a pool");
    let first = pool.connect(here).expect("connected");
    says(&first, b"first");
    let second = pool.connect(there).expect("connected");
    says(&second, b"second");
    let rows = pool.table();
    assert_eq!(rows[0].row.server, honest.server_id());
    assert_eq!(rows[1].row.server, other.server_id(), "it is on another server's session");
    assert_eq!(pool.sessions(), 2);
    let until = Instant::now() + PATIENCE;
    while liar.heard.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < until, "nobody was asked");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(pool.metrics().query_hits, 0);
    says(&first, b"still first");
    pool
}

#[test]
fn a_forged_reply_puts_nothing_on_another_s_session() {
    with_liar(|query, _, there| vec![reply(query, ServerId([7; 16]), there, 0x55).encode()]);
}

#[test]
fn a_reply_without_a_proof_puts_nothing_on_another_s_session() {
    with_liar(|query, _, there| vec![reply(query, ServerId([7; 16]), there, 0).encode()]);
}

#[test]
fn a_query_that_is_forwarded_to_the_server_proves_nothing_of_who_forwards_it() {
    with_liar(|query, here, _| {
        // The honest server's own words, with its proof: of the address at which it was asked.
        let relay = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        relay.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        relay.send_to(query, here).expect("sent");
        let mut buf = [0; 1024];
        let n = relay.recv(&mut buf).expect("the honest answer");
        assert!(Reply::decode(&buf[..n]).expect("a reply").has_proof());
        vec![buf[..n].to_vec()]
    });
}

#[test]
fn oversized_repeated_and_senseless_replies_are_dropped() {
    let pool = with_liar(|query, _, there| {
        let good = reply(query, ServerId([7; 16]), there, 1).encode();
        let long = [good.clone(), vec![0; 900]].concat();
        vec![vec![], vec![0xff; 2000], long, good.clone(), good.clone(), good]
    });
    let until = Instant::now() + PATIENCE;
    while pool.metrics().forged < 3 {
        assert!(Instant::now() < until, "they are not counted: {:?}", pool.metrics());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_flood_of_nonsense_does_not_disturb_a_listener() {
    let listener = server("127.0.0.1:0", true);
    let at = listener.local_addrs()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for n in 0..2000_usize {
        let _full = socket.send_to(&vec![n as u8; n % 1400], at);
    }
    // And by TCP: whatever comes there is no session.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(at).expect("connected");
        let _gone = stream.write_all(&[0xa5; 3000]);
    }
    let pool = Pool::new(PoolConfig::default()).expect("a pool");
    says(&pool.connect(at).expect("connected"), b"well");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    assert!(socket.recv(&mut [0; 64]).is_err(), "nonsense was answered");
}
