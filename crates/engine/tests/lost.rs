//! Numbers that the program closes past eversock, with the kernel's own close.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::os::fd::AsRawFd;

use common::{pair, quick, recv, send, wait_until};
use eversock_engine::posix;

fn close_past_us(number: i32) {
    // SAFETY: the misuse that is tested; the number is an open one of the test's own.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

/// Such a session was kept for ever, and its peer waited for it.
#[test]
fn a_session_whose_numbers_were_all_closed_past_us_ends_as_a_close_would_end_it() {
    // Without a byte to deliver nothing else makes the engine look at the socket.
    let cases = [(false, &b"written before"[..]), (true, b"written before"), (false, b"")];
    for (server_side, written) in cases {
        let [client, server, listener] = pair(quick(), quick());
        let (lost, kept) = if server_side { (server, client) } else { (client, server) };
        let again = posix::dup(lost).unwrap();
        if !written.is_empty() {
            send(lost, written).unwrap();
        }
        close_past_us(lost);
        close_past_us(again);
        // The number is another file's by now, which must be left alone.
        let file = std::fs::File::open("/dev/null").unwrap();
        let taken = file.as_raw_fd();
        let mut buf = [0; 64];
        let mut got = Vec::new();
        loop {
            match recv(kept, &mut buf).unwrap() {
                0 => break,
                n => got.extend_from_slice(&buf[..n]),
            }
        }
        assert_eq!(got, written);
        assert!(!posix::is_virtual(taken) && file.metadata().is_ok(), "{taken} of {lost}");
        posix::close(kept).unwrap();
        wait_until("both sessions are gone", || eversock_engine::sessions().is_empty());
        posix::close(listener).unwrap();
    }
}
