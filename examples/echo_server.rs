//! Sends back what comes, on any number of sessions at once; cut the connections as you like.
//!
//! ```text
//! cargo run --example echo_server -- 127.0.0.1:7007
//! cargo run --example echo_client -- 127.0.0.1:7007 hello
//! ```
//!
//! Cut it meanwhile, as root: `ss -K dst 127.0.0.1 dport = 7007`; or put `evs chaos` between the
//! two. With port 0 the system chooses; the first line says what.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use eversock::{VirtualListener, VirtualStream};

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7007".to_owned());
    let listener = VirtualListener::bind(addr.as_str())?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept()?;
        std::thread::spawn(move || match echo(&stream) {
            Ok(bytes) => println!("{peer}: {bytes} bytes echoed"),
            Err(error) => println!("{peer}: {error}"),
        });
    }
}

fn echo(mut stream: &VirtualStream) -> io::Result<u64> {
    let mut buf = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            stream.shutdown(Shutdown::Write)?;
            return Ok(total);
        }
        stream.write_all(&buf[..n])?;
        total += n as u64;
    }
}
