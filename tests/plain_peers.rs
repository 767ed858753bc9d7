//! Peers that do not speak eversock, for sockets that take them too (`Peers::Any`).
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{begin, data, exchange, quick, wait_until};
use eversock::{Config, VirtualListener, VirtualStream};
use eversock_engine::{Peers, posix};

const MIB: usize = 1024 * 1024;

fn any() -> Config {
    Config { peers: Peers::Any, ..quick() }
}

/// A virtual listener that takes plain clients too: its number and its address.
fn listener(config: Config) -> (RawFd, SocketAddr) {
    begin();
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(config)).unwrap();
    posix::bind(number, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    posix::listen(number, 8).unwrap();
    (number, posix::getsockname(number).unwrap().unwrap())
}

/// Takes the next connection, which must be a plain one, as it is.
fn accept_plain(listener: RawFd) -> (TcpStream, SocketAddr) {
    let (number, peer) = posix::accept4(listener, libc::SOCK_CLOEXEC).unwrap();
    assert!(!posix::is_virtual(number), "it is a virtual one");
    // SAFETY: accept has given it to us alone.
    (TcpStream::from(unsafe { OwnedFd::from_raw_fd(number) }), peer)
}

/// A socket that is being connected: its number, and what connect said.
fn connect(addr: SocketAddr, config: Config) -> (RawFd, io::Result<()>) {
    begin();
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(config)).unwrap();
    let result = posix::connect(number, addr);
    (number, result)
}

/// Connects to a plain peer; the stream that it gives is a plain one.
fn connect_plain(addr: SocketAddr) -> TcpStream {
    let (number, result) = connect(addr, any());
    result.unwrap();
    assert!(!posix::is_virtual(number), "it is a virtual one");
    // SAFETY: the number is ours alone, and nobody else's any more.
    TcpStream::from(unsafe { OwnedFd::from_raw_fd(number) })
}

#[test]
fn a_plain_client_reaches_the_program_with_every_byte_and_its_address() {
    let (number, addr) = listener(any());
    // Bytes that begin like ours included, and so few that they might yet become ours.
    for first in [&b"GET / HTTP/1.1\r\n"[..], b"\xEBx", b"\xEBEV\x00 and so on", b"\0"] {
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(first).unwrap();
        let (mut server, peer) = accept_plain(number);
        assert_eq!(peer, client.local_addr().unwrap());
        let mut got = vec![0; first.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, first);
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    }
    posix::close(number).unwrap();
}

#[test]
fn a_plain_client_that_ends_at_once_is_an_end_to_the_program() {
    let (number, addr) = listener(any());
    drop(TcpStream::connect(addr).unwrap());
    let (mut server, _) = accept_plain(number);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    posix::close(number).unwrap();
}

#[test]
fn a_silent_client_is_plain_where_the_server_speaks_first() {
    let (number, addr) = listener(Config { server_speaks_first: true, ..any() });
    let mut client = TcpStream::connect(addr).unwrap();
    let (mut server, _) = accept_plain(number);
    server.write_all(b"220 hello\r\n").unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    posix::close(number).unwrap();
}

#[test]
fn a_silent_client_is_not_handed_to_a_server_that_does_not_speak_first() {
    let (number, addr) = listener(any());
    let silent = TcpStream::connect(addr).unwrap();
    // Long after the silence that would make it plain elsewhere, somebody who speaks is first.
    let began = Instant::now();
    let config = Config { server_speaks_first: true, ..any() };
    let (other, other_addr) = listener(config);
    let elsewhere = TcpStream::connect(other_addr).unwrap();
    let _judged_there = accept_plain(other);
    let mut second = TcpStream::connect(addr).unwrap();
    second.write_all(b"second").unwrap();
    let (_server, peer) = accept_plain(number);
    assert_eq!(peer, second.local_addr().unwrap());
    assert!(began.elapsed() > Duration::from_millis(400), "nothing was waited for");
    drop((silent, elsewhere));
    posix::close(number).unwrap();
    posix::close(other).unwrap();
}

#[test]
fn plain_clients_wait_for_room_in_the_backlog_and_none_is_lost() {
    let (number, addr) = listener(any());
    posix::listen(number, 1).unwrap();
    let clients: Vec<TcpStream> = (0..12u8)
        .map(|at| {
            let mut client = TcpStream::connect(addr).unwrap();
            client.write_all(&[at]).unwrap();
            client
        })
        .collect();
    let mut seen: Vec<u8> = clients
        .iter()
        .map(|_| {
            let mut byte = [0];
            accept_plain(number).0.read_exact(&mut byte).unwrap();
            byte[0]
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<u8>>());
    posix::close(number).unwrap();
}

#[test]
fn a_client_that_takes_plain_peers_has_a_session_with_one_that_is_none() {
    let listener = VirtualListener::bind_with("127.0.0.1:0", any()).unwrap();
    let client = VirtualStream::connect_with(listener.local_addr().unwrap(), any()).unwrap();
    let (server, _) = listener.accept().unwrap();
    exchange(&client, &server, &data(1, MIB), &data(2, MIB));
}

#[test]
fn a_connect_falls_back_to_a_plain_connection_whatever_the_peer_makes_of_ours() {
    type Answer = fn(&mut TcpStream);
    // It speaks first; hangs up; resets; says our own words back; says nothing.
    let answers: [Answer; 5] = [
        |peer| peer.write_all(b"220 hello, this is no eversock\r\n").unwrap(),
        |peer| {
            let _some = peer.read(&mut [0; 1024]).unwrap();
        },
        |_| {},
        |peer| {
            let mut said = [0; 1024];
            let n = peer.read(&mut said).unwrap();
            peer.write_all(&said[..n]).unwrap();
        },
        |peer| peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap(),
    ];
    // All are kept: a port that comes again would be known for a plain peer's. Other tests' are at
    // other addresses.
    let mut peers = Vec::new();
    for (at, answer) in answers.into_iter().enumerate() {
        peers.push(TcpListener::bind("127.0.0.5:0").unwrap());
        let peer = peers.last().unwrap();
        let addr = peer.local_addr().unwrap();
        let hangs_up = matches!(at, 1 | 2);
        std::thread::scope(|scope| {
            let client = scope.spawn(move || {
                let mut stream = connect_plain(addr);
                assert_eq!(stream.peer_addr().unwrap(), addr);
                stream.write_all(b"plain words").unwrap();
                // Remembered: the second is plain from the start.
                drop(connect_plain(addr));
            });
            let (mut first, _) = peer.accept().unwrap();
            answer(&mut first);
            let kept = (!hangs_up).then_some(first);
            let (mut second, _) = peer.accept().unwrap();
            let mut words = Vec::new();
            second.read_to_end(&mut words).unwrap();
            assert_eq!(words, b"plain words", "answer {at}");
            let (mut third, _) = peer.accept().unwrap();
            assert_eq!(third.read_to_end(&mut words).unwrap(), 0, "something was said unasked");
            drop(kept);
            client.join().unwrap();
        });
    }
}

#[test]
fn a_connect_that_requires_eversock_fails_at_a_plain_peer() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = peer.local_addr().unwrap();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let (number, result) = connect(addr, quick());
            posix::close(number).unwrap();
            result.unwrap_err().raw_os_error()
        });
        let (mut first, _) = peer.accept().unwrap();
        first.write_all(b"220 hello, this is no eversock\r\n").unwrap();
        assert_eq!(client.join().unwrap(), Some(libc::EPROTO));
    });
}

#[test]
fn a_refused_connect_is_refused_and_not_tried_plainly() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (number, result) = connect(gone, any());
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    posix::close(number).unwrap();
}

/// Hangs up on whoever speaks eversock; gives the plain connection and its first byte. There may
/// be none to hang up on: the port may be one that was known for a plain peer a moment ago.
fn plain_connection(peer: &TcpListener) -> (TcpStream, u8) {
    loop {
        let (mut stream, _) = peer.accept().unwrap();
        // Who waits for words that nobody says any more is to fail, not to wait for ever.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        if byte[0] != eversock_proto::wire::hello::MAGIC[0] {
            return (stream, byte[0]);
        }
    }
}

#[test]
fn calls_that_sleep_through_a_fallback_go_on_with_the_plain_connection() {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = peer.local_addr().unwrap();
    std::thread::scope(|scope| {
        begin();
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(any())).unwrap();
        let result = posix::connect(number, addr);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        posix::set_nonblocking(number, false).unwrap();
        let reader = scope.spawn(move || {
            let mut buf = [0; 6];
            let n = posix::recv(number, &mut [io::IoSliceMut::new(&mut buf)], 0).unwrap();
            buf[..n].to_vec()
        });
        let writer = scope.spawn(move || {
            posix::send(number, &[io::IoSlice::new(b"words")], 0).unwrap();
        });
        // Both are inside by now, or will find the plain connection at once; either is right. (A
        // call that came to a number a moment after it had become plain was told ENOTSOCK.)
        let (mut second, first_byte) = plain_connection(&peer);
        let mut words = [first_byte, 0, 0, 0, 0];
        second.read_exact(&mut words[1..]).unwrap();
        assert_eq!(&words, b"words");
        second.write_all(b"answer").unwrap();
        assert_eq!(reader.join().unwrap(), b"answer");
        writer.join().unwrap();
        assert!(!posix::is_virtual(number));
        // SAFETY: the number is ours alone.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    });
}

/// A program asks whether its number is virtual and makes the call then: in between the number may
/// have become a plain connection. Each call must do there what the kernel's does.
#[test]
fn calls_in_the_moment_of_a_fallback_are_those_of_the_plain_connection() {
    // All are kept: a port that comes again would be known for a plain peer's.
    let mut peers = Vec::new();
    for _ in 0..50 {
        begin();
        peers.push(TcpListener::bind("127.0.0.4:0").unwrap());
        let peer = peers.last().unwrap();
        let addr = peer.local_addr().unwrap();
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(any())).unwrap();
        let result = posix::connect(number, addr);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        let (done, begun) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(20);
                while !done.load(Ordering::SeqCst) {
                    assert!(Instant::now() < until, "the peer was never found to be plain");
                    calls_of_a_connecting_program(number, addr);
                    begun.store(true, Ordering::SeqCst);
                }
            });
            wait_until("a round of calls", || begun.load(Ordering::SeqCst));
            drop(peer.accept());
            let (mut second, _) = peer.accept().unwrap();
            wait_until("the plain connection", || !posix::is_virtual(number));
            done.store(true, Ordering::SeqCst);
            caller.join().unwrap();
            second.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            posix::shutdown(number, libc::SHUT_WR).unwrap();
            assert_eq!(second.read(&mut [0]).unwrap(), 0);
            // Not ours to close, whatever the caller believed.
            assert_eq!(posix::close(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
            // SAFETY: the number is ours alone.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        });
    }
}

fn calls_of_a_connecting_program(number: RawFd, addr: SocketAddr) {
    let is_one_of = |result: io::Result<()>, allowed: &[i32], call: &str| {
        let number = result.err().and_then(|error| error.raw_os_error());
        assert!(number.is_none_or(|number| allowed.contains(&number)), "{call}: {number:?}");
    };
    let on = 1i32.to_ne_bytes();
    let level = libc::IPPROTO_TCP;
    is_one_of(posix::setsockopt(number, level, libc::TCP_NODELAY, &on), &[], "setsockopt");
    let read = posix::getsockopt(number, level, libc::TCP_NODELAY, &mut [0; 4]);
    is_one_of(read.map(drop), &[], "getsockopt");
    is_one_of(posix::getsockname(number).map(drop), &[], "getsockname");
    is_one_of(posix::getpeername(number).map(drop), &[libc::ENOTCONN], "getpeername");
    is_one_of(posix::connect(number, addr), &[libc::EALREADY, libc::EISCONN], "connect");
    let mut buf = [0; 1];
    let received = posix::recv(number, &mut [io::IoSliceMut::new(&mut buf)], libc::MSG_DONTWAIT);
    is_one_of(received.map(drop), &[libc::EAGAIN, libc::ENOTCONN], "recv");
    is_one_of(posix::readable_bytes(number).map(drop), &[libc::ENOTCONN], "FIONREAD");
    is_one_of(posix::unsent_bytes(number).map(drop), &[libc::ENOTCONN], "SIOCOUTQ");
    let copy = posix::dup(number).unwrap();
    if posix::close(copy).is_err() {
        // SAFETY: the number is ours alone, and is a plain one.
        drop(unsafe { OwnedFd::from_raw_fd(copy) });
    }
}

/// The edge came while the socket was still "connecting" to us, and was lost now and then.
#[test]
fn a_registration_in_epoll_holds_on_the_plain_connection_that_took_the_place() {
    for _ in 0..200 {
        holds_through_a_fallback();
    }
}

fn holds_through_a_fallback() {
    // An address of its own: what it makes known as plain is nobody else's port.
    let peer = TcpListener::bind("127.0.0.2:0").unwrap();
    let addr = peer.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut plain, byte) = plain_connection(&peer);
            plain.write_all(&[byte]).unwrap();
        });
        begin();
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(any())).unwrap();
        // SAFETY: takes no pointers.
        let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32;
        let event = libc::epoll_event { events, u64: 0xFEED };
        posix::epoll_ctl(set, libc::EPOLL_CTL_ADD, number, Some(event)).unwrap();
        let result = posix::connect(number, addr);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        let wait_for = |wanted: i32| {
            let mut out = [libc::epoll_event { events: 0, u64: 0 }; 4];
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                let limit = Some(Duration::from_secs(20));
                let n = posix::epoll_wait(set, &mut out, limit, std::ptr::null()).unwrap();
                assert!(n > 0 && Instant::now() < until, "nobody woke the wait");
                assert!(out[..n].iter().all(|event| { event.u64 } == 0xFEED));
                if out[..n].iter().any(|event| event.events & wanted.cast_unsigned() != 0) {
                    return;
                }
            }
        };
        // An unconnected socket is "writable" with a hang-up, as the kernel's own.
        while posix::is_virtual(number) {
            wait_for(libc::EPOLLOUT);
        }
        // SAFETY: the number is ours alone.
        let mut stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(number) });
        stream.write_all(b"x").unwrap();
        wait_for(libc::EPOLLIN);
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(stream);
        posix::forget_epoll(set);
        // SAFETY: ours, and used no more.
        unsafe { libc::close(set) };
    });
}
