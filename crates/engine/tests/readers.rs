//! Readers that sleep while somebody else changes the socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use common::{pair, quick, recv, send, wait_until};
use eversock_engine::posix;

/// A thread that reads one byte, once it sleeps; and its number.
fn sleeping_reader(number: i32) -> (JoinHandle<std::io::Result<usize>>, i32) {
    let (tell, told) = channel();
    let reader = std::thread::spawn(move || {
        // SAFETY: gives a number.
        tell.send(unsafe { libc::gettid() }).unwrap();
        recv(number, &mut [0; 1])
    });
    let thread = told.recv().unwrap();
    wait_until("the reader sleeps", || {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let call = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap();
        let receives = call.starts_with(&format!("{} ", libc::SYS_recvfrom));
        receives && stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
    });
    (reader, thread)
}

/// It takes the connection along, as the kernel has no other way to wake who sleeps on it.
#[test]
fn a_shutdown_of_the_reading_side_wakes_a_sleeping_reader_and_loses_nothing() {
    let [client, server, listener] = pair(quick(), quick());
    let (reader, _) = sleeping_reader(client);
    posix::shutdown(client, libc::SHUT_RD).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), 0);
    let word = b"the other direction goes on";
    send(client, word).unwrap();
    posix::shutdown(client, libc::SHUT_WR).unwrap();
    let (mut got, mut buf) = (Vec::new(), [0; 64]);
    loop {
        match recv(server, &mut buf).unwrap() {
            0 => break,
            n => got.extend_from_slice(&buf[..n]),
        }
    }
    assert_eq!(got, word);
    for number in [client, server, listener] {
        posix::close(number).unwrap();
    }
}
