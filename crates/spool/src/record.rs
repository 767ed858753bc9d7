//! A request as it lies in the spool and goes to a backend.

use crate::request::{Kind, Request, RequestId};

/// What orders requests: those of one lane take effect one after the other. The hash of a key, the
/// same in every version, since it lies in stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u64);

impl Lane {
    /// The lane of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, key);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_ref()[..8]);
        Self(u64::from_be_bytes(bytes))
    }
}

/// One request for a backend, with all that its effect depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The place in the spool; 0 for one that never was there.
    pub lsn: u64,
    /// The sender's.
    pub id: RequestId,
    /// What it does.
    pub kind: Kind,
    /// What it does it to.
    pub key: Vec<u8>,
    /// The backend's own.
    pub payload: Vec<u8>,
    /// Of the lock under which it was accepted: for people, not for decisions.
    pub epoch: u64,
    /// When it was accepted: milliseconds since 1970 by the front's clock. For people only.
    pub accepted_ms: u64,
}

impl Record {
    /// Of a request that was accepted now.
    #[must_use]
    pub fn new(request: Request, epoch: u64, accepted_ms: u64) -> Self {
        let Request { id, kind, key, payload, deadline: _ } = request;
        Self { lsn: 0, id, kind, key, payload, epoch, accepted_ms }
    }

    /// Which lane it belongs to.
    #[must_use]
    pub fn lane(&self) -> Lane {
        Lane::of(&self.key)
    }

    /// Bytes that it counts for in quotas and batches: key, payload, and what each costs besides.
    #[must_use]
    pub fn weight(&self) -> u64 {
        (self.key.len() + self.payload.len()) as u64 + 64
    }

    /// The checksum that lies beside it in a store: CRC-32 over all that matters for its effect.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.id.0.to_be_bytes());
        hasher.update(&self.kind.code().to_be_bytes());
        hasher.update(&(self.key.len() as u64).to_be_bytes());
        hasher.update(&self.key);
        hasher.update(&self.payload);
        hasher.update(&self.epoch.to_be_bytes());
        hasher.update(&self.accepted_ms.to_be_bytes());
        hasher.finalize()
    }

    /// What tells two requests under one id apart: the same for each retry of a request.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&self.kind.code().to_be_bytes());
        context.update(&(self.key.len() as u64).to_be_bytes());
        context.update(&self.key);
        context.update(&self.payload);
        let digest = context.finish();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_ref()[..8]);
        u64::from_be_bytes(bytes)
    }
}
