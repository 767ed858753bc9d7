//! The first bytes of each stream from a client: which service it is for, and which address its
//! program has asked for, whatever address the session uses.
//!
//! `length u8 | flags u8 | service length u8 | service | [family u8 | address | port u16]`: the
//! length is that of all, itself included; flag 1 says that an address follows; the port is
//! little-endian.

use std::net::SocketAddr;

use thiserror::Error;

use crate::wire::{ADDRESS_BYTES_MAX, Reader, put_address};
pub use crate::wire::{SERVICE_BYTES_MAX, Service, ServiceTooLong};

/// Longest preface that is taken, in bytes.
pub const PREFACE_BYTES_MAX: usize = 64;

const PREFACE_BYTES_MIN: usize = 3;

/// An address follows the service.
const HAS_ADDRESS: u8 = 1;

const _: () =
    assert!(PREFACE_BYTES_MIN + SERVICE_BYTES_MAX + ADDRESS_BYTES_MAX <= PREFACE_BYTES_MAX);

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The service.
    pub service: Service,
    /// The address that the program has asked for, without zone or flow.
    pub requested: Option<SocketAddr>,
}

/// The stream begins with what is no preface: it is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a stream begins with what is no preface")]
pub struct BadPreface;

impl Preface {
    /// As bytes, at most [`PREFACE_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0, 0];
        self.service.encode(&mut out);
        if let Some(address) = self.requested {
            out[1] = HAS_ADDRESS;
            put_address(address, &mut out);
        }
        // The assertion above holds it below 64.
        out[0] = out.len() as u8;
        out
    }

    /// From the first bytes of a stream, as far as they have come: the preface and its length, or
    /// `None` when there must be more.
    ///
    /// # Errors
    /// When these cannot become a preface, whatever comes behind them.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadPreface> {
        let Some(&length) = bytes.first() else { return Ok(None) };
        let length = usize::from(length);
        if !(PREFACE_BYTES_MIN..=PREFACE_BYTES_MAX).contains(&length) {
            return Err(BadPreface);
        }
        let Some(whole) = bytes.get(1..length) else { return Ok(None) };
        let preface = Self::decode_whole(&mut Reader(whole)).ok_or(BadPreface)?;
        Ok(Some((preface, length)))
    }

    fn decode_whole(reader: &mut Reader<'_>) -> Option<Self> {
        let flags = reader.byte()?;
        let service = reader.service()?;
        let requested = match flags {
            0 => None,
            HAS_ADDRESS => Some(reader.address()?),
            _ => return None,
        };
        reader.0.is_empty().then_some(Self { service, requested })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_preface_has_these_bytes() {
        let requested = Some("192.0.2.7:443".parse().unwrap());
        let preface = Preface { service: Service::new("web").unwrap(), requested };
        let bytes = [13, 1, 3, b'w', b'e', b'b', 4, 192, 0, 2, 7, 0xbb, 1];
        assert_eq!(preface.encode(), bytes);
        assert_eq!(Preface::decode(&bytes), Ok(Some((preface, 13))));
        let bare = Preface { service: Service::default(), requested: None };
        assert_eq!(bare.encode(), [3, 0, 0]);
    }

    #[test]
    fn both_sides_of_every_limit() {
        assert!(Service::new(&"s".repeat(SERVICE_BYTES_MAX)).is_ok());
        let long = Service::new(&"s".repeat(SERVICE_BYTES_MAX + 1));
        assert_eq!(long, Err(ServiceTooLong(SERVICE_BYTES_MAX + 1)));
        let longest = |n: u8| [vec![n + 3, 0, n], vec![b's'; n.into()]].concat();
        assert!(matches!(Preface::decode(&longest(32)), Ok(Some((_, 35)))));
        for (what, bytes) in [
            ("a longer name", longest(33)),
            ("too short", vec![2]),
            ("too long", vec![65]),
            ("another flag", vec![3, 2, 0]),
            ("no address", vec![3, 1, 0]),
            ("more than is told", vec![4, 0, 0, 0]),
            ("not UTF-8", vec![4, 0, 1, 0xff]),
            ("another family", vec![8, 1, 0, 5, 1, 2, 3, 4]),
            ("IPv4 as IPv6", {
                let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4];
                [&[22, 1, 0, 6], &mapped[..], &[0, 80]].concat()
            }),
        ] {
            assert_eq!(Preface::decode(&bytes), Err(BadPreface), "{what}");
        }
    }

    proptest! {
        #[test]
        fn a_preface_is_read_as_it_was_written_however_it_is_cut(
            service in "\\PC{0,8}",
            ip in any::<Option<std::net::IpAddr>>(),
            port in any::<u16>(),
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let requested = ip.map(|ip| SocketAddr::new(ip.to_canonical(), port));
            let preface = Preface { service: Service::new(&service).unwrap(), requested };
            let encoded = preface.encode();
            for cut in 0..encoded.len() {
                prop_assert_eq!(Preface::decode(&encoded[..cut]), Ok(None));
            }
            let bytes = [&encoded[..], &behind].concat();
            prop_assert_eq!(Preface::decode(&bytes), Ok(Some((preface, encoded.len()))));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0..70_u8, 0..80)) {
            if let Ok(Some((preface, length))) = Preface::decode(&bytes) {
                prop_assert_eq!(preface.encode(), &bytes[..length]);
            }
        }
    }
}
