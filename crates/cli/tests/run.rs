//! `evs run` and `evs doctor` with programs of every kind that they must tell apart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "../../../tests/common/port.rs"]
mod port;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::{Done, Place, have};
use eversock_chaos::{Config, Fault, Proxy, Target};
use serde_json::Value;

const CONNECTS: &str = "#include <sys/socket.h>\n\
    int main(void) { return connect(-1, 0, 0) == 0; }\n";

/// The library, built with the target directory and profile of the running test, once: cargo links
/// no test with it and so would not build it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let exe = env::current_exe().unwrap();
        // <target>/<profile>/deps/<test>
        let profile = exe.parent().and_then(Path::parent).unwrap();
        let mut command = cargo();
        command.args(["build", "--quiet", "-p", "eversock-preload", "--lib"]);
        match profile.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => {}
            Some(name) => {
                command.args(["--profile", name]);
            }
        }
        command.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "the library cannot be built:\n{text}");
        profile.join("libeversock_preload.so")
    })
}

/// A cargo that is not told what cargo has told this test of its package: crates whose build
/// scripts ask for that (ring) would be built anew, and again by the next cargo that is not told.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|told| name.starts_with(told))) {
            command.env_remove(name);
        }
    }
    command
}

/// A folder for programs, and `evs` without an environment that could disturb.
struct Bench {
    place: Place,
}

impl Bench {
    fn new() -> Self {
        library();
        Self { place: Place::new() }
    }

    /// Compiles a C program.
    fn compiled(&self, name: &str, text: &str, flags: &[&str]) -> String {
        let source = self.place.file(&format!("{name}.c"));
        fs::write(&source, text).unwrap();
        let to = self.place.file(name);
        let output = Command::new("cc").arg("-o").arg(&to).arg(source).args(flags).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {said}");
        to.to_str().unwrap().to_owned()
    }

    fn script(&self, name: &str, text: &str) -> String {
        let path = self.place.file(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        for name in ["EVERSOCK_PRELOAD", "EVERSOCK_RULES", "EVERSOCK_CONFIG", "LD_PRELOAD"] {
            command.env_remove(name);
        }
        // No configuration of the user's.
        command.env("XDG_CONFIG_HOME", self.place.file("config")).stdin(Stdio::null());
        command
    }

    fn evs(&self, args: &[&str]) -> Done {
        Done::from(self.command(args).output().unwrap())
    }

    /// What the doctor says: the exit status and the report.
    fn doctor(&self, program: &str) -> (Option<i32>, Value) {
        let done = self.evs(&["doctor", "--json", program]);
        let value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{done:?}"));
        (done.code, value)
    }

    /// Both refuse the program, with the reason and the remedy.
    fn is_refused(&self, program: &str, reason: &str, remedy: &str) {
        let (code, told) = self.doctor(program);
        assert_eq!((code, &told["verdict"]), (Some(2), &"cannot work".into()), "{told}");
        let findings = told["report"]["findings"].to_string();
        assert!(findings.contains(reason) && findings.contains(remedy), "{findings}");
        let done = self.evs(&["run", "--connect", "192.0.2.1", "--", program]);
        assert_eq!(done.code, Some(125), "{done:?}");
        assert!(done.stderr.contains(reason) && done.stderr.contains(remedy), "{done:?}");
    }
}

#[test]
fn a_program_linked_to_glibc_works_and_its_calls_are_named() {
    let bench = Bench::new();
    let program = bench.compiled("dynamic", CONNECTS, &[]);
    let (code, told) = bench.doctor(&program);
    assert_eq!((code, &told["verdict"]), (Some(0), &"works".into()), "{told}");
    assert_eq!(told["report"]["calls"], serde_json::json!(["connect"]));
    assert_eq!(told["report"]["preload"], library().to_str().unwrap());
    let done = bench.evs(&["doctor", &program]);
    assert_eq!(done.code, Some(0));
    assert!(done.stdout.contains(&format!("{program}: works\n")), "{done:?}");
    // The program's own status is what run ends with.
    let done = bench.evs(&["run", "--connect", "192.0.2.1", "--", &program]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
}

#[test]
fn programs_that_no_preload_reaches_are_refused_with_the_reason_and_the_remedy() {
    let bench = Bench::new();
    let fixed = bench.compiled("static", CONNECTS, &["-static"]);
    bench.is_refused(&fixed, "statically linked", "evs gateway");
    let pie = bench.compiled("static-pie", CONNECTS, &["-static-pie"]);
    bench.is_refused(&pie, "statically linked", "evs gateway");
    let go = format!("{CONNECTS}char info[] __attribute__((section(\".go.buildinfo\"))) = \"x\";");
    let go = bench.compiled("go", &go, &[]);
    bench.is_refused(&go, "written in Go", "evs gateway");
    let musl = ["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"];
    let musl = bench.compiled("musl", CONNECTS, &musl);
    bench.is_refused(&musl, "linked to musl", "evs gateway");
    let odd = bench.compiled("odd", CONNECTS, &["-Wl,--dynamic-linker=/lib/ld-odd.so"]);
    bench.is_refused(&odd, "is not glibc's", "evs gateway");
}

#[test]
fn a_program_for_another_machine_is_refused() {
    let bench = Bench::new();
    let program = bench.compiled("other", CONNECTS, &[]);
    let mut bytes = fs::read(&program).unwrap();
    // e_machine: s390, which nobody builds eversock for.
    bytes[18..20].copy_from_slice(&22u16.to_le_bytes());
    fs::write(&program, bytes).unwrap();
    bench.is_refused(&program, "made for", "evs gateway");
}

#[test]
fn programs_with_privileges_are_refused() {
    let bench = Bench::new();
    if !rustix::process::geteuid().is_root() {
        assert!(env::var("CI").as_deref() != Ok("true"), "not root, and this is CI");
        eprintln!("SKIPPED: only root can make a program of another user");
        return;
    }
    let program = bench.compiled("setuid", CONNECTS, &[]);
    chown(&program, Some(65_534), None).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    bench.is_refused(&program, "setuid to user 65534", "evs gateway");
    chown(&program, Some(0), Some(65_534)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o2755)).unwrap();
    bench.is_refused(&program, "setgid to group 65534", "evs gateway");
    // One's own setuid programs get no more than one has.
    chown(&program, Some(0), Some(0)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(bench.doctor(&program).0, Some(0));
}

#[test]
fn scripts_are_followed_to_what_runs_them() {
    let bench = Bench::new();
    let program = bench.compiled("interpreter", CONNECTS, &[]);
    let inner = bench.script("inner", &format!("#!{program} -x\n"));
    let outer = bench.script("outer", &format!("#!{inner}\n"));
    let (code, told) = bench.doctor(&outer);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told["report"]["files"], serde_json::json!([outer, inner, program]));

    let fixed = bench.compiled("fixed", CONNECTS, &["-static"]);
    let by_env = bench.script("by-env", &format!("#!/usr/bin/env -S A=1 {fixed}\n"));
    bench.is_refused(&by_env, "statically linked", "evs gateway");
    let endless = bench.place.file("endless").to_str().unwrap().to_owned();
    bench.script("endless", &format!("#!{endless}\n"));
    bench.is_refused(&endless, "too many", "name the last one");
    let text = bench.script("text", "echo hello\n");
    bench.is_refused(&text, "neither an ELF program nor a script", "name the program");
    let broken = bench.script("broken", "\x7fELF and no more");
    bench.is_refused(&broken, "broken ELF file", "cannot be started");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let bench = Bench::new();
    let pipe = bench.place.file("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    bench.is_refused(pipe.to_str().unwrap(), "not a file", "readable");
    let done = bench.evs(&["doctor", "no-such-program-anywhere"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("there is no such program"), "{done:?}");
}

#[test]
fn a_program_that_may_use_io_uring_or_seccomp_works_with_limits() {
    let bench = Bench::new();
    for (name, call, hint) in
        [("ring", "io_uring_queue_init", "io_uring"), ("filter", "seccomp_load", "seccomp filter")]
    {
        let library = bench.compiled(
            &format!("lib{name}.so"),
            &format!("int {call}(void) {{ return 0; }}\n"),
            &["-shared", "-fPIC"],
        );
        let text = format!("int {call}(void); int main(void) {{ return {call}(); }}\n");
        let program = bench.compiled(name, &text, &[&library]);
        let (code, told) = bench.doctor(&program);
        assert_eq!(code, Some(1), "{told}");
        assert!(told["report"]["findings"].to_string().contains(hint), "{told}");
        // That is no reason to refuse it.
        let done = bench.evs(&["run", "--connect", "192.0.2.1", "--", &program]);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

#[test]
fn a_missing_library_is_an_obstacle_that_names_its_remedy() {
    let bench = Bench::new();
    let program = bench.compiled("dynamic", CONNECTS, &[]);
    let mut command = bench.command(&["run", "--connect", "192.0.2.1", "--", &program]);
    let done = Done::from(command.env("EVERSOCK_PRELOAD", "/nonexistent.so").output().unwrap());
    assert_eq!(done.code, Some(125), "{done:?}");
    assert!(done.stderr.contains("EVERSOCK_PRELOAD must name"), "{done:?}");
}

#[test]
fn the_program_gets_the_rules_the_library_and_what_was_preloaded_before() {
    let bench = Bench::new();
    let key = bench.place.file("key");
    fs::write(&key, "ab".repeat(32)).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = bench.command(&[
        "run",
        "--connect",
        "localhost:5432",
        "--listen",
        "6000-6010",
        "--key",
        "key",
        "--policy",
        "ask",
        "--grace",
        "90s",
        "--redial-limit",
        "7",
        "--on-fault",
        "echo 'fault'",
        "--line-up",
        "true",
        "--sessions-max",
        "1000",
        "--memory-max",
        "1.5GB",
        "--handshakes-per-source",
        "0",
        "--",
        "env",
        "-u",
        "HOME",
    ]);
    let before = "libc.so.6";
    command.current_dir(bench.place.file("")).env("LD_PRELOAD", before).env("EVERSOCK_OFF", "1");
    let done = Done::from(command.output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let preload = format!("LD_PRELOAD={before}:{}\n", library().display());
    assert!(done.stdout.contains(&preload), "{done:?}");
    assert!(!done.stdout.contains("EVERSOCK_OFF"), "{done:?}");
    let (_, rules) = done.stdout.split_once("EVERSOCK_RULES=").unwrap();
    for part in [
        "host = \"localhost\"",
        "127.0.0.1",
        "port = \"5432\"",
        "port = \"6000-6010\"",
        "mode = \"require\"",
        &format!("key = \"{}\"", key.display()),
        "policy = \"ask\"",
        "grace = \"90000ms\"",
        "redial-limit = 7",
        "echo 'fault'",
        "line-up = \"true\"",
    ] {
        assert!(rules.contains(part), "{part}: {rules}");
    }
    let (connect, listen) = rules.split_once("[[listen]]").unwrap();
    for part in
        ["sessions-max = 1000\n", "memory-max = \"1500000000B\"", "handshakes-per-source = 0\n"]
    {
        assert!(listen.contains(part) && !connect.contains(part), "{part}: {rules}");
    }
}

#[test]
fn rules_that_make_no_sense_are_refused_before_anything_runs() {
    let bench = Bench::new();
    let cases: [(&[&str], i32, &str); 17] = [
        (&["--connect", "::1", "--sessions-max", "1"], 125, "belong to a --listen"),
        (&["--memory-max", "1MiB"], 125, "belong to a --connect or --listen"),
        (&["--listen", "7", "--memory-max", "much"], 2, "a size is like 256MiB"),
        (&["--listen", "7", "--sessions-max", "4294967296"], 2, "4294967296"),
        (&["--listen", "7", "--handshakes-per-source", "few"], 2, "invalid digit"),
        (&["--connect", "192.0.2.1", "--sealed", "--mode", "auto"], 125, "`sealed` needs mode"),
        (&["--sealed"], 125, "belong to a --connect or --listen"),
        (&["--connect", "::1", "--accept-new"], 125, "`accept-new` needs `known-peers`"),
        (&["--listen", "7", "--allowed-clients", "/k"], 125, "`allowed-clients` needs"),
        (&[], 125, "give --connect or --listen"),
        (&["--grace", "90s"], 125, "belong to a --connect or --listen"),
        (&["--connect", "192.0.2.1", "--key", "/nonexistent"], 125, "the key cannot be read"),
        (&["--connect", "::1", "--key", "/dev/zero", "--mode", "auto"], 125, "a key needs"),
        (&["--connect", "10.0.0.0/40"], 2, "0 to 32"),
        (&["--connect", "db:0"], 2, "a port from 1 to 65535"),
        (&["--listen", "db"], 2, "a port from 1 to 65535"),
        (&["--connect", "::1", "--mode", "perhaps"], 2, "require, auto or off"),
    ];
    for (args, code, expected) in cases {
        let done = bench.evs(&[&["run"], args, &["--", "echo", "it ran"]].concat());
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        assert!(done.stderr.contains(expected), "{args:?}: {done:?}");
        assert_eq!(done.stdout, "", "{args:?}");
    }
}

#[test]
fn without_options_the_rules_of_the_configuration_count() {
    let bench = Bench::new();
    let file = bench.place.file("rules.toml");
    fs::write(&file, "[[connect]]\nhost = \"192.0.2.7\"\n").unwrap();
    let mut command = bench.command(&["run", "--", "env"]);
    let done = Done::from(command.env("EVERSOCK_CONFIG", &file).output().unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("host = \"192.0.2.7\""), "{done:?}");
    fs::write(&file, "[[connect]]\nport = 0\n").unwrap();
    let done = Done::from(command.env("EVERSOCK_CONFIG", &file).output().unwrap());
    assert_eq!(done.code, Some(125), "{done:?}");
    assert!(done.stderr.contains("rules.toml:2: "), "{done:?}");
    fs::write(&file, "[[listen]]\nport = 7\nmemory-max = \"much\"\n").unwrap();
    let done = Done::from(command.env("EVERSOCK_CONFIG", &file).output().unwrap());
    assert_eq!(done.code, Some(125), "{done:?}");
    assert!(done.stderr.contains("rules.toml:3: `much` is no size; expected bytes"), "{done:?}");
}

/// Echoes one connection at a time until its standard input ends; says where.
const SERVER: &str = "
import socket, sys, threading
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('ready', flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), __import__('os')._exit(0)), daemon=True).start()
while True:
    c, _ = s.accept()
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
";

/// Sends each line of its standard input and writes what comes back.
const CLIENT: &str = "
import socket, sys
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
print('ready', flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    got = b''
    while len(got) < len(line):
        part = s.recv(65536)
        if not part:
            sys.exit('the connection has ended')
        got += part
    print(got.decode(), end='', flush=True)
";

#[test]
fn an_unchanged_program_under_run_keeps_its_connection_over_a_cut() {
    if have("python3") {
        survives_a_cut(&Bench::new(), &["--mode", "require"], &["--mode", "require"]);
    }
}

#[test]
fn an_unchanged_program_is_sealed_by_run_and_knows_its_server_from_the_first_time_on() {
    if !have("python3") {
        return;
    }
    let bench = Bench::new();
    let key = |name: &str, byte: u8| {
        let path = bench.place.file(name);
        eversock_engine::keys::write_key(&path, &[byte; 32]).unwrap();
        path.display().to_string()
    };
    let (one, other) = (key("one", 1), key("other", 2));
    let known = bench.place.file("known").display().to_string();
    let strict = ["--sealed", "--known-peers", &known];
    let trusting = [&strict[..], &["--accept-new"]].concat();
    let port = survives_a_cut(&bench, &["--sealed", "--identity", &one], &trusting);
    let listed = fs::read_to_string(&known).unwrap();
    assert!(listed.starts_with("127.0.0.1:"), "{listed}");
    assert_eq!(listed.lines().count(), 1);

    // Who has another key, at the place that is known, is not talked to any more.
    let place = port.to_string();
    let server = start_server(&bench, &["--sealed", "--identity", &other], &place);
    for client in [&strict[..], &trusting[..]] {
        fs::write(&known, listed.replace(&first_place(&listed), &format!("127.0.0.1:{place}")))
            .unwrap();
        let done = connect_under(&bench, client, &place);
        assert_ne!(done.code, Some(0));
        assert!(done.stderr.contains("PermissionError"), "{done:?}");
        // The program's error says no more; the library names the line and the remedy.
        let named = format!("has not proven to have the static key in {known}:1: ");
        assert!(done.stderr.contains(&named), "{done:?}");
        assert!(done.stderr.contains(&format!("remove line 1 of {known}")), "{done:?}");
    }
    // Nor who is not known, without --accept-new; the line to add is told.
    fs::remove_file(&known).unwrap();
    let done = connect_under(&bench, &strict, &place);
    let line = format!("127.0.0.1:{place} ");
    assert!(done.stderr.contains(&line) && done.stderr.contains("not known"), "{done:?}");
    assert!(!Path::new(&known).exists());
    drop(server);
}

fn first_place(listed: &str) -> String {
    listed.split(' ').next().unwrap().to_owned()
}

fn connect_under(bench: &Bench, options: &[&str], port: &str) -> Done {
    let peer = format!("127.0.0.1:{port}");
    let place = ["--connect", &peer, "--", "python3", "-c", CLIENT, port];
    let mut command = bench.command(&[&["run"], options, &place].concat());
    Done::from(command.stdin(Stdio::null()).output().unwrap())
}

fn start_server(bench: &Bench, options: &[&str], port: &str) -> common::Running {
    let place = ["--listen", port, "--", "python3", "-c", SERVER, port];
    let mut command = bench.command(&[&["run"], options, &place].concat());
    command.stdin(Stdio::piped());
    let server = bench.place.start_command(command);
    assert_eq!(server.line(), "ready");
    server
}

/// A conversation between two programs through a proxy that cuts it; gives the server's port.
fn survives_a_cut(bench: &Bench, at_server: &[&str], at_client: &[&str]) -> u16 {
    let port = port::free_port();
    let _server = start_server(bench, at_server, &port.to_string());
    let config = Config::new("127.0.0.1:0".parse().unwrap(), ([127, 0, 0, 1], port).into());
    let proxy = Proxy::spawn(config).unwrap();
    let to = proxy.local_addr().port().to_string();
    let peer = format!("127.0.0.1:{to}");
    let place = ["--connect", &peer, "--", "python3", "-c", CLIENT, &to];
    let client = [&["run"], at_client, &place].concat();
    let mut client = bench.place.start_command(bench.command(&client));
    assert_eq!(client.line(), "ready");
    client.say("before the cut");
    assert_eq!(client.line(), "before the cut");
    assert_eq!(bench.place.sessions().len(), 2, "both ends are virtual");
    assert_eq!(proxy.inject(Fault::Reset, Target::All).unwrap(), 1);
    client.say("after the cut");
    assert_eq!(client.line(), "after the cut");
    client.close_input();
    assert_eq!(client.wait().0, Some(0));
    port
}

#[test]
fn a_program_under_run_refuses_sessions_beyond_its_limit_until_one_has_ended() {
    if !have("python3") {
        return;
    }
    let bench = Bench::new();
    let port = port::free_port();
    let port = port.to_string();
    let _server = start_server(&bench, &["--mode", "require", "--sessions-max", "1"], &port);
    let options = ["--mode", "require"];
    let peer = format!("127.0.0.1:{port}");
    let place = ["--connect", &peer, "--", "python3", "-c", CLIENT, &port];
    let first = bench.command(&[&["run"], &options[..], &place].concat());
    let mut first = bench.place.start_command(first);
    assert_eq!(first.line(), "ready");
    let second = connect_under(&bench, &options, &port);
    assert_ne!(second.code, Some(0));
    assert!(second.stderr.contains("ConnectionRefusedError"), "{second:?}");
    first.say("still here");
    assert_eq!(first.line(), "still here");
    first.close_input();
    assert_eq!(first.wait().0, Some(0));
    common::wait_for("there is room again", || {
        (connect_under(&bench, &options, &port).code == Some(0)).then_some(())
    });
}

#[test]
fn the_same_program_without_run_loses_its_connection_at_the_cut() {
    if !have("python3") {
        return;
    }
    let bench = Bench::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::new("127.0.0.1:0".parse().unwrap(), server.local_addr().unwrap());
    let proxy = Proxy::spawn(config).unwrap();
    let to = proxy.local_addr().port().to_string();
    let mut client = Command::new("python3");
    client.args(["-c", CLIENT, &to]).stderr(Stdio::null());
    let mut client = bench.place.start_command(client);
    let (mut served, _) = server.accept().unwrap();
    assert_eq!(client.line(), "ready");
    client.say("before the cut");
    let mut heard = [0; 15];
    served.read_exact(&mut heard).unwrap();
    served.write_all(&heard).unwrap();
    assert_eq!(client.line(), "before the cut");
    assert_eq!(proxy.inject(Fault::Reset, Target::All).unwrap(), 1);
    client.say("after the cut");
    assert_eq!(client.wait().0, Some(1));
}
