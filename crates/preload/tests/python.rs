//! Python programs on both ends, as they are, in every way in which Python waits.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{ALL, NONE, Program, here, preload, proxy_to, while_cutting};

const MIB: u64 = 1024 * 1024;

fn talk(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs/talk.py")).args(arguments);
    command
}

/// Lets two Pythons talk through a path that is cut every MiB.
fn through_cuts(how: &str) {
    let mut server = Program::start(preload(&mut talk(&["server", how, "8"]), ALL));
    let proxy = proxy_to(server.port());
    let port = proxy.local_addr().port().to_string();
    let hit = while_cutting(&proxy, MIB, || {
        let mut client = Program::start(preload(&mut talk(&["client", how, "8", &port]), ALL));
        client.succeed("client");
        server.succeed("server");
    });
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn blocking_threads_of_python_exchange_every_byte_through_cuts() {
    through_cuts("blocking");
}

#[test]
fn file_objects_of_python_exchange_every_byte_through_cuts() {
    through_cuts("files");
}

#[test]
fn a_select_loop_of_python_exchanges_every_byte_through_cuts() {
    through_cuts("select");
}

#[test]
fn a_poll_loop_of_python_exchanges_every_byte_through_cuts() {
    through_cuts("poll");
}

#[test]
fn a_level_triggered_epoll_loop_of_python_exchanges_every_byte_through_cuts() {
    through_cuts("epoll");
}

#[test]
fn an_edge_triggered_epoll_loop_of_python_exchanges_every_byte_through_cuts() {
    through_cuts("edge");
}

#[test]
fn asyncio_exchanges_every_byte_through_cuts() {
    through_cuts("asyncio");
}

#[test]
fn without_eversock_the_first_cut_ends_the_conversation() {
    let mut server = Program::start(&mut talk(&["server", "blocking", "8"]));
    let proxy = proxy_to(server.port());
    let port = proxy.local_addr().port().to_string();
    while_cutting(&proxy, MIB, || {
        let mut client = Program::start(&mut talk(&["client", "blocking", "8", &port]));
        assert!(!client.end().0.success(), "the cut did nothing");
        assert!(!server.end().0.success(), "the cut did nothing");
    });
}

#[test]
fn rules_that_match_nothing_change_nothing() {
    for how in ["blocking", "files", "select", "poll", "epoll", "edge", "asyncio"] {
        let mut server = Program::start(preload(&mut talk(&["server", how, "2"]), NONE));
        let port = server.port().to_string();
        let mut client = Program::start(&mut talk(&["client", how, "2", &port]));
        assert_eq!(client.succeed("client"), "the same\n");
        assert_eq!(server.succeed("server"), "the same\n");
    }
}

#[test]
fn a_wrong_rule_is_said_and_nothing_is_virtual() {
    let wrong = "[[connect]]\nmode = \"maybe\"\n";
    let mut server = Program::start(preload(&mut talk(&["server", "blocking", "1"]), wrong));
    let port = server.port().to_string();
    let mut client = Program::start(&mut talk(&["client", "blocking", "1", &port]));
    client.succeed("client");
    let (status, out, errors) = server.end();
    assert!(status.success() && out == "the same\n", "{out}");
    assert!(errors.contains("EVERSOCK_RULES:2: ") && errors.contains("`require`"), "{errors}");
}

#[test]
fn a_peer_without_eversock_is_refused_where_the_rule_requires_it() {
    let mut server = Program::start(preload(&mut talk(&["server", "blocking", "1"]), ALL));
    let port = server.port().to_string();
    let mut client = Program::start(&mut talk(&["client", "blocking", "1", &port]));
    assert!(!client.end().0.success());
    assert!(server.is_running(), "the server accepted a stranger");
}

#[test]
fn a_listener_in_auto_mode_serves_plain_and_resilient_clients() {
    let auto = "[[listen]]\nmode = \"auto\"\n";
    for rules in [NONE, ALL] {
        for how in ["blocking", "edge", "asyncio"] {
            let mut server = Program::start(preload(&mut talk(&["server", how, "2"]), auto));
            let port = server.port().to_string();
            let mut client =
                Program::start(preload(&mut talk(&["client", how, "2", &port]), rules));
            assert_eq!(client.succeed("client"), "the same\n");
            assert_eq!(server.succeed("server"), "the same\n");
        }
    }
}

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs").join(name)).args(arguments);
    command
}

#[test]
fn a_client_in_auto_mode_falls_back_to_a_plain_connection_and_remembers_it() {
    let auto = "[[connect]]\nmode = \"auto\"\n";
    common::library();
    // A server that says the client's own words back, one that speaks first, and a silent one.
    for (greeting, word) in [("", ""), ("220 hello\r\n", ""), ("", "text")] {
        let mut server = Program::start(&mut program("plain_echo.py", &[greeting, word]));
        let port = server.port().to_string();
        let began = Instant::now();
        let mut client =
            Program::start(preload(&mut program("ask.py", &[&port, greeting, "text"]), auto));
        assert_eq!(client.succeed("client"), "answered\n");
        // A silent server costs a second once, not for each of the two connections.
        assert!(began.elapsed() < Duration::from_millis(2900), "{:?}", began.elapsed());
    }
}

#[test]
fn a_client_in_auto_mode_is_resilient_where_the_server_is() {
    let auto = "[[connect]]\nmode = \"auto\"\n";
    let mut server = Program::start(preload(&mut talk(&["server", "epoll", "8"]), ALL));
    let proxy = proxy_to(server.port());
    let port = proxy.local_addr().port().to_string();
    // The handshake is small: no cut comes before a MiB has passed.
    let hit = while_cutting(&proxy, MIB, || {
        let mut client = Program::start(preload(&mut talk(&["client", "epoll", "8", &port]), auto));
        client.succeed("client");
        server.succeed("server");
    });
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn a_server_that_speaks_first_serves_plain_clients_that_wait_for_it() {
    let first = "[[listen]]\nmode = \"auto\"\nserver-speaks-first = true\n";
    let greeting = "220 hello\r\n";
    let mut server = Program::start(preload(&mut program("plain_echo.py", &[greeting]), first));
    let port = server.port().to_string();
    for rules in [NONE, ALL] {
        let mut client =
            Program::start(preload(&mut program("ask.py", &[&port, greeting, "text"]), rules));
        assert_eq!(client.succeed("client"), "answered\n");
    }
}
