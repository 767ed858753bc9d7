//! What a call on a socket that is not virtual costs more under the library, in instructions.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

#[path = "../../../tests/common/callgrind.rs"]
mod callgrind;

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use callgrind::{Times, part};

const TEST: &str = "a_hooked_call_on_a_plain_socket_takes_as_many_instructions_as_recorded";

#[test]
fn a_hooked_call_on_a_plain_socket_takes_as_many_instructions_as_recorded() {
    if callgrind::is_counted() {
        return plain_calls();
    }
    let library = common::library().to_str().unwrap();
    let hooked = [("LD_PRELOAD", library), ("EVERSOCK_RULES", common::NONE)];
    let Some(figures) = callgrind::count(TEST, &hooked) else { return };
    callgrind::compare(&figures, &["preload: "]);
    // Without the library the same calls must be cheaper, or nothing was hooked.
    let bare = callgrind::count(TEST, &[]).unwrap();
    for ((name, hooked), (_, bare)) in figures.iter().zip(&bare) {
        assert!(hooked > bare, "{name}: {hooked} hooked, {bare} not");
    }
}

fn plain_calls() {
    const TIMES: Times = Times { before: 20, counted: 200, each: 1 };
    let (near, far) = UnixStream::pair().unwrap();
    let mut bytes = [7_u8; 64];
    let out = bytes;
    let (pointer, length) = (bytes.as_mut_ptr().cast(), bytes.len());
    // SAFETY: `out` is readable for its length.
    let send = || unsafe { libc::send(near.as_raw_fd(), out.as_ptr().cast(), length, 0) };
    // SAFETY: `bytes` is writable for its length and lives as long as the closure.
    let receive = || unsafe { libc::recv(far.as_raw_fd(), pointer, length, libc::MSG_DONTWAIT) };
    part(
        "preload: send on a plain socket",
        TIMES,
        || while receive() > 0 {},
        || {
            assert_eq!(send(), 64);
        },
    );
    while receive() > 0 {}
    let sent = || assert_eq!(send(), 64);
    part("preload: receive on a plain socket", TIMES, sent, || assert_eq!(receive(), 64));
    sent();
    part(
        "preload: poll of a plain socket",
        TIMES,
        || (),
        || {
            let mut fds = [libc::pollfd { fd: far.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: `fds` is one entry, as is said.
            assert_eq!(unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) }, 1);
        },
    );
}
