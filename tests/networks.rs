//! Addresses that come and go and names that move, in a network namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use common::child::role;
use common::netns::{self, run};
use common::{MIB, begin, data, exchange, quick, read_exactly, wait_until};
use eversock::{Config, VirtualListener, VirtualStream};

/// Runs the hidden test in a role in a namespace of its own, with names of its own.
fn in_namespace(role: &str) {
    let files = [("hosts", "127.0.0.2 moves.test\n"), ("nsswitch.conf", "hosts: files\n")];
    netns::in_namespace("networks", role, &files, Duration::from_secs(60));
}

/// What runs in the namespace.
#[test]
fn helper_process() {
    let Some((role, etc)) = role() else { return };
    begin();
    match role.as_str() {
        "address" => the_address_changes(),
        "name" => the_name_moves(&PathBuf::from(etc)),
        other => panic!("no role {other}"),
    }
}

/// The client's side has an address that goes away and another that comes.
fn the_address_changes() {
    run("ip", &["addr", "add", "10.9.0.1/32", "dev", "lo"]).unwrap();
    run("ip", &["addr", "add", "10.8.0.1/32", "dev", "lo"]).unwrap();
    let listener = VirtualListener::bind_with("10.8.0.1:0", quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    // Where packets to the server leave from, without the program's doing.
    let from = |source: &str| {
        run(
            "ip",
            &[
                "route", "replace", "local", "10.8.0.1", "dev", "lo", "table", "local", "src",
                source,
            ],
        )
    };
    from("10.9.0.1").unwrap();
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(client.local_addr().unwrap().ip().to_string(), "10.9.0.1");
    for round in 0..6u64 {
        let (old, new) =
            if round % 2 == 0 { ("10.9.0.1", "10.9.0.2") } else { ("10.9.0.2", "10.9.0.1") };
        let resumes = client.info().unwrap().resumes;
        let (up, down) = (data(round, 2 * MIB), data(round + 100, 2 * MIB));
        std::thread::scope(|scope| {
            scope.spawn(|| (&client).write_all(&up).unwrap());
            scope.spawn(|| (&server).write_all(&down).unwrap());
            scope.spawn(|| {
                run("ip", &["addr", "add", &format!("{new}/32"), "dev", "lo"]).unwrap();
                from(new).unwrap();
                run("ip", &["addr", "del", &format!("{old}/32"), "dev", "lo"]).unwrap();
            });
            scope.spawn(|| assert!(read_exactly(&server, up.len()) == up));
            scope.spawn(|| assert!(read_exactly(&client, down.len()) == down));
        });
        // Nobody tells the program or the kernel's connection: the engine sees the change itself.
        wait_until("a resume from the other address", || {
            let info = client.info().unwrap();
            info.resumes > resumes && info.detached_ms.is_none()
        });
    }
    exchange(&client, &server, b"up", b"down");
}

/// The server moves to another address, and the name with it.
fn the_name_moves(etc: &std::path::Path) {
    let listener = VirtualListener::bind_with("0.0.0.0:0", quick()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Config { grace: Duration::from_secs(30), ..quick() };
    let client = VirtualStream::connect_host("moves.test", port, config).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(client.peer_addr().unwrap().ip().to_string(), "127.0.0.2");
    exchange_some(&client, &server);
    // The old address is dead for good, the new one known by name alone.
    std::fs::write(etc.join("hosts"), "127.0.0.3 moves.test\n").unwrap();
    run("ip", &["route", "add", "prohibit", "127.0.0.2/32", "table", "local"]).unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_err(), "the old address lives");
    let port = format!("sport = :{port} or dport = :{port}");
    run("ss", &["-K", "-t", "state", "established", &port]).unwrap();
    exchange_some(&client, &server);
    wait_until("the resumes are counted", || client.info().unwrap().resumes >= 1);
    exchange(&client, &server, b"up", b"down");
}

fn exchange_some(mut client: &VirtualStream, mut server: &VirtualStream) {
    client.write_all(b"there").unwrap();
    assert_eq!(read_exactly(server, 5), b"there");
    server.write_all(b"and back").unwrap();
    assert_eq!(read_exactly(client, 8), b"and back");
}

#[test]
fn a_session_goes_on_when_the_local_address_changes_while_data_flow() {
    in_namespace("address");
}

#[test]
fn a_session_follows_a_name_that_is_looked_up_again() {
    in_namespace("name");
}
