//! A session between its connections: epochs, progress, and what it answers to a resume
//! (PROTOCOL 3.2, 6).

use crate::limits::STALE_RESUMES_MAX;
use crate::redial::Redial;
use crate::resume::{Reason, Reject, ResumeClient, ResumeError, ResumeServer};
use crate::seal::Cipher;
use crate::secret::{KEY_BYTES, Secret, SessionId};
use crate::snapshot::{In, Out};

/// Which end this is. Only the client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dials and redials.
    Client,
    /// Waits for it.
    Server,
}

/// The two directions' offsets at one moment, as the control part needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// What of ours has arrived at the peer: the highest offset that it has quoted in a resume or
    /// confirmed (`Sender::delivered`).
    pub acked: u64,
    /// The next byte of the peer's that we lack.
    pub receive: u64,
    /// True when the peer lacks bytes that its window allows (`Sender::is_expecting`): a fault that
    /// keeps these from advancing is a real one. Bytes that have arrived and wait for the peer's
    /// program are not expected, or a reader that pauses would end the session.
    pub expecting: bool,
}

/// What remains of a session that has ended: enough to answer a late resume.
#[derive(Clone, Debug)]
pub struct Tombstone {
    /// The session's secret.
    pub secret: Secret,
    /// Why it ended.
    pub reason: Reason,
    /// What of the peer's bytes was consumed, its FIN included.
    pub offset: u64,
}

impl Tombstone {
    /// The answer to a resume, or `None` when the resume proves nothing itself.
    pub fn answer(&self, resume: &[u8]) -> Option<Reject> {
        // The proof is checked so that strangers cannot learn what has ended.
        ResumeServer::answer(&self.secret, 0, resume, 0, [0; KEY_BYTES]).ok()?;
        Some(Reject::proven(self.reason, self.offset, &self.secret, resume))
    }
}

/// The part of a session that belongs to no direction.
#[derive(Debug)]
pub struct Control {
    /// Which end this is.
    pub role: Role,
    /// The session's name.
    pub id: SessionId,
    /// What the two ends share.
    pub secret: Secret,
    /// What seals the records of a sealed session.
    pub cipher: Option<Cipher>,
    /// Back-off of the redials.
    pub redial: Redial,
    confirmed: u64,
    attempted: u64,
    last: Option<(u64, u64)>,
    stale: u32,
    resumes: u64,
}

impl Control {
    /// A session that has just opened: epoch 1 stands.
    pub fn new(role: Role, id: SessionId, secret: Secret) -> Self {
        Self {
            role,
            id,
            secret,
            cipher: None,
            redial: Redial::default(),
            confirmed: 1,
            attempted: 1,
            last: None,
            stale: 0,
            resumes: 0,
        }
    }

    /// The epoch that stands, or stood last.
    pub fn epoch(&self) -> u64 {
        self.confirmed
    }

    /// Server: the session's first connection that stands is that of `epoch`, as the one that it
    /// was opened on died before its CONFIRM came.
    pub fn stands_at(&mut self, epoch: u64) {
        self.confirmed = self.confirmed.max(epoch);
        self.attempted = self.attempted.max(epoch);
    }

    /// How often the session was resumed.
    pub fn resumes(&self) -> u64 {
        self.resumes
    }

    /// Client: begins a resume. The epoch is one above the last *attempted*, so that an attempt
    /// whose end nobody knows can never be mistaken for the next.
    pub fn resume(&mut self, receive: u64, nonce: [u8; KEY_BYTES]) -> (ResumeClient, Vec<u8>) {
        self.attempted += 1;
        ResumeClient::start(self.id, &self.secret, self.attempted, receive, nonce)
    }

    /// Client: the server's RESUME_OK to the last attempt was verified.
    pub fn resumed(&mut self, offsets: Offsets) -> Result<u64, StaleError> {
        self.enter(self.attempted, offsets)
    }

    /// Client: the server's RESUME_OK to the attempt of `epoch` was verified; others may have been
    /// begun since.
    pub fn resumed_as(&mut self, epoch: u64, offsets: Offsets) -> Result<u64, StaleError> {
        debug_assert!(epoch <= self.attempted);
        self.enter(epoch, offsets)
    }

    /// Server: answers a RESUME; nothing has changed yet.
    pub fn answer(
        &self,
        message: &[u8],
        receive: u64,
        nonce: [u8; KEY_BYTES],
    ) -> Result<(ResumeServer, Vec<u8>), ResumeError> {
        ResumeServer::answer(&self.secret, self.confirmed, message, receive, nonce)
    }

    /// Server: takes a CONFIRM. Gives the offset at which the peer wants us to go on; the old
    /// epoch, if any, ends now.
    pub fn confirm(
        &mut self,
        pending: ResumeServer,
        message: &[u8],
        offsets: Offsets,
    ) -> Result<u64, ResumeError> {
        let (epoch, receive) = pending.confirmed(&self.secret, self.confirmed, message)?;
        self.attempted = self.attempted.max(epoch);
        // The server waits for the client, whatever the progress: it is the client that gives up.
        let _stale = self.enter(epoch, offsets);
        Ok(receive)
    }

    fn enter(&mut self, epoch: u64, offsets: Offsets) -> Result<u64, StaleError> {
        let now = (offsets.acked, offsets.receive);
        let progressed = self.last.is_none_or(|last| now > last && now.0 >= last.0);
        if progressed || self.last.is_some_and(|last| now.1 > last.1) {
            self.stale = 0;
            self.redial.progress();
        } else if offsets.expecting {
            self.stale += 1;
        }
        self.last = Some(now);
        self.confirmed = epoch;
        self.resumes += 1;
        if self.stale >= STALE_RESUMES_MAX {
            return Err(StaleError { resumes: self.stale });
        }
        Ok(epoch)
    }

    /// True when many resumes in a row brought nothing. The client gives up when
    /// [`Self::resumed`] says so; a server that alone has bytes to send asks here.
    pub fn is_stale(&self) -> bool {
        self.stale >= STALE_RESUMES_MAX
    }

    /// An offset advanced while the connection stood.
    pub fn progress(&mut self) {
        self.stale = 0;
        self.redial.progress();
    }

    /// Writes what changes while a session lives, for a hand-over to another process; role, name
    /// and secret are known there.
    pub fn snapshot(&self, out: &mut Out) {
        for value in [self.confirmed, self.attempted, u64::from(self.stale), self.resumes] {
            out.u64(value);
        }
        out.flag(self.last.is_some());
        let (acked, receive) = self.last.unwrap_or_default();
        out.u64(acked);
        out.u64(receive);
        out.option(self.cipher.map(|cipher| cipher as u64));
    }

    /// Takes that over; false, and nothing is changed, when it cannot be.
    pub fn restore(&mut self, from: &mut In<'_>) -> bool {
        let mut read = || {
            let (confirmed, attempted) = (from.u64()?, from.u64()?);
            let (stale, resumes, has_last) = (from.number()?, from.u64()?, from.flag()?);
            let last = (from.u64()?, from.u64()?);
            let cipher = match from.option()? {
                Some(code) => Some(Cipher::from_wire(u8::try_from(code).ok()?)?),
                None => None,
            };
            let is_sound = confirmed <= attempted && attempted < u64::MAX / 2;
            let counts = (confirmed, attempted, stale, resumes);
            is_sound.then_some((counts, has_last.then_some(last), cipher))
        };
        let Some((counts, last, cipher)) = read() else { return false };
        (self.confirmed, self.attempted, self.stale, self.resumes) = counts;
        (self.last, self.cipher) = (last, cipher);
        true
    }

    /// What to keep when the session ends. `offset` is what of the peer's bytes was consumed.
    pub fn bury(&self, reason: Reason, offset: u64) -> Tombstone {
        Tombstone { secret: self.secret.clone(), reason, offset }
    }
}

/// Many resumes in a row brought nothing: something on the path kills the same bytes each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{resumes} resumes in a row brought no progress; something on the path ends every connection"
)]
pub struct StaleError {
    /// How many.
    pub resumes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> Control {
        Control::new(Role::Client, SessionId([1; 16]), Secret::from_bytes([2; 32]))
    }

    fn stuck() -> Offsets {
        Offsets { acked: 5, receive: 5, expecting: true }
    }

    #[test]
    fn resumes_without_progress_end_the_session_at_the_limit_and_not_before() {
        let mut control = control();
        for _ in 0..STALE_RESUMES_MAX {
            control.resume(5, [0; 32]);
            assert!(control.resumed(stuck()).is_ok());
        }
        control.resume(5, [0; 32]);
        assert!(control.resumed(stuck()).is_err());
    }

    #[test]
    fn a_reader_that_pauses_for_an_hour_does_not_end_the_session() {
        let mut control = control();
        for _ in 0..STALE_RESUMES_MAX * 3 {
            control.resume(5, [0; 32]);
            assert!(control.resumed(Offsets { expecting: false, ..stuck() }).is_ok());
        }
    }

    #[test]
    fn progress_in_either_direction_counts() {
        let mut control = control();
        for step in 0..u64::from(STALE_RESUMES_MAX) * 3 {
            control.resume(5, [0; 32]);
            let offsets =
                Offsets { acked: 5 + step / 2, receive: 5 + step.div_ceil(2), expecting: true };
            assert!(control.resumed(offsets).is_ok());
        }
    }

    #[test]
    fn a_tombstone_answers_only_those_who_prove_themselves() {
        let mut control = control();
        let (_, resume) = control.resume(5, [0; 32]);
        let tombstone = control.bury(Reason::Closed, 9);
        let reject = tombstone.answer(&resume).expect("proven");
        assert!(reject.is_proven(&control.secret, &resume));
        assert_eq!(reject.offset, 9);
        let other = Secret::from_bytes([3; 32]);
        let (_, forged) = ResumeClient::start(control.id, &other, 9, 0, [0; 32]);
        assert!(tombstone.answer(&forged).is_none());
    }
}
