//! Calls in threads that are cancelled.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use common::{errno, listen, pair, quick, recv, send, wait_until};
use eversock_engine::{Uncancelled, posix};

unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> libc::c_int;
}

/// Runs `call` in a thread that is to end at its next point of cancellation, and must not in it.
fn cancelled(call: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: asks for the end of this very thread.
            unsafe { pthread_cancel(libc::pthread_self()) };
            call();
            // A thread of the standard library's must not be ended from outside.
            let _for_good = std::mem::ManuallyDrop::new(Uncancelled::begin());
        });
    });
}

/// libc's close is a point of cancellation: the number was gone, and the engine was not told.
#[test]
fn a_close_whose_thread_is_cancelled_ends_the_session() {
    let [client, server, listener] = pair(quick(), quick());
    send(server, b"word").unwrap();
    cancelled(|| posix::close(server).unwrap());
    let mut buf = [0; 8];
    assert_eq!(recv(client, &mut buf).unwrap(), 4);
    assert_eq!(recv(client, &mut buf).unwrap(), 0);
    // Somebody answers that nobody reads any more.
    wait_until("the pipe is broken", || {
        let sent = send(client, b"unread");
        sent.is_err() && errno(sent) == libc::EPIPE
    });
    posix::close(client).unwrap();
    posix::close(listener).unwrap();
}

#[test]
fn a_close_of_a_listener_whose_thread_is_cancelled_ends_the_listening() {
    let (listener, addr) = listen(quick());
    cancelled(|| posix::close(listener).unwrap());
    wait_until("nobody listens", || {
        let number = common::socket(quick());
        let connected = posix::connect(number, addr);
        posix::close(number).unwrap();
        connected.is_err()
    });
}
