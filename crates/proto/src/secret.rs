//! What the two ends share, and what is derived from it (PROTOCOL 5).

use ring::{digest, hkdf, hmac};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

/// Length of keys, secrets, nonces and MACs, in bytes.
pub const KEY_BYTES: usize = 32;

/// A session's name: 64 bits of the process that opened it as a server, 64 bits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A session id of the process `instance`.
    pub fn new(instance: u64, own: u64) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&instance.to_le_bytes());
        id[8..].copy_from_slice(&own.to_le_bytes());
        Self(id)
    }

    /// The process that opened the session as a server.
    pub fn instance(&self) -> u64 {
        let mut half = [0; 8];
        half.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(half)
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The secret of one session. Never leaves the two ends; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; KEY_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the store from being optimised away.
        std::hint::black_box(&self.0);
    }
}

impl Secret {
    /// Takes a secret from its bytes, as a hand-over between processes of one host needs.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a hand-over to another process of the same user.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// HKDF over the raw Noise split, salted with the handshake hash. The hash alone would not do:
    /// in NN an observer
    /// can compute it (PROTOCOL 5.1).
    pub(crate) fn derive(split: (&[u8; KEY_BYTES], &[u8; KEY_BYTES]), hash: &[u8]) -> Self {
        let mut material = [0; 2 * KEY_BYTES];
        material[..KEY_BYTES].copy_from_slice(split.0);
        material[KEY_BYTES..].copy_from_slice(split.1);
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, hash).extract(&material);
        material.fill(0);
        let mut out = [0; KEY_BYTES];
        let info = [b"eversock 1 session secret".as_slice()];
        // Expanding 32 bytes of SHA-256 output cannot exceed HKDF's limit of 255 blocks.
        if let Ok(okm) = prk.expand(&info, hkdf::HKDF_SHA256) {
            let filled = okm.fill(&mut out);
            debug_assert!(filled.is_ok());
        }
        Self(out)
    }

    /// HKDF-Expand with this secret as the key; `info` is what its parts are one behind the other.
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Self {
        let mut out = [0; KEY_BYTES];
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.0);
        // Expanding 32 bytes of SHA-256 output cannot exceed HKDF's limit of 255 blocks.
        if let Ok(okm) = prk.expand(info, hkdf::HKDF_SHA256) {
            let filled = okm.fill(&mut out);
            debug_assert!(filled.is_ok());
        }
        Self(out)
    }

    /// HMAC-SHA256 under this secret; `label` separates the uses, each part is prefixed with its
    /// length.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let tag = self.context(label, parts).sign();
        let mut out = [0; KEY_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// A proof that whoever made it has the session, for what the programs carry over it: of
    /// something that is no message of the session's own.
    pub fn identity_proof(&self, parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        self.mac(IDENTITY_LABEL, parts)
    }

    /// Compares in constant time.
    pub fn verify(&self, label: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        let ours = self.mac(label, parts);
        tag.len() == ours.len() && ours.iter().zip(tag).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
    }

    fn context(&self, label: &str, parts: &[&[u8]]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context
    }
}

const IDENTITY_LABEL: &str = "identity proof";

/// A pre-shared key that both ends were configured with.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(pub [u8; KEY_BYTES]);

impl std::fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// Noise primitives with the caller's randomness in place of the system's, so that a run can be
/// repeated.
pub(crate) struct SeededResolver {
    pub(crate) seed: [u8; KEY_BYTES],
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom { seed: self.seed, counter: 0 }))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// SHA-256 in counter mode over a seed of full entropy.
struct SeededRandom {
    seed: [u8; KEY_BYTES],
    counter: u64,
}

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        for block in dest.chunks_mut(KEY_BYTES) {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(b"eversock seed");
            context.update(&self.seed);
            context.update(&self.counter.to_le_bytes());
            self.counter += 1;
            block.copy_from_slice(&context.finish().as_ref()[..block.len()]);
        }
        Ok(())
    }
}
