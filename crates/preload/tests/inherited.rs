//! Servers that never listen themselves: their listener comes from systemd, inetd, or through exec.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{ALL, NONE, Program, compiled, cuts, cutting, here, library, preload};

const MIB: u64 = 1024 * 1024;

fn client() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("client"))
}

/// A program that is started with a listener; `how` is for `hands.c`, and `rules` for the program.
fn started(how: &str, rules: Option<&str>, program: &[&OsStr]) -> Program {
    static HANDS: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(HANDS.get_or_init(|| compiled("hands")));
    let library = rules.map_or_else(|| OsStr::new(""), |_| library().as_os_str());
    command.arg(how).arg(library).args(program);
    if let Some(rules) = rules {
        command.env("EVERSOCK_RULES", rules);
    }
    Program::start(&mut command)
}

fn activated(how: &str, rules: Option<&str>) -> Program {
    let script = here().join("tests/programs/activated.py");
    started("systemd", rules, &["python3".as_ref(), script.as_os_str(), how.as_ref()])
}

/// Three clients at once exchange megabytes with the server through cuts.
fn serves_through_cuts(server: &mut Program, how: &str) {
    let proxy = cutting(server.port(), MIB);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
        let mut clients: Vec<Program> = (0..3)
            .map(|_| {
                let mut command = Command::new(client());
                Program::start(preload(command.args(["echoes", &port]), ALL))
            })
            .collect();
        for client in &mut clients {
            assert_eq!(client.succeed(how), "done\n");
        }
    });
    assert!(hit >= 5, "{how}: only {hit} cuts");
}

#[test]
fn a_server_that_systemd_gave_its_listener_serves_through_cuts_however_it_waits() {
    for how in ["accept", "poll", "epoll", "asyncio", "copy"] {
        serves_through_cuts(&mut activated(how, Some(ALL)), how);
    }
}

// Each worker would make a listener of its own of it, where clients wait although other workers are
// free; and of two that did, the second found it non-blocking, as the first one's engine has it.
#[test]
fn workers_forked_before_the_first_accept_from_an_inherited_listener_share_it() {
    serves_through_cuts(&mut activated("prefork", Some(ALL)), "prefork");
}

#[test]
fn a_server_that_has_a_listener_for_its_standard_input_serves_through_cuts() {
    let forks = compiled("forks");
    for more in [&["at", "0"][..], &["ask", "0", "prefork"], &["at", "0", "prefork"]] {
        let mut program = vec![forks.as_os_str()];
        program.extend(more.iter().map(OsStr::new));
        serves_through_cuts(&mut started("0", Some(ALL), &program), "at 0");
    }
}

#[test]
fn a_listener_of_which_nothing_but_its_number_is_known_becomes_virtual_at_accept() {
    let forks = compiled("forks");
    let program = [forks.as_os_str(), OsStr::new("at"), OsStr::new("7")];
    serves_through_cuts(&mut started("7", Some(ALL), &program), "at 7");
}

#[test]
fn an_inherited_listener_without_a_matching_rule_is_left_as_it_is() {
    let looked = |rules: Option<&str>| {
        let mut server = activated("look", rules);
        let port = server.port().to_string();
        let mut client = Program::start(Command::new(client()).args(["echoes", &port]));
        assert_eq!(client.succeed("echoes"), "done\n");
        server.succeed("look")
    };
    let plain = looked(None);
    assert!(plain.starts_with("1 1 "), "{plain}");
    assert_eq!(looked(Some(NONE)), plain);
}
