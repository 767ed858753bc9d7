//! What clients ask, what the pair gets, and what clients hear of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use eversock_spool::http::codec::{HttpAnswer, HttpRequest};
use eversock_spool::http::{HttpFront, HttpFrontConfig, Route};
use eversock_spool::submit::Submit;
use eversock_spool::{Kind, Outcome, Reason, RequestId};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderValue};

use crate::client::{Client, Response};
use crate::fake::{Fake, Reaction};

pub(crate) const ANY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) fn config() -> HttpFrontConfig {
    let search = Route {
        search_prefixes: vec!["/things/find".to_owned()],
        search_post: true,
        ..Route::new("/things", "other")
    };
    HttpFrontConfig::new(ANY, vec![Route::new("/", "main"), search])
}

pub(crate) fn start(submit: Arc<dyn Submit>) -> HttpFront {
    HttpFront::start(config(), submit).unwrap()
}

pub(crate) fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Outcome {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let answer = HttpAnswer { status, headers: map, body: body.to_owned().into() };
    Outcome::Applied { answer: answer.encode().unwrap() }
}

fn ask(outcome: Outcome) -> Response {
    let fake = Fake::saying(outcome);
    let front = start(fake);
    Client::connect(front.local_addr())
        .ask("PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
}

fn rejected(reason: Reason, millis: u64) -> Response {
    ask(Outcome::Rejected { reason, retry_after: Duration::from_millis(millis) })
}

#[test]
fn methods_and_paths_say_what_a_request_is() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(fake.clone());
    let mut client = Client::connect(front.local_addr());
    for (line, kind, key, pair) in [
        ("PUT /a/b?c=d", Kind::Write, "/a/b", "main"),
        ("POST /thingsx", Kind::Write, "/thingsx", "main"),
        ("PATCH /things/1", Kind::Write, "/things/1", "other"),
        ("DELETE /%7eme/%c3%a4%2f", Kind::Delete, "/~me/%C3%A4%2F", "main"),
        ("GET /things", Kind::Read, "/things", "other"),
        ("HEAD /things/", Kind::Read, "/things/", "other"),
        ("GET /things/find?q=1", Kind::Search, "/things/find", "other"),
        ("GET /things/find/all", Kind::Search, "/things/find/all", "other"),
        ("POST /things/find", Kind::Search, "/things/find", "other"),
        ("PUT /things/find", Kind::Write, "/things/find", "other"),
        ("GET /things/finder", Kind::Read, "/things/finder", "other"),
        ("GET http://elsewhere/abs", Kind::Read, "/abs", "main"),
    ] {
        let response =
            client.ask(&format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(response.status, 200, "{line}");
        let asked = fake.asked.lock().unwrap();
        let (found_pair, request) = asked.last().unwrap();
        assert_eq!((found_pair.as_str(), request.kind), (pair, kind), "{line}");
        assert_eq!(String::from_utf8_lossy(&request.key), key, "{line}");
        assert_eq!(request.deadline, Duration::from_secs(30));
        let http = HttpRequest::decode(&Bytes::from(request.payload.clone())).unwrap();
        let target = line.split_once(' ').unwrap().1.trim_start_matches("http://elsewhere");
        assert_eq!(
            (http.method.as_str(), http.target.as_str()),
            (line.split(' ').next().unwrap(), target)
        );
    }
}

#[test]
fn what_cannot_be_a_request_is_refused_by_the_front() {
    let fake = Fake::saying(answer(200, &[], ""));
    let mut config = config();
    config.routes.remove(0);
    let front = HttpFront::start(config, fake.clone()).unwrap();
    for (request, status) in [
        ("OPTIONS /things/1", 405),
        ("TRACE /things/1", 405),
        ("BREW /things/1", 501),
        ("GET /elsewhere", 404),
        ("GET /things/../elsewhere", 400),
        ("GET /things/%2E%2e/elsewhere", 400),
        ("GET /things/%zz", 400),
        ("GET /things/%a", 400),
    ] {
        let mut client = Client::connect(front.local_addr());
        let response = client.ask(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert_eq!(response.status, status, "{request}");
        assert!(!response.json()["message"].as_str().unwrap().is_empty());
        assert_eq!(response.header("allow").is_some(), status == 405);
    }
    let long = format!("GET /things/{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(5000));
    assert_eq!(Client::connect(front.local_addr()).ask(&long).status, 414);
    for header in [
        "Idempotency-Key: ",
        "Idempotency-Key: \"\"",
        "Eversock-Id: 12",
        "Idempotency-Key: a\r\nIdempotency-Key: b",
    ] {
        let request = format!("GET /things HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
        assert_eq!(Client::connect(front.local_addr()).ask(&request).status, 400, "{header}");
    }
    assert_eq!(fake.count(), 0);
}

#[test]
fn a_key_gives_the_same_id_in_each_attempt() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(fake.clone());
    let mut client = Client::connect(front.local_addr());
    let mut id = |line: &str, header: &str| {
        let response =
            client.ask(&format!("{line} HTTP/1.1\r\nhost: x\r\n{header}content-length: 0\r\n\r\n"));
        let id = fake.asked.lock().unwrap().last().unwrap().1.id;
        assert_eq!(response.header("eversock-id").unwrap(), id.to_string());
        id
    };
    let first = id("POST /a", "Idempotency-Key: k1\r\n");
    assert_eq!(id("POST /a?x", "idempotency-key: \"k1\"\r\n"), first);
    assert_ne!(id("POST /a", "Idempotency-Key: k2\r\n"), first);
    assert_ne!(id("PUT /a", "Idempotency-Key: k1\r\n"), first);
    assert_ne!(id("POST /b", "Idempotency-Key: k1\r\n"), first);
    assert_eq!(id("POST /c", &format!("Eversock-Id: {first}\r\n")), first);
    assert_ne!(id("POST /a", ""), id("POST /a", ""), "without a name, each is a new one");
}

#[test]
fn a_retry_has_the_same_payload_whatever_proxies_add() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = start(fake.clone());
    let mut client = Client::connect(front.local_addr());
    for extra in [
        "X-Request-Id: 1\r\nTraceparent: 1\r\nB: 2\r\nA: 1",
        "X-Request-Id: 2\r\nVia: p\r\nX-Forwarded-For: 1.2.3.4\r\nA: 1\r\nDate: now\r\nb: 2",
        "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nTE: x\r\nKeep-Alive: 1\r\nA: 1\r\nB: 2",
        "Eversock-Epoch: 99\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nA: 1\r\nB: 2",
    ] {
        let request = format!("PUT /a HTTP/1.1\r\nhost: {}\r\n{extra}\r\n", extra.len());
        client.ask(&format!("{request}content-length: 3\r\n\r\nabc"));
        client.ask(&format!(
            "{request}transfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
        ));
    }
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked.len(), 8);
    let http = HttpRequest::decode(&Bytes::from(asked[0].1.payload.clone())).unwrap();
    assert_eq!(http.headers.len(), 2, "{:?}", http.headers);
    assert_eq!(http.body, "abc");
    assert!(asked.iter().all(|(_, request)| request.payload == asked[0].1.payload));
}

#[test]
fn the_host_is_kept_where_that_is_wanted() {
    let fake = Fake::saying(answer(200, &[], ""));
    let front = HttpFront::start(HttpFrontConfig { keep_host: true, ..config() }, fake.clone());
    let front = front.unwrap();
    Client::connect(front.local_addr()).ask("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let (_, request) = fake.only();
    let http = HttpRequest::decode(&Bytes::from(request.payload)).unwrap();
    assert_eq!(http.headers.get("host").unwrap(), "shop.example");
}

#[test]
fn what_the_service_said_goes_to_the_client() {
    let outcome =
        answer(418, &[("x-a", "1"), ("set-cookie", "a"), ("etag", "\"e\"")], "short and stout");
    let response = ask(outcome);
    assert_eq!(response.status, 418);
    assert_eq!(response.header("x-a"), Some("1"));
    assert_eq!(response.header("etag"), Some("\"e\""));
    assert_eq!(response.header("eversock-outcome"), Some("applied"));
    assert_eq!(response.header("eversock-id").unwrap().len(), 32);
    assert_eq!(response.body, b"short and stout");
    let empty = ask(Outcome::Applied { answer: Vec::new() });
    assert_eq!((empty.status, empty.json()["outcome"].as_str()), (200, Some("applied")));
    let unreadable = ask(Outcome::Applied { answer: b"what?".to_vec() });
    assert_eq!(unreadable.status, 502);
    assert!(unreadable.json()["message"].as_str().unwrap().contains("has been done"));
    assert_eq!(ask(answer(101, &[], "")).status, 502);
}

#[test]
fn a_head_keeps_the_length_of_what_it_asks_about() {
    let front = start(Fake::saying(answer(200, &[("content-length", "12345")], "")));
    let mut client = Client::connect(front.local_addr());
    let response = client.ask("HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!((response.status, response.header("content-length")), (200, Some("12345")));
    let response = client.ask("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(response.header("content-length"), Some("0"), "there is no body of that length");
}

#[test]
fn what_is_spooled_is_accepted_at_once() {
    let response = ask(Outcome::Spooled { lsn: 77 });
    assert_eq!(response.status, 202);
    assert_eq!(response.header("eversock-outcome"), Some("spooled"));
    assert_eq!(response.header("eversock-lsn"), Some("77"));
    let id = response.header("eversock-id").unwrap();
    let json = response.json();
    assert_eq!((json["id"].as_str(), json["lsn"].as_u64()), (Some(id), Some(77)));
    let other = HttpFrontConfig { spooled_status: 201, ..config() };
    let front = HttpFront::start(other, Fake::saying(Outcome::Spooled { lsn: 1 })).unwrap();
    let request = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na";
    assert_eq!(Client::connect(front.local_addr()).ask(request).status, 201);
}

#[test]
fn the_result_of_what_is_held_lies_under_its_location() {
    let done = answer(200, &[("x-a", "1")], "found");
    let done_id = RequestId(0xabc);
    let fake = Fake::with_results(
        |_, _| Reaction::Say(Outcome::Held { lsn: 5 }),
        move |pair, id| match (pair, id) {
            ("main", id) if id == done_id => Some(done.clone()),
            ("main", RequestId(1)) => None,
            ("main", RequestId(2)) => Some(Outcome::Rejected {
                reason: Reason::Refused { code: 409, text: "HTTP 409: taken".to_owned() },
                retry_after: Duration::ZERO,
            }),
            _ => Some(Outcome::Held { lsn: 5 }),
        },
    );
    let front = start(fake);
    let mut client = Client::connect(front.local_addr());
    let held = client.ask("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!((held.status, held.header("eversock-outcome")), (202, Some("held")));
    let location = held.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/.eversock/result/main/{}", held.header("eversock-id").unwrap()));
    let mut get = |path: &str| client.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
    let still = get(&location);
    assert_eq!((still.status, still.header("location")), (202, Some(location.as_str())));
    assert!(still.header("retry-after").is_some());
    let found = get(&format!("/.eversock/result/main/{done_id}"));
    assert_eq!((found.status, found.header("x-a")), (200, Some("1")));
    assert_eq!(found.body, b"found");
    let refused = get(&format!("/.eversock/result/main/{}", RequestId(2)));
    assert_eq!((refused.status, &refused.body[..]), (409, &b"HTTP 409: taken"[..]));
    assert_eq!(get(&format!("/.eversock/result/main/{}", RequestId(1))).status, 404);
    for nothing in [
        "/.eversock/",
        "/.eversock/result/main/xyz",
        "/.eversock/result/main",
        "/.eversock/else",
        // A pair that no route of this front leads to.
        "/.eversock/result/secret/00000000000000000000000000000005",
    ] {
        assert_eq!(get(nothing).status, 404, "{nothing}");
    }
    let put = format!("PUT {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.ask(&put).status, 405);
}

#[test]
fn every_refusal_has_its_status_and_its_remedy() {
    for (response, status, retry) in [
        (rejected(Reason::SpoolFull, 1200), 503, Some("2")),
        (rejected(Reason::HoldFull, 0), 503, Some("1")),
        (rejected(Reason::Unavailable, 3000), 503, Some("3")),
        (rejected(Reason::Closing, 1), 503, Some("1")),
        (rejected(Reason::Deadline, 0), 504, None),
        (rejected(Reason::Deadline, 5001), 504, Some("6")),
        (rejected(Reason::Malformed("no such pair".to_owned()), 0), 400, None),
        (rejected(Reason::IdReused, 0), 422, None),
        (ask(Outcome::Stale), 503, Some("1")),
        (ask(Outcome::InDoubt), 504, None),
    ] {
        let json = response.json();
        assert_eq!(response.status, status, "{json}");
        assert_eq!(response.header("retry-after"), retry, "{json}");
        assert_eq!(json["id"].as_str(), response.header("eversock-id"));
        assert_eq!(json["outcome"].as_str(), response.header("eversock-outcome"));
        assert!(json["message"].as_str().unwrap().len() > 20, "{json}");
    }
    assert_eq!(ask(Outcome::Stale).header("eversock-outcome"), Some("stale"));
    assert_eq!(ask(Outcome::InDoubt).header("eversock-outcome"), Some("in-doubt"));
    for (code, status) in [(404, 404), (599, 599), (200, 502), (7, 502), (600, 502), (66_036, 502)]
    {
        let text = "no such thing".to_owned();
        let response = rejected(Reason::Refused { code, text }, 0);
        assert_eq!((response.status, &response.body[..]), (status, &b"no such thing"[..]));
        assert_eq!(response.header("eversock-outcome"), Some("refused"));
    }
}

#[test]
fn a_pair_that_lets_a_request_go_leaves_it_in_doubt() {
    let front = start(Fake::new(|_, _| Reaction::Forget));
    let request = "PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let response = Client::connect(front.local_addr()).ask(request);
    assert_eq!(response.status, 504);
    assert!(response.json()["message"].as_str().unwrap().contains("same id"));
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let wrong = |change: fn(&mut HttpFrontConfig)| {
        let mut config = config();
        change(&mut config);
        let error = HttpFront::start(config, Fake::saying(Outcome::Stale)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    };
    wrong(|config| config.routes.clear());
    wrong(|config| config.routes[0].path_prefix = "a".to_owned());
    wrong(|config| config.routes[0].pair = "a/b".to_owned());
    wrong(|config| config.routes[0].pair = "a".repeat(65));
    wrong(|config| config.routes[1].search_prefixes = vec!["/../x".to_owned()]);
    wrong(|config| config.body_max = usize::MAX);
    wrong(|config| config.bodies_max = 5);
    wrong(|config| config.spooled_status = 302);
    wrong(|config| config.deadline = Duration::ZERO);
    wrong(|config| config.deadline = Duration::MAX);
    wrong(|config| config.connections_max = 0);
    wrong(|config| config.dropped_headers = vec!["a b".to_owned()]);
}
