//! How a new connection takes a session over: RESUME, RESUME_OK, CONFIRM (PROTOCOL 3.2).
//!
//! The MACs bind the session's secret, the whole transcript and the role. Nothing acts before
//! CONFIRM: a recorded RESUME gets an answer, but disturbs nothing.

use std::time::Duration;

use thiserror::Error;

use crate::seal::{Cipher, EpochKeys};
use crate::secret::{KEY_BYTES, Secret, SessionId};
use crate::wire::hello::{HelloError, HelloKind, Reader, Writer, confirm, split};

const CLIENT_LABEL: &str = "resume client";
const SERVER_LABEL: &str = "resume server";
const CONFIRM_LABEL: &str = "resume confirm";
const REJECT_LABEL: &str = "resume reject";

/// Why a server says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// No such session here. Cannot be authenticated; retryable for a while, as the server may be
    /// restarting.
    UnknownSession = 1,
    /// Bytes are missing for good.
    DataLost = 2,
    /// The session was given up after its grace.
    Expired = 3,
    /// The session has ended; `offset` says up to where our bytes were delivered.
    Closed = 4,
    /// An epoch that is not above the confirmed one.
    OldEpoch = 5,
    /// No room now; come again after `retry_after`.
    Busy = 6,
    /// Keys differ, or only one side has one.
    Key = 7,
    /// The server's program reset the session.
    Reset = 8,
    /// One side wants the session sealed, the other does not.
    Sealing = 9,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: Reason,
    /// When to come again, where that makes sense.
    pub retry_after: Duration,
    /// With [`Reason::Closed`]: the offset up to which the server has consumed what we sent.
    pub offset: u64,
    mac: [u8; KEY_BYTES],
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.reason {
            Reason::UnknownSession => "it does not know the session",
            Reason::DataLost => "bytes are missing",
            Reason::Expired => "the session has expired",
            Reason::Closed => "the session is closed",
            Reason::OldEpoch => "the epoch is an old one",
            Reason::Busy => "it is busy",
            Reason::Key => "keys differ",
            Reason::Reset => "the session was reset",
            Reason::Sealing => "one side wants the session sealed, the other does not",
        })
    }
}

impl Reject {
    /// A refusal that proves nothing; the client may retry.
    pub fn plain(reason: Reason, retry_after: Duration) -> Self {
        Self { reason, retry_after, offset: 0, mac: [0; KEY_BYTES] }
    }

    /// A refusal that proves to come from the session's other end, as the answer to `resume`.
    pub fn proven(reason: Reason, offset: u64, secret: &Secret, resume: &[u8]) -> Self {
        let mut reject = Self::plain(reason, Duration::ZERO);
        reject.offset = offset;
        reject.mac = secret.mac(REJECT_LABEL, &[&reject.fields(), resume]);
        reject
    }

    /// True when the refusal answers `resume` and comes from the session's other end.
    pub fn is_proven(&self, secret: &Secret, resume: &[u8]) -> bool {
        secret.verify(REJECT_LABEL, &[&self.fields(), resume], &self.mac)
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new(HelloKind::Reject).bytes(&self.fields()).bytes(&self.mac).finish()
    }

    fn fields(&self) -> Vec<u8> {
        let millis = u32::try_from(self.retry_after.as_millis()).unwrap_or(u32::MAX);
        Writer::body().u8(self.reason as u8).u32(millis).u64(self.offset).into_body()
    }

    /// Reads a message.
    pub fn decode(message: &[u8]) -> Result<Self, HelloError> {
        let mut reader = Reader::open(message, HelloKind::Reject)?;
        let reason = match reader.u8()? {
            1 => Reason::UnknownSession,
            2 => Reason::DataLost,
            3 => Reason::Expired,
            4 => Reason::Closed,
            5 => Reason::OldEpoch,
            6 => Reason::Busy,
            7 => Reason::Key,
            8 => Reason::Reset,
            9 => Reason::Sealing,
            _ => return Err(HelloError::Malformed),
        };
        let retry_after = Duration::from_millis(u64::from(reader.u32()?));
        let offset = reader.u64()?;
        let mac = reader.array()?;
        reader.end()?;
        Ok(Self { reason, retry_after, offset, mac })
    }
}

/// Why a resume did not come about.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// What came is no eversock message, or not the one expected.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The MAC is wrong: not the session's other end.
    #[error("the peer could not prove that it holds the session")]
    Proof,
    /// Not above the epoch that is confirmed.
    #[error("epoch {got} is not above the confirmed epoch {confirmed}")]
    OldEpoch {
        /// The epoch asked for.
        got: u64,
        /// The epoch that stands.
        confirmed: u64,
    },
    /// The server said no.
    #[error("the peer refused: {0}")]
    Refused(Reject),
}

/// The client's side of a resume.
#[derive(Debug)]
pub struct ResumeClient {
    epoch: u64,
    message: Vec<u8>,
}

impl ResumeClient {
    /// Asks for `epoch`, the last attempted one plus one. `nonce` is fresh randomness, `receive`
    /// the
    /// offset of the next byte we lack. Gives the RESUME message to send.
    pub fn start(
        id: SessionId,
        secret: &Secret,
        epoch: u64,
        receive: u64,
        nonce: [u8; KEY_BYTES],
    ) -> (Self, Vec<u8>) {
        let fields = Writer::body().bytes(&id.0).u64(epoch).u64(receive).bytes(&nonce).into_body();
        let mac = secret.mac(CLIENT_LABEL, &[&fields]);
        let message = Writer::new(HelloKind::Resume).bytes(&fields).bytes(&mac).finish();
        (Self { epoch, message: message.clone() }, message)
    }

    /// The epoch asked for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The message that was sent.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Takes the server's answer. Gives the offset at which the peer wants us to go on, and the
    /// CONFIRM message to send; frames may follow it at once.
    pub fn answered(&self, secret: &Secret, answer: &[u8]) -> Result<(u64, Vec<u8>), ResumeError> {
        if split(answer)?.0 == HelloKind::Reject {
            return Err(ResumeError::Refused(Reject::decode(answer)?));
        }
        let mut reader = Reader::open(answer, HelloKind::ResumeOk)?;
        let fields = reader.bytes(8 + 8 + KEY_BYTES)?;
        if !secret.verify(SERVER_LABEL, &[&self.message, fields], reader.rest()) {
            return Err(ResumeError::Proof);
        }
        let mut reader = Reader::body(fields);
        let epoch = reader.u64()?;
        let receive = reader.u64()?;
        if epoch != self.epoch {
            return Err(ResumeError::Proof);
        }
        let mac = secret.mac(CONFIRM_LABEL, &[&self.message, answer]);
        Ok((receive, confirm(&mac)))
    }

    /// The keys of the new epoch of a sealed session, once [`Self::answered`] has verified this
    /// answer.
    pub fn keys(&self, secret: &Secret, cipher: Cipher, answer: &[u8]) -> EpochKeys {
        EpochKeys::of_resume(secret, cipher, &[&self.message, answer])
    }
}

/// The server's side of a resume, between RESUME_OK and CONFIRM. Several may stand at once.
#[derive(Clone, Debug)]
pub struct ResumeServer {
    epoch: u64,
    peer_receive: u64,
    resume: Vec<u8>,
    answer: Vec<u8>,
}

impl ResumeServer {
    /// Takes a RESUME for the session. `confirmed` is the epoch that stands. Gives the RESUME_OK
    /// message to send; nothing has changed yet.
    pub fn answer(
        secret: &Secret,
        confirmed: u64,
        message: &[u8],
        receive: u64,
        nonce: [u8; KEY_BYTES],
    ) -> Result<(Self, Vec<u8>), ResumeError> {
        let mut reader = Reader::open(message, HelloKind::Resume)?;
        let fields = reader.bytes(16 + 8 + 8 + KEY_BYTES)?;
        if !secret.verify(CLIENT_LABEL, &[fields], reader.rest()) {
            return Err(ResumeError::Proof);
        }
        let mut reader = Reader::body(fields);
        let _id = reader.bytes(16)?;
        let epoch = reader.u64()?;
        let peer_receive = reader.u64()?;
        if epoch <= confirmed {
            return Err(ResumeError::OldEpoch { got: epoch, confirmed });
        }
        let fields = Writer::body().u64(epoch).u64(receive).bytes(&nonce).into_body();
        let mac = secret.mac(SERVER_LABEL, &[message, &fields]);
        let answer = Writer::new(HelloKind::ResumeOk).bytes(&fields).bytes(&mac).finish();
        let server = Self { epoch, peer_receive, resume: message.to_vec(), answer: answer.clone() };
        Ok((server, answer))
    }

    /// Takes the CONFIRM. `confirmed` is the epoch that stands now, which another resume may have
    /// raised meanwhile. Gives the new epoch and the offset at which the peer wants us to go on.
    pub fn confirmed(
        self,
        secret: &Secret,
        confirmed: u64,
        message: &[u8],
    ) -> Result<(u64, u64), ResumeError> {
        let mac = Reader::open(message, HelloKind::Confirm)?.rest();
        if !secret.verify(CONFIRM_LABEL, &[&self.resume, &self.answer], mac) {
            return Err(ResumeError::Proof);
        }
        if self.epoch <= confirmed {
            return Err(ResumeError::OldEpoch { got: self.epoch, confirmed });
        }
        Ok((self.epoch, self.peer_receive))
    }

    /// The keys of the new epoch of a sealed session. They are of no use before
    /// [`Self::confirmed`] has verified the CONFIRM.
    pub fn keys(&self, secret: &Secret, cipher: Cipher) -> EpochKeys {
        EpochKeys::of_resume(secret, cipher, &[&self.resume, &self.answer])
    }

    /// The epoch asked for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId([4; 16]);

    fn secret() -> Secret {
        Secret::from_bytes([5; KEY_BYTES])
    }

    #[test]
    fn positions_and_epoch_come_through() {
        let (client, resume) = ResumeClient::start(ID, &secret(), 3, 100, [1; 32]);
        let (server, ok) =
            ResumeServer::answer(&secret(), 2, &resume, 200, [2; 32]).expect("answers");
        let (peer, confirm) = client.answered(&secret(), &ok).expect("verifies");
        assert_eq!(peer, 200);
        assert_eq!(server.confirmed(&secret(), 2, &confirm).expect("confirms"), (3, 100));
    }

    #[test]
    fn a_changed_bit_anywhere_is_refused() {
        let (client, resume) = ResumeClient::start(ID, &secret(), 3, 100, [1; 32]);
        for bit in 0..resume.len() * 8 {
            let mut bad = resume.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ResumeServer::answer(&secret(), 2, &bad, 200, [2; 32]).is_err(), "bit {bit}");
        }
        let (_, ok) = ResumeServer::answer(&secret(), 2, &resume, 200, [2; 32]).expect("answers");
        for bit in 0..ok.len() * 8 {
            let mut bad = ok.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(client.answered(&secret(), &bad).is_err(), "bit {bit}");
        }
        let (_, confirm) = client.answered(&secret(), &ok).expect("verifies");
        for bit in 0..confirm.len() * 8 {
            let mut bad = confirm.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (server, _) =
                ResumeServer::answer(&secret(), 2, &resume, 200, [2; 32]).expect("answers");
            assert!(server.confirmed(&secret(), 2, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_recorded_resume_and_confirm_disturb_nothing() {
        let (client, resume) = ResumeClient::start(ID, &secret(), 3, 100, [1; 32]);
        let (_, ok) = ResumeServer::answer(&secret(), 2, &resume, 200, [2; 32]).expect("answers");
        let (_, confirm) = client.answered(&secret(), &ok).expect("verifies");
        let (replayed, _) =
            ResumeServer::answer(&secret(), 2, &resume, 200, [3; 32]).expect("answers");
        assert!(matches!(replayed.confirmed(&secret(), 2, &confirm), Err(ResumeError::Proof)));
        assert!(matches!(
            ResumeServer::answer(&secret(), 3, &resume, 200, [3; 32]),
            Err(ResumeError::OldEpoch { got: 3, confirmed: 3 })
        ));
    }

    #[test]
    fn the_first_valid_confirm_of_the_highest_epoch_wins() {
        let (a, resume_a) = ResumeClient::start(ID, &secret(), 3, 0, [1; 32]);
        let (b, resume_b) = ResumeClient::start(ID, &secret(), 4, 0, [2; 32]);
        let (sa, ok_a) = ResumeServer::answer(&secret(), 2, &resume_a, 0, [3; 32]).expect("a");
        let (sb, ok_b) = ResumeServer::answer(&secret(), 2, &resume_b, 0, [4; 32]).expect("b");
        let (_, confirm_a) = a.answered(&secret(), &ok_a).expect("a");
        let (_, confirm_b) = b.answered(&secret(), &ok_b).expect("b");
        assert_eq!(sb.confirmed(&secret(), 2, &confirm_b).expect("b wins").0, 4);
        assert!(matches!(
            sa.confirmed(&secret(), 4, &confirm_a),
            Err(ResumeError::OldEpoch { got: 3, confirmed: 4 })
        ));
    }

    #[test]
    fn a_refusal_is_proven_for_one_resume_only() {
        let (_, resume) = ResumeClient::start(ID, &secret(), 3, 100, [1; 32]);
        let (_, other) = ResumeClient::start(ID, &secret(), 4, 100, [2; 32]);
        let reject = Reject::proven(Reason::Closed, 77, &secret(), &resume);
        let read = Reject::decode(&reject.encode()).expect("decodes");
        assert_eq!(read, reject);
        assert!(read.is_proven(&secret(), &resume));
        assert!(!read.is_proven(&secret(), &other));
        assert!(!Reject::plain(Reason::Closed, Duration::ZERO).is_proven(&secret(), &resume));
    }

    #[test]
    fn an_answer_cannot_be_reflected() {
        let (client, resume) = ResumeClient::start(ID, &secret(), 3, 100, [1; 32]);
        assert!(client.answered(&secret(), &resume).is_err());
    }
}
