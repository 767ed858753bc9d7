//! Figures in the text format of Prometheus, for whoever asks by HTTP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Places;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of the head of a request.
const REQUEST_MAX: usize = 8 << 10;
/// For a request to come, and for an answer to be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the listener is left alone after the system has refused it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers on threads of its own, whose names begin with `name`, for as long as the process lives.
/// `figures` gives nothing when the program ends. Gives where it listens.
pub(crate) fn serve(
    listen: SocketAddr,
    name: &'static str,
    figures: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)?;
    let addr = listener.local_addr()?;
    let figures = Arc::new(figures);
    let places = Places::new(CONNECTIONS_MAX);
    thread::Builder::new().name(format!("{name}-metrics")).spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            let Some(place) = places.take() else { continue };
            let figures = Arc::clone(&figures);
            let begun = thread::Builder::new().name(format!("{name}-scraped")).spawn(move || {
                let _place = place;
                // Whoever asked has gone.
                let _gone = answer(stream, &*figures);
            });
            if let Err(error) = begun {
                log::warn!("no thread for a connection to the figures: {error}");
            }
        }
    })?;
    Ok(addr)
}

fn answer(mut stream: TcpStream, figures: &dyn Fn() -> Option<String>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(line) = request_line(&mut stream)? else {
        return respond(&mut stream, "400 Bad Request", "a request is GET /metrics\n", true);
    };
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let with_body = method != "HEAD";
    if !matches!(method, "GET" | "HEAD") {
        return respond(&mut stream, "405 Method Not Allowed", "only GET is answered\n", true);
    }
    if path != "/metrics" {
        return respond(&mut stream, "404 Not Found", "the figures are at /metrics\n", with_body);
    }
    match figures() {
        Some(text) => respond(&mut stream, "200 OK", &text, with_body),
        None => respond(&mut stream, "503 Service Unavailable", "the program ends\n", with_body),
    }
}

/// The first line of a request, whose head is read to its end. `None`: it is too long or no text.
fn request_line(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut some = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut some)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend(some.get(..count).unwrap_or_default());
        if head.len() > REQUEST_MAX {
            return Ok(None);
        }
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8(line.to_vec()).ok())
}

fn respond(stream: &mut TcpStream, status: &str, body: &str, with_body: bool) -> io::Result<()> {
    let length = body.len();
    let mut all = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if with_body {
        all.push_str(body);
    }
    stream.write_all(all.as_bytes())
}

/// The value of a label.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
