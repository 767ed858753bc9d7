//! What the engine does with peers that keep to the protocol and still do not behave.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{PlayedServer, connect, listen, played_client, quick, recv, wait_until};
use eversock_engine::{BackOff, Config, State, posix};

/// GOAWAY cleared the back-off, so a server that says it on each connection was dialled without
/// end.
#[test]
fn a_server_that_says_goaway_on_each_connection_meets_a_client_that_backs_off() {
    let (base, cap) = (Duration::from_millis(40), Duration::from_millis(160));
    let config = Config { back_off: BackOff { base, cap }, ..quick() };
    let mut server = PlayedServer::new();
    let addr = server.addr();
    let client = std::thread::spawn(move || {
        let number = connect(addr, config);
        // GOAWAY is read by whoever reads.
        let n = recv(number, &mut [0; 1]);
        posix::close(number).unwrap();
        n
    });
    let (mut taken, mut streams) = (Vec::new(), Vec::new());
    for round in 0..7 {
        let mut stream = server.take();
        taken.push(Instant::now());
        let session = server.session.as_mut().unwrap();
        if round < 6 {
            session.tx.want_goaway()
        } else {
            session.tx.finish()
        }
        server.say(&mut stream);
        // The old ones stay open: no fault, only GOAWAY makes the client dial.
        streams.push(stream);
    }
    assert_eq!(client.join().unwrap().unwrap(), 0);
    let gaps: Vec<_> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mut most = base;
    for gap in &gaps[1..] {
        assert!(*gap >= most / 4, "redialled after {gap:?}, in {gaps:?}");
        most = (most * 2).min(cap);
    }
}

/// Its connection would otherwise be held until the kernel finds the host dead, which it is not.
#[test]
fn a_client_that_confirms_and_then_says_nothing_loses_its_connection() {
    let config = Config { connect_timeout: Duration::from_millis(300), ..quick() };
    let (listener, addr) = listen(config);
    let (mut stream, _session) = played_client(addr);
    let (number, _) = posix::accept4(listener, 0).unwrap();
    // The server's own START comes, and then the end of the connection.
    let mut all = Vec::new();
    let _reset = stream.read_to_end(&mut all);
    let cause = || posix::info(number).unwrap().last_error.unwrap_or_default();
    wait_until("the cause is known", || cause().contains("said nothing"));
    assert_eq!(posix::info(number).unwrap().state, State::Detached);
    for number in [number, listener] {
        posix::close(number).unwrap();
    }
}

/// The other side of the limit: START alone, in the queue of a program that does not read, is
/// enough.
#[test]
fn a_client_that_says_start_and_no_more_keeps_its_connection() {
    let within = Duration::from_millis(300);
    let (listener, addr) = listen(Config { connect_timeout: within, ..quick() });
    let (mut stream, mut session) = played_client(addr);
    let start = session.transmit(usize::MAX);
    stream.write_all(&start).unwrap();
    let (number, _) = posix::accept4(listener, 0).unwrap();
    let begun = Instant::now();
    wait_until("the time is over", || begun.elapsed() > 3 * within);
    let info = posix::info(number).unwrap();
    assert_eq!((info.state, info.last_error), (State::Attached, None));
    session.write(b"x");
    stream.write_all(&session.transmit(usize::MAX)).unwrap();
    assert_eq!(recv(number, &mut [0; 1]).unwrap(), 1);
    for number in [number, listener] {
        posix::close(number).unwrap();
    }
}
