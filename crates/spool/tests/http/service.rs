//! A small HTTP service that does what a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the service was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

type Act = dyn Fn(&Asked, &mut TcpStream) -> bool + Send + Sync;

/// Accepts and answers until it is dropped. The closure writes the response and says whether the
/// connection goes on.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
}

impl Service {
    pub(crate) fn start(
        act: impl Fn(&Asked, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, connections): (Arc<Mutex<Vec<Asked>>>, Arc<AtomicUsize>) = Default::default();
        let (act, ends): (Arc<Act>, _) = (Arc::new(act), Arc::new(AtomicBool::new(false)));
        let (for_thread, counts, ended) =
            (Arc::clone(&asked), Arc::clone(&connections), Arc::clone(&ends));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                counts.fetch_add(1, Ordering::AcqRel);
                let (act, asked) = (Arc::clone(&act), Arc::clone(&for_thread));
                thread::spawn(move || serve(stream, &*act, &asked));
            }
        });
        Self { address, asked, connections, ends }
    }

    /// Says the same to everybody.
    pub(crate) fn saying(response: &str) -> Self {
        let response = response.to_owned();
        Self::start(move |_, stream| stream.write_all(response.as_bytes()).is_ok())
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| asked.target.clone()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

pub(crate) fn ok(body: &str) -> String {
    said("200 OK", "", body)
}

pub(crate) fn said(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// Says nothing until the client has gone.
pub(crate) fn hang(stream: &mut TcpStream) -> bool {
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    false
}

fn serve(stream: TcpStream, act: &Act, asked: &Mutex<Vec<Asked>>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        asked.lock().unwrap().push(request.clone());
        if !act(&request, &mut writer) {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = || {
        let mut line = String::new();
        let count = reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    let length = asked.header("content-length").map_or(0, |text| text.parse().unwrap());
    asked.body = vec![0; length];
    reader.read_exact(&mut asked.body).ok()?;
    Some(asked)
}
