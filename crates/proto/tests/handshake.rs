//! Opens and resumes over connections that break at every byte, and strangers who repeat what
//! they heard.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use common::{exchange, finish, millis, secs, sessions};
use eversock_proto::control::Offsets;
use eversock_proto::identity::{ServerKey, StaticKey};
use eversock_proto::limits::{HELLO_ENVELOPE_BYTES, HELLO_MAX_BYTES};
use eversock_proto::open::{Offer, OpenClient, OpenError, OpenServer, Opened, Sealing};
use eversock_proto::resume::{Reason, Reject, ResumeError};
use eversock_proto::seal::Cipher;
use eversock_proto::secret::{PresharedKey, SessionId};
use eversock_proto::testing::{
    Cut, Ending, InFlight, Notice, Pair, PairConfig, PlannedCut, Side, Tamper,
};
use eversock_proto::wire::hello::{HelloError, HelloKind, HelloReader, MAGIC, VERSION, split};

const RESUME_BYTES: u64 = 8 + 16 + 8 + 8 + 32 + 32;
const CONFIRM_BYTES: u64 = 8 + 32;

fn cuts() -> [Cut; 4] {
    [
        Cut::RESET,
        Cut::half_open(Side::Client),
        Cut::half_open(Side::Server),
        Cut { notice: [Notice::AtOnce; 2], in_flight: InFlight::Late(secs(2)) },
    ]
}

#[test]
fn an_open_cut_after_any_byte_in_either_direction_still_opens_one_session() {
    for key in [None, Some(PresharedKey([9; 32]))] {
        for from in Side::BOTH {
            for after in 0..180 {
                for (nth, cut) in cuts().into_iter().enumerate() {
                    let config =
                        PairConfig { open: true, key: key.clone(), ..PairConfig::default() };
                    let plan = PlannedCut { conn: 0, from, after, cut };
                    let mut pair = Pair::with_cuts(after * 4 + nth as u64, config, &[plan]);
                    let up = pair.run_until(secs(300), |pair| pair.is_up());
                    assert!(up, "{from:?} {after} {cut:?}: {pair:?}");
                    exchange(&mut pair);
                    assert!(pair.is_up(), "a zombie at {from:?} {after}: {pair:?}");
                }
            }
        }
    }
}

#[test]
fn a_resume_cut_after_any_byte_in_either_direction_is_followed_by_one_that_works() {
    for from in Side::BOTH {
        for after in 0..240 {
            for (nth, cut) in cuts().into_iter().enumerate() {
                let mut pair = Pair::new(after * 4 + nth as u64, PairConfig::default());
                exchange(&mut pair);
                pair.net.planned.push(PlannedCut { conn: 1, from, after, cut });
                for side in Side::BOTH {
                    pair.write_some(side, 300);
                }
                pair.cut(Cut::RESET);
                exchange(&mut pair);
                assert!(pair.is_up(), "a zombie at {from:?} {after}: {pair:?}");
                finish(&mut pair);
            }
        }
    }
}

#[test]
fn two_resumes_in_a_row_cut_after_any_byte_lose_nothing() {
    for first in (0..200).step_by(7) {
        for second in (0..200).step_by(11) {
            let mut pair = Pair::new(first << 8 | second, PairConfig::default());
            for (conn, after) in [(1, first), (2, second)] {
                let cut = Cut::half_open(Side::Client);
                let from = if (first ^ second) & 1 == 0 { Side::Client } else { Side::Server };
                pair.net.planned.push(PlannedCut { conn, from, after, cut });
            }
            pair.cut(Cut::RESET);
            exchange(&mut pair);
            assert!(pair.is_up(), "{pair:?}");
        }
    }
}

#[test]
fn an_open_whose_confirm_is_lost_is_completed_by_a_resume() {
    let offer = Offer { window: 65536, grace: secs(90), ..Offer::default() };
    let (client, open) = OpenClient::start(&offer, [1; 32]).unwrap();
    let (server, ok) = OpenServer::answer(&offer, &open, SessionId::new(1, 2), [2; 32]).unwrap();
    let (opened, _lost) = client.answered(&ok).unwrap();
    let mut control = eversock_proto::control::Control::new(
        eversock_proto::control::Role::Client,
        opened.id,
        opened.secret.clone(),
    );
    let (resume, message) = control.resume(0, [3; 32]);
    assert_eq!(server.id(), opened.id);
    let (pending, answer) = server.answer_resume(&message, [4; 32]).unwrap();
    let (_, confirm) = resume.answered(&opened.secret, &answer).unwrap();
    let mut forged = confirm.clone();
    forged[20] ^= 1;
    assert!(matches!(server.resumed(&pending, &forged), Err(ResumeError::Proof)));
    let at_server = server.resumed(&pending, &confirm).unwrap();
    assert_eq!(at_server.secret, opened.secret);
}

#[test]
fn a_lost_confirm_leaves_no_session_confirmed_on_one_side_only() {
    for knows in Side::BOTH {
        let mut pair = Pair::new(1, PairConfig::default());
        exchange(&mut pair);
        let after = RESUME_BYTES;
        let cut = Cut::half_open(knows);
        pair.net.planned.push(PlannedCut { conn: 1, from: Side::Client, after, cut });
        pair.dial_beside();
        exchange(&mut pair);
        assert!(pair.is_up(), "{pair:?}");
        finish(&mut pair);
    }
}

#[test]
fn an_unconfirmed_resume_disturbs_nothing() {
    // The client dials beside a live connection and dies before CONFIRM: the old one goes on.
    let mut pair = Pair::new(1, PairConfig::default());
    exchange(&mut pair);
    pair.net.planned.push(PlannedCut { conn: 1, from: Side::Server, after: 50, cut: Cut::RESET });
    pair.dial_beside();
    pair.run_for(secs(2));
    assert_eq!(pair.end(Side::Client).standing(), Some(0));
    assert_eq!(pair.end(Side::Server).standing(), Some(0));
    exchange(&mut pair);
}

#[test]
fn a_resume_beside_a_live_connection_replaces_it_without_a_gap() {
    let mut pair = Pair::new(3, PairConfig::default());
    for conn in 1..20 {
        for side in Side::BOTH {
            pair.write_some(side, 30_000);
        }
        pair.run_for(millis(5));
        pair.dial_beside();
        pair.run_until(secs(1), |pair| {
            for side in Side::BOTH {
                pair.read(side, 700);
            }
            pair.is_up() && pair.end(Side::Client).standing() == Some(conn)
        });
        assert_eq!(pair.end(Side::Client).standing(), Some(conn), "{pair:?}");
    }
    finish(&mut pair);
}

#[test]
fn of_two_resumes_that_race_the_higher_epoch_wins_whatever_the_order() {
    for higher_first in [false, true] {
        let (mut client, mut server) = sessions();
        let none = Offsets { acked: 0, receive: 0, expecting: false };
        let secret = client.control.secret.clone();
        let (two, resume_two) = client.control.resume(0, [1; 32]);
        let (three, resume_three) = client.control.resume(0, [2; 32]);
        let (pending_two, ok_two) = server.control.answer(&resume_two, 0, [3; 32]).unwrap();
        let (pending_three, ok_three) = server.control.answer(&resume_three, 0, [4; 32]).unwrap();
        let (_, confirm_two) = two.answered(&secret, &ok_two).unwrap();
        let (_, confirm_three) = three.answered(&secret, &ok_three).unwrap();
        if higher_first {
            server.control.confirm(pending_three, &confirm_three, none).unwrap();
            let late = server.control.confirm(pending_two, &confirm_two, none);
            assert!(matches!(late, Err(ResumeError::OldEpoch { got: 2, confirmed: 3 })));
        } else {
            server.control.confirm(pending_two, &confirm_two, none).unwrap();
            server.control.confirm(pending_three, &confirm_three, none).unwrap();
        }
        assert_eq!(server.control.epoch(), 3);
    }
}

#[test]
fn an_attempt_that_was_given_up_and_arrives_late_changes_nothing() {
    let config = PairConfig { attempt_deadline: secs(1), ..PairConfig::default() };
    let mut pair = Pair::new(5, config);
    exchange(&mut pair);
    pair.net.hold(Side::Client, secs(4));
    pair.dial_beside();
    pair.run_for(secs(2));
    pair.dial_beside();
    pair.run_for(secs(20));
    exchange(&mut pair);
    assert!(pair.is_up());
    finish(&mut pair);
}

#[test]
fn recorded_messages_said_again_by_a_stranger_change_nothing() {
    let config = PairConfig { open: true, ..PairConfig::default() };
    let mut pair = Pair::new(7, config);
    assert!(pair.run_until(secs(5), |pair| pair.is_up()));
    exchange(&mut pair);
    for _ in 0..3 {
        pair.cut(Cut::RESET);
        exchange(&mut pair);
    }
    let said: Vec<Vec<u8>> = pair
        .recorded()
        .iter()
        .filter(|hello| hello.from == Side::Client)
        .map(|hello| hello.message.clone())
        .collect();
    let standing = pair.end(Side::Server).standing();
    let epoch = pair.end(Side::Server).session().unwrap().control.epoch();
    for first in &said {
        for second in &said {
            // With frames behind: what a replayer would want the program to hear.
            let mut bytes = first.clone();
            bytes.extend_from_slice(second);
            bytes.extend_from_slice(&common::start(0));
            bytes.extend_from_slice(&common::data(b"transfer it all"));
            assert!(pair.inject(&bytes).is_some());
        }
    }
    pair.run_for(secs(30));
    assert_eq!(pair.end(Side::Server).standing(), standing);
    assert_eq!(pair.end(Side::Server).session().unwrap().control.epoch(), epoch);
    exchange(&mut pair);
    finish(&mut pair);
}

#[test]
fn recorded_unconfirmed_resumes_hold_no_slot_against_the_honest_one() {
    let mut pair = Pair::new(8, PairConfig::default());
    exchange(&mut pair);
    // An attempt that never confirms, with an epoch above the one that stands.
    let cut = Cut::RESET;
    pair.net.planned.push(PlannedCut { conn: 1, from: Side::Server, after: 1, cut });
    pair.dial_beside();
    pair.run_for(secs(1));
    let resume = pair.recorded().iter().rev().find(|hello| hello.from == Side::Client).unwrap();
    let (kind, _) = split(&resume.message).unwrap();
    assert_eq!(kind, HelloKind::Resume);
    let message = resume.message.clone();
    for _ in 0..40 {
        pair.inject(&message);
        pair.run_for(millis(5));
    }
    pair.cut(Cut::RESET);
    let before = pair.net.now;
    exchange(&mut pair);
    assert!(pair.net.now - before < secs(3), "the honest resume was held up: {pair:?}");
}

#[test]
fn strangers_who_say_nothing_do_not_keep_the_client_out() {
    let mut pair = Pair::new(9, PairConfig { open: true, ..PairConfig::default() });
    for _ in 0..30 {
        pair.inject(&MAGIC[..2]);
    }
    assert!(pair.run_until(secs(60), |pair| pair.is_up()), "{pair:?}");
    exchange(&mut pair);
}

#[test]
fn a_wrong_key_ends_the_open_and_never_a_session() {
    let with = |key: u8| Offer {
        key: Some(PresharedKey([key; 32])),
        window: 65536,
        grace: secs(1),
        ..Offer::default()
    };
    let (_, open) = OpenClient::start(&with(1), [1; 32]).unwrap();
    let answer = OpenServer::answer(&with(2), &open, SessionId::new(0, 0), [2; 32]);
    assert!(matches!(answer, Err(OpenError::Key)));
}

#[test]
fn two_sessions_never_share_a_secret_even_if_one_side_repeats_its_seed() {
    let offer = Offer { window: 65536, grace: secs(1), ..Offer::default() };
    let secret = |client: u8, server: u8| {
        let (c, open) = OpenClient::start(&offer, [client; 32]).unwrap();
        let id = SessionId::new(0, 0);
        let (_, ok) = OpenServer::answer(&offer, &open, id, [server; 32]).unwrap();
        c.answered(&ok).unwrap().0.secret
    };
    assert_ne!(secret(1, 2), secret(1, 3));
    assert_ne!(secret(1, 2), secret(3, 2));
}

#[test]
fn both_sides_of_the_handshake_message_limit() {
    let message = |length: usize| {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, HelloKind::Confirm as u8]);
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.resize(HELLO_ENVELOPE_BYTES + length, 7);
        out
    };
    let read = |bytes: &[u8]| {
        let mut reader = HelloReader::default();
        let mut at = 0;
        loop {
            let n = reader.wants().min(bytes.len() - at);
            if let Some(whole) = reader.feed(&bytes[at..at + n])? {
                return Ok(whole.len());
            }
            at += n;
        }
    };
    let most = HELLO_MAX_BYTES - HELLO_ENVELOPE_BYTES;
    assert_eq!(read(&message(most)), Ok(HELLO_MAX_BYTES));
    assert_eq!(read(&message(most + 1)), Err(HelloError::Malformed));
}

#[test]
fn a_refusal_that_proves_nothing_does_not_end_the_session() {
    let (mut client, _) = sessions();
    let (resume, message) = client.control.resume(0, [1; 32]);
    let plain = Reject::plain(Reason::Closed, secs(0));
    let secret = &client.control.secret;
    match resume.answered(secret, &plain.encode()) {
        Err(ResumeError::Refused(reject)) => assert!(!reject.is_proven(secret, &message)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_resume_a_millisecond_before_the_end_of_the_grace_survives_and_one_after_does_not() {
    for (late, expected) in [(false, None), (true, Some(Ending::Expired))] {
        let grace = secs(20);
        let config = PairConfig {
            latency: millis(0),
            grace,
            attempt_deadline: secs(60),
            ..PairConfig::default()
        };
        let mut pair = Pair::new(1, config);
        exchange(&mut pair);
        pair.cut(Cut::RESET);
        let hold = if late { grace + millis(1) } else { grace - millis(1) };
        pair.net.hold(Side::Client, hold);
        pair.run_for(grace + secs(1));
        assert_eq!(pair.end(Side::Server).ending(), expected, "{pair:?}");
        if late {
            let refused = Some(Ending::Refused(Reason::Expired));
            assert_eq!(pair.end(Side::Client).ending(), refused, "{pair:?}");
        } else {
            exchange(&mut pair);
        }
    }
}

#[test]
fn a_client_that_gets_no_connection_gives_up_at_its_limit() {
    for (limit, ends) in [(secs(59), true), (secs(61), false)] {
        let config = PairConfig { give_up: limit, ..PairConfig::default() };
        let mut pair = Pair::new(1, config);
        exchange(&mut pair);
        pair.net.refuse_until = pair.net.now + secs(1000);
        pair.cut(Cut::RESET);
        pair.run_for(secs(60));
        let expected = ends.then_some(Ending::TimedOut);
        assert_eq!(pair.end(Side::Client).error(), expected);
    }
}

#[test]
fn the_lengths_that_these_tests_cut_at_are_the_real_ones() {
    let mut pair = Pair::new(1, PairConfig::default());
    pair.dial_beside();
    pair.run_for(secs(1));
    let lengths: Vec<usize> = pair.recorded().iter().map(|hello| hello.message.len()).collect();
    assert_eq!(lengths[0] as u64, RESUME_BYTES);
    assert_eq!(lengths[2] as u64, CONFIRM_BYTES);
}

/// Somebody on the path who changed one CONFIRM took the session away for good: the server forgot
/// the open with it, and answered every resume with "unknown session".
#[test]
fn a_confirm_that_was_changed_on_its_way_costs_a_connection_and_not_the_session() {
    let mut hits = 0;
    for seed in 0..40 {
        let cipher = Some(Cipher::Aes256Gcm);
        let mut pair = Pair::new(seed, PairConfig { open: true, cipher, ..PairConfig::default() });
        assert!(pair.run_until(secs(5), |pair| pair.end(Side::Client).session().is_some()));
        // The CONFIRM is under way, and some of the first frames.
        assert!(pair.tamper(Side::Client, Tamper::Flip));
        pair.run_for(millis(20));
        hits += u32::from(pair.end(Side::Server).session().is_none());
        let up = |pair: &mut Pair| pair.is_up() && pair.end(Side::Server).session().is_some();
        assert!(pair.run_until(secs(60), up), "{pair:?}");
        exchange(&mut pair);
    }
    assert!(hits > 3, "no CONFIRM was hit");
}

fn identity(byte: u8) -> StaticKey {
    StaticKey::from_bytes([byte; 32])
}

fn plain() -> Offer {
    Offer { window: 65536, grace: secs(1), ..Offer::default() }
}

fn open(client: &Offer, server: &Offer) -> Result<(Opened, Opened), OpenError> {
    let id = SessionId::new(1, 2);
    let (at_client, open) = OpenClient::start(client, [1; 32])?;
    let (mut at_server, ok) = OpenServer::answer(server, &open, id, [2; 32])?;
    let (c, confirm) = at_client.answered(&ok)?;
    Ok((c, at_server.confirmed(&confirm)?))
}

#[test]
fn a_session_is_sealed_as_both_ends_agree_and_nobody_is_talked_down() {
    use Sealing::{Always, Either, Never};
    let offer = |sealing, aes| Offer { sealing, aes, ..plain() };
    for (client, server, sealed) in [
        (Never, Never, Some(false)),
        (Never, Either, Some(false)),
        (Never, Always, None),
        (Always, Never, None),
        (Always, Either, Some(true)),
        (Always, Always, Some(true)),
        (Either, Always, Some(true)),
    ] {
        for (at_client, at_server) in [(false, false), (false, true), (true, false), (true, true)] {
            let opened = open(&offer(client, at_client), &offer(server, at_server));
            let Some(sealed) = sealed else {
                assert!(matches!(opened, Err(OpenError::Sealing)), "{client:?} {server:?}");
                continue;
            };
            let fast = at_client && at_server;
            let cipher = if fast { Cipher::Aes256Gcm } else { Cipher::Chacha20Poly1305 };
            let (c, s) = opened.unwrap();
            assert_eq!((c.cipher, s.cipher), (sealed.then_some(cipher), sealed.then_some(cipher)));
            assert_eq!((c.keys.is_some(), s.keys.is_some()), (sealed, sealed));
        }
    }
    // Somebody on the path who changes the flag or the feature bits is noticed.
    for (byte, bit) in [(14, 0x02), (8, 0x01)] {
        let (client, mut message) = OpenClient::start(&offer(Always, true), [1; 32]).unwrap();
        message[byte] ^= bit;
        let id = SessionId::new(1, 2);
        let (_, ok) = OpenServer::answer(&offer(Either, true), &message, id, [2; 32]).unwrap();
        assert!(client.answered(&ok).is_err(), "byte {byte}");
    }
}

#[test]
fn only_who_has_the_static_key_that_the_other_side_expects_opens() {
    let (server, client, stranger) = (identity(1), identity(2), identity(3));
    let known = |key: &StaticKey| ServerKey::Known(key.public());
    let at_client = |identity: Option<&StaticKey>, server| Offer {
        identity: identity.cloned(),
        server,
        ..plain()
    };
    let at_server = |clients: Option<&[&StaticKey]>| Offer {
        identity: Some(server.clone()),
        clients: clients.map(|keys| keys.iter().map(|key| key.public()).collect()),
        ..plain()
    };
    let (anyone, listed) = (at_server(None), at_server(Some(&[&identity(9), &client])));
    // Pinned or asked for, with a name or without: each end learns who the other is.
    for wanted in [known(&server), ServerKey::Asked] {
        let (c, s) = open(&at_client(None, wanted), &anyone).unwrap();
        assert_eq!((c.peer, s.peer), (Some(server.public()), None));
        assert_eq!(c.secret, s.secret);
        for offer in [&anyone, &listed] {
            let (c, s) = open(&at_client(Some(&client), wanted), offer).unwrap();
            assert_eq!((c.peer, s.peer), (Some(server.public()), Some(client.public())));
            assert_eq!(c.secret, s.secret);
        }
        let nameless = open(&at_client(None, wanted), &listed);
        assert!(matches!(nameless, Err(OpenError::Key)), "{nameless:?}");
        let refused = open(&at_client(Some(&stranger), wanted), &listed);
        assert!(matches!(&refused, Err(OpenError::Stranger(key)) if *key == stranger.public()));
    }
    // Another server than the pinned one, one without a key, and a client that expects none.
    for offer in [at_client(None, known(&stranger)), at_client(Some(&client), known(&stranger))] {
        assert!(matches!(open(&offer, &anyone), Err(OpenError::Pin)));
        assert!(matches!(open(&offer, &plain()), Err(OpenError::Key)));
    }
    assert!(matches!(open(&plain(), &anyone), Err(OpenError::Key)));
    // Who claims to be the client without its private key is no more than a recording: the secret
    // is another, and so is the proof.
    let (_, message) =
        OpenClient::start(&at_client(Some(&client), known(&server)), [1; 32]).unwrap();
    let id = SessionId::new(1, 2);
    let (mut again, ok) = OpenServer::answer(&listed, &message, id, [4; 32]).unwrap();
    let (thief, _) =
        OpenClient::start(&at_client(Some(&stranger), known(&server)), [1; 32]).unwrap();
    assert!(thief.answered(&ok).is_err());
    let (_, confirm) = {
        let (honest, message) =
            OpenClient::start(&at_client(Some(&client), known(&server)), [1; 32]).unwrap();
        let (_, ok) = OpenServer::answer(&listed, &message, id, [2; 32]).unwrap();
        honest.answered(&ok).unwrap()
    };
    assert!(matches!(again.confirmed(&confirm), Err(OpenError::Proof)));
}

#[test]
fn keys_that_exclude_each_other_are_refused_before_anything_is_said() {
    let key = Some(PresharedKey([1; 32]));
    let known = ServerKey::Known(identity(1).public());
    for offer in [
        Offer { key: key.clone(), server: known, ..plain() },
        Offer { key: key.clone(), server: ServerKey::Asked, ..plain() },
        Offer { key, identity: Some(identity(2)), ..plain() },
        Offer { identity: Some(identity(2)), ..plain() },
        Offer { clients: Some(Vec::new()), ..plain() },
    ] {
        let refused = OpenClient::start(&offer, [1; 32]);
        assert!(matches!(refused, Err(OpenError::Config(_))), "{offer:?}");
    }
}

#[test]
fn a_changed_byte_of_any_open_is_noticed_whatever_the_keys() {
    let (server, client) = (identity(1), identity(2));
    let known = ServerKey::Known(server.public());
    let sealing = Sealing::Always;
    for (wanted, name) in [
        (known, None),
        (known, Some(&client)),
        (ServerKey::Asked, None),
        (ServerKey::Asked, Some(&client)),
    ] {
        let at_client =
            Offer { identity: name.cloned(), server: wanted, sealing, aes: true, ..plain() };
        let at_server = Offer { identity: Some(server.clone()), sealing, aes: true, ..plain() };
        let (_, open) = OpenClient::start(&at_client, [1; 32]).unwrap();
        for at in 0..open.len() {
            let (c, mut bad) = OpenClient::start(&at_client, [1; 32]).unwrap();
            bad[at] ^= 0x10;
            let id = SessionId::new(1, 2);
            let Ok((_, ok)) = OpenServer::answer(&at_server, &bad, id, [2; 32]) else { continue };
            assert!(c.answered(&ok).is_err(), "byte {at}");
        }
        let (_, ok) = OpenServer::answer(&at_server, &open, SessionId::new(1, 2), [2; 32]).unwrap();
        for at in 0..ok.len() {
            let (c, _) = OpenClient::start(&at_client, [1; 32]).unwrap();
            let mut bad = ok.clone();
            bad[at] ^= 0x10;
            assert!(c.answered(&bad).is_err(), "byte {at} of the answer");
        }
    }
}
