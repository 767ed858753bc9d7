//! What is known to break preloads: a test for each trap that no other test falls into.
//! docs/TESTING.md has the list.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{
    ALL, NONE, Program, compiled, compiled_with, cuts, cutting, does_with, have, here, library,
    preload,
};

fn facts() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("facts"))
}

fn does(what: &str) {
    common::does(facts(), what, ALL);
}

#[test]
fn flags_of_numbers_and_of_their_file_are_the_programs_own_across_cuts() {
    does("flags");
}

#[test]
fn threads_with_little_stack_use_sessions_through_cuts() {
    does("small_stack");
}

#[test]
fn a_child_that_no_fork_handler_knows_of_changes_nothing_in_its_parent() {
    does("forked_unseen");
}

#[test]
fn a_send_that_connects_begins_a_session() {
    does("fast_open");
}

#[test]
fn a_reader_whose_number_another_file_took_is_out_at_the_next_signal() {
    does("closed_by_dup");
}

#[test]
fn odd_calls_answer_as_the_kernel_does() {
    does("odd");
}

#[test]
fn a_session_keeps_the_addresses_that_it_began_with() {
    does("names");
}

#[test]
fn descriptors_that_come_through_other_sockets_come_once() {
    does("rights");
}

// The engine's thread, to which no number is virtual, wrote its lines into the connection.
#[test]
fn what_the_library_says_never_goes_into_a_session_that_is_the_standard_error_output() {
    does_with(facts(), "told", |command| {
        preload(command, ALL).env("EVERSOCK_LOG", "trace");
    });
}

/// A line of ours for a pipe that nobody read any more killed the program.
#[test]
fn a_log_that_goes_to_a_full_disk_or_a_broken_pipe_disturbs_nobody() {
    for kind in ["full", "broken"] {
        let to = common::out_dir().join(format!("stderr-{kind}"));
        let script = here().join("tests/programs/stderr.py");
        let (script, facts) = (script.display(), facts().display());
        let text = format!("#!/bin/sh\nexec python3 {script} {kind} {facts} \"$@\"\n");
        std::fs::write(&to, text).unwrap();
        std::fs::set_permissions(&to, Permissions::from_mode(0o755)).unwrap();
        for what in ["names", "odd"] {
            does_with(&to, what, |command| {
                preload(command, ALL).env("EVERSOCK_LOG", "trace");
            });
        }
    }
}

#[test]
fn programs_with_checked_calls_and_large_files_are_served_and_still_checked() {
    let words = ["-O2", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-D_FILE_OFFSET_BITS=64"];
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    let to = compiled_as("facts", "checked", &words);
    let output = Command::new("nm").arg("-D").arg(&to).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    for name in
        ["__read_chk", "__recv_chk", "__recvfrom_chk", "__poll_chk", "__ppoll_chk", "fcntl64"]
    {
        assert!(names.contains(name), "the compiler has not used {name}");
    }
    for what in ["fortified", "flags", "small_stack", "odd"] {
        common::does(&to, what, ALL);
    }
}

/// The same program under another name, so that tests that run beside each other have their own.
fn compiled_as(source: &str, name: &str, words: &[OsString]) -> PathBuf {
    let from = here().join("tests/programs").join(format!("{source}.c"));
    let to = common::out_dir().join(name);
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-pthread"]);
    let output = command.args(words).arg("-o").arg(&to).arg(from).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{source}.c cannot be compiled:\n{text}");
    to
}

#[test]
fn a_constructor_of_another_library_may_use_sockets_before_ours_has_run() {
    let words = ["-shared", "-fPIC"].map(OsString::from);
    let other = compiled_with("first", &words);
    let ours = library().display();
    // The loader runs the constructors of what it has loaded last first, but for dependencies.
    for order in [format!("{ours} {}", other.display()), format!("{} {ours}", other.display())] {
        does_with(facts(), "names", |command| {
            preload(command, ALL).env("LD_PRELOAD", &order);
        });
    }
}

#[test]
fn programs_that_python_runs_change_nothing_in_its_session() {
    if !have("python3") {
        return;
    }
    let mut server = Program::start(preload(&mut Command::new(compiled("forks")), ALL));
    let proxy = cutting(server.port(), 512 * 1024);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
        let mut command = Command::new("python3");
        command.arg(here().join("tests/programs/spawns.py")).arg(&port);
        let mut client = Program::start(preload(&mut command, ALL));
        assert_eq!(client.succeed("spawns"), "the same\n");
    });
    assert!(hit >= 3, "only {hit} cuts");
}

#[test]
fn odd_calls_of_programs_without_a_matching_rule_answer_as_without_the_library() {
    let run = |prepare: &dyn Fn(&mut Command)| {
        let mut server = Program::start(&mut Command::new(compiled("forks")));
        let port = server.port().to_string();
        let mut command = Command::new(facts());
        command.args(["rights", &port]);
        prepare(&mut command);
        Program::start(&mut command).succeed("rights")
    };
    let plain = run(&|_| {});
    let with_library = run(&|command| {
        preload(command, NONE);
    });
    assert_eq!(with_library, plain);
}
