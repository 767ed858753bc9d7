//! Any message, for tests that hold for all.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use eversock_controller::limits::{CHUNK_BYTES, CHUNKS_MAX, DEADLINE_MAX, LEASE_MAX};
use eversock_controller::model::{ControllerId, DeviceId, Record};
use eversock_controller::store::Position;
use eversock_controller::wire::client::{
    ClientMessage, HandOffAnswer, Outcome, Register, Request, Terms,
};
use eversock_controller::wire::peer::{
    Forward, Introduction, Manifest, Mode, PeerMessage, Standpoint, SyncMessage,
};
use eversock_controller::wire::{Bye, Hello, Place, Role, Welcome};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

fn name() -> impl Strategy<Value = ControllerId> {
    "[a-zA-Z0-9_.-]{1,64}".prop_map(|name| name.parse().unwrap())
}

fn device() -> impl Strategy<Value = DeviceId> {
    "[!-~]{1,128}".prop_map(|name| name.parse().unwrap())
}

fn up_to(most: Duration) -> impl Strategy<Value = Duration> {
    (0..=most.as_micros() as u64).prop_map(Duration::from_micros)
}

fn span() -> impl Strategy<Value = Duration> {
    up_to(LEASE_MAX)
}

fn position() -> impl Strategy<Value = Position> {
    any::<(u128, u64)>().prop_map(|(run, lsn)| Position { run, lsn })
}

fn addrs() -> impl Strategy<Value = Vec<SocketAddr>> {
    vec(any::<(IpAddr, u16)>().prop_map(SocketAddr::from), 0..8)
}

fn place() -> impl Strategy<Value = Place> {
    (name(), addrs()).prop_map(|(controller, addrs)| Place { controller, addrs })
}

fn record() -> impl Strategy<Value = Record> {
    (any::<u16>(), bytes(), bytes(), bytes()).prop_map(|(kind, key, rank, body)| Record {
        kind,
        key,
        rank,
        body,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        bytes().prop_map(Outcome::Done),
        Just(Outcome::Unknown),
        (name(), any::<u64>(), addrs()).prop_map(|(owner, seq, place)| Outcome::NotHere {
            owner,
            seq,
            place
        }),
        text().prop_map(Outcome::Unreachable),
        span().prop_map(|after| Outcome::Busy { after }),
        Just(Outcome::TimedOut),
        text().prop_map(Outcome::Refused),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let role = prop_oneof![Just(Role::Device), Just(Role::ThirdParty), Just(Role::Partner)];
    (any::<u16>(), any::<u16>(), role).prop_map(|(oldest, newest, role)| Hello {
        oldest,
        newest,
        role,
    })
}

fn welcome() -> impl Strategy<Value = Welcome> {
    (any::<u16>(), name()).prop_map(|(version, controller)| Welcome { version, controller })
}

fn bye() -> impl Strategy<Value = Bye> {
    (any::<(u8, u32)>(), text()).prop_map(|((code, after_ms), text)| Bye { code, after_ms, text })
}

fn registration() -> impl Strategy<Value = ClientMessage> {
    let number = any::<u64>;
    let terms = (span(), span(), any::<u8>(), number(), vec(place(), 0..8)).prop_map(
        |(lease, handshake_every, misses, generation, alternates)| Terms {
            lease,
            handshake_every,
            misses,
            generation,
            alternates,
        },
    );
    prop_oneof![
        (device(), any::<[u64; 4]>(), span(), bytes()).prop_map(
            |(device, [seq, nonce, generation, token], lease, address)| {
                ClientMessage::Register(Register {
                    device,
                    seq,
                    nonce,
                    lease,
                    generation,
                    token,
                    address,
                })
            }
        ),
        (device(), number(), terms).prop_map(|(device, seq, terms)| ClientMessage::Registered {
            device,
            seq,
            terms
        }),
        (device(), span()).prop_map(|(device, after)| ClientMessage::Retry { device, after }),
        (device(), number()).prop_map(|(device, seq)| ClientMessage::Jump { device, seq }),
        (device(), text()).prop_map(|(device, text)| ClientMessage::Refused { device, text }),
        (device(), number()).prop_map(|(device, seq)| ClientMessage::Handshake { device, seq }),
        (device(), number(), number()).prop_map(|(device, seq, generation)| {
            ClientMessage::HandshakeOk { device, seq, generation }
        }),
        (device(), number()).prop_map(|(device, seq)| ClientMessage::Deregister { device, seq }),
        (device(), number()).prop_map(|(device, seq)| ClientMessage::Deregistered { device, seq }),
        (device(), number())
            .prop_map(|(device, above)| ClientMessage::Reregister { device, above }),
    ]
}

pub(crate) fn client_message() -> impl Strategy<Value = ClientMessage> {
    let number = any::<u64>;
    let answer = prop_oneof![
        Just(HandOffAnswer::Goes),
        Just(HandOffAnswer::Busy),
        Just(HandOffAnswer::Stays)
    ];
    prop_oneof![
        hello().prop_map(ClientMessage::Hello),
        welcome().prop_map(ClientMessage::Welcome),
        bye().prop_map(ClientMessage::Bye),
        registration(),
        (device(), number(), place(), span()).prop_map(|(device, token, target, within)| {
            ClientMessage::HandOff { device, token, target, within }
        }),
        (device(), number(), answer).prop_map(|(device, token, answer)| {
            ClientMessage::HandOffAnswer { device, token, answer }
        }),
        (number(), device(), up_to(DEADLINE_MAX), bytes()).prop_map(
            |(id, device, deadline, payload)| {
                ClientMessage::Request(Request { id, device, deadline, payload })
            }
        ),
        (number(), outcome()).prop_map(|(id, outcome)| ClientMessage::Response { id, outcome }),
        Just(ClientMessage::GetParameters),
        (number(), text())
            .prop_map(|(generation, text)| ClientMessage::Parameters { generation, text }),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let most = u64::from(CHUNKS_MAX) * CHUNK_BYTES as u64;
    (any::<u128>(), position(), 0..=most, any::<u64>(), any::<[u8; 32]>()).prop_map(
        |(snapshot, at, bytes, records, digest)| Manifest {
            snapshot,
            at,
            bytes,
            chunks: bytes.div_ceil(CHUNK_BYTES as u64) as u32,
            records,
            digest,
        },
    )
}

fn sync() -> impl Strategy<Value = SyncMessage> {
    let number = any::<u128>;
    prop_oneof![
        (position(), vec(record(), 0..5))
            .prop_map(|(upto, records)| SyncMessage::Update { upto, records }),
        position().prop_map(|upto| SyncMessage::Taken { upto }),
        Just(SyncMessage::Resync),
        manifest().prop_map(SyncMessage::Snapshot),
        (number(), 0..CHUNKS_MAX, 0..5u32).prop_map(|(snapshot, first, count)| SyncMessage::Need {
            snapshot,
            first,
            count
        }),
        (number(), 0..CHUNKS_MAX, any::<u32>(), bytes()).prop_map(
            |(snapshot, index, crc, data)| SyncMessage::Chunk { snapshot, index, crc, data }
        ),
        number().prop_map(|snapshot| SyncMessage::Gone { snapshot }),
        (number(), position()).prop_map(|(snapshot, at)| SyncMessage::Loaded { snapshot, at }),
    ]
}

pub(crate) fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let number = any::<u64>;
    let standpoint = (name(), position(), option::of(position()))
        .prop_map(|(partition, head, taken)| Standpoint { partition, head, taken });
    prop_oneof![
        hello().prop_map(PeerMessage::Hello),
        welcome().prop_map(PeerMessage::Welcome),
        bye().prop_map(PeerMessage::Bye),
        (name(), any::<u128>(), place(), vec(standpoint, 0..6), number()).prop_map(
            |(controller, boot, place, partitions, wall_ms)| {
                PeerMessage::Introduction(Introduction {
                    controller,
                    boot,
                    place,
                    partitions,
                    wall_ms,
                })
            }
        ),
        number().prop_map(|n| PeerMessage::Ping { n }),
        number().prop_map(|n| PeerMessage::Pong { n }),
        (name(), sync()).prop_map(|(partition, message)| PeerMessage::Sync { partition, message }),
        (any::<[u64; 2]>(), device(), vec(name(), 0..5), up_to(DEADLINE_MAX), bytes()).prop_map(
            |([id, seq], device, visited, deadline, payload)| {
                PeerMessage::Forward(Forward { id, device, visited, seq, deadline, payload })
            }
        ),
        (number(), outcome()).prop_map(|(id, outcome)| PeerMessage::Result { id, outcome }),
        any::<[bool; 2]>()
            .prop_map(|[maintenance, paused]| PeerMessage::Mode(Mode { maintenance, paused })),
        (number(), option::of((number(), text())))
            .prop_map(|(generation, refused)| PeerMessage::Parameters { generation, refused }),
    ]
}
