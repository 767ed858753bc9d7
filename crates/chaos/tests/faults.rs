//! Every fault as the two sides see it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use common::{LIMIT, is_reset, is_silent, noise, passes, patient, read_all, rig, rig_with};
use eversock_chaos::{CloseReason, EventKind, Fault, Peer, Plan, Target};

/// Writes until the connection is gone; the proxy may cut it at any time.
fn pour(stream: &TcpStream, bytes: &[u8]) -> std::thread::JoinHandle<()> {
    let (mut stream, bytes) = (stream.try_clone().unwrap(), bytes.to_vec());
    std::thread::spawn(move || drop(stream.write_all(&bytes)))
}

#[test]
fn a_reset_comes_exactly_after_its_byte_up() {
    for cut in [1, 1000, 65_537, 1_234_567] {
        let mut rig = rig(&format!("after {cut} up reset"));
        let (mut client, mut server) = rig.pair();
        let bytes = noise(2_000_000, cut);
        let sender = pour(&client, &bytes);
        let (got, end) = read_all(&mut server);
        assert!(is_reset(&end), "{end:?}");
        assert_eq!(got.len() as u64, cut);
        assert!(got == bytes[..cut as usize]);
        sender.join().unwrap();
        let (got, end) = read_all(&mut client);
        // A writer may have taken the error already; then the reader sees the end.
        assert!(got.is_empty() && (is_reset(&end) || end.is_ok()), "{end:?}");
        let closed = rig.wait_for(|e| matches!(e.kind, EventKind::Closed { .. }));
        assert_eq!(closed.kind, EventKind::Closed { reason: CloseReason::Cut });
        assert_eq!((closed.conn, closed.up), (Some(1), cut));
        let summary = rig.proxy.stop();
        assert_eq!((summary.cuts, summary.cuts_flowing, summary.up), (1, 1, cut));
        assert_eq!((summary.plan_steps, summary.plan_steps_done), (1, 1));
    }
}

#[test]
fn a_fault_that_is_asked_for_later_comes_exactly_after_so_many_more_bytes() {
    let rig = rig("after 1000 reset");
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, &noise(600, 1));
    rig.proxy.inject_after(100_000, Fault::Fin).unwrap();
    let sender = pour(&client, &noise(2_000_000, 2));
    // The plan's own step first.
    let (got, end) = read_all(&mut server);
    assert!(is_reset(&end), "{end:?}");
    assert_eq!(got.len(), 400);
    sender.join().unwrap();
    let (client, mut server) = rig.pair();
    let sender = pour(&client, &noise(2_000_000, 3));
    let (got, end) = read_all(&mut server);
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(got.len(), 100_000 - 400);
    drop((client, server));
    sender.join().unwrap();
    let summary = rig.proxy.stop();
    assert_eq!((summary.plan_steps, summary.plan_steps_done, summary.cuts), (2, 2, 2));
}

#[test]
fn a_reset_comes_exactly_after_its_byte_down() {
    for cut in [1, 4096, 700_001] {
        let rig = rig(&format!("conn 1 after {cut} down reset"));
        let (mut client, server) = rig.pair();
        let bytes = noise(1_000_000, cut);
        let sender = pour(&server, &bytes);
        let (got, end) = read_all(&mut client);
        assert!(is_reset(&end), "{end:?}");
        assert!(got == bytes[..cut as usize], "{} of {cut}", got.len());
        sender.join().unwrap();
    }
}

#[test]
fn a_fin_comes_exactly_after_its_byte_and_both_sides_end_in_peace() {
    let rig = rig("after 100001 up fin");
    let (mut client, mut server) = rig.pair();
    let bytes = noise(100_001 + 50_000, 9);
    let sender = pour(&client, &bytes);
    let (got, end) = read_all(&mut server);
    end.unwrap();
    assert!(got == bytes[..100_001]);
    let (got, end) = read_all(&mut client);
    end.unwrap();
    assert!(got.is_empty());
    sender.join().unwrap();
    assert_eq!(rig.proxy.stop().cuts, 1);
}

#[test]
fn bytes_are_summed_over_directions_and_connections_unless_told_otherwise() {
    let mut total = rig("after 30 reset");
    let (mut client, mut server) = total.pair();
    passes(&mut client, &mut server, &[1; 10]);
    passes(&mut server, &mut client, &[2; 10]);
    drop((client, server));
    let (mut client, mut server) = total.pair();
    client.write_all(&[3; 50]).unwrap();
    let (got, end) = read_all(&mut server);
    assert!(is_reset(&end));
    assert_eq!(got, [3; 10]);
    assert_eq!(total.wait_for_fault("reset").conn, Some(2));

    let each = rig("each after 7 reset; conn 3 after 5 up reset");
    for expected in [7, 7, 5, 7] {
        let (mut client, mut server) = each.pair();
        client.write_all(&[4; 20]).unwrap();
        assert_eq!(read_all(&mut server).0, vec![4; expected]);
    }
    assert_eq!(each.proxy.stop().cuts, 4);
}

#[test]
fn every_so_many_bytes_again_and_again() {
    let rig = rig("every 1000 up reset");
    for _ in 0..5 {
        let (client, mut server) = rig.pair();
        let sender = pour(&client, &[5; 3000]);
        assert_eq!(read_all(&mut server).0.len(), 1000);
        sender.join().unwrap();
    }
    let summary = rig.proxy.stop();
    assert_eq!((summary.cuts, summary.up), (5, 5000));
    assert_eq!(summary.faults["reset"], 5);
}

#[test]
fn a_seeded_plan_cuts_as_often_as_it_says_and_always_alike() {
    let kinds = [Fault::Reset, Fault::Fin, Fault::HalfOpen { left_open: Peer::Client }];
    let bytes = noise(600_000, 11);
    let run = || {
        let rig = rig_with(Plan::seeded_from(11, 12, 600_000, &kinds), |_| {});
        let (mut lengths, mut sent) = (Vec::new(), 0);
        while sent < bytes.len() {
            let (mut client, mut server) = rig.pair();
            let rest = bytes[sent..].to_vec();
            let sender = std::thread::spawn(move || {
                // Fails as soon as the connection is cut, which is the purpose.
                drop(client.write_all(&rest));
                drop(client.shutdown(Shutdown::Write));
            });
            let (got, _) = read_all(&mut server);
            assert!(got == bytes[sent..sent + got.len()]);
            sent += got.len();
            lengths.push(got.len());
            drop(server);
            sender.join().unwrap();
        }
        let summary = rig.proxy.stop();
        assert_eq!((summary.cuts, summary.plan_steps_done), (12, 12), "{summary:?}");
        lengths
    };
    let lengths = run();
    assert_eq!(lengths.len(), 13);
    assert_eq!(run(), lengths);
}

#[test]
fn a_live_reset_takes_all_or_one() {
    let rig = rig("");
    let mut pairs = [rig.pair(), rig.pair(), rig.pair()];
    pairs.iter_mut().for_each(|(client, server)| passes(client, server, b"hello"));
    assert_eq!(rig.proxy.inject(Fault::Reset, Target::Conn(2)), Ok(1));
    let again = rig.proxy.inject(Fault::Reset, Target::Conn(2)).unwrap_err();
    assert!(again.to_string().contains("no open connection 2"), "{again}");
    assert!(is_reset(&read_all(&mut pairs[1].0).1) && is_reset(&read_all(&mut pairs[1].1).1));
    let (client, server) = &mut pairs[0];
    passes(client, server, b"still here");
    assert_eq!(rig.proxy.inject(Fault::Reset, Target::Open), Ok(2));
    assert!(is_reset(&read_all(&mut pairs[2].0).1) && is_reset(&read_all(&mut pairs[0].1).1));
    assert_eq!(rig.proxy.stop().cuts, 3);
}

#[test]
fn a_reset_loses_what_the_proxy_holds() {
    let rig = rig("always stall up");
    let (mut client, mut server) = rig.pair();
    client.write_all(b"never seen").unwrap();
    rig.wait_until("bytes wait", |s| s.connections.first().is_some_and(|c| c.pending == 10));
    assert!(rig.proxy.stats().connections[0].flowing);
    rig.proxy.inject(Fault::Reset, Target::All).unwrap();
    let (got, end) = read_all(&mut server);
    assert!(got.is_empty() && is_reset(&end));
    let summary = rig.proxy.stop();
    assert_eq!((summary.swallowed, summary.cuts_flowing), (10, 1));
}

#[test]
fn a_stall_holds_everything_and_loses_nothing() {
    let mut rig = rig("after 5 up stall up for 200ms");
    let (mut client, mut server) = rig.pair();
    client.write_all(b"12345678").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let struck = rig.wait_for_fault("stall");
    assert_eq!((struck.up, struck.flowing), (5, true));
    passes(&mut server, &mut client, b"the other way goes on");
    let (got, end) = read_all(&mut server);
    end.unwrap();
    assert_eq!(got, b"12345678");
    let ended = rig.proxy.stats().summary.elapsed;
    assert!(ended >= struck.at + Duration::from_millis(200), "{ended:?}");
}

#[test]
fn a_black_hole_swallows_one_way_until_it_is_healed() {
    let rig = rig("");
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"before");
    rig.proxy.inject("blackhole up".parse().unwrap(), Target::Conn(1)).unwrap();
    client.write_all(b"lost").unwrap();
    rig.wait_until("the bytes are swallowed", |stats| stats.summary.swallowed == 4);
    passes(&mut server, &mut client, b"down is open");
    assert!(is_silent(&mut server, Duration::from_millis(50)));
    rig.proxy.inject(Fault::Heal, Target::All).unwrap();
    passes(&mut client, &mut server, b"after");
    assert_eq!(rig.proxy.stop().cuts, 0);
}

#[test]
fn a_black_hole_hides_even_fin_and_rst_and_swallows_new_connections() {
    let rig = rig("at 0s blackhole both");
    let (mut client, mut server) = rig.pair();
    client.write_all(b"hello?").unwrap();
    rig.wait_until("the bytes are swallowed", |stats| stats.summary.swallowed == 6);
    drop(client);
    let (resetter, mut other) = rig.pair();
    socket2::SockRef::from(&resetter).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resetter);
    assert!(is_silent(&mut server, Duration::from_millis(50)));
    assert!(is_silent(&mut other, Duration::from_millis(10)));
    assert_eq!(rig.proxy.stats().summary.open, 2);
    drop((server, other));
    rig.wait_until("nothing is kept when both are gone", |stats| stats.summary.open == 0);
}

#[test]
fn a_black_hole_can_end_in_a_reset() {
    let mut rig = rig("");
    let (mut client, mut server) = rig.pair();
    let fault = "blackhole both for 60ms then reset".parse().unwrap();
    rig.proxy.inject(fault, Target::All).unwrap();
    client.write_all(b"lost").unwrap();
    assert!(is_reset(&read_all(&mut server).1) && is_reset(&read_all(&mut client).1));
    let (hole, reset) = (rig.wait_for_fault("blackhole"), rig.wait_for_fault("reset"));
    assert!(reset.at >= hole.at + Duration::from_millis(60));
    assert_eq!(rig.proxy.stop().cuts, 1);
}

#[test]
fn half_open_resets_one_side_and_leaves_the_other_in_the_dark() {
    let rig = rig("conn 1 after 10 up half-open; conn 2 after 10 up half-open server");
    let (mut client, mut server) = rig.pair();
    client.write_all(&[1; 20]).unwrap();
    let (got, end) = read_all(&mut server);
    assert!(is_reset(&end));
    assert_eq!(got.len(), 10);
    client.write_all(&[2; 100_000]).unwrap();
    assert!(is_silent(&mut client, Duration::from_millis(50)));
    let (mut client, mut server) = rig.pair();
    client.write_all(&[1; 10]).unwrap();
    assert!(is_reset(&read_all(&mut client).1));
    let mut got = [0; 10];
    std::io::Read::read_exact(&mut server, &mut got).unwrap();
    assert!(is_silent(&mut server, Duration::from_millis(50)));
    assert_eq!(rig.proxy.stop().cuts, 2);
}

#[test]
fn refusals_reset_or_do_not_listen() {
    let mut rig = rig("");
    let (mut old_client, mut old_server) = rig.pair();
    rig.proxy.inject("refuse 2 conns".parse().unwrap(), Target::All).unwrap();
    for _ in 0..2 {
        // The RST may come before connect() has looked.
        if let Ok(stream) = TcpStream::connect(rig.proxy.local_addr()) {
            assert!(is_reset(&read_all(&mut patient(stream)).1));
        }
    }
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"third time lucky");

    rig.proxy.inject("refuse closed for 150ms".parse().unwrap(), Target::All).unwrap();
    let error = TcpStream::connect(rig.proxy.local_addr()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    passes(&mut old_client, &mut old_server, b"those that are open go on");
    let closed = rig.wait_for(|e| e.kind == EventKind::ListenerClosed);
    let open = rig.wait_for(|e| e.kind == EventKind::ListenerOpen);
    assert!(open.at >= closed.at + Duration::from_millis(150));
    let (mut client, mut server) = rig.pair();
    passes(&mut client, &mut server, b"open again");

    rig.proxy.inject("refuse closed".parse().unwrap(), Target::All).unwrap();
    TcpStream::connect(rig.proxy.local_addr()).unwrap_err();
    rig.proxy.inject(Fault::Heal, Target::All).unwrap();
    rig.wait_for(|e| e.kind == EventKind::ListenerOpen);
    rig.pair();
    let summary = rig.proxy.stop();
    assert_eq!((summary.refused, summary.cuts, summary.accepted), (2, 0, 4));
}

/// The answer came before the listener was open: a client that dialled then, and would not again
/// for an hour, was refused (one in five runs of `a_change_of_the_network_ends_the_wait...`).
#[test]
fn who_hears_that_the_listener_is_healed_can_connect_at_once() {
    let rig = rig("");
    for _ in 0..100 {
        rig.proxy.inject("refuse closed".parse().unwrap(), Target::All).unwrap();
        TcpStream::connect(rig.proxy.local_addr()).unwrap_err();
        rig.proxy.inject(Fault::Heal, Target::All).unwrap();
        TcpStream::connect(rig.proxy.local_addr()).unwrap();
    }
}

#[test]
fn a_refusal_by_bytes_comes_also_when_the_connection_is_cut_at_the_same_byte() {
    let mut rig = rig("after 10 up reset; after 10 up refuse closed for 50ms");
    let (mut client, mut server) = rig.pair();
    client.write_all(&[1; 10]).unwrap();
    assert!(is_reset(&read_all(&mut server).1));
    rig.wait_for(|e| e.kind == EventKind::ListenerClosed);
    rig.wait_for(|e| e.kind == EventKind::ListenerOpen);
    rig.pair();
}

#[test]
fn old_bytes_come_again_before_the_reset() {
    let rig = rig("after 1000 up duplicate 300; conn 2 after 50 down duplicate 1MiB");
    let (mut client, mut server) = rig.pair();
    let bytes = noise(5000, 21);
    client.write_all(&bytes).unwrap();
    let (got, end) = read_all(&mut server);
    assert!(is_reset(&end));
    assert!(got == [&bytes[..1000], &bytes[700..1000]].concat(), "{}", got.len());
    let (mut client, mut server) = rig.pair();
    server.write_all(&bytes).unwrap();
    let (got, end) = read_all(&mut client);
    assert!(is_reset(&end));
    assert!(got == [&bytes[..50], &bytes[..50]].concat(), "{}", got.len());
    let summary = rig.proxy.stop();
    assert_eq!((summary.cuts, summary.replayed, summary.up, summary.down), (2, 350, 1000, 50));
}

#[test]
fn one_bit_of_one_byte_is_flipped() {
    let rig = rig("after 1000 up flip bit 3");
    let (mut client, mut server) = rig.pair();
    let mut bytes = noise(5000, 22);
    client.write_all(&bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    bytes[1000] ^= 8;
    assert!(read_all(&mut server).0 == bytes);
    let summary = rig.proxy.stop();
    assert_eq!((summary.flipped, summary.cuts), (1, 0));
}

#[test]
fn a_delay_makes_bytes_and_fin_late_but_keeps_their_order() {
    let rig = rig("always delay 50ms jitter 30ms");
    let (mut client, mut server) = rig.pair();
    let bytes = noise(1_000_000, 23);
    let start = Instant::now();
    for _ in 0..2 {
        passes(&mut client, &mut server, b"ping");
        passes(&mut server, &mut client, b"pong");
    }
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    let sender = pour(&client, &bytes);
    let mut got = vec![0; bytes.len()];
    std::io::Read::read_exact(&mut server, &mut got).unwrap();
    assert!(got == bytes);
    sender.join().unwrap();
    let start = Instant::now();
    client.shutdown(Shutdown::Write).unwrap();
    read_all(&mut server).1.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
}

#[test]
fn a_rate_is_kept_for_its_time() {
    let rig = rig("always rate 1MiB up");
    let (client, mut server) = rig.pair();
    let bytes = noise(300_000, 24);
    let start = Instant::now();
    let sender = pour(&client, &bytes);
    let mut got = vec![0; bytes.len()];
    std::io::Read::read_exact(&mut server, &mut got).unwrap();
    let elapsed = start.elapsed();
    sender.join().unwrap();
    assert!(got == bytes);
    // 286 ms, less the burst that may come at once. A busy machine can only make it longer.
    assert!(elapsed >= Duration::from_millis(250) && elapsed < LIMIT, "{elapsed:?}");
    rig.proxy.inject("rate 1 up for 100ms".parse().unwrap(), Target::All).unwrap();
    let sender = pour(&client, b"then fast again");
    let mut got = [0; 15];
    std::io::Read::read_exact(&mut server, &mut got).unwrap();
    assert_eq!(&got, b"then fast again");
    sender.join().unwrap();
}

#[test]
fn times_go_by_the_clock_of_their_scope() {
    let mut rig = rig("each at 80ms fin; every 400ms reset");
    let (mut client, server) = rig.pair();
    drop(server);
    let (_, end) = read_all(&mut client);
    end.unwrap();
    let (mut client, _server) = rig.pair();
    read_all(&mut client).1.unwrap();
    let opened = rig.wait_for(|e| e.conn == Some(2) && matches!(e.kind, EventKind::Opened { .. }));
    let fin = rig.wait_for(|e| e.conn == Some(2) && matches!(e.kind, EventKind::Fault { .. }));
    assert!(fin.at >= opened.at + Duration::from_millis(79), "{opened:?} {fin:?}");
}
