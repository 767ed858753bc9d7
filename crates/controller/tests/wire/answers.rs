//! Each message in bytes that were written down by hand: what another version reads and writes.

use std::fmt::Debug;
use std::time::Duration;

use eversock_controller::model::{ControllerId, DeviceId, Record};
use eversock_controller::store::Position;
use eversock_controller::wire::client::{
    ClientMessage, HandOffAnswer, Outcome, Register, Request, Terms,
};
use eversock_controller::wire::peer::{
    Forward, Introduction, Manifest, Mode, PeerMessage, Standpoint, SyncMessage,
};
use eversock_controller::wire::{Bye, Hello, Message, Place, Role, Welcome, frame};

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
        .collect()
}

/// The message has this type and this body, both ways.
#[track_caller]
fn is<M: Message + PartialEq + Debug>(message: M, kind: &str, body: &str) {
    let body = unhex(body);
    let wire =
        [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &unhex(kind), &body].concat();
    assert_eq!(frame(&message), wire, "{message:?}");
    assert_eq!(M::decode(message.kind(), &body), Ok(message));
}

fn a() -> ControllerId {
    "A".parse().unwrap()
}

fn d() -> DeviceId {
    "d1".parse().unwrap()
}

const D: &str = "02000000 6431";
const A: &str = "01000000 41";
/// 127.0.0.1:4660 and [::1]:1 of A.
const PLACE: &str =
    "01000000 41 02000000 04 7f000001 3412 06 00000000000000000000000000000001 0100";
const AT: &str = "05000000000000000000000000000000 0600000000000000";

fn place() -> Place {
    Place {
        controller: a(),
        addrs: vec!["127.0.0.1:4660".parse().unwrap(), "[::1]:1".parse().unwrap()],
    }
}

fn at() -> Position {
    Position { run: 5, lsn: 6 }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn greetings() {
    let hello = |role| Hello { oldest: 1, newest: 2, role };
    is(ClientMessage::Hello(hello(Role::Device)), "0100", "45564353 0100 0200 01");
    is(ClientMessage::Hello(hello(Role::ThirdParty)), "0100", "45564353 0100 0200 02");
    is(PeerMessage::Hello(hello(Role::Partner)), "0100", "45564353 0100 0200 03");
    let welcome = Welcome { version: 1, controller: a() };
    is(ClientMessage::Welcome(welcome.clone()), "0200", &format!("0100 {A}"));
    is(PeerMessage::Welcome(welcome), "0200", &format!("0100 {A}"));
    let bye = Bye { code: 5, after_ms: 258, text: "no".to_owned() };
    is(ClientMessage::Bye(bye.clone()), "0300", "05 02010000 02000000 6e6f");
    is(PeerMessage::Bye(bye), "0300", "05 02010000 02000000 6e6f");
}

#[test]
fn registrations() {
    let register = Register {
        device: d(),
        seq: 1,
        nonce: 2,
        lease: ms(1),
        generation: 3,
        token: 4,
        address: vec![0xaa],
    };
    let numbers = "0100000000000000 0200000000000000 e803000000000000 0300000000000000";
    let rest = "0400000000000000 01000000 aa";
    is(ClientMessage::Register(register), "0101", &format!("{D} {numbers} {rest}"));
    let (lease, handshake_every) = (ms(1), ms(2));
    let terms =
        Terms { lease, handshake_every, misses: 3, generation: 9, alternates: vec![place()] };
    is(
        ClientMessage::Registered { device: d(), seq: 1, terms },
        "0201",
        &format!(
            "{D} 0100000000000000 e803000000000000 d007000000000000 03 0900000000000000 01000000 \
             {PLACE}"
        ),
    );
    let seq = format!("{D} 0700000000000000");
    let device = d();
    is(ClientMessage::Retry { device, after: Duration::from_micros(7) }, "0301", &seq);
    is(ClientMessage::Jump { device: d(), seq: 7 }, "0401", &seq);
    let text = "x".to_owned();
    is(ClientMessage::Refused { device: d(), text }, "0501", &format!("{D} 01000000 78"));
    is(ClientMessage::Handshake { device: d(), seq: 7 }, "0601", &seq);
    is(
        ClientMessage::HandshakeOk { device: d(), seq: 7, generation: 8 },
        "0701",
        &format!("{seq} 0800000000000000"),
    );
    is(ClientMessage::Deregister { device: d(), seq: 7 }, "0801", &seq);
    is(ClientMessage::Deregistered { device: d(), seq: 7 }, "0901", &seq);
    is(ClientMessage::Reregister { device: d(), above: 7 }, "0a01", &seq);
}

#[test]
fn hand_overs_requests_and_parameters_of_devices() {
    let (device, target) = (d(), place());
    is(
        ClientMessage::HandOff { device, token: 7, target, within: ms(1) },
        "0b01",
        &format!("{D} 0700000000000000 {PLACE} e803000000000000"),
    );
    let answers =
        [(HandOffAnswer::Goes, "01"), (HandOffAnswer::Busy, "02"), (HandOffAnswer::Stays, "03")];
    for (answer, code) in answers {
        let message = ClientMessage::HandOffAnswer { device: d(), token: 7, answer };
        is(message, "0c01", &format!("{D} 0700000000000000 {code}"));
    }
    let request = Request { id: 7, device: d(), deadline: ms(1), payload: vec![1, 2] };
    let body = format!("0700000000000000 {D} e803000000000000 02000000 0102");
    is(ClientMessage::Request(request), "0d01", &body);
    is(ClientMessage::GetParameters, "0f01", "");
    let text = "p".to_owned();
    is(ClientMessage::Parameters { generation: 7, text }, "1001", "0700000000000000 01000000 70");
}

#[test]
fn outcomes() {
    let text = || "x".to_owned();
    let outcomes = [
        (Outcome::Done(vec![9]), "01 01000000 09".to_owned()),
        (Outcome::Unknown, "02".to_owned()),
        (
            Outcome::NotHere { owner: a(), seq: 1, place: vec!["127.0.0.1:1".parse().unwrap()] },
            format!("03 {A} 0100000000000000 01000000 04 7f000001 0100"),
        ),
        (Outcome::Unreachable(text()), "04 01000000 78".to_owned()),
        (Outcome::Busy { after: ms(1) }, "05 e803000000000000".to_owned()),
        (Outcome::TimedOut, "06".to_owned()),
        (Outcome::Refused(text()), "07 01000000 78".to_owned()),
    ];
    for (outcome, body) in outcomes {
        let body = format!("0800000000000000 {body}");
        is(ClientMessage::Response { id: 8, outcome: outcome.clone() }, "0e01", &body);
        is(PeerMessage::Result { id: 8, outcome }, "0502", &body);
    }
}

#[test]
fn partners() {
    let standpoint = |taken| Standpoint { partition: a(), head: at(), taken };
    let introduction = Introduction {
        controller: a(),
        boot: 1,
        place: place(),
        partitions: vec![standpoint(None), standpoint(Some(at()))],
        wall_ms: 3,
    };
    is(
        PeerMessage::Introduction(introduction),
        "0102",
        &format!(
            "{A} 01000000000000000000000000000000 {PLACE} 02000000 {A} {AT} 00 {A} {AT} 01 {AT} \
             0300000000000000"
        ),
    );
    is(PeerMessage::Ping { n: 7 }, "0202", "0700000000000000");
    is(PeerMessage::Pong { n: 7 }, "0302", "0700000000000000");
    let (device, visited, payload) = (d(), vec![a()], vec![1]);
    let forward = Forward { id: 7, device, visited, seq: 2, deadline: ms(1), payload };
    is(
        PeerMessage::Forward(forward),
        "0402",
        &format!("0700000000000000 {D} 01000000 {A} 0200000000000000 e803000000000000 01000000 01"),
    );
    is(PeerMessage::Mode(Mode { maintenance: true, paused: false }), "0602", "01 00");
    is(PeerMessage::Mode(Mode { maintenance: false, paused: true }), "0602", "00 01");
    is(PeerMessage::Parameters { generation: 7, refused: None }, "0702", "0700000000000000 00");
    is(
        PeerMessage::Parameters { generation: 7, refused: Some((8, "x".to_owned())) },
        "0702",
        "0700000000000000 01 0800000000000000 01000000 78",
    );
}

#[test]
fn tables() {
    let snapshot = 0x0102_u128;
    let number = "02010000000000000000000000000000";
    let record = Record { kind: 1, key: vec![1], rank: vec![2, 2], body: vec![3] };
    let chunk = SyncMessage::Chunk { snapshot, index: 1, crc: 2, data: vec![9] };
    let manifest =
        Manifest { snapshot, at: at(), bytes: 10, chunks: 1, records: 2, digest: [0xcd; 32] };
    let messages = [
        (
            SyncMessage::Update { upto: at(), records: vec![record] },
            "0103",
            format!("{AT} 01000000 0100 01000000 01 02000000 0202 01000000 03"),
        ),
        (SyncMessage::Taken { upto: at() }, "0203", AT.to_owned()),
        (SyncMessage::Resync, "0303", String::new()),
        (
            SyncMessage::Snapshot(manifest),
            "0403",
            format!("{number} {AT} 0a00000000000000 01000000 0200000000000000 {}", "cd".repeat(32)),
        ),
        (
            SyncMessage::Need { snapshot, first: 3, count: 4 },
            "0503",
            format!("{number} 03000000 04000000"),
        ),
        (chunk, "0603", format!("{number} 01000000 02000000 01000000 09")),
        (SyncMessage::Gone { snapshot }, "0703", number.to_owned()),
        (SyncMessage::Loaded { snapshot, at: at() }, "0803", format!("{number} {AT}")),
    ];
    for (message, kind, body) in messages {
        is(PeerMessage::Sync { partition: a(), message }, kind, &format!("{A} {body}"));
    }
}
