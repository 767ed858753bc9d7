//! How fast the proxy forwards on this machine: `cargo run --release -p eversock-chaos --example
//! throughput [MiB] [script]`. The first figure is without the proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use eversock_chaos::{Config, Plan, Proxy};

fn transfer(to: SocketAddr, server: &TcpListener, bytes: usize) -> io::Result<f64> {
    let start = Instant::now();
    let mut client = TcpStream::connect(to)?;
    let (mut server, _) = server.accept()?;
    let sender = std::thread::spawn(move || -> io::Result<()> {
        let piece = vec![7; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(piece.len());
            client.write_all(&piece[..n])?;
            left -= n;
        }
        Ok(())
    });
    let (mut piece, mut got) = (vec![0; 1 << 20], 0);
    while got < bytes {
        match server.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => got += n,
        }
    }
    drop(sender.join());
    Ok(bytes as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bytes = args.next().map_or(Ok(1024), |mib| mib.parse::<usize>())? << 20;
    let plan = Plan::parse(&args.next().unwrap_or_default())?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let addr = server.local_addr()?;
    println!("direct  {:6.0} MiB/s", transfer(addr, &server, bytes)?);
    let proxy = Proxy::spawn(Config::new("127.0.0.1:0".parse()?, addr).with_plan(plan))?;
    println!("proxied {:6.0} MiB/s", transfer(proxy.local_addr(), &server, bytes)?);
    println!("{:?}", proxy.stop());
    Ok(())
}
