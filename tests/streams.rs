//! Blocking streams in threads, and what sockets promise besides bytes, while connections die.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{
    Ends, MIB, data, ends, exchange, fill, pair, proxy_to, quick, read_all, read_exactly,
    send_and_end, wait_until, while_cutting,
};
use eversock::{Config, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Refusal, Target};
use eversock_engine::posix;

/// Refuses all resumes and cuts what stands.
fn outage(ends: &Ends) {
    ends.proxy.inject(Fault::Refuse(Refusal::Reset(None)), Target::All).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("both ends know of the outage", || {
        ends.client.info().unwrap().state == State::Detached
            && ends.server.info().unwrap().state == State::Detached
    });
}

fn heal(ends: &Ends) {
    ends.proxy.inject(Fault::Heal, Target::All).unwrap();
}

fn sessions_at_once(count: usize, each: usize, every: usize) {
    common::begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let done = AtomicUsize::new(0);
    let hit = while_cutting(&proxy, &Fault::Reset, every, || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..count {
                    let (mut server, _) = listener.accept().unwrap();
                    scope.spawn(move || {
                        let which = read_exactly(&server, 1)[0];
                        server.write_all(&[which]).unwrap();
                        let down = data(1000 + u64::from(which), each);
                        std::thread::scope(|inner| {
                            inner.spawn(|| send_and_end(&server, &down));
                            assert!(read_all(&server) == data(u64::from(which), each));
                        });
                    });
                }
            });
            for which in 0..u8::try_from(count).unwrap() {
                let (proxy, done) = (&proxy, &done);
                scope.spawn(move || {
                    // A connect that is cut fails as a plain one does: nothing stands yet.
                    let mut client = loop {
                        match VirtualStream::connect_with(proxy.local_addr(), quick()) {
                            Ok(client) => break client,
                            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                        }
                    };
                    client.write_all(&[which]).unwrap();
                    let up = data(u64::from(which), each);
                    std::thread::scope(|inner| {
                        inner.spawn(|| send_and_end(&client, &up));
                        let got = read_all(&client);
                        assert_eq!(got[0], which);
                        assert!(got[1..] == data(1000 + u64::from(which), each));
                    });
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
    });
    assert_eq!(done.load(Ordering::Relaxed), count);
    assert!(hit >= 1, "nothing was cut");
}

#[test]
fn one_session_with_a_reader_and_a_writer_thread_on_each_side_survives_cuts() {
    sessions_at_once(1, 16 * MIB, 3 * MIB);
}

#[test]
fn eight_sessions_at_once_survive_cuts_of_all_of_them() {
    sessions_at_once(8, 2 * MIB, 4 * MIB);
}

#[test]
fn sixty_four_sessions_at_once_survive_cuts_of_all_of_them() {
    sessions_at_once(64, MIB / 2, 16 * MIB);
}

#[test]
fn a_read_time_out_is_one_deadline_although_connections_come_and_go() {
    let ends = pair();
    let limit = Duration::from_millis(300);
    ends.client.set_read_timeout(Some(limit)).unwrap();
    assert_eq!(ends.client.read_timeout().unwrap(), Some(limit));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        let _stop = common::StopOnDrop(&stop);
        let begun = Instant::now();
        let error = (&ends.client).read(&mut [0; 1]).unwrap_err();
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        // Began it again with each connection, it would not end at all.
        assert!(took >= limit && took < Duration::from_secs(10), "{took:?}");
    });
    (&ends.server).write_all(b"x").unwrap();
    assert_eq!(read_exactly(&ends.client, 1), b"x");
}

#[test]
fn a_write_time_out_holds_in_an_outage_and_nothing_is_lost_or_doubled() {
    let config = Config { window: 64 * 1024, window_max: 64 * 1024, ..quick() };
    let ends = ends("127.0.0.1:0", config.clone(), config);
    outage(&ends);
    let limit = Duration::from_millis(200);
    ends.client.set_write_timeout(Some(limit)).unwrap();
    let bytes = data(5, 200_000);
    let begun = Instant::now();
    let sent = (&ends.client).write(&bytes).unwrap();
    assert_eq!(sent, 64 * 1024);
    let error = (&ends.client).write(&bytes[sent..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let took = begun.elapsed();
    assert!(took >= 2 * limit && took < Duration::from_secs(10), "{took:?}");
    heal(&ends);
    ends.client.set_write_timeout(None).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(&ends.client, &bytes[sent..]));
        assert!(read_all(&ends.server) == bytes);
    });
}

#[test]
fn peek_shows_and_keeps_bytes_across_a_cut() {
    let ends = pair();
    (&ends.server).write_all(b"abcdef").unwrap();
    let mut buf = [0; 6];
    wait_until("all has come", || ends.client.peek(&mut buf).unwrap() == 6);
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("resumed", || ends.client.info().unwrap().resumes == 1);
    for _ in 0..3 {
        let mut buf = [0; 4];
        assert_eq!(ends.client.peek(&mut buf).unwrap(), 4);
        assert_eq!(&buf, b"abcd");
    }
    assert_eq!(read_exactly(&ends.client, 2), b"ab");
    (&ends.server).write_all(b"gh").unwrap();
    assert_eq!(read_exactly(&ends.client, 6), b"cdefgh");
    ends.server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ends.client.peek(&mut buf).unwrap(), 0);
    assert_eq!((&ends.client).read(&mut buf).unwrap(), 0);
}

#[test]
fn half_close_holds_across_cuts() {
    let ends = pair();
    (&ends.client).write_all(b"request").unwrap();
    outage(&ends);
    ends.client.shutdown(Shutdown::Write).unwrap();
    let error = (&ends.client).write(b"more").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    heal(&ends);
    assert_eq!(read_all(&ends.server), b"request");
    let answer = data(6, 4 * MIB);
    while_cutting(&ends.proxy, &Fault::Fin, MIB, || {
        std::thread::scope(|scope| {
            scope.spawn(|| send_and_end(&ends.server, &answer));
            assert!(read_all(&ends.client) == answer);
        });
    });
    assert_eq!((&ends.server).read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn both_sides_write_three_megabytes_before_they_read() {
    for cut in [false, true] {
        let ends = pair();
        let (up, down) = (data(7, 3 * MIB), data(8, 3 * MIB));
        let converse = |mut stream: &VirtualStream, out: &[u8]| {
            stream.write_all(out).unwrap();
            read_exactly(stream, out.len())
        };
        let work = || {
            std::thread::scope(|scope| {
                let at_client = scope.spawn(|| converse(&ends.client, &up));
                let at_server = scope.spawn(|| converse(&ends.server, &down));
                assert!(at_client.join().unwrap() == down);
                assert!(at_server.join().unwrap() == up);
            });
        };
        if cut {
            assert!(while_cutting(&ends.proxy, &Fault::Reset, MIB, work) >= 1);
        } else {
            work();
        }
    }
}

#[test]
fn a_side_that_never_reads_stops_the_writer_within_the_window_and_not_the_other_direction() {
    let config = Config { window: 128 * 1024, window_max: 256 * 1024, ..quick() };
    let ends = ends("127.0.0.1:0", config.clone(), config);
    let bytes = data(9, 8 * MIB);
    ends.client.set_nonblocking(true).unwrap();
    let mut sent = fill(&ends.client, &bytes);
    ends.client.set_nonblocking(false).unwrap();
    let blocked = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&ends.client).write_all(&bytes[sent..]).unwrap();
            blocked.store(false, Ordering::Relaxed);
        });
        // The other direction carries megabytes, through cuts, while the first stands still.
        let down = data(10, 4 * MIB);
        while_cutting(&ends.proxy, &Fault::Reset, MIB, || {
            std::thread::scope(|inner| {
                inner.spawn(|| (&ends.server).write_all(&down).unwrap());
                assert!(read_exactly(&ends.client, down.len()) == down);
            });
        });
        assert!(blocked.load(Ordering::Relaxed), "8 MiB went into a window of 256 KiB");
        for info in [ends.client.info().unwrap(), ends.server.info().unwrap()] {
            assert!(info.window <= 256 * 1024, "{info:?}");
            assert!(info.log_used <= 256 * 1024, "{info:?}");
            assert!(info.received - info.consumed <= 256 * 1024, "{info:?}");
        }
        assert!(read_exactly(&ends.server, bytes.len()) == bytes);
    });
    sent = bytes.len();
    assert_eq!(ends.client.info().unwrap().written, sent as u64);
}

#[test]
fn the_bytes_announced_as_readable_are_exact_at_frame_boundaries() {
    let ends = pair();
    let number = ends.client.as_raw_fd();
    let readable = || posix::readable_bytes(number).unwrap();
    assert_eq!(readable(), 0);
    let mut sent = Vec::new();
    // One frame each; control frames between them do not count.
    for (at, n) in [1usize, 15, 16, 17, 4096, 1].into_iter().enumerate() {
        let frame = data(at as u64, n);
        (&ends.server).write_all(&frame).unwrap();
        sent.extend_from_slice(&frame);
        wait_until("the frame has come", || readable() == sent.len());
    }
    let mut at = 0;
    for step in [1, 1, 13, 1, 1, 15, 17, 4000, 96, 2] {
        let n = step.min(sent.len() - at);
        assert_eq!(read_exactly(&ends.client, n), sent[at..at + n]);
        at += n;
        assert_eq!(readable(), sent.len() - at, "after {at} bytes");
        if at == 16 {
            // From here on some of it is read ahead, and some is not.
            assert_eq!(ends.client.peek(&mut [0; 3]).unwrap(), 3);
            (&ends.server).write_all(b"late").unwrap();
            sent.extend_from_slice(b"late");
            wait_until("the late frame has come", || readable() == sent.len() - at);
        }
    }
    assert_eq!(read_exactly(&ends.client, sent.len() - at), sent[at..]);
    assert_eq!(readable(), 0);
}

#[test]
fn clones_share_one_session_and_the_last_one_closes_it() {
    let ends = pair();
    let clone = ends.client.try_clone().unwrap();
    let third = posix::dup(ends.client.as_raw_fd()).unwrap();
    let Ends { client, server, proxy, listener: _listener } = ends;
    for round in 0..3 {
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        (&client).write_all(b"one").unwrap();
        (&clone).write_all(b"two").unwrap();
        posix::send(third, &[std::io::IoSlice::new(b"six")], 0).unwrap();
        assert_eq!(read_exactly(&server, 9), b"onetwosix", "round {round}");
        (&server).write_all(b"abc").unwrap();
        assert_eq!(read_exactly(&client, 1), b"a");
        assert_eq!(read_exactly(&clone, 2), b"bc");
    }
    drop(client);
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    (&clone).write_all(b"still").unwrap();
    assert_eq!(read_exactly(&server, 5), b"still");
    drop(clone);
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    posix::send(third, &[std::io::IoSlice::new(b"here")], 0).unwrap();
    assert_eq!(read_exactly(&server, 4), b"here");
    posix::close(third).unwrap();
    assert_eq!((&server).read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_peer_that_closes_with_bytes_unread_breaks_the_pipe_and_raises_no_signal() {
    let Ends { mut client, server, proxy: _proxy, listener: _listener } = pair();
    client.write_all(b"nobody reads this").unwrap();
    wait_until("it has come", || posix::readable_bytes(server.as_raw_fd()).unwrap() > 0);
    drop(server);
    // SIGPIPE is ignored by Rust's runtime; a handler would see it if it were raised.
    static SEEN: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: libc::c_int) {
        SEEN.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = handler;
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGPIPE, handler as libc::sighandler_t) };
    let block = vec![7; 64 * 1024];
    let error = (0..1000).find_map(|_| client.write_all(&block).err()).unwrap();
    let number = error.raw_os_error().unwrap();
    assert!([libc::EPIPE, libc::ECONNRESET].contains(&number), "{error}");
    assert_eq!(client.write(b"again").unwrap_err().raw_os_error(), Some(libc::EPIPE));
    assert!(!SEEN.load(Ordering::Relaxed), "SIGPIPE was raised");
    // With the C call's flags it is.
    let slices = [std::io::IoSlice::new(b"signal")];
    assert!(posix::send(client.as_raw_fd(), &slices, 0).is_err());
    assert!(SEEN.load(Ordering::Relaxed), "SIGPIPE was not raised");
}

#[test]
fn dropping_a_stream_delivers_what_was_written_although_it_is_cut_at_that_moment() {
    for round in 0..5 {
        let Ends { mut client, server, proxy, listener: _listener } = pair();
        let bytes = data(round, 3 * MIB);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_all(&server));
            client.write_all(&bytes).unwrap();
            if round % 2 == 0 {
                proxy.inject(Fault::Refuse(Refusal::ResetNext(3)), Target::All).unwrap();
            }
            proxy.inject(Fault::Reset, Target::Open).unwrap();
            drop(client);
            proxy.inject(Fault::Fin, Target::Open).unwrap();
            assert!(reader.join().unwrap() == bytes, "round {round}");
        });
    }
}

#[test]
fn linger_zero_resets_the_session() {
    let Ends { client, server, proxy: _proxy, listener: _listener } = pair();
    common::linger_zero(&client);
    drop(client);
    let error = (&server).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    assert_eq!((&server).read(&mut [0; 1]).unwrap(), 0);
    let error = (&server).write(b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}

/// A client that reset in an outage was forgotten, and its server waited for it until its grace of
/// 20 s was over.
#[test]
fn a_reset_in_an_outage_is_told_when_the_line_is_back() {
    for client_resets in [true, false] {
        let ends = pair();
        outage(&ends);
        common::linger_zero(if client_resets { &ends.client } else { &ends.server });
        let Ends { client, server, proxy, listener: _listener } = ends;
        let (resets, told) = if client_resets { (client, server) } else { (server, client) };
        drop(resets);
        proxy.inject(Fault::Heal, Target::All).unwrap();
        let begun = Instant::now();
        let error = (&told).read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET), "client: {client_resets}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "client: {client_resets}, told after {took:?}");
    }
}

fn int_option(stream: &VirtualStream, level: i32, name: i32) -> i32 {
    let mut value = [0; 4];
    assert_eq!(posix::getsockopt(stream.as_raw_fd(), level, name, &mut value).unwrap(), 4);
    i32::from_ne_bytes(value)
}

#[test]
fn options_are_set_again_on_every_new_connection() {
    let ends = pair();
    outage(&ends);
    let options = [
        (libc::IPPROTO_IP, libc::IP_TTL, 42),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 77),
        (libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 90_000),
    ];
    // Some are set while a connection stands, some in an outage.
    let set = |stream: &VirtualStream, (level, name, value): (i32, i32, i32)| {
        posix::setsockopt(stream.as_raw_fd(), level, name, &value.to_ne_bytes()).unwrap();
    };
    for stream in [&ends.client, &ends.server] {
        options[..2].iter().for_each(|&option| set(stream, option));
    }
    assert_eq!(int_option(&ends.client, libc::IPPROTO_IP, libc::IP_TTL), 42);
    heal(&ends);
    ends.client.wait_attached(Some(Duration::from_secs(20))).unwrap();
    ends.server.wait_attached(Some(Duration::from_secs(20))).unwrap();
    for stream in [&ends.client, &ends.server] {
        options[2..].iter().for_each(|&option| set(stream, option));
        stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    for _ in 0..3 {
        let before = [&ends.client, &ends.server].map(|stream| stream.info().unwrap().resumes);
        ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        for (stream, before) in [&ends.client, &ends.server].into_iter().zip(before) {
            wait_until("resumed", || {
                let info = stream.info().unwrap();
                info.resumes > before && info.state == State::Attached
            });
            for (level, name, value) in options {
                // The kernel doubles buffer sizes.
                let expected = if name == libc::SO_RCVBUF { 2 * value } else { value };
                assert_eq!(int_option(stream, level, name), expected, "{level}/{name}");
            }
            assert_eq!(stream.read_timeout().unwrap(), Some(Duration::from_millis(1500)));
            assert!(stream.nodelay().unwrap());
            assert_eq!(stream.ttl().unwrap(), 42);
        }
    }
}

#[test]
fn after_a_failure_the_last_confirmed_offset_can_be_asked_for() {
    let config = Config { grace: Duration::from_millis(300), ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    (&ends.client).write_all(&data(1, 100_000)).unwrap();
    read_exactly(&ends.server, 100_000);
    wait_until("confirmed", || ends.client.last_acked_offset().unwrap() == 100_000);
    outage(&ends);
    (&ends.client).write_all(&data(2, 1000)).unwrap();
    let error = (&ends.client).read(&mut [0; 1]).unwrap_err();
    assert!([libc::ECONNRESET, libc::ETIMEDOUT].contains(&error.raw_os_error().unwrap()));
    let info = ends.client.info().unwrap();
    assert_eq!((info.state, info.acked, info.written), (State::Failed, 100_000, 101_000));
    assert_eq!(ends.client.last_acked_offset().unwrap(), 100_000);
}

#[test]
fn sessions_over_ipv6_survive_cuts() {
    let ends = ends("[::1]:0", quick(), quick());
    let (up, down) = (data(1, 4 * MIB), data(2, 4 * MIB));
    let hit = while_cutting(&ends.proxy, &Fault::Reset, MIB, || {
        exchange(&ends.client, &ends.server, &up, &down);
    });
    assert!(hit >= 1, "no cut hit");
    assert!(ends.client.peer_addr().unwrap().is_ipv6());
    assert!(ends.server.local_addr().unwrap().is_ipv6());
}

#[test]
fn many_threads_that_read_one_session_share_its_bytes_without_loss() {
    let ends = pair();
    let bytes = data(21, 4 * MIB);
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u64::from(b)).sum::<u64>();
    let (read, total) = (AtomicUsize::new(0), std::sync::atomic::AtomicU64::new(0));
    while_cutting(&ends.proxy, &Fault::Reset, MIB, || {
        std::thread::scope(|scope| {
            scope.spawn(|| send_and_end(&ends.server, &bytes));
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut buf = vec![0; 10_007];
                    loop {
                        let n = (&ends.client).read(&mut buf).unwrap();
                        if n == 0 {
                            break;
                        }
                        read.fetch_add(n, Ordering::Relaxed);
                        total.fetch_add(sum(&buf[..n]), Ordering::Relaxed);
                    }
                });
            }
        });
    });
    assert_eq!(read.load(Ordering::Relaxed), bytes.len());
    assert_eq!(total.load(Ordering::Relaxed), sum(&bytes));
}

/// Small writes right behind each other go out together: each of them once, in order, whatever
/// becomes of the connection between two of them.
#[test]
fn bursts_of_writes_of_all_sizes_arrive_exactly_through_cuts() {
    let ends = pair();
    let (up, down) = (data(31, 8 * MIB), data(32, 8 * MIB));
    let write = |mut stream: &VirtualStream, bytes: &[u8]| {
        let mut rest = bytes;
        for size in
            (1_usize..).map(|n| (n % 307).pow(4) % 307 * if n.is_multiple_of(200) { 91 } else { 1 })
        {
            let (piece, left) = rest.split_at(size.min(rest.len()));
            stream.write_all(piece).unwrap();
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let hit = while_cutting(&ends.proxy, &Fault::Reset, MIB, || {
        std::thread::scope(|scope| {
            scope.spawn(|| write(&ends.client, &up));
            scope.spawn(|| write(&ends.server, &down));
            let at_server = scope.spawn(|| read_all(&ends.server));
            assert!(read_all(&ends.client) == down, "the client's bytes differ");
            assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        });
    });
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn many_threads_that_write_one_session_lose_nothing() {
    let ends = pair();
    // Each write call is one record; TCP keeps a call's bytes together only as far as they fit, so
    // the records are small.
    let records = 2000u32;
    while_cutting(&ends.proxy, &Fault::Reset, 8 * 1024, || {
        std::thread::scope(|scope| {
            for writer in 0..4u32 {
                let client = &ends.client;
                scope.spawn(move || {
                    for record in 0..records {
                        let word = (writer << 24 | record).to_be_bytes();
                        assert_eq!({ client }.write(&word).unwrap(), 4);
                    }
                });
            }
            let all = read_exactly(&ends.server, 4 * 4 * records as usize);
            let mut next = [0; 4];
            for word in all.chunks_exact(4) {
                let writer = usize::from(word[0]);
                let record = u32::from_be_bytes([0, word[1], word[2], word[3]]);
                assert_eq!(record, next[writer], "writer {writer}");
                next[writer] += 1;
            }
        });
    });
}

/// Acks were looked at when the window was exhausted: the log went round through 8 MiB of memory,
/// which no processor's cache near a core holds.
#[test]
fn a_program_that_only_writes_keeps_a_short_log_while_its_peer_keeps_pace() {
    let ends = pair();
    let piece = data(7, 64 << 10);
    let lengths = (0..2048).map(|_| {
        (&ends.client).write_all(&piece).unwrap();
        assert!(read_exactly(&ends.server, piece.len()) == piece);
        ends.client.info().unwrap().log_used
    });
    let longest = lengths.max().unwrap();
    // What the reader confirms at a time, and what is written between two looks.
    assert!(longest <= MIB as u64, "{longest}");
}
