//! Connects that are begun under a number of the program's own, and a listener that closes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use eversock_dedup::{ConnectOptions, Failed, Pool, PoolConfig, SharedConfig, SharedListener};
use eversock_engine::{Config, PresharedKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

const PATIENCE: Duration = Duration::from_secs(20);

/// A fresh TCP socket, as a program with an event loop makes it.
fn fresh() -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket")
}

/// An address at which nobody is, and nobody will be as long as what holds it lives.
fn nobody() -> (OwnedFd, SocketAddr) {
    let flags = SocketFlags::CLOEXEC;
    let holds = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("one");
    rustix::net::bind(&holds, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let addr = rustix::net::getsockname(&holds).expect("bound");
    (holds, SocketAddr::try_from(addr).expect("an address of IPv4"))
}

fn wait(socket: &OwnedFd, events: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(socket, events)];
    let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(poll(&mut fds, Some(&timeout)).expect("a poll"), 1, "nothing comes");
    fds[0].revents()
}

fn begin(pool: &Pool, socket: &OwnedFd, addr: SocketAddr) -> Receiver<Result<u64, Failed>> {
    let (sender, told) = channel();
    let done = move |result| sender.send(result).expect("somebody hears");
    let options = ConnectOptions::default();
    pool.begin_host(socket.as_raw_fd(), &[addr], None, &options, done).expect("begun");
    told
}

fn stream(socket: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn listener(config: SharedConfig) -> SharedListener {
    let any = "127.0.0.1:0".parse().expect("an address");
    SharedListener::bind_with(&[any], config).expect("a listener")
}

fn exchange(one: &mut TcpStream, other: &mut TcpStream) {
    let mut back = vec![0; 300_000];
    std::thread::scope(|scope| {
        scope.spawn(|| one.write_all(&[7; 300_000]).expect("written"));
        other.read_exact(&mut back).expect("read");
    });
    assert!(back.iter().all(|byte| *byte == 7));
}

#[test]
fn a_number_is_writable_when_its_connection_stands_and_carries_only_what_was_written() {
    let listener = listener(SharedConfig::default());
    let pool = Pool::new(PoolConfig::default()).expect("a pool");
    let sockets: Vec<OwnedFd> = (0..20).map(|_| fresh()).collect();
    let begun = sockets.iter().map(|socket| begin(&pool, socket, listener.local_addrs()[0]));
    let told: Vec<_> = begun.collect();
    for (socket, told) in sockets.into_iter().zip(told) {
        assert!(wait(&socket, PollFlags::OUT).contains(PollFlags::OUT));
        told.try_recv().expect("told before it is writable").expect("connected");
        let (mut near, (mut far, _)) = (stream(socket), listener.accept().expect("accepted"));
        far.set_read_timeout(Some(PATIENCE)).expect("set");
        // What kept the number from looking connected is nobody's, and does not arrive.
        near.write_all(b"x").expect("written");
        let mut one = [0; 2];
        assert_eq!(far.read(&mut one).expect("read"), 1);
        assert_eq!(one[0], b'x');
        exchange(&mut near, &mut far);
        exchange(&mut far, &mut near);
    }
    assert_eq!(pool.metrics().sessions_opened, 1);
    assert_eq!(listener.sessions_carried(), 1);
}

#[test]
fn a_number_whose_connect_fails_is_reset_and_what_was_wrong_is_told_in_words() {
    let key = |byte| Config { key: Some(PresharedKey([byte; 32])), ..Config::default() };
    let listener = listener(SharedConfig { session: key(1), ..SharedConfig::default() });
    let pool = Pool::new(PoolConfig { session: key(2), ..PoolConfig::default() }).expect("one");
    let (_holds, nobody) = nobody();
    let cases = [
        (listener.local_addrs()[0], libc::EACCES, "keys differ"),
        (nobody, libc::ECONNREFUSED, ""),
    ];
    for (addr, errno, why) in cases {
        let socket = fresh();
        let told = begin(&pool, &socket, addr);
        assert!(wait(&socket, PollFlags::OUT).contains(PollFlags::ERR));
        assert!(sockopt::socket_error(socket.as_fd()).expect("asked").is_err());
        let failed = told.try_recv().expect("told before it is reset").expect_err("refused");
        assert_eq!(failed.error.raw_os_error(), Some(errno), "{failed:?}");
        assert!(failed.why.as_deref().unwrap_or_default().contains(why), "{failed:?}");
    }
    assert_eq!(listener.sessions_carried(), 0);
}

#[test]
fn a_closed_listener_keeps_what_stands_and_gets_nobody_new() {
    let listener = listener(SharedConfig::default());
    let addr = listener.local_addrs()[0];
    let pool = Pool::new(PoolConfig::default()).expect("a pool");
    let mut near = pool.connect(addr).expect("connected");
    let (mut far, _) = listener.accept().expect("accepted");
    exchange(&mut near, &mut far);
    listener.close(3);
    let until = Instant::now() + PATIENCE;
    while pool.metrics().goaways == 0 {
        assert!(Instant::now() < until, "it is not heard");
        std::thread::yield_now();
    }
    // Refused, unless somebody else has got the port meanwhile.
    pool.connect(addr).map(drop).expect_err("nobody listens");
    exchange(&mut far, &mut near);
    exchange(&mut near, &mut far);
}

/// Reads to the end in small steps.
fn read_slowly(stream: &mut TcpStream) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let (mut all, mut buf) = (0, vec![0; 256 * 1024]);
    loop {
        match stream.read(&mut buf).expect("no error before the end") {
            0 => return all,
            n => all += n,
        }
    }
}

#[test]
fn what_a_slow_reader_has_left_on_the_way_outlives_its_session_s_linger() {
    let listener = listener(SharedConfig::default());
    let linger = Duration::from_millis(1);
    let pool = Pool::new(PoolConfig { linger, ..PoolConfig::default() }).expect("a pool");
    for _ in 0..5 {
        let mut near = pool.connect(listener.local_addrs()[0]).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        far.shutdown(Shutdown::Write).expect("ended");
        near.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
        let mut taken = 0;
        // Until the session has no credit left, and nothing else has room.
        while let Ok(n) = near.write(&[9; 64 * 1024]) {
            taken += n;
        }
        drop(near);
        assert_eq!(read_slowly(&mut far), taken);
    }
}

#[test]
fn what_was_written_before_the_end_of_its_pool_arrives() {
    let listener = listener(SharedConfig::default());
    for _ in 0..30 {
        let pool = Pool::new(PoolConfig::default()).expect("a pool");
        let mut near = pool.connect(listener.local_addrs()[0]).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        far.shutdown(Shutdown::Write).expect("ended");
        let heard = std::thread::spawn(move || read_slowly(&mut far));
        near.write_all(&[9; 1_000_000]).expect("written");
        drop((near, pool));
        assert_eq!(heard.join().expect("read"), 1_000_000);
    }
}

/// Found in review: a stream that came with the end of its session was reset, or hung.
#[test]
fn a_connection_that_is_opened_written_and_left_with_its_pool_arrives_whole() {
    let listener = listener(SharedConfig::default());
    for round in 0..40_u8 {
        let pool = Pool::new(PoolConfig::default()).expect("a pool");
        let mut near = pool.connect(listener.local_addrs()[0]).expect("connected");
        near.write_all(&[round; 10]).expect("written");
        drop((near, pool));
        let (mut far, _) = listener.accept().expect("accepted");
        far.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut all = Vec::new();
        far.read_to_end(&mut all).expect("to the end, which is none of a reset");
        assert_eq!(all, [round; 10]);
    }
}

#[test]
fn a_listener_ends_sessions_that_have_had_no_connection_for_long() {
    let idle = Duration::from_millis(100);
    let listener = listener(SharedConfig { idle, ..SharedConfig::default() });
    let linger = Duration::from_secs(3600);
    let pool = Pool::new(PoolConfig { linger, ..PoolConfig::default() }).expect("a pool");
    for _ in 0..3 {
        let mut near = pool.connect(listener.local_addrs()[0]).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        exchange(&mut near, &mut far);
        drop((near, far));
        let until = Instant::now() + PATIENCE;
        while pool.sessions() > 0 {
            assert!(Instant::now() < until, "the session stands");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert_eq!(pool.metrics().sessions_opened, 3);
}
