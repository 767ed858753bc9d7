//! Relatives: processes that came of one another by fork and share sessions (DESIGN 6).
//!
//! Whoever wants to use a session that a relative has asks it, over the named channel of the
//! relative's engine. Both prove that they are of one family: they know a secret that fork alone
//! passes on. The answer is the session itself, or the end of a pump when the relative's program
//! goes on using it.
//!
//! Here: the messages and the asking side. The answering side is `reactor::family`.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eversock_proto::secret::{KEY_BYTES, Secret, SessionId};
use eversock_proto::snapshot::{In, Out};

use crate::clock;
use crate::error::{fail, would_block};
use crate::process::{self, Holder};
use crate::reactor::{Command, Engine, channel};
use crate::socket::{Socket, bits};
use crate::sys::{self, Fd, fd, pass};
use crate::wait::kick::Bell;

/// A message of relatives is at most so long.
pub(crate) const MESSAGE_MAX_BYTES: usize = 1536;
/// A session on its way to another process is at most so long: both directions full, at the
/// greatest window there is.
const SNAPSHOT_MAX_BYTES: u64 = 600 * 1024 * 1024;
/// How long one question may go without an answer before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a program waits for a relative that lives and does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

const ASK: &[u8; 4] = b"EVSA";
const ANSWER: &[u8; 4] = b"EVSB";
const NOW_AT: &[u8; 4] = b"EVSN";
const PASSED: &[u8; 4] = b"EVSP";
/// A guest wants to read.
pub(crate) const READ: &[u8; 4] = b"EVSR";
/// A guest becomes a program that may read and cannot say when.
const MAY_READ: &[u8; 4] = b"EVSM";
/// A process says that it waits for the end of the one it tells.
const HEIR: &[u8; 4] = b"EVSH";
/// The owner tells a guest that its session has ended: an errno follows, 0 for the peer's end.
pub(crate) const ENDED: &[u8; 4] = b"EVSE";

static SECRET: OnceLock<Secret> = OnceLock::new();
/// The users as whom relatives have engines, each plus one, in memory that all of them share;
/// `None` where there is no such memory.
static USERS: OnceLock<Option<&'static [AtomicU64]>> = OnceLock::new();

/// What all relatives know; made by the first of them that has a virtual socket.
pub(crate) fn secret() -> &'static Secret {
    SECRET.get_or_init(|| Secret::from_bytes(fd::random()))
}

fn users() -> Option<&'static [AtomicU64]> {
    *USERS.get_or_init(|| sys::process::shared_words().ok().map(|words| words.as_slice()))
}

/// An engine of the family listens for relatives as this user.
pub(crate) fn note_user(user: u32) {
    let user = u64::from(user) + 1;
    let order = Ordering::SeqCst;
    for word in users().into_iter().flatten() {
        match word.compare_exchange(0, user, order, order) {
            Ok(_) => return,
            Err(known) if known == user => return,
            Err(_) => {}
        }
    }
}

/// True when a relative may have an engine as this user. Names can be taken by anybody once their
/// process is dead; a stranger who has one is as good as nobody.
pub(crate) fn has_user(user: u32) -> bool {
    let Some(words) = users() else { return true };
    let known = |word: &AtomicU64| word.load(Ordering::SeqCst) == u64::from(user) + 1;
    // With more users than there is room for, nothing is known of the rest.
    words.iter().any(known) || words.iter().all(|word| word.load(Ordering::SeqCst) != 0)
}

/// What one process says to another.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody wants to use a session.
    Ask(Ask),
    /// A session is with another process now.
    NowAt { session: SessionId, instance: u64 },
    /// An unproven connection, with what it has said, and how often it was passed before.
    Passed { hops: u8, hello: Vec<u8> },
    /// A guest wants to read.
    Read,
    /// It may read from now on, and cannot say when.
    MayRead,
    /// Somebody waits for our end, as it may have to take our place at a listener.
    Heir,
}

/// A question for a session.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) session: SessionId,
    pub(crate) asker: u64,
    pub(crate) nonce: [u8; KEY_BYTES],
    /// Only the end of a pump will do: the asker is about to become another program.
    pub(crate) only_pump: bool,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The session, as a file, and its connection if it has one.
    Yours,
    /// The end of a pump.
    Pumped,
    /// Ask that process.
    Ask(u64),
    /// Ask again soon.
    Busy,
    /// The session has ended, with this errno.
    Ended(i32),
}

impl Ask {
    /// The message for the process `owner`.
    pub(crate) fn encode(&self, owner: u64) -> Vec<u8> {
        let mut out = ASK.to_vec();
        out.extend_from_slice(&self.session.0);
        out.extend_from_slice(&self.asker.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.push(u8::from(self.only_pump));
        let mac = secret().mac("family ask", &[&owner.to_le_bytes(), &out]);
        out.extend_from_slice(&mac);
        out
    }

    fn decode(fields: &[u8]) -> Option<Self> {
        let (session, rest) = fields.split_first_chunk::<16>()?;
        let (asker, rest) = rest.split_first_chunk::<8>()?;
        let (nonce, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
        let only_pump = match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let (session, asker) = (SessionId(*session), u64::from_le_bytes(*asker));
        Some(Self { session, asker, nonce: *nonce, only_pump })
    }

    /// The message that answers this question.
    pub(crate) fn answer(&self, answer: Answer) -> Vec<u8> {
        let (kind, value) = match answer {
            Answer::Yours => (1, 0),
            Answer::Pumped => (2, 0),
            Answer::Ask(instance) => (3, instance),
            Answer::Busy => (4, 0),
            Answer::Ended(errno) => (5, u64::from(errno.unsigned_abs())),
        };
        let mut out = ANSWER.to_vec();
        out.push(kind);
        out.extend_from_slice(&u64::to_le_bytes(value));
        let mac = secret().mac("family answer", &[&self.nonce, &self.session.0, &out]);
        out.extend_from_slice(&mac);
        out
    }

    fn read_answer(&self, message: &[u8]) -> Option<Answer> {
        let (fields, mac) = message.split_last_chunk::<KEY_BYTES>()?;
        if !secret().verify("family answer", &[&self.nonce, &self.session.0, fields], mac) {
            return None;
        }
        let rest = fields.strip_prefix(ANSWER.as_slice())?;
        let (&kind, value) = rest.split_first()?;
        let value = u64::from_le_bytes(*value.first_chunk::<8>()?);
        Some(match kind {
            1 => Answer::Yours,
            2 => Answer::Pumped,
            3 => Answer::Ask(value),
            4 => Answer::Busy,
            5 => Answer::Ended(i32::try_from(value).ok()?),
            _ => return None,
        })
    }
}

impl Message {
    /// Reads a message to the process `us`; `None` for what is none, or not a relative's.
    pub(crate) fn decode(message: &[u8], us: u64) -> Option<Self> {
        let (kind, rest) = message.split_first_chunk::<4>()?;
        match kind {
            PASSED => {
                let (&hops, hello) = rest.split_first()?;
                Some(Self::Passed { hops, hello: hello.to_vec() })
            }
            READ if rest.is_empty() => Some(Self::Read),
            MAY_READ if rest.is_empty() => Some(Self::MayRead),
            ASK | NOW_AT | HEIR => {
                let (fields, mac) = message.split_last_chunk::<KEY_BYTES>()?;
                let label = match kind {
                    ASK => "family ask",
                    NOW_AT => "family now at",
                    _ => "family heir",
                };
                if !secret().verify(label, &[&us.to_le_bytes(), fields], mac) {
                    return None;
                }
                let fields = fields.get(4..)?;
                if kind == HEIR {
                    return fields.is_empty().then_some(Self::Heir);
                }
                if kind == ASK {
                    return Ask::decode(fields).map(Self::Ask);
                }
                let (session, rest) = fields.split_first_chunk::<16>()?;
                let instance = u64::from_le_bytes(rest.try_into().ok()?);
                Some(Self::NowAt { session: SessionId(*session), instance })
            }
            _ => None,
        }
    }
}

/// An unproven connection's message, passed on for the `hops`th time.
pub(crate) fn passed(hops: u8, hello: &[u8]) -> Vec<u8> {
    let mut out = PASSED.to_vec();
    out.push(hops);
    out.extend_from_slice(hello);
    out
}

/// Says to the process `to` that a session is with `instance` now.
pub(crate) fn now_at(to: u64, session: SessionId, instance: u64) -> Vec<u8> {
    let mut out = NOW_AT.to_vec();
    out.extend_from_slice(&session.0);
    out.extend_from_slice(&instance.to_le_bytes());
    let mac = secret().mac("family now at", &[&to.to_le_bytes(), &out]);
    out.extend_from_slice(&mac);
    out
}

/// Says to the process `to` that we wait for its end. With proof: a stranger's word would make a
/// process give up its listener, and keep as many lines open as he likes.
pub(crate) fn heir(to: u64) -> Vec<u8> {
    let mut out = HEIR.to_vec();
    let mac = secret().mac("family heir", &[&to.to_le_bytes(), &out]);
    out.extend_from_slice(&mac);
    out
}

/// A guest's line to the owner of its session.
#[derive(Debug)]
pub(crate) struct Link {
    line: Fd,
    /// When it has asked last, in the clock's milliseconds.
    asked: AtomicU64,
    /// It has read something since.
    answered: AtomicBool,
}

impl Link {
    fn new(line: Fd) -> Self {
        Self { line, asked: AtomicU64::new(0), answered: AtomicBool::new(false) }
    }

    /// Tells the owner that this program reads, and has nothing to read: once in a millisecond, as
    /// it may come again at once, for ever; but who has got what it asked for and sleeps for the
    /// next asks at once.
    pub(crate) fn want_input(&self, sleeps: bool) {
        let now = clock::millis();
        let is_again = self.asked.swap(now, Ordering::Relaxed) == now;
        if is_again && !(sleeps && self.answered.load(Ordering::Relaxed)) {
            return;
        }
        self.answered.store(false, Ordering::Relaxed);
        // A line that is gone says so to the next read or write; one that is full has said it.
        let _gone = pass::send(self.line.as_raw_fd(), READ, &[]);
    }

    /// This program has read something.
    pub(crate) fn note_input(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The program that this process becomes goes on as the guest.
    pub(crate) fn keep_through_exec(&self) -> io::Result<()> {
        let _gone = pass::send(self.line.as_raw_fd(), MAY_READ, &[]);
        Ok(rustix::io::fcntl_setfd(&self.line, rustix::io::FdFlags::empty())?)
    }

    /// What the owner has told of the session's end; `None` while it has told nothing, an errno or
    /// 0 for the peer's end afterwards. What was told stays for relatives that share the line.
    pub(crate) fn told(&self) -> Option<i32> {
        let mut message = [0; 8];
        match sys::io::peek(self.line.as_raw_fd(), &mut message) {
            Ok(8) if message.starts_with(ENDED) => {
                Some(message.last_chunk::<4>().map_or(0, |n| i32::from_le_bytes(*n)))
            }
            Err(error) if would_block(&error) => None,
            // The owner is gone without a word.
            _ => Some(libc::ECONNRESET),
        }
    }

    /// The same for who has seen the pair's end. The owner tells before it ends the pair; if it has
    /// told nothing, it is dying, and the kernel has closed the pair before the line.
    pub(crate) fn why_ended(&self) -> i32 {
        let mut fds =
            [libc::pollfd { fd: self.line.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let _late = sys::io::poll(&mut fds, Some(ANSWER_WITHIN));
        self.told().unwrap_or(libc::ECONNRESET)
    }
}

/// What an answer brought.
enum Brought {
    Session(Vec<u8>, Option<Fd>),
    Pump(Fd, Fd),
    Ask(u64),
    Busy,
    Ended(i32),
    /// The relative is dead.
    Nobody,
}

/// Gets a session that `owner` has, or the end of a pump.
///
/// # Errors
/// The session's one error if it has ended, ECONNRESET if its owner died with it; EAGAIN when the
/// owner lives and does not answer.
pub(crate) fn ask(socket: &Arc<Socket>, engine: &'static Engine, owner: u64) -> io::Result<()> {
    if socket.raise(bits::ASKING) {
        // What the other thread gets is ours too; who called looks again.
        return process::claim(socket);
    }
    // Cancelled in between, ASKING would stay up for ever, and a session on its way would be lost.
    let _uncancelled = sys::process::Uncancelled::begin();
    let result = ask_until(socket, engine, owner);
    socket.change(0, bits::ASKING);
    result?;
    if socket.has(bits::PUMPED | bits::FAILED) { Ok(()) } else { process::claim(socket) }
}

/// Another thread of this process asks already: what it gets is ours too.
pub(crate) fn wait_for_other(socket: &Arc<Socket>) -> io::Result<()> {
    let bell = Bell::new()?;
    let _listed = socket.sleepers.list(&bell);
    let mut result = Ok(());
    while result.is_ok() && socket.has(bits::ASKING) {
        let mut fds = [libc::pollfd { fd: bell.number(), events: libc::POLLIN, revents: 0 }];
        result = sys::io::poll(&mut fds, None).map(|_| bell.silence());
    }
    result
}

fn ask_until(socket: &Arc<Socket>, engine: &'static Engine, owner: u64) -> io::Result<()> {
    let until = clock::now() + PATIENCE;
    let mut owner = owner;
    let mut pause = Duration::from_micros(200);
    loop {
        match ask_once(socket, engine.instance, owner, false)? {
            Brought::Session(snapshot, real) => {
                if let Err(error) = socket.take_over(&snapshot, real) {
                    // The owner has given it up already: nobody has it any more, and a later call
                    // must not wait for what will not come.
                    log::error!("session {}: it could not be taken over: {error}", socket.id);
                    return end(socket, libc::ECONNRESET);
                }
                engine.enroll(socket);
                engine.command(Command::Adopt { socket: Arc::clone(socket) });
                return Ok(());
            }
            Brought::Pump(near, line) => {
                return socket.become_guest(near, Link::new(line));
            }
            Brought::Ended(number) => return end(socket, number),
            Brought::Ask(other) => owner = other,
            Brought::Busy | Brought::Nobody if clock::now() >= until => return fail(libc::EAGAIN),
            Brought::Busy => {
                crate::wait::epoll::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Brought::Nobody => match socket.owner.holder(engine.instance) {
                // Given up or handed on since we looked.
                Holder::Other(now) if now != owner => owner = now,
                Holder::Other(_) => return end(socket, libc::ECONNRESET),
                Holder::Mine | Holder::Nobody => return Ok(()),
            },
        }
        if let Holder::Other(now) = socket.owner.holder(engine.instance) {
            owner = now;
        }
    }
}

/// The end of a pump for a program that knows nothing of us, and the line that tells of its end.
pub(crate) fn pump_for_exec(socket: &Arc<Socket>, us: u64, owner: u64) -> io::Result<(Fd, Fd)> {
    let until = clock::now() + PATIENCE;
    let mut owner = owner;
    loop {
        match ask_once(socket, us, owner, true)? {
            Brought::Pump(near, line) => return Ok((near, line)),
            Brought::Ask(other) => owner = other,
            Brought::Nobody => return fail(libc::ECONNRESET),
            Brought::Ended(number) => {
                return fail(if number == 0 { libc::ECONNRESET } else { number });
            }
            Brought::Busy if clock::now() < until => {
                crate::wait::epoll::sleep(Duration::from_millis(1));
            }
            Brought::Busy | Brought::Session(..) => return fail(libc::EAGAIN),
        }
    }
}

/// Ends pumps that no program has got; returns when the owners have taken back what lay there.
pub(crate) fn end_pumps(lines: &[Fd]) -> io::Result<()> {
    for line in lines {
        // Copies of the line may live a little longer, in children that were made meanwhile.
        let _gone = rustix::net::shutdown(line, rustix::net::Shutdown::Write);
    }
    let until = clock::now() + PATIENCE;
    // Of each, though one does not answer.
    let results: Vec<_> = lines.iter().map(|line| wait_gone(line, until)).collect();
    results.into_iter().collect()
}

fn wait_gone(line: &Fd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(clock::now());
        let mut fds = [libc::pollfd { fd: line.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        match sys::io::poll(&mut fds, Some(left)) {
            Ok(0) => return fail(libc::ETIMEDOUT),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        let mut message = [0; MESSAGE_MAX_BYTES];
        match sys::io::recv_one(line.as_raw_fd(), &mut message) {
            // That the session has ended, perhaps.
            Ok(n) if n > 0 => {}
            Err(error) if would_block(&error) => {}
            _ => return Ok(()),
        }
    }
}

/// The session is lost to this process, or over: one error, then the end.
fn end(socket: &Arc<Socket>, number: i32) -> io::Result<()> {
    if number == 0 {
        socket.change(bits::EOF | bits::WRITE_SHUT | bits::OVER, bits::STASH);
        return Ok(());
    }
    socket.set_failure(number);
    // Whoever polls the number with the kernel's own calls sees an error there.
    for _ in 0..64 {
        if socket.abandon()?.is_ok() {
            break;
        }
    }
    Ok(())
}

fn ask_once(socket: &Arc<Socket>, asker: u64, owner: u64, only_pump: bool) -> io::Result<Brought> {
    let session = {
        let meta = Socket::lock(&socket.meta)?;
        let Some(control) = meta.control.as_ref() else { return fail(libc::ENOTCONN) };
        control.id
    };
    let ask = Ask { session, asker, nonce: fd::random(), only_pump };
    let line = match channel::connect(owner) {
        Ok(line) => line,
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {
            return Ok(Brought::Nobody);
        }
        Err(error) if would_block(&error) => return Ok(Brought::Busy),
        Err(error) => return Err(error),
    };
    if pass::send(line.as_raw_fd(), &ask.encode(owner), &[]).is_err() {
        return Ok(Brought::Busy);
    }
    let Some((answer, fds)) = wait_answer(&ask, line.as_raw_fd())? else {
        return Ok(Brought::Busy);
    };
    let mut fds = fds.into_iter();
    Ok(match answer {
        Answer::Yours => {
            let Some(file) = fds.next() else { return fail(libc::EMFILE) };
            let mut snapshot = Vec::new();
            let file = std::fs::File::from(std::os::fd::OwnedFd::from(file));
            (&file).take(SNAPSHOT_MAX_BYTES).read_to_end(&mut snapshot)?;
            let real = fds.next().map(fd::internal).transpose()?;
            Brought::Session(snapshot, real)
        }
        Answer::Pumped => {
            let Some(near) = fds.next() else { return fail(libc::EMFILE) };
            Brought::Pump(fd::internal(near)?, line)
        }
        Answer::Ask(other) => Brought::Ask(other),
        Answer::Busy => Brought::Busy,
        Answer::Ended(number) => Brought::Ended(number),
    })
}

/// Waits for the answer; `None` when there is none in time, or the relative has gone.
fn wait_answer(ask: &Ask, line: RawFd) -> io::Result<Option<(Answer, Vec<Fd>)>> {
    let until = clock::now() + ANSWER_WITHIN;
    loop {
        let left = until.saturating_duration_since(clock::now());
        let mut fds = [libc::pollfd { fd: line, events: libc::POLLIN, revents: 0 }];
        match sys::io::poll(&mut fds, Some(left)) {
            Ok(0) => return Ok(None),
            // A session that is on its way must not be lost to a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        let mut message = [0; MESSAGE_MAX_BYTES];
        return Ok(match pass::recv_all(line, &mut message, true) {
            Ok((n, fds)) => ask.read_answer(&message[..n]).map(|answer| (answer, fds)),
            Err(_) => None,
        });
    }
}

/// Fields of a session that a hand-over carries besides its three parts.
pub(crate) fn write_addrs(out: &mut Out, addrs: &[std::net::SocketAddr]) {
    let lines: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    out.bytes(lines.join(" ").as_bytes());
}

/// The same, read back.
pub(crate) fn read_addrs(from: &mut In<'_>) -> Option<Vec<std::net::SocketAddr>> {
    let text = std::str::from_utf8(from.bytes()?).ok()?;
    text.split_whitespace().map(|addr| addr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever could connect to the channel could make a process give up its listener (review).
    #[test]
    fn an_heir_is_believed_only_with_proof_for_this_very_process() {
        let message = heir(7);
        assert!(matches!(Message::decode(&message, 7), Some(Message::Heir)));
        assert!(Message::decode(&message, 9).is_none(), "another process's");
        assert!(Message::decode(HEIR, 7).is_none(), "no proof");
        let mut forged = message.clone();
        forged[KEY_BYTES] ^= 1;
        assert!(Message::decode(&forged, 7).is_none());
        let mut longer = HEIR.to_vec();
        longer.push(0);
        let mac = secret().mac("family heir", &[&7u64.to_le_bytes(), &longer]);
        longer.extend_from_slice(&mac);
        assert!(Message::decode(&longer, 7).is_none());
    }

    /// A session that another process of the family has, and that process's channel, played here.
    fn session_of_another() -> (Arc<Socket>, Fd, u64) {
        let engine = crate::reactor::engine().expect("an engine");
        let config = Arc::new(crate::Config::default());
        let socket = Arc::new(Socket::new(engine.next_id(), config, Vec::new(), 0));
        let opened = eversock_proto::open::Opened {
            id: SessionId::new(7, fd::random_u64()),
            secret: Secret::from_bytes([5; KEY_BYTES]),
            window: 65536,
            grace: Duration::ZERO,
            addrs: Vec::new(),
            peer: None,
            shares: false,
            cipher: None,
            keys: None,
        };
        let role = eversock_proto::control::Role::Server;
        crate::reactor::furnish(&socket, role, opened).expect("furnished");
        let owner = process::new_instance();
        assert!(socket.owner.claim(owner, true));
        (socket, channel::listen(owner).expect("a channel"), owner)
    }

    /// Answers the next question with a session that cannot be taken over.
    fn give_nonsense(channel: &Fd, owner: u64) {
        use std::os::fd::AsFd;
        let wait = |number: RawFd| {
            let mut fds = [libc::pollfd { fd: number, events: libc::POLLIN, revents: 0 }];
            assert_eq!(sys::io::poll(&mut fds, Some(PATIENCE)).expect("a wait"), 1);
        };
        wait(channel.as_raw_fd());
        let line = rustix::net::accept(channel).expect("a line");
        wait(line.as_raw_fd());
        let mut message = [0; MESSAGE_MAX_BYTES];
        let (n, _) = pass::recv(line.as_raw_fd(), &mut message, true).expect("a question");
        let Some(Message::Ask(ask)) = Message::decode(&message[..n], owner) else {
            panic!("no question: {:?}", &message[..n]);
        };
        let file = rustix::fs::memfd_create(c"nonsense", rustix::fs::MemfdFlags::CLOEXEC);
        let file = file.expect("a file");
        pass::send(line.as_raw_fd(), &ask.answer(Answer::Yours), &[file.as_fd()]).expect("sent");
    }

    /// The first call failed, and each later one asked a process that had given the session up.
    #[test]
    fn a_session_that_cannot_be_taken_over_is_lost_with_one_error_and_nobody_waits_for_it() {
        let engine = crate::reactor::engine().expect("an engine");
        let (socket, channel, owner) = session_of_another();
        std::thread::scope(|scope| {
            scope.spawn(|| give_nonsense(&channel, owner));
            ask(&socket, engine, owner).expect("the answer is the session's failure");
        });
        assert_eq!(socket.failure_number(), libc::ECONNRESET);
        assert!(!socket.has(bits::ASKING));
        let first = socket.failure(Some(libc::EPIPE)).expect_err("the one error");
        assert_eq!(first.raw_os_error(), Some(libc::ECONNRESET));
    }

    /// The thread was ended in the wait for the answer: whoever used the session afterwards waited
    /// for what that thread was to get.
    #[test]
    fn a_thread_that_is_cancelled_while_it_asks_for_a_session_asks_to_the_end() {
        unsafe extern "C" {
            fn pthread_cancel(thread: libc::pthread_t) -> libc::c_int;
        }
        let (socket, channel, owner) = session_of_another();
        let asked = Arc::clone(&socket);
        let asker = std::thread::spawn(move || {
            let engine = crate::reactor::engine().expect("an engine");
            // SAFETY: asks for the end of this very thread, at its next point of cancellation.
            unsafe { pthread_cancel(libc::pthread_self()) };
            let answer = ask(&asked, engine, owner);
            // A thread of the standard library's must not be ended from outside.
            let whole = sys::process::Uncancelled::begin();
            let _for_good = std::mem::ManuallyDrop::new(whole);
            assert!(answer.is_ok(), "{answer:?}");
        });
        give_nonsense(&channel, owner);
        let until = clock::now() + PATIENCE;
        while socket.has(bits::ASKING) || socket.failure_number() == 0 {
            assert!(clock::now() < until, "the asker was ended before it had the answer");
            crate::wait::epoll::sleep(Duration::from_millis(1));
        }
        asker.join().expect("it has ended in order");
    }
}
