//! What a proxy without faults does: nothing that the two sides could see.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use common::{LIMIT, is_reset, local, noise, passes, patient, read_all, rig, rig_with};
use eversock_chaos::{CloseReason, Config, EventKind, Plan, Proxy};

#[test]
fn random_bytes_pass_both_ways_at_once_and_unchanged() {
    let mut rig = rig("");
    let (client, server) = rig.pair();
    let (up, down) = (noise(9_000_001, 1), noise(5_000_003, 2));
    let send = |stream: &TcpStream, bytes: &[u8]| {
        let (mut stream, bytes) = (stream.try_clone().unwrap(), bytes.to_vec());
        thread::spawn(move || {
            // Odd pieces, so that they do not match any buffer.
            bytes.chunks(77_777).for_each(|piece| stream.write_all(piece).unwrap());
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    let receive = |mut stream: TcpStream| thread::spawn(move || read_all(&mut stream));
    let senders = [send(&client, &up), send(&server, &down)];
    let (at_client, at_server) = (receive(client), receive(server));
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let (got_up, end_up) = at_server.join().unwrap();
    let (got_down, end_down) = at_client.join().unwrap();
    assert!(got_up == up && got_down == down);
    end_up.unwrap();
    end_down.unwrap();
    let closed = rig.wait_for(|e| matches!(e.kind, EventKind::Closed { .. }));
    assert_eq!(closed.kind, EventKind::Closed { reason: CloseReason::Finished });
    assert_eq!((closed.up, closed.down), (up.len() as u64, down.len() as u64));
    let summary = rig.proxy.stop();
    assert_eq!((summary.up, summary.down), (up.len() as u64, down.len() as u64));
    assert_eq!((summary.accepted, summary.cuts, summary.open, summary.swallowed), (1, 0, 0, 0));
}

#[test]
fn a_half_close_is_forwarded_and_the_other_half_goes_on() {
    let rig = rig("");
    let (mut client, mut server) = rig.pair();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (bytes, end) = read_all(&mut server);
    assert_eq!(bytes, b"last words");
    end.unwrap();
    passes(&mut server, &mut client, &noise(300_000, 3)[..100_000]);
    drop(server);
    let (bytes, end) = read_all(&mut client);
    assert!(bytes.is_empty());
    end.unwrap();
    rig.wait_until("the connection is closed", |stats| stats.summary.open == 0);
}

#[test]
fn a_reset_by_one_side_resets_the_other() {
    let mut rig = rig("");
    let (client, mut server) = rig.pair();
    close_with_rst(client);
    assert!(is_reset(&read_all(&mut server).1));
    let closed = rig.wait_for(|e| matches!(e.kind, EventKind::Closed { .. }));
    assert_eq!(closed.kind, EventKind::Closed { reason: CloseReason::ClientReset });
    let (mut client, server) = rig.pair();
    close_with_rst(server);
    assert!(is_reset(&read_all(&mut client).1));
    assert_eq!(rig.proxy.stop().cuts, 0);
}

fn close_with_rst(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn a_receiver_that_does_not_read_blocks_nobody_else() {
    let rig = rig("");
    let (slow_client, slow_server) = rig.pair();
    slow_client.set_nonblocking(true).unwrap();
    let piece = noise(65_536, 4);
    let mut stuffed = 0;
    // Until all buffers on the way are full: the proxy's own is bounded.
    let start = std::time::Instant::now();
    loop {
        match (&slow_client).write(&piece) {
            Ok(n) => stuffed += n,
            Err(_) => {
                let pending = rig.proxy.stats().connections[0].pending;
                if pending >= 256 << 10 {
                    break;
                }
                thread::yield_now();
            }
        }
        assert!(start.elapsed() < LIMIT && stuffed < 100 << 20);
    }
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, &noise(1_000_000, 5)[..150_000]);
    assert_eq!(rig.proxy.stats().connections[0].pending, 256 << 10);
    drop((slow_server, slow_client));
}

#[test]
fn two_hundred_connections_at_once() {
    let rig = rig("");
    let server = rig.server.try_clone().unwrap();
    let echo = thread::spawn(move || {
        let echoes: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = patient(server.accept().unwrap().0);
                thread::spawn(move || {
                    let (bytes, end) = read_all(&mut stream);
                    end.unwrap();
                    stream.write_all(&bytes).unwrap();
                })
            })
            .collect();
        echoes.into_iter().for_each(|echo| echo.join().unwrap());
    });
    let clients: Vec<_> = (0..200).map(|_| rig.connect()).collect();
    for (index, client) in clients.iter().enumerate() {
        let mut client = client;
        client.write_all(&noise(10_000, index as u64)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for (index, mut client) in clients.into_iter().enumerate() {
        assert!(read_all(&mut client).0 == noise(10_000, index as u64));
    }
    echo.join().unwrap();
    assert_eq!(rig.proxy.stop().accepted, 200);
}

#[test]
fn connections_above_the_limit_wait_for_their_turn() {
    let rig = rig_with(Plan::none(), |config| config.max_connections = 1);
    let (first, first_server) = rig.pair();
    let mut second = rig.connect();
    second.write_all(b"waits").unwrap();
    assert_eq!(rig.proxy.stats().summary.accepted, 1);
    drop((first, first_server));
    let mut server = patient(rig.server.accept().unwrap().0);
    let mut got = [0; 5];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"waits");
}

#[test]
fn an_upstream_that_is_not_there_resets_the_client() {
    let nobody = TcpListener::bind(local()).unwrap().local_addr().unwrap();
    let mut rig = rig("");
    rig.proxy.set_upstream(nobody);
    assert_eq!(rig.proxy.upstream(), nobody);
    // The RST may come before connect() has looked.
    if let Ok(stream) = TcpStream::connect(rig.proxy.local_addr()) {
        assert!(is_reset(&read_all(&mut patient(stream)).1));
    }
    let closed = rig.wait_for(|e| matches!(e.kind, EventKind::Closed { .. }));
    assert_eq!(closed.kind, EventKind::Closed { reason: CloseReason::UpstreamUnreachable });
    let there = TcpListener::bind(local()).unwrap();
    rig.proxy.set_upstream(there.local_addr().unwrap());
    let mut client = rig.connect();
    let mut server = patient(there.accept().unwrap().0);
    passes(&mut client, &mut server, b"redirected");
    let summary = rig.proxy.stop();
    assert_eq!((summary.upstream_failures, summary.cuts), (1, 0));
}

#[test]
fn listens_on_ipv6_too() {
    let server = TcpListener::bind(local()).unwrap();
    let listen: SocketAddr = "[::1]:0".parse().unwrap();
    // A machine without IPv6 has nothing to test here.
    if TcpListener::bind(listen).is_err() {
        return;
    }
    let proxy = Proxy::spawn(Config::new(listen, server.local_addr().unwrap())).unwrap();
    assert!(proxy.local_addr().is_ipv6());
    let mut client = patient(TcpStream::connect(proxy.local_addr()).unwrap());
    let mut server = patient(server.accept().unwrap().0);
    passes(&mut client, &mut server, b"over v6 and v4");
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let taken = TcpListener::bind(local()).unwrap();
    let addr = taken.local_addr().unwrap();
    let error = Proxy::spawn(Config::new(addr, addr)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[test]
fn dropping_the_proxy_closes_everything() {
    let rig = rig("");
    let (mut client, mut server) = rig.pair();
    let addr = rig.proxy.local_addr();
    drop(rig.proxy);
    assert!(read_all(&mut client).0.is_empty() && read_all(&mut server).0.is_empty());
    TcpStream::connect(addr).unwrap_err();
}
