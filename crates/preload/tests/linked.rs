//! Programs that have eversock in them, under the preload: this test, run once more, and one in C.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use common::{ALL, Program, compiled_with, here, preload, static_library};
use eversock_engine::{Config, posix};

/// What the program under the preload does: an eversock session of its own, and a connection to a
/// server without eversock, which a preload with these rules would refuse.
const ROLE: &str = "EVERSOCK_TEST_LINKED";

fn own_session() {
    let config = Arc::new(Config::default());
    let stream = libc::SOCK_STREAM;
    let listener = posix::socket(libc::AF_INET, stream, 0, Arc::clone(&config)).unwrap();
    posix::bind(listener, "127.0.0.1:0".parse().unwrap()).unwrap();
    posix::listen(listener, 8).unwrap();
    let addr = posix::getsockname(listener).unwrap().unwrap();
    let client = posix::socket(libc::AF_INET, stream, 0, config).unwrap();
    posix::connect(client, addr).unwrap();
    let (server, _) = posix::accept4(listener, 0).unwrap();
    posix::send(client, &[std::io::IoSlice::new(b"text")], 0).unwrap();
    let mut got = [0; 4];
    let flags = libc::MSG_WAITALL;
    posix::recv(server, &mut [std::io::IoSliceMut::new(&mut got)], flags).unwrap();
    assert_eq!(&got, b"text");
    for number in [client, server, listener] {
        assert!(posix::is_virtual(number));
        posix::close(number).unwrap();
    }
}

#[test]
fn the_preload_stands_down_for_a_program_that_has_eversock_in_it() {
    if let Ok(port) = std::env::var(ROLE) {
        own_session();
        let mut plain = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        plain.write_all(b"plain").unwrap();
        let mut got = [0; 5];
        plain.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"plain");
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    stands_down(&mut command, |command, port| {
        let this = "the_preload_stands_down_for_a_program_that_has_eversock_in_it";
        command.env(ROLE, port.to_string()).args(["--nocapture", "--exact", this]);
    });
}

#[test]
fn the_preload_stands_down_for_a_c_program_that_is_linked_with_the_static_library() {
    let header = here().join("../../include");
    let arguments = [
        OsString::from("-I"),
        header.into(),
        static_library().into(),
        // As eversock.pc says for static linking.
        "-lgcc_s".into(),
        "-lutil".into(),
        "-lrt".into(),
        "-lm".into(),
        "-ldl".into(),
    ];
    let program = compiled_with("linked", &arguments);
    stands_down(&mut Command::new(program), |command, port| {
        command.arg(port.to_string());
    });
}

/// Runs a program under the preload, beside a plain server that says one word of five bytes back.
fn stands_down(command: &mut Command, tell: impl FnOnce(&mut Command, u16)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    tell(command, listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        peer.write_all(&got).unwrap();
    });
    command.env("EVERSOCK_LOG", "info");
    let (status, out, errors) = Program::start(preload(command, ALL)).end();
    assert!(status.success(), "{out}{errors}");
    assert!(errors.contains("the preload stands down"), "{errors}");
    server.join().unwrap();
}
