//! How a session begins: OPEN, OPEN_OK, CONFIRM (PROTOCOL 3.1).
//!
//! Noise NN, or NNpsk0 when a key is configured. Nothing acts before the third message: a recorded
//! OPEN gets an answer, but no session. The client may send its first frames right behind CONFIRM.

use core::net::SocketAddr;
use std::time::Duration;

use snow::{Builder, HandshakeState};
use thiserror::Error;

use crate::limits::{HELLO_MAX_BYTES, WINDOW_UNIT_BYTES, WINDOW_WIRE_MAX_BYTES};
use crate::resume::{Reject, ResumeError, ResumeServer};
use crate::secret::{KEY_BYTES, PresharedKey, Secret, SeededResolver, SessionId};
use crate::wire::hello::{
    HelloError, HelloKind, Reader, Writer, confirm, decode_addrs, encode_addrs, split,
};

const FLAG_KEYED: u16 = 1;

/// What each end brings to an open.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The pre-shared key, if one is configured. Then nobody without it can open or resume.
    pub key: Option<PresharedKey>,
    /// The credit that this side gives at first, in bytes.
    pub window: u64,
    /// How long this side keeps a session whose connection has gone silent.
    pub grace: Duration,
    /// Alternative addresses of this side.
    pub addrs: Vec<SocketAddr>,
}

/// A session as both ends know it after the handshake.
#[derive(Clone, Debug)]
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

/// The client's side of an open.
#[derive(Debug)]
pub struct OpenClient {
    noise: Box<HandshakeState>,
    keyed: bool,
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
}

fn noise(
    keyed: Option<&PresharedKey>,
    seed: [u8; KEY_BYTES],
    prologue: &[u8],
    initiator: bool,
) -> Result<HandshakeState, snow::Error> {
    let pattern = match keyed {
        Some(_) => "Noise_NNpsk0_25519_ChaChaPoly_SHA256",
        None => "Noise_NN_25519_ChaChaPoly_SHA256",
    };
    let resolver = Box::new(SeededResolver { seed });
    let mut builder = Builder::with_resolver(pattern.parse()?, resolver).prologue(prologue)?;
    if let Some(key) = keyed {
        builder = builder.psk(0, &key.0)?;
    }
    if initiator { builder.build_initiator() } else { builder.build_responder() }
}

fn units(window: u64) -> u16 {
    (window.min(WINDOW_WIRE_MAX_BYTES) / WINDOW_UNIT_BYTES) as u16
}

fn finish(
    mut noise: HandshakeState,
    id: SessionId,
    window: u16,
    grace: Duration,
    addrs: Vec<SocketAddr>,
) -> (Opened, Vec<u8>) {
    let transcript = noise.get_handshake_hash().to_vec();
    let (one, two) = noise.dangerously_get_raw_split();
    let secret = Secret::derive((&one, &two), &transcript);
    let window = u64::from(window) * WINDOW_UNIT_BYTES;
    (Opened { id, secret, window, grace, addrs }, transcript)
}

const CONFIRM_LABEL: &str = "open confirm";

impl OpenClient {
    /// Begins. `seed` is 32 bytes of fresh randomness. Gives the OPEN message to send.
    pub fn start(offer: &Offer, seed: [u8; KEY_BYTES]) -> Result<(Self, Vec<u8>), OpenError> {
        let flags = if offer.key.is_some() { FLAG_KEYED } else { 0 };
        let clear = Writer::new(HelloKind::Open).u32(0).u16(units(offer.window)).u16(flags);
        let mut noise = noise(offer.key.as_ref(), seed, prologue(clear.so_far()), true)
            .map_err(OpenError::Crypto)?;
        let mut buf = [0; 128];
        let n = noise.write_message(&[], &mut buf).map_err(OpenError::Crypto)?;
        let client = Self { noise: Box::new(noise), keyed: offer.key.is_some() };
        Ok((client, clear.bytes(&buf[..n]).finish()))
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
            .map_err(|error| if self.keyed { OpenError::Key } else { OpenError::Crypto(error) })?;
        let mut reader = Reader::body(&payload[..n]);
        let id = SessionId(reader.array()?);
        let window = reader.u16()?;
        let grace = Duration::from_millis(u64::from(reader.u32()?));
        let addrs = decode_addrs(reader.rest())?;
        let (opened, transcript) = finish(*self.noise, id, window, grace, addrs);
        let mac = opened.secret.mac(CONFIRM_LABEL, &[&transcript, &id.0]);
        Ok((opened, confirm(&mac)))
    }
}

/// All clear fields in front of the Noise message; the length field in the envelope is still zero.
fn prologue(clear: &[u8]) -> &[u8] {
    clear
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
        let keyed = flags & FLAG_KEYED != 0;
        if keyed != offer.key.is_some() {
            return Err(OpenError::Key);
        }
        if flags & !FLAG_KEYED != 0 || window == 0 {
            return Err(HelloError::Malformed.into());
        }
        let clear = Writer::new(HelloKind::Open).u32(features).u16(window).u16(flags);
        let mut noise = noise(offer.key.as_ref(), seed, prologue(clear.so_far()), false)
            .map_err(OpenError::Crypto)?;
        let mut empty = [0; HELLO_MAX_BYTES];
        noise
            .read_message(first, &mut empty)
            .map_err(|error| if keyed { OpenError::Key } else { OpenError::Crypto(error) })?;
        let grace_ms = u32::try_from(offer.grace.as_millis()).unwrap_or(u32::MAX);
        let payload = Writer::body()
            .bytes(&id.0)
            .u16(units(offer.window))
            .u32(grace_ms)
            .bytes(&encode_addrs(&offer.addrs))
            .into_body();
        let mut buf = [0; HELLO_MAX_BYTES];
        let n = noise.write_message(&payload, &mut buf).map_err(OpenError::Crypto)?;
        let (opened, transcript) = finish(noise, id, window, Duration::ZERO, Vec::new());
        let answer = Writer::new(HelloKind::OpenOk).bytes(&buf[..n]).finish();
        Ok((Self { opened, transcript }, answer))
    }

    /// The name that the session will have.
    pub fn id(&self) -> SessionId {
        self.opened.id
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
        Ok(self.opened.clone())
    }

    /// Takes the CONFIRM; only now there is a session.
    pub fn confirmed(self, message: &[u8]) -> Result<Opened, OpenError> {
        let mac = Reader::open(message, HelloKind::Confirm)?.rest();
        let Self { opened, transcript } = self;
        if opened.secret.verify(CONFIRM_LABEL, &[&transcript, &opened.id.0], mac) {
            Ok(opened)
        } else {
            Err(OpenError::Proof)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(key: Option<u8>) -> Offer {
        Offer {
            key: key.map(|byte| PresharedKey([byte; KEY_BYTES])),
            window: 256 * 1024,
            grace: Duration::from_secs(90),
            addrs: vec!["127.0.0.1:80".parse().expect("an address")],
        }
    }

    fn open(client: &Offer, server: &Offer) -> Result<(Opened, Opened), OpenError> {
        let id = SessionId::new(1, 2);
        let (c, open) = OpenClient::start(client, [1; 32])?;
        let (s, open_ok) = OpenServer::answer(server, &open, id, [2; 32])?;
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
    fn nobody_without_the_key_opens() {
        for (client, server) in [(None, Some(1)), (Some(1), None), (Some(1), Some(2))] {
            assert!(matches!(open(&offer(client), &offer(server)), Err(OpenError::Key)));
        }
    }

    #[test]
    fn a_recorded_open_opens_nothing() {
        let (c, open) = OpenClient::start(&offer(Some(1)), [1; 32]).expect("starts");
        let id = SessionId::new(1, 2);
        let (s, open_ok) =
            OpenServer::answer(&offer(Some(1)), &open, id, [2; 32]).expect("answers");
        let (_, confirm) = c.answered(&open_ok).expect("verifies");
        // The attacker replays OPEN and CONFIRM; the server's fresh ephemeral makes them differ.
        let (again, _) = OpenServer::answer(&offer(Some(1)), &open, id, [3; 32]).expect("answers");
        assert!(matches!(again.confirmed(&confirm), Err(OpenError::Proof)));
        assert!(s.confirmed(&confirm).is_ok());
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (_, open) = OpenClient::start(&offer(None), [1; 32]).expect("starts");
        for at in 0..open.len() {
            let (c, _) = OpenClient::start(&offer(None), [1; 32]).expect("starts");
            let mut bad = open.clone();
            bad[at] ^= 0x10;
            let id = SessionId::new(1, 2);
            let Ok((s, open_ok)) = OpenServer::answer(&offer(None), &bad, id, [2; 32]) else {
                continue;
            };
            let Ok((_, confirm)) = c.answered(&open_ok) else { continue };
            assert!(s.confirmed(&confirm).is_err(), "byte {at}");
        }
    }
}
