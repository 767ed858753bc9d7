//! A pool and a shared listener over real sockets of loopback.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eversock_dedup::state::Why;
use eversock_dedup::{ConnectOptions, Pool, PoolConfig, SharedConfig, SharedListener};
use eversock_engine::{Config, PresharedKey};

const PATIENCE: Duration = Duration::from_secs(20);

/// Fails the test when the condition does not come true in time.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn addrs(all: &[&str]) -> Vec<SocketAddr> {
    all.iter().map(|addr| addr.parse().expect("an address")).collect()
}

/// Echoes everything, ends when the client has ended.
fn echo(listener: SharedListener) -> Arc<SharedListener> {
    let listener = Arc::new(listener);
    let served = Arc::clone(&listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = served.accept() {
            thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let _gone = io::copy(&mut from, &mut to);
                let _gone = stream.shutdown(Shutdown::Write);
            });
        }
    });
    listener
}

fn shared(on: &[&str]) -> Arc<SharedListener> {
    let config = SharedConfig::default();
    echo(SharedListener::bind_with(&addrs(on), config).expect("a listener"))
}

fn pool(config: PoolConfig) -> Pool {
    Pool::new(config).expect("a pool")
}

fn set(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
}

fn says(mut stream: &TcpStream, text: &[u8]) {
    set(stream);
    stream.write_all(text).expect("written");
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).expect("echoed");
    assert_eq!(back, text);
}

#[test]
fn many_connections_to_four_addresses_share_one_session() {
    let server = shared(&["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0", "[::1]:0"]);
    let pool = pool(PoolConfig::default());
    let mut streams = Vec::new();
    for turn in 0..100 {
        let addr = server.local_addrs()[turn % 4];
        let stream = pool.connect(addr).expect("connected");
        says(&stream, format!("this is {turn}").as_bytes());
        streams.push(stream);
    }
    assert_eq!(pool.sessions(), 1, "{:?}", pool.metrics());
    let table = pool.table();
    assert_eq!(table.len(), 100);
    assert!(table.iter().all(|row| row.row.references == 100 && row.session == table[0].session));
    let metrics = pool.metrics();
    assert_eq!((metrics.opens, metrics.sessions_saved), (100, 99));
    for (turn, stream) in streams.iter().enumerate() {
        says(stream, format!("still {turn}").as_bytes());
    }
}

#[test]
fn a_hundred_threads_at_once_open_one_session() {
    let server = shared(&["127.0.0.1:0"]);
    let addr = server.local_addrs()[0];
    let pool = pool(PoolConfig::default());
    thread::scope(|scope| {
        for turn in 0..100 {
            let pool = &pool;
            scope.spawn(move || {
                let stream = pool.connect(addr).expect("connected");
                says(&stream, &[turn; 3000]);
            });
        }
    });
    assert_eq!(pool.metrics().sessions_opened, 1);
}

#[test]
fn megabytes_are_exact_and_each_direction_ends_by_itself() {
    let server = shared(&["127.0.0.1:0"]);
    let pool = pool(PoolConfig::default());
    let mut handles = Vec::new();
    for seed in 1..=4_u8 {
        let stream = pool.connect(server.local_addrs()[0]).expect("connected");
        set(&stream);
        handles.push(thread::spawn(move || {
            let data: Vec<u8> = (0..8_000_000_u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
                .collect();
            let sent = data.clone();
            let writer = stream.try_clone().expect("a copy");
            let write = thread::spawn(move || {
                (&writer).write_all(&sent).expect("written");
                writer.shutdown(Shutdown::Write).expect("ended");
            });
            let mut back = Vec::new();
            (&stream).read_to_end(&mut back).expect("to the end");
            write.join().expect("the writer");
            assert!(back == data, "{} of {} bytes", back.len(), data.len());
        }));
    }
    handles.into_iter().for_each(|handle| handle.join().expect("a connection"));
    wait_for("all are closed", || pool.table().is_empty());
}

#[test]
fn a_stuck_connection_stops_nobody_else() {
    let listener =
        SharedListener::bind_with(&addrs(&["127.0.0.1:0"]), SharedConfig::default()).expect("one");
    let pool = pool(PoolConfig::default());
    let addr = listener.local_addrs()[0];
    let stuck = pool.connect(addr).expect("connected");
    let (held, _) = listener.accept().expect("accepted");
    let writer = stuck.try_clone().expect("a copy");
    writer.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    // Nobody reads it: in the end nothing more is taken.
    let mut wrote = 0_usize;
    while let Ok(n) = (&writer).write(&[7; 65536]) {
        wrote += n;
        assert!(wrote < 64 * 1024 * 1024, "it is held without bound");
    }
    let echo = echo(listener);
    let other = pool.connect(echo.local_addrs()[0]).expect("connected");
    says(&other, &[1; 500_000]);
    assert_eq!(pool.sessions(), 1);
    drop(held);
    // It was left unread: the other end is told by a reset.
    let mut one = [0];
    set(&stuck);
    let told = (&stuck).read(&mut one).expect_err("a reset");
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn the_last_close_ends_the_session_after_the_linger_and_no_other_does() {
    let server = shared(&["127.0.0.1:0"]);
    let config = PoolConfig { linger: Duration::from_millis(200), ..PoolConfig::default() };
    let pool = pool(config);
    let mut streams: Vec<_> =
        (0..5).map(|_| pool.connect(server.local_addrs()[0]).expect("connected")).collect();
    streams.iter().for_each(|stream| says(stream, b"here"));
    let last = streams.pop().expect("five");
    drop(streams);
    wait_for("four are closed", || pool.table().len() == 1);
    says(&last, b"still here");
    assert_eq!(pool.sessions(), 1);
    drop(last);
    wait_for("the session is closed", || pool.sessions() == 0);
    let metrics = pool.metrics();
    assert_eq!((metrics.sessions_opened, metrics.opens), (1, 5));
}

#[test]
fn a_pool_s_end_does_not_wait_for_the_linger_and_loses_nothing() {
    let listener =
        SharedListener::bind_with(&addrs(&["127.0.0.1:0"]), SharedConfig::default()).expect("one");
    let pool = pool(PoolConfig::default());
    let stream = pool.connect(listener.local_addrs()[0]).expect("connected");
    let (mut served, _) = listener.accept().expect("accepted");
    set(&served);
    (&stream).write_all(&[9; 100_000]).expect("written");
    drop(stream);
    let begun = Instant::now();
    let mut all = Vec::new();
    served.read_to_end(&mut all).expect("to the end");
    assert_eq!(all.len(), 100_000);
    drop(served);
    wait_for("it is closed", || pool.table().is_empty());
    drop(pool);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn tags_services_and_keys_keep_connections_apart() {
    let server = shared(&["127.0.0.1:0"]);
    let addr = server.local_addrs()[0];
    let pool = pool(PoolConfig::default());
    let with = |tag: &str, service: &str| {
        let options = ConnectOptions {
            tag: tag.to_owned(),
            service: service.to_owned(),
            ..ConnectOptions::default()
        };
        pool.connect_with(addr, &options).expect("connected")
    };
    let all = [with("", ""), with("a", ""), with("a", ""), with("", "a"), with("b", "")];
    all.iter().for_each(|stream| says(stream, b"hello"));
    assert_eq!(pool.sessions(), 4);
    let metrics = pool.metrics();
    assert_eq!(metrics.refused.get(&Why::KeyDiffers), Some(&3), "{metrics:?}");
}

#[test]
fn a_pre_shared_key_names_the_server_by_its_process() {
    let session = Config { key: Some(PresharedKey([7; 32])), ..Config::default() };
    let config = SharedConfig { session: session.clone(), ..SharedConfig::default() };
    let on = addrs(&["127.0.0.1:0", "127.0.0.2:0"]);
    let server = echo(SharedListener::bind_with(&on, config).expect("a listener"));
    let pool = pool(PoolConfig { session, ..PoolConfig::default() });
    for addr in server.local_addrs() {
        says(&pool.connect(addr).expect("connected"), b"secret");
    }
    assert_eq!(pool.metrics().sessions_opened, 1);
    assert_eq!(pool.metrics().late_merges + pool.metrics().query_hits, 1);
    let other = Config { key: Some(PresharedKey([8; 32])), ..Config::default() };
    let stranger = Pool::new(PoolConfig { session: other, ..PoolConfig::default() }).expect("one");
    let error = stranger.connect(server.local_addrs()[0]).expect_err("another key");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
}

#[test]
fn nobody_there_is_told_as_of_any_connect() {
    let pool = pool(PoolConfig::default());
    // Bound, and not listening: nobody else gets the port meanwhile.
    let holds = {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket")
    };
    rustix::net::bind(&holds, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
    let closed = rustix::net::getsockname(&holds).expect("bound");
    let closed = SocketAddr::try_from(closed).expect("an address of IPv4");
    let error = pool.connect(closed).expect_err("nobody is there");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert!(pool.table().is_empty());
}

#[test]
fn goaway_moves_new_connections_to_another_session_and_keeps_the_old_ones() {
    let server = shared(&["127.0.0.1:0"]);
    let pool = pool(PoolConfig::default());
    let old = pool.connect(server.local_addrs()[0]).expect("connected");
    says(&old, b"before");
    server.go_away(1);
    wait_for("it is heard", || pool.metrics().goaways == 1);
    let new = pool.connect(server.local_addrs()[0]).expect("connected");
    says(&new, b"after");
    says(&old, b"still");
    assert_eq!(pool.sessions(), 2);
    drop(old);
    wait_for("the old one goes with its last connection", || pool.sessions() == 1);
    assert_eq!(pool.metrics().refused.get(&Why::GoAway), Some(&1));
}

#[test]
fn a_misdirected_connection_is_tried_once_more_with_all_that_it_has_said() {
    let server = shared(&["127.0.0.1:0"]);
    let pool = pool(PoolConfig::default());
    let addr = server.local_addrs()[0];
    let options = ConnectOptions { service: "moved".to_owned(), ..ConnectOptions::default() };
    server.misdirect("moved", true);
    let stream = pool.connect_with(addr, &options).expect("connected");
    set(&stream);
    // Both tries are refused.
    let mut one = [0];
    let told = (&*stream).read(&mut one).expect_err("a reset");
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(pool.metrics().misdirected, 2);
    wait_for("it is gone", || pool.table().is_empty());
    // The server has it again: what is remembered costs a session, no connection.
    server.misdirect("moved", false);
    let stream = pool.connect_with(addr, &options).expect("connected");
    says(&stream, b"hello");
}

#[test]
fn more_connections_than_a_session_takes_get_another() {
    let server = shared(&["127.0.0.1:0"]);
    let pool = pool(PoolConfig { streams_max: 2, ..PoolConfig::default() });
    let addr = server.local_addrs()[0];
    let streams: Vec<_> = (0..5).map(|_| pool.connect(addr).expect("connected")).collect();
    streams.iter().for_each(|stream| says(stream, b"room"));
    assert_eq!(pool.sessions(), 3);
    assert_eq!(pool.metrics().refused.get(&Why::StreamLimit), Some(&2));
}

#[test]
fn the_server_s_id_is_that_of_its_key_and_stays_over_restarts() {
    let key = eversock_engine::StaticKey::from_bytes([5; 32]);
    let session = Config { identity: Some(key), ..Config::default() };
    let config = SharedConfig { session, ..SharedConfig::default() };
    let pool = pool(PoolConfig::default());
    let mut ids = Vec::new();
    for _ in 0..2 {
        let on = addrs(&["127.0.0.1:0"]);
        let server = echo(SharedListener::bind_with(&on, config.clone()).expect("a listener"));
        let stream = pool.connect(server.local_addrs()[0]).expect("connected");
        says(&stream, b"one");
        ids.push(pool.table().last().expect("a row").row.server);
        assert_eq!(ids.last(), Some(&server.server_id()));
    }
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_client_that_does_not_share_is_accepted_as_any_other() {
    let listener =
        SharedListener::bind_with(&addrs(&["127.0.0.1:0"]), SharedConfig::default()).expect("one");
    let addr = listener.local_addrs()[0];
    let key = listener.server_key().expect("it has made itself one");
    let config =
        Config { server_key: Some(key), mode: eversock_engine::Mode::Pumped, ..Config::default() };
    let number = {
        use eversock_engine::posix;
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let number = posix::socket(libc::AF_INET, kind, 0, Arc::new(config)).expect("a socket");
        posix::connect(number, addr).expect("connected");
        number
    };
    let (served, about) = listener.accept().expect("accepted");
    assert!(!about.is_shared && about.requested.is_none());
    set(&served);
    let slices = [io::IoSlice::new(b"plain")];
    eversock_engine::posix::send(number, &slices, 0).expect("sent");
    let mut five = [0; 5];
    (&served).read_exact(&mut five).expect("read");
    assert_eq!(&five, b"plain");
    eversock_engine::posix::close(number).expect("closed");
    assert_eq!((&served).read(&mut five).expect("the end"), 0);
}

#[test]
fn a_server_that_does_not_share_gets_a_session_for_each() {
    use eversock_engine::posix;
    let config = Config { mode: eversock_engine::Mode::Pumped, ..Config::default() };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let listener = posix::socket(libc::AF_INET, kind, 0, Arc::new(config)).expect("a socket");
    posix::bind(listener, "127.0.0.1:0".parse().expect("an address")).expect("bound");
    posix::listen(listener, 16).expect("listening");
    let addr = posix::getsockname(listener).expect("open").expect("bound");
    thread::spawn(move || {
        while let Ok((number, _)) = posix::accept4(listener, libc::SOCK_CLOEXEC) {
            thread::spawn(move || {
                let mut buf = [0; 4096];
                loop {
                    let n = {
                        let mut slices = [io::IoSliceMut::new(&mut buf)];
                        posix::recv(number, &mut slices, 0).unwrap_or(0)
                    };
                    let slices = [io::IoSlice::new(&buf[..n])];
                    if n == 0 || posix::send(number, &slices, libc::MSG_NOSIGNAL).is_err() {
                        break;
                    }
                }
                let _closed = posix::close(number);
            });
        }
    });
    let pool = pool(PoolConfig::default());
    let streams: Vec<_> = (0..3).map(|_| pool.connect(addr).expect("connected")).collect();
    for stream in &streams {
        says(stream, &[3; 100_000]);
        stream.shutdown(Shutdown::Write).expect("ended");
        assert_eq!((&*stream).read(&mut [0]).expect("the end"), 0);
    }
    drop(streams);
    wait_for("they are gone", || pool.table().is_empty() && pool.sessions() == 0);
    assert_eq!(pool.metrics().refused.get(&Why::NoKey), Some(&3), "{:?}", pool.metrics());
}

#[test]
fn a_connection_that_is_given_up_while_it_waits_leaves_nothing() {
    // Accepted by the kernel, and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let pool = pool(PoolConfig::default());
    let options =
        ConnectOptions { timeout: Some(Duration::from_millis(200)), ..Default::default() };
    let error = pool.connect_with(silent.local_addr().expect("bound"), &options).expect_err("none");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    wait_for("nothing waits", || pool.table().is_empty() && pool.sessions() == 0);
}

/// Found in review: the news of room that sending makes came after the only place that heard it.
#[test]
fn what_is_written_once_arrives_although_it_is_more_than_a_queue() {
    let listener =
        SharedListener::bind_with(&addrs(&["127.0.0.1:0"]), SharedConfig::default()).expect("one");
    let pool = pool(PoolConfig::default());
    for size in [65_536, 65_537, 100_000, 262_144, 300_000] {
        let stream = pool.connect(listener.local_addrs()[0]).expect("connected");
        let (served, _) = listener.accept().expect("accepted");
        set(&served);
        set(&stream);
        (&stream).write_all(&vec![5; size]).expect("written");
        let mut back = vec![0; size];
        (&served).read_exact(&mut back).expect("all of it");
    }
}

/// Found in review: a preface and 64 KiB did not fit into a queue of 64 KiB.
#[test]
fn a_connection_that_is_sent_back_says_all_of_it_again() {
    let server = shared(&["127.0.0.1:0"]);
    let pool = pool(PoolConfig::default());
    let addr = server.local_addrs()[0];
    says(&pool.connect(addr).expect("connected"), b"a session stands");
    for round in 0..20 {
        // Whoever was begun before this is heard comes back, and goes over another session.
        server.go_away(0);
        let stream = pool.connect(addr).expect("connected");
        says(&stream, &vec![round; 200_000]);
    }
}

/// Found in review: nobody looked at the descriptor of a program that could write no more.
#[test]
fn a_program_that_is_killed_while_it_waits_for_room_resets_its_connection() {
    let listener =
        SharedListener::bind_with(&addrs(&["127.0.0.1:0"]), SharedConfig::default()).expect("one");
    let pool = pool(PoolConfig::default());
    let stream = pool.connect(listener.local_addrs()[0]).expect("connected");
    let (served, _) = listener.accept().expect("accepted");
    set(&served);
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    while (&stream).write(&[1; 65_536]).is_ok() {}
    // As the kernel closes it for a program that was killed with something unread.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
    drop(stream);
    wait_for("the pool has noticed", || pool.table().is_empty());
    let mut buf = vec![0; 1 << 20];
    let told = loop {
        match (&served).read(&mut buf) {
            Ok(0) => panic!("a reset looks like an end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(told.kind(), io::ErrorKind::ConnectionReset, "{told}");
}

#[test]
fn a_callback_that_drops_the_last_pool_or_panics_harms_nobody() {
    let server = shared(&["127.0.0.1:0"]);
    let addr = server.local_addrs()[0];
    let fresh = || {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket")
    };
    use std::os::fd::AsRawFd;
    let pool = pool(PoolConfig::default());
    let (number, options) = (fresh(), ConnectOptions::default());
    let done = |_| panic!("a callback that panics, on purpose");
    pool.begin(number.as_raw_fd(), &[addr], &options, done).expect("begun");
    wait_for("it is connected all the same", || pool.table().len() == 1);
    says(&pool.connect(addr).expect("connected"), b"and goes on");
    let (tell, told) = std::sync::mpsc::channel();
    let (last, second) = (pool.clone(), fresh());
    let done = move |_| {
        let dead = last.connect(addr).expect_err("it would wait for itself");
        drop(last);
        tell.send(dead.raw_os_error()).expect("somebody hears");
    };
    pool.begin(second.as_raw_fd(), &[addr], &options, done).expect("begun");
    drop(pool);
    assert_eq!(told.recv_timeout(PATIENCE).expect("not hung"), Some(libc::EDEADLK));
}
