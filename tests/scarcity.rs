//! Programs that lack memory, buffers or descriptors at any call: nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::child::{Helper, hear, role, say};
use common::limit::Limit;
use common::own::from_environment;
use common::seccomp::{refuse_shared_memory, scarce};
use common::{
    MIB, begin, data, proxy_to, quick, read_all, read_exactly, wait_until, while_cutting,
};
use eversock::{Config, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Proxy, Refusal, Target};

const PATIENCE: Duration = Duration::from_secs(100);

/// The calls that a session lives by, and what each may lack (man pages, section 2).
const SCARCE: &[(libc::c_long, &[i32])] = &[
    (libc::SYS_socket, &[libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE]),
    (libc::SYS_socketpair, &[libc::EMFILE, libc::ENFILE, libc::ENOMEM]),
    (libc::SYS_connect, &[libc::ENOBUFS, libc::ENOMEM]),
    (libc::SYS_accept4, &[libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE]),
    (libc::SYS_sendmsg, &[libc::ENOBUFS, libc::ENOMEM]),
    (libc::SYS_sendto, &[libc::ENOBUFS, libc::ENOMEM]),
    (libc::SYS_recvmsg, &[libc::ENOMEM, libc::ENOBUFS]),
    (libc::SYS_recvfrom, &[libc::ENOMEM, libc::ENOBUFS]),
    (libc::SYS_epoll_ctl, &[libc::ENOMEM, libc::ENOSPC]),
    (libc::SYS_eventfd2, &[libc::EMFILE, libc::ENOMEM]),
];

fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::ENOBUFS | libc::ENOMEM | libc::EMFILE | libc::ENFILE))
}

/// Until it does not fail for a shortage.
fn stubborn<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
    for _ in 0..100_000 {
        match call() {
            Ok(done) => return done,
            Err(error) => assert!(is_shortage(&error), "{error:?}"),
        }
    }
    panic!("always short of something");
}

fn one_stream(argument: &str) -> (VirtualStream, Option<VirtualListener>) {
    if let Ok(addr) = argument.parse::<SocketAddr>() {
        return (stubborn(|| VirtualStream::connect_with(addr, quick())), None);
    }
    let listener = stubborn(|| VirtualListener::bind_with("127.0.0.1:0", quick()));
    say(&listener.local_addr().unwrap().to_string());
    (stubborn(|| listener.accept()).0, Some(listener))
}

/// Sends back all that comes.
fn echo(mut stream: &VirtualStream) {
    let mut buf = vec![0; 60_001];
    loop {
        let n = stubborn(|| stream.read(&mut buf));
        if n == 0 {
            return;
        }
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            let n = stubborn(|| stream.write(rest));
            rest = &rest[n..];
        }
    }
}

#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    begin();
    match role.as_str() {
        "scarce" => {
            let (seed, argument) = argument.split_once(' ').unwrap();
            let scarcity = scarce(SCARCE, 12, seed.parse().unwrap());
            let (stream, listener) = one_stream(argument);
            scarcity.on.store(true, Ordering::SeqCst);
            echo(&stream);
            scarcity.on.store(false, Ordering::SeqCst);
            say(&scarcity.failed.load(Ordering::SeqCst).to_string());
            drop((stream, listener));
        }
        "unshared" => unshared(&argument),
        "no-memory" => no_memory(),
        "full-client" => full_client(argument.parse().unwrap()),
        "cut-when-full" => cut_when_full(argument.parse().unwrap()),
        "cut-when-full-for-good" => cut_when_full_for_good(argument.parse().unwrap()),
        "full-server" => full_server(argument.parse().unwrap()),
        other => panic!("no role {other}"),
    }
}

/// A helper in this role with a session through a proxy, as its client or its server.
fn with_helper(
    role: &str,
    argument: &str,
    is_client: bool,
) -> (VirtualStream, Proxy, Helper, Option<VirtualListener>) {
    begin();
    if is_client {
        let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
        let proxy = proxy_to(listener.local_addr().unwrap());
        let argument = format!("{argument}{}", proxy.local_addr());
        let helper = Helper::spawn("helper_process", role, &argument);
        let (stream, _) = listener.accept().unwrap();
        return (stream, proxy, helper, Some(listener));
    }
    let mut helper = Helper::spawn("helper_process", role, &format!("{argument}listen"));
    let proxy = proxy_to(helper.addr());
    let stream = VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    (stream, proxy, helper, None)
}

fn echoed(stream: &VirtualStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut to = stream;
            to.write_all(bytes).unwrap();
        });
        assert!(read_exactly(stream, bytes.len()) == bytes, "what comes back differs");
    });
}

/// `EVERSOCK_RUNS` sets how many sessions live through it, `EVERSOCK_SEED` the first seed.
fn lives_in_scarcity(is_client: bool) {
    let runs = from_environment("EVERSOCK_RUNS", 4);
    let first = from_environment("EVERSOCK_SEED", 1);
    for seed in first..first + runs {
        let _limit = Limit::new("scarcity", PATIENCE);
        let argument = format!("{seed} ");
        let (stream, proxy, mut helper, _listener) = with_helper("scarce", &argument, is_client);
        while_cutting(&proxy, &Fault::Reset, MIB / 2, || echoed(&stream, &data(seed, 4 * MIB)));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "seed {seed}");
        let failed: u64 = helper.word().parse().unwrap();
        let resumes = stream.info().unwrap().resumes;
        println!("seed {seed}: {failed} calls failed, {resumes} resumes");
        assert!(failed >= 10, "seed {seed}: only {failed} calls failed");
        drop(stream);
        assert!(helper.end().success(), "seed {seed}");
    }
}

#[test]
fn a_server_lives_where_any_call_may_lack_memory_or_descriptors() {
    lives_in_scarcity(false);
}

#[test]
fn a_client_lives_where_any_call_may_lack_memory_or_descriptors() {
    lives_in_scarcity(true);
}

/// The system's allocator, which has no large pieces for the thread that is named here.
struct Allocator(AtomicU32);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(AtomicU32::new(0));

const LARGE_BYTES: usize = 4096;

impl Allocator {
    fn has(&self, size: usize) -> bool {
        let poor = self.0.load(Ordering::Relaxed);
        // SAFETY: gives a number.
        size < LARGE_BYTES || poor == 0 || poor != unsafe { libc::gettid() }.unsigned_abs()
    }
}

// SAFETY: all is the system's, or a refusal, which an allocator may give.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        if self.has(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's piece and layout, which the system gave.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Writes where there is memory for the bytes at every other call only.
fn no_memory() {
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let client = VirtualStream::connect_with(listener.local_addr().unwrap(), quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let bytes = data(3, 8 * MIB);
    let refused = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&server));
        let (mut rest, mut refused, mut call) = (bytes.as_slice(), 0, 0);
        while !rest.is_empty() {
            // The first is refused, as nothing has come back to the pool yet. Sizes on both sides
            // of the short way for small messages.
            let piece = &rest[..rest.len().min([200_000, 100, 3000][call % 3])];
            // SAFETY: gives a number.
            let poor = if call % 2 == 0 { unsafe { libc::gettid() } } else { 0 };
            ALLOCATOR.0.store(poor.unsigned_abs(), Ordering::Relaxed);
            let wrote = (&client).write(piece);
            ALLOCATOR.0.store(0, Ordering::Relaxed);
            call += 1;
            match wrote {
                Ok(n) => rest = &rest[n..],
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error}");
                    refused += 1;
                }
            }
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap() == bytes, "what was read differs");
        refused
    });
    assert!(refused > 0, "nothing was refused");
}

/// It ended the program.
#[test]
fn a_write_without_memory_for_its_bytes_says_so_and_takes_none() {
    let _limit = Limit::new("no memory", PATIENCE);
    begin();
    assert!(Helper::spawn("helper_process", "no-memory", "").end().success());
}

/// Forks where no memory can be shared with a child.
fn unshared(argument: &str) {
    // mmap is the allocator's and the threads' too; what it gives is shared by MAP_SHARED alone.
    refuse_shared_memory();
    let (stream, listener) = one_stream(argument);
    // SAFETY: one thread besides the engine's, for which eversock has hooks around fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let told = (&stream).write(b"mine");
        let is_refused = told.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET));
        // SAFETY: ends the process; nothing is left to be run.
        unsafe { libc::_exit(i32::from(!is_refused)) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    say(&format!("{status}"));
    echo(&stream);
    drop((stream, listener));
}

/// The word that says who has a session was then a private one, and both could claim it: a clear
/// stream got out of step, a sealed one used a nonce twice.
#[test]
fn a_child_gets_no_session_when_no_memory_can_be_shared_with_it() {
    for is_client in [false, true] {
        let _limit = Limit::new("unshared", PATIENCE);
        let (stream, proxy, mut helper, _listener) = with_helper("unshared", "", is_client);
        assert_eq!(helper.word(), "0", "the child's status");
        while_cutting(&proxy, &Fault::Reset, MIB / 2, || echoed(&stream, &data(5, 4 * MIB)));
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
        drop(stream);
        assert!(helper.end().success());
    }
}

// ---------------------------------------------------------------------------------------------
// No descriptors left

/// Takes every descriptor that there is.
fn take_all_descriptors() -> Vec<File> {
    let mut files = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                return files;
            }
        }
    }
}

/// Lowers how many descriptors this process may have.
fn lower_limit(limit: u64) {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: `limit` is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// What this process has used of the processor.
fn process_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// What a connection that is taken away needs for its placeholder, for a moment; it keeps one.
const FREE_FOR_A_PLACEHOLDER: usize = 4;

/// Has a session, and says so when there are no more descriptors than these.
fn fill_up_but(addr: SocketAddr, free: usize, config: Config) -> (VirtualStream, Vec<File>) {
    lower_limit(256);
    let stream = VirtualStream::connect_with(addr, config).unwrap();
    (&stream).write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&stream, 5), b"hello");
    let mut files = take_all_descriptors();
    files.truncate(files.len() - free);
    say("full");
    assert!(hear(), "the test goes on");
    (stream, files)
}

/// Its connection dies when there is nothing left to put in its place; there is later.
fn cut_when_full(addr: SocketAddr) {
    let (mut stream, files) = fill_up_but(addr, 0, quick());
    std::thread::scope(|scope| {
        // A program that waits for input, and one that writes.
        let reader = scope.spawn(|| read_exactly(&stream, 5));
        let used = process_cpu();
        let wait = Duration::from_secs(1);
        std::thread::sleep(wait);
        let used = process_cpu() - used;
        assert!(used < wait / 2, "{used:?} of the processor for nothing");
        drop(files);
        (&stream).write_all(b"again").unwrap();
        assert_eq!(reader.join().unwrap(), b"again");
    });
    wait_until("it is counted", || stream.info().unwrap().resumes >= 1);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

/// The same, and there never is.
fn cut_when_full_for_good(addr: SocketAddr) {
    let config = Config { grace: Duration::from_secs(1), ..quick() };
    let (mut stream, files) = fill_up_but(addr, 0, config);
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error:?}");
    assert_eq!(stream.info().unwrap().state, State::Failed);
    let why = || stream.info().unwrap().last_error;
    wait_until("it says why", || why().is_some_and(|why| why.contains("no placeholder")));
    drop(files);
}

/// Has no descriptors left to dial with while its connection is gone.
fn full_client(addr: SocketAddr) {
    let (stream, mut files) = fill_up_but(addr, FREE_FOR_A_PLACEHOLDER, quick());
    // The proxy refuses for as long as this takes.
    wait_until("the outage", || stream.info().unwrap().state == State::Detached);
    files.extend(take_all_descriptors());
    say("detached");
    assert!(hear(), "the test goes on");
    let used = process_cpu();
    // The program goes on writing meanwhile, and is told honestly what it cannot have.
    (&stream).write_all(b"and on").unwrap();
    let attempts: [&dyn Fn() -> io::Result<()>; 3] = [
        &|| VirtualStream::connect_with(addr, quick()).map(drop),
        &|| VirtualListener::bind_with("127.0.0.1:0", quick()).map(drop),
        &|| stream.try_clone().map(drop),
    ];
    for attempt in attempts {
        // A dial that had its descriptor already gives it back when it has failed.
        let error = loop {
            files.extend(take_all_descriptors());
            if let Err(error) = attempt()
                && error.raw_os_error() != Some(libc::ECONNREFUSED)
            {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error:?}");
    }
    let wait = Duration::from_secs(1);
    std::thread::sleep(wait);
    let used = process_cpu() - used;
    assert!(used < wait / 2, "{used:?} of the processor for nothing");
    drop(files);
    assert_eq!(read_exactly(&stream, 6), b"and on");
    wait_until("it is counted", || stream.info().unwrap().resumes >= 1);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), b"");
}

#[test]
fn a_session_whose_process_has_no_descriptors_left_to_dial_is_resumed_when_it_has_some() {
    let _limit = Limit::new("no descriptors", Duration::from_secs(60));
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let mut client =
        Helper::spawn("helper_process", "full-client", &proxy.local_addr().to_string());
    let (server, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            io::copy(&mut &server, &mut &server).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(client.word(), "full");
        proxy.inject(Fault::Refuse(Refusal::Closed(None)), Target::All).unwrap();
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        client.go();
        assert_eq!(client.word(), "detached");
        proxy.inject(Fault::Heal, Target::All).unwrap();
        client.go();
        wait_until("all is said", || server.info().unwrap().consumed == 11);
        wait_until("it is counted", || server.info().unwrap().resumes >= 1);
        assert!(client.end().success());
    });
}

/// Cuts a client that has no descriptor left.
fn cut_a_full_client(role: &str) {
    let _limit = Limit::new("no descriptors", Duration::from_secs(60));
    begin();
    // Nobody tells it that the client's session has failed.
    let config = Config { grace: Duration::from_secs(8), ..quick() };
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    let proxy = proxy_to(listener.local_addr().unwrap());
    let mut client = Helper::spawn("helper_process", role, &proxy.local_addr().to_string());
    let (server, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        // Until the client ends it, or its session.
        scope.spawn(|| {
            let _how = io::copy(&mut &server, &mut &server);
            server.shutdown(Shutdown::Write)
        });
        assert_eq!(client.word(), "full");
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        client.go();
        assert!(client.end().success());
    });
}

/// Its session failed at once, for a shortage of a moment.
#[test]
fn a_connection_that_dies_when_there_is_no_descriptor_left_is_resumed_when_there_is_one() {
    cut_a_full_client("cut-when-full");
}

/// Nothing else can be put under the program's number: after the grace the session fails, and says
/// why.
#[test]
fn a_session_without_a_descriptor_for_its_whole_grace_fails_with_emfile() {
    cut_a_full_client("cut-when-full-for-good");
}

/// Listens, and has no more descriptors than these left when clients come.
fn full_server(free: usize) {
    lower_limit(256);
    let listener = VirtualListener::bind_with("127.0.0.1:0", quick()).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    let (first, _) = listener.accept().unwrap();
    let mut files = take_all_descriptors();
    files.truncate(files.len() - free);
    say("full");
    // The session that stands goes on.
    let mut word = [0; 5];
    (&first).read_exact(&mut word).unwrap();
    (&first).write_all(&word).unwrap();
    assert!(hear(), "the test goes on");
    let used = process_cpu();
    let wait = Duration::from_secs(1);
    std::thread::sleep(wait);
    let used = process_cpu() - used;
    assert!(used < wait / 2, "{used:?} of the processor for nothing");
    drop(files);
    let (second, _) = listener.accept().unwrap();
    (&second).read_exact(&mut word).unwrap();
    (&second).write_all(&word).unwrap();
    assert_eq!(read_all(&second), b"");
    assert_eq!(read_all(&first), b"");
}

#[test]
fn a_listener_whose_process_has_no_descriptors_left_takes_clients_when_it_has_some() {
    clients_of_a_full_server("0");
}

/// It had no other number for what it accepted with the last one, and reset it.
#[test]
fn a_client_that_is_accepted_with_the_last_descriptor_is_not_reset() {
    clients_of_a_full_server("1");
}

fn clients_of_a_full_server(free: &str) {
    let _limit = Limit::new("no descriptors", Duration::from_secs(60));
    begin();
    let mut server = Helper::spawn("helper_process", "full-server", free);
    let addr = server.addr();
    let config = Config { connect_timeout: Duration::from_secs(20), ..quick() };
    let first = VirtualStream::connect_with(addr, config.clone()).unwrap();
    assert_eq!(server.word(), "full");
    let say_hello = |mut stream: &VirtualStream| {
        stream.write_all(b"hello").unwrap();
        assert_eq!(read_exactly(stream, 5), b"hello");
    };
    say_hello(&first);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| VirtualStream::connect_with(addr, config).unwrap());
        server.go();
        let second = second.join().unwrap();
        say_hello(&second);
        assert!(server_ends(&mut server, [first, second]));
    });
}

fn server_ends(server: &mut Helper, streams: [VirtualStream; 2]) -> bool {
    for stream in &streams {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    server.end().success()
}
