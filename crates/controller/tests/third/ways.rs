//! Which way requests go.

use std::time::{Duration, Instant};

use eversock_controller::third::Routes;
use eversock_controller::wire::client::Outcome;

use crate::common::{
    Controller, Does, PATIENCE, device, id, nowhere, place, reply, third_party, wait_for,
};

#[test]
fn the_owner_that_is_named_is_asked_and_from_then_on_at_once() {
    let owner = Controller::echo("owner");
    let addr = owner.addr;
    let first = Controller::start("first", move |_| {
        Does::Says(Outcome::NotHere { owner: id("owner"), seq: 3, place: vec![addr] })
    });
    let third = third_party(vec![place("first", first.addr)]);
    for n in 0..3 {
        let outcome = third.request_and_wait(device("d"), PATIENCE, vec![n]);
        assert_eq!(outcome, Outcome::Done(vec![n]));
    }
    assert_eq!((first.count(), owner.count()), (1, 3));
    assert_eq!(owner.asked.lock().unwrap()[0].device, device("d"));
    third.close();
}

#[test]
fn a_controller_that_is_not_there_is_passed_by_and_used_when_it_is_back() {
    let (b, gone) = (Controller::echo("b"), nowhere());
    let third = third_party(vec![place("a", gone), place("b", b.addr)]);
    let ask = || third.request_and_wait(device("d"), PATIENCE, vec![1]);
    assert_eq!(ask(), Outcome::Done(vec![1]));
    assert_eq!(b.count(), 1);
    let a = Controller::echo("a");
    // As if it had come back.
    let routes = Routes::new(
        vec![place("a", a.addr), place("b", b.addr)],
        Vec::new(),
        vec![id("a"), id("b")],
    );
    third.set_routes(routes.unwrap());
    wait_for("it is asked again", || {
        assert_eq!(ask(), Outcome::Done(vec![1]));
        a.count() > 0
    });
}

#[test]
fn nobody_anywhere_is_told_soon() {
    let third = third_party(vec![place("a", nowhere())]);
    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![1]);
    assert!(matches!(&outcome, Outcome::Unreachable(_)), "{outcome:?}");
}

#[test]
fn one_that_answers_in_anothers_place_is_not_asked() {
    let (wrong, b) = (Controller::echo("wrong"), Controller::echo("b"));
    let third = third_party(vec![place("a", wrong.addr), place("b", b.addr)]);
    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![1]);
    assert_eq!(outcome, Outcome::Done(vec![1]));
    assert_eq!((wrong.count(), b.count()), (0, 1));
    let alone = third_party(vec![place("a", wrong.addr)]);
    let outcome = alone.request_and_wait(device("d"), PATIENCE, vec![1]);
    let Outcome::Unreachable(text) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("wrong answers where a should be"), "{text}");
}

#[test]
fn what_may_have_been_done_is_only_tried_again_if_that_does_no_harm() {
    let ends = Controller::start("ends", |_| Does::EndsTheConnection);
    let b = Controller::echo("b");
    let third = third_party(vec![place("ends", ends.addr), place("b", b.addr)]);
    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![1]);
    assert_eq!(outcome, Outcome::TimedOut);
    assert_eq!((ends.count(), b.count()), (1, 0));
    // Its pause is over sometime; until then the other one is asked.
    wait_for("it was tried with both", || {
        let (reply, told) = reply();
        third.request_idempotent(device("d"), PATIENCE, vec![2], reply);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Outcome::Done(vec![2]));
        ends.count() == 2
    });
}

#[test]
fn silence_ends_with_the_deadline() {
    let silent = Controller::start("silent", |_| Does::Nothing);
    let third = third_party(vec![place("silent", silent.addr)]);
    let deadline = Duration::from_millis(300);
    // The first may end before a connection stands.
    wait_for("one was sent", || {
        let began = Instant::now();
        let outcome = third.request_and_wait(device("d"), deadline, vec![1]);
        // The clock of a router counts whole milliseconds.
        let is_early = began.elapsed() + Duration::from_millis(5) < deadline;
        assert!(!is_early || matches!(outcome, Outcome::Unreachable(_)), "{outcome:?}");
        silent.count() > 0 && outcome == Outcome::TimedOut
    });
}
