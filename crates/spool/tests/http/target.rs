//! What services say, and do not say, and what becomes of a call.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use eversock_spool::http::codec::{HttpAnswer, HttpRequest};
use eversock_spool::http::{HttpTarget, HttpTargetConfig, Runtime, Verdict, judge};
use eversock_spool::record::Record;
use eversock_spool::target::{
    Call, CallFailed, CallResult, Class, Grant, ItemResult, Report, Stamp, Target,
};
use eversock_spool::{Kind, Request, RequestId};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};

use crate::service::{Service, hang, ok, said};
use crate::{PATIENCE, wait_until};

/// A target on a runtime of its own.
pub(crate) struct Bench {
    pub(crate) target: Arc<HttpTarget>,
    _runtime: Runtime,
}

impl Bench {
    pub(crate) fn new(base: &str, change: impl FnOnce(&mut HttpTargetConfig)) -> Self {
        let mut config = HttpTargetConfig::new("pair", "left", base);
        change(&mut config);
        let runtime = Runtime::start("test", 2).unwrap();
        Self { target: HttpTarget::start(config, &runtime).unwrap(), _runtime: runtime }
    }

    /// With the lock of epoch 1.
    pub(crate) fn granted(base: &str) -> Self {
        let bench = Self::new(base, |_| {});
        assert!(bench.grant(1));
        bench
    }

    pub(crate) fn grant(&self, epoch: u64) -> bool {
        let grant = Grant { epoch, lease: Duration::from_secs(10), stamp: Stamp::default() };
        wait(|reply| self.target.grant(grant, reply))
    }

    pub(crate) fn release(&self, epoch: u64, timeout: Duration) -> bool {
        wait(|reply| self.target.release(epoch, timeout, reply))
    }

    pub(crate) fn fence(&self) -> bool {
        wait(|reply| self.target.fence(reply))
    }

    pub(crate) fn probe(&self) -> Option<Report> {
        wait(|reply| self.target.probe(PATIENCE, reply))
    }

    pub(crate) fn begin(
        &self,
        items: Vec<Record>,
        timeout: Duration,
    ) -> mpsc::Receiver<CallResult> {
        let (sender, receiver) = mpsc::channel();
        let call = Call { epoch: 1, items: items.into(), job: None, timeout };
        self.target.call(call, Box::new(move |result| sender.send(result).unwrap()));
        receiver
    }

    pub(crate) fn call(&self, items: Vec<Record>) -> CallResult {
        self.begin(items, PATIENCE).recv_timeout(PATIENCE * 2).unwrap()
    }

    fn one(&self, item: Record) -> Result<ItemResult, CallFailed> {
        self.call(vec![item]).map(|mut results| results.pop().unwrap())
    }
}

/// Waits for a callback, and for no second one.
pub(crate) fn wait<T: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (sender, receiver) = mpsc::channel();
    ask(Box::new(move |value| sender.send(value).unwrap()));
    receiver.recv_timeout(PATIENCE * 2).unwrap()
}

/// A record that comes directly, or, with a place, out of the spool.
pub(crate) fn record(method: Method, target: &str, lsn: u64, body: &str) -> Record {
    let kind = match method {
        Method::GET | Method::HEAD => Kind::Read,
        Method::DELETE => Kind::Delete,
        _ => Kind::Write,
    };
    let http = HttpRequest {
        method,
        target: target.parse().unwrap(),
        headers: HeaderMap::new(),
        body: body.to_owned().into(),
    };
    let request = Request {
        id: RequestId(u128::from(lsn) + 7),
        kind,
        key: target.as_bytes().to_vec(),
        payload: http.encode().unwrap(),
        deadline: PATIENCE,
    };
    Record { lsn, ..Record::new(request, 1, 0) }
}

fn put(lsn: u64) -> Record {
    put_at("/a", lsn)
}

fn put_at(target: &str, lsn: u64) -> Record {
    record(Method::PUT, target, lsn, "body")
}

fn read(answer: &[u8]) -> HttpAnswer {
    HttpAnswer::decode(&Bytes::copy_from_slice(answer)).unwrap()
}

#[track_caller]
fn done(result: Result<ItemResult, CallFailed>) -> HttpAnswer {
    match result {
        Ok(ItemResult::Done { answer, .. }) => read(&answer),
        other => panic!("not done: {other:?}"),
    }
}

#[test]
fn a_request_reaches_the_service_as_it_was_sent() {
    let service =
        Service::saying(&said("201 Created", "x-a: 1\r\nconnection: x-b\r\nx-b: 2\r\n", "made"));
    let bench = Bench::new(&format!("{}/prefix/", service.base()), |config| {
        config.headers = vec![("authorization".to_owned(), "Bearer t".to_owned())];
    });
    assert!(bench.grant(1));
    let answer = done(bench.one(record(Method::POST, "/a%2fb?c=d&e", 0, "body")));
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::CREATED, &b"made"[..]));
    assert_eq!(answer.headers.get("x-a").unwrap(), "1");
    assert_eq!(answer.headers.len(), 1, "{:?}", answer.headers);
    let asked = service.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/prefix/a%2fb?c=d&e"));
    assert_eq!(asked.body, b"body");
    assert_eq!(asked.header("host").unwrap(), service.address.to_string());
    assert_eq!(asked.header("idempotency-key").unwrap(), RequestId(7).to_string());
    assert_eq!(asked.header("eversock-epoch"), Some("1"));
    assert_eq!(asked.header("authorization"), Some("Bearer t"));
}

#[test]
fn connections_are_used_again() {
    let service = Service::saying(&ok("x"));
    let bench = Bench::granted(&service.base());
    for lsn in 1..=20 {
        done(bench.one(put(lsn)));
    }
    assert_eq!((service.count(), service.connections.load(Ordering::Acquire)), (20, 1));
}

#[test]
fn a_replay_is_told_as_one() {
    let service = Service::saying(&said("200 OK", "Idempotent-Replayed: true\r\n", "x"));
    let result = Bench::granted(&service.base()).one(put(3)).unwrap();
    assert!(matches!(result, ItemResult::Done { again: true, .. }), "{result:?}");
}

/// One table for all statuses; the ways through which they come are tested beside it.
#[test]
fn each_status_means_one_thing() {
    use Verdict::{Done, Doubt, Later, Refused};
    let (write, read, delete) = (Kind::Write, Kind::Read, Kind::Delete);
    let table = [
        // status, write direct, write drained, read direct, read drained, delete drained
        (200, Done, Done, Done, Done, Done),
        (204, Done, Done, Done, Done, Done),
        (301, Done, Refused, Done, Done, Refused),
        (302, Done, Done, Done, Done, Done),
        (303, Done, Done, Done, Done, Done),
        (304, Done, Refused, Done, Done, Refused),
        (308, Done, Refused, Done, Done, Refused),
        (400, Done, Refused, Done, Done, Refused),
        (404, Done, Refused, Done, Done, Done),
        (408, Later, Later, Later, Later, Later),
        (409, Done, Refused, Done, Done, Refused),
        (410, Done, Refused, Done, Done, Done),
        (412, Done, Refused, Done, Done, Refused),
        (422, Done, Refused, Done, Done, Refused),
        (425, Later, Later, Later, Later, Later),
        (429, Later, Later, Later, Later, Later),
        (500, Doubt, Doubt, Done, Done, Doubt),
        (501, Done, Refused, Done, Done, Refused),
        (502, Doubt, Doubt, Doubt, Doubt, Doubt),
        (503, Later, Later, Later, Later, Later),
        (504, Doubt, Doubt, Doubt, Doubt, Doubt),
        (505, Done, Refused, Done, Done, Refused),
        (507, Later, Later, Later, Later, Later),
        (599, Doubt, Doubt, Done, Done, Doubt),
        (999, Doubt, Doubt, Done, Done, Doubt),
    ];
    for (status, direct, drained, read_direct, read_drained, delete_drained) in table {
        let judged = |kind, drained| judge(kind, drained, StatusCode::from_u16(status).unwrap());
        assert_eq!(judged(write, false), direct, "{status}");
        assert_eq!(judged(write, true), drained, "{status}");
        assert_eq!(judged(Kind::Custom(3), true), drained, "{status}");
        assert_eq!(judged(read, false), read_direct, "{status}");
        assert_eq!(judged(Kind::Search, true), read_drained, "{status}");
        assert_eq!(judged(delete, true), delete_drained, "{status}");
    }
}

#[test]
fn a_refusal_reaches_who_waits_and_is_set_aside_where_nobody_does() {
    let service = Service::saying(&said("409 Conflict", "x-why: taken\r\n", "the name is taken"));
    let bench = Bench::granted(&service.base());
    let answer = done(bench.one(put(0)));
    assert_eq!(
        (answer.status, &answer.body[..]),
        (StatusCode::CONFLICT, &b"the name is taken"[..])
    );
    assert_eq!(answer.headers.get("x-why").unwrap(), "taken");
    let text = "HTTP 409 Conflict: the name is taken".to_owned();
    assert_eq!(bench.one(put(5)).unwrap(), ItemResult::Refused { code: 409, text });
    let long = Service::saying(&said("400 Bad Request", "", &"ä".repeat(2000)));
    match Bench::granted(&long.base()).one(put(5)).unwrap() {
        ItemResult::Refused { code: 400, text } => {
            assert!(text.len() <= 1024 && text.contains('ä'))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn later_says_when() {
    for (response, seconds) in [
        (said("429 Too Many Requests", "Retry-After: 7\r\n", ""), 7),
        (said("503 Service Unavailable", "", "busy"), 0),
        (said("503 Service Unavailable", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", ""), 0),
        (said("408 Request Timeout", "Retry-After: -3\r\n", ""), 0),
    ] {
        let service = Service::saying(&response);
        let after = Duration::from_secs(seconds);
        let result = Bench::granted(&service.base()).one(put(1)).unwrap();
        assert_eq!(result, ItemResult::Later { after }, "{response}");
    }
}

#[test]
fn what_may_have_had_effect_is_in_doubt() {
    for status in ["500 Oops", "502 Bad Gateway", "504 Gateway Timeout"] {
        let service = Service::saying(&said(status, "", ""));
        let failed = Bench::granted(&service.base()).one(put(1)).unwrap_err();
        assert!(failed.to_string().contains(&status[..3]), "{failed}");
        // The service itself is done with it; behind a gateway it may still be at work.
        let is_over = status.starts_with("500");
        assert_eq!(matches!(failed, CallFailed::Failed(_)), is_over, "{failed}");
        assert!(failed.in_doubt() && failed.goes_on() != is_over);
    }
    let service = Service::saying(&said("500 Oops", "", "a page is broken"));
    let answer = done(Bench::granted(&service.base()).one(record(Method::GET, "/a", 0, "")));
    assert_eq!(&answer.body[..], b"a page is broken");
}

#[test]
fn an_answer_that_breaks_off_is_lost() {
    for part in [
        "",
        "HTTP/1.1 200 OK\r\ncont",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let service = Service::start(move |_, stream| {
            stream.write_all(part.as_bytes()).unwrap();
            false
        });
        let failed = Bench::granted(&service.base()).one(put(1)).unwrap_err();
        assert!(matches!(failed, CallFailed::Lost(_)), "{part:?}: {failed}");
        assert_eq!(service.count(), 1, "it is not sent again behind the front's back");
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failed = Bench::granted(&base).one(put(1)).unwrap_err();
    assert!(matches!(failed, CallFailed::Unreachable(_)), "{failed}");
    assert!(!failed.in_doubt());
}

#[test]
fn a_server_that_has_gone_and_come_back_is_used_again() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let bench = Bench::granted(&format!("http://{address}"));
    for lsn in 1..4 {
        let listener = listener.try_clone().unwrap();
        // Answers one request and ends its connection, which then waits unused in the pool.
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            assert!(std::io::Read::read(&mut stream, &mut bytes).unwrap() > 0);
            stream.write_all(ok("x").as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the target has seen it and has let it go.
            assert_eq!(std::io::Read::read(&mut stream, &mut bytes).unwrap(), 0);
        });
        done(bench.one(put(lsn)));
        server.join().unwrap();
    }
}

#[test]
fn no_answer_in_time_is_in_doubt() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let service = Service::start(move |_, stream| {
        let _ = gate.lock().unwrap().recv();
        stream.write_all(ok("late").as_bytes()).is_ok()
    });
    let bench = Bench::granted(&service.base());
    let result = bench.begin(vec![put(1)], Duration::from_millis(300));
    assert_eq!(result.recv_timeout(PATIENCE).unwrap(), Err(CallFailed::TimedOut));
    // It is under way all the same: the lock is not back before it has ended.
    assert!(!bench.release(1, Duration::from_millis(100)));
    drop(release);
    assert!(bench.release(1, PATIENCE));
}

#[test]
fn a_request_that_never_ends_is_given_up() {
    let service = Service::start(|_, stream| hang(stream));
    let bench = Bench::new(&service.base(), |config| config.linger = Duration::from_millis(100));
    assert!(bench.grant(1));
    let result = bench.begin(vec![put(1)], Duration::from_millis(100));
    assert_eq!(result.recv_timeout(PATIENCE).unwrap(), Err(CallFailed::TimedOut));
    assert!(bench.release(1, PATIENCE));
}

#[test]
fn no_more_than_so_many_requests_are_under_way() {
    let service = Service::start(|_, stream| hang(stream));
    let bench = Bench::new(&service.base(), |config| config.in_flight_max = 2);
    assert!(bench.grant(1));
    let items: Vec<Record> = (1..=9).map(|at| put_at(&format!("/{at}"), at)).collect();
    let first = bench.begin(items, PATIENCE);
    wait_until("two are under way", || service.count() == 2);
    let second = bench.begin(vec![put(10)], Duration::from_millis(200));
    let later = ItemResult::Later { after: Duration::ZERO };
    assert_eq!(second.recv_timeout(PATIENCE).unwrap(), Ok(vec![later]), "it was never sent");
    assert_eq!(service.count(), 2);
    bench.target.close();
    assert!(first.recv_timeout(PATIENCE).unwrap().is_err());
}

#[test]
fn without_a_connection_in_time_nothing_was_sent() {
    // A full queue of a listener that accepts nothing: connections hang.
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any: std::net::SocketAddrV4 = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&listener, &any).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let fill: Vec<_> = (0..3)
        .map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)))
        .take_while(Result::is_ok)
        .collect();
    assert!(fill.len() < 3, "the queue is full");
    for (connect, call) in [(200, 60_000), (60_000, 300)] {
        let bench = Bench::new(&format!("http://{address}"), |config| {
            config.connect_timeout = Duration::from_millis(connect);
        });
        assert!(bench.grant(1));
        let result = bench.begin(vec![put(1)], Duration::from_millis(call));
        let failed = result.recv_timeout(PATIENCE * 2).unwrap().unwrap_err();
        assert!(matches!(failed, CallFailed::Unreachable(_)), "{failed}");
    }
}

#[test]
fn lanes_go_side_by_side_and_each_in_order() {
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    let (highest, busy) = (Arc::clone(&most), Arc::clone(&now));
    let service = Service::start(move |_, stream| {
        let count = busy.fetch_add(1, Ordering::AcqRel) + 1;
        highest.fetch_max(count, Ordering::AcqRel);
        wait_until("two are there at a time", || highest.load(Ordering::Acquire) >= 2);
        busy.fetch_sub(1, Ordering::AcqRel);
        stream.write_all(ok("x").as_bytes()).is_ok()
    });
    let bench = Bench::new(&service.base(), |config| config.lanes_max = 3);
    assert!(bench.grant(1));
    let items: Vec<Record> = (0..60)
        .map(|at| {
            let key = format!("/{}", at % 6);
            let mut item = record(Method::PUT, &format!("{key}?{at}"), at + 1, "");
            item.key = key.into_bytes();
            item
        })
        .collect();
    let results = bench.call(items).unwrap();
    assert_eq!(results.len(), 60);
    assert!(results.iter().all(|result| matches!(result, ItemResult::Done { .. })));
    let keys = service.keys();
    for lane in 0..6 {
        let prefix = format!("/{lane}?");
        let numbers = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
        let numbers: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 10);
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
    assert!((2..=3).contains(&most.load(Ordering::Acquire)), "{most:?}");
}

#[test]
fn what_has_to_come_again_stops_its_lane_only() {
    let service = Service::start(|asked, stream| {
        let response = match asked.target.as_str() {
            "/a?2" => said("503 Busy", "retry-after: 2\r\n", ""),
            "/b?2" => said("409 Conflict", "", ""),
            _ => ok("x"),
        };
        stream.write_all(response.as_bytes()).is_ok()
    });
    let bench = Bench::granted(&service.base());
    let item = |lane: &str, number: u64| {
        let mut item = record(Method::PUT, &format!("{lane}?{number}"), number, "");
        item.key = lane.as_bytes().to_vec();
        item
    };
    let items: Vec<Record> = (1..=3).flat_map(|at| [item("/a", at), item("/b", at)]).collect();
    let results = bench.call(items).unwrap();
    let later = |seconds| ItemResult::Later { after: Duration::from_secs(seconds) };
    assert!(matches!(results[0], ItemResult::Done { .. }));
    assert_eq!((&results[2], &results[4]), (&later(2), &later(0)));
    assert!(matches!(results[1], ItemResult::Done { .. }));
    assert!(matches!(results[3], ItemResult::Refused { code: 409, .. }));
    assert!(matches!(results[5], ItemResult::Done { .. }), "a refusal hinders nobody");
    assert!(!service.keys().contains(&"/a?3".to_owned()));
}

#[test]
fn one_item_in_doubt_puts_the_call_in_doubt() {
    let service = Service::start(|asked, stream| {
        asked.target != "/b" && stream.write_all(ok("x").as_bytes()).is_ok()
    });
    let bench = Bench::granted(&service.base());
    let items =
        ["/a", "/b", "/c"].iter().zip(1..).map(|(key, lsn)| record(Method::PUT, key, lsn, ""));
    let failed = bench.call(items.collect()).unwrap_err();
    assert!(matches!(failed, CallFailed::Lost(_)), "{failed}");
}

#[test]
fn a_server_that_dies_between_items_leaves_the_rest_for_later() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut bytes = [0; 4096];
        assert!(std::io::Read::read(&mut stream, &mut bytes).unwrap() > 0);
        stream.write_all(said("200 OK", "connection: close\r\n", "x").as_bytes()).unwrap();
    });
    let bench = Bench::granted(&format!("http://{address}"));
    let results = bench.call(vec![put(1), put(2)]).unwrap();
    server.join().unwrap();
    assert!(matches!(results[0], ItemResult::Done { .. }));
    assert_eq!(results[1], ItemResult::Later { after: Duration::ZERO });
}

#[test]
fn what_does_not_fit_an_answer_is_done_all_the_same() {
    let service = Service::saying(&ok(&"a".repeat(5000)));
    let bench = Bench::new(&service.base(), |config| config.answer_max = 4999);
    assert!(bench.grant(1));
    let answer = done(bench.one(put(1)));
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(String::from_utf8_lossy(&answer.body).contains("did what was asked and said 200"));
}

#[test]
fn what_is_no_http_request_is_refused_for_good() {
    let service = Service::saying(&ok("x"));
    let bench = Bench::granted(&service.base());
    let bad = Record { payload: b"something else".to_vec(), ..put(1) };
    let results = bench.call(vec![bad, put(2)]).unwrap();
    assert!(
        matches!(&results[0], ItemResult::Refused { code: 400, text } if text.contains("version"))
    );
    assert!(matches!(results[1], ItemResult::Done { .. }));
}

#[test]
fn closing_fails_what_is_under_way_and_all_that_comes() {
    let held = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&held);
    let service = Service::start(move |_, stream| {
        seen.store(true, Ordering::Release);
        hang(stream)
    });
    let bench = Bench::granted(&service.base());
    let result = bench.begin(vec![put(1)], PATIENCE);
    wait_until("it is under way", || held.load(Ordering::Acquire));
    bench.target.close();
    let failed = result.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(matches!(failed, CallFailed::Lost(_)), "{failed}");
    let failed = bench.one(put(2)).unwrap_err();
    assert!(matches!(failed, CallFailed::Unreachable(_)), "{failed}");
    assert_eq!(bench.probe(), None);
    assert!(!bench.grant(9));
}

#[test]
fn callbacks_are_called_when_the_threads_end() {
    let service = Service::start(|_, stream| hang(stream));
    let runtime = Runtime::start("test", 1).unwrap();
    let config = HttpTargetConfig::new("pair", "left", &service.base());
    let target = HttpTarget::start(config, &runtime).unwrap();
    let grant = Grant { epoch: 1, lease: PATIENCE, stamp: Stamp::default() };
    assert!(wait(|reply| target.grant(grant, reply)));
    let (sender, receiver) = mpsc::channel();
    let call = Call { epoch: 1, items: vec![put(1)].into(), job: None, timeout: PATIENCE };
    target.call(call, Box::new(move |result| sender.send(result).unwrap()));
    wait_until("it is under way", || service.count() == 1);
    drop(runtime);
    assert!(receiver.recv_timeout(PATIENCE).unwrap().unwrap_err().in_doubt());
    assert_eq!(wait(|reply| target.probe(PATIENCE, reply)), None);
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let runtime = Runtime::start("test", 1).unwrap();
    let wrong = |base: &str, change: fn(&mut HttpTargetConfig)| {
        let mut config = HttpTargetConfig::new("pair", "left", base);
        change(&mut config);
        let error = HttpTarget::start(config, &runtime).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
    };
    for base in ["", "host:80", "https://host", "/path", "http://", "http://host?a", "ftp://host"] {
        wrong(base, |_| {});
    }
    wrong("http://host", |config| config.health = Some("health".to_owned()));
    wrong("http://host", |config| config.in_flight_max = 0);
    wrong("http://host", |config| config.headers = vec![("a b".to_owned(), "c".to_owned())]);
    wrong("http://host", |config| config.headers = vec![("a".to_owned(), "b\n".to_owned())]);
    let config = HttpTargetConfig::new("pair", "left", "http://host");
    assert_eq!(HttpTarget::start(config, &runtime).unwrap().class(), Class::Opaque);
}
