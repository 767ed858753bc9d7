//! The C tests: each source is linked statically and shared, and run plain, under valgrind and with
//! AddressSanitizer.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use eversock_ffi_tests::{Link, Program, have, root, run};

/// One C test at a time: most run two programs' worth of threads, and valgrind is slow.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run under a checker gets, so that it stays short.
const SMALL: &str = "60000";

fn check(topic: &str) {
    check_with(topic, &[]);
}

fn check_with(topic: &str, valgrind: &[&str]) {
    let _turn = alone();
    if !have("cc") {
        return;
    }
    let source = &format!("ffi-tests/c/{topic}.c");
    let program = |link, extra, name: &str| {
        Program { source, standard: "c11", link, extra, name: &format!("{topic}-{name}") }.make()
    };
    let shared = program(Link::Shared, &[], "shared");
    run(&mut shared.command());
    let linked = program(Link::Static, &[], "static");
    run(&mut linked.command());

    let sanitized = program(Link::Static, &["-fsanitize=address,undefined"], "asan");
    let mut command = sanitized.command();
    // The engine lives as long as the process, and so does what it holds.
    command.env("ASAN_OPTIONS", "detect_leaks=0").env("UBSAN_OPTIONS", "halt_on_error=1");
    run(command.arg(SMALL));

    if have("valgrind") {
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--error-exitcode=99", "--trace-children=no"]);
        command.arg(format!("--suppressions={}", suppressions().display())).args(valgrind);
        run(command.arg(linked.path()).arg(SMALL));
    }
}

fn suppressions() -> std::path::PathBuf {
    root().join("ffi-tests/valgrind.supp")
}

#[test]
fn null_and_nonsense_give_errors_everywhere() {
    check("null_args");
}

#[test]
fn structures_have_the_layout_that_was_published() {
    check("abi_layout");
}

#[test]
fn an_echo_works_with_every_wait_pumped_and_direct() {
    check("echo");
}

#[test]
fn options_are_kept_and_told() {
    check("options");
}

#[test]
fn duplicates_share_a_socket_until_the_last_is_closed() {
    check("dup");
}

#[test]
fn one_direction_can_end_before_the_other() {
    check("half_close");
}

#[test]
fn a_server_forks_for_each_connection_and_the_child_owns_it() {
    check("fork_server");
}

#[test]
fn connects_block_or_not_and_fail_as_plain_ones() {
    check("connect");
}

#[test]
fn time_outs_end_a_wait_and_leave_the_session() {
    check("timeouts");
}

/// A guard that caught whatever unwinds aborted the host when a thread that slept was cancelled.
#[test]
fn a_cancelled_call_leaves_the_socket_as_it_was() {
    check("cancel");
}

#[test]
fn sealed_sessions_with_static_keys_stand_between_those_who_know_each_other() {
    // It cannot follow ring's instructions for AES, and takes each tag for undefined.
    check_with("sealed", &["--undef-value-errors=no"]);
}

#[test]
fn a_listener_at_a_limit_refuses_clients_and_takes_them_again() {
    check("limits");
}

#[test]
fn a_pool_carries_many_connections_over_one_session() {
    // As with sealed sessions: the handshake has a static key.
    check_with("pool", &["--undef-value-errors=no"]);
}

#[test]
fn a_pair_of_servers_in_c_changes_places_behind_its_front() {
    check("spool");
}

#[test]
fn a_device_in_c_registers_with_controllers_in_c() {
    check("controller");
}

#[test]
fn a_pair_of_servers_in_cpp_is_asked_by_a_sender_in_cpp() {
    let _turn = alone();
    if !have("c++") {
        return;
    }
    for (standard, link, name) in
        [("c++11", Link::Shared, "spool-cpp-shared"), ("c++20", Link::Static, "spool-cpp-static")]
    {
        let extra = &["-pthread"];
        let source = "ffi-tests/cpp/spool.cc";
        run(&mut Program { source, standard, link, extra, name }.make().command());
    }
}

#[test]
fn the_recovery_callback_decides() {
    check("recovery");
}

#[test]
fn the_same_source_prints_the_same_over_libc_and_over_eversock() {
    let _turn = alone();
    if !have("cc") {
        return;
    }
    let source = "ffi-tests/c/twin.c";
    let program = |link, extra, name| {
        let program = Program { source, standard: "c11", link, extra, name };
        run(&mut program.make().command()).out
    };
    let wanted = program(Link::Plain, &[], "twin-libc");
    assert!(wanted.lines().count() > 100, "the twin says too little:\n{wanted}");
    let posix = ["-include", "eversock_posix.h"];
    let pumped = ["-DEVERSOCK_POSIX_PUMPED", "-include", "eversock_posix.h"];
    let seal = root().join("ffi-tests/c/sealed.h");
    let sealed = ["-include", seal.to_str().unwrap(), "-include", "eversock_posix.h"];
    let runs = [
        ("direct, sealed", program(Link::Static, &sealed, "twin-direct-sealed")),
        ("direct, static", program(Link::Static, &posix, "twin-direct-static")),
        ("direct, shared", program(Link::Shared, &posix, "twin-direct-shared")),
        ("pumped, static", program(Link::Static, &pumped, "twin-pumped-static")),
    ];
    let mut bad = String::new();
    for (name, said) in runs {
        if said != wanted {
            bad += &format!("{name}:\n{}", by_line(&wanted, &said));
        }
    }
    assert!(bad.is_empty(), "- libc, + eversock\n{bad}");
}

/// The lines that differ, each with its like.
fn by_line(wanted: &str, said: &str) -> String {
    if wanted.lines().count() != said.lines().count() {
        return eversock_ffi_tests::diff(wanted, said);
    }
    let pairs = wanted.lines().zip(said.lines()).filter(|(a, b)| a != b);
    pairs.map(|(a, b)| format!("-{a}\n+{b}\n")).collect()
}

#[test]
fn the_examples_build_and_talk_to_each_other() {
    let _turn = alone();
    if !have("cc") || !have("make") {
        return;
    }
    examples::run_all();
}

/// The programs under examples/c, built by their own Makefile.
mod examples {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use eversock_ffi_tests::{library, native_libraries, out_dir, root, run, wait};

    pub(super) fn run_all() {
        let out = out_dir().join("examples");
        std::fs::create_dir_all(&out).expect("a directory");
        let mut make = Command::new("make");
        make.args(["-s", "-B", "-C"]).arg(root().join("examples/c"));
        make.arg(format!("OUT={}", out.display()));
        let libraries = native_libraries().join(" ");
        make.arg(format!("EVERSOCK_LIBS={} {libraries}", library().archive.display()));
        make.arg("CFLAGS=-O1 -g -std=c11 -Wall -Wextra -Wpedantic -Werror");
        run(&mut make);
        for server in ["echo_server", "epoll_server"] {
            talk(&out, server);
        }
        let said = run(&mut Command::new(out.join("pool"))).out;
        assert_eq!(said.lines().filter(|line| line.contains("active")).count(), 8, "{said}");
        assert!(said.ends_with("8 connections, 1 session\n"), "{said}");
        let said = run(&mut Command::new(out.join("spool"))).out;
        assert!(said.contains("\n20 writes acknowledged, "), "{said}");
        assert!(said.ends_with("the new main server has 21 notes\n"), "{said}");
        let said = run(&mut Command::new(out.join("controller_device"))).out;
        assert!(said.contains("\nlamp is asked by south: on!\n"), "{said}");
        assert!(said.ends_with("\nsouth serves lamp, since north has gone\n"), "{said}");
    }

    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _reaped = self.0.wait();
        }
    }

    fn talk(dir: &Path, server: &str) {
        let mut command = Command::new(dir.join(server));
        command.arg("0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Server(command.spawn().expect("the server"));
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        let port = line.trim().rsplit(' ').next().expect("a port").to_owned();
        for _ in 0..2 {
            let mut client = Command::new(dir.join("echo_client"));
            let said = run(client.args(["127.0.0.1", &port, "hello over eversock"]));
            assert_eq!(said.out, "hello over eversock\n");
        }
        assert!(wait(&mut server.0, Duration::ZERO).is_none(), "the server has ended");
    }
}
