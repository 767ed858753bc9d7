//! What the tests over real sockets share: data, a pair of ends, a bad network between them.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]
#![allow(dead_code, reason = "each test target uses its own part")]

pub(crate) mod child;
pub(crate) mod limit;
pub(crate) mod mitm;
pub(crate) mod netns;
pub(crate) mod own;
pub(crate) mod raw;
pub(crate) mod seccomp;
pub(crate) mod side;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use eversock::{BackOff, Config, VirtualListener, VirtualStream};
use eversock_chaos::{Config as ProxyConfig, Fault, Proxy, Target};
use limit::Limit;

pub(crate) const MIB: usize = 1024 * 1024;

static BEGUN: Once = Once::new();
static WHOLE: OnceLock<Limit> = OnceLock::new();

/// More than any test target takes on a busy machine: a test that waits for a thread which has
/// panicked would wait for ever.
const WHOLE_MAX: Duration = Duration::from_secs(20 * 60);

/// Logging on demand (`RUST_LOG`), and a limit on the whole test process, unless it was asked for
/// more than the usual.
pub(crate) fn begin() {
    BEGUN.call_once(|| {
        env_logger::builder().is_test(true).init();
        if !["EVERSOCK_RUNS", "EVERSOCK_KILLS"].iter().any(|name| std::env::var_os(name).is_some())
        {
            WHOLE.get_or_init(|| Limit::new("this test process", WHOLE_MAX));
        }
    });
}

/// Waits until something is so; panics after 20 s.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Reproducible bytes that differ at every offset.
pub(crate) fn data(seed: u64, len: usize) -> Vec<u8> {
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
pub(crate) fn quick() -> Config {
    Config {
        grace: Duration::from_secs(20),
        grace_after_close: Duration::from_secs(20),
        linger: Duration::from_secs(2),
        back_off: BackOff { base: Duration::from_millis(10), cap: Duration::from_millis(100) },
        ..Config::default()
    }
}

/// A listener, a proxy before it, and a client connected through the proxy.
pub(crate) struct Ends {
    // Dropped in this order: what was not delivered yet still can be.
    pub(crate) client: VirtualStream,
    pub(crate) server: VirtualStream,
    pub(crate) proxy: Proxy,
    pub(crate) listener: VirtualListener,
}

pub(crate) fn proxy_to(addr: SocketAddr) -> Proxy {
    let local = SocketAddr::new(addr.ip(), 0);
    Proxy::spawn(ProxyConfig::new(local, addr)).unwrap()
}

pub(crate) fn ends(bind: &str, client: Config, server: Config) -> Ends {
    begin();
    let listener = VirtualListener::bind_with(bind, server).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let client = VirtualStream::connect_with(proxy.local_addr(), client).unwrap();
    let (server, _) = listener.accept().unwrap();
    Ends { client, server, proxy, listener }
}

pub(crate) fn pair() -> Ends {
    ends("127.0.0.1:0", quick(), quick())
}

/// Writes all of `bytes` from `stream` and ends that direction, while another thread reads to the
/// end; gives what was read.
pub(crate) fn send_and_end(mut stream: &VirtualStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

pub(crate) fn read_all(mut stream: &VirtualStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Moves `bytes` both ways at once, to the end of each direction, and checks them.
pub(crate) fn exchange(client: &VirtualStream, server: &VirtualStream, up: &[u8], down: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(client, up));
        scope.spawn(|| send_and_end(server, down));
        let at_server = scope.spawn(|| read_all(server));
        let at_client = scope.spawn(|| read_all(client));
        assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        assert!(at_client.join().unwrap() == down, "the client's bytes differ");
    });
}

/// Runs `work` while `fault` hits all open connections whenever so many more bytes have passed the
/// proxy: the first time exactly then, however late the thread that looks comes. Gives how many
/// connections were hit.
pub(crate) fn while_cutting(
    proxy: &Proxy,
    fault: &Fault,
    every: usize,
    work: impl FnOnce(),
) -> usize {
    let (stop, ready) = (AtomicBool::new(false), std::sync::Barrier::new(2));
    let planned = || proxy.stats().summary.plan_steps_done;
    let before = planned();
    proxy.inject_after(every as u64, fault.clone()).unwrap();
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| {
            ready.wait();
            let summary = proxy.stats().summary;
            let (mut hit, mut last) = (0, summary.up + summary.down);
            while !stop.load(Ordering::Relaxed) {
                let summary = proxy.stats().summary;
                if summary.up + summary.down >= last + every as u64 {
                    last = summary.up + summary.down;
                    hit += proxy.inject(fault.clone(), Target::Open).unwrap();
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            hit
        });
        let _stop = StopOnDrop(&stop);
        ready.wait();
        work();
        stop.store(true, Ordering::Relaxed);
        cutter.join().unwrap() + planned() - before
    })
}

/// Ends a helper thread also when the test panics, which would otherwise wait for it.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What this thread has used of the processor.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Reads until so many bytes are there.
pub(crate) fn read_exactly(mut stream: &VirtualStream, n: usize) -> Vec<u8> {
    let mut all = vec![0; n];
    stream.read_exact(&mut all).unwrap();
    all
}

/// Writes to a non-blocking stream until it takes no more; gives how much that was.
pub(crate) fn fill(mut stream: &VirtualStream, bytes: &[u8]) -> usize {
    let mut done = 0;
    loop {
        match stream.write(&bytes[done..]) {
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return done,
            Err(error) => panic!("fill: {error}"),
        }
        assert!(done < bytes.len(), "the window never shut");
    }
}

/// A close of the stream is to reset its session.
pub(crate) fn linger_zero(stream: &VirtualStream) {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1i32.to_ne_bytes());
    let number = std::os::fd::AsRawFd::as_raw_fd(stream);
    eversock_engine::posix::setsockopt(number, libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
}

/// Allows this process as many descriptors as the system lets it have: more than 1,024 are needed.
pub(crate) fn many_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is readable and writable.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}
