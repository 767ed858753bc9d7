//! eversock under tokio, server and clients in one program:
//!
//! ```text
//! cargo run --example tokio_echo -- 8
//! ```
//!
//! A virtual stream is made and accepted with blocking calls on threads for that, then turned into
//! an ordinary `TcpStream` ([`VirtualStream::into_pumped`]) that tokio can wait for. The sessions
//! under the streams redial like any other; tokio never sees it.

use std::io;
use std::net::SocketAddr;

use eversock::{VirtualListener, VirtualStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;

const BYTES: usize = 256 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let clients = std::env::args().nth(1).map_or(Ok(4), |n| n.parse::<u8>());
    let clients = clients.map_err(io::Error::other)?;
    let listener = VirtualListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    println!("listening on {addr}");
    let server = tokio::spawn(serve(listener, clients));
    let running: Vec<_> = (0..clients).map(|n| tokio::spawn(client(addr, n))).collect();
    for client in running {
        client.await??;
    }
    server.await??;
    println!("{clients} clients, {BYTES} bytes there and back each");
    Ok(())
}

/// A stream that tokio can wait for.
fn under_tokio(stream: VirtualStream) -> io::Result<TcpStream> {
    let stream = stream.into_pumped()?;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

async fn serve(listener: VirtualListener, clients: u8) -> io::Result<()> {
    let mut running = Vec::new();
    let listener = std::sync::Arc::new(listener);
    for _ in 0..clients {
        let accepting = std::sync::Arc::clone(&listener);
        let (stream, _) = tokio::task::spawn_blocking(move || accepting.accept()).await??;
        running.push(tokio::spawn(echo(under_tokio(stream)?)));
    }
    for echo in running {
        echo.await??;
    }
    Ok(())
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = split(stream);
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

async fn client(addr: SocketAddr, number: u8) -> io::Result<()> {
    let stream = tokio::task::spawn_blocking(move || VirtualStream::connect(addr)).await??;
    let (mut from, mut to) = split(under_tokio(stream)?);
    let writing = tokio::spawn(async move {
        to.write_all(&vec![number; BYTES]).await?;
        to.shutdown().await
    });
    let mut back = Vec::new();
    from.read_to_end(&mut back).await?;
    writing.await??;
    if back.len() == BYTES && back.iter().all(|&byte| byte == number) {
        Ok(())
    } else {
        Err(io::Error::other(format!("client {number}: {} bytes, or others, came", back.len())))
    }
}
