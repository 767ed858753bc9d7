//! How sessions end: closes, stops, resets, tombstones, and paths that never let a byte through.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use common::{exchange, finish, millis, new_epoch, pass, read_all, secs, sessions, talk};
use eversock_proto::control::{Control, Offsets, Role};
use eversock_proto::limits::STALE_RESUMES_MAX;
use eversock_proto::resume::{Reason, Reject};
use eversock_proto::secret::{Secret, SessionId};
use eversock_proto::testing::{Cut, Ending, Pair, PairConfig, PlannedCut, Side};

/// RESUME, CONFIRM, START and a header: whatever follows is payload.
const BEFORE_PAYLOAD_CLIENT: u64 = 104 + 40 + 24 + 16;
/// RESUME_OK, START and a header.
const BEFORE_PAYLOAD_SERVER: u64 = 88 + 24 + 16;

#[test]
fn a_sender_whose_peer_has_closed_learns_it_and_all_that_the_peer_wrote_arrives() {
    for direct in [false, true] {
        for closer in Side::BOTH {
            let config = PairConfig { direct: [direct; 2], ..PairConfig::default() };
            let mut pair = Pair::new(1, config);
            let other = closer.other();
            pair.write_some(closer, 5000);
            pair.write_some(other, 200_000);
            pair.run_for(secs(1));
            pair.close(closer);
            let stopped = pair.run_until(secs(20), |pair| {
                pair.read(other, 300);
                pair.write_some(other, 1000);
                pair.end(other).session().unwrap().tx.is_stopped()
            });
            assert!(stopped, "nobody stops the sender: {pair:?}");
            assert_eq!(pair.write_some(other, 1), 0);
            while pair.run_until(secs(1), |pair| pair.read(other, 300) > 0) {}
            assert_eq!(pair.end(other).read(), 5000);
            assert!(pair.end(other).is_at_end());
            pair.close(other);
            pair.run_for(secs(5));
            for side in Side::BOTH {
                assert_eq!(pair.end(side).ending(), Some(Ending::Done), "{pair:?}");
            }
        }
    }
}

#[test]
fn a_stop_that_died_with_its_connection_is_told_again() {
    for after in 24..60 {
        let mut pair = Pair::new(after, PairConfig::default());
        pair.write_some(Side::Client, 1000);
        let plan = |conn| PlannedCut { conn, from: Side::Server, after, cut: Cut::RESET };
        pair.run_for(millis(500));
        pair.net.planned.push(plan(1));
        // The server has the bytes unread; nothing more will come that could remind it.
        pair.net.hold(Side::Server, millis(100));
        pair.close(Side::Server);
        pair.run_for(millis(50));
        pair.cut(Cut::RESET);
        pair.run_for(secs(20));
        let client = pair.end(Side::Client).session().unwrap();
        assert!(client.tx.is_stopped(), "the stop was told once only: {pair:?}");
    }
}

#[test]
fn a_close_without_unread_input_stops_nobody_until_something_comes() {
    let (mut a, mut b) = sessions();
    b.tx.finish();
    assert_eq!(b.discard(), 0);
    talk(&mut a, &mut b);
    assert!(!a.tx.is_stopped());
    a.write(b"too late");
    pass(&mut a, &mut b).unwrap();
    assert_eq!(b.discard(), 8);
    talk(&mut a, &mut b);
    assert!(a.tx.is_stopped());
    assert_eq!(a.tx.acked(), 8);
}

#[test]
fn a_reset_reaches_the_peer_whatever_byte_the_connection_dies_at() {
    for after in 24..90 {
        let plan = PlannedCut { conn: 0, from: Side::Server, after, cut: Cut::RESET };
        let mut pair = Pair::with_cuts(after, PairConfig::default(), &[plan]);
        pair.write_some(Side::Server, 10);
        pair.run_for(millis(30));
        pair.reset(Side::Server, 104);
        pair.run_for(secs(30));
        let ending = pair.end(Side::Client).ending();
        let told = [Ending::ResetByPeer(104), Ending::Refused(Reason::Reset)];
        assert!(ending.is_some_and(|ending| told.contains(&ending)), "{pair:?}");
        assert!(!pair.end(Side::Client).is_at_end());
    }
}

#[test]
fn a_client_that_resets_while_cut_off_dials_to_say_so() {
    let mut pair = Pair::new(1, PairConfig::default());
    exchange(&mut pair);
    pair.net.refuse_until = pair.net.now + secs(3);
    pair.cut(Cut::RESET);
    pair.run_for(secs(1));
    pair.reset(Side::Client, 5);
    pair.run_for(secs(30));
    assert_eq!(pair.end(Side::Server).ending(), Some(Ending::ResetByPeer(5)));
}

#[test]
fn a_reset_that_was_cut_half_sent_is_told_again_in_the_next_epoch() {
    let (mut a, mut b) = sessions();
    a.tx.want_reset(9);
    assert_eq!(a.transmit(10).len(), 10);
    new_epoch(&mut a, &mut b);
    talk(&mut a, &mut b);
    assert_eq!(b.reset_by_peer(), Some(9));
}

#[test]
fn a_tombstone_tells_a_late_resume_that_all_was_delivered() {
    for after in 24..140 {
        let cut = Cut::half_open(Side::Client);
        let plan = PlannedCut { conn: 0, from: Side::Server, after, cut };
        let mut pair = Pair::with_cuts(after, PairConfig::default(), &[plan]);
        exchange(&mut pair);
        finish(&mut pair);
        assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Done), "{pair:?}");
    }
}

#[test]
fn a_tombstone_names_the_offset_and_answers_nobody_else() {
    let (mut client, server) = sessions();
    let (_, resume) = client.control.resume(0, [1; 32]);
    let tombstone = server.control.bury(Reason::Closed, 77);
    let reject = Reject::decode(&tombstone.answer(&resume).unwrap().encode()).unwrap();
    assert_eq!((reject.reason, reject.offset), (Reason::Closed, 77));
    assert!(reject.is_proven(&client.control.secret, &resume));
    let mut changed = reject.clone();
    changed.offset = 78;
    assert!(!changed.is_proven(&client.control.secret, &resume));
    let stranger = Control::new(Role::Client, SessionId([1; 16]), Secret::from_bytes([9; 32]))
        .resume(0, [1; 32]);
    assert!(tombstone.answer(&stranger.1).is_none());
}

#[test]
fn a_closed_end_waits_for_its_peer_only_so_long_and_says_so() {
    let mut pair = Pair::new(1, PairConfig::default());
    exchange(&mut pair);
    pair.close(Side::Client);
    pair.run_for(secs(59));
    assert_eq!(pair.end(Side::Client).ending(), None);
    pair.run_for(secs(2));
    assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Lingered));
    assert_eq!(pair.end(Side::Server).ending(), Some(Ending::ResetByPeer(0)));
}

/// Every connection from the second on dies when the first payload byte would pass.
fn stuck_path(from: Side, header_bytes: u64) -> Pair {
    let mut pair = Pair::new(2, PairConfig::default());
    exchange(&mut pair);
    for conn in 1..200 {
        let plan = PlannedCut { conn, from, after: header_bytes, cut: Cut::RESET };
        pair.net.planned.push(plan);
    }
    pair.cut(Cut::RESET);
    pair.write_some(from, 1000);
    pair.run_for(secs(590));
    pair
}

#[test]
fn a_path_that_kills_the_same_bytes_each_time_ends_the_session_and_is_never_hot() {
    let pair = stuck_path(Side::Client, BEFORE_PAYLOAD_CLIENT);
    assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Stale), "{pair:?}");
    let resumes = pair.end(Side::Client).session().unwrap().control.resumes();
    assert!((16..=20).contains(&resumes), "{resumes}");
}

#[test]
fn a_server_whose_bytes_are_killed_each_time_ends_the_session_too() {
    let pair = stuck_path(Side::Server, BEFORE_PAYLOAD_SERVER);
    assert_eq!(pair.end(Side::Server).ending(), Some(Ending::Stale), "{pair:?}");
    assert_eq!(pair.end(Side::Client).ending(), Some(Ending::Refused(Reason::Reset)));
}

#[test]
fn resumes_without_progress_back_off_although_each_of_them_succeeds() {
    let mut pair = Pair::new(3, PairConfig::default());
    exchange(&mut pair);
    for conn in 1..200 {
        let after = BEFORE_PAYLOAD_CLIENT;
        pair.net.planned.push(PlannedCut { conn, from: Side::Client, after, cut: Cut::RESET });
    }
    pair.cut(Cut::RESET);
    pair.write_some(Side::Client, 1000);
    pair.run_for(secs(10));
    assert!(pair.net.dials() < 16, "{} dials in 10 s", pair.net.dials());
}

#[test]
fn a_reader_that_pauses_through_many_cuts_does_not_end_the_session() {
    for direct in [false, true] {
        let config = PairConfig { direct: [direct; 2], ..PairConfig::default() };
        let mut pair = Pair::new(4, config);
        pair.write_some(Side::Client, 1000);
        pair.write_some(Side::Server, 1000);
        for _ in 0..STALE_RESUMES_MAX * 3 {
            pair.run_for(secs(30));
            pair.cut(Cut::RESET);
        }
        for side in Side::BOTH {
            assert_eq!(pair.end(side).ending(), None, "{pair:?}");
        }
        finish(&mut pair);
    }
}

#[test]
fn both_sides_of_the_limit_on_resumes_that_bring_nothing() {
    let stuck = Offsets { acked: 1, receive: 1, expecting: true };
    let mut control = Control::new(Role::Client, SessionId([1; 16]), Secret::from_bytes([1; 32]));
    for _ in 0..STALE_RESUMES_MAX {
        control.resume(0, [0; 32]);
        assert!(control.resumed(stuck).is_ok());
        assert!(!control.is_stale());
    }
    control.resume(0, [0; 32]);
    assert!(control.resumed(stuck).is_err());
    assert!(control.is_stale());
}

#[test]
fn what_has_arrived_is_not_expected_of_the_path_although_it_is_unread() {
    let (mut a, mut b) = sessions();
    a.write(&[0; 100]);
    talk(&mut a, &mut b);
    assert!(a.offsets().expecting, "nobody has said that it came");
    new_epoch(&mut a, &mut b);
    assert!(!a.offsets().expecting);
    assert_eq!((a.tx.acked(), a.offsets().acked), (0, 100));
    a.tx.finish();
    assert!(a.offsets().expecting, "the FIN is under way");
    talk(&mut a, &mut b);
    assert_eq!(read_all(&mut b).len(), 100);
    talk(&mut a, &mut b);
    assert!(!a.offsets().expecting);
}

#[test]
fn a_silent_connection_is_left_for_one_dialled_beside_it() {
    // Behind a proxy both hops are alive and the path is dead: nobody is told.
    let config = PairConfig { keepalive: None, ..PairConfig::default() };
    let mut pair = Pair::new(5, config);
    exchange(&mut pair);
    pair.cut(Cut { notice: [eversock_proto::testing::Notice::Never; 2], ..Cut::RESET });
    pair.write_some(Side::Client, 10);
    let came = pair.run_until(secs(35), |pair| pair.read(Side::Server, 100) > 0);
    assert!(came, "{pair:?}");
    assert_eq!(pair.net.dials(), 2);
}
