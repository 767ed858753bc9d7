//! Connections killed by the kernel (`ss -K`), in a network namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::child::role;
use common::netns::{self, run};
use common::own::{descriptors, eventfds, from_environment, resident_kib};
use common::side::{How, converse};
use common::{MIB, StopOnDrop, begin, data, exchange, quick};
use eversock::{Config, Mode, VirtualListener, VirtualStream};
use eversock_proto::limits::WINDOW_MAX_DEFAULT_BYTES;
use sha2::{Digest, Sha256};

/// Runs the hidden test in a role in a namespace of its own.
fn in_namespace(role: &str) {
    in_namespace_for(role, Duration::from_secs(60));
}

fn in_namespace_for(role: &str, limit: Duration) {
    match run("ss", &["-V"]) {
        Ok(_) => netns::in_namespace("kernel_kills", role, &[], limit),
        Err(error) => netns::skip("kernel_kills", &format!("no ss: {error}")),
    }
}

/// Kills what is established towards or from `port`; how many sockets that were.
fn kill_all(port: u16) -> usize {
    let filter = format!("( sport = :{port} or dport = :{port} )");
    let out = run("ss", &["-H", "-t", "-K", "state", "established", &filter]).unwrap();
    out.lines().filter(|line| line.contains(':')).count()
}

/// Kills whenever so many more bytes have come, until `work` is done.
fn while_killing(streams: [&VirtualStream; 2], every: u64, work: impl FnOnce()) -> usize {
    let port = streams[0].peer_addr().unwrap().port();
    let (stop, killed) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let moved = streams.iter().map(|stream| stream.info().unwrap().received).sum();
                if moved >= last + every {
                    last = moved;
                    killed.fetch_add(kill_all(port), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _stop = StopOnDrop(&stop);
        work();
    });
    killed.load(Ordering::Relaxed)
}

/// What runs in the namespace.
#[test]
fn helper_process() {
    let Some((role, _)) = role() else { return };
    begin();
    let bind = if role.ends_with('6') { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = VirtualListener::bind_with(bind, quick()).unwrap();
    let addr = listener.local_addr().unwrap();
    if let Some(mode) = role.strip_prefix("long-") {
        let mode = if mode == "pumped" { Mode::Pumped } else { Mode::Direct };
        return long_transfer(&listener, Config { mode, ..quick() });
    }
    let client = VirtualStream::connect_with(addr, quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let port = addr.port();
    match role.as_str() {
        "in-step" => return in_step(&client, &server, |round, _| kill_one_end(round, port)),
        "firewall" => {
            return in_step(&client, &server, |_, over| reset_for_a_moment(&client, port, over));
        }
        "idle" => return killed_while_idle(&client, &server, port),
        "dropped" => return dropped_for_a_while(&client, &server, port),
        _ => {}
    }
    let (up, down) = (data(1, 48 * MIB), data(2, 48 * MIB));
    let converse_as = |how| {
        std::thread::scope(|scope| {
            let at_server = scope.spawn(|| converse(how, &server, &down));
            assert!(converse(how, &client, &up) == down, "the client's bytes differ");
            assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        });
    };
    let killed =
        while_killing([&client, &server], 6 * MIB as u64, || match role.trim_end_matches('6') {
            "blocking" => exchange(&client, &server, &up, &down),
            "level" => converse_as(How::Level),
            "edge" => converse_as(How::Edge),
            "poll" => converse_as(How::Poll),
            "select" => converse_as(How::Select),
            other => panic!("no role {other}"),
        });
    assert!(killed >= 4, "only {killed} sockets were killed");
    common::wait_until("the resumes are counted", || client.info().unwrap().resumes >= 3);
}

#[test]
fn blocking_streams_survive_the_kernels_kills() {
    in_namespace("blocking");
}

#[test]
fn blocking_streams_over_ipv6_survive_the_kernels_kills() {
    in_namespace("blocking6");
}

#[test]
fn level_triggered_epoll_survives_the_kernels_kills() {
    in_namespace("level");
}

#[test]
fn edge_triggered_epoll_survives_the_kernels_kills() {
    in_namespace("edge");
}

#[test]
fn poll_survives_the_kernels_kills() {
    in_namespace("poll");
}

#[test]
fn select_survives_the_kernels_kills() {
    in_namespace("select");
}

// ---------------------------------------------------------------------------------------------
// Kills in step with the bytes, of an idle pair, and resets by a firewall

const PATIENCE: Duration = Duration::from_secs(20);
/// How often the kernel kills in these.
const KILLS: usize = 24;

/// Waits until something is so; false when `over` comes first.
fn wait_unless(over: &AtomicBool, what: &str, mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        if over.load(Ordering::SeqCst) {
            return false;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// 16 MiB both ways in parts, each of which waits for one kill: `kill` hits bytes on their way.
/// It gives how many it has made, and none once it is told that all is over.
fn in_step(
    client: &VirtualStream,
    server: &VirtualStream,
    mut kill: impl FnMut(usize, &AtomicBool) -> usize + Send,
) {
    let (up, down) = (data(1, 16 * MIB), data(2, 16 * MIB));
    let (kills, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let send = |mut stream: &VirtualStream, bytes: &[u8]| {
        for (part, bytes) in bytes.chunks(bytes.len() / KILLS).enumerate() {
            // One less, so that there is always something on its way; and a byte now and then, as
            // an idle connection hears of a firewall's resets only when something is sent on it. A
            // tool that took longer to start than a part to send left all to the keepalive of 15 s.
            let enough = || kills.load(Ordering::SeqCst) + 1 >= part.min(KILLS);
            let (until, mut begun) = (Instant::now() + PATIENCE, 0);
            while !enough() && !over.load(Ordering::SeqCst) {
                assert!(Instant::now() < until, "not within {PATIENCE:?}: the kernel kills");
                // The last part is a rest of a few bytes.
                let some = usize::from(begun < bytes.len());
                stream.write_all(&bytes[begun..][..some]).unwrap();
                begun += some;
                std::thread::sleep(Duration::from_millis(5));
            }
            for piece in bytes[begun..].chunks(64 * 1024) {
                stream.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                kills.fetch_add(kill(round, &over), Ordering::SeqCst);
            }
        });
        let _over = StopOnDrop(&over);
        scope.spawn(|| send(client, &up));
        scope.spawn(|| send(server, &down));
        let at_server = scope.spawn(|| common::read_all(server));
        let at_client = scope.spawn(|| common::read_all(client));
        assert!(at_server.join().unwrap() == up, "the server's bytes differ");
        assert!(at_client.join().unwrap() == down, "the client's bytes differ");
    });
    let (kills, resumes) = (kills.into_inner(), client.info().unwrap().resumes);
    assert!(kills + 2 >= KILLS && resumes >= 10, "{kills} kills, {resumes} resumes");
}

/// Kills one end of what is established, the client's and the server's in turn.
fn kill_one_end(round: usize, port: u16) -> usize {
    let filter = format!("{} = :{port}", if round.is_multiple_of(2) { "dport" } else { "sport" });
    let out = run("ss", &["-H", "-t", "-n", "-K", "state", "established", &filter]).unwrap();
    out.lines().filter(|line| line.contains(':')).count()
}

/// Nothing is on its way when the kernel kills; then a word goes each way.
fn killed_while_idle(mut client: &VirtualStream, mut server: &VirtualStream, port: u16) {
    for round in 0..KILLS {
        let resumes = client.info().unwrap().resumes;
        common::wait_until("there is a connection to kill", || kill_one_end(round, port) > 0);
        if round % 3 == 0 {
            // Nobody reads or writes: the engine notices by itself.
            common::wait_until("the idle session is resumed", || {
                client.info().unwrap().resumes > resumes
            });
        }
        let word = round.to_le_bytes();
        client.write_all(&word).unwrap();
        assert_eq!(common::read_exactly(server, word.len()), word);
        server.write_all(&word).unwrap();
        assert_eq!(common::read_exactly(client, word.len()), word);
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(common::read_all(server), b"");
    common::wait_until("the resumes are counted", || client.info().unwrap().resumes >= 10);
}

/// Resets whatever comes to the port, for a moment.
fn reset_for_a_moment(client: &VirtualStream, port: u16, over: &AtomicBool) -> usize {
    let resumes = || client.info().unwrap().resumes;
    let before = resumes();
    let chain = format!(
        "chain in {{\ntype filter hook input priority 0\ntcp dport {port} reject with tcp reset\n}}"
    );
    run("nft", &[&format!("table inet evs {{\n{chain}\n}}")]).unwrap();
    let seen = || client.info().unwrap().detached_ms.is_some() || resumes() > before;
    wait_unless(over, "the reset is seen", seen);
    run("nft", &["delete", "table", "inet", "evs"]).unwrap();
    usize::from(wait_unless(over, "the session is resumed", || resumes() > before))
}

/// The connection is killed while a firewall drops all that comes to the port: nobody answers the
/// redials until it lets them through.
fn dropped_for_a_while(mut client: &VirtualStream, server: &VirtualStream, port: u16) {
    // The kernel sends its SYN again after 1, 2, 3, 4, 5, 7 and 11 seconds (older ones after 1, 3
    // and 7): the second outage ends long before it would.
    for outage in [1300, 7400].map(Duration::from_millis) {
        let chain =
            format!("chain in {{\ntype filter hook input priority 0\ntcp dport {port} drop\n}}");
        run("nft", &[&format!("table inet evs {{\n{chain}\n}}")]).unwrap();
        let resumes = client.info().unwrap().resumes;
        common::wait_until("there is a connection to kill", || kill_all(port) > 0);
        common::wait_until("it is missed", || client.info().unwrap().detached_ms.is_some());
        std::thread::sleep(outage);
        assert_eq!(client.info().unwrap().resumes, resumes, "the firewall lets it through");
        run("nft", &["delete", "table", "inet", "evs"]).unwrap();
        let began = Instant::now();
        common::wait_until("it is resumed", || client.info().unwrap().resumes > resumes);
        let took = began.elapsed();
        println!("resumed {took:?} after an outage of {outage:?}");
        // After the second outage the kernel's own next SYN is 3.6 s away.
        let is_second = outage > Duration::from_secs(7);
        assert!(!is_second || took < Duration::from_secs(3), "resumed {took:?} after the outage");
        client.write_all(b"x").unwrap();
        assert_eq!(common::read_exactly(server, 1), b"x");
    }
}

#[test]
fn a_redial_does_not_wait_for_the_kernels_next_syn_when_the_line_is_back() {
    match run("nft", &["--version"]) {
        Ok(_) => in_namespace("dropped"),
        Err(error) => netns::skip("kernel_kills", &format!("no nft: {error}")),
    }
}

#[test]
fn every_part_of_a_flow_survives_a_kernel_kill() {
    in_namespace("in-step");
}

#[test]
fn idle_connections_that_the_kernel_kills_are_resumed() {
    in_namespace("idle");
}

#[test]
fn every_part_of_a_flow_survives_a_reset_by_a_firewall() {
    match run("nft", &["--version"]) {
        Ok(_) => in_namespace("firewall"),
        Err(error) => netns::skip("kernel_kills", &format!("no nft: {error}")),
    }
}

// ---------------------------------------------------------------------------------------------
// One long transfer, many kills

const BLOCK: usize = 64 * 1024;

/// How many kills and how many MiB each way; a campaign sets more.
fn long_figures() -> (usize, usize) {
    let number = |name, default| usize::try_from(from_environment(name, default)).unwrap();
    (number("EVERSOCK_KILLS", 40), number("EVERSOCK_MIB", 64))
}

/// Sends all of it; the digest of what was sent.
fn send_blocks(mut stream: &VirtualStream, seed: u64, blocks: usize) -> Sha256 {
    let mut hash = Sha256::new();
    for block in 0..blocks {
        let bytes = data(seed + block as u64, BLOCK);
        stream.write_all(&bytes).unwrap();
        hash.update(&bytes);
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    hash
}

/// Reads to the end, but never far beyond what the kills made so far allow: so each of them finds
/// full buffers and bytes on their way. Gives how many came and their digest.
fn read_in_step(
    mut stream: &VirtualStream,
    &(kills, total): &(usize, usize),
    made: &AtomicUsize,
    over: &AtomicBool,
) -> (usize, Sha256) {
    let (mut hash, mut got) = (Sha256::new(), 0);
    let mut buf = vec![0; BLOCK];
    loop {
        wait_unless(over, "the kernel kills", || {
            let made = made.load(Ordering::SeqCst);
            made == kills || got * (kills + 1) / total <= made
        });
        let n = stream.read(&mut buf).unwrap();
        if n == 0 {
            return (got, hash);
        }
        hash.update(&buf[..n]);
        got += n;
    }
}

/// Both directions at full windows, and a kill in step with every part of the bytes; in the end
/// there are as many descriptors as before, and memory held what the windows allow and no more.
fn long_transfer(listener: &VirtualListener, config: Config) {
    let (kills, mib) = long_figures();
    let (total, blocks) = (mib * MIB, mib * MIB / BLOCK);
    let before = descriptors();
    let addr = listener.local_addr().unwrap();
    let client = VirtualStream::connect_with(addr, config).unwrap();
    let (server, _) = listener.accept().unwrap();
    let at_rest = resident_kib();
    let (made, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (step, began) = ((kills, total), Instant::now());
    let resident = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut resident = Vec::new();
            for round in 0..kills {
                // In step with the slower direction's bytes as the programs read them.
                let due = |stream: &VirtualStream| {
                    stream.info().unwrap().consumed >= (round * total / (kills + 1)) as u64
                };
                wait_unless(&over, "the bytes go on", || due(&client) && due(&server));
                let resumes = client.info().unwrap().resumes;
                wait_unless(&over, "there is a connection to kill", || {
                    kill_one_end(round, addr.port()) > 0
                });
                wait_unless(&over, "it is resumed", || client.info().unwrap().resumes > resumes);
                made.fetch_add(1, Ordering::SeqCst);
                resident.push(resident_kib());
            }
            resident
        });
        let _over = StopOnDrop(&over);
        let up = scope.spawn(|| send_blocks(&client, 1, blocks));
        let down = scope.spawn(|| send_blocks(&server, 1 << 32, blocks));
        let at_server = scope.spawn(|| read_in_step(&server, &step, &made, &over));
        let at_client = scope.spawn(|| read_in_step(&client, &step, &made, &over));
        for (sender, reader) in [(up, at_server), (down, at_client)] {
            let (sent, (got, hash)) = (sender.join().unwrap(), reader.join().unwrap());
            assert_eq!(got, total);
            assert!(sent.finalize() == hash.finalize(), "the digests differ");
        }
        killer.join().unwrap()
    });
    let (took, info) = (began.elapsed(), client.info().unwrap());
    assert_eq!(made.into_inner(), kills);
    assert!(info.resumes >= kills as u64, "{} resumes of {kills} kills", info.resumes);
    drop((client, server));
    common::wait_until("the session is gone", || eversock::sessions().is_empty());
    common::wait_until("no descriptor more than before", || descriptors() <= before);
    // One for each thread that slept, and the engine's.
    assert!(eventfds() <= 8, "{} eventfds", eventfds());
    let (first, second) = resident.split_at(resident.len() / 2);
    let most = |half: &[u64]| half.iter().copied().max().unwrap_or_default();
    let (first, second) = (most(first), most(second));
    println!(
        "{mib} MiB each way, {kills} kills, {} resumes, {} MiB sent again, {took:.1?}; \
         {before} descriptors before and after; resident at most {first} KiB in the first half and \
         {second} KiB in the second",
        info.resumes,
        info.replayed / MIB as u64,
    );
    // Each direction may have a window in the sender's log and one that its reader has not taken
    // yet; when they fill is chance, so a short run's halves say nothing of each other.
    let windows = 4 * WINDOW_MAX_DEFAULT_BYTES / 1024;
    let most = at_rest + windows + 8 * 1024;
    assert!(first.max(second) <= most, "{at_rest} KiB at rest, then {first} and {second} KiB");
    if kills >= 200 {
        assert!(second <= first + 4096, "{first} KiB resident, then {second} KiB");
    }
}

fn long_transfer_in(role: &str) {
    let (kills, mib) = long_figures();
    let limit = 60 + kills / 5 + mib / 10;
    in_namespace_for(role, Duration::from_secs(limit as u64));
}

#[test]
fn a_long_transfer_survives_a_kernel_kill_of_each_of_its_parts_without_a_leak() {
    long_transfer_in("long-direct");
}

#[test]
fn a_long_pumped_transfer_survives_a_kernel_kill_of_each_of_its_parts_without_a_leak() {
    long_transfer_in("long-pumped");
}
