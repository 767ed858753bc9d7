//! Sessions over real sockets, through a proxy that does what bad networks do.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Ends, data, ends, exchange, pair, quick, wait_until};
use eversock_chaos::{Fault, Plan, Target};

const MIB: usize = 1024 * 1024;

/// Injects a fault whenever so many more bytes have passed, until the exchange is over.
fn cut_while_flowing(ends: &Ends, fault: &Fault, every: u64, over: &AtomicBool) -> usize {
    let mut done = 0;
    let mut last = 0;
    while !over.load(Ordering::SeqCst) {
        let stats = ends.proxy.stats();
        let moved = stats.summary.up + stats.summary.down;
        if moved >= last + every {
            last = moved;
            done += ends.proxy.inject(fault.clone(), Target::Open).unwrap();
        }
        std::thread::yield_now();
    }
    done
}

fn survives(fault: &Fault) {
    let ends = pair();
    let (up, down) = (data(1, 24 * MIB), data(2, 24 * MIB));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cutter = scope.spawn(|| cut_while_flowing(&ends, fault, 2 * MIB as u64, &over));
        exchange(&ends.client, &ends.server, &up, &down);
        over.store(true, Ordering::SeqCst);
        assert!(cutter.join().unwrap() >= 5, "the cuts did not hit");
    });
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 5);
}

#[test]
fn resets_while_both_sides_send_lose_nothing() {
    survives(&Fault::Reset);
}

#[test]
fn bare_fins_while_both_sides_send_are_not_ends() {
    survives(&Fault::Fin);
}

#[test]
fn an_idle_session_is_resumed_and_goes_on() {
    let ends = pair();
    for round in 0..20u8 {
        ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
        (&ends.client).write_all(&[round]).unwrap();
        let mut byte = [0];
        (&ends.server).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round]);
        (&ends.server).write_all(&[round ^ 0xFF]).unwrap();
        (&ends.client).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [round ^ 0xFF]);
    }
    wait_until("the resumes are counted", || ends.client.info().unwrap().resumes >= 1);
}

#[test]
fn a_seeded_plan_of_cuts_over_ipv6_is_survived() {
    let ends = ends("[::1]:0", quick(), quick());
    drop(ends);
    common::begin();
    let listener = eversock::VirtualListener::bind_with("[::1]:0", quick()).unwrap();
    let target = listener.local_addr().unwrap();
    let plan = Plan::seeded_from(7, 20, 16 * MIB as u64, &[Fault::Reset, Fault::Fin]);
    let config = eversock_chaos::Config::new("[::1]:0".parse().unwrap(), target).with_plan(plan);
    let proxy = eversock_chaos::Proxy::spawn(config).unwrap();
    let client = eversock::VirtualStream::connect_with(proxy.local_addr(), quick()).unwrap();
    let (server, _) = listener.accept().unwrap();
    exchange(&client, &server, &data(3, 8 * MIB), &data(4, 8 * MIB));
    assert!(proxy.stats().summary.cuts >= 15);
}
