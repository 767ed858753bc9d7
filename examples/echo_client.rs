//! Sends words to `echo_server` and checks what comes back.
//!
//! ```text
//! cargo run --example echo_server -- 127.0.0.1:7007
//! cargo run --example echo_client -- 127.0.0.1:7007 hello
//! cargo run --example echo_client -- 127.0.0.1:7007 hello 1000   # a thousand times, 10 ms apart
//! ```
//!
//! Cut the connection meanwhile: there is a pause, and at the end a count of the resumes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use eversock::VirtualStream;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7007".to_owned());
    let word = args.next().unwrap_or_else(|| "hello".to_owned());
    let times = args.next().map_or(Ok(1), |n| n.parse::<u32>()).map_err(io::Error::other)?;
    let mut stream = VirtualStream::connect(addr.as_str())?;
    let mut back = vec![0; word.len()];
    for round in 0..times {
        if round > 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        stream.write_all(word.as_bytes())?;
        stream.read_exact(&mut back)?;
        if back != word.as_bytes() {
            return Err(io::Error::other("another word came back"));
        }
    }
    let resumes = stream.info()?.resumes;
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    println!("{word} came back {times} times, over {resumes} resumes");
    Ok(())
}
