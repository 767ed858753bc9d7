//! What the layouts of this crate have in common: names of services, addresses, and a reader that
//! never reads beyond what there is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// Longest name of a service, in bytes.
pub const SERVICE_BYTES_MAX: usize = 32;

/// Longest address: family, IPv6 address, port.
pub(crate) const ADDRESS_BYTES_MAX: usize = 1 + 16 + 2;

/// What a server does for those that share a session: a name of at most [`SERVICE_BYTES_MAX`]
/// bytes of UTF-8, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service(String);

/// A name that is too long for a [`Service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a service's name has {0} bytes, and may have {SERVICE_BYTES_MAX}")]
pub struct ServiceTooLong(pub usize);

impl Service {
    /// The service of this name.
    ///
    /// # Errors
    /// When the name is longer than [`SERVICE_BYTES_MAX`] bytes.
    pub fn new(name: &str) -> Result<Self, ServiceTooLong> {
        if name.len() > SERVICE_BYTES_MAX {
            return Err(ServiceTooLong(name.len()));
        }
        Ok(Self(name.to_owned()))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Appends `length u8 | bytes`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        // No longer than the maximum, as `new` is the only way in.
        out.push(self.0.len() as u8);
        out.extend(self.0.as_bytes());
    }
}

/// Appends `family u8 (4 or 6) | address | port u16`, the port little-endian. An IPv4 address in
/// IPv6's clothes goes as what it is; a zone or flow, which mean nothing elsewhere, do not go.
pub(crate) fn put_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(address.port().to_le_bytes());
}

/// Reads from the front of some bytes; `None` wherever they do not suffice or make no sense.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(crate) fn service(&mut self) -> Option<Service> {
        let length = usize::from(self.byte()?);
        let name = std::str::from_utf8(self.take(length)?).ok()?;
        Service::new(name).ok()
    }

    /// An address as [`put_address`] writes it: each has one form only.
    pub(crate) fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.byte()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return None,
        };
        let port = u16::from_le_bytes(self.array()?);
        (ip.to_canonical() == ip).then_some(SocketAddr::new(ip, port))
    }
}
