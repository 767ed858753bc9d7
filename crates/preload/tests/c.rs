//! Small C programs, each doing one thing that breaks where a preload is not careful.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::{ALL, NONE, Program, compiled, cuts, cutting, preload, proxy_to};

fn server() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("forks"))
}

fn client() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| compiled("client"))
}

/// Runs one part of `client.c` against an echo server, through cuts.
fn does(what: &str, rules: &str) {
    common::does(client(), what, rules);
}

#[test]
fn a_cancelled_reader_leaves_the_socket_as_it_was() {
    does("cancel", ALL);
}

#[test]
fn a_child_between_vfork_and_exec_changes_nothing_in_its_parent() {
    does("vforked", ALL);
}

#[test]
fn duplicates_share_a_session_until_the_last_is_closed_or_replaced() {
    does("numbers", ALL);
}

#[test]
fn a_read_time_out_set_before_the_connect_holds_across_a_cut() {
    does("timed", ALL);
}

#[test]
fn options_set_before_the_connect_hold_on_every_connection() {
    does("options", ALL);
}

#[test]
fn a_refused_connect_says_so_once() {
    does("refused", ALL);
}

#[test]
fn a_signal_handler_writes_to_the_descriptor_whose_reader_it_interrupts() {
    does("handler", ALL);
}

#[test]
fn a_signal_without_restart_ends_a_read_and_a_poll() {
    does("eintr", ALL);
}

#[test]
fn a_program_that_closes_all_it_does_not_know_keeps_its_session() {
    does("close_all", ALL);
}

// A loop of plain closes took the engine's event loop and bells, and its wake-ups went as eight
// bytes into whatever file the program opened next.
#[test]
fn a_daemon_that_closes_number_after_number_keeps_its_session_and_later_ones() {
    does("close_loop", ALL);
}

#[test]
fn what_the_engine_has_open_is_high_and_can_be_neither_closed_nor_replaced() {
    does("engine_numbers", ALL);
}

#[test]
fn stdio_over_a_socket_reads_and_writes_through_a_cut() {
    does("stream", ALL);
}

#[test]
fn sendfile_splice_and_many_messages_at_once_carry_their_bytes() {
    does("files", ALL);
}

#[test]
fn a_registration_older_than_the_connect_is_kept_through_connect_and_cut() {
    does("early", ALL);
}

#[test]
fn select_works_up_to_its_last_descriptor() {
    does("high", ALL);
}

#[test]
fn errno_is_kept_and_other_descriptors_are_left_alone() {
    does("foreign", ALL);
}

#[test]
fn a_spawned_child_does_not_inherit_the_middle_of_a_session() {
    does("spawned", ALL);
}

// A reader that was cancelled when the kernel had given it bytes was taken for a foreign one, which
// ended the session; one that was cancelled in a close(2) of the engine's aborted the program.
#[test]
fn a_thread_cancelled_in_any_wait_leaves_the_session_as_it_was() {
    does("cancel_waits", ALL);
}

#[test]
fn every_kind_of_epoll_registration_is_kept_across_cuts_and_sees_none() {
    does("sets", ALL);
}

#[test]
fn a_reader_that_sleeps_through_cuts_gets_what_comes_afterwards() {
    does("blocked", ALL);
}

#[test]
fn a_stream_made_before_the_connect_is_the_sessions_and_ends_with_fclose() {
    does("early_stream", ALL);
}

#[test]
fn a_number_closed_past_the_library_is_what_the_program_makes_of_it_next() {
    does("closed_unseen", ALL);
}

#[test]
fn a_descriptor_sent_to_another_process_works_there_through_cuts() {
    does("sent", ALL);
}

#[test]
fn bytes_received_with_msg_trunc_are_dropped() {
    does("discards", ALL);
}

#[test]
fn programs_run_by_system_and_popen_get_nothing_of_a_session() {
    does("commands", ALL);
}

#[test]
fn workers_that_were_forked_before_their_clients_came_serve_them_through_cuts() {
    let mut server = Program::start(preload(Command::new(server()).arg("prefork"), ALL));
    let proxy = cutting(server.port(), 1024 * 1024);
    let port = proxy.local_addr().port().to_string();
    let hit = cuts(&proxy, || {
        let mut clients: Vec<Program> = (0..4)
            .map(|_| {
                let mut command = Command::new(client());
                Program::start(preload(command.args(["echoes", &port]), ALL))
            })
            .collect();
        for client in &mut clients {
            assert_eq!(client.succeed("echoes"), "done\n");
        }
    });
    assert!(hit >= 10, "only {hit} cuts");
}

#[test]
fn programs_without_a_matching_rule_do_the_same_as_without_the_library() {
    for what in [
        "numbers", "timed", "options", "refused", "handler", "eintr", "stream", "files", "discards",
    ] {
        let mut server = Program::start(preload(&mut Command::new(server()), NONE));
        let port = server.port().to_string();
        let mut command = Command::new(client());
        command.args([what, &port]).stdin(Stdio::piped());
        let mut client = Program::start(preload(&mut command, NONE));
        // Nothing is cut, as nothing would save it; one that does not ask may have ended already.
        let _ended = client.stdin().write_all(b"xxx");
        assert!(client.succeed(what).ends_with("done\n"));
    }
}

#[test]
fn what_was_written_before_an_abrupt_exit_arrives() {
    let mut command = Command::new(server());
    let mut server = Program::start(preload(command.arg("count"), ALL));
    let proxy = proxy_to(server.port());
    let port = proxy.local_addr().port().to_string();
    let mut command = Command::new(client());
    let mut client = Program::start(preload(command.args(["quick_end", &port]), ALL));
    client.succeed("quick_end");
    assert_eq!(server.line(), (32 * 65536).to_string());
}
