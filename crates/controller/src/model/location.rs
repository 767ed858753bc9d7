//! Where a device is registered.

use std::time::Duration;

use super::{ControllerId, DeviceId, NameError, Record, kind};
use crate::limits::{ADDRESS_MAX, LEASE_MAX, SEQ_MAX};

/// What a registration has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It stands.
    Registered,
    /// The device has ended it.
    Deregistered,
    /// The device was not heard of for the whole lease.
    Expired,
    /// An end of a kind that a newer version knows: kept and passed on as it is. Never 0, 1 or 2.
    Other(u8),
}

impl Standing {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Registered,
            1 => Self::Deregistered,
            2 => Self::Expired,
            other => Self::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Registered => 0,
            Self::Deregistered => 1,
            Self::Expired => 2,
            Self::Other(other) => other,
        }
    }
}

/// One registration of a device: the one with the largest counter stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// Which device.
    pub device: DeviceId,
    /// Who serves it.
    pub owner: ControllerId,
    /// The device's counter: one more at each registration, wherever that is.
    pub seq: u64,
    /// The owner's counter of changes within one registration, from 1.
    pub version: u64,
    /// What has become of it.
    pub standing: Standing,
    /// The number that the device has given to this attempt, so that one that comes twice is
    /// recognized.
    pub nonce: u64,
    /// How long it stands without a word of the device.
    pub lease: Duration,
    /// The generation of parameters that the device has.
    pub generation: u64,
    /// How to reach the device: its own business.
    pub address: Vec<u8>,
}

/// Why a record is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Of another kind.
    #[error("a record of kind {0} is no location")]
    Kind(u16),
    /// It ends too early, or too late.
    #[error("the location of {0} has a wrong length")]
    Length(String),
    /// A name is none.
    #[error("{0}")]
    Name(#[from] NameError),
    /// Something else.
    #[error("the location of {device} has {what}")]
    Field {
        /// Of whom.
        device: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Bytes of a body before the address.
const BODY_BYTES: usize = 1 + 8 + 8 + 8;
/// Of a rank besides the owner's name: the counter, a zero and the version.
const RANK_BYTES: usize = 8 + 1 + 8;

impl Location {
    /// The record of it. Its rank is the counter, then the owner's name and a zero, then the
    /// version, each big-endian: a larger counter beats all else, and two owners with one counter
    /// (which is a fault) are told apart in the same way everywhere.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let mut rank = Vec::with_capacity(RANK_BYTES + self.owner.as_str().len());
        rank.extend(self.seq.to_be_bytes());
        rank.extend(self.owner.as_str().as_bytes());
        rank.push(0);
        rank.extend(self.version.to_be_bytes());
        let mut body = Vec::with_capacity(BODY_BYTES + self.address.len());
        body.push(self.standing.byte());
        body.extend(self.nonce.to_be_bytes());
        body.extend(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
        body.extend(self.generation.to_be_bytes());
        body.extend(&self.address);
        Record { kind: kind::LOCATION, key: self.device.as_str().as_bytes().to_vec(), rank, body }
    }

    /// The location in a record.
    ///
    /// # Errors
    ///
    /// The record is none.
    pub fn from_record(record: &Record) -> Result<Self, LocationError> {
        if record.kind != kind::LOCATION {
            return Err(LocationError::Kind(record.kind));
        }
        let device: DeviceId = text(&record.key).parse()?;
        let wrong_length = || LocationError::Length(device.to_string());
        let wrong = |what| LocationError::Field { device: device.to_string(), what };
        let (seq, rest) = record.rank.split_first_chunk::<8>().ok_or_else(wrong_length)?;
        let (owner, version) = rest.split_last_chunk::<8>().ok_or_else(wrong_length)?;
        let (zero, owner) = owner.split_last().ok_or_else(wrong_length)?;
        if *zero != 0 {
            return Err(wrong("an owner without its end"));
        }
        let owner: ControllerId = text(owner).parse()?;
        let (standing, rest) = record.body.split_first().ok_or_else(wrong_length)?;
        let (nonce, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong_length)?;
        let (lease, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong_length)?;
        let (generation, address) = rest.split_first_chunk::<8>().ok_or_else(wrong_length)?;
        let seq = u64::from_be_bytes(*seq);
        if !(1..=SEQ_MAX).contains(&seq) {
            return Err(wrong("a counter out of bounds"));
        }
        let lease = Duration::from_millis(u64::from_be_bytes(*lease));
        if lease > LEASE_MAX {
            return Err(wrong("a lease that is too long"));
        }
        if address.len() > ADDRESS_MAX {
            return Err(wrong("an address that is too long"));
        }
        Ok(Self {
            owner,
            seq,
            version: u64::from_be_bytes(*version),
            standing: Standing::from_byte(*standing),
            nonce: u64::from_be_bytes(*nonce),
            lease,
            generation: u64::from_be_bytes(*generation),
            address: address.to_vec(),
            device,
        })
    }

    /// Whether the device is there.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.standing == Standing::Registered
    }
}

/// Bytes as text; what is no UTF-8 becomes something that is no name.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("\u{fffd}")
}
