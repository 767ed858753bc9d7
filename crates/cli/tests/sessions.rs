//! `evs ls`, `info`, `top`, `kill`, `redial` and `answer` against processes with sessions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::os::unix::net::UnixListener;

use common::{Place, Running};
use eversock_chaos::{Config, Fault, Proxy, Target};
use serde_json::Value;

/// A server, a client, and a proxy between them.
struct Pair {
    place: Place,
    proxy: Proxy,
    server: Running,
    client: Running,
}

impl Pair {
    fn new(more: &[&str]) -> Self {
        let place = Place::new();
        let server = place.start(&["hold", "--listen", "127.0.0.1:0"]);
        let config = Config::new("127.0.0.1:0".parse().unwrap(), server.addr());
        let proxy = Proxy::spawn(config).unwrap();
        let addr = proxy.local_addr().to_string();
        let client = place.start(&[&["hold", "--connect", &addr], more].concat());
        client.json("connected");
        Self { place, proxy, server, client }
    }

    /// The entry of the client's end.
    fn client(&self) -> Value {
        let pid = self.client.child.id();
        let found = self.place.sessions().into_iter().find(|entry| entry["pid"] == pid);
        found.expect("the client has a session")
    }

    fn client_id(&self) -> String {
        self.client()["id"].as_str().unwrap().to_owned()
    }

    fn cut(&self) {
        self.proxy.inject(Fault::Reset, Target::All).unwrap();
    }

    fn echo(&mut self, text: &str) {
        self.client.say(text);
        assert_eq!(self.client.json("heard")["text"], text);
    }
}

fn ok(place: &Place, args: &[&str]) -> String {
    let done = place.run(args);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{args:?}: {done:?}");
    done.stdout
}

#[test]
fn nobody_has_a_session() {
    let place = Place::new();
    assert_eq!(place.sessions(), Vec::<Value>::new());
    let done = place.run(&["ls"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""));
    let done = place.run(&["kill", "1:1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("there is no session 1:1"), "{done:?}");
    assert_eq!(place.run(&["info", "what?"]).code, Some(2));
}

#[test]
fn both_ends_are_listed_and_described() {
    let mut pair = Pair::new(&[]);
    pair.echo("hello");
    let client = pair.client();
    let id = client["id"].as_str().unwrap();
    let session = client["session"].as_str().unwrap();
    assert_eq!((&client["role"], &client["state"]), (&"client".into(), &"attached".into()));
    assert_eq!(client["written"], 5);

    let list = ok(&pair.place, &["ls"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    for word in ["SESSION", id, &session[..12], "client", "server", "attached"] {
        assert!(list.contains(word), "{word}: {list}");
    }
    let info = ok(&pair.place, &["info", id]);
    assert!(info.contains(session) && info.contains("attached"), "{info}");
    let info: Value = serde_json::from_str(&ok(&pair.place, &["info", id, "--json"])).unwrap();
    assert_eq!(info["session"], session);

    let done = pair.place.run(&["info", &session[..16]]);
    assert_eq!(done.code, Some(2), "both ends have the id: {done:?}");
    assert!(done.stderr.contains(id) && done.stderr.contains("server"), "{done:?}");

    let frame = ok(&pair.place, &["top", "--once"]);
    assert!(frame.starts_with("2 sessions, 2 attached\n") && frame.contains(id), "{frame}");
    let done = pair.place.run(&["top"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("--once"), "{done:?}");
}

#[test]
fn a_session_is_redialled_on_demand_and_goes_on() {
    let mut pair = Pair::new(&[]);
    pair.echo("before");
    let client = pair.client();
    let (id, session) = (pair.client_id(), client["session"].as_str().unwrap().to_owned());
    ok(&pair.place, &["redial", &session[..16]]);
    pair.place.wait_for_session(&id, "resumed", |entry| {
        entry["resumes"].as_u64() >= Some(1) && entry["state"] == "attached"
    });
    pair.echo("after");

    let pid = pair.server.child.id();
    let entries = pair.place.sessions();
    let server = entries.iter().find(|entry| entry["pid"] == pid).unwrap();
    let done = pair.place.run(&["redial", server["id"].as_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("only the client's end can dial"), "{done:?}");
}

#[test]
fn a_killed_session_ends_with_an_error_on_both_sides() {
    let mut pair = Pair::new(&[]);
    pair.echo("alive");
    ok(&pair.place, &["kill", &pair.client_id()]);
    let client = pair.client.json("ended");
    assert!(client["error"].as_str().unwrap().contains("os error 103"), "{client}");
    let server = pair.server.json("ended");
    assert!(server["error"].as_str().unwrap().contains("os error 104"), "{server}");
}

#[test]
fn a_session_that_asks_gets_its_answer() {
    let mut pair = Pair::new(&["--ask"]);
    pair.echo("one");
    let id = pair.client_id();
    let done = pair.place.run(&["answer", &id, "continue"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("does not ask anything: it is attached"), "{done:?}");

    pair.cut();
    pair.place.wait_for_session(&id, "asking", |entry| entry["state"] == "asking");
    ok(&pair.place, &["answer", &id, "continue"]);
    pair.place.wait_for_session(&id, "attached", |entry| {
        entry["state"] == "attached" && entry["resumes"] == 1
    });
    pair.echo("two");

    pair.cut();
    pair.place.wait_for_session(&id, "asking", |entry| entry["state"] == "asking");
    ok(&pair.place, &["answer", &id, "give-up"]);
    let ended = pair.client.json("ended");
    assert!(ended["error"].is_string(), "{ended}");
}

#[test]
fn stale_and_silent_sockets_do_not_stand_in_the_way() {
    let pair = Pair::new(&[]);
    let sockets = pair.place.sockets();
    // One that a dead process left behind, and one whose process does not answer.
    drop(UnixListener::bind(sockets.join("999999998.sock")).unwrap());
    let silent = UnixListener::bind(sockets.join("999999999.sock")).unwrap();
    let done = pair.place.run(&["ls"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout.lines().count(), 3, "{done:?}");
    assert!(done.stderr.contains("process 999999999 does not answer"), "{done:?}");
    assert!(!done.stderr.contains("999999998"), "{done:?}");
    drop(silent);
}

#[test]
fn a_directory_that_others_can_write_to_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    std::fs::create_dir(place.sockets()).unwrap();
    std::fs::set_permissions(place.sockets(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let done = place.run(&["ls"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("not trusted"), "{done:?}");
}
