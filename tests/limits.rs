//! What a listener gives to one source, and to all of them together.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::limit::Limit;
use common::{StopOnDrop, begin, exchange, proxy_to, quick, read_exactly, wait_until};
use eversock::{Config, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Refusal, Target};

const PATIENCE: Duration = Duration::from_secs(60);

fn listen(config: Config) -> (VirtualListener, SocketAddr) {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn pair_through(listener: &VirtualListener) -> (VirtualStream, VirtualStream) {
    let addr = listener.local_addr().unwrap();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The errno of an attempt to open a session.
fn refusal(addr: SocketAddr) -> Option<i32> {
    VirtualStream::connect_with(addr, quick()).err().and_then(|error| error.raw_os_error())
}

/// A connection from another address of this machine, under way.
fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> std::io::Result<TcpStream> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// True when the other end has closed.
fn is_closed(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(error) => !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOTCONN)),
    }
}

/// Strangers who said nothing had all the places, 256 for a quarter of a second each, and honest
/// clients stood behind them in the kernel's queue.
#[test]
fn a_flood_from_one_address_keeps_nobody_of_another_waiting() {
    let _limit = Limit::new("a flood", PATIENCE);
    // SAFETY: reads and writes a local.
    unsafe {
        let mut files = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files), 0);
        files.rlim_cur = files.rlim_max.min(4096);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files), 0);
    }
    let (listener, addr) = listen(quick());
    let (stop, dropped) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            // As soon as one is dropped the next takes its place.
            let mut strangers: Vec<Option<TcpStream>> = (0..1000).map(|_| None).collect();
            while !stop.load(Ordering::Relaxed) {
                for stranger in &mut strangers {
                    if stranger.as_ref().is_some_and(is_closed) {
                        *stranger = None;
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    if stranger.is_none() {
                        *stranger = connect_from(Ipv4Addr::new(127, 0, 0, 2), addr).ok();
                    }
                }
                // A stranger who spins would only take the processor from the test.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        wait_until("the flood is there", || dropped.load(Ordering::Relaxed) >= 500);
        let begun = Instant::now();
        for _ in 0..30 {
            let (client, server) = pair_through(&listener);
            exchange(&client, &server, b"up", b"down");
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(12), "30 sessions took {took:?}");
    });
}

/// A burst of clients that go on with their handshakes is no flood, wherever it comes from.
#[test]
fn a_burst_of_clients_from_one_address_loses_none() {
    let _limit = Limit::new("a burst", PATIENCE);
    let (listener, addr) = listen(Config { handshakes_per_source: 1, ..quick() });
    let count = 100;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..count)
            .map(|_| scope.spawn(move || VirtualStream::connect_with(addr, quick()).unwrap()))
            .collect();
        let servers: Vec<_> = (0..count).map(|_| listener.accept().unwrap().0).collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        servers.iter().for_each(|mut server| server.write_all(b"x").unwrap());
        clients.iter().for_each(|client| assert_eq!(read_exactly(client, 1), b"x"));
    });
}

#[test]
fn a_listener_with_all_its_sessions_refuses_more_and_goes_on_with_those_it_has() {
    let _limit = Limit::new("a full listener", PATIENCE);
    let (listener, addr) = listen(Config { sessions_max: 3, ..quick() });
    let first = pair_through(&listener);
    let second = pair_through(&listener);
    // One that nobody has accepted counts too.
    let waits = VirtualStream::connect_with(addr, quick()).unwrap();
    assert_eq!(refusal(addr), Some(libc::ECONNREFUSED));
    // A resume is no new session.
    first.0.redial().unwrap();
    wait_until("a resume", || first.0.info().unwrap().resumes == 1);
    let third = (waits, listener.accept().unwrap().0);
    assert_eq!(refusal(addr), Some(libc::ECONNREFUSED));
    for (client, server) in [&first, &third] {
        exchange(client, server, b"up", b"down");
    }
    drop((first, second));
    wait_until("there is room again", || refusal(addr).is_none());
}

#[test]
fn a_listener_whose_sessions_hold_too_much_memory_refuses_more_until_they_hold_less() {
    let _limit = Limit::new("a full memory", PATIENCE);
    let (listener, addr) = listen(Config { memory_max: 100_000, ..quick() });
    let (client, mut server) = pair_through(&listener);
    server.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(n) = server.write(&[7; 10_000]) {
        written += n;
    }
    assert!(written > 180_000, "{written} bytes");
    assert_eq!(refusal(addr), Some(libc::ECONNREFUSED));
    assert_eq!(read_exactly(&client, written), vec![7; written]);
    wait_until("there is room again", || refusal(addr).is_none());
}

/// Nobody could end a session but its program, which may be gone from it, or its grace.
#[test]
fn an_operator_ends_a_session_that_waits_for_its_peer() {
    let _limit = Limit::new("a kill", PATIENCE);
    for closed in [false, true] {
        let (listener, addr) = listen(Config { sessions_max: 1, ..quick() });
        let proxy = proxy_to(addr);
        let client = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        wait_until("an outage", || server.info().unwrap().state == State::Detached);
        let session = server.info().unwrap().local_id;
        if closed {
            // With something to deliver, so that it lingers.
            server.write_all(b"unread").unwrap();
            drop(server);
            assert!(eversock::kill(session), "no such session");
        } else {
            assert!(eversock::kill(session), "no such session");
            let error = server.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "{error}");
        }
        wait_until("its place is free", || refusal(addr).is_none());
        proxy.inject(Fault::Heal, Target::All).unwrap();
        let error = (&client).read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "closed: {closed}: {error}");
    }
}
