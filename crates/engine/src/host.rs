//! For who serves programs' sockets above this crate: pairs to put under their numbers, threads
//! that a fork does no harm to, and tables for `evs`.
//!
//! Descriptors come with high numbers, out of the programs' way, and are closed on exec.

use std::ffi::CStr;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::posix::fill_pair;
use crate::sys::thread::ROOMY;
use crate::sys::{self, Fd, fd, tcp};

/// Tables of one process, at most.
const TABLES_MAX: usize = 8;

/// A connected pair of TCP over loopback, as pumped sockets have it: the near end blocks and is for
/// a program, the far end does not, and is kept. Nobody else can have got between. Blocks for a
/// moment; no fork falls between.
///
/// # Errors
/// Out of descriptors, buffers or ports.
pub fn pair() -> io::Result<(OwnedFd, Kept)> {
    let _whole = whole();
    let (near, far) = tcp::loopback_pair()?;
    Ok((near.into(), Kept::new(far.into())?))
}

/// The same for a program whose connect is still under way: its end is not writable until so many
/// bytes have been read from the far end, and [`widen`] was called. They are nobody's.
///
/// # Errors
/// Those of [`pair`].
pub fn connecting_pair() -> io::Result<(OwnedFd, Kept, usize)> {
    let _whole = whole();
    let (near, far) = tcp::narrow_pair()?;
    let junk = fill_pair(near.as_raw_fd());
    Ok((near.into(), Kept::new(far.into())?, junk))
}

/// Gives a [`connecting_pair`] the buffers of any other, once its junk has been read. `near` may be
/// any descriptor of that end. A refusal costs speed alone.
pub fn widen(near: BorrowedFd<'_>, far: BorrowedFd<'_>) {
    tcp::enlarge(near.as_raw_fd(), far.as_raw_fd());
}

/// Puts an end of a pair under a number of the program's in place of what is there, which must not
/// be virtual. The number stays closed on exec if it was, its file non-blocking, and the options
/// that mean something between two ends of one machine are set again.
///
/// # Errors
/// EBADF when the number is not open, EBUSY when it is virtual; then nothing has changed but
/// perhaps how `near` blocks.
pub fn replace(near: OwnedFd, number: RawFd) -> io::Result<()> {
    sys::open(number)?;
    if crate::table::has(number) {
        return crate::error::fail(libc::EBUSY);
    }
    let cloexec = fd::is_cloexec(number)?;
    crate::options::carry(number, near.as_raw_fd());
    fd::set_nonblocking(near.as_raw_fd(), fd::is_nonblocking(number)?)?;
    fd::replace(near.as_fd(), number, cloexec)
}

/// A descriptor that its owner has among a program's: the program is kept from closing it with
/// all that it does not know ([`crate::posix::is_own_number`]), and a child that is forked has no
/// copy of it, which would keep a connection open that its owner has closed.
#[derive(Debug)]
pub struct Kept {
    fd: ManuallyDrop<Fd>,
    /// In a child the number was closed, and may be the program's.
    process: u32,
}

impl Kept {
    /// Moves the descriptor out of the program's way, and marks its number as long as it is kept.
    ///
    /// # Errors
    /// Those of fcntl(2), but not EMFILE: at the limit of open files the number stays as it is.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let fd = fd::internal(descriptor)?;
        fd::note_kept(fd.as_raw_fd());
        Ok(Self { fd: ManuallyDrop::new(fd), process: std::process::id() })
    }
}

impl Kept {
    /// False in a child: there the number was closed, and may be the program's.
    pub(crate) fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    /// Gives it to the program: the lowest number that is free, closed on exec.
    ///
    /// # Errors
    /// EMFILE; the descriptor is closed then.
    pub fn release(self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self, 0)?)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            fd::forget_kept(self.fd.as_raw_fd());
            // SAFETY: it is not used any more.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Kept {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Starts a thread for which nobody waits, with 2 MiB of stack. A child of a fork begins threads in
/// the same way, whatever the standard library's were doing at that moment. A panic ends the thread
/// and nothing else.
///
/// # Errors
/// EAGAIN when there can be no more threads.
pub fn spawn(name: &'static CStr, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    sys::thread::spawn(name, ROOMY, move || {
        // The program's signals are for its own threads, whose waits they interrupt.
        sys::process::block_signals();
        run();
    })
}

/// While it lives no thread of this process forks, once the engine runs: no child inherits the
/// locks that are taken meanwhile. Nor does a handler of the program's run in this thread, which
/// might want it too. Not to be held for long, nor while waiting for a descriptor.
#[derive(Debug)]
pub struct Whole {
    _held: MutexGuard<'static, ()>,
    _signals: sys::process::SignalsHeld,
}

static WHOLE: Mutex<()> = Mutex::new(());

/// From here on. Others wait for each other.
pub fn whole() -> Whole {
    let signals = sys::process::SignalsHeld::begin();
    Whole { _held: WHOLE.lock().unwrap_or_else(PoisonError::into_inner), _signals: signals }
}

/// Waits until the number, no virtual one, is writable or broken; false when the time is over
/// first. As connect(2) does: a signal interrupts it, unless there is no limit and all handlers ask
/// for a restart. A cancellation unwinds it.
///
/// # Errors
/// EINTR; those of poll(2).
pub fn wait_writable(number: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
    let mut fds = [libc::pollfd { fd: number, events: libc::POLLOUT, revents: 0 }];
    Ok(sys::io::poll_in_call(&mut fds, timeout)? > 0)
}

/// The number's SO_SNDTIMEO; none for no limit.
pub fn send_timeout(number: RawFd) -> Option<Duration> {
    let number = sys::open(number).ok()?;
    let kind = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::socket_timeout(number, kind).ok().flatten()
}

/// A number that the kernel gives a socket and never again another; none if this is no socket.
pub fn cookie(number: RawFd) -> Option<u64> {
    rustix::net::sockopt::socket_cookie(sys::open(number).ok()?).ok()
}

/// The address of this machine from which the kernel would go to this one. Nothing is sent.
///
/// # Errors
/// ENETUNREACH and others of connect(2).
pub fn source_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if peer.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let asks = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&asks, &peer)?;
    let addr = tcp::local_addr(asks.as_raw_fd());
    addr.map(|addr| addr.ip()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

type Table = (&'static str, fn() -> String);

/// Without a lock, which a child of a fork might inherit locked.
static TABLES: [OnceLock<Table>; TABLES_MAX] = [const { OnceLock::new() }; TABLES_MAX];

/// Has the process's control socket answer `{"cmd":"table","name":name}` with the JSON that `tell`
/// gives, which runs on the engine's thread: it takes no lock that a slow holder has. The first of
/// a name stays; beyond 8 names nothing is registered, and the log says so.
pub fn control_table(name: &'static str, tell: fn() -> String) {
    let is_there = |slot: &OnceLock<Table>| slot.get_or_init(|| (name, tell)).0 == name;
    if !TABLES.iter().any(is_there) {
        log::error!("no room for the table {name}");
    }
}

/// What a table tells, or why it cannot; none if there is no such table.
pub(crate) fn table(name: &str) -> Option<Result<serde_json::Value, String>> {
    let tables = TABLES.iter().filter_map(OnceLock::get);
    let (_, tell) = tables.into_iter().find(|(known, _)| *known == name)?;
    // The engine outlives what it is told.
    let told = catch_unwind(AssertUnwindSafe(tell)).map_err(|_| "the table has failed".to_owned());
    Some(told.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    use crate::config::Config;

    fn ready(number: RawFd, events: i16) -> bool {
        let mut fds = [libc::pollfd { fd: number, events, revents: 0 }];
        sys::io::poll(&mut fds, Some(Duration::ZERO)).expect("a poll") == 1
    }

    #[test]
    fn a_pair_takes_the_place_of_a_number_and_behaves_as_the_number_did() {
        for nonblocking in [false, true] {
            let number = crate::posix::socket(
                libc::AF_INET,
                libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                0,
                std::sync::Arc::new(Config::default()),
            );
            let number = number.expect("a socket");
            let (near, far) = pair().expect("a pair");
            let refused = replace(near, number).expect_err("it is virtual");
            assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
            drop(far);
            crate::posix::close(number).expect("closed");
            let plain = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let plain = plain.expect("a socket");
            plain.set_cloexec(nonblocking).expect("set");
            plain.set_nonblocking(nonblocking).expect("set");
            let number = plain.as_raw_fd();
            let (near, far) = pair().expect("a pair");
            replace(near, number).expect("replaced");
            assert_eq!(fd::is_cloexec(number).expect("open"), nonblocking);
            assert_eq!(fd::is_nonblocking(number).expect("open"), nonblocking);
            assert!(fd::is_nonblocking(far.as_raw_fd()).expect("open"));
            sys::io::send_one(far.as_raw_fd(), b"x", false).expect("sent");
            let mut plain = std::net::TcpStream::from(plain);
            plain.set_nonblocking(false).expect("set");
            assert_eq!(plain.read(&mut [0; 2]).expect("read"), 1);
        }
        let (near, _far) = pair().expect("a pair");
        assert_eq!(replace(near, -1).expect_err("none").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_pair_that_connects_is_writable_when_its_junk_is_read_and_not_before() {
        let (near, far, junk) = connecting_pair().expect("a pair");
        assert!(!ready(near.as_raw_fd(), libc::POLLOUT));
        let mut left = junk;
        let mut buf = [0; 4096];
        while left > 0 {
            let mut fds = [libc::pollfd { fd: far.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            let came = sys::io::poll(&mut fds, Some(Duration::from_secs(20))).expect("a poll");
            assert_eq!(came, 1, "{left} of {junk} bytes are not there");
            let room = left.min(buf.len());
            left -= sys::io::recv_one(far.as_raw_fd(), &mut buf[..room]).expect("junk");
        }
        widen(near.as_fd(), far.as_fd());
        let mut fds = [libc::pollfd { fd: near.as_raw_fd(), events: libc::POLLOUT, revents: 0 }];
        let writable = sys::io::poll(&mut fds, Some(Duration::from_secs(20))).expect("a poll");
        assert_eq!(writable, 1);
        assert!(!ready(far.as_raw_fd(), libc::POLLIN), "all junk was read");
    }

    #[test]
    fn what_is_kept_is_known_as_our_own_until_it_is_dropped() {
        let (_near, kept) = pair().expect("a pair");
        let number = kept.as_raw_fd();
        assert!(crate::posix::is_own_number(number));
        drop(kept);
        assert!(!crate::posix::is_own_number(number) || fd::identity(number).is_ok());
    }

    #[test]
    fn a_thread_runs_what_it_is_given() {
        let (tell, told) = channel();
        spawn(c"eversock-host", move || tell.send(7).expect("somebody hears")).expect("a thread");
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(7));
    }

    #[test]
    fn the_control_socket_answers_for_tables_and_outlives_those_that_fail() {
        crate::reactor::engine().expect("an engine");
        control_table("test-good", || "{ \"rows\":\n [1, 2] }".to_owned());
        control_table("test-good", || "the first stays".to_owned());
        control_table("test-bad", || "no JSON".to_owned());
        control_table("test-worse", || panic!("a table that fails, as this test wants"));
        let path = crate::inspect::control_dir().join(format!("{}.sock", std::process::id()));
        let mut asker = UnixStream::connect(path).expect("the control socket");
        asker.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let mut ask = |name: &str| {
            writeln!(asker, "{{\"cmd\":\"table\",\"name\":\"{name}\"}}").expect("asked");
            let mut line = Vec::new();
            let mut byte = [0];
            while byte != *b"\n" {
                asker.read_exact(&mut byte).expect("an answer");
                line.push(byte[0]);
            }
            serde_json::from_slice::<serde_json::Value>(&line).expect("JSON")
        };
        let good = ask("test-good");
        assert_eq!(good["table"], serde_json::json!({ "rows": [1, 2] }));
        assert_eq!(good["pid"], std::process::id());
        for name in ["test-bad", "test-worse", "test-none"] {
            assert!(ask(name)["error"].is_string(), "{name}");
        }
        assert_eq!(ask("test-good")["table"]["rows"][1], 2);
    }
}
