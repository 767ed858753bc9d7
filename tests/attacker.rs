//! An attacker on the path, without a key: what he can do to sessions, clear and sealed, and what
//! he cannot. He sees, keeps, replays, drops, reorders, injects and alters bytes, dials the server
//! himself, and answers the client in the server's place.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::limit::Limit;
use common::mitm::{Attack, Mitm, Plan, Seen, hellos};
use common::raw::hear_hello;
use common::{StopOnDrop, begin, data, exchange, quick, read_exactly, wait_until};
use eversock::{Config, PresharedKey, Sealing, State, StaticKey, VirtualListener, VirtualStream};
use eversock_proto::identity::ServerKey;
use eversock_proto::open::{Offer, OpenClient};
use eversock_proto::resume::{Reason, Reject, ResumeClient};
use eversock_proto::secret::{Secret, SessionId};
use eversock_proto::wire::frame::{Acks, Header, Kind};

const PATIENCE: Duration = Duration::from_secs(240);
const KIB: usize = 1024;

/// Ends that notice soon what is kept from them.
fn config(sealing: Sealing, key: Option<u8>) -> Config {
    Config {
        sealing,
        key: key.map(|byte| PresharedKey([byte; 32])),
        probe_after: Duration::from_millis(500),
        connect_timeout: Duration::from_secs(2),
        ..quick()
    }
}

fn listen(config: Config) -> (VirtualListener, SocketAddr) {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", config).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Two ends, and somebody between them.
struct Scene {
    client: VirtualStream,
    server: VirtualStream,
    mitm: Mitm,
    listener: VirtualListener,
    addr: SocketAddr,
}

fn scene(config: &Config, up: Plan, down: Plan) -> Scene {
    let (listener, addr) = listen(config.clone());
    let mitm = Mitm::new(addr, up, down);
    let client = VirtualStream::connect_with(mitm.addr(), config.clone()).unwrap();
    let (server, _) = listener.accept().unwrap();
    listener.set_nonblocking(true).unwrap();
    Scene { client, server, mitm, listener, addr }
}

impl Scene {
    fn nobody_came(&self) {
        let error = self.listener.accept().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "a session came of it");
    }

    fn goes_on(&self) {
        for (mut from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            from.write_all(b"goes on").unwrap();
            assert_eq!(read_exactly(to, 7), b"goes on");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// He reads

/// The number of places at which `seen` has 16 bytes in a row of `plain`.
fn leaks(seen: &[Seen], plain: &[&[u8]]) -> usize {
    let runs: HashSet<&[u8]> = plain.iter().flat_map(|bytes| bytes.windows(16)).collect();
    let all = seen.iter().flat_map(|seen| [&seen.up, &seen.down]);
    all.flat_map(|bytes| bytes.windows(16)).filter(|run| runs.contains(run)).count()
}

#[test]
fn who_listens_reads_a_clear_session_and_nothing_of_a_sealed_one() {
    let _limit = Limit::new("a listener", PATIENCE);
    for (sealing, key) in
        [(Sealing::Never, None), (Sealing::Always, None), (Sealing::Always, Some(1))]
    {
        // With a cut on the way, so that bytes pass twice, under two keys.
        let cut = vec![(100_000, Attack::Cut)];
        let scene = scene(&config(sealing, key), cut, Vec::new());
        let (up, down) = (data(1, 256 * KIB), data(2, 256 * KIB));
        exchange(&scene.client, &scene.server, &up, &down);
        let seen = scene.mitm.seen();
        assert!(seen.iter().map(|seen| seen.up.len()).sum::<usize>() > 256 * KIB);
        let leaks = leaks(&seen, &[&up, &down]);
        if sealing == Sealing::Never {
            assert!(leaks > 400 * KIB, "the control: {leaks} runs");
        } else {
            assert_eq!(leaks, 0, "plaintext on the wire");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// He changes what passes

/// Frames as they would be without a seal: those that end a session, or that free its log.
fn forged(kind: u64) -> Vec<u8> {
    let (kind, length) = match kind % 5 {
        0 => (Kind::Reset, 8),
        1 => (Kind::Fin, 8),
        2 => (Kind::Stop, 8),
        3 => (Kind::Ack, 0),
        _ => (Kind::Data, 16),
    };
    let acks = Acks { ack: 1 << 20, window: 0xFFFF };
    let mut frame = Header { kind, flags: 0, length, acks }.encode().to_vec();
    // Body and the room of a tag.
    frame.resize(frame.len() + length as usize + 16, 0);
    frame
}

/// Something for each of so many connections, at most places among its records, at some in its
/// handshake; the opening is left alone.
fn any_plan(seed: u64, count: usize) -> Plan {
    let dice = data(seed, count * 24);
    let one = |(nth, dice): (usize, &[u8])| {
        let word = |at: usize| u64::from_le_bytes(dice[at..at + 8].try_into().unwrap());
        let place = if nth > 0 && word(0).is_multiple_of(8) {
            word(0) / 8 % 150
        } else {
            200 + word(0) / 8 % 60_000
        };
        let length = 1 + usize::try_from(word(8) % 3_000).unwrap();
        let attack = match word(16) % 8 {
            0 => Attack::Flip(1 << (word(8) % 8)),
            1 => Attack::Drop(length),
            2 => Attack::Repeat(length),
            3 => Attack::Insert(data(word(8), length)),
            4 => Attack::Insert(forged(word(8))),
            5 => Attack::Swap(length),
            6 => Attack::Reflect(length),
            _ => Attack::Cut,
        };
        (place, attack)
    };
    dice.chunks_exact(24).enumerate().map(one).collect()
}

#[test]
fn whatever_is_done_to_the_bytes_of_a_sealed_session_costs_a_connection_and_changes_nothing() {
    let _limit = Limit::new("changed bytes", PATIENCE);
    for seed in 1..=4 {
        let config = config(Sealing::Always, (seed % 2 == 0).then_some(3));
        // Behind the opening: who stands in the middle there has a session without a key.
        let plan = |salt| any_plan(100 * seed + salt, 12);
        let scene = scene(&config, plan(1), plan(2));
        let (up, down) = (data(seed, 1024 * KIB), data(seed + 50, 1024 * KIB));
        exchange(&scene.client, &scene.server, &up, &down);
        let (done, resumes) = (scene.mitm.done(), scene.client.info().unwrap().resumes);
        assert!(resumes >= 6 && resumes <= done as u64, "seed {seed}: {resumes} of {done}");
        assert_eq!(leaks(&scene.mitm.seen(), &[&up, &down]), 0, "seed {seed}");
    }
}

/// One attack, at a place that is known; the session is asked for a sign of life behind it.
#[test]
fn each_way_to_change_a_sealed_stream_is_survived_at_its_first_records_and_within_a_message() {
    let _limit = Limit::new("each attack", PATIENCE);
    let ways = [
        Attack::Flip(1),
        Attack::Flip(0x80),
        Attack::Drop(1),
        Attack::Drop(40),
        Attack::Repeat(40),
        Attack::Insert(forged(0)),
        Attack::Insert(forged(1)),
        Attack::Insert(forged(2)),
        Attack::Insert(forged(3)),
        Attack::Insert(forged(4)),
        Attack::Swap(20),
        Attack::Reflect(40),
        Attack::Cut,
    ];
    let config = config(Sealing::Always, Some(3));
    for is_up in [true, false] {
        // What an honest opening takes in this direction, the records of START behind it.
        let honest = scene(&config, Vec::new(), Vec::new());
        honest.goes_on();
        let seen = honest.mitm.seen();
        let side = if is_up { &seen[0].up } else { &seen[0].down };
        let hello: usize = hellos(side).iter().map(|message| message.len()).sum();
        for way in &ways {
            for place in [hello, hello + 16, hello + 40, hello + 60] {
                let plan = vec![(place as u64, way.clone())];
                let (up, down) = if is_up { (plan, Vec::new()) } else { (Vec::new(), plan) };
                let scene = scene(&config, up, down);
                scene.goes_on();
                scene.goes_on();
                assert_eq!(scene.mitm.done(), 1, "{way:?} at {place}");
                assert!(scene.client.info().unwrap().resumes <= 1, "{way:?} at {place}");
            }
        }
    }
}

/// The client has a session when it has OPEN_OK; what is done to its CONFIRM costs a connection.
#[test]
fn a_confirm_that_is_changed_on_its_way_costs_a_connection_and_not_the_session() {
    let _limit = Limit::new("a changed CONFIRM", PATIENCE);
    for config in [config(Sealing::Never, None), config(Sealing::Always, None)] {
        let (listener, addr) = listen(config.clone());
        let open = {
            let mitm = Mitm::new(addr, Vec::new(), Vec::new());
            let _client = VirtualStream::connect_with(mitm.addr(), config.clone()).unwrap();
            drop(listener.accept().unwrap());
            hellos(&mitm.seen()[0].up)[0].len() as u64
        };
        for within in [0, 6, 8, 39] {
            let plan = vec![(open + within, Attack::Flip(4))];
            let mitm = Mitm::new(addr, plan, Vec::new());
            let client = VirtualStream::connect_with(mitm.addr(), config.clone()).unwrap();
            let (server, _) = listener.accept().unwrap();
            exchange(&client, &server, b"up", b"down");
            assert_eq!(mitm.done(), 1);
            assert_eq!(client.info().unwrap().resumes, 1, "byte {within}");
        }
    }
}

// ---------------------------------------------------------------------------------------------
// He says again what he has heard, and makes up the rest

/// A session that was resumed twice, and all that passed.
fn recorded(config: &Config) -> (Scene, Vec<Seen>) {
    let scene = scene(config, Vec::new(), Vec::new());
    for resumes in 1..=2 {
        scene.goes_on();
        scene.mitm.cut();
        wait_until("resumed", || {
            scene.client.info().unwrap().resumes == resumes
                && scene.server.info().unwrap().state != State::Detached
        });
    }
    scene.goes_on();
    let seen = scene.mitm.seen();
    (scene, seen)
}

#[test]
fn recorded_connections_said_again_to_the_server_open_resume_and_disturb_nothing() {
    let _limit = Limit::new("replays to the server", PATIENCE);
    for config in [config(Sealing::Never, None), config(Sealing::Always, Some(4))] {
        let (scene, seen) = recorded(&config);
        let epoch = scene.server.info().unwrap().epoch;
        let sides: Vec<&Vec<u8>> = seen.iter().flat_map(|seen| [&seen.up, &seen.down]).collect();
        assert!(sides.len() >= 6);
        for first in &sides {
            for second in &sides {
                let Some(hello) = hellos(first).first().copied() else { continue };
                let mut stream = TcpStream::connect(scene.addr).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // The first message alone and its answer first; then all that was ever behind one.
                stream.write_all(hello).unwrap();
                let _answer = hear_hello(&stream);
                let behind = hellos(second).first().map_or(0, |message| message.len());
                let _gone = stream.write_all(&second[behind..]);
                let mut rest = Vec::new();
                let _reset = stream.read_to_end(&mut rest);
            }
        }
        scene.nobody_came();
        assert_eq!(scene.server.info().unwrap().epoch, epoch, "a connection was taken");
        scene.goes_on();
        scene.mitm.cut();
        scene.goes_on();
    }
}

/// What a server could say to a client that dials again, made by somebody without the secret.
fn lies(seen: &[Seen]) -> Vec<Vec<u8>> {
    let reasons = [
        Reason::UnknownSession,
        Reason::DataLost,
        Reason::Expired,
        Reason::Closed,
        Reason::OldEpoch,
        Reason::Busy,
        Reason::Key,
        Reason::Reset,
        Reason::Sealing,
    ];
    let strange = Secret::from_bytes([9; 32]);
    let mut lies: Vec<_> = seen.iter().map(|seen| seen.down.clone()).collect();
    for reason in reasons {
        lies.push(Reject::plain(reason, Duration::ZERO).encode());
        lies.push(Reject::proven(reason, 0, &strange, &seen[1].up[..104]).encode());
    }
    lies
}

#[test]
fn answers_in_the_servers_place_do_not_end_the_session_nor_take_it_over() {
    let _limit = Limit::new("answers of a stranger", PATIENCE);
    for config in [config(Sealing::Never, None), config(Sealing::Always, None)] {
        let (scene, seen) = recorded(&config);
        let (lies, resumes) = (lies(&seen), scene.client.info().unwrap().resumes);
        let count = lies.len();
        scene.mitm.answer_next(lies);
        scene.mitm.cut();
        wait_until("all lies are told", || scene.mitm.answered() == count);
        scene.goes_on();
        assert_eq!(scene.client.info().unwrap().resumes, resumes + 1);
        scene.nobody_came();
    }
}

/// The session's id is no secret: it is in each RESUME. Who has it races the client.
#[test]
fn forged_resumes_and_a_flood_of_silent_connections_neither_take_a_session_nor_stall_it() {
    let _limit = Limit::new("a race", PATIENCE);
    for config in [config(Sealing::Never, None), config(Sealing::Always, Some(4))] {
        let (scene, seen) = recorded(&config);
        let id = SessionId(seen[1].up[8..24].try_into().unwrap());
        let stop = AtomicBool::new(false);
        let before = scene.client.info().unwrap().resumes;
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            let (addr, stop) = (scene.addr, &stop);
            scope.spawn(move || {
                let mut epoch = 3;
                while !stop.load(Ordering::Relaxed) {
                    epoch += 1;
                    let secret = Secret::from_bytes([u8::try_from(epoch % 200).unwrap(); 32]);
                    let (_, message) = ResumeClient::start(id, &secret, epoch, 0, [7; 32]);
                    let Ok(mut stream) = TcpStream::connect(addr) else { continue };
                    let _gone = stream.write_all(&message);
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let answer = hear_hello(&stream);
                    assert!(answer.is_none(), "a forged RESUME was answered");
                }
            });
            scope.spawn(move || {
                let mut silent = std::collections::VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    silent.extend(TcpStream::connect(addr));
                    if silent.len() > 300 {
                        silent.pop_front();
                    }
                }
            });
            for round in 0..4 {
                let (up, down) = (data(round, 256 * KIB), data(round + 9, 256 * KIB));
                std::thread::scope(|inner| {
                    inner.spawn(|| (&scene.client).write_all(&up).unwrap());
                    inner.spawn(|| (&scene.server).write_all(&down).unwrap());
                    assert!(read_exactly(&scene.server, up.len()) == up);
                    assert!(read_exactly(&scene.client, down.len()) == down);
                });
                scene.mitm.cut();
            }
            scene.goes_on();
        });
        let resumes = scene.client.info().unwrap().resumes - before;
        assert!((1..=4).contains(&resumes), "{resumes} resumes of 4 cuts");
        scene.nobody_came();
    }
}

// ---------------------------------------------------------------------------------------------
// He dials himself

fn raw_offer() -> Offer {
    Offer { window: 256 * 1024, grace: Duration::from_secs(60), ..Offer::default() }
}

/// What the server says to an OPEN of this kind.
fn ask(addr: SocketAddr, offer: &Offer) -> Option<Reason> {
    let (_client, open) = OpenClient::start(offer, [5; 32]).unwrap();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&open).unwrap();
    hear_hello(&stream).and_then(|answer| Reject::decode(&answer).ok()).map(|reject| reject.reason)
}

#[test]
fn without_a_key_nobody_opens_a_session_with_a_listener_that_wants_one() {
    let _limit = Limit::new("without a key", PATIENCE);
    let server = StaticKey::from_bytes([8; 32]);
    let keyed = config(Sealing::Always, Some(4));
    let listed = Config {
        identity: Some(server.clone()),
        allowed_clients: Some(vec![StaticKey::from_bytes([7; 32]).public()]),
        ..config(Sealing::Always, None)
    };
    let sealing = Sealing::Always;
    let wrong = Some(PresharedKey([5; 32]));
    let known = ServerKey::Known(server.public());
    let stranger = Some(StaticKey::from_bytes([6; 32]));
    for config in [keyed, listed] {
        let (listener, addr) = listen(config);
        listener.set_nonblocking(true).unwrap();
        let offers = [
            raw_offer(),
            Offer { sealing, ..raw_offer() },
            Offer { sealing, key: wrong.clone(), ..raw_offer() },
            Offer { sealing, server: ServerKey::Asked, ..raw_offer() },
            Offer { sealing, server: known, ..raw_offer() },
            Offer { sealing, server: known, identity: stranger.clone(), ..raw_offer() },
            Offer { sealing, server: ServerKey::Asked, identity: stranger.clone(), ..raw_offer() },
        ];
        for offer in &offers {
            assert_eq!(ask(addr, offer), Some(Reason::Key), "{offer:?}");
        }
        let error = listener.accept().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "a session came of it");
    }
}
