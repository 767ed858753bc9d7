//! What these tests have in common: patience, directories, and a front.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use eversock_engine::Config;
use eversock_socket::VirtualStream;
use eversock_spool::limits::MESSAGE_MAX;
use eversock_spool::record::Record;
use eversock_spool::target::{Class, Grant, ItemResult, Report};
use eversock_spool::wire::{FrameReader, Hello, Role, ServerMessage, frame};
use eversock_spool::{Kind, RequestId};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test.
pub(crate) const LEASE: Duration = Duration::from_secs(600);

/// Fails the test when the condition does not come true in time.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn config() -> Config {
    Config { grace: Duration::from_secs(60), ..Config::default() }
}

/// A directory of the test's own, gone at its end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let name = RequestId::random().unwrap();
        let path = std::env::temp_dir().join(format!("spool-backend-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn record(id: u128, kind: Kind, key: &str, payload: &[u8]) -> Record {
    let (id, key, payload) = (RequestId(id), key.as_bytes().to_vec(), payload.to_vec());
    Record { lsn: 0, id, kind, key, payload, epoch: 0, accepted_ms: 1_000 }
}

pub(crate) fn mail(id: u128, mailbox: &str, message: &str) -> Record {
    record(id, Kind::Write, mailbox, message.as_bytes())
}

pub(crate) fn done(result: &ItemResult) -> (&[u8], bool) {
    match result {
        ItemResult::Done { answer, again } => (answer, *again),
        other => panic!("not done: {other:?}"),
    }
}

/// The answer as JSON.
pub(crate) fn json(result: &ItemResult) -> serde_json::Value {
    serde_json::from_slice(done(result).0).unwrap()
}

pub(crate) fn code(result: &ItemResult) -> u32 {
    match result {
        ItemResult::Refused { code, .. } => *code,
        other => panic!("not refused: {other:?}"),
    }
}

/// What a server said to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Results(Vec<ItemResult>),
    Fenced { seen: u64 },
}

/// A front that says what the test wants.
pub(crate) struct Front {
    stream: Arc<VirtualStream>,
    said: Receiver<ServerMessage>,
    count: u64,
}

struct Source(Arc<VirtualStream>);

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Front {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = Arc::new(VirtualStream::connect_with(addr, config()).unwrap());
        let mut reader = FrameReader::new(Source(Arc::clone(&stream)));
        let (hears, said) = crossbeam_channel::unbounded();
        thread::spawn(move || {
            while let Ok(Some(frame)) = reader.read(MESSAGE_MAX) {
                if hears.send(frame.decode().unwrap()).is_err() {
                    return;
                }
            }
        });
        let front = Self { stream, said, count: 0 };
        front.send(&ServerMessage::Hello(Hello::new(Role::Front)));
        let welcome = front.next();
        let class = Class::Ledger;
        assert!(
            matches!(welcome, ServerMessage::Welcome { class: c, .. } if c == class),
            "{welcome:?}"
        );
        front
    }

    fn send(&self, message: &ServerMessage) {
        let mut wire = Vec::new();
        frame::put(message, &mut wire).unwrap();
        (&*self.stream).write_all(&wire).unwrap();
    }

    fn next(&self) -> ServerMessage {
        self.said.recv_timeout(PATIENCE).expect("a message in time")
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    pub(crate) fn report(&mut self) -> Report {
        let n = self.number();
        self.send(&ServerMessage::Probe { n });
        match self.next() {
            ServerMessage::Report { n: of, report } if of == n => report,
            other => panic!("not a report: {other:?}"),
        }
    }

    /// Gives the lock in answer to a report of this moment.
    pub(crate) fn grant(&mut self, epoch: u64, lease: Duration) -> bool {
        let stamp = self.report().stamp;
        self.grant_with(Grant { epoch, lease, stamp })
    }

    pub(crate) fn grant_with(&mut self, grant: Grant) -> bool {
        let n = self.number();
        self.send(&ServerMessage::Grant { n, grant });
        match self.next() {
            ServerMessage::Granted { n: of, done } if of == n => done,
            other => panic!("not an answer to a grant: {other:?}"),
        }
    }

    pub(crate) fn release(&mut self, epoch: u64) -> bool {
        let (n, timeout_ms) = (self.number(), 60_000);
        self.send(&ServerMessage::Release { n, epoch, timeout_ms });
        match self.next() {
            ServerMessage::Released { n: of, done } if of == n => done,
            other => panic!("not an answer to a release: {other:?}"),
        }
    }

    /// Sends a call without waiting for what is said.
    pub(crate) fn begin(&mut self, epoch: u64, job: Option<u64>, items: &[Record]) {
        let call = self.number();
        self.send(&ServerMessage::Execute { call, epoch, job, items: items.into() });
    }

    /// What was said to the call that was sent last; nothing if it has not been for a moment.
    pub(crate) fn said(&self, wait: Duration) -> Option<Said> {
        match self.said.recv_timeout(wait) {
            Ok(ServerMessage::Results { call, results }) if call == self.count => {
                Some(Said::Results(results))
            }
            Ok(ServerMessage::Fenced { call, seen }) if call == self.count => {
                Some(Said::Fenced { seen })
            }
            Ok(other) => panic!("not an answer to a call: {other:?}"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    pub(crate) fn call(&mut self, epoch: u64, items: &[Record]) -> Said {
        self.begin(epoch, None, items);
        self.said(PATIENCE).expect("an answer in time")
    }

    pub(crate) fn results(&mut self, epoch: u64, items: &[Record]) -> Vec<ItemResult> {
        match self.call(epoch, items) {
            Said::Results(results) => results,
            fenced => panic!("{fenced:?}"),
        }
    }

    pub(crate) fn one(&mut self, epoch: u64, item: Record) -> ItemResult {
        self.results(epoch, &[item]).remove(0)
    }
}
