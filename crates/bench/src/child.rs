//! One end of a conversation: a process that does what its standard input says, one line at a time,
//! and answers each line with one.
//!
//! By hand, for a profiler: `evs bench-peer direct server`, then type the commands of
//! `Child::obey`.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use eversock_chaos::{Config as ProxyConfig, Fault, Proxy, Target};

use crate::socket::{Caller, Kind, Listener, Stream};
use crate::usage::{self, Usage};

/// Bytes that a reader offers at least.
const READ_BYTES: usize = 64 * 1024;

/// Connections to one address of the loopback, which has 28,000 ports by default; more go to the
/// next.
const PER_ADDRESS: usize = 20_000;

/// One end of a conversation: `KIND server`, `KIND server@IP` or `KIND ADDRESS`; or what stands
/// between the two: `proxy ADDRESS`; or a front or a server of a spool: `spool worker`; or a
/// controller, its devices or a flood of them: `controller worker`.
pub fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{args:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> io::Result<()> {
    let [kind, role] = args else { return bad("two arguments") };
    if kind == "proxy" {
        usage::raise_descriptor_limit();
        return stand_between(role.parse().map_err(|_| io::Error::other("not an address"))?);
    }
    #[cfg(feature = "spool")]
    if kind == "spool" && role == "worker" {
        return crate::measures::spool::worker();
    }
    #[cfg(feature = "controller")]
    if kind == "controller" && role == "worker" {
        usage::raise_descriptor_limit();
        return crate::measures::controller::worker();
    }
    let Some(kind) = Kind::from_name(kind) else { return bad("a kind of stream") };
    usage::raise_descriptor_limit();
    let end = if let Some(at) = role.strip_prefix("server") {
        let ip = match at.strip_prefix('@') {
            Some(ip) => ip.parse().map_err(|_| io::Error::other("not an address"))?,
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let listener = Listener::bind(kind, ip)?;
        answer(&listener.addr()?.to_string())?;
        End::Server(listener)
    } else {
        let addr = role.parse().map_err(|_| io::Error::other("not an address"))?;
        End::Client(Caller::new(kind)?, addr)
    };
    let mut child = Child { held: Vec::new(), end, buf: vec![0x5A; 1 << 20] };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let reply = child.obey(&words)?;
        answer(&reply)?;
    }
    Ok(())
}

/// A fault proxy for very many connections that carry little; `reset` cuts all of them. A process
/// of its own, as it needs two descriptors for each.
fn stand_between(upstream: SocketAddr) -> io::Result<()> {
    let mut config = ProxyConfig::new((Ipv4Addr::LOCALHOST, 0).into(), upstream);
    config.max_connections = usize::MAX;
    (config.buffer, config.history) = (4096, 0);
    let proxy = Proxy::spawn(config)?;
    answer(&proxy.local_addr().to_string())?;
    for line in io::stdin().lock().lines() {
        if line?.trim() != "reset" {
            return bad("reset");
        }
        let hit = proxy.inject(Fault::Reset, Target::All).map_err(io::Error::other)?;
        answer(&hit.to_string())?;
    }
    Ok(())
}

fn joined<T>(thread: thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().map_err(|_| io::Error::other("a thread has panicked"))?
}

fn bad<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("expected {what}")))
}

pub(crate) fn answer(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

#[derive(Debug)]
enum End {
    Server(Listener),
    Client(Caller, SocketAddr),
}

#[derive(Debug)]
struct Child {
    // Dropped first: a pool waits for what its connections still have to say.
    held: Vec<Stream>,
    end: End,
    buf: Vec<u8>,
}

/// What a piece of work took: wall time, processor time, sleeps.
fn cost(began: Instant, before: Usage) -> String {
    let after = usage::usage();
    let (cpu, sleeps) = (after.cpu - before.cpu, after.sleeps - before.sleeps);
    format!("{} {} {sleeps}", began.elapsed().as_nanos(), cpu.as_nanos())
}

impl Child {
    /// `open` a stream and hold it, `hold N` of them, `drop` all; on the last one: `write COUNT
    /// BYTES`, `read BYTES`, `duplex COUNT BYTES`, `ping COUNT BYTES`, `echo BYTES`, `pipeline
    /// COUNT BYTES DEPTH`, `put`, `get`, `pour BYTES`, `soak BYTES`, `flood MS BYTES`, `gaps US`;
    /// on all: `spread COUNT BYTES`, `gather BYTES`, `wave`, `answer`; besides `cycle COUNT`, `call
    /// COUNT`, `greet COUNT`, `pin CPU`, `usage`.
    fn obey(&mut self, words: &[&str]) -> io::Result<String> {
        let number = |at: usize| match words.get(at).and_then(|word| word.parse::<usize>().ok()) {
            Some(n) => Ok(n),
            None => bad("a number"),
        };
        match *words {
            ["open"] => self.open(),
            ["hold", _] => self.hold(number(1)?),
            ["drop"] => {
                self.held.clear();
                Ok(String::new())
            }
            ["write", _, _] => self.write(number(1)?, number(2)?),
            ["read", _] => self.read(number(1)?),
            ["ping", _, _] => self.ping(number(1)?, number(2)?),
            ["echo", _] => self.echo(number(1)?),
            ["put"] => {
                let at = usage::monotonic_ns();
                self.last()?.write_all(b"!")?;
                Ok(at.to_string())
            }
            ["get"] => {
                self.last()?.take_byte()?;
                Ok(usage::monotonic_ns().to_string())
            }
            ["duplex", _, _] => self.duplex(number(1)?, number(2)?),
            ["pipeline", _, _, _] => self.pipeline(number(1)?, number(2)?, number(3)?),
            ["pour", _] => self.pour(number(1)?),
            ["soak", _] => self.soak(number(1)?),
            ["spread", _, _] => self.spread(number(1)?, number(2)?),
            ["gather", _] => self.gather(number(1)?),
            ["wave"] => self.wave(),
            ["answer"] => self.answer(),
            ["flood", _, _] => self.flood(number(1)?, number(2)?),
            ["gaps", _] => self.gaps(number(1)?),
            ["pin", _] => {
                usage::pin(number(1)?);
                Ok(String::new())
            }
            ["cycle", _] => self.cycle(number(1)?),
            ["call", _] => self.call(number(1)?),
            ["greet", _] => self.greet(number(1)?),
            ["usage"] => {
                let usage = usage::usage();
                let resident = usage::resident_bytes();
                Ok(format!("{} {} {resident}", usage.cpu.as_nanos(), usage.sleeps))
            }
            _ => bad("a command"),
        }
    }

    fn new_stream(&self) -> io::Result<Stream> {
        match &self.end {
            End::Server(listener) => listener.accept(),
            End::Client(caller, addr) => {
                let mut addr = *addr;
                let further = self.held.len() / PER_ADDRESS;
                if further > 0 && addr.ip() == Ipv4Addr::LOCALHOST {
                    let last = u8::try_from(1 + further).unwrap_or(u8::MAX);
                    addr.set_ip(Ipv4Addr::new(127, 0, 0, last).into());
                }
                caller.connect(addr)
            }
        }
    }

    fn last(&mut self) -> io::Result<&mut Stream> {
        self.held.last_mut().ok_or_else(|| io::Error::other("no stream is open"))
    }

    fn open(&mut self) -> io::Result<String> {
        let stream = self.new_stream()?;
        self.held.push(stream);
        Ok(String::new())
    }

    fn hold(&mut self, count: usize) -> io::Result<String> {
        for _ in 0..count {
            self.open()?;
        }
        Ok(String::new())
    }

    /// Writes `count` times `bytes` after a warm-up, ends the direction and waits until the reader
    /// has all.
    fn write(&mut self, count: usize, bytes: usize) -> io::Result<String> {
        let buf = vec![0x5A; bytes];
        let stream = self.last()?;
        for _ in 0..count / 8 {
            stream.write_all(&buf)?;
        }
        let (began, before) = (Instant::now(), usage::usage());
        for _ in 0..count {
            stream.write_all(&buf)?;
        }
        stream.finish_writing()?;
        stream.take_byte()?;
        let cost = cost(began, before);
        self.held.pop();
        Ok(cost)
    }

    /// Reads to the end, `bytes` or more at a time, and says so to the writer.
    fn read(&mut self, bytes: usize) -> io::Result<String> {
        let (began, before) = (Instant::now(), usage::usage());
        let most = bytes.max(READ_BYTES);
        let mut buf = std::mem::take(&mut self.buf);
        let total = self.last()?.drain(&mut buf[..most])?;
        self.buf = buf;
        let stream = self.last()?;
        stream.write_all(b".")?;
        let cost = cost(began, before);
        self.held.pop();
        Ok(format!("{cost} {total}"))
    }

    /// Round trips; gives the median, the 99th percentile and the 99.9th in nanoseconds.
    fn ping(&mut self, count: usize, bytes: usize) -> io::Result<String> {
        let mut buf = vec![0x5A; bytes];
        let stream = self.last()?;
        let mut times = Vec::with_capacity(count);
        let (mut began, mut before) = (Instant::now(), usage::usage());
        for round in 0..count + count / 8 {
            if round == count / 8 {
                times.clear();
                (began, before) = (Instant::now(), usage::usage());
            }
            let start = Instant::now();
            stream.write_all(&buf)?;
            stream.read_exact(&mut buf)?;
            times.push(start.elapsed());
        }
        let cost = cost(began, before);
        self.held.pop();
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 1000).map_or(0, Duration::as_nanos);
        Ok(format!("{} {} {} {cost}", at(500), at(990), at(999)))
    }

    fn echo(&mut self, bytes: usize) -> io::Result<String> {
        let mut buf = vec![0; bytes];
        let stream = self.last()?;
        let (began, before) = (Instant::now(), usage::usage());
        loop {
            let n = stream.read(&mut buf)?;
            if n == 0 {
                break;
            }
            stream.write_all(&buf[..n])?;
        }
        let cost = cost(began, before);
        self.held.pop();
        Ok(cost)
    }

    /// Writes `count` times `bytes` after a warm-up, and reads what the other end writes meanwhile,
    /// up to its end.
    fn duplex(&mut self, count: usize, bytes: usize) -> io::Result<String> {
        let out = vec![0x5A; bytes];
        let mut buf = vec![0; bytes.max(READ_BYTES)];
        let Some(mut stream) = self.held.pop() else { return bad("an open stream") };
        let mut reader = stream.try_clone()?;
        let reader = thread::spawn(move || reader.drain(&mut buf));
        for _ in 0..count / 8 {
            stream.write_all(&out)?;
        }
        let (began, before) = (Instant::now(), usage::usage());
        for _ in 0..count {
            stream.write_all(&out)?;
        }
        stream.finish_writing()?;
        joined(reader)?;
        Ok(cost(began, before))
    }

    /// Messages that are echoed, `depth` of them under way.
    fn pipeline(&mut self, count: usize, bytes: usize, depth: usize) -> io::Result<String> {
        let mut buf = vec![0x5A; bytes];
        let stream = self.last()?;
        for _ in 0..depth {
            stream.write_all(&buf)?;
        }
        let (mut began, mut before) = (Instant::now(), usage::usage());
        for round in 0..count + count / 8 {
            if round == count / 8 {
                (began, before) = (Instant::now(), usage::usage());
            }
            stream.read_exact(&mut buf)?;
            stream.write_all(&buf)?;
        }
        let cost = cost(began, before);
        for _ in 0..depth {
            stream.read_exact(&mut buf)?;
        }
        self.held.pop();
        Ok(cost)
    }

    /// Writes so many bytes at once; gives when they were taken.
    fn pour(&mut self, bytes: usize) -> io::Result<String> {
        let buf = vec![0x5A; bytes];
        self.last()?.write_all(&buf)?;
        Ok(usage::monotonic_ns().to_string())
    }

    /// Reads exactly so many bytes; gives when the first of them came and when the last.
    fn soak(&mut self, bytes: usize) -> io::Result<String> {
        let mut buf = std::mem::take(&mut self.buf);
        let stream = self.last()?;
        let (mut first, mut left) = (0, bytes);
        while left > 0 {
            let most = buf.len().min(left);
            let n = stream.read(&mut buf[..most])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if left == bytes {
                first = usage::monotonic_ns();
            }
            left -= n;
        }
        self.buf = buf;
        Ok(format!("{first} {}", usage::monotonic_ns()))
    }

    /// Writes on all held streams at once, a thread each, and waits until their readers have all.
    fn spread(&mut self, count: usize, bytes: usize) -> io::Result<String> {
        let (began, before) = (Instant::now(), usage::usage());
        self.on_each(move |mut stream| {
            let buf = vec![0x5A; bytes];
            for _ in 0..count {
                stream.write_all(&buf)?;
            }
            stream.finish_writing()?;
            stream.take_byte().map(drop)
        })?;
        Ok(cost(began, before))
    }

    /// Reads all held streams to their ends, a thread each, and tells each writer.
    fn gather(&mut self, bytes: usize) -> io::Result<String> {
        let (began, before) = (Instant::now(), usage::usage());
        self.on_each(move |mut stream| {
            let mut buf = vec![0; bytes.max(READ_BYTES)];
            stream.drain(&mut buf)?;
            stream.write_all(b".")
        })?;
        Ok(cost(began, before))
    }

    fn on_each<F>(&mut self, work: F) -> io::Result<()>
    where
        F: Fn(Stream) -> io::Result<()> + Copy + Send + 'static,
    {
        let threads: Vec<_> =
            self.held.drain(..).map(|stream| thread::spawn(move || work(stream))).collect();
        threads.into_iter().try_for_each(joined)
    }

    /// A byte there and back on every held stream; gives when the last has come.
    fn wave(&mut self) -> io::Result<String> {
        for stream in &mut self.held {
            stream.write_all(b"?")?;
        }
        for stream in &mut self.held {
            stream.take_byte()?;
        }
        Ok(usage::monotonic_ns().to_string())
    }

    /// The other end's part of a wave.
    fn answer(&mut self) -> io::Result<String> {
        for stream in &mut self.held {
            stream.take_byte()?;
            stream.write_all(b"!")?;
        }
        Ok(String::new())
    }

    /// Opens and closes, one after the other.
    fn cycle(&mut self, count: usize) -> io::Result<String> {
        let (began, before) = (Instant::now(), usage::usage());
        let mut scrap = [0; 64];
        for _ in 0..count {
            let mut stream = self.new_stream()?;
            match self.end {
                End::Server(_) => {
                    stream.drain(&mut scrap)?;
                }
                End::Client(..) => {
                    stream.finish_writing()?;
                    stream.drain(&mut scrap)?;
                }
            }
        }
        Ok(cost(began, before))
    }

    /// Opens a stream and has a byte answered, so often; gives the median of what it took (ns).
    fn call(&mut self, count: usize) -> io::Result<String> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            let mut stream = self.new_stream()?;
            stream.write_all(b"?")?;
            stream.take_byte()?;
            times.push(began.elapsed());
            stream.finish_writing()?;
            stream.drain(&mut [0; 64])?;
        }
        times.sort_unstable();
        Ok(times.get(count / 2).map_or(0, Duration::as_nanos).to_string())
    }

    /// The other end's part of a call.
    fn greet(&mut self, count: usize) -> io::Result<String> {
        for _ in 0..count {
            let mut stream = self.new_stream()?;
            stream.take_byte()?;
            stream.write_all(b"!")?;
            stream.drain(&mut [0; 64])?;
        }
        Ok(String::new())
    }

    /// Writes for `ms` milliseconds, as fast as it can, then ends the direction.
    fn flood(&mut self, ms: usize, bytes: usize) -> io::Result<String> {
        let buf = vec![0x5A; bytes];
        let stream = self.last()?;
        let until = Instant::now() + Duration::from_millis(ms as u64);
        while Instant::now() < until {
            stream.write_all(&buf)?;
        }
        stream.finish_writing()?;
        stream.take_byte()?;
        self.held.pop();
        Ok(String::new())
    }

    /// Reads to the end and gives each pause between two reads that was longer than `us`
    /// microseconds: when it ended (monotonic, ns) and how long it was (ns).
    fn gaps(&mut self, us: usize) -> io::Result<String> {
        let least = us as u64 * 1000;
        let mut buf = std::mem::take(&mut self.buf);
        let stream = self.last()?;
        let mut out = String::new();
        let mut before = usage::monotonic_ns();
        while stream.read(&mut buf[..READ_BYTES])? > 0 {
            let now = usage::monotonic_ns();
            if now - before >= least {
                let _ = write!(out, "{now}:{} ", now - before);
            }
            before = now;
        }
        stream.write_all(b".")?;
        self.buf = buf;
        self.held.pop();
        Ok(out)
    }
}
