//! Credit, acks and memory: what bounds a session, and what must never stop it.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use std::io::IoSlice;
use std::sync::Arc;

use common::{
    STARTS, WINDOW, control, data, exchange, finish, frame, millis, new_epoch, pass, read_all,
    secs, session, session_with, sessions, start, talk,
};
use eversock_proto::control::Role;
use eversock_proto::limits::{
    ACK_STEP_MAX_BYTES, ADDRS_BODY_MAX_BYTES, ADDRS_MAX, FRAME_PAYLOAD_MAX_BYTES, HEADER_BYTES,
    LOG_GUARANTEED_BYTES, WINDOW_MAX_DEFAULT_BYTES, WINDOW_MIN_BYTES, WINDOW_UNIT_BYTES,
    WINDOW_WIRE_MAX_BYTES,
};
use eversock_proto::log::Pool;
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::send::{ClaimError, GATHER_SLICES, Sender, ack_step};
use eversock_proto::session::Fault;
use eversock_proto::testing::{Cut, Pair, PairConfig, Side};
use eversock_proto::wire::frame::{Acks, Header, Kind};
use eversock_proto::wire::hello::encode_addrs;

fn receiver(window: u64) -> Receiver {
    let mut receiver = Receiver::new(Arc::default(), 0, window);
    receiver.begin_epoch();
    receiver.feed(&start(0)).unwrap();
    receiver
}

#[test]
fn both_sides_of_the_credit_edge() {
    let credit = WINDOW_MIN_BYTES as usize;
    let mut to_the_edge = receiver(WINDOW_MIN_BYTES);
    to_the_edge.feed(&data(&vec![1; credit])).unwrap();
    assert_eq!(to_the_edge.stashed(), credit);
    assert_eq!(to_the_edge.feed(&data(&[1])), Err(Violation::BeyondCredit));
    let mut beyond = receiver(WINDOW_MIN_BYTES);
    assert_eq!(beyond.feed(&data(&vec![1; credit + 1])), Err(Violation::BeyondCredit));
}

#[test]
fn a_sender_takes_bytes_up_to_the_edge_and_no_further() {
    let mut sender = Sender::new(Arc::default(), 0, WINDOW);
    sender.begin_epoch(0).unwrap();
    assert_eq!(sender.write(&vec![0; WINDOW as usize - 1]), WINDOW as usize - 1);
    assert!(!sender.is_out_of_room());
    assert_eq!(sender.write(&[0; 2]), 1);
    assert!(sender.is_out_of_room());
    assert_eq!(sender.write(&[0]), 0);
}

#[test]
fn payload_beyond_the_credit_condemns_the_connection_and_not_the_session() {
    let (mut a, mut b) = sessions();
    let fault = b.handle_bytes(&data(&vec![0; WINDOW as usize + 1])).unwrap_err();
    assert_eq!(fault, Fault::Violation(Violation::BeyondCredit));
    assert!(!fault.is_final());
    // The connection stays condemned, whatever comes.
    assert_eq!(b.handle_bytes(&data(&[0])), Err(fault));
    new_epoch(&mut a, &mut b);
    a.write(b"as if nothing had been");
    talk(&mut a, &mut b);
    assert_eq!(read_all(&mut b), b"as if nothing had been");
}

#[test]
fn an_ack_beyond_what_was_sent_condemns_the_connection_and_not_the_session() {
    let (mut a, mut b) = sessions();
    a.write(b"four");
    let _lost = a.transmit(usize::MAX);
    let told = |ack| frame(Kind::Ack, Acks { ack, window: 16 }, &[]);
    let fault = a.handle_bytes(&told(5)).unwrap_err();
    assert_eq!(fault, Fault::Claim(ClaimError::BeyondSent { claimed: 5, sent: 4 }));
    // It was not believed, and it does not haunt the next connection.
    assert_eq!(a.tx.acked(), 0);
    new_epoch(&mut a, &mut b);
    talk(&mut a, &mut b);
    assert_eq!(read_all(&mut b), b"four");
    talk(&mut a, &mut b);
    b.sweep();
    talk(&mut a, &mut b);
    assert_eq!(a.tx.acked(), 4);
}

#[test]
fn an_ack_of_all_that_was_sent_is_believed() {
    let (mut a, _) = sessions();
    a.write(b"four");
    let _lost = a.transmit(usize::MAX);
    a.handle_bytes(&frame(Kind::Ack, Acks { ack: 4, window: 16 }, &[])).unwrap();
    assert_eq!((a.tx.acked(), a.tx.log_len()), (4, 0));
}

#[test]
fn no_frame_exceeds_the_payload_limit_and_one_may_reach_it() {
    let most = FRAME_PAYLOAD_MAX_BYTES;
    let mut sender = Sender::new(Arc::default(), 0, 4 * most as u64);
    sender.begin_epoch(0).unwrap();
    assert!(sender.prepare(Acks::default()));
    sender.sent(HEADER_BYTES + 8);
    sender.write(&vec![7; most + 1]);
    let mut lengths = Vec::new();
    while sender.prepare(Acks::default()) {
        let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
        let (count, bytes) = sender.gather(&mut slices);
        let whole: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        assert_eq!(whole, bytes);
        lengths.push(bytes - HEADER_BYTES);
        sender.sent(bytes);
    }
    assert_eq!(lengths, [most, 1]);
}

#[test]
fn a_header_that_cannot_be_condemns_the_connection() {
    let long = Header {
        kind: Kind::Data,
        flags: 0,
        length: FRAME_PAYLOAD_MAX_BYTES as u32 + 1,
        acks: Acks::default(),
    };
    assert_eq!(receiver(WINDOW).feed(&long.encode()), Err(Violation::BadHeader));
    for kind in [Kind::Fin, Kind::Reset, Kind::Stop] {
        for length in [7, 9] {
            let bytes = frame(kind, Acks::default(), &vec![0; length]);
            assert_eq!(receiver(WINDOW).feed(&bytes), Err(Violation::BadHeader));
        }
    }
    for (length, expected) in [
        (ADDRS_BODY_MAX_BYTES, Violation::BadAddrs),
        (ADDRS_BODY_MAX_BYTES + 1, Violation::BadHeader),
    ] {
        let bytes = frame(Kind::Addrs, Acks::default(), &vec![0; length]);
        assert_eq!(receiver(WINDOW).feed(&bytes), Err(expected));
    }
}

#[test]
fn both_sides_of_the_address_limit() {
    let addrs: Vec<_> =
        (1..=ADDRS_MAX as u16 + 1).map(|port| ([127, 0, 0, 1], port).into()).collect();
    let mut full = receiver(WINDOW);
    let body = encode_addrs(&addrs[..ADDRS_MAX]);
    full.feed(&frame(Kind::Addrs, Acks::default(), &body)).unwrap();
    assert_eq!(full.take_news().addrs.unwrap().len(), ADDRS_MAX);
    let mut more = body;
    more.extend_from_slice(&encode_addrs(&addrs[ADDRS_MAX..]));
    let bytes = frame(Kind::Addrs, Acks::default(), &more);
    assert_eq!(receiver(WINDOW).feed(&bytes), Err(Violation::BadAddrs));
    // A sender with too many leaves some out rather than break every connection.
    assert_eq!(encode_addrs(&addrs), encode_addrs(&addrs[..ADDRS_MAX]));
}

#[test]
fn an_address_without_a_port_is_left_out_rather_than_sent() {
    let mut a = session(Role::Client);
    let mut b = session(Role::Server);
    a.tx.want_addrs(&[([10, 0, 0, 1], 0).into(), ([10, 0, 0, 2], 80).into()]);
    let bytes = a.transmit(usize::MAX);
    b.rx.feed(&bytes).unwrap();
    assert_eq!(b.rx.take_news().addrs, Some(vec![([10, 0, 0, 2], 80).into()]));
}

/// The list of a connection that was cut was never told again, so the peer did not know it.
#[test]
fn addresses_that_died_with_their_connection_are_told_again() {
    let (mut a, mut b) = sessions();
    let old = [([10, 0, 0, 1], 1).into()];
    let new = [([10, 0, 0, 2], 2).into()];
    a.tx.want_addrs(&old);
    a.transmit(usize::MAX);
    a.tx.want_addrs(&new);
    // Cut in the middle of the frame, and of the one after it.
    for _ in 0..2 {
        assert!(!a.transmit(20).is_empty());
        for end in [&mut a, &mut b] {
            end.begin_epoch(0).unwrap();
        }
    }
    b.rx.feed(&a.transmit(usize::MAX)).unwrap();
    assert_eq!(b.rx.take_news().addrs, Some(new.to_vec()));
    assert!(!a.tx.has_output());
}

#[test]
fn windows_stay_within_their_limits_and_on_whole_units() {
    let window = |bytes| Receiver::new(Arc::default(), 0, bytes).window();
    assert_eq!(window(0), WINDOW_MIN_BYTES);
    assert_eq!(window(WINDOW_MIN_BYTES + WINDOW_UNIT_BYTES - 1), WINDOW_MIN_BYTES);
    assert_eq!(window(u64::MAX), WINDOW_WIRE_MAX_BYTES);
    let widest = Receiver::new(Arc::default(), 0, u64::MAX).acks();
    assert_eq!(widest.edge(), WINDOW_WIRE_MAX_BYTES);
    let mut growing = receiver(WINDOW);
    growing.set_window_max(3 * WINDOW);
    assert!(growing.grow_window());
    assert!(growing.grow_window());
    assert_eq!(growing.window(), 3 * WINDOW);
    assert!(!growing.grow_window());
}

#[test]
fn an_ack_goes_out_when_the_edge_has_moved_by_a_quarter_window_and_not_before() {
    let (mut a, mut b) = sessions();
    a.write(&vec![0; WINDOW as usize]);
    pass(&mut a, &mut b).unwrap();
    let quarter = WINDOW as usize / 4;
    b.read(&mut vec![0; quarter - 1]);
    assert!(!b.tx.has_output());
    b.read(&mut [0; 1]);
    assert!(b.tx.has_output());
}

/// A quarter of a large window is too much on a long path: the sender ran dry while it waited.
#[test]
fn an_ack_waits_for_no_more_than_a_step_however_large_the_window() {
    assert!(ack_step(WINDOW_MAX_DEFAULT_BYTES) < WINDOW_MAX_DEFAULT_BYTES / 4);
    let mut sender = Sender::new(Arc::default(), 0, WINDOW);
    sender.begin_epoch(0).unwrap();
    let consumed = |ack| Acks { ack, window: u16::MAX };
    assert!(sender.prepare(consumed(0)));
    let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
    let (count, _) = sender.gather(&mut slices);
    let told = slices[..count].iter().map(|slice| slice.len()).sum();
    sender.sent(told);
    assert!(!sender.ack_is_due(consumed(ACK_STEP_MAX_BYTES - 1), false));
    assert!(sender.ack_is_due(consumed(ACK_STEP_MAX_BYTES), false));
}

#[test]
fn bytes_read_ahead_and_consumed_later_give_credit_without_new_input() {
    let (mut a, mut b) = sessions();
    a.write(&vec![0; WINDOW as usize]);
    talk(&mut a, &mut b);
    assert!(a.tx.is_out_of_room());
    read_all(&mut b);
    talk(&mut a, &mut b);
    assert_eq!(a.tx.room(), WINDOW as usize);
}

#[test]
fn credit_that_died_with_the_old_epoch_is_given_again_by_start() {
    let (mut a, mut b) = sessions();
    a.write(&vec![0; WINDOW as usize]);
    pass(&mut a, &mut b).unwrap();
    read_all(&mut b);
    assert!(!b.transmit(usize::MAX).is_empty(), "an ACK was due; it is lost here");
    assert!(!b.tx.has_output());
    new_epoch(&mut a, &mut b);
    assert_eq!(a.tx.room(), 0);
    pass(&mut b, &mut a).unwrap();
    assert_eq!(a.tx.room(), WINDOW as usize);
    assert_eq!(a.tx.log_len(), 0);
}

#[test]
fn credit_is_never_retracted() {
    let (mut a, _) = sessions();
    a.handle_bytes(&frame(Kind::Ack, Acks { ack: 0, window: 40 }, &[])).unwrap();
    a.handle_bytes(&frame(Kind::Ack, Acks { ack: 0, window: 4 }, &[])).unwrap();
    assert_eq!(a.tx.edge(), 40 * WINDOW_UNIT_BYTES);
    a.begin_epoch(0).unwrap();
    a.handle_bytes(&start(0)).unwrap();
    assert_eq!(a.tx.edge(), 40 * WINDOW_UNIT_BYTES);
}

#[test]
fn the_last_small_response_is_acked_by_the_sweep_and_then_nothing_stirs() {
    for direct in [false, true] {
        let config = PairConfig { direct: [direct; 2], ..PairConfig::default() };
        let mut pair = Pair::new(1, config);
        pair.write_some(Side::Server, 100);
        assert!(pair.run_until(millis(500), |pair| {
            while pair.read(Side::Client, 1000) > 0 {}
            pair.end(Side::Client).read() == 100
        }));
        assert_eq!(pair.end(Side::Server).session().unwrap().tx.log_len(), 100);
        pair.run_for(secs(2));
        // A direct server must look at its connection once to see the ack.
        pair.read(Side::Server, 1);
        assert_eq!(pair.end(Side::Server).session().unwrap().tx.log_len(), 0);
        pair.run_for(secs(2));
        assert!(!pair.step(), "an idle session stirs: {pair:?}");
    }
}

#[test]
fn a_side_that_never_reads_bounds_the_memory_and_the_other_direction_goes_on() {
    for direct in [false, true] {
        let config = PairConfig {
            window: [WINDOW; 2],
            window_max: [WINDOW, 4 * WINDOW],
            direct: [false, direct],
            ..PairConfig::default()
        };
        let mut pair = Pair::new(1, config);
        let mut back = 0;
        for _ in 0..400 {
            pair.write_some(Side::Client, 100_000);
            pair.write_some(Side::Server, 20_000);
            pair.run_for(millis(50));
            back += pair.read(Side::Client, 200_000);
        }
        let client = pair.end(Side::Client).session().unwrap();
        let server = pair.end(Side::Server).session().unwrap();
        assert!(client.tx.log_len() <= 4 * WINDOW);
        assert!(server.rx.stashed() as u64 <= 4 * WINDOW);
        assert!(client.tx.is_out_of_room());
        if !direct {
            assert!(back > 5_000_000, "the other direction stood still: {back} {pair:?}");
        }
    }
}

#[test]
fn both_may_write_a_whole_greatest_window_before_either_reads() {
    for direct in [false, true] {
        let most = WINDOW_MAX_DEFAULT_BYTES as usize;
        let config = PairConfig { direct: [direct; 2], ..PairConfig::default() };
        let mut pair = Pair::new(2, config);
        let mut left = [most; 2];
        let took = pair.run_until(secs(600), |pair| {
            for side in Side::BOTH {
                let n = left[side.index()].min(50_000);
                left[side.index()] -= pair.write_some(side, n);
            }
            left == [0; 2]
        });
        assert!(took, "both wait for each other, {left:?} left: {pair:?}");
        finish(&mut pair);
    }
}

#[test]
fn beyond_the_greatest_window_two_writers_wait_until_one_reads() {
    let config =
        PairConfig { window: [WINDOW; 2], window_max: [WINDOW; 2], ..PairConfig::default() };
    let mut pair = Pair::new(2, config);
    for side in Side::BOTH {
        assert_eq!(pair.write_some(side, WINDOW as usize + 1), WINDOW as usize);
    }
    pair.run_for(secs(60));
    assert_eq!(pair.write_some(Side::Client, 1), 0);
    pair.read(Side::Server, WINDOW as usize);
    pair.run_for(secs(1));
    assert_eq!(pair.write_some(Side::Client, 1), 1);
    finish(&mut pair);
}

#[test]
fn a_side_out_of_credit_raises_the_credit_it_gives_up_to_the_maximum() {
    let mut a = session_with(Role::Client, 4 * WINDOW);
    let mut b = session(Role::Server);
    talk(&mut a, &mut b);
    a.write(&vec![0; WINDOW as usize]);
    pass(&mut a, &mut b).unwrap();
    for expected in [2, 4, 4] {
        // Anything that comes while a waits for credit raises what a gives.
        a.handle_bytes(&frame(Kind::Ack, Acks { ack: 0, window: 16 }, &[])).unwrap();
        assert_eq!(a.rx.window(), expected * WINDOW);
    }
}

#[test]
fn credit_taken_to_the_edge_is_flagged_and_makes_the_receiver_give_more() {
    let mut a = session(Role::Client);
    let mut b = session_with(Role::Server, 2 * WINDOW);
    talk(&mut a, &mut b);
    a.write(&vec![0; WINDOW as usize - 1]);
    talk(&mut a, &mut b);
    assert_eq!(b.rx.window(), WINDOW);
    a.write(&[0]);
    talk(&mut a, &mut b);
    assert_eq!(b.rx.window(), 2 * WINDOW);
    assert_eq!(a.tx.room(), WINDOW as usize);
}

#[test]
fn a_log_holds_no_more_than_the_window_even_when_acks_run_ahead_of_a_replay() {
    let (mut a, mut b) = sessions();
    let window = WINDOW as usize;
    assert_eq!(a.write(&vec![1; window]), window);
    let quoted = b.rx.next();
    pass(&mut a, &mut b).unwrap();
    // B resumes with the offset that it quoted before the bytes came, reads them, and says so.
    a.begin_epoch(quoted).unwrap();
    b.begin_epoch(0).unwrap();
    read_all(&mut b);
    let news = b.transmit(usize::MAX);
    a.handle_bytes(&news).unwrap();
    assert_eq!(a.tx.acked(), WINDOW);
    a.write(&vec![2; window]);
    assert!(a.tx.log_len() <= WINDOW, "{} bytes held", a.tx.log_len());
    talk(&mut a, &mut b);
    assert_eq!(b.rx.next(), WINDOW + (a.tx.written() - WINDOW));
    assert!(read_all(&mut b).iter().all(|&byte| byte == 2));
}

#[test]
fn offsets_near_the_ends_of_number_ranges_change_nothing() {
    for client in STARTS {
        for server in STARTS {
            let config = PairConfig { start: [client, server], ..PairConfig::default() };
            let mut pair = Pair::new(client ^ server, config);
            for _ in 0..4 {
                exchange(&mut pair);
                pair.cut(Cut::RESET);
            }
            finish(&mut pair);
        }
    }
}

#[test]
fn only_a_reset_may_overtake_bytes_that_are_not_begun() {
    let (mut a, mut b) = sessions();
    a.write(&[5; 100]);
    a.tx.want_reset(7);
    let bytes = a.transmit(usize::MAX);
    assert_eq!(bytes[..HEADER_BYTES + 8], {
        let (mut reset, acks) = (control(Kind::Reset, 7), a.rx.acks());
        reset[2..4].copy_from_slice(&acks.window.to_le_bytes());
        reset
    });
    b.handle_bytes(&bytes).unwrap();
    assert_eq!(b.reset_by_peer(), Some(7));
}

/// What came behind it kept a kernel that was full busy with bytes that nobody takes.
#[test]
fn a_reset_is_the_last_that_is_sent_in_an_epoch() {
    let (mut a, _) = sessions();
    a.write(&[5; 100]);
    a.tx.finish();
    a.tx.want_reset(7);
    assert!(a.tx.has_output());
    assert_eq!(a.transmit(usize::MAX).len(), HEADER_BYTES + 8);
    a.tx.want_ack();
    a.tx.want_stop(0);
    a.tx.want_reset(7);
    assert!(!a.tx.has_output() && a.transmit(usize::MAX).is_empty());
    // The connection may have died with it: START and RESET, and nothing else, in the next.
    a.begin_epoch(0).unwrap();
    assert_eq!(a.transmit(usize::MAX).len(), 2 * (HEADER_BYTES + 8));
    assert!(!a.tx.has_output());
}

/// The program's end of a pump was read for as much as there was room, the cap was used up by
/// others, and what it left no room for was lost (review).
#[test]
fn bytes_that_cannot_be_given_back_are_taken_although_the_cap_has_shrunk_meanwhile() {
    let pool = Arc::new(Pool::default());
    let mut sender = Sender::new(Arc::clone(&pool), 0, u64::MAX);
    let guaranteed = vec![1; LOG_GUARANTEED_BYTES as usize];
    sender.write_all(&guaranteed);
    let room = sender.room().min(16 * 1024);
    assert_eq!(room, 16 * 1024);
    pool.set_cap(1000);
    sender.write_all(&vec![2; room]);
    assert_eq!(sender.written(), LOG_GUARANTEED_BYTES + room as u64);
    assert_eq!(sender.room(), 0);
}
