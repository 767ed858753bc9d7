//! Rules with `share = true`: a client as it is, and one session to each server.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Program, here, preload};
use eversock_dedup::{Accepted, SharedListener};

const SHARE: &str = "[[connect]]\nshare = true\n";

/// A shared server, and who has come.
struct Server {
    port: u16,
    came: Arc<Mutex<Vec<Accepted>>>,
}

impl Server {
    /// Echoes everything.
    fn echo() -> Self {
        let listener = SharedListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addrs()[0].port();
        let came: Arc<Mutex<Vec<Accepted>>> = Arc::default();
        let seen = Arc::clone(&came);
        std::thread::spawn(move || {
            while let Ok((stream, about)) = listener.accept() {
                seen.lock().unwrap().push(about);
                std::thread::spawn(move || {
                    let _gone = io::copy(&mut &stream, &mut &stream);
                    let _gone = stream.shutdown(Shutdown::Write);
                });
            }
        });
        Self { port, came }
    }

    fn sessions(&self) -> BTreeSet<[u8; 16]> {
        self.came.lock().unwrap().iter().map(|about| about.session).collect()
    }

    fn connections(&self) -> usize {
        self.came.lock().unwrap().len()
    }
}

fn shares(what: &str, ports: &[u16]) -> Program {
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs/shares.py")).arg(what);
    command.args(ports.iter().map(u16::to_string));
    Program::start(preload(&mut command, SHARE))
}

#[test]
fn twenty_connections_of_python_share_one_session_byte_for_byte() {
    let server = Server::echo();
    shares("many", &[server.port]).succeed("client");
    assert_eq!((server.connections(), server.sessions().len()), (20, 1));
    assert!(server.came.lock().unwrap().iter().all(|about| about.is_shared));
}

#[test]
fn asyncio_shares_one_session() {
    let server = Server::echo();
    shares("loops", &[server.port]).succeed("client");
    assert_eq!((server.connections(), server.sessions().len()), (20, 1));
}

#[test]
fn a_socket_that_epoll_has_before_its_connect_is_told_of_the_outcome() {
    let server = Server::echo();
    shares("edge", &[server.port]).succeed("client");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_refused_connect_is_told_as_the_kernel_tells_it_and_the_number_can_be_used_again() {
    let server = Server::echo();
    shares("refused", &[server.port, common::free_port()]).succeed("client");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_connect_that_is_under_way_looks_like_one() {
    // Its queue takes the connection, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    shares("waiting", &[silent.local_addr().unwrap().port()]).succeed("client");
}

#[test]
fn what_is_known_of_a_connection_goes_with_its_copies_and_not_with_its_number() {
    let server = Server::echo();
    shares("numbers", &[server.port]).succeed("client");
    assert_eq!((server.connections(), server.sessions().len()), (302, 1));
}

#[test]
fn children_of_a_threaded_program_use_its_connections_and_make_their_own() {
    let server = Server::echo();
    shares("forks", &[server.port]).succeed("client");
    assert_eq!(server.sessions().len(), 6, "one of the parent and one of each child");
}

#[test]
fn a_program_that_exits_right_after_its_writes_has_written() {
    let listener = SharedListener::bind("127.0.0.1:0").unwrap();
    let mut client = shares("exits", &[listener.local_addrs()[0].port()]);
    for turn in 0..3 {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all == vec![turn; 300_000], "{} bytes", all.len());
    }
    client.succeed("client");
}

#[test]
fn a_server_that_shares_nothing_is_served_by_sessions_of_its_own() {
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs/talk.py")).args(["server", "blocking", "8"]);
    let mut server = Program::start(preload(&mut command, common::ALL));
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs/talk.py"));
    command.args(["client", "edge", "8", &server.port().to_string()]);
    let mut client = Program::start(preload(&mut command, SHARE));
    assert_eq!(client.succeed("client"), "the same\n");
    assert_eq!(server.succeed("server"), "the same\n");
}

#[test]
fn curl_has_its_answer_over_a_shared_session() {
    if !common::have("curl") {
        return;
    }
    let server = Server::echo();
    // An echo for HTTP/0.9: what comes back is the request, and its length is known.
    let url = format!("http://127.0.0.1:{}/path", server.port);
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "2", "--http0.9", "--raw", &url, &url]);
    let (_, out, errors) = Program::start(preload(&mut command, SHARE)).end();
    assert!(out.starts_with("GET /path HTTP/1.1\r\nHost: 127.0.0.1:"), "{out}; {errors}");
}
