//! Sends a file over a connection that may be cut at any time.
//!
//! ```text
//! cargo run --example file_transfer -- receive 127.0.0.1:7008 copy.bin
//! cargo run --example file_transfer -- send 127.0.0.1:7008 original.bin
//! ```
//!
//! The file's length goes first (8 bytes, little-endian), then the file; the receiver answers with
//! one byte when it has all on the disk. Each end shows how far it is and what happens to the
//! session. Cut the connection meanwhile, as root: `ss -K dport = 7008`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use eversock::{VirtualListener, VirtualStream};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", addr, path] => send(addr, path),
        ["receive", addr, path] => receive(addr, path),
        _ => {
            eprintln!("usage: file_transfer send|receive ADDRESS FILE");
            std::process::exit(2);
        }
    }
}

fn send(addr: &str, path: &str) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut stream = VirtualStream::connect(addr)?;
    follow(&stream)?;
    stream.write_all(&length.to_le_bytes())?;
    let mut progress = Progress::new("sent", length);
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut buf)?;
        if n == 0 {
            break;
        }
        stream.write_all(&buf[..n])?;
        progress.add(n);
    }
    stream.shutdown(Shutdown::Write)?;
    // What was written is on its way; only the peer can say that it is on its disk.
    stream.read_exact(&mut [0])?;
    let info = stream.info()?;
    println!("{path} is there: {length} bytes, {} resumes", info.resumes);
    Ok(())
}

fn receive(addr: &str, path: &str) -> io::Result<()> {
    let listener = VirtualListener::bind(addr)?;
    println!("listening on {}", listener.local_addr()?);
    let (mut stream, peer) = listener.accept()?;
    follow(&stream)?;
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut file = File::create(path)?;
    let mut progress = Progress::new("received", length);
    let mut buf = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            break;
        }
        file.write_all(&buf[..n])?;
        progress.add(n);
        total += n as u64;
    }
    if total != length {
        return Err(io::Error::other(format!("{total} of {length} bytes came")));
    }
    file.sync_all()?;
    stream.write_all(b"!")?;
    println!("{total} bytes from {peer} are in {path}");
    Ok(())
}

/// Prints what happens to the session; ends with it.
fn follow(stream: &VirtualStream) -> io::Result<()> {
    let events = stream.events()?;
    std::thread::spawn(move || {
        for event in events {
            println!("  connection {}: {:?}", event.epoch, event.kind);
        }
    });
    Ok(())
}

/// A line now and then.
struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    began: Instant,
    told: Instant,
}

impl Progress {
    fn new(what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        Self { what, total, done: 0, began: now, told: now }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.told.elapsed() < Duration::from_millis(500) && self.done < self.total {
            return;
        }
        self.told = Instant::now();
        let mib = self.done as f64 / (1 << 20) as f64;
        let rate = mib / self.began.elapsed().as_secs_f64();
        let percent = 100 * self.done / self.total.max(1);
        println!("{}: {percent} % ({mib:.0} MiB, {rate:.0} MiB/s)", self.what);
    }
}
