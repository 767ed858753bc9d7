//! Readers that sleep while somebody else changes the socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::RwLock;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::wait_until;
use common::{
    PATIENCE, listen, message, pair, played_client, quick, recv, resume, resume_and, send,
};
use eversock_engine::{Config, EventKind, RecoveryPolicy, posix};

/// Held for writing by a test that closes a number past eversock, or under a thread which goes on
/// reading there: the next to get that number must not be another test, whose bytes it would take.
static NUMBERS: RwLock<()> = RwLock::new(());

/// A thread that reads one byte, once it sleeps; and its number. It sleeps in the read itself only
/// when something has been read before: see [`pair_that_met`].
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

/// Two ends, of which the client's has read the server's START.
fn pair_that_met() -> [i32; 3] {
    let ends = pair(quick(), quick());
    send(ends[1], b"x").unwrap();
    assert_eq!(recv(ends[0], &mut [0; 1]).unwrap(), 1);
    ends
}

/// It takes the connection along, as the kernel has no other way to wake who sleeps on it.
#[test]
fn a_shutdown_of_the_reading_side_wakes_a_sleeping_reader_and_loses_nothing() {
    let _numbers = NUMBERS.read();
    let [client, server, listener] = pair_that_met();
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

/// The engine reads for a closed socket, but not past a reader that is still in the kernel: each
/// would have a part of the stream (review).
#[test]
fn a_close_under_a_sleeping_reader_delivers_what_was_written() {
    let _numbers = NUMBERS.write();
    let word = vec![7; 100_000];
    for _ in 0..60 {
        let [client, server, listener] = pair_that_met();
        let reader =
            std::thread::spawn(
                move || {
                    while matches!(recv(client, &mut [0; 1000]), Ok(n) if n > 0) {}
                },
            );
        let flood = std::thread::spawn(move || while send(server, &[1; 40]).is_ok() {});
        let word_of = word.clone();
        let closer = std::thread::spawn(move || {
            send(client, &word_of).unwrap();
            posix::close(client).unwrap();
        });
        let (mut got, mut buf) = (Vec::new(), [0; 4096]);
        loop {
            match recv(server, &mut buf) {
                Ok(0) => break,
                Ok(n) => got.extend_from_slice(&buf[..n]),
                Err(error) => panic!("after {} bytes: {error}", got.len()),
            }
        }
        assert_eq!(got.len(), word.len());
        closer.join().unwrap();
        flood.join().unwrap();
        posix::close(server).unwrap();
        posix::close(listener).unwrap();
        reader.join().unwrap();
    }
}

/// A resume beside the connection that stands takes it away under the reader; that is no fault, so
/// it asks no policy (review: "never" ended the session).
#[test]
fn a_resume_beside_under_a_sleeping_reader_is_no_fault() {
    let _numbers = NUMBERS.read();
    let (listener, addr) = listen(Config { policy: RecoveryPolicy::Never, ..quick() });
    for round in 1..=20u8 {
        let (mut old, mut session) = played_client(addr);
        assert_eq!(session.write(b"x"), 1);
        old.write_all(&session.transmit(usize::MAX)).unwrap();
        let (server, _) = posix::accept4(listener, 0).unwrap();
        assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
        let events = posix::subscribe(server).unwrap();
        let (reader, _) = sleeping_reader(server);
        let mut new = resume(addr, &mut session);
        assert_eq!(session.write(&[round]), 1);
        new.write_all(&session.transmit(usize::MAX)).unwrap();
        let got = reader.join().unwrap();
        assert_eq!(got.unwrap(), 1, "round {round}");
        let event = events.recv_timeout(PATIENCE).unwrap().kind;
        assert!(matches!(event, EventKind::Resumed { .. }), "round {round}: {event:?}");
        posix::close(server).unwrap();
    }
    posix::close(listener).unwrap();
}

/// Two connections have no order: the end of the old one came before the CONFIRM of the new one,
/// and "never" ended a session that was in order.
#[test]
fn the_end_of_a_connection_that_overtakes_the_confirm_of_the_next_is_no_fault() {
    let _numbers = NUMBERS.read();
    let (listener, addr) = listen(Config { policy: RecoveryPolicy::Never, ..quick() });
    for round in 1..=20u8 {
        let (mut old, mut session) = played_client(addr);
        assert_eq!(session.write(b"x"), 1);
        old.write_all(&session.transmit(usize::MAX)).unwrap();
        let (server, _) = posix::accept4(listener, 0).unwrap();
        assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
        let events = posix::subscribe(server).unwrap();
        let mut new = resume_and(addr, &mut session, || {
            drop(old);
            // Time for the engine to be wrong in; it waits for a CONFIRM no longer than a second.
            let since = Instant::now();
            while since.elapsed() < Duration::from_millis(10) {
                std::thread::yield_now();
            }
        });
        assert_eq!(session.write(&[round]), 1);
        new.write_all(&session.transmit(usize::MAX)).unwrap();
        let mut got = [0];
        assert_eq!(recv(server, &mut got).unwrap(), 1, "round {round}");
        assert_eq!(got, [round]);
        let event = events.recv_timeout(PATIENCE).unwrap().kind;
        assert!(matches!(event, EventKind::Resumed { .. }), "round {round}: {event:?}");
        posix::close(server).unwrap();
    }
    posix::close(listener).unwrap();
}

/// Each RESUME that was answered put off the fault for another second, whoever said it.
#[test]
fn resumes_that_are_never_confirmed_put_off_a_fault_once() {
    let _numbers = NUMBERS.read();
    let (listener, addr) = listen(Config { policy: RecoveryPolicy::Never, ..quick() });
    let (mut old, mut session) = played_client(addr);
    assert_eq!(session.write(b"x"), 1);
    old.write_all(&session.transmit(usize::MAX)).unwrap();
    let (server, _) = posix::accept4(listener, 0).unwrap();
    assert_eq!(recv(server, &mut [0; 1]).unwrap(), 1);
    let mut ask = || {
        let receive = session.rx.next();
        let (_, question) = session.control.resume(receive, [5; 32]);
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&question).unwrap();
        assert!(message(&mut stream).is_some(), "no answer");
        stream
    };
    let mut unconfirmed = VecDeque::from([ask()]);
    drop(old);
    let (tell, told) = channel();
    let reader = std::thread::spawn(move || {
        let error = recv(server, &mut [0; 1]).unwrap_err();
        tell.send(()).unwrap();
        error
    });
    // Twenty times as long as one of them may put it off.
    let until = Instant::now() + Duration::from_secs(20);
    while told.try_recv().is_err() {
        assert!(Instant::now() < until, "the fault is still put off");
        unconfirmed.push_front(ask());
        unconfirmed.truncate(8);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(reader.join().unwrap().raw_os_error(), Some(libc::ECONNRESET));
    posix::close(server).unwrap();
    posix::close(listener).unwrap();
}

/// Nothing can wake it there, and the engine must not wait for it: it tried five thousand times a
/// second, and what was written stayed (review).
#[test]
fn a_number_closed_past_us_under_a_sleeping_reader_ends_as_a_close_would() {
    let _numbers = NUMBERS.write();
    let [client, server, listener] = pair_that_met();
    let (reader, _) = sleeping_reader(client);
    // SAFETY: closes a number.
    assert_eq!(unsafe { libc::close(client) }, 0);
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(recv(server, &mut [0; 8])));
    let end = told.recv_timeout(PATIENCE).expect("the end comes");
    assert_eq!(end.unwrap(), 0);
    // The connection was the reader's alone by then.
    posix::close(server).unwrap();
    let _whatever = reader.join().unwrap();
    posix::close(listener).unwrap();
}
