//! The two ways into a receiver agree: payload straight into the program's buffer, with the next
//! header read in the same call, and payload by way of the stash.
#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

mod common;

use std::sync::Arc;

use common::{control, data, frame, start};
use eversock_proto::limits::{HEADER_BYTES, WINDOW_INITIAL_BYTES, WINDOW_MIN_BYTES};
use eversock_proto::recv::{Receiver, Violation};
use eversock_proto::testing::Rng;
use eversock_proto::wire::frame::{Acks, Header, Kind};
use proptest::prelude::*;

/// What a sender may say behind START.
#[derive(Clone, Debug)]
enum Item {
    Data(usize),
    Ack(u64),
    Addrs(usize),
    Goaway,
    Stop,
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => prop_oneof![1..40usize, 1..5000usize].prop_map(Item::Data),
        1 => (0..1000u64).prop_map(Item::Ack),
        1 => (0..4usize).prop_map(Item::Addrs),
        1 => Just(Item::Goaway),
        1 => Just(Item::Stop),
    ]
}

/// Kind, flags, window, length and ack of a header that may be nonsense.
fn head() -> impl Strategy<Value = (u8, u8, u16, u32, u64)> {
    let length = prop_oneof![0..40u32, any::<u32>()];
    (0..10u8, 0..4u8, any::<u16>(), length, any::<u64>())
}

/// The bytes of a connection, and the payload in them.
fn connection(items: &[Item], fin: bool) -> (Vec<u8>, Vec<u8>) {
    let (mut wire, mut payload) = (start(0), Vec::new());
    for item in items {
        match item {
            Item::Data(n) => {
                let from = payload.len();
                payload.extend((from..from + n).map(|at| (at % 251) as u8 | 1));
                wire.extend(data(&payload[from..]));
            }
            Item::Ack(ack) => wire.extend(frame(Kind::Ack, Acks { ack: *ack, window: 4 }, &[])),
            Item::Addrs(n) => {
                let addrs: Vec<_> =
                    (0..*n as u16).map(|port| ([10, 0, 0, 1], port + 1).into()).collect();
                let body = eversock_proto::wire::hello::encode_addrs(&addrs);
                wire.extend(frame(Kind::Addrs, Acks::default(), &body));
            }
            Item::Goaway => wire.extend(frame(Kind::Goaway, Acks::default(), &[])),
            Item::Stop => wire.extend(control(Kind::Stop, 0)),
        }
    }
    if fin {
        wire.extend(control(Kind::Fin, payload.len() as u64));
    }
    (wire, payload)
}

fn fresh() -> Receiver {
    let mut receiver = Receiver::new(Arc::default(), 0, WINDOW_INITIAL_BYTES);
    receiver.begin_epoch();
    receiver
}

/// A program that reads `wire` through buffers of random sizes, straight where it can. Gives what
/// it read.
fn read_directly(
    receiver: &mut Receiver,
    wire: &[u8],
    rng: &mut Rng,
    buffer_max: usize,
) -> Result<Vec<u8>, Violation> {
    let (mut got, mut at) = (Vec::new(), 0);
    loop {
        let mut buf = vec![0xEE; 1 + rng.below(buffer_max as u64) as usize];
        let stashed = receiver.read_stash(&mut buf);
        if stashed > 0 {
            got.extend_from_slice(&buf[..stashed]);
            continue;
        }
        if at == wire.len() {
            return Ok(got);
        }
        if !receiver.is_direct() || rng.chance(1, 8) {
            let n = rng.slice(wire.len() - at);
            receiver.feed(&wire[at..at + n])?;
            at += n;
            continue;
        }
        let left = receiver.payload_left();
        let front = left.min(buf.len());
        let whole = left <= buf.len();
        let space = if whole { receiver.header_space().len() } else { 0 };
        let rest = if whole { buf.len() - front } else { 0 };
        let most = (front + space + rest).min(wire.len() - at);
        let mut n = rng.slice(most);
        if front == 0 && space == HEADER_BYTES && most > space && rng.chance(1, 2) {
            // As in a conversation: a frame comes alone.
            let length = wire[at + 4..at + 8].try_into().map(u32::from_le_bytes).unwrap();
            n = most.min(HEADER_BYTES + length as usize);
        }
        let bytes = &wire[at..at + n];
        at += n;
        let (first, behind) = bytes.split_at(n.min(front));
        let (middle, last) = behind.split_at(behind.len().min(space));
        buf[..first.len()].copy_from_slice(first);
        receiver.header_space()[..middle.len()].copy_from_slice(middle);
        buf[front..front + last.len()].copy_from_slice(last);
        let touched = if behind.is_empty() { first.len() } else { front + last.len() };
        let count = receiver.accept(&mut buf, front, n)?;
        assert!(buf[count..touched.max(count)].iter().all(|&byte| byte == 0), "scratch shows");
        assert!(buf[touched.max(count)..].iter().all(|&byte| byte == 0xEE), "scribbled beyond");
        got.extend_from_slice(&buf[..count]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn reading_straight_equals_reading_by_way_of_the_stash(
        items in proptest::collection::vec(item(), 0..30),
        fin: bool,
        seed: u64,
        buffer_max in prop_oneof![1..20usize, 1..20_000usize],
    ) {
        let (wire, payload) = connection(&items, fin);
        let mut rng = Rng::new(seed);
        let mut fed = fresh();
        let mut at = 0;
        while at < wire.len() {
            let n = rng.slice(wire.len() - at);
            fed.feed(&wire[at..at + n]).unwrap();
            at += n;
        }
        let mut by_stash = vec![0; payload.len() + 1];
        let n = fed.read_stash(&mut by_stash);
        prop_assert_eq!(&by_stash[..n], &payload);
        let mut direct = fresh();
        let read = read_directly(&mut direct, &wire, &mut rng, buffer_max).unwrap();
        prop_assert_eq!(&read, &payload);
        for receiver in [&mut fed, &mut direct] {
            prop_assert_eq!(receiver.next(), payload.len() as u64 + u64::from(fin));
            prop_assert_eq!((receiver.is_at_end(), receiver.fin_seen()), (fin, fin));
        }
        let told = |receiver: &Receiver| (receiver.frames(), receiver.peer(), receiver.acks());
        prop_assert_eq!(told(&fed), told(&direct));
        let (one, two) = (fed.take_news(), direct.take_news());
        prop_assert_eq!((one.stop, one.goaway, one.addrs), (two.stop, two.goaway, two.addrs));
    }

    #[test]
    fn a_replay_over_any_split_is_skipped_as_far_as_it_is_known(
        items in proptest::collection::vec(item(), 1..12),
        seed: u64,
        known in 0..30_000usize,
    ) {
        let (wire, payload) = connection(&items, true);
        let mut rng = Rng::new(seed);
        let mut receiver = fresh();
        // An earlier connection died after so many bytes.
        let known = known.min(wire.len());
        let mut read = read_directly(&mut receiver, &wire[..known], &mut rng, 3000).unwrap();
        receiver.begin_epoch();
        read.extend(read_directly(&mut receiver, &wire, &mut rng, 3000).unwrap());
        prop_assert_eq!(read, payload);
        prop_assert!(receiver.is_at_end());
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_grow_the_stash(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        begun: bool,
        seed: u64,
    ) {
        let mut rng = Rng::new(seed);
        for direct in [false, true] {
            let mut receiver = Receiver::new(Arc::default(), 0, WINDOW_MIN_BYTES);
            receiver.begin_epoch();
            if begun {
                receiver.feed(&start(0)).unwrap();
            }
            if direct {
                let _ = read_directly(&mut receiver, &bytes, &mut rng, 100);
            } else {
                let _ = receiver.feed(&bytes);
            }
            prop_assert!(receiver.stashed() <= bytes.len());
        }
    }

    #[test]
    fn arbitrary_headers_neither_panic_nor_exceed_the_credit(
        heads in proptest::collection::vec(head(), 0..20),
        seed: u64,
    ) {
        let mut wire = start(0);
        for (kind, flags, window, length, ack) in heads {
            wire.push(kind);
            wire.push(flags);
            wire.extend_from_slice(&window.to_le_bytes());
            wire.extend_from_slice(&length.to_le_bytes());
            wire.extend_from_slice(&ack.to_le_bytes());
            wire.resize(wire.len() + (length % 3000) as usize, kind);
        }
        let mut rng = Rng::new(seed);
        let mut fed = Receiver::new(Arc::default(), 0, WINDOW_MIN_BYTES);
        fed.begin_epoch();
        let by_feed = fed.feed(&wire);
        prop_assert!(fed.stashed() as u64 <= WINDOW_MIN_BYTES);
        let mut direct = Receiver::new(Arc::default(), 0, WINDOW_MIN_BYTES);
        direct.begin_epoch();
        let by_accept = read_directly(&mut direct, &wire, &mut rng, 5000);
        // A program that reads gives more credit; other violations must come out alike.
        if by_feed != Err(Violation::BeyondCredit) {
            let told = by_accept.err();
            prop_assert_eq!(by_feed.err(), told.or_else(|| direct.violation()));
        }
    }
}

#[test]
fn payload_before_a_violation_reaches_the_program_first() {
    let mut receiver = fresh();
    receiver.feed(&start(0)).unwrap();
    let mut wire = data(b"good");
    wire.extend_from_slice(&[0xFF; 16]);
    let mut buf = [0xEE; 64];
    receiver.header_space().copy_from_slice(&wire[..16]);
    buf[..wire.len() - 16].copy_from_slice(&wire[16..]);
    assert_eq!(receiver.accept(&mut buf, 0, wire.len()), Ok(4));
    assert_eq!(&buf[..4], b"good");
    assert!(buf[4..wire.len() - 16].iter().all(|&byte| byte == 0));
    // Nothing more need come: a reader that is about to wait finds it out.
    assert_eq!(receiver.violation(), Some(Violation::BadHeader));
    assert_eq!(receiver.accept(&mut buf, 0, 1), Err(Violation::BadHeader));
    assert_eq!(receiver.feed(&start(4)), Err(Violation::BadHeader));
    receiver.begin_epoch();
    assert_eq!(receiver.feed(&start(4)), Ok(()));
}

#[test]
fn a_flood_of_control_frames_is_counted_so_that_a_reader_can_stop() {
    let mut receiver = fresh();
    receiver.feed(&start(0)).unwrap();
    let before = receiver.frames();
    let ack = Header { kind: Kind::Ack, flags: 0, length: 0, acks: Acks::default() };
    for _ in 0..100 {
        receiver.header_space().copy_from_slice(&ack.encode());
        assert_eq!(receiver.accept(&mut [], 0, 16), Ok(0));
    }
    assert_eq!(receiver.frames() - before, 100);
    assert_eq!(receiver.stashed(), 0);
}
