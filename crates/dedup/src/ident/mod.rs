//! The query that asks an address which server it is, over UDP, and its reply.
//!
//! A query is padded to [`QUERY_BYTES`] and no reply is longer, so that a server is of no use to
//! somebody who has replies sent to others. What a reply says is a hint about where to dial; only
//! its MAC, under the secret of a session that stands between the two, proves anything.
//!
//! Query, all numbers little-endian: `"EVSQ" | version u8 | kind u8 = 1 | flags u16 (1 wants
//! addresses, 2 probe) | nonce 16 | cookie 16 | session 16 | service length u8 | service | zeros`.
//!
//! Reply: `"EVSQ" | version u8 | kind u8 = 2 | flags u16 (1 more, 2 shares) | nonce 16 | server 16
//! | boot u64 | address set u32 | hop limit u8 | cookie 16 | asked at | n u8 | n addresses | MAC
//! 32`; an address is `family u8 (4 or 6) | 4 or 16 bytes | port u16`. What is absent is zero; an
//! address that the server does not know is 0.0.0.0 with port 0.
//!
//! What is not exactly so is refused: another length, version, flag, or padding that is not zero.

mod answer;
mod ask;
mod bucket;

use std::net::{Ipv4Addr, SocketAddr};

pub use answer::{Answerer, Card, TooManyAddresses};
pub use ask::{Answer, Ask, AskError, Asker, Counts, Due};

use crate::key::ServerId;
use crate::wire::{ADDRESS_BYTES_MAX, Reader, SERVICE_BYTES_MAX, Service, put_address};

/// Length of every query, in bytes.
pub const QUERY_BYTES: usize = 512;

/// Most addresses in a reply.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes of the MAC that a reply ends in.
pub const MAC_BYTES: usize = 32;

/// Longest reply, in bytes.
pub const REPLY_BYTES_MAX: usize =
    HEAD_BYTES + 16 + 16 + 8 + 4 + 1 + 16 + ADDRESS_BYTES_MAX * (1 + ADDRESSES_MAX) + 1 + MAC_BYTES;

const MAGIC: [u8; 4] = *b"EVSQ";
const VERSION: u8 = 1;
const QUERY: u8 = 1;
const REPLY: u8 = 2;

/// Magic, version, kind and flags.
const HEAD_BYTES: usize = 8;

// Nobody gets more out of a server than he has put in.
const _: () = assert!(REPLY_BYTES_MAX <= QUERY_BYTES);
const _: () = assert!(HEAD_BYTES + 3 * 16 + 1 + SERVICE_BYTES_MAX <= QUERY_BYTES);

/// A number that a query and its reply have in common, and that nobody can guess.
pub type Nonce = [u8; 16];

/// What shows that its bearer gets what is sent to the address that he gives as his; zero for none.
pub type Cookie = [u8; 16];

/// The id of a session; zero for none.
pub type Session = [u8; 16];

/// A question: which server is this, and what of a service?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The server's addresses are wanted.
    pub wants_addresses: bool,
    /// It is asked in order to learn of the line, and not of the server.
    pub probe: bool,
    /// See [`Nonce`].
    pub nonce: Nonce,
    /// From an earlier reply.
    pub cookie: Cookie,
    /// A session between the two, with whose secret the reply is to be proved.
    pub session: Session,
    /// The service.
    pub service: Service,
}

impl Query {
    /// As bytes.
    pub fn encode(&self) -> [u8; QUERY_BYTES] {
        let mut out = Vec::with_capacity(QUERY_BYTES);
        put_head(QUERY, [self.wants_addresses, self.probe], &mut out);
        out.extend(self.nonce);
        out.extend(self.cookie);
        out.extend(self.session);
        self.service.encode(&mut out);
        let mut bytes = [0; QUERY_BYTES];
        // An assertion above says that it fits.
        bytes[..out.len()].copy_from_slice(&out);
        bytes
    }

    /// From a datagram; `None` for what is no query.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != QUERY_BYTES {
            return None;
        }
        let mut reader = Reader(bytes);
        let [wants_addresses, probe] = take_head(QUERY, &mut reader)?;
        let query = Self {
            wants_addresses,
            probe,
            nonce: reader.array()?,
            cookie: reader.array()?,
            session: reader.array()?,
            service: reader.service()?,
        };
        reader.0.iter().all(|byte| *byte == 0).then_some(query)
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// It has more addresses, for whoever comes again with the cookie.
    pub more: bool,
    /// It takes many streams over one session.
    pub shares: bool,
    /// The query's.
    pub nonce: Nonce,
    /// Who it says it is.
    pub server: ServerId,
    /// Another number after each start of the server's process.
    pub boot: u64,
    /// Another number after each change of the addresses.
    pub address_set: u32,
    /// Hop limit (TTL) with which the query arrived; 0 when it is not known.
    pub hop_limit: u8,
    /// For the next query of the same source.
    pub cookie: Cookie,
    /// The server's address to which the query came; `None` when it does not know.
    pub asked_at: Option<SocketAddr>,
    /// Its addresses, at most [`ADDRESSES_MAX`]: what lies beyond is not sent.
    pub addresses: Vec<SocketAddr>,
    /// See [`mac_input`]; zero without proof.
    pub mac: [u8; MAC_BYTES],
}

impl Reply {
    /// As bytes, at most [`REPLY_BYTES_MAX`]. An address goes without zone or flow.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REPLY_BYTES_MAX);
        put_head(REPLY, [self.more, self.shares], &mut out);
        out.extend(self.nonce);
        out.extend(self.server.0);
        out.extend(self.boot.to_le_bytes());
        out.extend(self.address_set.to_le_bytes());
        out.push(self.hop_limit);
        out.extend(self.cookie);
        put_address(self.asked_at.unwrap_or(UNKNOWN), &mut out);
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        // At most `ADDRESSES_MAX`.
        out.push(addresses.len() as u8);
        addresses.iter().for_each(|address| put_address(*address, &mut out));
        out.extend(self.mac);
        out
    }

    /// From a datagram; `None` for what is no reply.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [more, shares] = take_head(REPLY, &mut reader)?;
        let mut reply = Self {
            more,
            shares,
            nonce: reader.array()?,
            server: ServerId(reader.array()?),
            boot: u64::from_le_bytes(reader.array()?),
            address_set: u32::from_le_bytes(reader.array()?),
            hop_limit: reader.byte()?,
            cookie: reader.array()?,
            asked_at: Some(reader.address()?).filter(|address| *address != UNKNOWN),
            addresses: Vec::new(),
            mac: [0; MAC_BYTES],
        };
        let n = usize::from(reader.byte()?);
        if n > ADDRESSES_MAX {
            return None;
        }
        for _ in 0..n {
            reply.addresses.push(reader.address()?);
        }
        reply.mac = reader.array()?;
        reader.0.is_empty().then_some(reply)
    }

    /// Whether it has a MAC; whether that is right is for the session's secret to say.
    pub fn has_proof(&self) -> bool {
        self.mac != [0; MAC_BYTES]
    }
}

/// What the MAC of a reply goes over, under the secret of the session that the query names: the
/// whole query, and the reply up to its MAC. `None` when the reply is too short to have one.
pub fn mac_input<'a>(query: &'a [u8], reply: &'a [u8]) -> Option<[&'a [u8]; 2]> {
    let (said, _) = reply.split_at_checked(reply.len().checked_sub(MAC_BYTES)?)?;
    Some([query, said])
}

/// Stands for an address that is not known.
const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn put_head(kind: u8, flags: [bool; 2], out: &mut Vec<u8>) {
    out.extend(MAGIC);
    out.extend([VERSION, kind]);
    out.extend((u16::from(flags[0]) | u16::from(flags[1]) << 1).to_le_bytes());
}

fn take_head(kind: u8, reader: &mut Reader<'_>) -> Option<[bool; 2]> {
    let is_it = reader.array()? == MAGIC && reader.array()? == [VERSION, kind];
    let flags = u16::from_le_bytes(reader.array()?);
    (is_it && flags & !3 == 0).then_some([flags & 1 != 0, flags & 2 != 0])
}
