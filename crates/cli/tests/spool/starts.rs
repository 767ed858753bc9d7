//! Fronts that must not start, and fronts that end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::common::{PATIENCE, Place, wait_for};
use crate::world::World;

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let place = Place::new();
    let config = place.file("front.toml");
    let path = config.to_str().unwrap();
    let check = |text: &str, expected: &str| {
        fs::write(&config, text).unwrap();
        for command in [&["spool", "run"][..], &["spool", "stat"], &["spool", "hold", "mail"]] {
            let done = place.run(&[command, &["--config", path]].concat());
            assert_eq!(done.code, Some(2), "{done:?}");
            assert!(done.stderr.starts_with(&format!("evs: {path}:")), "{done:?}");
            assert!(done.stderr.contains(expected), "{expected}: {done:?}");
        }
    };
    check("dir = \"d\"\nlistne = 1\n", ":2: unknown field `listne`, expected one of");
    check("dir = \"d\"\n", "`pair`: there is none; add a [[pair]]");
    check("dir = d\n", ":1: ");
    let done = place.run(&["spool", "run", "--config", "/nonexistent/spool.toml"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.stderr.contains("/nonexistent/spool.toml: cannot be read"), "{done:?}");
}

#[test]
fn a_second_front_on_the_same_spool_is_refused() {
    let world = World::new();
    let front = world.start();
    let second = world.run(&["run"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("a front runs here already; stop it first"), "{second:?}");
    // Also one that does not see the other's control socket.
    let other = world.place.file("other.toml");
    let text = fs::read_to_string(&world.config).unwrap();
    fs::write(&other, format!("control = \"other.sock\"\n{text}")).unwrap();
    let path = other.to_str().unwrap();
    let second = world.place.run(&["spool", "run", "--config", path]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("is held by another process: stop it first"), "{second:?}");
    let order = world.place.run(&["spool", "hold", "mail", "--config", path]);
    assert_eq!(order.code, Some(1), "{order:?}");
    assert!(order.stderr.contains("has it another `control`?"), "{order:?}");
    // The first has noticed nothing.
    world.wait_until_normal();
    front.stop();
}

#[test]
fn an_address_that_is_taken_is_named_with_its_line() {
    let world = World::new();
    let front = world.start();
    let taken = front.door("http");
    let text = fs::read_to_string(&world.config).unwrap();
    let text = text
        .replace("[[http]]\nlisten = \"127.0.0.1:0\"", &format!("[[http]]\nlisten = \"{taken}\""));
    let other = world.place.file("other.toml");
    fs::write(&other, text.replace("dir = \"spool\"", "dir = \"other\"")).unwrap();
    let done = world.place.run(&["spool", "run", "--config", other.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("other.toml:5: [[http]]: `listen`"), "{done:?}");
    assert!(done.stderr.contains("take another port"), "{done:?}");
    front.stop();
}

#[test]
fn whoever_waits_is_told_when_the_front_ends() {
    let mut world = World::new();
    // Nobody there who could answer.
    for server in &mut world.servers {
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    let mut front = world.start();
    let mut client = TcpStream::connect(front.door("http")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    world.wait_for_pair("with a request that waits", |pair| pair["live"]["waiting"] == 1);
    front.terminate();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("eversock-outcome: rejected"), "{answer}");
    let (code, _) = front.running.wait();
    assert_eq!(code, Some(0));
    assert_eq!(world.json(&["stat"])[0]["state"], "stopped");
}

#[test]
fn writes_are_taken_while_no_server_is_there() {
    let mut world = World::new();
    for server in &mut world.servers {
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    let front = world.start();
    let mut client = TcpStream::connect(front.door("http")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let put = "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    client.write_all(put.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let rows =
        wait_for("the record is listed", || Some(world.rows()).filter(|rows| !rows.is_empty()));
    assert_eq!((rows.len(), rows[0]["key"].as_str()), (1, Some("/x")), "{rows:?}");

    let client = TcpStream::connect(front.door("smtp")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut replies = BufReader::new(&client).lines();
    // The last line of a reply has a blank behind its code.
    let mut reply = || loop {
        let line = replies.next().unwrap().unwrap();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line;
        }
    };
    assert!(reply().starts_with("220 "));
    for (said, code) in [
        ("EHLO client.example", "250"),
        ("MAIL FROM:<a@example.org>", "250"),
        ("RCPT TO:<bob@example.org>", "250"),
        ("DATA", "354"),
        ("Subject: hello\r\n\r\nhi\r\n.", "250"),
        ("QUIT", "221"),
    ] {
        (&client).write_all(format!("{said}\r\n").as_bytes()).unwrap();
        let reply = reply();
        assert!(reply.starts_with(code), "{said}: {reply}");
    }
    assert_eq!(world.rows().len(), 2);
    front.stop();
}
