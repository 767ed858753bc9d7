//! Plain system calls on the number of a direct socket, which only eversock's calls may touch.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::limit::Limit;
use common::{Ends, data, ends, exchange, quick, wait_until};
use eversock::{Config, State, VirtualStream};
use eversock_chaos::{Direction, Fault, Target};

const PATIENCE: Duration = Duration::from_secs(60);

/// With a grace far longer than the test: who learns of the end has been told.
fn patient() -> Config {
    let long = Duration::from_secs(600);
    Config { grace: long, grace_after_close: long, ..quick() }
}

fn patient_ends() -> Ends {
    let ends = ends("127.0.0.1:0", patient(), patient());
    // Both directions have begun.
    (&ends.client).write_all(b"hello").unwrap();
    assert_eq!(common::read_exactly(&ends.server, 5), b"hello");
    (&ends.server).write_all(b"hello").unwrap();
    assert_eq!(common::read_exactly(&ends.client, 5), b"hello");
    ends
}

fn has_failed_once(mut stream: &VirtualStream) {
    wait_until("the failure", || stream.info().unwrap().state == State::Failed);
    let error = stream.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(stream.read(&mut [0; 100]).unwrap(), 0, "the error was told twice");
}

/// A plain read(2) of `n` bytes of what `writer` has written to `victim`.
fn read_past_us(victim: &VirtualStream, mut writer: &VirtualStream, n: usize) {
    writer.write_all(&data(1, 1000)).unwrap();
    let mut stolen = vec![0; n];
    // SAFETY: the buffer is writable for its length; the number is open, and blocking.
    let got = unsafe { libc::read(victim.as_raw_fd(), stolen.as_mut_ptr().cast(), n) };
    assert_eq!(usize::try_from(got), Ok(n));
}

/// A plain write(2) of `bytes` to `victim`'s connection.
fn write_past_us(victim: &VirtualStream, bytes: &[u8]) {
    // SAFETY: the buffer is readable for its length; the number is open.
    let n = unsafe { libc::write(victim.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(usize::try_from(n), Ok(bytes.len()));
}

/// An ACK frame: the peer's parser takes it for one of ours.
const FRAME: [u8; 16] = [3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `victim_dials` when the client is the one that was read from or written to.
fn both_learn(ends: &Ends, fault: &Fault, victim_dials: bool) {
    ends.proxy.inject(fault.clone(), Target::Open).unwrap();
    has_failed_once(&ends.client);
    has_failed_once(&ends.server);
    // A server may have seen one: the connection over which the client said that it has failed. And
    // a client that dials before the server has seen the cut has confirmed a resume, which the
    // server refuses when it looks at the connection that is replaced.
    let seen = ends.client.info().unwrap().resumes;
    assert!(seen <= u64::from(!victim_dials), "it was resumed {seen} times");
}

#[test]
fn a_plain_read_of_the_client_ends_the_session_on_both_sides_at_the_next_fault() {
    let _limit = Limit::new("a foreign read", PATIENCE);
    // Within a header, and a whole frame, after which the parser goes on as if nothing had been.
    for n in [2, 10, 1016] {
        for fault in [Fault::Reset, Fault::Fin] {
            let ends = patient_ends();
            read_past_us(&ends.client, &ends.server, n);
            both_learn(&ends, &fault, true);
        }
    }
}

/// The close took the dial away that was to tell the server, which waited until its grace was over.
#[test]
fn a_client_that_closes_as_soon_as_it_learns_of_a_plain_read_has_told_the_server() {
    let _limit = Limit::new("a foreign read", PATIENCE);
    let Ends { client, server, proxy, listener: _listener } = patient_ends();
    read_past_us(&client, &server, 1016);
    // The dial takes longer than the program.
    let slow = Fault::Delay {
        direction: Direction::Both,
        delay: Duration::from_millis(200),
        jitter: Duration::ZERO,
        lasting: None,
    };
    proxy.inject(slow, Target::All).unwrap();
    proxy.inject(Fault::Reset, Target::Open).unwrap();
    has_failed_once(&client);
    drop(client);
    has_failed_once(&server);
}

#[test]
fn a_plain_read_of_the_server_ends_the_session_on_both_sides_at_the_next_fault() {
    let _limit = Limit::new("a foreign read", PATIENCE);
    for n in [2, 10, 1016] {
        for fault in [Fault::Reset, Fault::Fin] {
            let ends = patient_ends();
            read_past_us(&ends.server, &ends.client, n);
            both_learn(&ends, &fault, false);
        }
    }
}

#[test]
fn a_plain_read_is_noticed_when_a_resume_beside_replaces_the_connection() {
    let _limit = Limit::new("a foreign read", PATIENCE);
    let ends = patient_ends();
    read_past_us(&ends.server, &ends.client, 1016);
    ends.client.redial().unwrap();
    has_failed_once(&ends.client);
    has_failed_once(&ends.server);
    let ends = patient_ends();
    read_past_us(&ends.client, &ends.server, 1016);
    ends.client.redial().unwrap();
    has_failed_once(&ends.client);
    has_failed_once(&ends.server);
}

#[test]
fn a_plain_write_ends_the_session_on_both_sides_at_the_next_fault() {
    let _limit = Limit::new("a foreign write", PATIENCE);
    for is_client in [true, false] {
        let ends = patient_ends();
        write_past_us(if is_client { &ends.client } else { &ends.server }, &FRAME);
        both_learn(&ends, &Fault::Reset, is_client);
    }
}

/// Bytes that make no frame are a fault of their own: no cut is needed.
#[test]
fn a_plain_write_of_what_is_no_frame_is_noticed_at_once() {
    let _limit = Limit::new("a foreign write", PATIENCE);
    let ends = patient_ends();
    write_past_us(&ends.client, b"GET / HTTP/1.0\r\n\r\n");
    let error = (&ends.server).read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    has_failed_once(&ends.client);
}

/// Nobody is accused falsely: bytes unread in the kernel, read ahead, peeked at and on their way at
/// the moment of the cut, whatever ends the connection.
#[test]
fn connections_that_die_with_bytes_unread_are_not_taken_for_read_by_others() {
    let _limit = Limit::new("cuts with bytes unread", PATIENCE);
    let ends = patient_ends();
    for round in 0..30u64 {
        let bytes = data(round, 50_000);
        (&ends.server).write_all(&bytes).unwrap();
        (&ends.client).write_all(&bytes).unwrap();
        let mut first = vec![0; 1000];
        let taken = match round % 3 {
            0 => ends.client.peek(&mut first).map(|_| 0).unwrap(),
            1 => (&ends.client).read(&mut first).unwrap(),
            _ => 0,
        };
        let fault = if round % 2 == 0 { Fault::Reset } else { Fault::Fin };
        ends.proxy.inject(fault, Target::Open).unwrap();
        first.truncate(taken);
        first.extend(common::read_exactly(&ends.client, bytes.len() - taken));
        assert!(first == bytes, "round {round}");
        assert!(common::read_exactly(&ends.server, bytes.len()) == bytes, "round {round}");
    }
    exchange(&ends.client, &ends.server, b"up", b"down");
}
