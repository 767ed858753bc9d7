//! What the tests over real sockets share: data, a pair of ends, a bad network between them.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![allow(dead_code, reason = "each test target uses its own part")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Once;
use std::time::{Duration, Instant};

use eversock::{Config, VirtualListener, VirtualStream};
use eversock_chaos::{Config as ProxyConfig, Proxy};

static LOG: Once = Once::new();

/// Logging on demand (`RUST_LOG`), and a limit on the whole test process.
pub fn begin() {
    LOG.call_once(|| {
        env_logger::builder().is_test(true).init();
    });
}

/// Waits until something is so; panics after 20 s.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        std::thread::yield_now();
    }
}

/// Reproducible bytes that differ at every offset.
pub fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A configuration whose waits suit a test.
pub fn quick() -> Config {
    Config {
        grace: Duration::from_secs(20),
        grace_after_close: Duration::from_secs(20),
        linger: Duration::from_secs(10),
        ..Config::default()
    }
}

/// A listener, a proxy before it, and a client connected through the proxy.
pub struct Ends {
    pub listener: VirtualListener,
    pub proxy: Proxy,
    pub client: VirtualStream,
    pub server: VirtualStream,
}

pub fn proxy_to(addr: SocketAddr) -> Proxy {
    let local = SocketAddr::new(addr.ip(), 0);
    Proxy::spawn(ProxyConfig::new(local, addr)).unwrap()
}

pub fn ends(bind: &str, client: Config, server: Config) -> Ends {
    begin();
    let listener = VirtualListener::bind_with(bind, server).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let client = VirtualStream::connect_with(proxy.local_addr(), client).unwrap();
    let (server, _) = listener.accept().unwrap();
    Ends { listener, proxy, client, server }
}

pub fn pair() -> Ends {
    ends("127.0.0.1:0", quick(), quick())
}

/// Writes all of `bytes` from `stream` and ends that direction, while another thread reads to the
/// end; gives what was read.
pub fn send_and_end(mut stream: &VirtualStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

pub fn read_all(mut stream: &VirtualStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Moves `bytes` both ways at once, to the end of each direction, and checks them.
pub fn exchange(client: &VirtualStream, server: &VirtualStream, up: &[u8], down: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(client, up));
        scope.spawn(|| send_and_end(server, down));
        let at_server = scope.spawn(|| read_all(server));
        let at_client = scope.spawn(|| read_all(client));
        assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        assert!(at_client.join().unwrap() == down, "the client's bytes differ");
    });
}
