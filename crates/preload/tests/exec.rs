//! Programs that are run with a virtual socket for their standard input and output, as inetd does.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{ALL, Program, compiled, cuts, cutting, free_port, have, preload, wait_listening};

const MIB: u64 = 1024 * 1024;

fn inetd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("inetd"))
}

fn client() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("client"))
}

/// Megabytes to the server on `port` and back through cuts, twice.
fn echoes(port: u16, what: &str, how: &str) {
    let proxy = cutting(port, MIB);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
        for _ in 0..2 {
            let mut command = Command::new(client());
            let mut client = Program::start(preload(command.args([what, &port]), ALL));
            assert_eq!(client.succeed(how), "done\n");
        }
    });
    assert!(hit >= 5, "only {hit} cuts");
}

fn served_by_cat(how: &str, what: &str) {
    let mut server = Program::start(preload(Command::new(inetd()).arg(how), ALL));
    echoes(server.port(), what, how);
}

#[test]
fn a_program_that_a_fork_child_becomes_has_the_session_through_cuts() {
    for how in ["execl", "execve", "execlp", "execle", "fexecve", "execveat"] {
        served_by_cat(how, "echoes");
    }
}

#[test]
fn a_child_that_has_used_its_session_passes_it_on_through_exec() {
    served_by_cat("spoke", "greeted");
}

#[test]
fn an_exec_that_fails_leaves_the_session_as_it_was() {
    served_by_cat("fails", "greeted");
}

/// Each failure takes back what has come meanwhile; the program that does come gets all of it.
#[test]
fn execs_that_fail_over_and_over_while_bytes_come_leave_them_to_the_one_that_succeeds() {
    served_by_cat("retries", "echoes");
}

/// Both are guests, and none can say that it reads: what lay with the one that does not was lost to
/// the other for ever.
#[test]
fn a_program_that_has_the_session_too_and_never_reads_does_not_keep_input_from_the_one_that_does() {
    served_by_cat("beside", "echoes");
}

/// The client has gone, and the session ends, before the program has read all.
#[test]
fn a_program_that_reads_slowly_gets_all_of_a_session_that_is_over() {
    let mut server = Program::start(preload(Command::new(inetd()).arg("slowly"), ALL));
    let port = server.port().to_string();
    let mut command = Command::new(client());
    let mut client = Program::start(preload(command.args(["pours", &port]), ALL));
    let said = client.succeed("pours");
    let bytes = said.strip_suffix("\ndone\n").expect("a number of bytes");
    assert_eq!(server.line(), format!("0 {bytes}"));
}

/// What a burst had left to be sent went with the engine.
#[test]
fn what_was_written_right_before_an_exec_arrives_although_the_session_ends_there() {
    let mut server = Program::start(preload(Command::new(inetd()).arg("counts"), ALL));
    let port = server.port().to_string();
    let mut command = Command::new(client());
    let mut client = Program::start(preload(command.args(["execs_in_a_burst", &port]), ALL));
    assert_eq!(client.succeed("execs_in_a_burst"), "done\n");
    assert_eq!(server.line(), "48000");
}

#[test]
fn a_child_of_vfork_passes_a_session_on_under_numbers_of_its_own() {
    served_by_cat("vfork", "echoes");
}

// It was refused: libc duplicates such numbers in the child, where nobody sees it.
#[test]
fn a_spawned_program_has_the_session_under_the_numbers_that_its_file_actions_say() {
    served_by_cat("spawn", "echoes");
}

/// What had been made for the first client's number went to the second, whose number was the same.
#[test]
fn a_program_that_does_not_destroy_its_file_actions_gives_each_child_its_own_session() {
    served_by_cat("careless", "echoes");
}

#[test]
fn socat_runs_a_program_for_each_connection_through_cuts() {
    if !have("socat") {
        return;
    }
    for exec in ["EXEC:cat", "EXEC:cat,nofork", "SYSTEM:cat"] {
        let port = free_port();
        let mut command = Command::new("socat");
        command.arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork")).arg(exec);
        let mut server = Program::start(preload(&mut command, ALL));
        wait_listening(port, &mut server);
        echoes(port, "echoes", exec);
    }
}
