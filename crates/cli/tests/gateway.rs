//! `evs gateway`: plain programs over sessions, through real processes and a bad network.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "gateway/sealed.rs"]
mod sealed;
#[path = "gateway/shared.rs"]
mod shared;

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::RwLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{PATIENCE, Place, Running, have, wait_for};
use eversock_chaos::{Config, Direction, Fault, Plan, Proxy, Target};
use rustix::process::{Pid, Signal, kill_process};

const ANY: &str = "127.0.0.1:0";
const MIB: usize = 1024 * 1024;

/// One gateway.
struct Gate {
    running: Running,
    addr: SocketAddr,
    stderr: std::path::PathBuf,
}

impl Gate {
    fn new(place: &Place, name: &str, args: &[&str]) -> Self {
        let stderr = place.file(&format!("{name}.stderr"));
        let mut command = place.command(&[&["gateway", "--json"], args].concat());
        command.stderr(File::create(&stderr).unwrap());
        let running = place.start_command(command);
        let addr = running.addr();
        Self { running, addr, stderr }
    }

    fn said(&self, what: &str) -> bool {
        fs::read_to_string(&self.stderr).unwrap().contains(what)
    }

    fn wait_for(&self, what: &str) {
        wait_for(&format!("{what:?} on standard error"), || self.said(what).then_some(()));
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(self.running.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// A figure of the kernel's about its memory, in bytes.
    fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.child.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }
}

/// Clients -> plain gateway -> fault proxy -> session gateway -> a server of the test's own.
struct Chain {
    place: Place,
    near: Gate,
    proxy: Proxy,
    far: Gate,
    server: TcpListener,
}

impl Chain {
    fn new() -> Self {
        Self::with(Plan::none(), &[], &[])
    }

    fn with(plan: Plan, near: &[&str], far: &[&str]) -> Self {
        let place = Place::new();
        let server = TcpListener::bind(ANY).unwrap();
        let to = server.local_addr().unwrap().to_string();
        let args = [&["--resilient-listen", ANY, "--plain-to", &to], far].concat();
        let far = Gate::new(&place, "far", &args);
        let config = Config::new(ANY.parse().unwrap(), far.addr).with_plan(plan);
        let proxy = Proxy::spawn(config).unwrap();
        let to = proxy.local_addr().to_string();
        let args = [&["--plain", ANY, "--resilient", &to], near].concat();
        let near = Gate::new(&place, "near", &args);
        Self { place, near, proxy, far, server }
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.near.addr).unwrap())
    }

    /// Both ends of a connection that a client asks for; none when it is reset instead.
    fn is_served(&self) -> Option<(TcpStream, TcpStream)> {
        let client = self.connect();
        client.set_nonblocking(true).unwrap();
        self.server.set_nonblocking(true).unwrap();
        let served = wait_for("the client is served or reset", || {
            let served = self.server.accept().ok();
            let is_over = !matches!((&client).read(&mut [0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock);
            (served.is_some() || is_over).then_some(served)
        });
        self.server.set_nonblocking(false).unwrap();
        Some((client, served?.0))
    }

    /// A client's end and the server's end of one connection.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let mut client = self.connect();
        let mut server = patient(self.server.accept().unwrap().0);
        // Once each way: both halves stand.
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        (client, server)
    }

    fn cut(&self) -> usize {
        self.proxy.inject(Fault::Reset, Target::All).unwrap()
    }
}

/// A stream on which nothing waits for ever.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reproducible bytes that differ at every offset.
fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Sends all of `out` and the end, and gives what came until the other side's end.
fn exchange(stream: &TcpStream, out: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut all = Vec::new();
            (&*stream).read_to_end(&mut all).map(|_| all)
        });
        (&*stream).write_all(out).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap().unwrap()
    })
}

/// The error that a read gives, once what was sent before it has been read.
fn read_error(mut stream: &TcpStream) -> io::Result<()> {
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_reset(stream: &TcpStream) -> bool {
    read_error(stream).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_come_through_two_gateways_whole_while_the_connection_between_them_is_cut() {
    const SIZE: usize = 24 * MIB;
    const CUTS: usize = 20;
    let chain = Chain::with(Plan::seeded(7, CUTS, 2 * SIZE as u64), &[], &[]);
    let client = chain.connect();
    let server = patient(chain.server.accept().unwrap().0);
    let (up, down) = (data(1, SIZE), data(2, SIZE));
    thread::scope(|scope| {
        let served = scope.spawn(|| exchange(&server, &down));
        assert!(exchange(&client, &up) == down, "what the server sent differs");
        assert!(served.join().unwrap() == up, "what the client sent differs");
    });
    let dials = chain.proxy.stats().summary.accepted;
    assert!(dials > 5, "the cuts hit nothing: {dials} connections");
}

#[test]
fn five_hundred_connections_at_once_each_get_their_own_bytes_although_all_are_cut() {
    const CLIENTS: usize = 500;
    const SIZE: usize = 20_000;
    let chain = Chain::new();
    let (near, server) = (chain.near.addr, &chain.server);
    let (stands, standing) = channel();
    // Held until all stand and have been cut.
    let gate = RwLock::new(());
    let shut = gate.write().unwrap();
    let small = || thread::Builder::new().stack_size(128 * 1024);
    thread::scope(|scope| {
        let gate = &gate;
        let accept = move || {
            for _ in 0..CLIENTS {
                let mut stream = patient(server.accept().unwrap().0);
                let echo = move || {
                    let mut reader = stream.try_clone().unwrap();
                    io::copy(&mut reader, &mut stream).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                };
                small().spawn_scoped(scope, echo).unwrap();
            }
        };
        small().spawn_scoped(scope, accept).unwrap();
        for number in 0..CLIENTS {
            let stands = stands.clone();
            let client = move || {
                let sent = data(number as u64, SIZE);
                let (first, rest) = sent.split_at(1000);
                let mut stream = patient(TcpStream::connect(near).unwrap());
                stream.write_all(first).unwrap();
                let mut back = vec![0; first.len()];
                stream.read_exact(&mut back).unwrap();
                assert!(back == first, "client {number}");
                stands.send(()).unwrap();
                drop(gate.read().unwrap());
                let back = exchange(&stream, rest);
                assert!(back == rest, "client {number}");
            };
            small().spawn_scoped(scope, client).unwrap();
        }
        for _ in 0..CLIENTS {
            standing.recv_timeout(PATIENCE).expect("all clients are served");
        }
        assert_eq!(chain.cut(), CLIENTS, "not all were there at once");
        drop(shut);
    });
    assert!(chain.proxy.stats().summary.accepted >= 2 * CLIENTS as u64, "the cut hit nothing");
}

#[test]
fn each_direction_ends_by_itself_whichever_side_ends_first() {
    let chain = Chain::new();
    for client_first in [true, false] {
        let (client, server) = chain.pair();
        let (mut first, mut second) =
            if client_first { (&client, &server) } else { (&server, &client) };
        first.write_all(b"request").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        second.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "request");
        // The other direction goes on, also over another connection.
        assert_eq!(chain.cut(), 1);
        let response = data(3, MIB);
        let wrote = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut all = Vec::new();
                first.read_to_end(&mut all).unwrap();
                all
            });
            second.write_all(&response).unwrap();
            second.shutdown(Shutdown::Write).unwrap();
            reader.join().unwrap()
        });
        assert!(wrote == response, "client first: {client_first}");
        drop((client, server));
        wait_for("the sessions end", || chain.place.sessions().is_empty().then_some(()));
    }
}

#[test]
fn a_reset_on_either_side_is_a_reset_on_the_other() {
    let chain = Chain::new();
    for client_resets in [true, false] {
        let (client, server) = chain.pair();
        let (resets, hears) = if client_resets { (client, server) } else { (server, client) };
        let resets = socket2::Socket::from(resets);
        resets.set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        assert!(is_reset(&hears), "client resets: {client_resets}");
        wait_for("the sessions end", || chain.place.sessions().is_empty().then_some(()));
    }
}

#[test]
fn what_was_sent_before_a_reset_still_arrives_before_it() {
    let chain = Chain::new();
    let (client, mut server) = chain.pair();
    server.write_all(b"refused: too many").unwrap();
    let mut heard = [0; 17];
    (&client).read_exact(&mut heard).unwrap();
    let server = socket2::Socket::from(server);
    server.set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert!(is_reset(&client));
    assert_eq!(&heard, b"refused: too many");
}

#[test]
fn a_reader_that_pauses_holds_its_sender_back_and_nobody_else() {
    const SIZE: usize = 96 * MIB;
    // Two windows of 8 MiB, what four kernel buffers take, and some; far below SIZE.
    const HELD_MAX: usize = 48 * MIB;
    let chain = Chain::new();
    let (client, server) = chain.pair();
    let sent = data(4, SIZE);
    client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut taken = 0;
    // A write that times out is the sign that the sender is held back.
    let stuck = loop {
        match (&client).write(&sent[taken..]) {
            Ok(n) => taken += n,
            Err(error) => break error,
        }
        assert!(taken < HELD_MAX, "{taken} bytes were taken, and nobody reads");
    };
    assert_eq!(stuck.kind(), ErrorKind::WouldBlock);
    for gate in [&chain.near, &chain.far] {
        assert!(gate.resident() < HELD_MAX, "{} bytes resident", gate.resident());
    }
    // Another connection is not held back, and the one that is survives a cut.
    drop(chain.pair());
    assert!(chain.cut() >= 1);
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut all = Vec::new();
            (&server).read_to_end(&mut all).map(|_| all)
        });
        (&client).write_all(&sent[taken..]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap().unwrap() == sent, "what arrived differs");
    });
}

#[test]
fn a_connection_that_was_idle_while_its_path_died_goes_on() {
    let chain = Chain::new();
    let (mut client, mut server) = chain.pair();
    for _ in 0..3 {
        let resumes = || -> u64 {
            let sessions = chain.place.sessions();
            sessions.iter().map(|entry| entry["resumes"].as_u64().unwrap()).sum()
        };
        let before = resumes();
        assert_eq!(chain.cut(), 1);
        wait_for("both ends resume by themselves", || (resumes() >= before + 2).then_some(()));
        client.write_all(b"select 1;").unwrap();
        let mut heard = [0; 9];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"select 1;");
    }
}

#[test]
fn the_sessions_of_gateways_are_listed() {
    let chain = Chain::new();
    let _pair = chain.pair();
    let sessions = chain.place.sessions();
    let of = |gate: &Gate| {
        let pid = gate.running.child.id();
        let found = sessions.iter().find(|entry| entry["pid"] == pid);
        found.expect("the gateway has a session")["role"].as_str().unwrap().to_owned()
    };
    assert_eq!((of(&chain.near), of(&chain.far)), ("client".to_owned(), "server".to_owned()));
}

#[test]
fn a_client_whose_server_refuses_is_reset_at_once_and_the_reason_is_said() {
    let chain = Chain::new();
    let refused = chain.server.local_addr().unwrap();
    let (near, place) = (chain.near, chain.place);
    drop(chain.server);
    let client = patient(TcpStream::connect(near.addr).unwrap());
    assert!(is_reset(&client));
    chain.far.wait_for(&format!("cannot connect to {refused}: Connection refused"));
    drop(place);
}

#[test]
fn a_client_whose_gateway_finds_no_eversock_is_reset_and_told_the_remedy() {
    let place = Place::new();
    let plain = TcpListener::bind(ANY).unwrap();
    let to = plain.local_addr().unwrap().to_string();
    let gate = Gate::new(&place, "near", &["--plain", ANY, "--resilient", &to]);
    let client = patient(TcpStream::connect(gate.addr).unwrap());
    let (mut stranger, _) = plain.accept().unwrap();
    stranger.write_all(b"220 mail.example ESMTP ready, and more than any hello has\r\n").unwrap();
    assert!(is_reset(&client));
    gate.wait_for("does not speak eversock");
    gate.wait_for("evs gateway --resilient-listen");
}

#[test]
fn a_stranger_at_the_session_side_is_refused_with_a_message_and_others_are_served() {
    let chain = Chain::new();
    let mut stranger = patient(TcpStream::connect(chain.far.addr).unwrap());
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: gateway.example\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _reset_or_end = stranger.read_to_end(&mut heard);
    assert_eq!(heard, b"");
    chain.far.wait_for("the peer does not speak eversock");
    drop(chain.pair());
}

#[test]
fn gateways_with_different_keys_do_not_meet() {
    let place = Place::new();
    let key = |name: &str, digit: &str| {
        let path = place.file(name);
        fs::write(&path, digit.repeat(64)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, other) = (key("one", "1"), key("other", "2"));
    let server = TcpListener::bind(ANY).unwrap();
    let to = server.local_addr().unwrap().to_string();
    let listen = ["--resilient-listen", ANY, "--plain-to", &to, "--key", &one];
    let far = Gate::new(&place, "far", &listen);
    let to = far.addr.to_string();
    let stranger = ["--plain", ANY, "--resilient", &to, "--key", &other];
    let stranger = Gate::new(&place, "stranger", &stranger);
    assert!(is_reset(&patient(TcpStream::connect(stranger.addr).unwrap())));
    stranger.wait_for("the peer refused: keys differ; both ends need the same --key");

    let friend = Gate::new(&place, "friend", &["--plain", ANY, "--resilient", &to, "--key", &one]);
    let mut client = patient(TcpStream::connect(friend.addr).unwrap());
    client.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    patient(server.accept().unwrap().0).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn sigterm_ends_the_accepting_and_lets_connections_finish() {
    let chain = Chain::new();
    let (client, server) = chain.pair();
    for gate in [&chain.near, &chain.far] {
        gate.terminate();
        gate.running.json("draining");
    }
    let refused = TcpStream::connect(chain.near.addr).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // What was under way goes on, over a new connection too.
    assert_eq!(chain.cut(), 1);
    let (up, down) = (data(5, MIB), data(6, MIB));
    thread::scope(|scope| {
        let served = scope.spawn(|| exchange(&server, &down));
        assert!(exchange(&client, &up) == down, "what the server sent differs");
        assert!(served.join().unwrap() == up, "what the client sent differs");
    });
    for mut gate in [chain.near, chain.far] {
        let (code, lines) = gate.running.wait();
        assert_eq!(code, Some(0), "{lines:?}");
        let ended: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!((&ended["kind"], &ended["totals"]["cut_off"]), (&"ended".into(), &0.into()));
    }
}

#[test]
fn a_connection_that_outlasts_the_drain_is_reset() {
    let mut chain = Chain::with(Plan::none(), &["--drain", "200ms"], &[]);
    let (client, server) = chain.pair();
    chain.near.terminate();
    assert!(is_reset(&client));
    assert!(is_reset(&server));
    let (code, lines) = chain.near.running.wait();
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(chain.near.said("1 of them cut off"));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut chain = Chain::with(Plan::none(), &["--drain", "1h"], &[]);
    let (client, server) = chain.pair();
    chain.near.terminate();
    chain.near.running.json("draining");
    chain.near.terminate();
    assert!(is_reset(&client) && is_reset(&server));
    assert_eq!(chain.near.running.wait().0, Some(1));
}

#[test]
fn a_third_signal_does_not_even_wait_for_what_a_dead_path_holds_up() {
    let mut chain = Chain::new();
    let (client, server) = chain.pair();
    // The server's direction ends, then the path dies, then the client's ends: nobody confirms.
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    let dead = Fault::Blackhole { direction: Direction::Both, lasting: None, then_reset: false };
    chain.proxy.inject(dead, Target::All).unwrap();
    (&client).write_all(b"lost, unless the path comes back").unwrap();
    drop(client);
    let pid = chain.near.running.child.id();
    wait_for("the session lingers", || {
        let sessions = chain.place.sessions();
        sessions.iter().any(|s| s["pid"] == pid && s["state"] == "lingering").then_some(())
    });
    chain.near.terminate();
    chain.near.running.json("draining");
    let gone = || {
        chain.near.terminate();
        chain.near.running.child.try_wait().unwrap()
    };
    let status = wait_for("the gateway ends", gone);
    assert_eq!(status.code(), Some(1));
    // It did not come to its last line, which waits for what is held up.
    let (_, lines) = chain.near.running.wait();
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn a_client_beyond_the_most_connections_waits_for_its_turn() {
    let chain = Chain::with(Plan::none(), &["--max-connections", "1"], &[]);
    let (first, first_served) = chain.pair();
    let mut second = chain.connect();
    second.write_all(b"me too").unwrap();
    chain.near.wait_for("as many as --max-connections allows");
    chain.server.set_nonblocking(true).unwrap();
    assert_eq!(chain.server.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    chain.server.set_nonblocking(false).unwrap();
    drop((first, first_served));
    let mut heard = [0; 6];
    patient(chain.server.accept().unwrap().0).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"me too");
}

/// A server from the distribution; it is ended with the value.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn redis_and_its_clients_lose_no_command_through_two_gateways_and_cuts() {
    if !have("redis-server") || !have("redis-benchmark") || !have("redis-cli") {
        return;
    }
    let place = Place::new();
    // It listens on a path as well as on a port, so that nobody needs to guess when it is ready.
    let path = place.file("redis.socket");
    let free = TcpListener::bind(ANY).unwrap().local_addr().unwrap().port().to_string();
    let mut redis = Command::new("redis-server");
    redis.args(["--save", "", "--bind", "127.0.0.1", "--port", &free, "--unixsocket"]).arg(&path);
    redis.current_dir(place.file("")).stdout(Stdio::null()).stdin(Stdio::null());
    let _server = Server(redis.spawn().unwrap());
    wait_for("redis listens", || path.exists().then_some(()));

    let to = format!("127.0.0.1:{free}");
    let far = Gate::new(&place, "far", &["--resilient-listen", ANY, "--plain-to", &to]);
    let plan = Plan::parse("every 256KiB reset").unwrap();
    let config = Config::new(ANY.parse().unwrap(), far.addr).with_plan(plan);
    let proxy = Proxy::spawn(config).unwrap();
    let to = proxy.local_addr().to_string();
    let near = Gate::new(&place, "near", &["--plain", ANY, "--resilient", &to]);
    let port = near.addr.port().to_string();
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", program, "-p", &port]).args(args).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // It waits for every reply: one that is lost would stop it for ever.
    run("redis-benchmark", &["-n", "100000", "-c", "50", "-P", "16", "-t", "incr", "-q"]);
    let counter = run("redis-cli", &["get", "counter:__rand_int__"]);
    assert_eq!(counter.trim(), "100000", "a command was lost, or came twice");
    let cuts = proxy.stats().summary.cuts;
    assert!(cuts >= 10, "only {cuts} cuts");
}

#[test]
fn wrong_arguments_are_refused_with_what_was_expected() {
    let place = Place::new();
    let cases: [(&[&str], &str); 6] = [
        (&[], "--plain"),
        (&["--plain", ANY], "--resilient"),
        (&["--plain", ANY, "--resilient", "nowhere"], "expected HOST:PORT"),
        (&["--plain", "nowhere", "--resilient", "127.0.0.1:1"], "an address is like"),
        (&["--plain", ANY, "--resilient-listen", ANY], "cannot be used with"),
        (&["--plain", ANY, "--resilient", "127.0.0.1:1", "--key", "/dev/zero"], "chmod 600"),
    ];
    for (args, expected) in cases {
        let done = place.run(&[&["gateway"], args].concat());
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(done.stderr.contains(expected), "{args:?}: {done:?}");
    }
}
