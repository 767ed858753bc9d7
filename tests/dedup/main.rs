//! Session dedup between two hosts with two lines and four addresses, in network namespaces of the
//! tests' own: the seven embodiments of EP 2107762 as far as the parts of docs/DEDUP.md name them,
//! and what may happen to addresses, servers and lines.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

#[path = "../common/mod.rs"]
mod common;
mod net;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::child::{Helper, hear, role, say};
use common::{MIB, begin, data, quick, wait_until};
use eversock::{Config, StaticKey};
use eversock_chaos::Fault as Cut;
use eversock_dedup::state::Why;
use eversock_dedup::{Pool, PoolConfig, SharedConfig, SharedListener};
use net::{SERVER, Server, blackhole, connections, on_two_hosts, where_to};

const PATIENCE: Duration = Duration::from_secs(60);

/// What runs on one of the hosts.
#[test]
fn helper_process() {
    let Some((role, argument)) = role() else { return };
    begin();
    match role.as_str() {
        "server" => serve(&argument),
        "hundred" => a_hundred(&argument),
        "asked" => asked(&argument),
        "counted" => counted(&argument),
        "elsewhere" => elsewhere(&argument),
        "names" => names(&argument),
        "table" => table(&argument),
        "announced" => announced(&argument),
        "better" => better(&argument),
        "removed" => in_use(&argument, Fault::Removed),
        "blackholed" => in_use(&argument, Fault::Blackholed),
        "reset" => in_use(&argument, Fault::Reset),
        "restarted" => restarted(&argument),
        "another" => another(&argument),
        "forks" => forks(),
        other => panic!("no role {other}"),
    }
}

// -------------------------------------------------------------------------------------------------
// The server

/// `KEY PORT WHICH ANSWERS`: a byte for its static key, its port or 0, the places of its addresses
/// (`any` for the wildcard ones), and `asked` if it answers queries. On a word it announces the
/// last two addresses of its host.
fn serve(what: &str) {
    let fields: Vec<&str> = what.split(' ').collect();
    let [key, port, which, answers] = fields[..] else { panic!("{what}") };
    let key = StaticKey::from_bytes([key.parse().unwrap(); 32]);
    let session = Config { identity: Some(key), ..quick() };
    let config = SharedConfig { session, answer: answers == "asked", ..SharedConfig::default() };
    let places: Vec<&str> = match which {
        "any" => vec!["0.0.0.0", "::"],
        which => which.split(',').map(|place| SERVER[place.parse::<usize>().unwrap()]).collect(),
    };
    let port: u16 = port.parse().unwrap();
    let addrs: Vec<SocketAddr> =
        places.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect();
    let listener = Arc::new(SharedListener::bind_with(&addrs, config).unwrap());
    let port = listener.local_addrs()[0].port();
    say(&port.to_string());
    let accepting = Arc::clone(&listener);
    thread::spawn(move || {
        while let Ok((stream, _)) = accepting.accept() {
            thread::spawn(move || {
                let _gone = io::copy(&mut &stream, &mut &stream);
                let _gone = stream.shutdown(Shutdown::Write);
            });
        }
    });
    while hear() {
        let others = SERVER[2..].iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        listener.announce(&others.collect::<Vec<_>>()).unwrap();
        say("done");
    }
}

const ALL: &str = "1 0 0,1,2,3 asked";

fn pool() -> Pool {
    pool_of(PoolConfig::default())
}

fn pool_of(config: PoolConfig) -> Pool {
    // A line that has gone silent is looked at soon.
    let session = Config { probe_after: Duration::from_secs(1), ..quick() };
    Pool::new(PoolConfig { session, ..config }).unwrap()
}

fn connect(pool: &Pool, addr: SocketAddr) -> TcpStream {
    let stream = pool.connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn says(mut stream: &TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

/// Sends megabytes over all streams at once and takes them back; `fault` strikes in the middle.
fn while_it_flows(streams: &[TcpStream], bytes: usize, fault: impl FnOnce()) {
    thread::scope(|scope| {
        let mut half = Vec::new();
        for (place, stream) in streams.iter().enumerate() {
            let all = Arc::new(data(place as u64 + 1, bytes));
            let (reached, is_half) = std::sync::mpsc::channel();
            half.push(is_half);
            let sent = Arc::clone(&all);
            scope.spawn(move || {
                let mut stream = stream;
                stream.write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut stream = stream;
                let mut back = vec![0; bytes / 3];
                stream.read_exact(&mut back).unwrap();
                let _gone = reached.send(());
                stream.read_to_end(&mut back).unwrap();
                assert!(back == *all, "{} of {bytes} bytes, or others", back.len());
            });
        }
        half[0].recv().unwrap();
        fault();
    });
}

// -------------------------------------------------------------------------------------------------
// The client

fn a_hundred(server: &str) {
    let server = Server::start(server, ALL);
    let pool = pool();
    let streams: Vec<TcpStream> =
        (0..100).map(|turn| connect(&pool, server.at(turn % 4))).collect();
    for (turn, stream) in streams.iter().enumerate() {
        says(stream, format!("this is {turn}").as_bytes());
    }
    wait_until("one connection is left", || connections(server.port) == 1);
    assert_eq!((pool.sessions(), pool.table().len()), (1, 100), "{:?}", pool.metrics());
    assert_eq!(pool.metrics().sessions_saved, 99);
}

fn asked(server: &str) {
    let server = Server::start(server, ALL);
    let pool = pool();
    let first = connect(&pool, server.at(0));
    says(&first, b"first");
    // By TCP nobody is reached there: that it is the same server is known by its answer alone.
    net::refuse_tcp(SERVER[2]);
    let second = connect(&pool, server.at(2));
    says(&second, b"second");
    let metrics = pool.metrics();
    assert_eq!((metrics.query_hits, metrics.late_merges, pool.sessions()), (1, 0, 1));
}

fn counted(server: &str) {
    let server = Server::start(server, ALL);
    let pool = pool_of(PoolConfig { linger: Duration::from_millis(300), ..PoolConfig::default() });
    let mut streams: Vec<TcpStream> =
        (0..8).map(|turn| connect(&pool, server.at(turn % 4))).collect();
    streams.iter().for_each(|stream| says(stream, b"here"));
    let last = streams.pop().unwrap();
    drop(streams);
    wait_until("seven are closed", || pool.table().len() == 1);
    says(&last, b"alone");
    wait_until("one connection is left", || connections(server.port) == 1);
    drop(last);
    wait_until("the last has closed the session", || connections(server.port) == 0);
    let metrics = pool.metrics();
    assert_eq!((metrics.opens, metrics.sessions_opened, pool.sessions()), (8, 1, 0));
    // And again, as if nothing had been.
    says(&connect(&pool, server.at(1)), b"anew");
}

fn elsewhere(server: &str) {
    let server = Server::start(server, ALL);
    let pool = pool();
    let stream = connect(&pool, server.at(0));
    says(&stream, b"before");
    blackhole(SERVER[0]);
    net::reset_connections(server.port);
    says(&stream, b"after");
    assert_ne!(where_to(server.port), [SERVER[0]]);
    wait_until("it is told", || pool.metrics().failovers == 1);
    // Who asks for the address that is dead gets the session too.
    says(&connect(&pool, server.at(0)), b"another");
    assert_eq!(pool.sessions(), 1);
}

fn names(server: &str) {
    // It says nothing of its addresses, and answers no queries.
    let server = Server::start(server, "1 0 any silent");
    let pool = pool();
    let stream = connect(&pool, server.at(0));
    says(&stream, b"before");
    // Its other addresses: known by names alone, as /etc/hosts has them.
    wait_until("the names were looked up", || pool.hinted(stream_row(&pool)) >= 2);
    blackhole(SERVER[0]);
    net::reset_connections(server.port);
    says(&stream, b"after");
    assert_ne!(where_to(server.port), [SERVER[0]]);
    wait_until("it is told", || pool.metrics().failovers == 1);
}

fn stream_row(pool: &Pool) -> u64 {
    pool.table()[0].row.management
}

fn table(server: &str) {
    let server = Server::start(server, ALL);
    let pool = pool();
    let streams: Vec<TcpStream> = (0..4).map(|place| connect(&pool, server.at(place))).collect();
    streams.iter().for_each(|stream| says(stream, b"here"));
    let rows = pool.table();
    let asked_for: Vec<String> = rows.iter().map(|row| row.row.requested.clone()).collect();
    let expected: Vec<String> = (0..4).map(|place| server.at(place).to_string()).collect();
    assert_eq!(asked_for, expected);
    for (place, row) in rows.iter().enumerate() {
        assert_eq!(row.row.address, Some(server.at(0)), "the address in use");
        assert_eq!((row.row.references, row.row.state), (4, "active"));
        assert_eq!((row.session, row.epoch), (rows[0].session, 1));
        assert_eq!(row.row.server, rows[0].row.server);
        assert!(row.row.server.is_some() && row.line.rtt_us.is_some(), "{row:?}");
        let shares = matches!(row.row.why, Why::Shared | Why::LateMerge);
        assert_eq!(shares, place > 0, "{row:?}");
    }
    let management: std::collections::BTreeSet<u64> =
        rows.iter().map(|row| row.row.management).collect();
    assert_eq!(management.len(), 4);
}

fn announced(server: &str) {
    // It does not know its addresses by itself.
    let mut server = Server::start(server, "1 0 any silent");
    let pool = pool_of(PoolConfig { hints: false, ..PoolConfig::default() });
    let stream = connect(&pool, server.at(0));
    says(&stream, b"before");
    server.go();
    says(&stream, b"announced");
    blackhole(SERVER[0]);
    net::reset_connections(server.port);
    says(&stream, b"after");
    let there = where_to(server.port);
    assert!(SERVER[2..].contains(&there[0].as_str()), "{there:?}");
}

fn better(server: &str) {
    let server = Server::start(server, ALL);
    let config = PoolConfig {
        window: Duration::from_millis(300),
        dwell: Duration::from_millis(500),
        ..PoolConfig::default()
    };
    let pool = pool_of(config);
    // The line in use loses, and the other is not there yet.
    server.ip(&["link", "set", "line1", "down"]);
    server.lose_datagrams(&SERVER[..2]);
    let stream = connect(&pool, server.at(0));
    says(&stream, b"before");
    server.ip(&["link", "set", "line1", "up"]);
    server.ip(&["addr", "add", "fd77:1::1/64", "dev", "line1", "nodad"]);
    wait_until("the session is moved to the better line", || {
        says(&stream, b"on the way");
        pool.metrics().migrations == 1
    });
    let there = where_to(server.port);
    assert!(SERVER[2..].contains(&there[0].as_str()), "{there:?}");
    // From here on they take turns at being the worse one: nobody moves back and forth.
    for turn in 0..12 {
        let which = if turn % 2 == 0 { &SERVER[2..] } else { &SERVER[..2] };
        server.lose_datagrams(which);
        for _ in 0..10 {
            says(&stream, b"oscillating");
            // The pace of what is tried, and not of what is waited for.
            thread::sleep(Duration::from_millis(40));
        }
    }
    assert_eq!(pool.metrics().migrations, 1, "one move a minute, at most");
    assert_eq!(pool.metrics().failovers, 0);
}

#[derive(Clone, Copy)]
enum Fault {
    Removed,
    Blackholed,
    Reset,
}

fn in_use(server: &str, fault: Fault) {
    let server = Server::start(server, ALL);
    let pool = pool();
    let streams: Vec<TcpStream> = (0..6).map(|turn| connect(&pool, server.at(turn % 4))).collect();
    streams.iter().for_each(|stream| says(stream, b"here"));
    wait_until("one connection is left", || connections(server.port) == 1);
    let here = where_to(server.port)[0].clone();
    while_it_flows(&streams, 4 * MIB, || match fault {
        Fault::Removed => {
            let length = if here.contains(':') { "64" } else { "24" };
            let line = if SERVER[..2].contains(&here.as_str()) { "line0" } else { "line1" };
            server.ip(&["addr", "del", &format!("{here}/{length}"), "dev", line]);
        }
        Fault::Blackholed => blackhole(&here),
        Fault::Reset => net::reset_connections(server.port),
    });
    // However fast it flowed: this comes behind the fault.
    let witness = connect(&pool, server.at(3));
    says(&witness, b"after it");
    assert_eq!(pool.metrics().sessions_opened, 1);
    if !matches!(fault, Fault::Reset) {
        wait_until("the failover is counted", || pool.metrics().failovers == 1);
        assert_ne!(where_to(server.port), [here]);
    }
    drop(witness);
    wait_until("all are closed", || pool.table().is_empty());
}

fn restarted(namespace: &str) {
    let mut server = Server::start(namespace, ALL);
    let pool = pool();
    let mut stream = connect(&pool, server.at(0));
    says(&stream, b"before");
    let port = server.port;
    server.kill();
    let server = Server::start(namespace, &format!("1 {port} 0,1,2,3 asked"));
    // Never resumed onto: what was on it is told by a reset, without anybody's asking.
    let error = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    assert_eq!(pool.metrics().resets_by_boot, 1);
    says(&connect(&pool, server.at(0)), b"after");
    wait_until("the old session is gone", || pool.sessions() == 1);
}

fn another(namespace: &str) {
    let mut first = Server::start(namespace, "1 0 0,1 asked");
    let port = first.port;
    let second = Server::start(namespace, &format!("2 {port} 2,3 asked"));
    let pool = pool();
    let streams: Vec<TcpStream> =
        (0..4).map(|place| connect(&pool, SocketAddr::new(first.at(place).ip(), port))).collect();
    streams.iter().for_each(|stream| says(stream, b"here"));
    assert_eq!(pool.sessions(), 2);
    assert_eq!(pool.metrics().refused.get(&Why::OtherServer), Some(&1));
    // The first one's address becomes the second's, whose handshake shows who it is.
    first.kill();
    drop(second);
    let _third = Server::start(namespace, &format!("2 {port} 0,1,2,3 asked"));
    wait_until("the address belongs to another", || {
        let Ok(mut stream) = pool.connect(SocketAddr::new(SERVER[0].parse().unwrap(), port)) else {
            return false;
        };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut back = [0; 3];
        stream.write_all(b"new").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"new"
    });
    let rows = pool.table();
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row.row.server).collect();
    assert!(ids.len() <= 2, "{rows:?}");
}

fn fork() -> libc::pid_t {
    // SAFETY: libtest runs the helper on the main thread; the other threads are eversock's, which
    // has hooks around fork, and what the child calls is for such children.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    pid
}

fn exit_now(code: i32) -> ! {
    // SAFETY: nothing of the child's is needed any more.
    unsafe { libc::_exit(code) }
}

fn reap(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours, and `status` is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    libc::WEXITSTATUS(status) | libc::WTERMSIG(status) << 8
}

/// A child does not share; and what it holds copies of does not keep alive what ends here.
fn forks() {
    let mut helper = Helper::spawn("helper_process", "server", "1 0 any asked");
    let port: u16 = helper.word().parse().unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let pool = pool();
    let stream = connect(&pool, addr);
    says(&stream, b"before");
    let pid = fork();
    if pid == 0 {
        let is_empty = pool.table().is_empty() && pool.sessions() == 0;
        let own = connect(&pool, addr);
        says(&own, b"the child's own");
        // What it has inherited, its parent carries.
        says(&stream, b"the parent's");
        let rows = pool.table().len();
        exit_now(if is_empty && rows == 1 { 0 } else { 1 });
    }
    assert_eq!(reap(pid), 0, "the child has failed");
    says(&stream, b"after");
    assert_eq!((pool.sessions(), pool.metrics().opens), (1, 1));
    // One that lives on, with copies of all that it may have copies of.
    let (wait, go) = io::pipe().unwrap();
    let second = connect(&pool, addr);
    says(&second, b"second");
    let pid = fork();
    if pid == 0 {
        drop(go);
        let _told = (&wait).read(&mut [0]);
        exit_now(0);
    }
    drop(wait);
    // The child's copy of the program's own end is the program's business; this one has none.
    helper.kill();
    let mut again = Helper::spawn("helper_process", "server", &format!("1 {port} any asked"));
    assert_eq!(again.word(), port.to_string());
    let error = (&second).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    drop(go);
    assert_eq!(reap(pid), 0);
}

// -------------------------------------------------------------------------------------------------
// The tests

#[test]
fn a_hundred_connections_over_four_addresses_use_one_connection() {
    on_two_hosts("hundred", "");
}

#[test]
fn embodiment_1_the_server_is_asked_who_it_is() {
    on_two_hosts("asked", "");
}

#[test]
fn embodiment_2_connections_share_a_session_that_the_last_close_ends() {
    on_two_hosts("counted", "");
}

#[test]
fn embodiment_3_a_session_goes_on_at_another_address_of_its_server() {
    on_two_hosts("elsewhere", "");
}

#[test]
fn embodiment_4_names_alone_tell_the_client_of_other_addresses() {
    let hosts = "10.77.0.1 srv.test\n10.77.1.1 srv.test\nfd77:1::1 srv.test\n";
    on_two_hosts("names", hosts);
}

#[test]
fn embodiment_5_the_table_shows_what_was_asked_for_and_what_is_used() {
    on_two_hosts("table", "");
}

#[test]
fn embodiment_6_a_server_announces_its_addresses_at_run_time() {
    on_two_hosts("announced", "");
}

#[test]
fn embodiment_7_a_better_line_is_moved_to_once_and_oscillation_moves_nobody() {
    on_two_hosts("better", "");
}

#[test]
fn the_address_in_use_is_removed_mid_transfer() {
    on_two_hosts("removed", "");
}

#[test]
fn the_address_in_use_is_blackholed_mid_transfer() {
    on_two_hosts("blackholed", "");
}

#[test]
fn the_address_in_use_is_reset_mid_transfer() {
    on_two_hosts("reset", "");
}

#[test]
fn a_restarted_server_resets_its_streams_and_is_never_resumed_onto() {
    on_two_hosts("restarted", "");
}

#[test]
fn an_address_that_becomes_another_server_s_gets_a_session_of_its_own() {
    on_two_hosts("another", "");
}

/// I4: whatever is done to the connection under them, all streams are exact, and one session it is.
#[test]
fn many_streams_over_a_line_that_is_cut_again_and_again_are_exact() {
    begin();
    // It knows no address of its own that a client could go to past the proxy.
    let mut helper = Helper::spawn("helper_process", "server", "1 0 any silent");
    let port: u16 = helper.word().parse().unwrap();
    let proxy = common::proxy_to(SocketAddr::from(([127, 0, 0, 1], port)));
    let pool = pool_of(PoolConfig { hints: false, ..PoolConfig::default() });
    let mut cuts = 0;
    for fault in [Cut::Reset, Cut::Fin] {
        let streams: Vec<TcpStream> = (0..12).map(|_| connect(&pool, proxy.local_addr())).collect();
        cuts += common::while_cutting(&proxy, &fault, 2 * MIB, || {
            while_it_flows(&streams, MIB, || {});
        });
    }
    assert!(cuts >= 6, "{cuts} cuts");
    assert_eq!(pool.metrics().sessions_opened, 1, "{:?}", pool.metrics());
}

#[test]
fn a_child_after_fork_does_not_share_and_keeps_nothing_alive() {
    let mut helper = Helper::spawn("helper_process", "forks", "");
    assert!(helper.end().success(), "see above");
}
