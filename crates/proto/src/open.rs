//! How a session begins: OPEN, OPEN_OK, CONFIRM (PROTOCOL 3.1).
//!
//! Noise NN, or NNpsk0 when a key is configured, or one of four patterns with static keys. Nothing
//! acts before the third message: a recorded OPEN gets an answer, but no session. The client may
//! send its first frames right behind CONFIRM.

use core::net::SocketAddr;
use std::time::Duration;

use snow::{Builder, HandshakeState};
use thiserror::Error;

use crate::identity::{PublicKey, ServerKey, StaticKey};
use crate::limits::{HELLO_MAX_BYTES, WINDOW_UNIT_BYTES, WINDOW_WIRE_MAX_BYTES};
use crate::resume::{Reason, Reject, ResumeError, ResumeServer};
use crate::seal::{Cipher, EpochKeys};
use crate::secret::{KEY_BYTES, PresharedKey, Secret, SeededResolver, SessionId};
use crate::wire::hello::{
    HelloError, HelloKind, Reader, Writer, confirm, decode_addrs, encode_addrs, split,
};

const FLAG_KEYED: u16 = 0x01;
const FLAG_SEALED: u16 = 0x02;
const FLAG_ASKS: u16 = 0x04;
const FLAG_KNOWS: u16 = 0x08;
const FLAG_NAMED: u16 = 0x10;

/// Feature bit: AES-256-GCM is fast at the client.
const FEATURE_AES: u32 = 1;
/// Feature bit: the client would carry several logical connections over the session; so would the
/// server, where it answers with the bit.
const FEATURE_SHARE: u32 = 2;

/// Whether the frames of a session are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// They are not; a server refuses a client that wants it.
    #[default]
    Never,
    /// A server does as the client wants. A client wants it.
    Either,
    /// They are; a server refuses a client that does not want it.
    Always,
}

/// What each end brings to an open.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// The pre-shared key, if one is configured. Then nobody without it can open or resume.
    pub key: Option<PresharedKey>,
    /// The credit that this side gives at first, in bytes.
    pub window: u64,
    /// How long this side keeps a session whose connection has gone silent.
    pub grace: Duration,
    /// Alternative addresses of this side.
    pub addrs: Vec<SocketAddr>,
    /// Whether frames are sealed.
    pub sealing: Sealing,
    /// True when this machine has instructions for AES.
    pub aes: bool,
    /// The static key of this side. A server that has one opens no session without it.
    pub identity: Option<StaticKey>,
    /// Client: which static key the server must have.
    pub server: ServerKey,
    /// Server: the static keys of the clients that it takes; anybody's if there is no list.
    pub clients: Option<Vec<PublicKey>>,
    /// True when this side would carry several logical connections over the session.
    pub share: bool,
}

/// A session as both ends know it after the handshake.
#[derive(Debug)]
pub struct Opened {
    /// The session's name.
    pub id: SessionId,
    /// What the two ends share.
    pub secret: Secret,
    /// The credit that the peer gives at first, in bytes.
    pub window: u64,
    /// How long the peer keeps the session; zero when the peer is the client.
    pub grace: Duration,
    /// Alternative addresses of the peer.
    pub addrs: Vec<SocketAddr>,
    /// The static key that the peer has proven to have. A client that asked for it decides whether
    /// to believe that this is the server it wants.
    pub peer: Option<PublicKey>,
    /// Both ends would carry several logical connections over the session.
    pub shares: bool,
    /// What seals the session's records; none if they are clear.
    pub cipher: Option<Cipher>,
    /// The keys of the epoch that the open has begun. None if the session is clear, or begins with
    /// a resume, which has keys of its own.
    pub keys: Option<EpochKeys>,
}

/// Why a session did not begin.
#[derive(Debug, Error)]
pub enum OpenError {
    /// What came is no eversock message, or not the one expected.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The peer has another key, or one side has none.
    #[error("the peer's key differs; configure the same key on both sides, or on neither")]
    Key,
    /// One side wants the session sealed and the other does not.
    #[error(
        "the peer does not agree on sealing; configure both sides to seal sessions, or neither"
    )]
    Sealing,
    /// The server has another static key than the one that is pinned, or none.
    #[error(
        "the peer does not have the static key that is pinned for it; if its key was changed on \
         purpose, pin the new one"
    )]
    Pin,
    /// The client has no static key, or one that is not on the server's list.
    #[error("the client's static key {0} is not on the list; add it to let the client in")]
    Stranger(PublicKey),
    /// What this side was configured with does not go together.
    #[error("{0}")]
    Config(&'static str),
    /// The proof in CONFIRM is wrong.
    #[error("the peer could not prove that it is the one that began")]
    Proof,
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(Reject),
    /// The primitives refused; does not happen with valid lengths.
    #[error("cryptography failed: {0}")]
    Crypto(snow::Error),
}

impl OpenError {
    /// What a server tells a client that it refuses so; nothing to one that speaks nonsense.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Key | Self::Pin | Self::Stranger(_) => Some(Reason::Key),
            Self::Sealing => Some(Reason::Sealing),
            _ => None,
        }
    }
}

/// The client's side of an open.
#[derive(Debug)]
pub struct OpenClient {
    noise: Box<HandshakeState>,
    flags: u16,
    features: u32,
}

/// The server's side of an open, between OPEN_OK and CONFIRM.
///
/// The client's connect completes when it has verified OPEN_OK, so a CONFIRM that dies with its
/// connection leaves a client that has a session and a server that has none. A server therefore
/// keeps this value for a while (bounded in count and time) after its connection died, and answers
/// a RESUME from it: that proves as much as the CONFIRM would have.
#[derive(Debug)]
pub struct OpenServer {
    opened: Opened,
    transcript: Vec<u8>,
    /// A CONFIRM was taken: another session does not come of it.
    is_used: bool,
}

/// The Noise pattern that the flags of an OPEN stand for; none if they contradict each other.
fn pattern(flags: u16) -> Option<&'static str> {
    match flags & !FLAG_SEALED {
        0 => Some("Noise_NN_25519_ChaChaPoly_SHA256"),
        FLAG_KEYED => Some("Noise_NNpsk0_25519_ChaChaPoly_SHA256"),
        FLAG_ASKS => Some("Noise_NX_25519_ChaChaPoly_SHA256"),
        FLAG_KNOWS => Some("Noise_NK_25519_ChaChaPoly_SHA256"),
        n if n == FLAG_ASKS | FLAG_NAMED => Some("Noise_IX_25519_ChaChaPoly_SHA256"),
        n if n == FLAG_KNOWS | FLAG_NAMED => Some("Noise_IK_25519_ChaChaPoly_SHA256"),
        _ => None,
    }
}

/// The flags with which a client opens.
fn client_flags(offer: &Offer) -> Result<u16, OpenError> {
    let keyed = if offer.key.is_some() { FLAG_KEYED } else { 0 };
    let sealed = if offer.sealing == Sealing::Never { 0 } else { FLAG_SEALED };
    let server = match offer.server {
        ServerKey::None => 0,
        ServerKey::Asked => FLAG_ASKS,
        ServerKey::Known(_) => FLAG_KNOWS,
    };
    let named = if offer.identity.is_some() { FLAG_NAMED } else { 0 };
    check(offer)?;
    if named != 0 && server == 0 {
        return Err(OpenError::Config(
            "a client with a static key needs the server's; pin it, or ask for it",
        ));
    }
    Ok(keyed | sealed | server | named)
}

/// What goes together at neither end.
fn check(offer: &Offer) -> Result<(), OpenError> {
    let is_static = offer.identity.is_some() || offer.server != ServerKey::None;
    if offer.key.is_some() && is_static {
        return Err(OpenError::Config(
            "a pre-shared key and static keys exclude each other; configure one of the two",
        ));
    }
    if offer.clients.is_some() && offer.identity.is_none() {
        return Err(OpenError::Config(
            "a server that lists its clients' static keys needs one of its own",
        ));
    }
    Ok(())
}

fn noise(
    offer: &Offer,
    pattern: &str,
    seed: [u8; KEY_BYTES],
    prologue: &[u8],
    initiator: bool,
) -> Result<HandshakeState, snow::Error> {
    let resolver = Box::new(SeededResolver { seed });
    let mut builder = Builder::with_resolver(pattern.parse()?, resolver).prologue(prologue)?;
    if let Some(key) = &offer.key {
        builder = builder.psk(0, &key.0)?;
    }
    if let Some(identity) = &offer.identity {
        builder = builder.local_private_key(identity.private())?;
    }
    if !initiator {
        return builder.build_responder();
    }
    if let ServerKey::Known(key) = &offer.server {
        builder = builder.remote_public_key(&key.0)?;
    }
    builder.build_initiator()
}

fn units(window: u64) -> u16 {
    (window.min(WINDOW_WIRE_MAX_BYTES) / WINDOW_UNIT_BYTES) as u16
}

fn finish(
    mut noise: HandshakeState,
    id: SessionId,
    window: u16,
    shares: bool,
    cipher: Option<Cipher>,
) -> (Opened, Vec<u8>) {
    let transcript = noise.get_handshake_hash().to_vec();
    let (one, two) = noise.dangerously_get_raw_split();
    let opened = Opened {
        id,
        secret: Secret::derive((&one, &two), &transcript),
        window: u64::from(window) * WINDOW_UNIT_BYTES,
        grace: Duration::ZERO,
        addrs: Vec::new(),
        peer: remote(&noise),
        shares,
        cipher,
        keys: None,
    };
    (opened, transcript)
}

fn remote(noise: &HandshakeState) -> Option<PublicKey> {
    noise.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey)
}

const CONFIRM_LABEL: &str = "open confirm";

impl OpenClient {
    /// Begins. `seed` is 32 bytes of fresh randomness. Gives the OPEN message to send.
    pub fn start(offer: &Offer, seed: [u8; KEY_BYTES]) -> Result<(Self, Vec<u8>), OpenError> {
        let flags = client_flags(offer)?;
        let pattern = pattern(flags).ok_or(OpenError::Config("no such combination of keys"))?;
        let aes = flags & FLAG_SEALED != 0 && offer.aes;
        let features =
            if aes { FEATURE_AES } else { 0 } | if offer.share { FEATURE_SHARE } else { 0 };
        let clear = Writer::new(HelloKind::Open).u32(features).u16(units(offer.window)).u16(flags);
        let mut noise = noise(offer, pattern, seed, prologue(clear.so_far()), true)
            .map_err(OpenError::Crypto)?;
        let mut buf = [0; 128];
        let n = noise.write_message(&[], &mut buf).map_err(OpenError::Crypto)?;
        Ok((Self { noise: Box::new(noise), flags, features }, clear.bytes(&buf[..n]).finish()))
    }

    /// Takes the server's answer. Gives the session and the CONFIRM message to send; frames may
    /// follow it at once.
    pub fn answered(mut self, message: &[u8]) -> Result<(Opened, Vec<u8>), OpenError> {
        let (kind, body) = split(message)?;
        if kind == HelloKind::Reject {
            return Err(OpenError::Refused(Reject::decode(message)?));
        }
        if kind != HelloKind::OpenOk {
            return Err(HelloError::Malformed.into());
        }
        let mut payload = [0; HELLO_MAX_BYTES];
        let n = self
            .noise
            .read_message(body, &mut payload)
            .map_err(|error| unreadable(self.flags, error))?;
        let mut reader = Reader::body(&payload[..n]);
        let id = SessionId(reader.array()?);
        let window = reader.u16()?;
        let grace = Duration::from_millis(u64::from(reader.u32()?));
        let shares = reader.u32()? & FEATURE_SHARE != 0;
        if shares && self.features & FEATURE_SHARE == 0 {
            return Err(HelloError::Malformed.into());
        }
        let cipher = if self.flags & FLAG_SEALED != 0 {
            let cipher = Cipher::from_wire(reader.u8()?).ok_or(HelloError::Malformed)?;
            if cipher == Cipher::Aes256Gcm && self.features & FEATURE_AES == 0 {
                return Err(HelloError::Malformed.into());
            }
            Some(cipher)
        } else {
            None
        };
        let addrs = decode_addrs(reader.rest())?;
        let (mut opened, transcript) = finish(*self.noise, id, window, shares, cipher);
        (opened.grace, opened.addrs) = (grace, addrs);
        opened.keys = opened.epoch_keys(&transcript);
        let mac = opened.secret.mac(CONFIRM_LABEL, &[&transcript, &id.0]);
        Ok((opened, confirm(&mac)))
    }
}

/// What it means that the peer's Noise message cannot be read.
fn unreadable(flags: u16, error: snow::Error) -> OpenError {
    if flags & FLAG_KEYED != 0 {
        OpenError::Key
    } else if flags & FLAG_KNOWS != 0 {
        OpenError::Pin
    } else {
        OpenError::Crypto(error)
    }
}

/// All clear fields in front of the Noise message; the length field in the envelope is still zero.
fn prologue(clear: &[u8]) -> &[u8] {
    clear
}

impl Opened {
    fn without_keys(&self) -> Self {
        let (secret, addrs) = (self.secret.clone(), self.addrs.clone());
        Self { secret, addrs, keys: None, ..*self }
    }

    fn epoch_keys(&self, transcript: &[u8]) -> Option<EpochKeys> {
        let parts: [&[u8]; 2] = [transcript, &self.id.0];
        self.cipher.map(|cipher| EpochKeys::of_open(&self.secret, cipher, &parts))
    }
}

impl OpenServer {
    /// Takes an OPEN and names the session `id`. `seed` is 32 bytes of fresh randomness. Gives the
    /// OPEN_OK message to send.
    pub fn answer(
        offer: &Offer,
        message: &[u8],
        id: SessionId,
        seed: [u8; KEY_BYTES],
    ) -> Result<(Self, Vec<u8>), OpenError> {
        let mut reader = Reader::open(message, HelloKind::Open)?;
        let features = reader.u32()?;
        let window = reader.u16()?;
        let flags = reader.u16()?;
        let first = reader.rest();
        let pattern = admit(offer, flags, window)?;
        let clear = Writer::new(HelloKind::Open).u32(features).u16(window).u16(flags);
        let mut noise = noise(offer, pattern, seed, prologue(clear.so_far()), false)
            .map_err(OpenError::Crypto)?;
        let mut empty = [0; HELLO_MAX_BYTES];
        noise.read_message(first, &mut empty).map_err(|error| unreadable(flags, error))?;
        if let Some(clients) = &offer.clients {
            let client = remote(&noise).ok_or(OpenError::Key)?;
            if !clients.contains(&client) {
                return Err(OpenError::Stranger(client));
            }
        }
        let cipher = (flags & FLAG_SEALED != 0).then(|| {
            let fast = offer.aes && features & FEATURE_AES != 0;
            if fast { Cipher::Aes256Gcm } else { Cipher::Chacha20Poly1305 }
        });
        let grace_ms = u32::try_from(offer.grace.as_millis()).unwrap_or(u32::MAX);
        let shares = offer.share && features & FEATURE_SHARE != 0;
        let agreed = if shares { FEATURE_SHARE } else { 0 };
        let mut payload =
            Writer::body().bytes(&id.0).u16(units(offer.window)).u32(grace_ms).u32(agreed);
        if let Some(cipher) = cipher {
            payload = payload.u8(cipher as u8);
        }
        let payload = payload.bytes(&encode_addrs(&offer.addrs)).into_body();
        let mut buf = [0; HELLO_MAX_BYTES];
        let n = noise.write_message(&payload, &mut buf).map_err(OpenError::Crypto)?;
        let (opened, transcript) = finish(noise, id, window, shares, cipher);
        let answer = Writer::new(HelloKind::OpenOk).bytes(&buf[..n]).finish();
        Ok((Self { opened, transcript, is_used: false }, answer))
    }

    /// The name that the session will have.
    pub fn id(&self) -> SessionId {
        self.opened.id
    }

    /// What will seal the session's records; none if they are clear.
    pub fn cipher(&self) -> Option<Cipher> {
        self.opened.cipher
    }

    /// Answers a RESUME of a session whose CONFIRM has not come; nothing has changed yet.
    pub fn answer_resume(
        &self,
        message: &[u8],
        nonce: [u8; KEY_BYTES],
    ) -> Result<(ResumeServer, Vec<u8>), ResumeError> {
        ResumeServer::answer(&self.opened.secret, 1, message, 0, nonce)
    }

    /// Takes the CONFIRM of a resume that [`Self::answer_resume`] answered; now there is a session.
    /// The same resume and message then go to `Control::confirm`, which gives the epoch, and this
    /// value may go. A wrong message leaves it as it was: it may come from a stranger.
    pub fn resumed(&self, pending: &ResumeServer, message: &[u8]) -> Result<Opened, ResumeError> {
        pending.clone().confirmed(&self.opened.secret, 1, message)?;
        Ok(self.opened.without_keys())
    }

    /// Takes the CONFIRM; only now there is a session, and only once. A wrong message leaves this
    /// value as it was, to be kept for a resume: the client has a session, and it may have been
    /// somebody on the path who changed the message.
    pub fn confirmed(&mut self, message: &[u8]) -> Result<Opened, OpenError> {
        let mac = Reader::open(message, HelloKind::Confirm)?.rest();
        let opened = &self.opened;
        let parts: [&[u8]; 2] = [&self.transcript, &opened.id.0];
        if self.is_used || !opened.secret.verify(CONFIRM_LABEL, &parts, mac) {
            return Err(OpenError::Proof);
        }
        self.is_used = true;
        let keys = opened.epoch_keys(&self.transcript);
        Ok(Opened { keys, ..opened.without_keys() })
    }
}

/// The Noise pattern of an OPEN with these fields, if the server takes it.
fn admit(offer: &Offer, flags: u16, window: u16) -> Result<&'static str, OpenError> {
    check(offer)?;
    let differ = |flag: u16, ours: bool| (flags & flag != 0) != ours;
    if differ(FLAG_KEYED, offer.key.is_some())
        || differ(FLAG_ASKS | FLAG_KNOWS, offer.identity.is_some())
        || offer.clients.is_some() && flags & FLAG_NAMED == 0
    {
        return Err(OpenError::Key);
    }
    match (offer.sealing, flags & FLAG_SEALED != 0) {
        (Sealing::Never, true) | (Sealing::Always, false) => return Err(OpenError::Sealing),
        _ => {}
    }
    if window == 0 {
        return Err(HelloError::Malformed.into());
    }
    Ok(pattern(flags).ok_or(HelloError::Malformed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::ResumeClient;

    fn offer(key: Option<u8>) -> Offer {
        Offer {
            key: key.map(|byte| PresharedKey([byte; KEY_BYTES])),
            window: 256 * 1024,
            grace: Duration::from_secs(90),
            addrs: vec!["127.0.0.1:80".parse().expect("an address")],
            ..Offer::default()
        }
    }

    fn open(client: &Offer, server: &Offer) -> Result<(Opened, Opened), OpenError> {
        let id = SessionId::new(1, 2);
        let (c, open) = OpenClient::start(client, [1; 32])?;
        let (mut s, open_ok) = OpenServer::answer(server, &open, id, [2; 32])?;
        let (at_client, confirm) = c.answered(&open_ok)?;
        Ok((at_client, s.confirmed(&confirm)?))
    }

    #[test]
    fn both_ends_share_a_secret_and_know_each_other() {
        for key in [None, Some(9)] {
            let (c, s) = open(&offer(key), &offer(key)).expect("opens");
            assert_eq!((c.id, &c.secret), (s.id, &s.secret));
            assert_eq!((c.window, s.window), (256 * 1024, 256 * 1024));
            assert_eq!(c.grace, Duration::from_secs(90));
            assert_eq!(c.addrs.len(), 1);
        }
    }

    #[test]
    fn a_session_is_shared_only_if_both_ends_would() {
        for (ours, theirs) in [(false, false), (false, true), (true, false), (true, true)] {
            let client = Offer { share: ours, ..offer(None) };
            let server = Offer { share: theirs, ..offer(None) };
            let (c, s) = open(&client, &server).expect("opens");
            assert_eq!((c.shares, s.shares), (ours && theirs, ours && theirs));
            // It is the same for one whose CONFIRM was lost, and which begins with a resume.
            let (_, open) = OpenClient::start(&client, [1; 32]).expect("starts");
            let id = SessionId::new(1, 2);
            let (s, _) = OpenServer::answer(&server, &open, id, [2; 32]).expect("answers");
            let (resuming, resume) = ResumeClient::start(id, &s.opened.secret, 2, 0, [3; 32]);
            let (pending, ok) = s.answer_resume(&resume, [4; 32]).expect("answers");
            let (_, confirm) = resuming.answered(&s.opened.secret, &ok).expect("verifies");
            let late = s.resumed(&pending, &confirm).expect("begins");
            assert_eq!(late.shares, ours && theirs);
        }
    }

    /// What a client makes of an OPEN_OK with these features.
    fn answer_with(client: &Offer, features: u32) -> Result<Opened, OpenError> {
        let (c, open) = OpenClient::start(client, [1; 32])?;
        let pattern = pattern(0).expect("a pattern");
        // Of the prologue the envelope's length is no part.
        let mut clear = open[..16].to_vec();
        clear[6..8].fill(0);
        let mut noise = noise(&offer(None), pattern, [2; 32], &clear, false).expect("a state");
        noise.read_message(&open[16..], &mut [0; 64]).expect("reads");
        let payload = Writer::body().bytes(&[7; 16]).u16(64).u32(0).u32(features).into_body();
        let mut buf = [0; HELLO_MAX_BYTES];
        let n = noise.write_message(&payload, &mut buf).expect("writes");
        let message = Writer::new(HelloKind::OpenOk).bytes(&buf[..n]).finish();
        c.answered(&message).map(|(opened, _)| opened)
    }

    #[test]
    fn a_server_that_shares_unasked_is_refused_and_features_to_come_are_ignored() {
        let shy = offer(None);
        let sharing = Offer { share: true, ..offer(None) };
        assert!(matches!(
            answer_with(&shy, FEATURE_SHARE),
            Err(OpenError::Hello(HelloError::Malformed))
        ));
        assert!(answer_with(&sharing, FEATURE_SHARE).is_ok_and(|opened| opened.shares));
        assert!(answer_with(&shy, !FEATURE_SHARE).is_ok_and(|opened| !opened.shares));
        assert!(answer_with(&sharing, !FEATURE_SHARE).is_ok_and(|opened| !opened.shares));
        assert!(answer_with(&sharing, !0).is_ok_and(|opened| opened.shares));
    }

    #[test]
    fn nobody_without_the_key_opens() {
        for (client, server) in [(None, Some(1)), (Some(1), None), (Some(1), Some(2))] {
            assert!(matches!(open(&offer(client), &offer(server)), Err(OpenError::Key)));
        }
    }

    #[test]
    fn a_recorded_open_opens_nothing() {
        let (c, open) = OpenClient::start(&offer(Some(1)), [1; 32]).expect("starts");
        let id = SessionId::new(1, 2);
        let (mut s, open_ok) =
            OpenServer::answer(&offer(Some(1)), &open, id, [2; 32]).expect("answers");
        let (_, confirm) = c.answered(&open_ok).expect("verifies");
        // The attacker replays OPEN and CONFIRM; the server's fresh ephemeral makes them differ.
        let (mut again, _) =
            OpenServer::answer(&offer(Some(1)), &open, id, [3; 32]).expect("answers");
        assert!(matches!(again.confirmed(&confirm), Err(OpenError::Proof)));
        assert!(s.confirmed(&confirm).is_ok());
        assert!(matches!(s.confirmed(&confirm), Err(OpenError::Proof)), "a session of its own");
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (_, open) = OpenClient::start(&offer(None), [1; 32]).expect("starts");
        for at in 0..open.len() {
            let (c, _) = OpenClient::start(&offer(None), [1; 32]).expect("starts");
            let mut bad = open.clone();
            bad[at] ^= 0x10;
            let id = SessionId::new(1, 2);
            let Ok((mut s, open_ok)) = OpenServer::answer(&offer(None), &bad, id, [2; 32]) else {
                continue;
            };
            let Ok((_, confirm)) = c.answered(&open_ok) else { continue };
            assert!(s.confirmed(&confirm).is_err(), "byte {at}");
        }
    }
}
