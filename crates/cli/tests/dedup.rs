//! `evs dedup` against gateways that share sessions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

use common::{PATIENCE, Place, Running};
use serde_json::Value;

const ANY: &str = "127.0.0.1:0";

/// A client, two gateways and a server; the connections stand.
struct Shared {
    place: Place,
    near: Running,
    _far: Running,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Shared {
    fn new() -> Self {
        let place = Place::new();
        let server = TcpListener::bind(ANY).unwrap();
        let to = server.local_addr().unwrap().to_string();
        let far = ["gateway", "--json", "--share", "--resilient-listen", ANY, "--plain-to", &to];
        let far = place.start(&far);
        let to = far.addr().to_string();
        let near = ["gateway", "--json", "--share", "--plain", ANY, "--resilient", &to];
        let near = place.start(&near);
        let addr = near.addr();
        let pair = |_| {
            let mut client = TcpStream::connect(addr).unwrap();
            client.write_all(b"?").unwrap();
            let mut server = server.accept().unwrap().0;
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server.read_exact(&mut [0]).unwrap();
            (client, server)
        };
        let pairs = (0..3).map(pair).collect();
        Self { place, near, _far: far, pairs }
    }

    fn pid(&self) -> String {
        self.near.child.id().to_string()
    }
}

fn json(place: &Place, args: &[&str]) -> Value {
    let done = place.run(args);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{args:?}: {done:?}");
    serde_json::from_str(&done.stdout).unwrap()
}

#[test]
fn nobody_shares_anything() {
    let place = Place::new();
    for what in ["ls", "metrics"] {
        assert_eq!(json(&place, &["dedup", what, "--json"]), serde_json::json!([]));
        let done = place.run(&["dedup", what]);
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{done:?}");
        assert!(done.stderr.contains("looked in"), "{done:?}");
        let done = place.run(&["dedup", what, "--pid", "4194305"]);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stderr.contains("process 4194305 has no control socket"), "{done:?}");
    }
    assert_eq!(place.run(&["dedup"]).code, Some(2));
}

#[test]
fn connections_are_listed_with_their_server_session_line_and_reason() {
    let shared = Shared::new();
    let rows = json(&shared.place, &["dedup", "ls", "--json"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    let pid = shared.near.child.id();
    assert!(rows.iter().all(|row| row["pid"] == pid && row["pool"] == 1), "{rows:?}");
    let done = shared.place.run(&["dedup", "ls"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let headings: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        headings.join(" "),
        "MGMT PID APPLICATION REQUESTED ADDRESS SERVER SESSION EPOCH STATE REFS RTT LOSS WHY"
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
    for (line, row) in lines[1..].iter().zip(rows) {
        let text = |key: &str| row[key].as_str().unwrap();
        let short = |key: &str| text(key)[..8].to_owned();
        assert_eq!(text("requested"), text("address"));
        let expected = [
            row["management"].to_string(),
            shared.pid(),
            text("application").to_owned(),
            text("requested").to_owned(),
            text("address").to_owned(),
            short("server"),
            short("session"),
            "1".to_owned(),
            "active".to_owned(),
            "3".to_owned(),
        ];
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[..10], expected, "{line}");
        assert_eq!(*cells.last().unwrap(), text("why"));
    }
    let clients = shared.pairs.iter().map(|(client, _)| client.local_addr().unwrap().to_string());
    assert!(clients.zip(&lines[1..]).all(|(client, line)| line.contains(&client)), "{lines:?}");
    let of_one = json(&shared.place, &["dedup", "ls", "--json", "--pid", &shared.pid()]);
    assert_eq!(of_one.as_array().unwrap().len(), 3);
}

#[test]
fn what_pools_have_counted_is_shown() {
    let shared = Shared::new();
    let metrics = json(&shared.place, &["dedup", "metrics", "--json"]);
    let only = &metrics[0];
    assert_eq!(only["pid"].to_string(), shared.pid());
    assert_eq!((&only["opens"], &only["sessions_saved"]), (&3.into(), &2.into()), "{only}");
    let done = shared.place.run(&["dedup", "metrics"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let figure = |name: &str| {
        let line = done.stdout.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(figure("PID"), shared.pid());
    assert_eq!((figure("opens"), figure("sessions opened")), ("3".to_owned(), "1".to_owned()));
    assert_eq!(figure("sessions saved"), "2", "{done:?}");
}

#[test]
fn stale_and_silent_sockets_do_not_stand_in_the_way() {
    let shared = Shared::new();
    let sockets = shared.place.sockets();
    drop(UnixListener::bind(sockets.join("999999998.sock")).unwrap());
    let silent = UnixListener::bind(sockets.join("999999999.sock")).unwrap();
    let done = shared.place.run(&["dedup", "ls"]);
    assert_eq!((done.code, done.stdout.lines().count()), (Some(0), 4), "{done:?}");
    assert!(done.stderr.contains("process 999999999 gives no table dedup"), "{done:?}");
    assert!(!done.stderr.contains("999999998"), "{done:?}");
    drop(silent);
}
