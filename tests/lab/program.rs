//! The programs of the lab: a client and a server that write and read all the time, over a direct
//! session and, as programs that know nothing of eversock's calls, over a pumped one.
//!
//! What they write is made of records: when it was written, which one it is, and bytes that follow
//! from both. So a reader sees at once when a byte is missing, doubled or changed, and how late it
//! is. Both sides also take the digest of everything.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eversock::{BackOff, Config, VirtualListener, VirtualStream};
use sha2::{Digest, Sha256};

use crate::common::child::say;

/// The sessions of a program: what its session is called and the server's port.
pub(crate) const SESSIONS: [(&str, u16); 2] = [("direct", 7000), ("pumped", 7001)];
const RECORD_BYTES: usize = 64;
/// A reader reports at most so often; what is told about times is true to that.
const REPORT_MICROS: u64 = 5_000;

/// What both programs are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Records per write.
    pub(crate) records: usize,
    /// Milliseconds between two writes.
    pub(crate) pace_ms: u64,
    pub(crate) grace_ms: u64,
}

pub(crate) const HABITS: Habits = Habits { records: 32, pace_ms: 5, grace_ms: 60_000 };

/// The time-outs of the lab: each is set so that the lab may wait for longer than it.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);
/// What the kernel needs besides until it gives an idle peer up: 3 probes, 5 s apart.
pub(crate) const PROBES: Duration = Duration::from_secs(15);
pub(crate) const PROBE_AFTER: Duration = Duration::from_secs(2);
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

static PAUSED: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

/// Microseconds of the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// The command line of a program, as one argument.
pub(crate) fn argument(at: &str, others: &[&str], habits: Habits) -> String {
    let Habits { records, pace_ms, grace_ms } = habits;
    format!("{at} {records} {pace_ms} {grace_ms} {}", others.join(" "))
}

/// The hidden test's part: plays the role until told to stop and both sides have ended.
pub(crate) fn play(role: &str, argument: &str) {
    let mut words = argument.split_whitespace();
    let at: IpAddr = words.next().unwrap().parse().unwrap();
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (records, pace_ms, grace_ms) = (number(), number(), number());
    let habits = Habits { records: usize::try_from(records).unwrap(), pace_ms, grace_ms };
    let others: Vec<IpAddr> = words.map(|word| word.parse().unwrap()).collect();
    std::thread::spawn(obey);
    let streams = match role {
        "client" => connect(at, &others, habits),
        "server" => accept(at, &others, habits),
        other => panic!("no role {other}"),
    };
    say("ready");
    std::thread::scope(|scope| {
        for (index, stream) in streams.iter().enumerate() {
            let name = SESSIONS[index].0;
            let seed = |role: &str| if role == "client" { 100 + index } else { 200 + index } as u64;
            let peer = if role == "client" { "server" } else { "client" };
            let (mine, theirs) = (seed(role), seed(peer));
            scope.spawn(move || write(stream, name, mine, habits));
            scope.spawn(move || read(stream, name, theirs));
        }
    });
    drop(streams);
    say("done");
}

/// What the lab says. Without it there is nothing left to do.
fn obey() {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "pause" => PAUSED.store(true, Ordering::SeqCst),
            "go" => PAUSED.store(false, Ordering::SeqCst),
            "stop" => STOP.store(true, Ordering::SeqCst),
            "tell" => {
                for info in eversock::sessions() {
                    say(&format!("resumes {} {}", info.mode, info.resumes));
                }
                say("told");
            }
            other => panic!("no order {other}"),
        }
    }
    std::process::exit(3);
}

fn config(others: &[IpAddr], port: u16, habits: Habits) -> (Config, Vec<SocketAddr>) {
    let config = Config {
        grace: Duration::from_millis(habits.grace_ms),
        grace_after_close: Duration::from_millis(habits.grace_ms),
        back_off: BackOff { base: Duration::from_millis(20), cap: Duration::from_millis(500) },
        keepalive: KEEPALIVE,
        probe_after: PROBE_AFTER,
        connect_timeout: CONNECT_TIMEOUT,
        window_max: 1024 * 1024,
        ..Config::default()
    };
    (config, others.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
}

fn connect(at: IpAddr, others: &[IpAddr], habits: Habits) -> Vec<Stream> {
    let one = |(name, port)| {
        let (config, peer_addrs) = config(others, port, habits);
        let config = Config { peer_addrs, ..config };
        Stream::new(name, VirtualStream::connect_with((at, port), config).unwrap())
    };
    SESSIONS.into_iter().map(one).collect()
}

fn accept(at: IpAddr, others: &[IpAddr], habits: Habits) -> Vec<Stream> {
    let listen = |(name, port)| {
        let (config, own_addrs) = config(others, port, habits);
        let config = Config { own_addrs, ..config };
        (name, VirtualListener::bind_with((at, port), config).unwrap())
    };
    let listeners: Vec<_> = SESSIONS.into_iter().map(listen).collect();
    say("listening");
    let streams: Vec<_> = listeners
        .iter()
        .map(|(name, listener)| Stream::new(name, listener.accept().unwrap().0))
        .collect();
    // They take the redials for as long as the process lives.
    drop(std::thread::spawn(move || {
        let _listeners = listeners;
        loop {
            std::thread::park();
        }
    }));
    streams
}

enum Stream {
    Virtual(VirtualStream),
    Plain(TcpStream),
}

impl Stream {
    fn new(name: &str, stream: VirtualStream) -> Self {
        match name {
            "pumped" => Self::Plain(stream.into_pumped().unwrap()),
            _ => Self::Virtual(stream),
        }
    }

    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Virtual(stream) => (&mut &*stream).read(buf),
            Self::Plain(stream) => (&mut &*stream).read(buf),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Virtual(stream) => (&mut &*stream).write_all(bytes),
            Self::Plain(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    fn end(&self) -> io::Result<()> {
        match self {
            Self::Virtual(stream) => stream.shutdown(Shutdown::Write),
            Self::Plain(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

fn record(seed: u64, index: u64, written: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let mut state = (seed ^ written.rotate_left(17)).wrapping_add(index) | 1;
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) ^ index;
        let value = match at {
            0 => written,
            1 => index,
            _ => state,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn write(stream: &Stream, name: &str, seed: u64, habits: Habits) {
    let (mut hash, mut sent, mut index) = (Sha256::new(), 0, 0);
    let mut bytes = Vec::new();
    while !STOP.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(habits.pace_ms));
        if PAUSED.load(Ordering::SeqCst) {
            continue;
        }
        bytes.clear();
        let written = now();
        for _ in 0..habits.records {
            bytes.extend_from_slice(&record(seed, index, written));
            index += 1;
        }
        if let Err(error) = stream.write_all(&bytes) {
            return say(&format!("error {name} write {}", error_name(&error)));
        }
        hash.update(&bytes);
        sent += bytes.len();
    }
    match stream.end() {
        Ok(()) => say(&format!("sent {name} {sent} {}", hex(hash))),
        Err(error) => say(&format!("error {name} shutdown {}", error_name(&error))),
    }
}

fn read(stream: &Stream, name: &str, seed: u64) {
    let (mut hash, mut got, mut index, mut reported) = (Sha256::new(), 0, 0, 0);
    let mut buf = vec![0; 64 * 1024];
    let mut part = Vec::new();
    loop {
        let n = match stream.read(&mut buf) {
            Ok(0) => return say(&format!("got {name} {got} {}", hex(hash))),
            Ok(n) => n,
            Err(error) => return say(&format!("error {name} read {}", error_name(&error))),
        };
        let arrived = now();
        hash.update(&buf[..n]);
        got += n;
        part.extend_from_slice(&buf[..n]);
        let whole = part.len() - part.len() % RECORD_BYTES;
        let mut last = 0;
        let mut first = None;
        for bytes in part[..whole].chunks_exact(RECORD_BYTES) {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[..8]);
            last = u64::from_le_bytes(word);
            first.get_or_insert(last);
            if *bytes != record(seed, index, last) {
                return say(&format!("wrong {name} record {index}"));
            }
            index += 1;
        }
        part.drain(..whole);
        // The oldest of them is the latest to come.
        let late = first.is_some_and(|first| arrived - first > 20 * REPORT_MICROS);
        if let Some(first) = first
            && (late || arrived - reported >= REPORT_MICROS)
        {
            reported = arrived;
            say(&format!("read {name} {arrived} {first} {last}"));
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn error_name(error: &io::Error) -> String {
    let names = [
        (libc::ECONNABORTED, "ECONNABORTED"),
        (libc::ECONNRESET, "ECONNRESET"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EPIPE, "EPIPE"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
    ];
    let number = error.raw_os_error();
    let known = names.iter().find(|(known, _)| Some(*known) == number);
    known.map_or_else(|| format!("{error:?}").replace(' ', "_"), |(_, name)| (*name).to_owned())
}
