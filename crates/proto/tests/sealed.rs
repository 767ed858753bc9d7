//! Sealed sessions: what somebody on the path can do to them, which is to cut them.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use std::sync::Arc;

use common::{WINDOW, exchange, finish, millis, new_epoch, read_all, secs, talk};
use eversock_proto::control::Role;
use eversock_proto::limits::{
    HEADER_BYTES, RECORD_DEADLINE, SEALED_PAYLOAD_FIRST_BYTES, SEALED_PAYLOAD_MAX_BYTES, TAG_BYTES,
};
use eversock_proto::open::Opened;
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::seal::{Cipher, EpochKeys};
use eversock_proto::secret::{Secret, SessionId};
use eversock_proto::send::Sender;
use eversock_proto::session::{Fault, Session, Start};
use eversock_proto::snapshot::{In, Out};
use eversock_proto::testing::{Cut, Pair, PairConfig, PlannedCut, Side, Tamper};
use eversock_proto::wire::frame::{Acks, Header, Kind};

const CIPHERS: [Cipher; 2] = [Cipher::Chacha20Poly1305, Cipher::Aes256Gcm];

fn keys(cipher: Cipher, epoch: u8) -> EpochKeys {
    EpochKeys::from_parts(cipher, [epoch; 32])
}

fn session(role: Role, cipher: Cipher, keys: Option<EpochKeys>) -> Session {
    let opened = Opened {
        id: SessionId([1; 16]),
        secret: Secret::from_bytes([2; 32]),
        window: WINDOW,
        grace: secs(0),
        addrs: Vec::new(),
        peer: None,
        shares: false,
        cipher: Some(cipher),
        keys,
    };
    let start = Start { send: 0, receive: 0, window: WINDOW, window_max: WINDOW };
    Session::new(role, opened, &start, Arc::default())
}

/// A client and a server in epoch 1 that have not said anything.
fn sessions(cipher: Cipher) -> (Session, Session) {
    let of = |role| session(role, cipher, Some(keys(cipher, 1)));
    (of(Role::Client), of(Role::Server))
}

/// A new epoch at both ends, as after a resume.
fn resumed(a: &mut Session, b: &mut Session, cipher: Cipher, epoch: u8) {
    new_epoch(a, b);
    a.seal_with(keys(cipher, epoch));
    b.seal_with(keys(cipher, epoch));
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|at| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[test]
fn a_changed_bit_of_any_frame_cuts_the_connection_and_delivers_nothing() {
    for cipher in CIPHERS {
        let said = |client: &mut Session| {
            client.write(&pattern(40));
            client.tx.want_stop(0);
            client.tx.want_addrs(&["127.0.0.1:80".parse().unwrap()]);
            client.tx.want_goaway();
            client.tx.finish();
            client.transmit(usize::MAX)
        };
        let (mut client, _) = sessions(cipher);
        let bytes = said(&mut client);
        // START, STOP, ADDRS, GOAWAY, DATA, FIN.
        assert_eq!(bytes.len(), 6 * (HEADER_BYTES + TAG_BYTES) + 8 + 8 + 7 + 40 + 8);
        for bit in 0..bytes.len() * 8 {
            let (_, mut server) = sessions(cipher);
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A record may have become longer: what would follow completes it.
            bad.resize(bad.len() + SEALED_PAYLOAD_MAX_BYTES, 0);
            let fault = server.handle_bytes(&bad).unwrap_err();
            assert!(!fault.is_final(), "bit {bit}: {fault}");
            let whole = bit / 8 >= bytes.len() - (HEADER_BYTES + 8 + TAG_BYTES);
            let expected = if whole { pattern(40) } else { Vec::new() };
            let before = bit / 8 >= bytes.len() - 2 * (HEADER_BYTES + TAG_BYTES) - 8 - 40;
            let got = read_all(&mut server);
            assert!(got == expected, "bit {bit} (DATA or behind it: {before}): {got:?}");
            assert!(!server.rx.fin_seen(), "bit {bit}: an end that nobody sent");
            // The next epoch mends it, as after any cut.
            resumed(&mut client, &mut server, cipher, 2);
            talk(&mut client, &mut server);
            let mut all = got;
            all.extend(read_all(&mut server));
            assert_eq!(all, pattern(40));
            assert!(server.rx.is_at_end());
            let (fresh, _) = sessions(cipher);
            client = fresh;
            assert_eq!(said(&mut client), bytes, "the same frames under the same keys");
        }
    }
}

#[test]
fn records_are_good_in_their_order_and_epoch_only() {
    for cipher in CIPHERS {
        let (mut client, mut server) = sessions(cipher);
        client.write(&pattern(300));
        let mut epoch_1 = client.transmit(usize::MAX);
        client.write(&pattern(200));
        let second = client.transmit(usize::MAX);
        // What came later is no use without what came first.
        let (_, mut other) = sessions(cipher);
        assert_eq!(other.handle_bytes(&second), Err(Violation::BrokenSeal.into()));
        server.handle_bytes(&epoch_1).unwrap();
        // Nor is what came already.
        let again = server.handle_bytes(&epoch_1);
        assert_eq!(again, Err(Violation::BrokenSeal.into()));
        epoch_1.extend(second);
        resumed(&mut client, &mut server, cipher, 2);
        // A whole old epoch, said again in the new one.
        assert_eq!(server.handle_bytes(&epoch_1), Err(Violation::BrokenSeal.into()));
        resumed(&mut client, &mut server, cipher, 3);
        // What a side has said itself.
        let own = server.transmit(usize::MAX);
        assert_eq!(server.handle_bytes(&own), Err(Violation::BrokenSeal.into()));
        resumed(&mut client, &mut server, cipher, 4);
        talk(&mut client, &mut server);
        let mut expected = pattern(300);
        expected.extend(pattern(200));
        assert_eq!(read_all(&mut server), expected);
    }
}

#[test]
fn clear_frames_are_worth_nothing_to_a_sealed_session() {
    let (_, mut server) = sessions(Cipher::Aes256Gcm);
    let reset = Header { kind: Kind::Reset, flags: 0, length: 8, acks: Acks::default() };
    let mut bytes = common::start(0);
    bytes.extend(reset.encode());
    bytes.extend([0; 100]);
    assert_eq!(server.handle_bytes(&bytes), Err(Violation::BrokenSeal.into()));
    assert_eq!(server.reset_by_peer(), None);
}

#[test]
fn a_sealed_session_says_nothing_and_believes_nothing_before_its_epoch_has_keys() {
    let cipher = Cipher::Chacha20Poly1305;
    let (mut client, _) = sessions(cipher);
    let mut server = session(Role::Server, cipher, None);
    server.write(b"secret");
    server.tx.want_reset(1);
    assert!(!server.tx.has_output());
    assert_eq!(server.transmit(usize::MAX), []);
    let said = client.transmit(usize::MAX);
    assert_eq!(server.handle_bytes(&said), Err(Violation::BrokenSeal.into()));
    // The same in every later epoch: keys do not outlive theirs.
    resumed(&mut client, &mut server, cipher, 2);
    server.begin_epoch(0).unwrap();
    assert_eq!(server.transmit(usize::MAX), []);
    let said = client.transmit(usize::MAX);
    assert_eq!(server.handle_bytes(&said), Err(Violation::BrokenSeal.into()));
}

#[test]
fn a_connection_cut_at_any_byte_of_its_records_loses_and_repeats_nothing() {
    for cipher in CIPHERS {
        for at in 0..1400 {
            let (mut client, mut server) = sessions(cipher);
            client.write(&pattern(1200));
            client.tx.finish();
            let bytes = client.transmit(at);
            server.handle_bytes(&bytes).unwrap();
            let mut got = read_all(&mut server);
            resumed(&mut client, &mut server, cipher, 2);
            talk(&mut client, &mut server);
            got.extend(read_all(&mut server));
            assert!(got == pattern(1200), "cut at {at}: {} bytes", got.len());
            assert!(server.rx.is_at_end());
        }
    }
}

#[test]
fn the_rest_of_a_record_is_kept_as_it_is_and_never_sealed_again() {
    let (mut client, mut server) = sessions(Cipher::Aes256Gcm);
    client.write(&pattern(500));
    // One byte at a time, with acks that change and bytes that come meanwhile.
    let mut all = Vec::new();
    while client.tx.has_output() {
        all.extend(client.transmit(1));
        if all.len() == 60 {
            client.write(&[9; 30]);
            client.tx.want_ack();
        }
    }
    server.handle_bytes(&all).unwrap();
    let mut expected = pattern(500);
    expected.extend([9; 30]);
    assert_eq!(read_all(&mut server), expected);
}

#[test]
fn reading_records_straight_equals_reading_by_way_of_the_stash() {
    for step in [1, 7, 40, 1000, 5000, 70_000] {
        for wanted in [1, 100, 3000, 100_000] {
            let (mut client, mut server) = sessions(Cipher::Aes256Gcm);
            let (mut sent, mut got) = (0, Vec::new());
            while got.len() < 150_000 {
                sent += client.write(&pattern(150_000)[sent..]);
                let bytes = client.transmit(usize::MAX);
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let space = server.rx.record_space();
                    let n = space.len().min(rest.len()).min(step);
                    space[..n].copy_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    let mut out = vec![0; wanted];
                    let n = server.accept_records(n, &mut out).unwrap();
                    got.extend_from_slice(&out[..n]);
                    got.extend(read_all(&mut server));
                }
                server.sweep();
                common::pass(&mut server, &mut client).unwrap();
            }
            assert!(got == pattern(150_000), "{step} bytes a read, {wanted} wanted");
        }
    }
}

#[test]
fn both_sides_of_the_limit_on_the_payload_of_a_record() {
    for (length, fits) in [(SEALED_PAYLOAD_MAX_BYTES, true), (SEALED_PAYLOAD_MAX_BYTES + 1, false)]
    {
        let (mut sealer, _) = keys(Cipher::Aes256Gcm, 1).split(Role::Client);
        let mut receiver = Receiver::new(Arc::default(), 0, 1 << 20);
        receiver.set_sealed();
        receiver.begin_epoch();
        receiver.open_with(keys(Cipher::Aes256Gcm, 1).split(Role::Server).1);
        let mut start = common::start(0);
        assert!(sealer.seal(&mut start));
        receiver.feed(&start).unwrap();
        let mut record = common::data(&vec![7; length]);
        assert!(sealer.seal(&mut record));
        let fed = receiver.feed(&record);
        assert_eq!(fed, if fits { Ok(()) } else { Err(Violation::BadHeader) });
        assert_eq!(receiver.stashed(), if fits { length } else { 0 });
        // Whatever a header says, no more is held than one record.
        let held = receiver.record_space().len();
        assert!(held <= HEADER_BYTES + SEALED_PAYLOAD_MAX_BYTES + TAG_BYTES, "{held}");
    }
}

#[test]
fn the_first_records_of_an_epoch_are_small_and_none_is_larger_than_the_limit() {
    let mut client = session(Role::Client, Cipher::Aes256Gcm, Some(keys(Cipher::Aes256Gcm, 1)));
    client.tx.absorb(0, 1 << 20).unwrap();
    let mut written = 0;
    let mut sizes = Vec::new();
    for _ in 0..2 {
        while written < 1 << 20 && client.write(&[1; 40_000]) > 0 {
            written += 40_000;
        }
        let bytes = client.transmit(usize::MAX);
        let mut at = 0;
        while at < bytes.len() {
            let header = Header::decode(bytes[at..][..16].try_into().unwrap()).unwrap();
            at += 16 + header.length as usize + 16;
            if header.kind == Kind::Data {
                sizes.push(header.length as usize);
            }
        }
        sizes.push(0);
        client.begin_epoch(0).unwrap();
        client.seal_with(keys(Cipher::Aes256Gcm, 2));
    }
    for epoch in sizes.split(|&size| size == 0).filter(|epoch| !epoch.is_empty()) {
        assert_eq!(epoch[0], SEALED_PAYLOAD_FIRST_BYTES);
        assert_eq!(epoch.iter().copied().max(), Some(SEALED_PAYLOAD_MAX_BYTES));
        assert!(epoch.iter().position(|&size| size == SEALED_PAYLOAD_MAX_BYTES) <= Some(4));
    }
}

#[test]
fn what_is_held_for_records_is_given_back_at_rest() {
    let (mut client, mut server) = sessions(Cipher::Aes256Gcm);
    for _ in 0..20 {
        client.write(&vec![3; 60_000]);
        talk(&mut client, &mut server);
        read_all(&mut server);
        server.sweep();
        talk(&mut client, &mut server);
    }
    assert!(server.rx.record_space().len() > 10_000);
    client.tx.rest();
    server.rx.rest();
    assert!(server.rx.record_space().len() <= 4096);
    client.write(&pattern(5000));
    talk(&mut client, &mut server);
    assert_eq!(read_all(&mut server), pattern(5000));
}

/// The session as another process would have it.
fn moved(session: &mut Session) {
    let mut out = Out::default();
    session.tx.snapshot(&mut out);
    assert!(session.rx.snapshot(&mut out));
    session.control.snapshot(&mut out);
    let bytes = out.finish();
    let mut from = In::new(&bytes);
    session.tx = Sender::restore(Arc::default(), &mut from).unwrap();
    session.rx = Receiver::restore(Arc::default(), &mut from).unwrap();
    let cipher = session.control.cipher.take();
    assert!(session.control.restore(&mut from) && from.is_empty());
    assert_eq!(session.control.cipher, cipher);
}

#[test]
fn a_sealed_session_that_changes_hands_goes_on_in_the_next_epoch_and_not_before() {
    for at in [0, 1, 39, 40, 41, 60, 300, 1000] {
        let cipher = Cipher::Aes256Gcm;
        let (mut client, mut server) = sessions(cipher);
        client.write(&pattern(900));
        server.write(&pattern(700));
        // Both in the middle of a record.
        let (to_server, to_client) = (client.transmit(at), server.transmit(at));
        server.handle_bytes(&to_server).unwrap();
        client.handle_bytes(&to_client).unwrap();
        let rest = client.transmit(usize::MAX);
        moved(&mut client);
        moved(&mut server);
        // No counter was handed over that could be used twice: neither end goes on in this epoch.
        assert_eq!(client.transmit(usize::MAX), []);
        assert!(!server.tx.has_output() && !server.rx.is_mid_record());
        if !rest.is_empty() {
            assert!(server.handle_bytes(&rest).is_err());
        }
        resumed(&mut client, &mut server, cipher, 2);
        talk(&mut client, &mut server);
        assert_eq!(read_all(&mut server), pattern(900), "handed over at {at}");
        assert_eq!(read_all(&mut client), pattern(700), "handed over at {at}");
    }
}

fn config(cipher: Cipher) -> PairConfig {
    PairConfig { cipher: Some(cipher), ..PairConfig::default() }
}

#[test]
fn whoever_listens_finds_nothing_of_what_was_written() {
    let heard = |config: PairConfig| {
        let mut pair = Pair::new(3, config);
        for _ in 0..5 {
            exchange(&mut pair);
            pair.cut(Cut::RESET);
        }
        exchange(&mut pair);
        let written = pattern(64);
        Side::BOTH.map(|side| {
            let wire = pair.net.heard(side);
            written.windows(8).any(|part| wire.windows(8).any(|heard| heard == part))
        })
    };
    // The control: who looks in this way does find it where it is.
    assert_eq!(heard(PairConfig::default()), [true, true]);
    for cipher in CIPHERS {
        assert_eq!(heard(config(cipher)), [false, false]);
    }
}

#[test]
fn whatever_is_done_to_the_bytes_on_the_way_is_a_cut_and_the_session_goes_on() {
    for cipher in CIPHERS {
        for (nth, how) in Tamper::ALL.into_iter().enumerate() {
            for from in Side::BOTH {
                let mut faults = 0;
                for seed in 0..30 {
                    let mut pair = Pair::new(seed * 8 + nth as u64, config(cipher));
                    exchange(&mut pair);
                    for _ in 0..6 {
                        for side in Side::BOTH {
                            pair.write_some(side, 900);
                        }
                        pair.run_until(millis(5), |_| false);
                        if pair.tamper(from, how) {
                            pair.run_for(secs(15));
                        }
                    }
                    exchange(&mut pair);
                    faults += pair.end(Side::Client).session().unwrap().control.resumes();
                    finish(&mut pair);
                }
                assert!(faults > 0, "{how:?} from {from:?} was never noticed");
            }
        }
    }
}

#[test]
fn a_record_whose_end_never_comes_is_waited_for_only_so_long() {
    for from in Side::BOTH {
        let mut pair = Pair::new(5, config(Cipher::Aes256Gcm));
        exchange(&mut pair);
        pair.run_for(secs(5));
        let before = pair.net.now;
        pair.write_some(from, 500);
        let mut tampered = false;
        pair.run_until(millis(9), |pair| {
            tampered = tampered || pair.tamper(from, Tamper::Drop);
            tampered
        });
        assert!(tampered);
        exchange(&mut pair);
        let waited = pair.net.now - before;
        assert!(waited < RECORD_DEADLINE + secs(2), "{waited:?}");
    }
}

#[test]
fn no_key_ever_meets_a_nonce_twice_although_epochs_are_tried_again() {
    for cipher in CIPHERS {
        for after in 0..120 {
            let mut pair = Pair::new(after, PairConfig { key_weight_max: 700, ..config(cipher) });
            exchange(&mut pair);
            // The same epoch is tried and cut, at another byte each time.
            for conn in 1..4 {
                for from in Side::BOTH {
                    let plan = PlannedCut { conn, from, after: after * 3, cut: Cut::RESET };
                    pair.net.planned.push(plan);
                }
            }
            pair.cut(Cut::RESET);
            exchange(&mut pair);
            // The ledger has looked at each record, and panics at the second meeting. Two epochs of
            // two directions have stood at least.
            assert!(pair.ledger().keys() >= 4, "{:?}", pair.ledger());
        }
    }
}

#[test]
fn a_start_beyond_what_came_is_final_only_if_the_peer_has_sealed_it() {
    let (mut sealer, _) = keys(Cipher::Aes256Gcm, 1).split(Role::Client);
    let mut start = common::start(5);
    assert!(sealer.seal(&mut start));
    let (_, mut server) = sessions(Cipher::Aes256Gcm);
    let mut forged = start.clone();
    forged[HEADER_BYTES] ^= 1;
    assert!(matches!(server.handle_bytes(&forged), Err(fault) if !fault.is_final()));
    let (_, mut server) = sessions(Cipher::Aes256Gcm);
    let fault = server.handle_bytes(&start).unwrap_err();
    assert!(matches!(fault, Fault::Violation(Violation::DataLost { .. })) && fault.is_final());
}
