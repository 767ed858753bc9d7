//! Who has sealed what: a key and a nonce that meet twice give the plaintext away.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Every key and nonce that has sealed a record.
#[derive(Default)]
pub struct Ledger(Mutex<BTreeMap<[u8; 32], u64>>);

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({} keys)", self.keys())
    }
}

impl Ledger {
    /// Notes that `key` has sealed with `nonce`; panics if it had already. Nonces of one key come
    /// in rising order or not at all, so the next that is free says it all.
    pub fn note(&self, key: &[u8; 32], nonce: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = keys.entry(*key).or_insert(0);
        assert!(nonce >= *free, "a key meets nonce {nonce} twice");
        *free = nonce + 1;
    }

    /// How many keys have sealed something.
    pub fn keys(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
