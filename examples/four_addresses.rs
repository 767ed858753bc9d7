//! A server with four addresses, and a client whose hundred connections to them share one session.
//!
//! ```text
//! cargo run --features dedup --example four_addresses
//! ```
//!
//! Both are in one process here. The client is not told that the addresses are one server's: each
//! connect finds it out, and the table says why it shares. In the end the server withdraws an
//! address and announces it again, with the connections standing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use eversock::dedup::{ConnectOptions, Pool, PoolConfig, SharedConfig, SharedListener};

const ADDRESSES: [&str; 4] = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0", "[::1]:0"];

/// Echoes on each connection until its client has ended.
fn serve(listener: &SharedListener) {
    while let Ok((stream, _about)) = listener.accept() {
        thread::spawn(move || {
            let (mut from, mut to) = (&stream, &stream);
            let _gone = io::copy(&mut from, &mut to);
            let _gone = stream.shutdown(Shutdown::Write);
        });
    }
}

fn say(mut stream: &TcpStream, word: &str) -> io::Result<()> {
    stream.write_all(word.as_bytes())?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    if back == word.as_bytes() { Ok(()) } else { Err(io::Error::other("another word came back")) }
}

fn main() -> io::Result<()> {
    let addrs: Vec<SocketAddr> =
        ADDRESSES.iter().map(|addr| addr.parse()).collect::<Result<_, _>>().map_err(bad)?;
    let listener = Arc::new(SharedListener::bind_with(&addrs, SharedConfig::default())?);
    let served = Arc::clone(&listener);
    thread::spawn(move || serve(&served));
    let addrs = listener.local_addrs();

    let pool = Pool::new(PoolConfig::default())?;
    let options = ConnectOptions { application: "example".to_owned(), ..ConnectOptions::default() };
    let mut streams = Vec::new();
    for turn in 0..100 {
        let stream = pool.connect_with(addrs[turn % addrs.len()], &options)?;
        say(&stream, &format!("word {turn}"))?;
        streams.push(stream);
    }
    print_table(&pool);
    println!("{} connections over {}", streams.len(), sessions(&pool));

    // Clients are told which addresses there are to go on with when theirs fails, and where to find
    // the server anew. What stands is not touched.
    listener.announce(&addrs[1..])?;
    streams.push(pool.connect_with(addrs[1], &options)?);
    println!("{} is withdrawn", addrs[0]);
    listener.announce(addrs)?;
    streams.push(pool.connect_with(addrs[0], &options)?);
    println!("{} is announced again", addrs[0]);
    for (turn, stream) in streams.iter().enumerate() {
        say(stream, &format!("still {turn}"))?;
    }
    println!("{} connections over {}", streams.len(), sessions(&pool));
    Ok(())
}

fn bad(error: std::net::AddrParseError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

fn sessions(pool: &Pool) -> String {
    match pool.sessions() {
        1 => "1 session".to_owned(),
        several => format!("{several} sessions"),
    }
}

fn print_table(pool: &Pool) {
    println!("no   application  requested          address            state      refs  why");
    for line in pool.table() {
        let row = line.row;
        let address = row.address.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
        println!(
            "{:<4} {:<12} {:<18} {:<18} {:<10} {:>4}  {}",
            row.management,
            row.application,
            row.requested,
            address,
            row.state,
            row.references,
            row.why.name(),
        );
    }
}
