//! What an epoch inherits from the one before: replay, ends of streams, and late news.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use common::{
    WINDOW, control, data, exchange, finish, frame, millis, new_epoch, pass, read_all, secs,
    sessions, start, talk,
};
use eversock_proto::recv::Violation;
use eversock_proto::send::ClaimError;
use eversock_proto::session::Fault;
use eversock_proto::testing::{Cut, Ending, InFlight, Notice, Pair, PairConfig, PlannedCut, Side};
use eversock_proto::wire::frame::{Acks, Kind};

#[test]
fn an_ack_of_the_old_epoch_above_the_quoted_offset_moves_the_start_of_the_replay() {
    let (mut a, mut b) = sessions();
    a.write(&[1; 1000]);
    let bytes = a.transmit(usize::MAX);
    b.handle_bytes(&bytes[..500]).unwrap();
    let quoted = b.rx.next();
    assert!(quoted < 1000);
    // Its program reads on, and its ack arrives before the CONFIRM.
    b.handle_bytes(&bytes[500..]).unwrap();
    read_all(&mut b);
    b.sweep();
    pass(&mut b, &mut a).unwrap();
    assert_eq!((a.tx.acked(), a.tx.log_len()), (1000, 0));
    a.begin_epoch(quoted).unwrap();
    b.begin_epoch(0).unwrap();
    assert_eq!(a.tx.cursor(), 1000);
    a.write(&[2; 10]);
    talk(&mut a, &mut b);
    assert_eq!(read_all(&mut b), [2; 10]);
}

#[test]
fn bytes_that_came_over_the_old_connection_after_the_quote_are_skipped() {
    for came in 0..60 {
        let (mut a, mut b) = sessions();
        let written: Vec<u8> = (0..40).collect();
        a.write(&written);
        let bytes = a.transmit(usize::MAX);
        let quoted = b.rx.next();
        b.handle_bytes(&bytes[..came.min(bytes.len())]).unwrap();
        a.begin_epoch(quoted).unwrap();
        b.begin_epoch(0).unwrap();
        talk(&mut a, &mut b);
        assert_eq!(read_all(&mut b), written);
    }
}

#[test]
fn a_start_above_what_has_come_means_data_lost_for_good() {
    let (mut a, mut b) = sessions();
    a.write(b"abc");
    talk(&mut a, &mut b);
    b.begin_epoch(0).unwrap();
    assert_eq!(b.handle_bytes(&start(3)), Ok(()));
    b.begin_epoch(0).unwrap();
    let fault = b.handle_bytes(&start(4)).unwrap_err();
    assert_eq!(fault, Fault::Violation(Violation::DataLost { start: 4, have: 3 }));
    assert!(fault.is_final());
}

#[test]
fn a_quote_below_the_log_is_no_error_and_one_above_all_that_was_sent_is() {
    let (mut a, mut b) = sessions();
    a.write(b"abc");
    talk(&mut a, &mut b);
    read_all(&mut b);
    b.sweep();
    talk(&mut a, &mut b);
    assert_eq!(a.tx.log_len(), 0);
    assert_eq!(a.begin_epoch(0), Ok(()));
    assert_eq!(a.tx.cursor(), 3);
    assert_eq!(a.begin_epoch(3), Ok(()));
    assert_eq!(a.begin_epoch(4), Err(ClaimError::BeyondSent { claimed: 4, sent: 3 }));
}

#[test]
fn each_epoch_begins_with_one_start_and_only_one() {
    let (_, mut b) = sessions();
    assert_eq!(b.handle_bytes(&start(0)), Err(Fault::Violation(Violation::SecondStart)));
    b.begin_epoch(0).unwrap();
    assert_eq!(b.handle_bytes(&data(b"x")), Err(Fault::Violation(Violation::NoStart)));
}

#[test]
fn late_bytes_of_an_old_connection_change_nothing() {
    for seed in 0..50 {
        let mut pair = Pair::new(seed, PairConfig::default());
        for side in Side::BOTH {
            pair.write_some(side, 60_000);
        }
        pair.run_for(millis(12));
        let cut = Cut { notice: [Notice::AtOnce; 2], in_flight: InFlight::Late(secs(3)) };
        pair.cut(cut);
        exchange(&mut pair);
        pair.run_until(millis(2900), |pair| pair.net.now >= millis(2900));
        let snapshot = |pair: &Pair| {
            Side::BOTH.map(|side| {
                let session = pair.end(side).session().unwrap();
                let (tx, rx) = (&session.tx, &session.rx);
                let sent = (tx.acked(), tx.cursor(), tx.edge(), tx.log_len(), tx.told());
                let came = (rx.next(), rx.acks(), rx.frames(), rx.peer(), rx.has_news());
                (sent, came, session.control.epoch(), pair.end(side).standing())
            })
        };
        let late = |pair: &Pair| Side::BOTH.map(|side| pair.end(side).late_bytes());
        let (before, late_before) = (snapshot(&pair), late(&pair));
        pair.run_for(secs(8));
        assert_ne!(late(&pair), late_before, "nothing came late");
        assert_eq!(snapshot(&pair), before);
        finish(&mut pair);
    }
}

#[test]
fn more_than_16_megabytes_each_way_survive_cuts_of_every_kind() {
    const TOTAL: usize = 17 << 20;
    let config = PairConfig {
        kernel_bytes: 512 * 1024,
        latency: millis(2),
        direct: [false, true],
        ..PairConfig::default()
    };
    let mut pair = Pair::new(16, config);
    let mut next_cut = 1 << 20;
    let done = pair.run_until(secs(3600), |pair| {
        for side in Side::BOTH {
            let left = TOTAL - pair.end(side).written();
            pair.write_some(side, left.min(100_000));
            pair.read(side, 150_000);
        }
        let read = pair.end(Side::Client).read();
        if read > next_cut {
            next_cut += 1_300_000;
            pair.cut(match (next_cut / 1_300_000) % 3 {
                0 => Cut::RESET,
                1 => Cut::half_open(Side::Client),
                _ => Cut { notice: [Notice::AtOnce; 2], in_flight: InFlight::Late(millis(40)) },
            });
        }
        Side::BOTH.iter().all(|&side| pair.end(side).read() == TOTAL)
    });
    assert!(done, "{pair:?}");
    assert!(pair.end(Side::Client).session().unwrap().control.resumes() > 10);
    assert!(pair.end(Side::Client).session().unwrap().tx.replayed() > 0);
    finish(&mut pair);
}

#[test]
fn a_cut_during_replay_continues_at_the_new_offset() {
    let mut pair = Pair::new(4, PairConfig::default());
    pair.write_some(Side::Client, 200_000);
    for conn in 1..12 {
        let after = 168 + 15_000;
        pair.net.planned.push(PlannedCut { conn, from: Side::Client, after, cut: Cut::RESET });
    }
    pair.cut(Cut::RESET);
    let done = pair.run_until(secs(300), |pair| {
        pair.read(Side::Server, 5000);
        pair.end(Side::Server).read() == 200_000
    });
    assert!(done, "{pair:?}");
    // Each connection carried what the one before had not, so the replay did not start over.
    assert!(pair.end(Side::Client).session().unwrap().tx.replayed() < 11 * 200_000);
    assert_eq!(pair.net.dials(), 13);
}

#[test]
fn a_half_close_survives_a_cut_and_the_other_direction_goes_on() {
    let mut pair = Pair::new(5, PairConfig::default());
    pair.write_some(Side::Client, 1000);
    pair.shutdown_write(Side::Client);
    assert_eq!(pair.write_some(Side::Client, 1), 0);
    pair.cut(Cut::RESET);
    pair.run_until(secs(60), |pair| {
        pair.read(Side::Server, 10_000);
        pair.end(Side::Server).is_at_end()
    });
    assert_eq!(pair.end(Side::Server).read(), 1000);
    for _ in 0..5 {
        assert_eq!(pair.write_some(Side::Server, 50_000), 50_000);
        pair.run_for(secs(1));
        while pair.read(Side::Client, 10_000) > 0 {}
        pair.cut(Cut::half_open(Side::Server));
    }
    finish(&mut pair);
    assert_eq!(pair.end(Side::Client).read(), 250_000);
}

#[test]
fn a_fin_cut_at_any_byte_is_an_eof_behind_all_bytes_and_never_an_error() {
    for from in Side::BOTH {
        for after in 0..120 {
            for cut in [Cut::RESET, Cut::half_open(Side::Client), Cut::half_open(Side::Server)] {
                let plan = PlannedCut { conn: 0, from, after, cut };
                let mut pair = Pair::with_cuts(after, PairConfig::default(), &[plan]);
                for side in Side::BOTH {
                    pair.write_some(side, 20);
                }
                finish(&mut pair);
                assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Done), "{pair:?}");
                let server = pair.end(Side::Server);
                // The last ack of all may be lost with the client gone: nobody can tell.
                let done = matches!(server.ending(), Some(Ending::Done | Ending::Expired));
                assert!(done, "{pair:?}");
            }
        }
    }
}

#[test]
fn a_fin_that_was_acknowledged_by_a_lost_ack_is_not_sent_again() {
    let (mut a, mut b) = sessions();
    a.write(b"all");
    a.tx.finish();
    pass(&mut a, &mut b).unwrap();
    assert_eq!(read_all(&mut b), b"all");
    assert!(b.rx.is_at_end());
    assert!(!b.transmit(usize::MAX).is_empty(), "the ack, lost");
    new_epoch(&mut a, &mut b);
    assert_eq!(a.transmit(usize::MAX), {
        let acks = a.rx.acks();
        frame(Kind::Start, acks, &4u64.to_le_bytes())
    });
    assert!(!a.tx.is_done());
    pass(&mut b, &mut a).unwrap();
    assert!(a.tx.is_done());
}

#[test]
fn an_ack_of_the_last_byte_does_not_acknowledge_the_fin() {
    let (mut a, _) = sessions();
    a.write(b"all");
    a.tx.finish();
    let _lost = a.transmit(usize::MAX);
    a.handle_bytes(&frame(Kind::Ack, Acks { ack: 3, window: 16 }, &[])).unwrap();
    assert!(a.tx.is_drained() && !a.tx.is_done());
    a.handle_bytes(&frame(Kind::Ack, Acks { ack: 4, window: 16 }, &[])).unwrap();
    assert!(a.tx.is_done());
}

#[test]
fn the_ack_of_a_fin_waits_for_the_bytes_before_it_and_then_for_nothing() {
    let (mut a, mut b) = sessions();
    a.write(&[0; 100]);
    a.tx.finish();
    pass(&mut a, &mut b).unwrap();
    assert!(b.rx.fin_seen() && !b.rx.is_at_end());
    assert_eq!(b.rx.acks().ack, 0);
    b.read(&mut [0; 100]);
    assert_eq!(b.rx.acks().ack, 101);
    assert!(b.tx.has_output(), "no sweep is needed for a FIN");
}

#[test]
fn data_behind_a_fin_condemns_the_connection() {
    for behind in [data(b"x"), control(Kind::Fin, 4), control(Kind::Fin, 2)] {
        let (mut a, mut b) = sessions();
        a.write(b"all");
        a.tx.finish();
        pass(&mut a, &mut b).unwrap();
        let expected = Fault::Violation(Violation::BehindFin);
        assert_eq!(b.handle_bytes(&behind), Err(expected));
        assert_eq!(read_all(&mut b), b"all");
        assert!(b.rx.is_at_end());
        new_epoch(&mut a, &mut b);
        talk(&mut a, &mut b);
        assert!(a.tx.is_done());
    }
}

#[test]
fn a_fin_at_an_offset_other_than_the_end_condemns_the_connection() {
    for offset in [2, 4] {
        let (mut a, mut b) = sessions();
        a.write(b"all");
        pass(&mut a, &mut b).unwrap();
        let expected = Fault::Violation(Violation::BehindFin);
        assert_eq!(b.handle_bytes(&control(Kind::Fin, offset)), Err(expected));
        assert!(!b.rx.fin_seen());
    }
}

#[test]
fn a_fin_that_overtakes_its_replay_condemns_the_connection() {
    let (mut a, mut b) = sessions();
    a.write(b"all");
    pass(&mut a, &mut b).unwrap();
    b.begin_epoch(0).unwrap();
    b.handle_bytes(&start(1)).unwrap();
    let expected = Fault::Violation(Violation::BehindFin);
    assert_eq!(b.handle_bytes(&control(Kind::Fin, 3)), Err(expected));
    assert!(!b.rx.fin_seen());
}

#[test]
fn a_fin_is_replayed_behind_the_replayed_bytes() {
    let (mut a, mut b) = sessions();
    a.write(&[3; 1000]);
    a.tx.finish();
    let _lost = a.transmit(usize::MAX);
    new_epoch(&mut a, &mut b);
    talk(&mut a, &mut b);
    assert_eq!(read_all(&mut b), [3; 1000]);
    assert!(b.rx.is_at_end());
}

#[test]
fn a_full_window_and_a_fin_need_no_credit_beyond() {
    let (mut a, mut b) = sessions();
    a.write(&vec![0; WINDOW as usize]);
    a.tx.finish();
    pass(&mut a, &mut b).unwrap();
    assert!(b.rx.fin_seen());
    new_epoch(&mut a, &mut b);
    talk(&mut a, &mut b);
    read_all(&mut b);
    talk(&mut a, &mut b);
    assert!(a.tx.is_done());
}

#[test]
fn the_end_of_a_connection_is_never_an_eof() {
    let mut pair = Pair::new(6, PairConfig::default());
    exchange(&mut pair);
    pair.net.refuse_until = pair.net.now + secs(100);
    pair.cut(Cut::RESET);
    pair.run_for(secs(50));
    for side in Side::BOTH {
        assert_eq!(pair.read(side, 10), 0);
        assert!(!pair.end(side).is_at_end());
        assert_eq!(pair.end(side).error(), None);
    }
    exchange(&mut pair);
}
