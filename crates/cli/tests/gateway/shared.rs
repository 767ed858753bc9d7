//! Gateways that carry many connections over one session.

use eversock_engine::keys;
use eversock_proto::identity::StaticKey;
use serde_json::Value;

use super::*;

const SHARE: &[&str] = &["--share"];

/// A file of the test's own with a key of this byte.
fn key(place: &Place, name: &str, byte: u8) -> String {
    let path = place.file(name);
    keys::write_key(&path, &[byte; 32]).unwrap();
    path.display().to_string()
}

/// A chain whose gateways share.
fn chain() -> Chain {
    Chain::with(Plan::none(), SHARE, SHARE)
}

/// What `evs dedup ls` shows of a gateway.
fn rows(place: &Place, of: &Gate) -> Vec<Value> {
    let pid = of.running.child.id().to_string();
    let done = place.run(&["dedup", "ls", "--json", "--pid", &pid]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    serde_json::from_str(&done.stdout).unwrap()
}

/// The sessions of a gateway, as `evs ls` shows them.
fn sessions(place: &Place, of: &Gate) -> Vec<String> {
    let pid = of.running.child.id();
    let all = place.sessions().into_iter().filter(|entry| entry["pid"] == pid);
    all.map(|entry| entry["session"].as_str().unwrap().to_owned()).collect()
}

/// Ends a gateway, and gives what it has counted.
fn totals(mut gate: Gate) -> Value {
    gate.terminate();
    let (code, lines) = gate.running.wait();
    assert_eq!(code, Some(0), "{lines:?}");
    let ended: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert_eq!(ended["kind"], "ended");
    ended["totals"].clone()
}

fn drop_with_reset(stream: TcpStream) {
    let stream = socket2::Socket::from(stream);
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends all each way at once over pairs of ends, and compares.
fn exchange_all(pairs: &[(TcpStream, TcpStream)], size: usize) {
    thread::scope(|scope| {
        for (seed, (client, server)) in pairs.iter().enumerate() {
            let (up, down) = (data(2 * seed as u64, size), data(2 * seed as u64 + 1, size));
            let (sent, expected) = (down.clone(), up.clone());
            scope.spawn(move || assert!(exchange(server, &sent) == expected, "up, {seed}"));
            scope.spawn(move || assert!(exchange(client, &up) == down, "down, {seed}"));
        }
    });
}

#[test]
fn programs_behind_one_gateway_share_one_session_and_keep_their_bytes() {
    let chain = chain();
    let pairs: Vec<_> = (0..20).map(|_| chain.pair()).collect();
    let listed = rows(&chain.place, &chain.near);
    assert_eq!(listed.len(), 20);
    for (pair, row) in pairs.iter().zip(&listed) {
        assert_eq!(row["application"], pair.0.local_addr().unwrap().to_string());
        assert_eq!((&row["references"], &row["state"]), (&20.into(), &"active".into()));
        assert_eq!(row["address"], chain.proxy.local_addr().to_string());
    }
    let near = sessions(&chain.place, &chain.near);
    assert_eq!(near, sessions(&chain.place, &chain.far));
    assert_eq!(near.len(), 1, "{near:?}");
    assert!(listed.iter().all(|row| row["session"] == near[0].as_str()), "{listed:?}");
    let shares = |row: &&Value| row["why"] == "shared";
    assert_eq!(listed.iter().filter(shares).count(), 19, "{listed:?}");
    exchange_all(&pairs, 300_000);
    drop(pairs);
    assert_eq!(chain.proxy.stats().summary.accepted, 1);
    for gate in [chain.near, chain.far] {
        let stderr = gate.stderr.clone();
        let carried = &totals(gate)["shared"];
        assert_eq!(carried, &serde_json::json!({ "sessions": 1, "connections": 20 }));
        let said = fs::read_to_string(stderr).unwrap();
        assert!(said.contains(", 1 session carried 20 connections"), "{said}");
    }
}

#[test]
fn streams_of_one_session_lose_no_byte_while_its_connection_is_cut() {
    const SIZE: usize = 4 * MIB;
    const STREAMS: usize = 5;
    let plan = Plan::seeded(11, 12, (2 * SIZE * STREAMS) as u64);
    let chain = Chain::with(plan, SHARE, SHARE);
    let pairs: Vec<_> = (0..STREAMS).map(|_| chain.pair()).collect();
    exchange_all(&pairs, SIZE);
    let dials = chain.proxy.stats().summary.accepted;
    assert!(dials > 3, "the cuts hit nothing: {dials} connections");
    assert_eq!(totals(chain.near)["shared"]["sessions"], 1);
}

#[test]
fn five_hundred_connections_at_once_share_what_is_cut_below_them() {
    const CLIENTS: usize = 500;
    const SIZE: usize = 20_000;
    let chain = chain();
    let small = || thread::Builder::new().stack_size(128 * 1024);
    let server = &chain.server;
    thread::scope(|scope| {
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
        let near = chain.near.addr;
        let clients = (0..CLIENTS).map(|number| {
            let client = move || {
                let sent = data(number as u64, SIZE);
                let stream = patient(TcpStream::connect(near).unwrap());
                let mut half = vec![0; SIZE / 2];
                (&stream).write_all(&sent[..SIZE / 2]).unwrap();
                (&stream).read_exact(&mut half).unwrap();
                assert!(half == sent[..SIZE / 2], "client {number}");
                (stream, sent)
            };
            small().spawn_scoped(scope, client).unwrap()
        });
        let clients: Vec<_> = clients.collect();
        let standing: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert_eq!(chain.cut(), 1, "there is one connection");
        for (stream, sent) in &standing {
            assert!(exchange(stream, &sent[SIZE / 2..]) == sent[SIZE / 2..]);
        }
    });
    let expected = serde_json::json!({ "sessions": 1, "connections": CLIENTS });
    assert_eq!(totals(chain.near)["shared"], expected);
}

#[test]
fn ends_and_resets_of_one_connection_are_its_own() {
    let chain = chain();
    let (bystander, its_server) = chain.pair();
    for client_first in [true, false] {
        let (client, server) = chain.pair();
        let (mut first, mut second) =
            if client_first { (&client, &server) } else { (&server, &client) };
        first.write_all(b"request").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        second.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "request");
        assert_eq!(chain.cut(), 1);
        let response = data(3, MIB);
        assert!(exchange(second, &response).is_empty());
        let mut all = Vec::new();
        first.read_to_end(&mut all).unwrap();
        assert!(all == response, "client first: {client_first}");
    }
    for client_resets in [true, false] {
        let (client, server) = chain.pair();
        let (resets, hears) = if client_resets { (client, server) } else { (server, client) };
        drop_with_reset(resets);
        assert!(is_reset(&hears), "client resets: {client_resets}");
    }
    let gone = || (rows(&chain.place, &chain.near).len() == 1).then_some(());
    wait_for("only the bystander is left", gone);
    exchange_all(&[(bystander, its_server)], MIB);
    assert_eq!(totals(chain.near)["shared"]["sessions"], 1);
}

#[test]
fn a_server_that_refuses_costs_its_client_a_reset_and_nobody_else_anything() {
    let chain = chain();
    let pair = chain.pair();
    let refused = chain.server.local_addr().unwrap();
    drop(chain.server);
    let client = patient(TcpStream::connect(chain.near.addr).unwrap());
    assert!(is_reset(&client));
    chain.far.wait_for(&format!("cannot connect to {refused}: Connection refused"));
    exchange_all(&[pair], MIB);
    assert_eq!(sessions(&chain.place, &chain.near).len(), 1);
}

#[test]
fn a_client_whose_shared_session_finds_nobody_is_reset_and_the_reason_is_said() {
    let place = Place::new();
    let nobody = TcpListener::bind(ANY).unwrap().local_addr().unwrap().to_string();
    let near = Gate::new(&place, "near", &["--plain", ANY, "--resilient", &nobody, "--share"]);
    assert!(is_reset(&patient(TcpStream::connect(near.addr).unwrap())));
    near.wait_for(&format!("cannot connect to {nobody}: "));
    assert_eq!(rows(&place, &near), Vec::<Value>::new());
    assert_eq!(totals(near)["unreachable"], 1);
}

#[test]
fn gateways_of_which_one_shares_give_each_connection_a_session() {
    let keys = Place::new();
    let secret = key(&keys, "shared", 1);
    let (keyed, keyed_share) = (["--key", &*secret], ["--share", "--key", &*secret]);
    let cases: [[&[&str]; 2]; 3] = [[SHARE, &[]], [&keyed_share, &keyed], [&keyed, &keyed_share]];
    for [near, far] in cases {
        let chain = Chain::with(Plan::none(), near, far);
        let pairs = [chain.pair(), chain.pair()];
        assert_eq!(sessions(&chain.place, &chain.near).len(), 2, "{near:?} {far:?}");
        if near.contains(&"--share") {
            let listed = rows(&chain.place, &chain.near);
            assert!(listed.iter().all(|row| row["references"] == 1), "{listed:?}");
        }
        assert_eq!(chain.cut(), 2);
        exchange_all(&pairs, MIB);
    }
}

#[test]
fn a_gateway_that_shares_without_keys_refuses_those_that_do_not_with_the_remedy() {
    let chain = Chain::with(Plan::none(), &[], SHARE);
    assert!(is_reset(&chain.connect()));
    chain.near.wait_for("the peer refused: keys differ");
    chain.near.wait_for("both or neither --share");
}

#[test]
fn sharing_works_with_a_key_and_with_names_sealed_while_the_connection_is_cut() {
    const SIZE: usize = 2 * MIB;
    let keys = Place::new();
    let secret = key(&keys, "shared", 1);
    let (ours, theirs) = (key(&keys, "ours", 2), key(&keys, "theirs", 3));
    let public = |byte| StaticKey::from_bytes([byte; 32]).public();
    let clients = keys.file("clients").display().to_string();
    fs::write(&clients, format!("{} laptop\n", public(2))).unwrap();
    fs::set_permissions(&clients, Permissions::from_mode(0o600)).unwrap();
    let known = keys.file("known").display().to_string();
    let by_key = ["--share", "--sealed", "--key", &secret];
    let asks =
        ["--share", "--sealed", "--identity", &ours, "--known-peers", &known, "--accept-new"];
    let shows = ["--share", "--sealed", "--identity", &theirs, "--allowed-clients", &clients];
    let cases: [[&[&str]; 2]; 2] = [[&by_key, &by_key], [&asks, &shows]];
    for (seed, [near, far]) in (7..).zip(cases) {
        let chain = Chain::with(Plan::seeded(seed, 6, 6 * SIZE as u64), near, far);
        let pairs: Vec<_> = (0..3).map(|_| chain.pair()).collect();
        exchange_all(&pairs, SIZE);
        let dials = chain.proxy.stats().summary.accepted;
        assert!(dials > 2, "the cuts hit nothing: {dials} connections");
        assert!(totals(chain.near)["shared"]["sessions"].as_u64() <= Some(2), "{near:?}");
    }
    let listed = fs::read_to_string(&known).unwrap();
    assert!(listed.contains(&public(3).to_string()), "{listed}");
}

#[test]
fn a_server_that_is_not_known_is_named_with_the_line_to_add_when_sessions_are_shared() {
    let keys = Place::new();
    let theirs = key(&keys, "theirs", 3);
    let known = keys.file("known").display().to_string();
    let near = ["--share", "--known-peers", &known];
    let chain = Chain::with(Plan::none(), &near, &["--share", "--identity", &theirs]);
    assert!(is_reset(&chain.connect()));
    let line = format!("{} {}", chain.proxy.local_addr(), StaticKey::from_bytes([3; 32]).public());
    chain.near.wait_for(&format!("add this line to {known}: {line}"));
}

#[test]
fn clients_of_different_addresses_share_nothing_when_they_are_isolated() {
    let from = |gate: &Gate, source: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let source: SocketAddr = source.parse().unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&gate.addr.into()).unwrap();
        patient(socket.into())
    };
    for (options, expected) in [(&["--share", "--isolate-by", "source"][..], 2), (SHARE, 1)] {
        let chain = Chain::with(Plan::none(), options, SHARE);
        let sources = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0", "127.0.0.2:0"];
        let pairs = sources.map(|source| {
            let client = from(&chain.near, source);
            (client, patient(chain.server.accept().unwrap().0))
        });
        exchange_all(&pairs, 10_000);
        assert_eq!(sessions(&chain.place, &chain.near).len(), expected, "{options:?}");
        let metrics = chain.place.run(&["dedup", "metrics"]);
        assert_eq!(
            metrics.stdout.contains("not shared: key-differs"),
            expected == 2,
            "{metrics:?}"
        );
    }
}

#[test]
fn a_gateway_that_drains_keeps_its_shared_session_and_takes_nobody_new() {
    let chain = chain();
    let pair = chain.pair();
    chain.far.terminate();
    chain.far.running.json("draining");
    assert!(is_reset(&chain.connect()), "the far gateway takes no more");
    chain.near.terminate();
    chain.near.running.json("draining");
    // The connection that was refused may just be going.
    assert!(chain.cut() >= 1);
    exchange_all(&[pair], MIB);
    for mut gate in [chain.near, chain.far] {
        let (code, lines) = gate.running.wait();
        assert_eq!(code, Some(0), "{lines:?}");
    }
}

#[test]
fn shared_connections_that_outlast_the_drain_are_reset() {
    let mut chain = Chain::with(Plan::none(), &["--share", "--drain", "200ms"], SHARE);
    let (client, server) = chain.pair();
    chain.near.terminate();
    assert!(is_reset(&client));
    assert!(is_reset(&server));
    assert_eq!(chain.near.running.wait().0, Some(1));
}

#[test]
fn a_reader_that_pauses_on_a_shared_session_holds_nobody_else_back() {
    // A window of 8 MiB, what four kernel buffers take, and some.
    const HELD_MAX: usize = 64 * MIB;
    let chain = chain();
    let (client, server) = chain.pair();
    let sent = data(4, 2 * HELD_MAX);
    client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut taken = 0;
    while let Ok(n) = (&client).write(&sent[taken..]) {
        taken += n;
        assert!(taken < HELD_MAX, "{taken} bytes were taken, and nobody reads");
    }
    exchange_all(&[chain.pair()], 4 * MIB);
    assert_eq!(chain.cut(), 1);
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    (&server).read_to_end(&mut heard).unwrap();
    assert!(heard == sent[..taken], "what arrived differs");
}

#[test]
fn isolation_without_sharing_and_on_the_side_that_listens_is_refused() {
    let place = Place::new();
    let out = ["--plain", ANY, "--resilient", "127.0.0.1:1"];
    let inn = ["--resilient-listen", ANY, "--plain-to", "127.0.0.1:1"];
    let cases: [(&[&str], &[&str], &str); 3] = [
        (&out, &["--isolate-by", "source"], "--isolate-by needs --share"),
        (&inn, &["--share", "--isolate-by", "source"], "--isolate-by belongs to --resilient"),
        (&out, &["--share", "--isolate-by", "moon"], "possible values: source"),
    ];
    for (way, options, expected) in cases {
        let done = place.run(&[&["gateway"], way, options].concat());
        assert_eq!(done.code, Some(2), "{options:?}: {done:?}");
        assert!(done.stderr.contains(expected), "{options:?}: {done:?}");
    }
}
