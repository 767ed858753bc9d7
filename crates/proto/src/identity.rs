//! Who an end is: static keys, of which the public half is given to the other side beforehand
//! (PROTOCOL 3.1).

use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

use crate::secret::{KEY_BYTES, Secret};

/// The public half of a static key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A static key, the private half included. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticKey {
    private: Secret,
    public: PublicKey,
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticKey({})", self.public)
    }
}

impl StaticKey {
    /// The key whose private half is `private`: 32 bytes of fresh randomness, or read from a file.
    pub fn from_bytes(private: [u8; KEY_BYTES]) -> Self {
        let mut public = [0; KEY_BYTES];
        // The resolver has this curve: it is compiled in.
        if let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) {
            dh.set(&private);
            public.copy_from_slice(&dh.pubkey()[..KEY_BYTES]);
        }
        Self { private: Secret::from_bytes(private), public: PublicKey(public) }
    }

    /// The half that others may know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn private(&self) -> &[u8; KEY_BYTES] {
        self.private.expose()
    }
}

/// Which static key a client wants its server to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerKey {
    /// None: the server has no static key.
    #[default]
    None,
    /// The client does not know it yet and asks the server for it; whether to believe the answer
    /// is for whoever asked. A named client shows its own public key to whoever listens.
    Asked,
    /// This one, and no other.
    Known(PublicKey),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_the_one_of_rfc_7748() {
        let hex = |text: &str| -> [u8; 32] {
            let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16);
            std::array::from_fn(|at| byte(at).expect("hexadecimal digits"))
        };
        let bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(StaticKey::from_bytes(bob).public(), PublicKey(public));
    }
}
