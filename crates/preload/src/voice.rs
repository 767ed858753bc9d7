//! What the library itself has to say, on the standard error output: a wrong rule always, the
//! engine's log at the level that `EVERSOCK_LOG` names. Written with one raw call per line, never
//! through std's or stdio's streams, which the program may be using at this moment.

use std::fmt::{self, Write};
use std::mem::MaybeUninit;

use log::{LevelFilter, Log, Metadata, Record};

/// A line has at most this many bytes; the rest is cut off.
const LINE_BYTES: usize = 512;

struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays for the end of the line.
        let room = &mut self.bytes[self.len..LINE_BYTES - 1];
        let n = text.len().min(room.len());
        room[..n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Writes one line.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
    // A full line is no failure.
    let _cut = write!(line, "eversock: {text}");
    line.bytes[line.len] = b'\n';
    // SAFETY: a number that the program may have closed or reused, as its own writes would find it;
    // by convention it is the standard error output.
    let stderr = unsafe { rustix::fd::BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
    // The engine's thread too, whose calls are never the program's, must not write there.
    if !eversock_engine::posix::is_virtual(libc::STDERR_FILENO) {
        without_sigpipe(|| {
            let _gone = rustix::io::write(stderr, &line.bytes[..=line.len]);
        });
    }
}

/// A pipe that nobody reads any more would kill a program that has said nothing itself. The signal
/// that a write raises is this thread's own, and is taken back before it is let through; one that
/// was pending before stays.
fn without_sigpipe(write: impl FnOnce()) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: each set is initialised before it is read; sigtimedwait only takes what is pending.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        let was_pending = {
            let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigpending(pending.as_mut_ptr()) == 0
                && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
        };
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) != 0 {
            return;
        }
        write();
        if !was_pending {
            libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const none);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
    }
}

struct Voice;

impl Log for Voice {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            say(format_args!("{}: {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

static VOICE: Voice = Voice;

/// Starts the log if `EVERSOCK_LOG` asks for it.
pub(crate) fn begin() {
    let level = std::env::var("EVERSOCK_LOG").ok().and_then(|level| level.parse().ok());
    if let Some(level) = level.filter(|level| *level != LevelFilter::Off)
        && log::set_logger(&VOICE).is_ok()
    {
        log::set_max_level(level);
    }
}
