//! Gateways with keys: who meets whom, what is said to those who do not, and limits of a listener.

use std::path::PathBuf;

use eversock_engine::keys;
use eversock_proto::identity::StaticKey;

use super::*;

/// A file of the test's own with a key of this byte.
fn key(place: &Place, name: &str, byte: u8) -> String {
    let path = place.file(name);
    keys::write_key(&path, &[byte; 32]).unwrap();
    path.display().to_string()
}

fn public(byte: u8) -> String {
    StaticKey::from_bytes([byte; 32]).public().to_string()
}

/// A file that lists who is trusted.
fn list(place: &Place, name: &str, text: &str) -> String {
    let path = place.file(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Asks through a gateway, and has the server answer.
fn talk(near: &Gate, server: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = patient(TcpStream::connect(near.addr).unwrap());
    let mut served = patient(server.accept().unwrap().0);
    let mut heard = [0; 5];
    client.write_all(b"hello").unwrap();
    served.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    served.write_all(b"there").unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"there");
    (client, served)
}

/// True when a client of this gateway is reset.
fn is_refused(near: &Gate) -> bool {
    is_reset(&patient(TcpStream::connect(near.addr).unwrap()))
}

/// A server, and what a gateway in front of it listens with.
fn far(place: &Place, at: &str, options: &[&str]) -> (Gate, TcpListener) {
    let server = TcpListener::bind(ANY).unwrap();
    let to = server.local_addr().unwrap().to_string();
    let args = [&["--resilient-listen", at, "--plain-to", &to], options].concat();
    (Gate::new(place, &format!("far-{}", to.replace(':', "-")), &args), server)
}

fn near(place: &Place, name: &str, to: SocketAddr, options: &[&str]) -> Gate {
    let to = to.to_string();
    Gate::new(place, name, &[&["--plain", ANY, "--resilient", &to], options].concat())
}

#[test]
fn bytes_come_through_two_sealed_gateways_whole_while_the_connection_between_them_is_cut() {
    const SIZE: usize = 12 * MIB;
    const CUTS: usize = 12;
    let keys = Place::new();
    let shared = key(&keys, "shared", 1);
    let (ours, theirs) = (key(&keys, "ours", 2), key(&keys, "theirs", 3));
    let clients = list(&keys, "clients", &format!("{} laptop\n", public(2)));
    let known = keys.file("known").display().to_string();
    let with_key = ["--sealed", "--key", &shared];
    let by_key: [&[&str]; 2] = [&with_key; 2];
    let by_names: [&[&str]; 2] = [
        &["--sealed", "--identity", &ours, "--known-peers", &known, "--accept-new"],
        &["--sealed", "--identity", &theirs, "--allowed-clients", &clients],
    ];
    for (seed, [near, far]) in [(7, by_key), (8, by_names)] {
        let chain = Chain::with(Plan::seeded(seed, CUTS, 2 * SIZE as u64), near, far);
        let client = chain.connect();
        let server = patient(chain.server.accept().unwrap().0);
        let (up, down) = (data(1, SIZE), data(2, SIZE));
        thread::scope(|scope| {
            let served = scope.spawn(|| exchange(&server, &down));
            assert!(exchange(&client, &up) == down, "what the server sent differs");
            assert!(served.join().unwrap() == up, "what the client sent differs");
        });
        let dials = chain.proxy.stats().summary.accepted;
        assert!(dials > 3, "the cuts hit nothing: {dials} connections");
    }
    let listed = fs::read_to_string(&known).unwrap();
    assert!(listed.contains(&public(3)) && listed.lines().count() == 1, "{listed}");
}

#[test]
fn a_gateway_without_the_key_or_with_another_is_refused_and_told_what_both_ends_need() {
    let place = Place::new();
    let (one, other) = (key(&place, "one", 1), key(&place, "other", 2));
    let (far, server) = far(&place, ANY, &["--sealed", "--key", &one]);
    let keys_differ = "the peer refused: keys differ; both ends need the same --key";
    let cases: [(&str, &[&str], &str); 4] = [
        ("nothing", &[], keys_differ),
        ("no-key", &["--sealed"], keys_differ),
        ("wrong-key", &["--sealed", "--key", &other], keys_differ),
        ("clear", &["--key", &one], "one side wants the session sealed, the other does not"),
    ];
    for (name, options, expected) in cases {
        let stranger = near(&place, name, far.addr, options);
        assert!(is_refused(&stranger), "{name}");
        stranger.wait_for(&format!("cannot connect to {}: the peer refused: ", far.addr));
        stranger.wait_for(expected);
    }
    drop(talk(&near(&place, "friend", far.addr, &["--sealed", "--key", &one]), &server));
}

#[test]
fn a_gateway_that_lists_its_clients_serves_those_on_the_list_and_nobody_else() {
    let place = Place::new();
    let (ours, stranger, theirs) =
        (key(&place, "ours", 2), key(&place, "strange", 4), key(&place, "theirs", 3));
    let clients = list(&place, "clients", &format!("# mine\n{} laptop\n", public(2)));
    let (far, server) = far(&place, ANY, &["--identity", &theirs, "--allowed-clients", &clients]);
    let known = list(&place, "known", &format!("{} {}\n", far.addr, public(3)));
    let cases: [(&str, &[&str]); 3] = [
        ("nameless", &["--known-peers", &known]),
        ("stranger", &["--known-peers", &known, "--identity", &stranger]),
        ("unasking", &[]),
    ];
    for (name, options) in cases {
        let near = near(&place, name, far.addr, options);
        assert!(is_refused(&near), "{name}");
        near.wait_for(&format!("cannot connect to {}: ", far.addr));
    }
    far.wait_for(&format!("the client's static key {} is not on the list", public(4)));
    let friend = near(&place, "friend", far.addr, &["--known-peers", &known, "--identity", &ours]);
    drop(talk(&friend, &server));
}

#[test]
fn a_server_that_has_changed_its_key_is_refused_until_the_line_that_is_named_is_removed() {
    let place = Place::new();
    let (old, new) = (key(&place, "old", 3), key(&place, "new", 5));
    let known = list(&place, "known", "# servers\n\n");
    let (first, server) = far(&place, ANY, &["--sealed", "--identity", &old]);
    let addr = first.addr;
    let options = ["--sealed", "--known-peers", &known, "--accept-new"];
    let near = near(&place, "near", addr, &options);
    drop(talk(&near, &server));
    let listed = fs::read_to_string(&known).unwrap();
    assert_eq!(listed.lines().nth(2), Some(&*format!("{addr} {}", public(3))), "{listed}");
    drop((first, server));

    let (_second, server) = far(&place, &addr.to_string(), &["--sealed", "--identity", &new]);
    assert!(is_refused(&near));
    let named = format!(
        "cannot connect to {addr}: {addr} has not proven to have the static key in {known}:3: "
    );
    near.wait_for(&named);
    near.wait_for(&format!("remove line 3 of {known}, and the new one is believed"));
    assert_eq!(fs::read_to_string(&known).unwrap(), listed, "it is for the user to remove it");
    // As it was told; the gateway goes on.
    fs::write(&known, "# servers\n\n").unwrap();
    drop(talk(&near, &server));
    assert!(fs::read_to_string(&known).unwrap().contains(&public(5)));
}

#[test]
fn a_server_that_is_not_listed_is_refused_with_the_line_to_add() {
    let place = Place::new();
    let theirs = key(&place, "theirs", 3);
    let known = place.file("known");
    let (far, server) = far(&place, ANY, &["--identity", &theirs]);
    let near = near(&place, "near", far.addr, &["--known-peers", &known.display().to_string()]);
    assert!(is_refused(&near));
    let line = format!("{} {}", far.addr, public(3));
    near.wait_for(&format!("add this line to {}: {line}", known.display()));
    assert!(!PathBuf::from(&known).exists());
    list(&place, "known", &format!("{line}\n"));
    drop(talk(&near, &server));
}

#[test]
fn a_gateway_with_all_its_sessions_refuses_more_until_one_has_ended() {
    let chain = Chain::with(Plan::none(), &[], &["--sessions-max", "1"]);
    let (client, server) = chain.pair();
    assert!(is_reset(&chain.connect()));
    chain.near.wait_for("the peer refused: it is busy");
    drop((client, server));
    wait_for("the session ends", || chain.place.sessions().is_empty().then_some(()));
    drop(chain.pair());
}

#[test]
fn a_gateway_whose_sessions_hold_too_much_memory_refuses_more_until_they_hold_less() {
    let limits = ["--memory-max", "200KiB", "--handshakes-per-source", "8"];
    let chain = Chain::with(Plan::none(), &[], &limits);
    let (client, server) = chain.pair();
    // The server writes for as long as anything takes it, and nobody reads: in the end the log of
    // the session at its gateway is full. Until then clients are served, whenever that is: a writer
    // that is held up once may only have met busy programs.
    let sent = data(9, 32 * MIB);
    server.set_nonblocking(true).unwrap();
    let mut taken = 0;
    wait_for("a client is refused", || {
        while taken < sent.len()
            && let Ok(n) = (&server).write(&sent[taken..])
        {
            taken += n;
        }
        chain.is_served().is_none().then_some(())
    });
    chain.near.wait_for("the peer refused: it is busy");
    let mut heard = vec![0; taken];
    (&client).read_exact(&mut heard).unwrap();
    assert!(heard == sent[..taken], "what arrived differs");
    // What was read is confirmed a little later: clients are reset until then.
    let served = wait_for("there is room again", || chain.is_served());
    drop((served, client, server));
}

#[test]
fn options_of_the_other_side_and_wrong_limits_are_refused_with_what_was_expected() {
    let place = Place::new();
    let (one, no) = (key(&place, "one", 1), "/nonexistent/file");
    let out = ["--plain", ANY, "--resilient", "127.0.0.1:1"];
    let inn = ["--resilient-listen", ANY, "--plain-to", "127.0.0.1:1"];
    let cases: [(&[&str], &[&str], &str); 13] = [
        (&out, &["--allowed-clients", no], "belongs to --resilient-listen"),
        (&inn, &["--known-peers", no], "belong to --resilient"),
        (&out, &["--identity", &one], "--identity needs --known-peers"),
        (&out, &["--key", &one, "--known-peers", no], "exclude each other"),
        (&out, &["--accept-new"], "`accept-new` needs `known-peers`"),
        (&inn, &["--allowed-clients", no], "`allowed-clients` needs an `identity`"),
        (&inn, &["--identity", &one, "--allowed-clients", no], no),
        (&inn, &["--identity", no], "/nonexistent/file: the key cannot be read"),
        (&out, &["--sessions-max", "5"], "belong to --resilient-listen"),
        (&inn, &["--sessions-max", "-1"], "unexpected argument '-1'"),
        (&inn, &["--sessions-max", "many"], "invalid digit"),
        (&inn, &["--memory-max", "lots"], "a size is like 256MiB"),
        (&inn, &["--handshakes-per-source", "4294967296"], "4294967296"),
    ];
    for (way, options, expected) in cases {
        let done = place.run(&[&["gateway"], way, options].concat());
        assert_eq!(done.code, Some(2), "{options:?}: {done:?}");
        assert!(done.stderr.contains(expected), "{options:?}: {done:?}");
    }
}
