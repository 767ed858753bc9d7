//! Sealed sessions: each frame is one AEAD record (PROTOCOL 2.9, 5.4).
//!
//! A record is the frame's header in clear, the body encrypted, and a tag over both. Each epoch has
//! keys of its own for each direction, and within an epoch the record's number is the nonce; so no
//! key ever meets a nonce twice. The values here can only be used once: [`EpochKeys`] are taken
//! apart into one [`Sealer`] and one [`Opener`], and none of the three can be copied.

#[cfg(any(test, feature = "testing"))]
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::control::Role;
use crate::limits::{HEADER_BYTES, KEY_WEIGHT_MAX_BYTES, RECORD_WEIGHT_BYTES, TAG_BYTES};
use crate::secret::{KEY_BYTES, Secret};
#[cfg(any(test, feature = "testing"))]
use crate::testing::Ledger;

const OPEN_LABEL: &str = "seal open";
const RESUME_LABEL: &str = "seal resume";
const CLIENT_LABEL: &str = "eversock 1 seal client";
const SERVER_LABEL: &str = "eversock 1 seal server";

/// What seals the records of a session; chosen when it opens, for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// For processors without AES instructions.
    Chacha20Poly1305 = 1,
    /// Four times as fast where both ends have AES instructions.
    Aes256Gcm = 2,
}

impl Cipher {
    /// The cipher with this code.
    pub fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Chacha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    fn algorithm(self) -> &'static ring::aead::Algorithm {
        match self {
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }
}

/// The keys of one epoch, before the first record. Whoever has them may send and receive in that
/// epoch, so they are used up by whoever begins it.
pub struct EpochKeys {
    cipher: Cipher,
    root: Secret,
    weight_max: u64,
    #[cfg(any(test, feature = "testing"))]
    witness: Option<Arc<Ledger>>,
}

impl std::fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpochKeys({:?})", self.cipher)
    }
}

impl EpochKeys {
    /// Those of epoch 1, which the handshake with this hash has opened.
    pub(crate) fn of_open(secret: &Secret, cipher: Cipher, parts: &[&[u8]]) -> Self {
        Self::from_parts(cipher, secret.mac(OPEN_LABEL, parts))
    }

    /// Those of the epoch that this RESUME and RESUME_OK have opened; both hold a nonce, so that
    /// an epoch that was tried twice does not have the same keys twice.
    pub(crate) fn of_resume(secret: &Secret, cipher: Cipher, messages: &[&[u8]]) -> Self {
        Self::from_parts(cipher, secret.mac(RESUME_LABEL, messages))
    }

    /// Takes up what [`Self::into_parts`] gave in another process of the same host.
    pub fn from_parts(cipher: Cipher, root: [u8; KEY_BYTES]) -> Self {
        Self {
            cipher,
            root: Secret::from_bytes(root),
            weight_max: KEY_WEIGHT_MAX_BYTES,
            #[cfg(any(test, feature = "testing"))]
            witness: None,
        }
    }

    /// The keys as bytes, for the process of the same host that begins the epoch in our place.
    pub fn into_parts(self) -> (Cipher, [u8; KEY_BYTES]) {
        (self.cipher, *self.root.expose())
    }

    /// What the records are sealed with.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Changes the weight at which a key gives way to the next, at both ends alike.
    #[cfg(any(test, feature = "testing"))]
    pub fn with_weight_max(mut self, weight_max: u64) -> Self {
        self.weight_max = weight_max;
        self
    }

    /// Tells `ledger` of every key and nonce that seals something.
    #[cfg(any(test, feature = "testing"))]
    pub fn witnessed(mut self, ledger: &Arc<Ledger>) -> Self {
        self.witness = Some(Arc::clone(ledger));
        self
    }

    /// The two directions, as the end in this role needs them.
    pub fn split(self, role: Role) -> (Sealer, Opener) {
        let (ours, theirs) = match role {
            Role::Client => (CLIENT_LABEL, SERVER_LABEL),
            Role::Server => (SERVER_LABEL, CLIENT_LABEL),
        };
        let lane = |label| Lane::new(self.cipher, self.root.clone(), label, self.weight_max);
        let (sealer, opener) = (Sealer(lane(ours)), Opener(lane(theirs)));
        #[cfg(any(test, feature = "testing"))]
        let sealer = sealer.witnessed(self.witness.clone());
        (sealer, opener)
    }
}

/// One direction of one epoch.
struct Lane {
    cipher: Cipher,
    root: Secret,
    label: &'static str,
    /// None fails every record; it does not happen with keys of the right length.
    key: Option<LessSafeKey>,
    generation: u64,
    /// Records so far, over all generations of the key.
    records: u64,
    /// What the key of this generation has sealed.
    weight: u64,
    weight_max: u64,
    #[cfg(any(test, feature = "testing"))]
    witness: Option<(Arc<Ledger>, [u8; KEY_BYTES])>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, key {}, record {}", self.cipher, self.generation, self.records)
    }
}

impl Lane {
    fn new(cipher: Cipher, root: Secret, label: &'static str, weight_max: u64) -> Self {
        let mut lane = Self {
            cipher,
            root,
            label,
            key: None,
            generation: 0,
            records: 0,
            weight: 0,
            weight_max,
            #[cfg(any(test, feature = "testing"))]
            witness: None,
        };
        lane.make_key();
        lane
    }

    fn secret(&self) -> Secret {
        let generation = self.generation.to_le_bytes();
        self.root.expand(&[self.label.as_bytes(), &[self.cipher as u8], &generation])
    }

    fn make_key(&mut self) {
        let secret = self.secret();
        self.key =
            UnboundKey::new(self.cipher.algorithm(), secret.expose()).ok().map(LessSafeKey::new);
        #[cfg(any(test, feature = "testing"))]
        if let Some((_, key)) = &mut self.witness {
            *key = *secret.expose();
        }
    }

    /// The nonce of the next record; none once all are used up.
    fn nonce(&self) -> Option<Nonce> {
        self.records.checked_add(1)?;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.records.to_le_bytes());
        Some(Nonce::assume_unique_for_key(nonce))
    }

    /// A record with a body of this length is done.
    fn advance(&mut self, body: usize) {
        self.records += 1;
        self.weight = self.weight.saturating_add(body as u64 + RECORD_WEIGHT_BYTES);
        if self.weight >= self.weight_max {
            self.weight = 0;
            self.generation += 1;
            self.make_key();
        }
    }
}

/// Seals the frames of one direction of one epoch, in order.
#[derive(Debug)]
pub struct Sealer(Lane);

impl Sealer {
    #[cfg(any(test, feature = "testing"))]
    fn witnessed(mut self, ledger: Option<Arc<Ledger>>) -> Self {
        self.0.witness = ledger.map(|ledger| (ledger, *self.0.secret().expose()));
        self
    }

    /// Turns a frame, header and body, into the record that goes over the wire. False when it
    /// cannot be sealed, and then the frame must not be sent.
    #[must_use]
    pub fn seal(&mut self, frame: &mut Vec<u8>) -> bool {
        let lane = &mut self.0;
        let Some((header, body)) = frame.split_at_mut_checked(HEADER_BYTES) else { return false };
        let (Some(nonce), Some(key)) = (lane.nonce(), &lane.key) else { return false };
        #[cfg(any(test, feature = "testing"))]
        if let Some((ledger, key)) = &lane.witness {
            ledger.note(key, lane.records);
        }
        let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), body);
        let Ok(tag) = sealed else { return false };
        lane.advance(body.len());
        frame.extend_from_slice(tag.as_ref());
        true
    }
}

/// Opens the records of one direction of one epoch, in order.
#[derive(Debug)]
pub struct Opener(Lane);

impl Opener {
    /// Decrypts a record in place and gives the frame's body. Nothing is to be believed of a record
    /// that gives none, its header included.
    #[must_use]
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Option<&'a [u8]> {
        let lane = &mut self.0;
        let (header, body) = record.split_at_mut_checked(HEADER_BYTES)?;
        let opened = lane.key.as_ref()?.open_in_place(lane.nonce()?, Aad::from(&*header), body);
        let body = opened.ok()?;
        lane.advance(body.len());
        Some(body)
    }
}

/// The length on the wire of a frame with a body of `length` bytes.
pub const fn record_len(length: usize) -> usize {
    HEADER_BYTES + length + TAG_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIPHERS: [Cipher; 2] = [Cipher::Chacha20Poly1305, Cipher::Aes256Gcm];

    fn keys(cipher: Cipher, root: u8) -> EpochKeys {
        EpochKeys::from_parts(cipher, [root; KEY_BYTES])
    }

    fn ends(cipher: Cipher, weight_max: u64) -> (Sealer, Opener) {
        let of = |role| keys(cipher, 7).with_weight_max(weight_max).split(role);
        (of(Role::Client).0, of(Role::Server).1)
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xAB; HEADER_BYTES];
        frame.extend_from_slice(body);
        frame
    }

    #[test]
    fn a_record_opens_to_the_frame_that_was_sealed_whatever_its_length() {
        for cipher in CIPHERS {
            let (mut sealer, mut opener) = ends(cipher, u64::MAX);
            for length in [0, 1, 8, 15, 16, 17, 1000, 65_536] {
                let body: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
                let mut record = frame(&body);
                assert!(sealer.seal(&mut record));
                assert_eq!(record.len(), record_len(length));
                assert!(length < 8 || record[HEADER_BYTES..][..length] != body);
                assert_eq!(opener.open(&mut record), Some(&body[..]));
            }
        }
    }

    #[test]
    fn a_changed_bit_anywhere_in_a_record_leaves_nothing_to_believe() {
        for cipher in CIPHERS {
            let (mut sealer, mut opener) = ends(cipher, u64::MAX);
            let mut record = frame(b"twelve bytes");
            assert!(sealer.seal(&mut record));
            for bit in 0..record.len() * 8 {
                let mut bad = record.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opener.open(&mut bad), None, "bit {bit}");
            }
            assert!(opener.open(&mut record).is_some());
        }
    }

    #[test]
    fn a_record_is_good_once_in_its_place_in_its_direction_and_in_its_epoch() {
        for cipher in CIPHERS {
            let (mut sealer, mut opener) = ends(cipher, u64::MAX);
            let mut records: Vec<Vec<u8>> = (0..3).map(|n| frame(&[n; 20])).collect();
            for record in &mut records {
                assert!(sealer.seal(record));
            }
            assert_eq!(opener.open(&mut records[1].clone()), None, "out of turn");
            assert!(opener.open(&mut records[0].clone()).is_some());
            assert_eq!(opener.open(&mut records[0].clone()), None, "twice");
            assert_eq!(opener.open(&mut records[2].clone()), None, "one was dropped");
            let first = records[0].clone();
            let strangers = [
                ("reflected", keys(cipher, 7).split(Role::Client).1),
                ("another epoch", keys(cipher, 8).split(Role::Server).1),
                ("another cipher", {
                    let other = CIPHERS.into_iter().find(|&other| other != cipher);
                    keys(other.expect("there are two"), 7).split(Role::Server).1
                }),
            ];
            for (why, mut stranger) in strangers {
                assert_eq!(stranger.open(&mut first.clone()), None, "{why}");
            }
        }
    }

    #[test]
    fn both_sides_of_the_weight_at_which_a_key_gives_way() {
        for cipher in CIPHERS {
            let weight = 100 + RECORD_WEIGHT_BYTES;
            for (limit, generation) in [(2 * weight, 1), (2 * weight + 1, 0)] {
                let (mut sealer, mut opener) = ends(cipher, limit);
                for n in 0..2 {
                    let mut record = frame(&[n; 100]);
                    assert!(sealer.seal(&mut record) && opener.open(&mut record).is_some());
                }
                assert_eq!((sealer.0.generation, opener.0.generation), (generation, generation));
                let mut record = frame(b"under the next");
                assert!(sealer.seal(&mut record) && opener.open(&mut record).is_some());
                assert_eq!(sealer.0.records, 3, "a new key does not begin the count anew");
            }
            // An end that knows another weight is left behind.
            let (mut sealer, _) = ends(cipher, weight);
            let (_, mut opener) = ends(cipher, u64::MAX);
            let mut records = [frame(&[1; 100]), frame(&[2; 100])];
            assert!(records.iter_mut().all(|record| sealer.seal(record)));
            assert!(opener.open(&mut records[0]).is_some());
            assert_eq!(opener.open(&mut records[1]), None);
        }
    }

    #[test]
    fn the_last_nonce_is_never_used_and_none_comes_behind_it() {
        let (mut sealer, mut opener) = ends(Cipher::Aes256Gcm, u64::MAX);
        (sealer.0.records, opener.0.records) = (u64::MAX - 1, u64::MAX - 1);
        let mut record = frame(b"x");
        assert!(sealer.seal(&mut record) && opener.open(&mut record).is_some());
        assert!(!sealer.seal(&mut frame(b"x")));
        assert_eq!(opener.open(&mut frame(&[0; TAG_BYTES])), None);
    }

    #[test]
    #[should_panic(expected = "meets nonce 0 twice")]
    fn the_ledger_sees_a_nonce_that_meets_its_key_twice() {
        let ledger = Arc::new(Ledger::default());
        for _ in 0..2 {
            let (mut sealer, _) = keys(Cipher::Aes256Gcm, 1).witnessed(&ledger).split(Role::Client);
            assert!(sealer.seal(&mut frame(b"x")));
        }
    }
}
