//! Clients that are slow, rude, too many, or gone.

use std::sync::Arc;
use std::time::Duration;

use eversock_spool::Outcome;
use eversock_spool::http::{HttpFront, HttpFrontConfig};

use crate::client::Client;
use crate::fake::{Fake, Reaction};
use crate::front::{answer, config};
use crate::wait_until;

const SHORT: Duration = Duration::from_millis(300);
const PUT: &str = "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";

fn start(fake: &Arc<Fake>, change: impl FnOnce(&mut HttpFrontConfig)) -> HttpFront {
    let mut config = config();
    change(&mut config);
    HttpFront::start(config, fake.clone()).unwrap()
}

#[test]
fn what_is_no_http_gets_a_word_or_nothing_and_the_front_goes_on() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |_| {});
    for bad in [
        &b"\r\n\r\nwhat\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /a HTTP/9.9\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /a HTTP/1.1\r\nbad header: 1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut client = Client::connect(front.local_addr());
        client.try_send(bad);
        if let Some(response) = client.response(false) {
            assert!((400..=505).contains(&response.status), "{bad:?}: {response:?}");
        }
        assert!(client.is_over(), "{bad:?}");
    }
    assert_eq!(fake.count(), 0);
    assert_eq!(Client::connect(front.local_addr()).ask(PUT).status, 200);
}

#[test]
fn too_many_headers_are_refused() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |_| {});
    let many = format!("GET /a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert_eq!(Client::connect(front.local_addr()).ask(&many).status, 431);
    let long = format!("GET /a HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(70_000));
    assert_eq!(Client::connect(front.local_addr()).ask(&long).status, 431);
    let mut client = Client::connect(front.local_addr());
    client.send("GET /a HTTP/1.1\r\n");
    let line = format!("a: {}\r\n", "b".repeat(1000));
    // A head without an end; it is refused before all of it has gone.
    for _ in 0..1000 {
        if !client.try_send(&line) {
            break;
        }
    }
    assert!(client.is_over());
    assert_eq!(fake.count(), 0);
}

#[test]
fn a_body_that_is_too_long_is_refused_with_a_word() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |config| config.body_max = 1000);
    let put = "PUT /a HTTP/1.1\r\nhost: x\r\n";
    let whole = "a".repeat(1000);
    let mut client = Client::connect(front.local_addr());
    assert_eq!(client.ask(&format!("{put}content-length: 1000\r\n\r\n{whole}")).status, 200);
    let chunked = format!("{put}transfer-encoding: chunked\r\n\r\n3e8\r\n{whole}\r\n");
    assert_eq!(client.ask(&format!("{chunked}0\r\n\r\n")).status, 200);
    let response = client.ask(&format!("{chunked}1\r\na\r\n0\r\n\r\n"));
    assert_eq!(response.status, 413);
    let mut client = Client::connect(front.local_addr());
    let response = client.ask(&format!("{put}content-length: 1001\r\n\r\n{whole}b"));
    assert_eq!(response.status, 413);
    assert!(response.json()["message"].as_str().unwrap().contains("1000 bytes"));
    // Who asks first is not made to send it.
    let mut client = Client::connect(front.local_addr());
    let asks = format!("{put}content-length: 5000\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(client.ask(&asks).status, 413);
    // And who may send is told so.
    let mut client = Client::connect(front.local_addr());
    client.send(format!("{put}content-length: 3\r\nexpect: 100-continue\r\n\r\n"));
    assert_eq!(client.response(false).unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.response(false).unwrap().status, 200);
    assert_eq!(fake.count(), 3);
}

#[test]
fn who_is_slow_with_a_request_loses_the_connection() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |config| {
        (config.header_timeout, config.body_timeout) = (SHORT, SHORT);
    });
    let mut idle = Client::connect(front.local_addr());
    let mut slow_head = Client::connect(front.local_addr());
    slow_head.send("GET /a HTTP/1.1\r\nhost");
    let mut slow_body = Client::connect(front.local_addr());
    slow_body.send("PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
    assert_eq!(slow_body.response(false).unwrap().status, 408);
    assert!(slow_body.is_over());
    assert!(slow_head.is_over());
    assert!(idle.is_over());
    wait_until("no connection is left", || front.connections() == 0);
    assert_eq!(fake.count(), 0);
}

#[test]
fn who_does_not_read_loses_the_connection() {
    let body = "a".repeat(30 << 20);
    let fake = Fake::saying(answer(200, &[], &body));
    let front = start(&fake, |config| config.write_timeout = SHORT);
    let mut client = Client::connect(front.local_addr());
    client.send("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    wait_until("it was asked", || fake.count() == 1);
    wait_until("the connection is given up", || front.connections() == 0);
}

#[test]
fn bodies_share_their_memory() {
    let fake = Fake::new(|_, _| Reaction::Wait);
    let front = start(&fake, |config| {
        (config.body_max, config.bodies_max, config.body_timeout) = (4096, 4096, SHORT);
    });
    let request =
        format!("PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4096\r\n\r\n{}", "a".repeat(4096));
    let mut first = Client::connect(front.local_addr());
    first.send(&request);
    wait_until("the first was asked", || fake.count() == 1);
    let second = Client::connect(front.local_addr()).ask(&request);
    assert_eq!(second.status, 503);
    assert!(second.header("retry-after").is_some());
    fake.let_go(&answer(200, &[], ""));
    assert_eq!(first.response(false).unwrap().status, 200);
    let mut third = Client::connect(front.local_addr());
    third.send(&request);
    wait_until("the share came back", || fake.count() == 2);
}

#[test]
fn a_connection_too_many_waits_for_its_place() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |config| config.connections_max = 2);
    let mut held: Vec<Client> = (0..2).map(|_| Client::connect(front.local_addr())).collect();
    held.iter_mut().for_each(|client| assert_eq!(client.ask(PUT).status, 200));
    assert_eq!(front.connections(), 2);
    let mut third = Client::connect(front.local_addr());
    third.send(PUT);
    // The others are served meanwhile, and the third is not.
    (0..20).for_each(|_| assert_eq!(held[1].ask(PUT).status, 200));
    assert_eq!((front.connections(), fake.count()), (2, 22));
    drop(held.remove(0));
    assert_eq!(third.response(false).unwrap().status, 200);
}

#[test]
fn a_request_goes_on_when_its_client_has_gone() {
    let fake = Fake::new(|_, _| Reaction::Wait);
    let front = start(&fake, |_| {});
    let mut client = Client::connect(front.local_addr());
    client.send(PUT);
    wait_until("it was asked", || fake.count() == 1);
    drop(client);
    wait_until("the front has seen it go", || front.connections() == 0);
    // Its callback is still there to be called, and harms nobody.
    fake.let_go(&Outcome::Spooled { lsn: 1 });
    let mut other = Client::connect(front.local_addr());
    other.send(PUT);
    wait_until("the front goes on", || fake.count() == 2);
    fake.let_go(&Outcome::Spooled { lsn: 2 });
    assert_eq!(other.response(false).unwrap().header("eversock-lsn"), Some("2"));
}

#[test]
fn half_a_request_is_none() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(&fake, |_| {});
    for half in [
        "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc",
        "PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "PUT /a HTTP/1.1\r\nho",
    ] {
        let mut client = Client::connect(front.local_addr());
        client.send(half);
        wait_until("it is connected", || front.connections() == 1);
        drop(client);
        wait_until("the front has seen it go", || front.connections() == 0);
    }
    assert_eq!(fake.count(), 0);
}

#[test]
fn requests_of_one_connection_are_answered_in_their_order() {
    let fake = Fake::new(|_, request| {
        let text = String::from_utf8_lossy(&request.key).into_owned();
        Reaction::Say(answer(200, &[], &text))
    });
    let front = start(&fake, |_| {});
    let mut client = Client::connect(front.local_addr());
    let all: String = (0..50).map(|at| format!("GET /{at} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    client.send(all);
    for at in 0..50 {
        assert_eq!(client.response(false).unwrap().body, format!("/{at}").as_bytes());
    }
}

#[test]
fn a_front_that_closes_lets_requests_end() {
    let fake = Fake::new(|_, _| Reaction::Wait);
    let front = start(&fake, |_| {});
    let address = front.local_addr();
    let mut busy = Client::connect(address);
    busy.send(PUT);
    let mut idle = Client::connect(address);
    wait_until("both are there", || fake.count() == 1 && front.connections() == 2);
    let closing = std::thread::spawn(move || front.close(crate::PATIENCE));
    assert!(idle.is_over());
    fake.let_go(&answer(200, &[], "last"));
    assert_eq!(busy.response(false).unwrap().body, b"last");
    assert!(closing.join().unwrap());
    assert!(std::net::TcpStream::connect(address).is_err());

    let fake = Fake::new(|_, _| Reaction::Wait);
    let front = start(&fake, |_| {});
    let mut busy = Client::connect(front.local_addr());
    busy.send(PUT);
    wait_until("it is there", || fake.count() == 1);
    assert!(!front.close(Duration::from_millis(50)), "it does not end in time");
    assert!(busy.is_over());
}
