//! What is too large, or means nothing, is refused; a list that may be cut is cut.

use std::time::Duration;

use eversock_controller::limits::{
    ADDRESS_MAX, ADDRS_MAX, ALTERNATES_MAX, BATCH_BYTES_MAX, BATCH_MAX, CHUNK_BYTES,
    CHUNKS_IN_FLIGHT, CHUNKS_MAX, DEADLINE_MAX, GREETING_MAX, HOPS_MAX, KEY_MAX, LEASE_MAX,
    MESSAGE_MAX, PARAMETERS_MAX, PARTITIONS_MAX, PAYLOAD_MAX, RANK_MAX, RECORD_MAX, TEXT_MAX,
};
use eversock_controller::model::Record;
use eversock_controller::store::Position;
use eversock_controller::wire::client::{ClientMessage, Outcome, Register, Request, Terms};
use eversock_controller::wire::codes::kind;
use eversock_controller::wire::peer::{
    Forward, Introduction, Manifest, PeerMessage, Standpoint, SyncMessage,
};
use eversock_controller::wire::{Bye, Message, Place, WireError, frame};

const AT: Position = Position { run: 5, lsn: 6 };

fn through<M: Message>(message: &M) -> Result<M, WireError> {
    let mut body = Vec::new();
    message.encode(&mut body);
    M::decode(message.kind(), &body)
}

fn sync(message: SyncMessage) -> PeerMessage {
    PeerMessage::Sync { partition: "a".parse().unwrap(), message }
}

/// With the largest it passes, with one more it does not.
fn is_bounded<M: Message>(largest: usize, make: impl Fn(usize) -> M) {
    let whole = make(largest);
    assert!(through(&whole).is_ok(), "{:#06x} with {largest}", whole.kind());
    assert!(frame(&whole).len() <= MESSAGE_MAX, "{:#06x} with {largest}", whole.kind());
    assert!(through(&make(largest + 1)).is_err(), "{:#06x} with {largest} + 1", whole.kind());
}

fn record(key: usize, rank: usize, body: usize) -> Record {
    Record { kind: 77, key: vec![1; key], rank: vec![2; rank], body: vec![3; body] }
}

fn update(records: Vec<Record>) -> PeerMessage {
    sync(SyncMessage::Update { upto: AT, records })
}

fn manifest(bytes: u64, chunks: u32) -> PeerMessage {
    let digest = [9; 32];
    sync(SyncMessage::Snapshot(Manifest { snapshot: 1, at: AT, bytes, chunks, records: 3, digest }))
}

#[test]
fn every_length_has_its_bound() {
    let device = || "d".parse().unwrap();
    is_bounded(ADDRESS_MAX, |n| {
        let address = vec![0; n];
        ClientMessage::Register(Register {
            device: device(),
            seq: 1,
            nonce: 2,
            lease: Duration::ZERO,
            generation: 3,
            token: 4,
            address,
        })
    });
    is_bounded(PAYLOAD_MAX, |n| {
        let (deadline, payload) = (DEADLINE_MAX, vec![0; n]);
        ClientMessage::Request(Request { id: 1, device: device(), deadline, payload })
    });
    is_bounded(PAYLOAD_MAX, |n| PeerMessage::Result { id: 1, outcome: Outcome::Done(vec![0; n]) });
    is_bounded(PARAMETERS_MAX, |n| ClientMessage::Parameters {
        generation: 1,
        text: "x".repeat(n),
    });
    is_bounded(HOPS_MAX, |n| {
        let visited = vec!["a".parse().unwrap(); n];
        let (deadline, payload) = (DEADLINE_MAX, vec![0; PAYLOAD_MAX]);
        PeerMessage::Forward(Forward {
            id: 1,
            device: device(),
            visited,
            seq: 1,
            deadline,
            payload,
        })
    });
    is_bounded(KEY_MAX, |n| update(vec![record(n, 0, 0)]));
    is_bounded(RANK_MAX, |n| update(vec![record(0, n, 0)]));
    is_bounded(RECORD_MAX, |n| update(vec![record(0, 0, n)]));
    is_bounded(RECORD_MAX - 20, |n| update(vec![record(12, 8, n)]));
    is_bounded(BATCH_MAX, |n| update(vec![record(1, 1, BATCH_BYTES_MAX / BATCH_MAX); n]));
    is_bounded(CHUNK_BYTES, |n| {
        sync(SyncMessage::Chunk { snapshot: 1, index: CHUNKS_MAX - 1, crc: 2, data: vec![0; n] })
    });
    is_bounded(CHUNKS_MAX as usize - 1, |n| {
        sync(SyncMessage::Chunk { snapshot: 1, index: n as u32, crc: 2, data: Vec::new() })
    });
    is_bounded(CHUNKS_IN_FLIGHT as usize, |n| {
        sync(SyncMessage::Need { snapshot: 1, first: 0, count: n as u32 })
    });
    is_bounded(CHUNKS_MAX as usize - 1, |n| {
        sync(SyncMessage::Need { snapshot: 1, first: n as u32, count: 1 })
    });
    is_bounded(CHUNKS_MAX as usize, |n| manifest(n as u64 * CHUNK_BYTES as u64, n as u32));
}

#[test]
fn the_largest_introduction_fits_into_the_greeting() {
    let name = || "n".repeat(64).parse().unwrap();
    let place = Place { controller: name(), addrs: vec!["[::1]:1".parse().unwrap(); ADDRS_MAX] };
    let make = |count| {
        let standpoint = Standpoint { partition: name(), head: AT, taken: Some(AT) };
        PeerMessage::Introduction(Introduction {
            controller: name(),
            boot: 1,
            place: place.clone(),
            partitions: vec![standpoint; count],
            wall_ms: 2,
        })
    };
    is_bounded(PARTITIONS_MAX + 1, make);
    assert!(frame(&make(PARTITIONS_MAX + 1)).len() <= GREETING_MAX);
}

#[test]
fn a_snapshots_size_and_chunks_have_to_fit_together() {
    let chunk = CHUNK_BYTES as u64;
    for (bytes, chunks) in [(0, 0), (0, 1), (1, 1), (chunk, 1), (chunk + 1, 2), (2 * chunk, 2)] {
        let message = manifest(bytes, chunks);
        assert_eq!(through(&message), Ok(message));
    }
    for (bytes, chunks) in [(0, 2), (1, 0), (1, 2), (chunk, 2), (chunk + 1, 1), (u64::MAX, 9)] {
        assert_eq!(through(&manifest(bytes, chunks)), Err(WireError::Chunks { bytes, chunks }));
    }
}

#[test]
fn texts_times_and_places_are_cut_to_what_may_go() {
    let long = "\u{e9}".repeat(TEXT_MAX);
    let ClientMessage::Bye(bye) = through(&ClientMessage::Bye(Bye::new(1, long))).unwrap() else {
        panic!("another message");
    };
    assert_eq!(bye.text, "\u{e9}".repeat(TEXT_MAX / 2));
    let addrs = vec!["127.0.0.1:9".parse().unwrap(); ADDRS_MAX + 3];
    let place = Place { controller: "a".parse().unwrap(), addrs };
    let (lease, handshake_every) = (Duration::MAX, Duration::from_nanos(1));
    let alternates = vec![place; ALTERNATES_MAX + 1];
    let terms = Terms { lease, handshake_every, misses: 3, generation: 1, alternates };
    let message = ClientMessage::Registered { device: "d".parse().unwrap(), seq: 1, terms };
    let Ok(ClientMessage::Registered { terms, .. }) = through(&message) else {
        panic!("refused");
    };
    assert_eq!((terms.lease, terms.handshake_every), (LEASE_MAX, Duration::from_micros(1)));
    assert_eq!(
        (terms.alternates.len(), terms.alternates[0].addrs.len()),
        (ALTERNATES_MAX, ADDRS_MAX)
    );
}

#[test]
fn each_side_reads_its_own_messages_only() {
    let ping = frame(&PeerMessage::Ping { n: 1 });
    assert_eq!(
        ClientMessage::decode(kind::PING, &ping[6..]),
        Err(WireError::UnknownType(kind::PING))
    );
    let get = kind::GET_PARAMETERS;
    assert_eq!(PeerMessage::decode(get, &[]), Err(WireError::UnknownType(get)));
}

#[test]
fn only_types_that_were_added_for_those_who_know_them_may_be_ignored() {
    for (kind, is_ignorable) in [(0, false), (0x7fff, false), (0x8000, true), (0xffff, true)] {
        let error = ClientMessage::decode(kind, &[1, 2, 3]).unwrap_err();
        assert_eq!(error.is_ignorable(), is_ignorable, "{kind:#06x}");
    }
    let short = ClientMessage::decode(kind::HELLO, &[]).unwrap_err();
    assert!(!short.is_ignorable());
}

#[test]
fn names_that_are_none_are_refused() {
    let mut body = Vec::new();
    ClientMessage::Jump { device: "ab".parse().unwrap(), seq: 1 }.encode(&mut body);
    body[4] = b' ';
    assert!(matches!(ClientMessage::decode(kind::JUMP, &body), Err(WireError::Name(_))));
    body[..4].copy_from_slice(&0u32.to_le_bytes());
    body.drain(4..6);
    assert!(matches!(ClientMessage::decode(kind::JUMP, &body), Err(WireError::Name(_))));
    assert!(matches!(
        PeerMessage::decode(kind::SYNC_RESYNC, &[1, 0, 0, 0, b'/']),
        Err(WireError::Name(_))
    ));
}
