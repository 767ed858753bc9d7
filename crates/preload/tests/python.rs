//! Python programs on both ends, as they are, in every way in which Python waits.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{ALL, NONE, Program, cuts, cutting, here, preload};

const MIB: u64 = 1024 * 1024;

fn talk(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(here().join("tests/programs/talk.py")).args(arguments);
    command
}

/// Lets two Pythons talk through a path that is cut every MiB.
fn through_cuts(how: &str) {
    let mut server = Program::start(preload(&mut talk(&["server", how, "8"]), ALL));
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
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
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    cuts(&proxy, || {
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

/// How many connections `plain_echo.py` has taken before this one.
fn connections(port: u16) -> usize {
    let mut ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
    ours.write_all(b"how many?").unwrap();
    let mut lines = BufReader::new(ours).lines().map(Result::unwrap);
    lines.find_map(|line| line.parse().ok()).unwrap()
}

#[test]
fn a_client_in_auto_mode_falls_back_to_a_plain_connection_and_remembers_it() {
    let auto = "[[connect]]\nmode = \"auto\"\n";
    common::library();
    // A server that says the client's own words back, one that speaks first, and a silent one.
    for (greeting, word) in [("", ""), ("220 hello\r\n", ""), ("", "text")] {
        let mut server = Program::start(&mut program("plain_echo.py", &[greeting, word]));
        let port = server.port().to_string();
        let mut client =
            Program::start(preload(&mut program("ask.py", &[&port, greeting, "text"]), auto));
        assert_eq!(client.succeed("client"), "answered\n");
        // The first of the two connections was tried before, the second was not.
        assert_eq!(connections(port.parse().unwrap()), 3, "greeting {greeting:?}, word {word:?}");
    }
}

#[test]
fn a_client_in_auto_mode_is_resilient_where_the_server_is() {
    let auto = "[[connect]]\nmode = \"auto\"\n";
    let mut server = Program::start(preload(&mut talk(&["server", "epoll", "8"]), ALL));
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    // The handshake is small: no cut comes before a MiB has passed.
    let hit = cuts(&proxy, || {
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

#[test]
fn a_rule_with_a_name_holds_for_the_addresses_that_the_program_looked_up() {
    let named = "[[connect]]\nhost = \"localhost\"\nmode = \"require\"\n";
    let mut server = Program::start(preload(&mut talk(&["server", "blocking", "8"]), ALL));
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
        let mut command = talk(&["client", "blocking", "8", &port, "localhost"]);
        Program::start(preload(&mut command, named)).succeed("client");
        server.succeed("server");
    });
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn urllib_gets_a_file_from_http_server_through_cuts() {
    let folder = common::out_dir().join("http");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("content");
    common::random_file(&file, 32);
    for (rules, survives) in [(Some(ALL), true), (None, false)] {
        let start = |command: &mut Command| match rules {
            Some(rules) => Program::start(preload(command, rules)),
            None => Program::start(command),
        };
        let port = common::free_port();
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        let mut server = start(command.arg(&folder).arg(port.to_string()));
        common::wait_listening(port, &mut server);
        let proxy = cutting(port, 4 * MIB);
        let get = "import sys, urllib.request as u; \
                   sys.exit(u.urlopen(sys.argv[1]).read() != open(sys.argv[2], 'rb').read())";
        let hit = cuts(&proxy, || {
            let url = format!("http://{}/content", proxy.local_addr());
            let mut command = Command::new("python3");
            let mut client = start(command.args(["-c", get, &url]).arg(&file));
            let (status, _, errors) = client.end();
            assert_eq!(status.success(), survives, "{errors}");
        });
        assert!(hit >= if survives { 5 } else { 1 }, "only {hit} cuts");
    }
}

/// Rules for both sides with one more line.
fn with(line: &str) -> String {
    format!("[[connect]]\nmode = \"require\"\n{line}\n[[listen]]\nmode = \"require\"\n{line}\n")
}

fn file(name: &str, text: &str) -> std::path::PathBuf {
    let path = common::out_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, own).unwrap();
    path
}

#[test]
fn only_those_with_the_key_are_served() {
    let right = with(&format!("key = {:?}", file("right.key", &"0f".repeat(32))));
    let wrong = with(&format!("key = {:?}", file("wrong.key", &"f0".repeat(32))));
    let mut server = Program::start(preload(&mut talk(&["server", "blocking", "8"]), &right));
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    for rules in [&wrong, ALL] {
        let mut stranger = talk(&["client", "blocking", "8", &port]);
        let (status, _, errors) = Program::start(preload(&mut stranger, rules)).end();
        assert!(!status.success() && errors.contains("PermissionError"), "{errors}");
    }
    cuts(&proxy, || {
        let mut client = talk(&["client", "blocking", "8", &port]);
        Program::start(preload(&mut client, &right)).succeed("client");
        server.succeed("server");
    });
}

#[test]
fn a_key_that_cannot_be_read_is_said_and_nothing_is_virtual() {
    let rules = with("key = \"/nonexistent/key\"");
    let mut server = Program::start(preload(&mut talk(&["server", "blocking", "1"]), &rules));
    let port = server.port().to_string();
    Program::start(&mut talk(&["client", "blocking", "1", &port])).succeed("client");
    let (status, _, errors) = server.end();
    assert!(status.success() && errors.contains("/nonexistent/key: the key cannot be read"));
}

#[test]
fn a_command_is_told_of_each_fault_and_may_decide_by_its_exit_status() {
    let told = common::out_dir().join("told");
    for (policy, exit, goes_on) in [("auto", 1, true), ("ask", 0, true), ("ask", 1, false)] {
        let _old = std::fs::remove_file(&told);
        let command = format!("echo \"$EVS_EPOCH $EVS_PEER\" >> {}; exit {exit}", told.display());
        let rules = with(&format!("policy = {policy:?}\non-fault = {command:?}"));
        let mut server = Program::start(preload(&mut talk(&["server", "blocking", "8"]), &rules));
        let proxy = cutting(server.port(), 2 * MIB);
        let addr = proxy.local_addr();
        cuts(&proxy, || {
            let port = addr.port().to_string();
            let mut command = talk(&["client", "blocking", "8", &port]);
            let mut client = Program::start(preload(&mut command, &rules));
            assert_eq!(client.end().0.success(), goes_on, "{policy}, exit {exit}");
            assert_eq!(server.end().0.success(), goes_on, "{policy}, exit {exit}");
        });
        let told = std::fs::read_to_string(&told).unwrap();
        assert!(told.contains(&format!("1 {addr}\n")), "{told:?}");
    }
}

#[test]
fn connections_killed_in_the_kernel_are_survived() {
    let mut server = Program::start(preload(&mut talk(&["server", "edge", "64"]), ALL));
    let server_port = server.port();
    let port = server_port.to_string();
    let mut client = Program::start(preload(&mut talk(&["client", "poll", "64", &port]), ALL));
    common::killed_while_it_runs(&mut client, server_port, "poll");
    client.succeed("client");
    server.succeed("server");
}
