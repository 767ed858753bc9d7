//! Records as partners and stores have them: any, taken for locations, and which of them stands.
//!
//! Nothing may panic; a location has one record only; and of two records one beats the other unless
//! they are the same.
#![no_main]

use arbitrary::Arbitrary;
use eversock_controller::model::{Location, Record, kind};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Any {
    is_location: bool,
    kind: u16,
    key: Vec<u8>,
    rank: Vec<u8>,
    body: Vec<u8>,
}

impl Any {
    fn record(self) -> Record {
        let Self { is_location, kind, key, rank, body } = self;
        Record { kind: if is_location { kind::LOCATION } else { kind }, key, rank, body }
    }
}

fuzz_target!(|input: (Any, Any)| {
    let (one, mut two) = (input.0.record(), input.1.record());
    for record in [&one, &two] {
        if let Ok(location) = Location::from_record(record) {
            assert_eq!(location.to_record(), *record);
        }
    }
    (two.kind, two.key) = (one.kind, one.key.clone());
    assert!(!one.beats(&one));
    assert_eq!(one.beats(&two), !two.beats(&one) && one != two);
});
