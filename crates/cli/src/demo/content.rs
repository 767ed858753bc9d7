//! What the demo sends: a stream of pseudo-random bytes that a seed determines, and its digest.

use sha2::{Digest, Sha256};

/// Pseudo-random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is more than 0; the bias is beyond notice.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Fills a buffer. Only the last one of a stream may have a length that is no multiple of 8.
    pub(crate) fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A digest in hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One digest for two directions: SHA-256 over the hexadecimal text of both, one after the other.
pub(crate) fn combine(up: &str, down: &str) -> String {
    hex(Sha256::new().chain_update(up).chain_update(down))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_however_they_are_cut() {
        let mut whole = [0; 64];
        Random::new(7).fill(&mut whole);
        let mut parts = [0; 64];
        let mut random = Random::new(7);
        parts.chunks_mut(16).for_each(|part| random.fill(part));
        assert_eq!(whole, parts);
        let mut other = [0; 64];
        Random::new(8).fill(&mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn digests_are_combined_in_order() {
        let empty = hex(Sha256::new());
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_ne!(combine(&empty, "00"), combine("00", &empty));
    }
}
