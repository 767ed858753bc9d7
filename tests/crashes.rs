//! Peers that are killed at random moments, and programs that lack stack or quiet.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::child::{command, hear, role, say};
use common::limit::Limit;
use common::own::{descriptors, eventfds, from_environment, held_kib};
use common::side::{How, converse};
use common::{
    Ends, MIB, StopOnDrop, begin, data, ends, proxy_to, quick, read_all, read_exactly, wait_until,
    while_cutting,
};
use eversock::wait::poll;
use eversock::{Config, Mode, State, VirtualListener, VirtualStream};
use eversock_chaos::{Fault, Refusal, Target};
use eversock_engine::posix;

/// What runs in processes of its own: victims, and whoever changes something of the whole process.
#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    begin();
    match role.as_str() {
        "victim" => victim(&argument),
        "survivor" => survivor(&argument),
        "small-stacks" => small_stacks(),
        "signals" => signals(if argument == "restart" { libc::SA_RESTART } else { 0 }),
        other => panic!("no role {other}"),
    }
}

/// Runs a role to its end in a process of its own.
fn alone(role: &str, argument: &str, limit: Duration) {
    let mut child = command(&[], "helper_process", role, argument).spawn().unwrap();
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{role} is not done within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{role} {argument}: {status}, see above");
}

// ---------------------------------------------------------------------------------------------
// Peers that are killed

const BLOCK: usize = 64 * 1024;
/// Lives at the same time.
const LIVES: usize = 4;
/// A survivor learns of its peer's death within the grace, and no run takes longer than this.
const LIFE_MAX: Duration = Duration::from_secs(20);

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What one life is like; both processes work it out from its seed.
#[derive(Clone, Copy, Debug)]
struct Life {
    seed: u64,
    victim_listens: bool,
    mode: Mode,
    /// Bytes per write of the victim, and how long it rests after each.
    piece: usize,
    rest: Duration,
    /// It is killed when so many bytes have come to the survivor, or so long after its start.
    bytes: Option<u64>,
    time: Duration,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let victim_listens = dice.below(2) == 0;
        let mode = if dice.below(2) == 0 { Mode::Direct } else { Mode::Pumped };
        let (piece, rest) = match dice.below(3) {
            0 => (BLOCK, Duration::ZERO),
            1 => (1000, Duration::from_micros(200)),
            _ => (1, Duration::from_millis(2)),
        };
        let few = if piece == 1 { 12 } else { 4 * MIB as u64 };
        let bytes = (dice.below(2) == 0).then(|| dice.below(few));
        let time = Duration::from_micros(dice.below(80_000));
        Self { seed, victim_listens, mode, piece, rest, bytes, time }
    }

    fn config(self) -> Config {
        Config {
            mode: self.mode,
            grace: Duration::from_millis(400),
            grace_after_close: Duration::from_millis(400),
            linger: Duration::from_millis(400),
            connect_timeout: Duration::from_secs(2),
            ..quick()
        }
    }

    /// What the victim writes as its block of this number.
    fn block(self, number: usize) -> Vec<u8> {
        data(self.seed * 1_000_003 + number as u64, BLOCK)
    }
}

/// Connects, or listens, and writes and reads until it is killed.
fn victim(argument: &str) {
    let (seed, addr) = argument.split_once(' ').unwrap();
    let life = Life::new(seed.parse().unwrap());
    // When the survivor is killed instead, nobody else ends this.
    std::thread::spawn(|| {
        while hear() {}
        std::process::exit(3);
    });
    let stream = if life.victim_listens {
        let listener = VirtualListener::bind_with("127.0.0.1:0", life.config()).unwrap();
        say(&listener.local_addr().unwrap().to_string());
        let stream = listener.accept().unwrap().0;
        std::thread::spawn(move || while let Ok((_late, _)) = listener.accept() {});
        stream
    } else {
        let addr: SocketAddr = addr.parse().unwrap();
        VirtualStream::connect_with(addr, life.config()).unwrap()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buf = vec![0; BLOCK];
            while (&stream).read(&mut buf).unwrap() > 0 {}
        });
        for number in 0.. {
            let block = life.block(number);
            for piece in block.chunks(life.piece) {
                (&stream).write_all(piece).unwrap();
                std::thread::sleep(life.rest);
            }
        }
    });
}

/// Lives through many deaths of its peers; holds in the end what it held at first.
fn survivor(argument: &str) {
    let (first, count) = argument.split_once(' ').unwrap();
    let (first, count): (u64, u64) = (first.parse().unwrap(), count.parse().unwrap());
    // The engine, its pools and the allocator's arenas come to their size.
    live_all(first + count..first + count + 3 * LIVES as u64);
    let before = (descriptors(), threads());
    live_all(first..first + count / 2);
    let half = held_kib();
    live_all(first + count / 2..first + count);
    let (end, after) = (held_kib(), (descriptors(), threads()));
    println!(
        "{count} lives from seed {first}: {} descriptors before, {} after; {} KiB allocated and \
         {} KiB resident after the first half, {} and {} KiB after the second",
        before.0, after.0, half.0, half.1, end.0, end.1
    );
    wait_until("no descriptor and no thread more than before", || {
        descriptors() <= before.0 && threads() <= before.1
    });
    assert!(eventfds() <= 4 * LIVES + 2, "{} eventfds", eventfds());
    // How many buffers the engine keeps for later settles within some hundred lives (what it keeps
    // of ended sessions, for a late RESUME, a little later): what grows then is a leak.
    let (slack, resident_slack) = if count >= 400 { (512, 4096) } else { (32 * 1024, 32 * 1024) };
    assert!(end.0 <= half.0 + slack, "{} KiB allocated, then {} KiB", half.0, end.0);
    assert!(end.1 <= half.1 + resident_slack, "{} KiB resident, then {} KiB", half.1, end.1);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn live_all(seeds: std::ops::Range<u64>) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..LIVES {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let _limit = Limit::new("a life", LIFE_MAX);
                    let lived = std::panic::catch_unwind(|| live(Life::new(seed)));
                    if let Err(panic) = lived {
                        println!("EVERSOCK_SEED={seed}: {:?}", Life::new(seed));
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
    wait_until("all sessions are gone", || eversock::sessions().is_empty());
}

/// Kills its child when dropped.
struct Victim(Child);

impl Victim {
    fn new(life: Life, addr: &str) -> Self {
        let argument = format!("{} {addr}", life.seed);
        let mut command = command(&[], "helper_process", "victim", &argument);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Where it listens.
    fn addr(&mut self) -> SocketAddr {
        use std::io::BufRead;
        let mut out = io::BufReader::new(self.0.stdout.as_mut().unwrap());
        loop {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "the victim ended by itself");
            if let Some(addr) = line.trim().strip_prefix('@') {
                return addr.parse().unwrap();
            }
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn live(life: Life) {
    let got = AtomicUsize::new(0);
    let dead = AtomicBool::new(false);
    let listener = VirtualListener::bind_with("127.0.0.1:0", life.config()).unwrap();
    let mut victim = Victim::new(life, &listener.local_addr().unwrap().to_string());
    let addr = life.victim_listens.then(|| victim.addr());
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (got, dead) = (&got, &dead);
        scope.spawn(move || {
            let due = || match life.bytes {
                // One that is to die by its bytes and has none dies all the same.
                Some(bytes) => {
                    got.load(Ordering::SeqCst) as u64 >= bytes
                        || began.elapsed() > Duration::from_millis(500)
                }
                None => began.elapsed() >= life.time,
            };
            while !due() {
                std::thread::sleep(Duration::from_micros(100));
            }
            drop(victim);
            dead.store(true, Ordering::SeqCst);
        });
        let stream = match addr {
            Some(addr) => match VirtualStream::connect_with(addr, life.config()) {
                Ok(stream) => Some(stream),
                Err(error) => {
                    assert!(is_honest(&error), "connect: {error:?}");
                    None
                }
            },
            None => accept_unless(&listener, dead),
        };
        if let Some(stream) = stream {
            let ends = converse_until_the_end(&stream, life, got);
            // Told once; the other thread has what a failed TCP connection gives then.
            let honest = ends.iter().filter(|end| end.as_ref().is_err_and(is_honest)).count();
            let after = ends.iter().all(|end| match end {
                Ok(()) => true,
                Err(error) => is_honest(error) || error.raw_os_error() == Some(libc::EPIPE),
            });
            assert!(honest >= 1 && after, "not the end of a session that has failed: {ends:?}");
            assert!(dead.load(Ordering::SeqCst), "it failed although the peer lives: {ends:?}");
        }
    });
}

/// What a program is to see of a peer that is no more.
fn is_honest(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::ECONNRESET | libc::ETIMEDOUT | libc::ECONNREFUSED))
}

/// The victim's session; none if it was killed before it had one.
fn accept_unless(listener: &VirtualListener, dead: &AtomicBool) -> Option<VirtualStream> {
    let mut last = false;
    loop {
        let fd = listener.as_raw_fd();
        let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        if poll(&mut fds, Some(Duration::from_millis(50))).unwrap() > 0 {
            return Some(listener.accept().unwrap().0);
        }
        if last {
            return None;
        }
        // Once more after its death: what had come before it may be told after it.
        last = dead.load(Ordering::SeqCst);
    }
}

/// Writes and reads until both have come to an end; what each was told, `Ok` being an end of the
/// stream. Every byte that came is one that the victim wrote.
fn converse_until_the_end(
    stream: &VirtualStream,
    life: Life,
    got: &AtomicUsize,
) -> [io::Result<()>; 2] {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let bytes = data(1, BLOCK);
            loop {
                (&mut &*stream).write_all(&bytes)?;
            }
        });
        let reader = scope.spawn(|| {
            let (mut buf, mut at, mut number) = (vec![0; BLOCK], BLOCK, 0);
            let mut block = Vec::new();
            loop {
                let n = match (&mut &*stream).read(&mut buf) {
                    Ok(0) => return Ok(()),
                    Ok(n) => n,
                    Err(error) => return Err(error),
                };
                got.fetch_add(n, Ordering::SeqCst);
                let mut rest = &buf[..n];
                while !rest.is_empty() {
                    if at == BLOCK {
                        (block, at, number) = (life.block(number), 0, number + 1);
                    }
                    let some = rest.len().min(BLOCK - at);
                    assert!(rest[..some] == block[at..][..some], "a byte that nobody wrote");
                    (rest, at) = (&rest[some..], at + some);
                }
            }
        });
        [writer.join().unwrap(), reader.join().unwrap()]
    })
}

/// `EVERSOCK_RUNS` sets how many, `EVERSOCK_SEED` the first seed.
#[test]
fn whoever_survives_a_kill_at_a_random_moment_sees_a_correct_end_and_keeps_nothing() {
    let (runs, first) =
        (from_environment("EVERSOCK_RUNS", 60), from_environment("EVERSOCK_SEED", 1));
    alone("survivor", &format!("{first} {runs}"), Duration::from_secs(60 + runs));
}

/// A client whose session fails while it is without a connection, in half a second.
fn doomed() -> Ends {
    let config = Config { grace: Duration::from_millis(500), ..quick() };
    let ends = ends("127.0.0.1:0", config, quick());
    (&ends.server).write_all(b"hello").unwrap();
    wait_until("it has come", || ends.client.peek(&mut [0; 5]).unwrap() == 5);
    ends.proxy.inject(Fault::Refuse(Refusal::Closed(None)), Target::All).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("the outage", || ends.client.info().unwrap().state == State::Detached);
    ends
}

/// The error was counted as told by the write that had been taken in part, and all that the program
/// saw of its session's failure was the end of the stream (seed 1096).
#[test]
fn a_write_that_was_taken_in_part_leaves_the_error_to_the_next_call() {
    let _limit = Limit::new("an error", Duration::from_secs(60));
    let ends = doomed();
    assert_eq!(read_exactly(&ends.client, 5), b"hello");
    let bytes = data(1, 16 * MIB);
    let n = (&ends.client).write(&bytes).unwrap();
    assert!(n > 0 && n < bytes.len(), "{n} bytes were taken");
    let error = (&ends.client).read(&mut [0; 1]).unwrap_err();
    assert!(is_honest(&error), "{error:?}");
    assert_eq!((&ends.client).read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_read_that_has_brought_some_leaves_the_error_to_the_next_call() {
    let _limit = Limit::new("an error", Duration::from_secs(60));
    let ends = doomed();
    let mut buf = [0; 10];
    let number = ends.client.as_raw_fd();
    let mut slices = [io::IoSliceMut::new(&mut buf)];
    assert_eq!(posix::recv(number, &mut slices, libc::MSG_WAITALL).unwrap(), 5);
    let error = (&ends.client).read(&mut [0; 1]).unwrap_err();
    assert!(is_honest(&error), "{error:?}");
    assert_eq!((&ends.client).read(&mut [0; 1]).unwrap(), 0);
}

// ---------------------------------------------------------------------------------------------
// Small stacks

const STACK_BYTES: usize = 64 * 1024;

fn on_a_small_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

/// Every kind of call from threads with little stack, through cuts.
fn small_stacks() {
    let modes = [Mode::Direct, Mode::Pumped];
    let ways = [How::Level, How::Edge, How::OneShot, How::Poll, How::Select];
    for (mode, how) in modes.into_iter().flat_map(|mode| ways.map(|how| (mode, Some(how)))) {
        one_small_life(mode, how);
    }
    for mode in modes {
        one_small_life(mode, None);
    }
}

fn one_small_life(mode: Mode, how: Option<How>) {
    let config = || Config { mode, ..quick() };
    let listener =
        on_a_small_stack(|| VirtualListener::bind_with("127.0.0.1:0", config()).unwrap());
    let proxy = proxy_to(listener.local_addr().unwrap());
    let (client, server) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            on_a_small_stack(|| VirtualStream::connect_with(proxy.local_addr(), config()).unwrap())
        });
        let server = on_a_small_stack(|| listener.accept().unwrap().0);
        (client.join().unwrap(), server)
    });
    let (up, down) = (data(1, 2 * MIB), data(2, 2 * MIB));
    while_cutting(&proxy, &Fault::Reset, MIB / 2, || {
        std::thread::scope(|scope| match how {
            Some(how) => {
                let at_server = scope.spawn({
                    let (server, down) = (&server, &down);
                    move || on_a_small_stack(|| converse(how, server, down))
                });
                let got = on_a_small_stack(|| converse(how, &client, &up));
                assert!(
                    got == down,
                    "{mode:?} {how:?}: {} bytes came, of which {} are right",
                    got.len(),
                    got.iter().zip(&down).take_while(|(a, b)| a == b).count()
                );
                assert!(at_server.join().unwrap() == up);
            }
            None => {
                scope.spawn(|| on_a_small_stack(|| common::send_and_end(&client, &up)));
                scope.spawn(|| on_a_small_stack(|| common::send_and_end(&server, &down)));
                let at_server = scope.spawn(|| on_a_small_stack(|| read_all(&server)));
                assert!(on_a_small_stack(|| read_all(&client)) == down);
                assert!(at_server.join().unwrap() == up);
            }
        });
    });
    wait_until("the resumes are counted", || client.info().unwrap().resumes >= 1);
    on_a_small_stack(move || drop((client, server)));
}

/// In a process of its own, since a stack that overflows ends it.
#[test]
fn every_call_works_on_a_stack_of_64_kib() {
    alone("small-stacks", "", Duration::from_secs(60));
}

// ---------------------------------------------------------------------------------------------
// Signals

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_signal(_number: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Signals the threads of this process in turn, the engine's too, in random order and about every
/// 100 us, until told to stop.
fn storm(stop: &AtomicBool) {
    // SAFETY: calls without memory.
    let (process, me) = unsafe { (libc::getpid(), libc::gettid()) };
    let mut dice = Dice(1);
    while !stop.load(Ordering::Relaxed) {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let mut tasks: Vec<libc::pid_t> = tasks
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .filter(|task| *task != me)
            .collect();
        while !tasks.is_empty() {
            let at = usize::try_from(dice.below(tasks.len() as u64)).unwrap();
            let task = tasks.swap_remove(at);
            // SAFETY: a call without memory; the signal has a handler. A thread may be gone.
            unsafe { libc::syscall(libc::SYS_tgkill, process, task, libc::SIGALRM) };
            std::thread::sleep(Duration::from_micros(dice.below(200)));
        }
    }
}

fn handle_signals(flags: libc::c_int) {
    // SAFETY: all of it is initialised here; the handler does what a handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Megabytes both ways through cuts in a storm of signals.
fn signals(flags: libc::c_int) {
    let ends = common::pair();
    let (up, down) = (data(1, 16 * MIB), data(2, 16 * MIB));
    handle_signals(flags);
    let interrupted = AtomicUsize::new(0);
    // As std's, but it counts.
    let read = |mut stream: &VirtualStream| {
        let (mut all, mut buf) = (Vec::new(), vec![0; 60_001]);
        loop {
            match stream.read(&mut buf) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    interrupted.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("read: {error}"),
            }
        }
    };
    let write = |mut stream: &VirtualStream, bytes: &[u8]| {
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    interrupted.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("write: {error}"),
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let (client, server) = (&ends.client, &ends.server);
    let stop = AtomicBool::new(false);
    while_cutting(&ends.proxy, &Fault::Reset, 2 * MIB, || {
        std::thread::scope(|scope| {
            scope.spawn(|| storm(&stop));
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| write(client, &up));
            scope.spawn(|| write(server, &down));
            let at_server = scope.spawn(|| read(server));
            assert!(read(client) == down, "the client's bytes differ");
            assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        });
    });
    let (signals, interrupted) = (SIGNALS.load(Ordering::Relaxed), interrupted.into_inner());
    println!("{signals} signals, {interrupted} calls interrupted");
    assert!(signals >= 20, "{signals} signals are no storm");
    wait_until("the resumes are counted", || client.info().unwrap().resumes >= 1);
    if flags & libc::SA_RESTART != 0 {
        assert_eq!(interrupted, 0, "calls are to go on after a handler with SA_RESTART");
    }
}

#[test]
fn a_storm_of_signals_interrupts_calls_and_loses_nothing() {
    alone("signals", "", Duration::from_secs(60));
}

#[test]
fn a_storm_of_signals_whose_handler_restarts_calls_is_not_noticed() {
    alone("signals", "restart", Duration::from_secs(60));
}
