//! A blocking read sleeps in the kernel, in the read itself: what may happen to it there.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use common::{MIB, data, pair, read_exactly, thread_cpu, wait_until};
use eversock::VirtualStream;

/// The system call that a thread sleeps in.
fn syscall_of(thread: i64) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    text.split(' ').next()?.parse().ok()
}

fn this_thread() -> i64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Waits until a thread sleeps in a receiving call.
fn wait_asleep(thread: i64) {
    wait_until("the reader sleeps in a read", || {
        matches!(syscall_of(thread), Some(libc::SYS_recvfrom | libc::SYS_recvmsg))
    });
}

/// Runs `meanwhile` while another thread is asleep in a read of `n` bytes; gives what it read and
/// the processor time that it took.
fn while_reading(
    stream: &VirtualStream,
    n: usize,
    meanwhile: impl FnOnce(i64),
) -> (std::io::Result<Vec<u8>>, Duration) {
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let reader = scope.spawn(move || {
            let before = thread_cpu();
            tell.send(this_thread()).unwrap();
            let mut buf = vec![0; n];
            let mut stream = stream;
            let result = stream.read_exact(&mut buf);
            (result.map(|()| buf), thread_cpu() - before)
        });
        let thread = told.recv().unwrap();
        wait_asleep(thread);
        meanwhile(thread);
        reader.join().unwrap()
    })
}

/// A resume beside a connection that is alive takes it away under a reader that is inside a read.
#[test]
fn a_connection_replaced_under_a_sleeping_reader_loses_no_byte() {
    let ends = pair();
    let bytes = data(7, 2 * MIB);
    let (got, _) = while_reading(&ends.client, bytes.len(), |_| {
        let mut at = 0;
        for turn in 0..40u64 {
            let resumes = ends.client.info().unwrap().resumes;
            ends.client.redial().unwrap();
            // Some of it before the change, some after.
            let n = (bytes.len() / 40).min(bytes.len() - at);
            let part = &bytes[at..at + n];
            (&ends.server).write_all(&part[..n / 2]).unwrap();
            if turn % 2 == 0 {
                wait_until("a resume", || ends.client.info().unwrap().resumes > resumes);
            }
            (&ends.server).write_all(&part[n / 2..]).unwrap();
            at += n;
        }
        (&ends.server).write_all(&bytes[at..]).unwrap();
    });
    assert!(got.unwrap() == bytes, "the bytes differ");
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 20);
}

/// A plain socket's sleeper goes on sleeping when O_NONBLOCK is set behind it. Ours must look again
/// whenever only control frames came, and a look on a non-blocking file does not sleep: it span.
#[test]
fn a_reader_that_is_made_non_blocking_in_its_sleep_sleeps_on_without_spinning() {
    let ends = pair();
    let (got, cpu) = while_reading(&ends.client, 5, |thread| {
        ends.client.set_nonblocking(true).unwrap();
        // Control frames wake it: the server acknowledges what the client writes.
        let asked = data(3, MIB);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| read_exactly(&ends.server, asked.len()));
            let mut done = 0;
            wait_until("all is written", || {
                done += (&ends.client).write(&asked[done..]).unwrap_or(0);
                done == asked.len()
            });
            assert!(server.join().unwrap() == asked);
        });
        wait_until("the reader sleeps", || {
            matches!(
                syscall_of(thread),
                Some(libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_ppoll)
            )
        });
        let resting = std::time::Instant::now();
        wait_until("a while", || resting.elapsed() > Duration::from_millis(300));
        (&ends.server).write_all(b"hello").unwrap();
    });
    assert_eq!(got.unwrap(), b"hello");
    assert!(cpu < Duration::from_millis(150), "the sleeper used {cpu:?} of the processor");
}

/// The reader would take frames from under the pump.
#[test]
fn a_socket_that_is_being_read_is_not_turned_into_a_pumped_one() {
    let ends = pair();
    let again = ends.client.try_clone().unwrap();
    let (got, _) = while_reading(&ends.client, 4, |_| {
        let refused = again.into_pumped().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
        (&ends.server).write_all(b"here").unwrap();
    });
    assert_eq!(got.unwrap(), b"here");
    (&ends.client).write_all(b"there").unwrap();
    assert_eq!(read_exactly(&ends.server, 5), b"there");
}

unsafe extern "C" {
    fn evs_read(fd: i32, buf: *mut libc::c_void, len: usize) -> isize;
    fn evs_close(fd: i32) -> i32;
}

/// The engine may not read a closed session's connection while a reader is still inside a read, and
/// must do so as soon as it is out: acks are waiting there.
#[test]
fn a_number_closed_under_a_sleeping_reader_still_delivers_what_was_written() {
    let common::Ends { client, server, proxy: _proxy, listener: _listener } = pair();
    let sent = data(9, 200_000);
    (&client).write_all(&sent).unwrap();
    // Closed by hand below, and not again.
    let client = std::mem::ManuallyDrop::new(client);
    let number = client.as_raw_fd();
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let reader = scope.spawn(move || {
            tell.send(this_thread()).unwrap();
            let mut byte = 0u8;
            // SAFETY: one writable byte.
            let n = unsafe { evs_read(number, (&raw mut byte).cast(), 1) };
            (n, std::io::Error::last_os_error().raw_os_error())
        });
        wait_asleep(told.recv().unwrap());
        // SAFETY: the number is ours; a reader on it is what this is about.
        assert_eq!(unsafe { evs_close(number) }, 0);
        assert!(common::read_all(&server) == sent, "the bytes differ");
        drop(server);
        let (n, error) = reader.join().unwrap();
        assert!(n == 0 || (n, error) == (-1, Some(libc::EBADF)), "{n} {error:?}");
    });
}
