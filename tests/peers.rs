//! What a peer that keeps to no rule, or says nothing, can do to a process: nothing to others.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::limit::Limit;
use common::raw::{Raw, hear_hello, option};
use common::{MIB, StopOnDrop, begin, data, exchange, quick, read_exactly, wait_until};
use eversock::{Config, State, VirtualListener, VirtualStream};
use eversock_proto::open::OpenClient;
use eversock_proto::resume::{Reason, Reject, ResumeClient, ResumeError};
use eversock_proto::wire::frame::{Acks, Header, Kind};
use eversock_proto::wire::hello::MAGIC;

const PATIENCE: Duration = Duration::from_secs(90);

fn listen() -> (VirtualListener, SocketAddr) {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A raw client and the stream that the server has for it.
fn raw_pair() -> (Raw, VirtualStream) {
    let (listener, addr) = listen();
    let raw = Raw::open(addr);
    (raw, listener.accept().unwrap().0)
}

fn pair_through(listener: &VirtualListener) -> (VirtualStream, VirtualStream) {
    let addr = listener.local_addr().unwrap();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    (client, listener.accept().unwrap().0)
}

// ---------------------------------------------------------------------------------------------
// Owed bytes (review of the protocol, item 9)

/// A raw pair whose connection holds next to nothing towards the client.
fn narrow_pair() -> (Raw, VirtualStream) {
    let (listener, addr) = listen();
    let socket = with_small_buffer(addr);
    let raw = Raw::open_over(socket);
    let (server, _) = listener.accept().unwrap();
    option(&server, libc::SO_SNDBUF, 1);
    (raw, server)
}

/// The receive buffer has to be small before the connection is made.
fn with_small_buffer(addr: SocketAddr) -> TcpStream {
    use std::os::fd::FromRawFd;
    let SocketAddr::V4(v4) = addr else { panic!("an IPv4 address") };
    // SAFETY: makes a socket, which is ours alone.
    let stream = unsafe {
        let number = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(number >= 0);
        TcpStream::from_raw_fd(number)
    };
    option(&stream, libc::SO_RCVBUF, 8192);
    let name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let len = u32::try_from(size_of_val(&name)).unwrap();
    // SAFETY: the address is a valid `sockaddr_in` of that length.
    let result = unsafe { libc::connect(stream.as_raw_fd(), (&raw const name).cast(), len) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    stream
}

/// Far more than the buffers of a narrow pair hold, and less than the window.
const MUCH: usize = 90_000;

#[test]
fn a_frame_that_the_kernel_took_in_part_is_finished_although_the_program_only_sleeps() {
    let _limit = Limit::new("owed bytes", PATIENCE);
    let (mut raw, server) = narrow_pair();
    server.set_nonblocking(true).unwrap();
    let bytes = data(1, MUCH);
    assert_eq!((&server).write(&bytes).unwrap(), MUCH);
    // From here on the program makes no call.
    assert!(raw.read_exactly(MUCH) == bytes);
}

#[test]
fn a_frame_that_the_kernel_took_in_part_is_finished_while_the_program_waits_for_input() {
    let _limit = Limit::new("owed bytes", PATIENCE);
    let (mut raw, server) = narrow_pair();
    server.set_nonblocking(true).unwrap();
    let bytes = data(2, MUCH);
    assert_eq!((&server).write(&bytes).unwrap(), MUCH);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fd = server.as_raw_fd();
            let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
            while !matches!((&server).read(&mut [0; 10]), Ok(n) if n > 0) {
                assert_eq!(eversock::wait::poll(&mut fds, None).unwrap(), 1);
            }
        });
        assert!(raw.read_exactly(MUCH) == bytes);
        raw.write(b"seen");
    });
}

#[test]
fn an_ack_that_the_kernel_had_no_room_for_is_sent_although_the_program_only_sleeps() {
    let _limit = Limit::new("an owed ack", PATIENCE);
    let (mut raw, server) = narrow_pair();
    server.set_nonblocking(true).unwrap();
    let bytes = data(3, MUCH);
    assert_eq!((&server).write(&bytes).unwrap(), MUCH);
    let before = raw.session.tx.edge();
    let up = data(4, MUCH);
    raw.write(&up);
    server.set_nonblocking(false).unwrap();
    assert!(read_exactly(&server, MUCH) == up);
    // The kernel is full since before the ack was due, in the middle of a frame.
    assert!(raw.read_exactly(MUCH) == bytes);
    raw.take_until("the credit", |session| session.tx.edge() >= before + MUCH as u64 / 2);
}

/// It was flushed once, and what the kernel had no room for was forgotten.
#[test]
fn a_reset_that_the_kernel_has_no_room_for_is_told_behind_what_was_begun() {
    let _limit = Limit::new("an owed reset", PATIENCE);
    let (mut raw, server) = narrow_pair();
    server.set_nonblocking(true).unwrap();
    assert_eq!((&server).write(&data(5, MUCH)).unwrap(), MUCH);
    common::linger_zero(&server);
    drop(server);
    raw.take_until("the reset", |session| session.reset_by_peer().is_some());
}

// ---------------------------------------------------------------------------------------------
// Floods and stuck peers (items 17 and invariant 5)

fn flood_of(kind: Kind) -> Vec<u8> {
    let acks = Acks { ack: 0, window: 64 };
    let header = Header { kind, flags: 0, length: 0, acks };
    header.encode().repeat(4096)
}

/// Writes until told to stop, whatever becomes of it; counts what it has sent.
fn flood(stream: &TcpStream, bytes: &[u8], sent: &AtomicUsize, stop: &AtomicBool) {
    stream.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let at = sent.load(Ordering::Relaxed) % bytes.len();
        match (&*stream).write(&bytes[at..]) {
            Ok(n) => {
                sent.fetch_add(n, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(_) => break,
        }
    }
}

/// The engine reads for a session without credit: what a flood sends, it has to read.
#[test]
fn a_flood_of_control_frames_that_the_engine_reads_starves_no_other_session() {
    let _limit = Limit::new("a flood", PATIENCE);
    let (listener, _) = listen();
    let (client, server) = pair_through(&listener);
    for kind in [Kind::Ack, Kind::Addrs, Kind::Goaway] {
        let raw = Raw::open(listener.local_addr().unwrap());
        let (flooded, _) = listener.accept().unwrap();
        flooded.set_nonblocking(true).unwrap();
        common::fill(&flooded, &data(5, 8 * MIB));
        let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| flood(&raw.stream, &flood_of(kind), &sent, &stop));
            // The engine is needed for each cut and resume of the others, too.
            for round in 0..20 {
                let bytes = data(round, 50_000);
                (&client).write_all(&bytes).unwrap();
                assert!(read_exactly(&server, bytes.len()) == bytes);
                let resumes = client.info().unwrap().resumes;
                client.redial().unwrap();
                wait_until("a resume", || client.info().unwrap().resumes > resumes);
            }
            // The rounds may be over before the flood has had its turn on a busy machine.
            wait_until("the flood is read", || sent.load(Ordering::Relaxed) > 100_000);
        });
        assert_eq!(flooded.info().unwrap().state, State::Attached, "{kind:?}");
    }
}

#[test]
fn a_non_blocking_read_of_a_flood_of_control_frames_returns() {
    let _limit = Limit::new("a flood", PATIENCE);
    let (raw, server) = raw_pair();
    server.set_nonblocking(true).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| flood(&raw.stream, &flood_of(Kind::Ack), &AtomicUsize::new(0), &stop));
        for _ in 0..200 {
            let error = (&server).read(&mut [0; 10_000]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    });
}

/// Peers that never read, never acknowledge, or stop within a frame, each with a thread of the
/// program that is blocked on it.
#[test]
fn stuck_peers_delay_no_other_session() {
    let _limit = Limit::new("stuck peers", PATIENCE);
    let (listener, addr) = listen();
    let others: Vec<_> = (0..4).map(|_| pair_through(&listener)).collect();
    let mut stuck = Vec::new();
    for nth in 0..12 {
        let mut raw = Raw::open(addr);
        let (server, _) = listener.accept().unwrap();
        if nth % 3 == 0 {
            // A frame of which the larger half never comes.
            let header = Header { kind: Kind::Data, flags: 0, length: 1000, acks: Acks::default() };
            raw.stream.write_all(&header.encode()).unwrap();
            raw.stream.write_all(&[7; 400]).unwrap();
        } else if nth % 3 == 1 {
            raw.stream.write_all(&[2, 0, 0]).unwrap();
        }
        stuck.push((raw, server));
    }
    std::thread::scope(|scope| {
        for (_, server) in &stuck {
            scope.spawn(|| {
                // Returns when the peer is gone at last.
                while (&*server).write(&[1; 50_000]).is_ok() {}
            });
            scope.spawn(|| {
                let mut buf = [0; 1000];
                let mut got = 0;
                while let Ok(n) = (&*server).read(&mut buf) {
                    got += n;
                    assert!(n > 0 || got <= 400, "an end that was none");
                    if n == 0 {
                        break;
                    }
                }
            });
        }
        for (_, server) in &stuck {
            wait_until("its window is shut", || server.info().unwrap().log_used > 200_000);
        }
        std::thread::scope(|scope| {
            for (nth, (client, server)) in others.iter().enumerate() {
                let seed = nth as u64;
                scope.spawn(move || {
                    for round in 0..5 {
                        let resumes = client.info().unwrap().resumes;
                        client.redial().unwrap();
                        let bytes = data(seed + round, MIB);
                        std::thread::scope(|scope| {
                            scope.spawn(|| (&*client).write_all(&bytes).unwrap());
                            assert!(read_exactly(server, MIB) == bytes);
                        });
                        wait_until("a resume", || client.info().unwrap().resumes > resumes);
                    }
                    exchange(client, server, b"up", b"down");
                });
            }
        });
        for (raw, server) in &stuck {
            assert!(server.info().unwrap().log_used <= 4 * MIB as u64, "the log has no bound");
            assert!(eversock::kill(server.info().unwrap().local_id));
            let _gone = raw.stream.shutdown(std::net::Shutdown::Both);
        }
    });
}

// ---------------------------------------------------------------------------------------------
// Strangers (PROTOCOL 3, invariant 3)

/// True when the other end has closed; false when it says something or nothing.
fn is_closed(mut stream: &TcpStream) -> bool {
    let mut buf = [0; 1024];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                return !waits;
            }
        }
    }
}

fn stranger(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// All kinds of unfinished handshakes at once; each is over 10 s after it began, and not before.
#[test]
fn a_connection_that_has_not_finished_its_handshake_in_ten_seconds_is_dropped() {
    let _limit = Limit::new("strangers", PATIENCE);
    let (listener, addr) = listen();
    let (_, open) = OpenClient::start(&common::raw::offer(), [1; 32]).unwrap();
    let says: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("half an envelope", &MAGIC),
        ("an envelope", &open[..8]),
        ("all of OPEN but a byte", &open[..open.len() - 1]),
        ("OPEN and no CONFIRM", &open),
    ];
    let begun = Instant::now();
    let strangers = says.map(|(what, bytes)| {
        let mut stream = stranger(addr);
        stream.write_all(bytes).unwrap();
        (what, stream)
    });
    // One byte each half second does not buy time: the limit is the handshake's, not the silence's.
    let mut drips = stranger(addr);
    let mut dripped = 0;
    let mut dripping = true;
    let mut gone = [None; 5];
    while gone.iter().any(Option::is_none) || dripping {
        let since = begun.elapsed();
        assert!(since < Duration::from_secs(14), "not dropped: {gone:?}, {dripping}");
        if dripping && since >= Duration::from_millis(500) * dripped {
            dripping = drips.write(&open[dripped as usize..][..1]).is_ok() && !is_closed(&drips);
            dripped += 1;
        }
        for ((_, stream), gone) in strangers.iter().zip(&mut gone) {
            if gone.is_none() && is_closed(stream) {
                *gone = Some(since);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for ((what, _), gone) in strangers.iter().zip(gone) {
        assert!(gone >= Some(Duration::from_millis(9_900)), "{what}: dropped after {gone:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(9_900), "the drips were dropped early");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn more_strangers_than_there_are_places_push_out_the_oldest_and_keep_no_client_out() {
    let _limit = Limit::new("strangers", PATIENCE);
    begin();
    // All are of one address; what one may have is another test's affair.
    let config = Config { handshakes_per_source: 0, ..quick() };
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    let addr = listener.local_addr().unwrap();
    let (first, standing) = pair_through(&listener);
    let mut strangers: Vec<_> = (0..200).map(|_| stranger(addr)).collect();
    strangers.extend((0..200).map(|_| stranger(addr)));
    wait_until("the oldest is dropped", || is_closed(&strangers[0]));
    wait_until("all but 256 are dropped", || {
        strangers.iter().filter(|stream| !is_closed(stream)).count() == 256
    });
    assert!(strangers[..144].iter().all(is_closed), "not the oldest");
    // A newcomer, and the resume of a session that stands.
    let (second, other) = pair_through(&listener);
    exchange(&second, &other, b"up", b"down");
    first.redial().unwrap();
    wait_until("a resume", || first.info().unwrap().resumes == 1);
    exchange(&first, &standing, b"up", b"down");
}

/// The listener dropped its oldest handshake for each one beyond 256, however young it was: of 500
/// clients that connected at once a fourth lost their sessions, some of them without knowing it.
/// The same befell a burst from an address that had let others stall, as the tests beside it do.
#[test]
fn of_a_thousand_clients_that_connect_at_once_each_gets_a_session_that_carries_bytes() {
    let _limit = Limit::new("a burst", PATIENCE);
    common::many_descriptors();
    let (listener, addr) = listen();
    let connected = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = |number: usize| {
            let mut stream = VirtualStream::connect_with(addr, quick()).unwrap();
            connected.fetch_add(1, Ordering::Relaxed);
            let word = number.to_le_bytes();
            stream.write_all(&word).unwrap();
            assert_eq!(read_exactly(&stream, word.len()), word);
        };
        for number in 0..BURST {
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            thread.spawn_scoped(scope, move || client(number)).unwrap();
        }
        let streams: Vec<_> = (0..BURST).map(|_| listener.accept().unwrap().0).collect();
        for mut stream in &streams {
            let word = read_exactly(stream, size_of::<usize>());
            stream.write_all(&word).unwrap();
        }
    });
    assert_eq!(connected.into_inner(), BURST);
}

const BURST: usize = 1000;

/// As above, and each connection dies just before its CONFIRM: all of these clients believe that
/// their session stands.
#[test]
fn of_many_opens_that_were_cut_before_their_confirm_each_can_be_resumed() {
    let _limit = Limit::new("cut opens", PATIENCE);
    common::many_descriptors();
    let (listener, addr) = listen();
    let opened: Vec<_> = (0..BURST as u64)
        .map(|number| {
            let mut stream = TcpStream::connect(addr).unwrap();
            let (client, open) = OpenClient::start(&common::raw::offer(), seed(number)).unwrap();
            stream.write_all(&open).unwrap();
            client.answered(&hear_hello(&stream).unwrap()).unwrap().0
        })
        .collect();
    let resumed: Vec<_> = opened
        .iter()
        .map(|opened| {
            let mut stream = TcpStream::connect(addr).unwrap();
            let (id, secret) = (opened.id, &opened.secret);
            let (resume, message) = ResumeClient::start(id, secret, 2, 0, [3; 32]);
            stream.write_all(&message).unwrap();
            let answer = hear_hello(&stream).unwrap();
            let (receive, confirm) = resume.answered(secret, &answer).unwrap();
            assert_eq!(receive, 0);
            stream.write_all(&confirm).unwrap();
            // The program takes it before the backlog is full.
            (stream, listener.accept().unwrap().0)
        })
        .collect();
    assert_eq!(resumed.len(), BURST);
}

fn seed(number: u64) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}

/// Between the program's accept and the engine's hearing of it the session was "unknown", for which
/// a client takes a server that has lost it.
#[test]
fn a_session_that_has_just_been_accepted_is_never_called_unknown() {
    let _limit = Limit::new("just accepted", PATIENCE);
    let (listener, addr) = listen();
    for round in 0..200 {
        let mut raw = Raw::open(addr);
        let secret = raw.session.control.secret.clone();
        std::thread::scope(|scope| {
            let accepted = scope.spawn(|| listener.accept().unwrap());
            for _ in 0..6 {
                let (resume, message) = raw.session.control.resume(0, [round; 32]);
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.write_all(&message).unwrap();
                match resume.answered(&secret, &hear_hello(&stream).unwrap()) {
                    Ok(_) => {}
                    Err(ResumeError::Refused(reject)) => assert_eq!(reject.reason, Reason::Busy),
                    Err(error) => panic!("{error}"),
                }
            }
            accepted.join().unwrap()
        });
    }
}

#[test]
fn strangers_that_send_garbage_without_end_are_dropped_at_its_first_bytes() {
    let _limit = Limit::new("garbage", PATIENCE);
    let (listener, addr) = listen();
    let mut longest = [MAGIC.as_slice(), &[1, 1], &1016u16.to_le_bytes()].concat();
    longest.resize(1024, 0x5A);
    let too_long = [MAGIC.as_slice(), &[1, 1], &1017u16.to_le_bytes()].concat();
    let kinds = [vec![0xFF; 64 * 1024], data(1, 64 * 1024), too_long, longest];
    for (nth, garbage) in kinds.iter().cycle().take(40).enumerate() {
        let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let stream = TcpStream::connect(addr).unwrap();
        let begun = Instant::now();
        // Ends when the connection does; what was on its way by then is a kernel's buffers.
        flood(&stream, garbage, &sent, &stop);
        let sent = sent.into_inner();
        assert!(sent < 32 * MIB, "{nth}: {sent} bytes were taken");
        assert!(begun.elapsed() < Duration::from_secs(5), "{nth}: not dropped at once");
    }
    let (client, server) = pair_through(&listener);
    exchange(&client, &server, b"up", b"down");
}

/// Whoever has recorded a whole session cannot open, resume, end or disturb one with it.
#[test]
fn recorded_handshakes_said_again_over_real_sockets_change_nothing() {
    let _limit = Limit::new("recorded handshakes", PATIENCE);
    let (listener, addr) = listen();
    let mut raw = Raw::open(addr);
    let (server, _) = listener.accept().unwrap();
    // A resume, as the client would make it: the second epoch.
    let secret = raw.session.control.secret.clone();
    let receive = raw.session.rx.next();
    let (message, confirm, peer_receive, second) = loop {
        let (resume, message) = raw.session.control.resume(receive, [9; 32]);
        let mut second = TcpStream::connect(addr).unwrap();
        second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        second.write_all(&message).unwrap();
        let answer = hear_hello(&second).expect("an answer to RESUME");
        match resume.answered(&secret, &answer) {
            Ok((peer_receive, confirm)) => {
                second.write_all(&confirm).unwrap();
                break (message, confirm, peer_receive, second);
            }
            // It may still be on its way from the listener to the program.
            Err(ResumeError::Refused(reject)) => assert!(!reject.is_proven(&secret, &message)),
            Err(error) => panic!("{error}"),
        }
    };
    raw.stream = second;
    raw.session.begin_epoch(peer_receive).unwrap();
    raw.said.extend([message.clone(), confirm]);
    raw.transmit();
    raw.write(b"hello");
    assert_eq!(read_exactly(&server, 5), b"hello");

    listener.set_nonblocking(true).unwrap();
    let epoch = server.info().unwrap().epoch;
    for first in &raw.said {
        for second in &raw.said {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(first).unwrap();
            // The answer first: a server that has closed would reset what comes after.
            let heard = hear_hello(&stream);
            if *first == message {
                let reject = Reject::decode(&heard.unwrap()).unwrap();
                assert!(reject.is_proven(&secret, &message), "{reject}");
                continue;
            }
            let _gone = stream.write_all(second);
            let frames = Header { kind: Kind::Data, flags: 0, length: 5, acks: Acks::default() };
            let _gone = stream.write_all(&[&frames.encode()[..], b"steal"].concat());
            while hear_hello(&stream).is_some() {}
        }
    }
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "a session came of it"
    );
    assert_eq!(server.info().unwrap().epoch, epoch);
    raw.write(b"goes on");
    assert_eq!(read_exactly(&server, 7), b"goes on");
    (&server).write_all(b"both ways").unwrap();
    assert_eq!(raw.read_exactly(9), b"both ways");
}
