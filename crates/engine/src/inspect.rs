//! Sessions as seen from outside: what `evs ls` shows, and the control socket that it asks.
//!
//! Each process with virtual sockets listens on `<dir>/<pid>.sock`, where `<dir>` is
//! `$XDG_RUNTIME_DIR/eversock` or `/tmp/eversock-<uid>` (mode 0700). One line of JSON in, one out:
//! `{"cmd":"ls"}`, `{"cmd":"kill","id":7}`, `{"cmd":"redial","id":7}`,
//! `{"cmd":"answer","id":7,"answer":"continue"}` (or `"give-up"`), `{"cmd":"table","name":"x"}` for
//! what somebody above this crate tells ([`crate::host::control_table`]).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use core::net::SocketAddr;
use eversock_proto::control::Role;
use mio::Interest;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::config::Answer;
use crate::error::{is_shortage, would_block};
use crate::reactor::{Command, Reactor, engine_if_running};
use crate::socket::{Socket, bits};
use crate::sys::{self, Fd, fd, pass};

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not connected yet.
    Fresh,
    /// The first connection is being made.
    Connecting,
    /// A connection carries it.
    Attached,
    /// No connection; redialling, or waiting for the client.
    Detached,
    /// Someone is asked whether to recover.
    Asking,
    /// The program has closed it; the rest is being delivered.
    Lingering,
    /// Both directions have ended.
    Closed,
    /// It has failed; see `last_error`.
    Failed,
}

/// One session at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The engine's number of the session in this process.
    pub local_id: u64,
    /// The session's id in hexadecimal; empty before it stands.
    pub session: String,
    /// "client" or "server"; empty before it stands.
    pub role: String,
    /// What it is doing.
    pub state: State,
    /// "direct" or "pumped".
    pub mode: String,
    /// The connection's number within the session, from 1.
    pub epoch: u64,
    /// The program's address, as it was at first.
    pub local: Option<SocketAddr>,
    /// The peer's address, as it was at first.
    pub peer: Option<SocketAddr>,
    /// The static key that the peer has proven to have, in hexadecimal. Processes of older versions
    /// do not tell it.
    #[serde(default)]
    pub peer_key: Option<String>,
    /// Bytes that the program has written.
    pub written: u64,
    /// Bytes of them that the peer's program has consumed: the last acknowledged offset.
    pub acked: u64,
    /// Bytes that have come from the peer.
    pub received: u64,
    /// Bytes of them that the program has read.
    pub consumed: u64,
    /// Bytes kept for replay.
    pub log_used: u64,
    /// The credit that we give, in bytes: the bound of what may be stashed.
    pub window: u64,
    /// How often it was resumed.
    pub resumes: u64,
    /// Bytes that were sent again.
    pub replayed: u64,
    /// What ended the last connection, or the session.
    pub last_error: Option<String>,
    /// Milliseconds until the next redial, while one is planned.
    pub next_try_ms: Option<u64>,
    /// Milliseconds without a connection, while there is none.
    pub detached_ms: Option<u64>,
}

pub(crate) fn describe(socket: &Arc<Socket>) -> Option<SessionInfo> {
    // The order of locks is meta, tx, rx; each is let go before the next.
    let meta = socket.meta.lock().ok()?;
    let control = meta.control.as_ref();
    let now = clock::now();
    let state = socket.bits();
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut info = SessionInfo {
        local_id: socket.id,
        session: control.map(|control| control.id.to_string()).unwrap_or_default(),
        role: match control.map(|control| control.role) {
            Some(Role::Client) => "client",
            Some(Role::Server) => "server",
            None => "",
        }
        .to_owned(),
        state: match state {
            s if s & bits::FAILED != 0 => State::Failed,
            s if s & bits::OVER != 0 => State::Closed,
            s if s & bits::FRESH != 0 => State::Fresh,
            s if s & bits::CONNECTING != 0 => State::Connecting,
            s if s & bits::DETACHED != 0 && meta.rare().asking => State::Asking,
            s if s & bits::DETACHED != 0 => State::Detached,
            s if s & bits::CLOSED != 0 => State::Lingering,
            _ => State::Attached,
        },
        mode: if state & bits::PUMPED != 0 { "pumped" } else { "direct" }.to_owned(),
        epoch: control.map_or(0, |control| control.epoch()),
        local: meta.local,
        peer: meta.peer,
        peer_key: meta.rare().peer_key.map(|key| key.to_string()),
        written: 0,
        acked: 0,
        received: 0,
        consumed: 0,
        log_used: 0,
        window: 0,
        resumes: control.map_or(0, |control| control.resumes()),
        replayed: 0,
        last_error: meta.rare().last_error.clone(),
        next_try_ms: meta.rare().next_try.map(|at| millis(at.saturating_duration_since(now))),
        detached_ms: meta.rare().detached_since.map(|since| millis(now - since)),
    };
    drop(meta);
    {
        let mut tx = socket.tx.lock().ok()?;
        socket.absorb(&mut tx);
        if let Some(sender) = tx.sender.as_ref() {
            info.written = sender.written();
            info.acked = sender.acked().min(sender.written());
            info.log_used = sender.log_len();
            info.replayed = sender.replayed();
        }
    }
    if let Some(receiver) = socket.rx.lock().ok()?.receiver.as_ref() {
        info.received = receiver.consumed() + receiver.stashed() as u64;
        info.consumed = receiver.consumed();
        info.window = receiver.window();
    }
    Some(info)
}

fn enrolled() -> Vec<Arc<Socket>> {
    let Some(engine) = engine_if_running() else { return Vec::new() };
    let sockets = engine.sockets.lock().unwrap_or_else(PoisonError::into_inner);
    sockets.values().filter_map(Weak::upgrade).collect()
}

/// All sessions of this process. Blocks only for the sockets' own short locks.
pub fn sessions() -> Vec<SessionInfo> {
    enrolled().iter().filter_map(describe).collect()
}

fn find(local_id: u64) -> Option<Arc<Socket>> {
    enrolled().into_iter().find(|socket| socket.id == local_id)
}

/// Answers the question whether a session is to be recovered
/// ([`RecoveryPolicy::AskOutside`](crate::RecoveryPolicy::AskOutside)). False if there is no such
/// session.
pub fn answer(local_id: u64, answer: Answer) -> bool {
    command(local_id, |socket| Command::Answered { socket, answer })
}

/// Dials a client session again now, beside its connection if one stands. False if there is no such
/// session.
pub fn redial(local_id: u64) -> bool {
    command(local_id, |socket| Command::Redial { socket })
}

/// Ends a session: its program gets ECONNABORTED, the peer's ECONNRESET. False if there is no such
/// session.
pub fn kill(local_id: u64) -> bool {
    find(local_id)
        .map(|socket| socket.fail_now(libc::ECONNABORTED, "ended by an operator"))
        .is_some()
}

fn command(local_id: u64, make: impl FnOnce(Arc<Socket>) -> Command) -> bool {
    let (Some(socket), Some(engine)) = (find(local_id), engine_if_running()) else {
        return false;
    };
    engine.command(make(socket));
    true
}

/// A request on the control socket.
#[derive(Debug, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    Ls {},
    Kill { id: u64 },
    Redial { id: u64 },
    Answer { id: u64, answer: AnswerWord },
    Table { name: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AnswerWord {
    Continue,
    GiveUp,
}

/// Where the control sockets of this user's processes are.
pub fn control_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("eversock"),
        _ => PathBuf::from(format!("/tmp/eversock-{}", rustix::process::geteuid().as_raw())),
    }
}

/// This process's control socket; the file goes with it.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    fd: Fd,
    path: PathBuf,
    pid: u32,
}

impl ControlSocket {
    pub(crate) fn open() -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
        let dir = control_dir();
        if let Err(error) = std::fs::DirBuilder::new().mode(0o700).create(&dir)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let found = std::fs::symlink_metadata(&dir)?;
        let ours = rustix::process::geteuid().as_raw();
        // In /tmp anyone may have made the directory first.
        if !found.is_dir() || found.uid() != ours || found.mode() & 0o077 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let pid = std::process::id();
        let path = dir.join(format!("{pid}.sock"));
        let _stale = std::fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::STREAM;
        let fd = fd::internal(rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(&path)?)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&fd, 8)?;
        Ok(Self { fd, path, pid })
    }

    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A fork child has a copy of this, but not the file.
        if self.pid == std::process::id() {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// Someone who asks.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: Fd,
    request: Vec<u8>,
    reply: Vec<u8>,
}

const REQUEST_BYTES_MAX: usize = 4096;
const CONNECTIONS_MAX: usize = 16;

impl Reactor {
    pub(crate) fn control_ready(&mut self) {
        loop {
            let Some(control) = &self.control else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let from = match rustix::net::accept_with(&control.fd, flags) {
                Ok(from) => from,
                Err(error) if is_shortage(&error.into()) => {
                    // Edge-triggered: whoever asks gives no event of his own again.
                    return self.look_at_lines_again();
                }
                Err(_) => return,
            };
            if !pass::is_same_user(&from) || self.connections.len() >= CONNECTIONS_MAX {
                continue;
            }
            let Ok(from) = fd::internal(from) else { continue };
            let token = self.token();
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.register(from.as_raw_fd(), token, both).is_ok() {
                let connection = Connection { fd: from, request: Vec::new(), reply: Vec::new() };
                self.connections.insert(token, connection);
                self.connection_ready(token);
            }
        }
    }

    pub(crate) fn connection_ready(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !connection.advance() {
            let number = connection.fd.as_raw_fd();
            self.deregister(number);
            self.connections.remove(&token);
        }
    }
}

impl Connection {
    /// Reads requests and writes replies as far as possible; false when done.
    fn advance(&mut self) -> bool {
        let number = self.fd.as_raw_fd();
        loop {
            while !self.reply.is_empty() {
                match sys::io::send(number, &[io::IoSlice::new(&self.reply)], false) {
                    Ok(n) => {
                        self.reply.drain(..n);
                    }
                    Err(error) => return would_block(&error),
                }
            }
            if let Some(end) = self.request.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.request.drain(..=end).collect();
                self.reply = reply(&line);
                self.reply.push(b'\n');
                continue;
            }
            let mut buf = [0; 1024];
            match sys::io::recv_one(number, &mut buf) {
                Ok(0) => return false,
                Ok(n) => self.request.extend_from_slice(&buf[..n]),
                Err(error) => return would_block(&error),
            }
            if self.request.len() > REQUEST_BYTES_MAX {
                return false;
            }
        }
    }
}

fn reply(line: &[u8]) -> Vec<u8> {
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return json(&serde_json::json!({ "error": error.to_string() })),
    };
    let done = match request {
        Request::Ls {} => {
            let program = std::env::current_exe().ok();
            let program = program.and_then(|path| Some(path.file_name()?.display().to_string()));
            return json(&serde_json::json!({
                "pid": std::process::id(),
                "program": program.unwrap_or_default(),
                "sessions": sessions(),
            }));
        }
        Request::Table { name } => {
            return json(&match crate::host::table(&name) {
                Some(Ok(table)) => serde_json::json!({ "pid": std::process::id(), "table": table }),
                Some(Err(error)) => serde_json::json!({ "error": error }),
                None => serde_json::json!({ "error": "no such table in this process" }),
            });
        }
        Request::Kill { id } => kill(id),
        Request::Redial { id } => redial(id),
        Request::Answer { id, answer: AnswerWord::Continue } => answer(id, Answer::Continue),
        Request::Answer { id, answer: AnswerWord::GiveUp } => answer(id, Answer::GiveUp),
    };
    if done {
        json(&serde_json::json!({ "ok": true }))
    } else {
        json(&serde_json::json!({ "error": "no such session in this process" }))
    }
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_an_older_process_is_read_without_its_peers_key() {
        let told = serde_json::json!({
            "local_id": 7, "session": "00", "role": "client", "state": "attached",
            "mode": "direct", "epoch": 1, "local": null, "peer": null, "written": 1, "acked": 0,
            "received": 0, "consumed": 0, "log_used": 0, "window": 0, "resumes": 0, "replayed": 0,
            "last_error": null, "next_try_ms": null, "detached_ms": null,
        });
        let info: SessionInfo = serde_json::from_value(told).expect("a session");
        assert_eq!((info.local_id, info.peer_key), (7, None));
    }
}
