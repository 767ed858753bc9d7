//! The lock key of a server that knows none, and what its health says.

use std::io::Write;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use eversock_spool::target::{CallFailed, ItemResult, Target};
use hyper::Method;

use crate::service::{Service, ok, said};
use crate::target::{Bench, record};
use crate::{PATIENCE, wait_until};

fn put() -> Vec<eversock_spool::record::Record> {
    vec![record(Method::PUT, "/a", 1, "")]
}

#[test]
fn without_the_lock_nothing_passes() {
    let service = Service::saying(&ok("x"));
    let bench = Bench::new(&service.base(), |_| {});
    assert_eq!(bench.call(put()), Err(CallFailed::Fenced { asked: 1, seen: 0 }));
    assert!(bench.grant(1));
    assert!(bench.call(put()).is_ok());
    assert!(bench.grant(1), "a renewal");
    assert!(bench.grant(4));
    assert_eq!(bench.call(put()), Err(CallFailed::Fenced { asked: 1, seen: 4 }));
    assert!(!bench.grant(3), "a lower one than was seen");
    assert!(bench.release(4, PATIENCE));
    assert!(!bench.grant(4), "it was given back");
    assert!(bench.grant(5));
    assert_eq!(service.count(), 1);
}

#[test]
fn giving_the_lock_back_waits_for_what_is_under_way() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let service = Service::start(move |_, stream| {
        let _ = gate.lock().unwrap().recv();
        stream.write_all(ok("x").as_bytes()).is_ok()
    });
    let bench = Bench::granted(&service.base());
    let result = bench.begin(put(), PATIENCE);
    wait_until("it is under way", || service.count() == 1);
    let (sender, released) = mpsc::channel();
    bench.target.release(1, PATIENCE, Box::new(move |done| sender.send(done).unwrap()));
    wait_until("nothing new passes", || {
        let call = bench.begin(put(), PATIENCE).recv_timeout(Duration::from_millis(1));
        matches!(call, Ok(Err(CallFailed::Fenced { .. })))
    });
    assert!(released.try_recv().is_err(), "it is not back yet");
    drop(go);
    assert!(released.recv_timeout(PATIENCE).unwrap());
    assert!(matches!(result.recv_timeout(PATIENCE).unwrap().unwrap()[0], ItemResult::Done { .. }));
}

#[test]
fn a_service_may_refuse_an_epoch_itself() {
    let service = Service::saying(&said("412 Precondition Failed", "Eversock-Fenced: 12\r\n", ""));
    let bench = Bench::granted(&service.base());
    assert_eq!(bench.call(put()), Err(CallFailed::Fenced { asked: 1, seen: 12 }));
}

#[test]
fn health_says_whether_a_server_is_ready() {
    let status = Arc::new(AtomicU16::new(200));
    let says = Arc::clone(&status);
    let service = Service::start(move |asked, stream| {
        assert_eq!(asked.method, "GET");
        let status = says.load(Ordering::Acquire);
        let switch = if status == 299 { "Eversock-Switch: 1\r\n" } else { "" };
        stream.write_all(said(&format!("{status} X"), switch, "health").as_bytes()).is_ok()
    });
    let any = Bench::new(&format!("{}/p", service.base()), |_| {});
    let own = Bench::new(&service.base(), |config| config.health = Some("/up?x=1".to_owned()));
    assert!(any.grant(3) && own.grant(3));
    let ready = |bench: &Bench, code| {
        status.store(code, Ordering::Release);
        let report = bench.probe().unwrap();
        assert_eq!(report.seen, 3);
        assert_eq!(report.holds, report.ready.then_some(3));
        assert_eq!(report.wants_switch, code == 299);
        report.ready
    };
    for (code, by_any, by_own) in [
        (200, true, true),
        (299, true, true),
        (302, true, false),
        (404, true, false),
        (500, false, false),
        (503, false, false),
    ] {
        assert_eq!((ready(&any, code), ready(&own, code)), (by_any, by_own), "{code}");
    }
    assert!(service.keys().contains(&"/up?x=1".to_owned()));
    assert!(service.keys().contains(&"/p/".to_owned()));
    let (first, second) = (own.probe().unwrap().stamp, own.probe().unwrap().stamp);
    assert_eq!(first.run, second.run);
    assert!(first.at_us < second.at_us);
    assert_ne!(any.probe().unwrap().stamp.run, first.run);
}

#[test]
fn no_answer_is_no_report() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let bench = Bench::new(&format!("http://{}", listener.local_addr().unwrap()), |_| {});
    let (sender, receiver) = mpsc::channel();
    let reply = Box::new(move |report| sender.send(report).unwrap());
    bench.target.probe(Duration::from_millis(100), reply);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), None, "it hangs");
    drop(listener);
    assert_eq!(bench.probe(), None, "nobody is there");
}
