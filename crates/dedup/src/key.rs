//! Who a server is, and what two connections must have in common to share a session.
//!
//! Reuse of a connection is a decision about security: what was agreed for one (who may hear it,
//! who the other end may be) must hold for the other too. So it is taken by comparing one hash over
//! everything that there is, made in one place, and not by a list of comparisons.

use std::fmt;
use std::net::IpAddr;

use ring::digest;

/// Bytes of a public key, of a hash, and of the keys here.
const KEY_BYTES: usize = 32;

const SERVER_LABEL: &[u8] = b"eversock server id 1";
const PROCESS_LABEL: &[u8] = b"eversock server process 1";
const PSK_LABEL: &[u8] = b"eversock reuse psk 1";
const PARTS_LABEL: &[u8] = b"eversock reuse parts 1";
const REUSE_LABEL: &[u8] = b"eversock reuse key 1";

/// Which server it is, whatever its addresses are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub [u8; 16]);

impl ServerId {
    /// Of the server that has proved this static public key.
    pub fn of_key(public: &[u8; KEY_BYTES]) -> Self {
        Self::of(SERVER_LABEL, public)
    }

    /// Of a server without a static key of its own, where the session is under a pre-shared key or
    /// under none: the process of this instance, which the session's id names.
    pub fn of_process(instance: u64) -> Self {
        Self::of(PROCESS_LABEL, &instance.to_le_bytes())
    }

    fn of(label: &[u8], what: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(label);
        context.update(what);
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

/// All that two connections must have in common to share a session, but for the server itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyParts {
    /// The service that is asked for.
    pub service: String,
    /// The port that is asked for.
    pub port: u16,
    /// The public key that we show to servers.
    pub identity: Option<[u8; KEY_BYTES]>,
    /// SHA-256 of the pre-shared key.
    pub psk_hash: Option<[u8; KEY_BYTES]>,
    /// The only key that the server may have.
    pub server_key: Option<[u8; KEY_BYTES]>,
    /// Which policy about known servers is asked: a number that no other one has; 0 for none.
    pub known_servers: u64,
    /// Whether, and how, what is sent is sealed.
    pub sealing: u8,
    /// The device that the connection is bound to.
    pub device: Option<String>,
    /// The address that the connection is bound to.
    pub source: Option<IpAddr>,
    /// Inode of the network namespace.
    pub namespace: u64,
    /// Version of the multiplexer.
    pub mux_version: u16,
    /// What is done about a connection that died.
    pub recovery: u8,
    /// Connections of different tags never share, whatever else they have in common.
    pub isolation: String,
    /// Effective user id of the process.
    pub user: u32,
}

/// SHA-256, for a pre-shared key among [`KeyParts`].
pub fn hash(secret: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(PSK_LABEL);
    context.update(secret);
    finish(context)
}

/// One part, in the only form in which it is hashed and compared.
struct Part {
    name: &'static str,
    bytes: Vec<u8>,
}

/// Absent is told from empty.
fn optional(bytes: Option<impl AsRef<[u8]>>) -> Vec<u8> {
    bytes.map_or_else(Vec::new, |bytes| [&[1], bytes.as_ref()].concat())
}

impl KeyParts {
    /// Each part once. It takes the whole apart by name, so that a new field does not compile
    /// before it is in.
    fn parts(&self) -> [Part; 14] {
        let Self {
            service,
            port,
            identity,
            psk_hash,
            server_key,
            known_servers,
            sealing,
            device,
            source,
            namespace,
            mux_version,
            recovery,
            isolation,
            user,
        } = self;
        let source = source.map(|ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        });
        let part = |name, bytes: Vec<u8>| Part { name, bytes };
        [
            part("service", service.as_bytes().to_vec()),
            part("port", port.to_le_bytes().to_vec()),
            part("identity", optional(identity.as_ref())),
            part("pre-shared key", optional(psk_hash.as_ref())),
            part("server key", optional(server_key.as_ref())),
            part("known servers", known_servers.to_le_bytes().to_vec()),
            part("sealing", vec![*sealing]),
            part("device", optional(device.as_ref())),
            part("source", optional(source)),
            part("network namespace", namespace.to_le_bytes().to_vec()),
            part("multiplexer", mux_version.to_le_bytes().to_vec()),
            part("recovery", vec![*recovery]),
            part("isolation", isolation.as_bytes().to_vec()),
            part("user", user.to_le_bytes().to_vec()),
        ]
    }

    /// Their hash.
    pub fn pre_key(&self) -> PreKey {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(PARTS_LABEL);
        for Part { bytes, .. } in self.parts() {
            // With its length, so that no byte can pass from one part to the next.
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(&bytes);
        }
        PreKey(finish(context))
    }
}

/// The name of the first part in which the two differ, for whoever asks why they do not share.
pub fn differing(a: &KeyParts, b: &KeyParts) -> Option<&'static str> {
    let pairs = a.parts().into_iter().zip(b.parts());
    pairs.into_iter().find(|(a, b)| a.bytes != b.bytes).map(|(part, _)| part.name)
}

/// What connections have in common before it is known whose server theirs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PreKey(pub [u8; KEY_BYTES]);

/// Connections share a session if and only if theirs are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReuseKey(pub [u8; KEY_BYTES]);

impl ReuseKey {
    /// Of connections with these parts to this server.
    pub fn new(parts: &PreKey, server: ServerId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(REUSE_LABEL);
        context.update(&parts.0);
        context.update(&server.0);
        Self(finish(context))
    }
}

fn finish(context: digest::Context) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(context.finish().as_ref());
    key
}
