//! What two connections must have in common, one part at a time.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::net::IpAddr;

use eversock_dedup::key::{KeyParts, ReuseKey, ServerId, differing};
use proptest::prelude::*;

/// SHA-256 of the label and 32 zeros, or 1 as eight bytes, by Python's hashlib.
#[test]
fn a_servers_id_is_that_of_its_key() {
    let id = ServerId::of_key(&[0; 32]);
    assert_eq!(id.to_string(), OF_ZEROS);
    assert_eq!(ServerId::of_process(1).to_string(), OF_ONE);
    assert_eq!(format!("{id:?}"), format!("ServerId({OF_ZEROS})"));
}

const OF_ZEROS: &str = "bdff30621f2f82b1d4d1b12f0db07f1a";
const OF_ONE: &str = "d9242cd3b8568be47c9cd4ed9afc5159";

fn parts() -> impl Strategy<Value = KeyParts> {
    let names = ("[a-c]{0,3}", any::<Option<[u8; 1]>>(), "[a-c]{0,3}");
    let keys = (any::<Option<[u8; 32]>>(), any::<Option<[u8; 32]>>(), any::<Option<[u8; 32]>>());
    let numbers = (any::<u16>(), any::<u64>(), any::<u8>(), any::<u64>());
    let others = (any::<Option<IpAddr>>(), any::<u16>(), any::<u8>(), any::<u32>());
    (names, keys, numbers, others).prop_map(|(names, keys, numbers, others)| KeyParts {
        service: names.0,
        device: names.1.map(|name| char::from(name[0]).to_string()),
        isolation: names.2,
        identity: keys.0,
        psk_hash: keys.1,
        server_key: keys.2,
        port: numbers.0,
        known_servers: numbers.1,
        sealing: numbers.2,
        namespace: numbers.3,
        source: others.0,
        mux_version: others.1,
        recovery: others.2,
        user: others.3,
    })
}

/// What changes one field, by its name.
type Change = (&'static str, fn(&mut KeyParts));

fn other_key(key: &mut Option<[u8; 32]>) {
    match key {
        Some(bytes) => bytes[31] ^= 1,
        None => *key = Some([0; 32]),
    }
}

const CHANGES: &[Change] = &[
    ("service", |parts| parts.service.push('x')),
    ("port", |parts| parts.port ^= 1),
    ("identity", |parts| other_key(&mut parts.identity)),
    ("pre-shared key", |parts| other_key(&mut parts.psk_hash)),
    ("server key", |parts| other_key(&mut parts.server_key)),
    ("known servers", |parts| parts.known_servers ^= 1 << 63),
    ("sealing", |parts| parts.sealing ^= 1),
    ("device", |parts| {
        let name = parts.device.take();
        parts.device = name.is_none().then(String::new);
    }),
    ("source", |parts| {
        let any = IpAddr::from([0; 4]);
        parts.source = if parts.source == Some(any) { None } else { Some(any) };
    }),
    ("network namespace", |parts| parts.namespace ^= 1 << 32),
    ("multiplexer", |parts| parts.mux_version ^= 1 << 8),
    ("recovery", |parts| parts.recovery ^= 1),
    ("isolation", |parts| parts.isolation.insert(0, 'x')),
    ("user", |parts| parts.user ^= 1),
];

proptest! {
    #[test]
    fn each_field_of_the_key_alone_prevents_reuse(parts in parts(), server in any::<[u8; 16]>()) {
        let server = ServerId(server);
        let key = ReuseKey::new(&parts.pre_key(), server);
        prop_assert_eq!(differing(&parts, &parts.clone()), None);
        prop_assert_eq!(ReuseKey::new(&parts.clone().pre_key(), server), key);
        for (name, change) in CHANGES {
            let mut other = parts.clone();
            change(&mut other);
            prop_assert_ne!(other.pre_key(), parts.pre_key(), "{}", name);
            prop_assert_ne!(ReuseKey::new(&other.pre_key(), server), key, "{}", name);
            prop_assert_eq!(differing(&parts, &other), Some(*name));
        }
        let mut another = server;
        another.0[0] ^= 1;
        prop_assert_ne!(ReuseKey::new(&parts.pre_key(), another), key);
    }

    /// Nor do two fields make up for each other: a byte that moves from one text to another, or a
    /// key that moves from one place to the next.
    #[test]
    fn what_moves_from_one_field_to_another_prevents_reuse(parts in parts(), key: [u8; 32]) {
        let texts = |service: &str, device: Option<&str>, isolation: &str| KeyParts {
            service: service.into(),
            device: device.map(Into::into),
            isolation: isolation.into(),
            ..parts.clone()
        };
        let keys = |identity, psk_hash, server_key| KeyParts {
            identity,
            psk_hash,
            server_key,
            ..parts.clone()
        };
        let all = [
            texts("ab", Some("c"), "d"),
            texts("a", Some("bc"), "d"),
            texts("ab", Some("cd"), ""),
            texts("ab", Some(""), "cd"),
            texts("ab", None, "cd"),
            texts("abcd", None, ""),
            keys(Some(key), None, None),
            keys(None, Some(key), None),
            keys(None, None, Some(key)),
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                prop_assert_eq!(one.pre_key() == other.pre_key(), one == other);
            }
        }
    }
}
