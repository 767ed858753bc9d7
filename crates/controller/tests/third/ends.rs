//! Everything is answered, also when it ends.

use std::sync::Arc;
use std::thread;

use eversock_controller::wire::client::Outcome;

use crate::common::{Controller, Does, PATIENCE, device, place, reply, third_party, wait_for};

#[test]
fn closing_answers_what_is_under_way() {
    let silent = Controller::start("silent", |_| Does::Nothing);
    let third = third_party(vec![place("silent", silent.addr)]);
    let (sent, told_sent) = reply();
    third.request(device("d"), PATIENCE, vec![1], sent);
    wait_for("it was sent", || silent.count() == 1);
    third.close();
    assert_eq!(told_sent.recv_timeout(PATIENCE).unwrap(), Outcome::TimedOut);
}

#[test]
fn what_was_not_sent_when_it_closes_was_surely_not_done() {
    // Takes connections and greets nobody.
    let mute = eversock_socket::VirtualListener::bind("127.0.0.1:0").unwrap();
    let third = third_party(vec![place("mute", mute.local_addr().unwrap())]);
    let replies: Vec<_> = (0..5).map(|_| reply()).collect();
    let told: Vec<_> = replies
        .into_iter()
        .map(|(reply, told)| {
            third.request(device("d"), PATIENCE, vec![1], reply);
            told
        })
        .collect();
    third.close();
    for told in told {
        let outcome = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(&outcome, Outcome::Unreachable(_)), "{outcome:?}");
        assert!(told.is_empty());
    }
}

#[test]
fn a_reply_that_panics_ends_nothing() {
    let controller = Controller::echo("a");
    let third = third_party(vec![place("a", controller.addr)]);
    third.request(device("d"), PATIENCE, vec![1], Box::new(|_| panic!("on purpose")));
    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![2]);
    assert_eq!(outcome, Outcome::Done(vec![2]));
}

#[test]
fn many_threads_may_ask() {
    let controller = Controller::echo("a");
    let third = Arc::new(third_party(vec![place("a", controller.addr)]));
    let threads: Vec<_> = (0..8_u8)
        .map(|n| {
            let third = Arc::clone(&third);
            thread::spawn(move || {
                for k in 0..50 {
                    let outcome = third.request_and_wait(device("d"), PATIENCE, vec![n, k]);
                    assert_eq!(outcome, Outcome::Done(vec![n, k]));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(controller.count(), 400);
}
