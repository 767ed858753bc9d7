//! The server's half: who gets a reply, and how much is in it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use thiserror::Error;

use super::bucket::Buckets;
use super::{ADDRESSES_MAX, Cookie, MAC_BYTES, Query, Reply, Session};
use crate::key::ServerId;
use crate::wire::Service;

/// Addresses for somebody of whom it is not known that he gets what is sent to him.
const ADDRESSES_WITHOUT_COOKIE: usize = 4;

/// A cookie is good for the rest of its minute, and for the next one.
const COOKIE_MICROS: u64 = 60_000_000;

/// What a server says of itself to everybody.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its id.
    pub server: ServerId,
    /// Another number after each start.
    pub boot: u64,
    /// It takes many streams over one session.
    pub shares: bool,
    /// Its services; to queries for others there is no reply. Any if there is none here.
    pub services: Vec<Service>,
}

/// More than [`ADDRESSES_MAX`] addresses cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} addresses, of which {ADDRESSES_MAX} can be told")]
pub struct TooManyAddresses(pub usize);

/// Answers queries.
///
/// It holds what it knows of at most 4,096 networks, and answers each at most 50 times a second
/// (after a pause 100 times at once) and all together at most 2,000 times.
pub struct Answerer {
    secret: hmac::Key,
    card: Card,
    addresses: Vec<SocketAddr>,
    address_set: u32,
    buckets: Buckets,
}

impl fmt::Debug for Answerer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _, card, addresses, address_set, buckets } = self;
        f.debug_struct("Answerer")
            .field("card", card)
            .field("addresses", addresses)
            .field("address_set", address_set)
            .field("networks", &buckets.len())
            .finish_non_exhaustive()
    }
}

impl Answerer {
    /// Of a server without addresses to tell. `secret`, 32 random bytes of this process alone, is
    /// what cookies are made with.
    pub fn new(secret: &[u8; 32], card: Card) -> Self {
        Self {
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
            card,
            addresses: Vec::new(),
            address_set: 0,
            buckets: Buckets::new(),
        }
    }

    /// From now on these are the addresses, and this is their number.
    ///
    /// # Errors
    /// When there are too many; those before stay then.
    pub fn set_addresses(
        &mut self,
        addresses: Vec<SocketAddr>,
        address_set: u32,
    ) -> Result<(), TooManyAddresses> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(TooManyAddresses(addresses.len()));
        }
        (self.addresses, self.address_set) = (addresses, address_set);
        Ok(())
    }

    /// What to say to this datagram, if anything: it came from `from` to our address `to` with this
    /// hop limit. With the reply comes the session, where one is named, under whose secret the
    /// reply's MAC is to be made if there is such a session ([`super::mac_input`]); else the reply
    /// goes as it is.
    ///
    /// Nothing is said to what is no query, or is for a service that there is not, to addresses
    /// that are not one host's, and to networks that ask too often.
    pub fn answer(
        &mut self,
        query: &[u8],
        from: SocketAddr,
        to: Option<SocketAddr>,
        hop_limit: Option<u8>,
        now: u64,
    ) -> Option<(Reply, Option<Session>)> {
        let is_for_many = to.is_some_and(|to| !is_one_host(to.ip()) && !to.ip().is_unspecified());
        if !is_one_host(from.ip()) || from.port() == 0 || is_for_many {
            return None;
        }
        let query = Query::decode(query)?;
        let services = &self.card.services;
        let has_it = services.is_empty() || services.contains(&query.service);
        if !has_it || !self.buckets.take(from.ip(), now) {
            return None;
        }
        let minute = now / COOKIE_MICROS;
        let has_cookie = [Some(minute), minute.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|minute| is_equal(&self.cookie(from.ip(), minute), &query.cookie));
        let told = match (query.wants_addresses, has_cookie) {
            (false, _) => &[],
            (true, true) => &self.addresses[..],
            (true, false) => &self.addresses[..self.addresses.len().min(ADDRESSES_WITHOUT_COOKIE)],
        };
        let reply = Reply {
            more: query.wants_addresses && told.len() < self.addresses.len(),
            shares: self.card.shares,
            nonce: query.nonce,
            server: self.card.server,
            boot: self.card.boot,
            address_set: self.address_set,
            hop_limit: hop_limit.unwrap_or(0),
            cookie: self.cookie(from.ip(), minute),
            asked_at: to.filter(|to| !to.ip().is_unspecified()),
            addresses: told.to_vec(),
            mac: [0; MAC_BYTES],
        };
        Some((reply, Some(query.session).filter(|session| *session != [0; 16])))
    }

    /// Its bearer gets what is sent to this address, or did so within this minute.
    fn cookie(&self, source: IpAddr, minute: u64) -> Cookie {
        let mut context = hmac::Context::with_key(&self.secret);
        match source.to_canonical() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&minute.to_le_bytes());
        let mut cookie = [0; 16];
        cookie.copy_from_slice(&context.sign().as_ref()[..16]);
        cookie
    }
}

/// In a time that does not depend on where they differ.
fn is_equal(a: &Cookie, b: &Cookie) -> bool {
    a.iter().zip(b).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

/// False for what several hosts, or none, would hear.
fn is_one_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_multicast() && !ip.is_unspecified() && !is_broadcast
}
