//! What the engine keeps of each session that this process answers for.

use std::sync::Arc;
use std::time::Instant;

use eversock_proto::secret::SessionId;

use super::{check, end, fault, put_off};
use crate::socket::Socket;

/// A session that this process answers for.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) socket: Arc<Socket>,
    pub(super) id: SessionId,
    /// Set once the program has closed it.
    pub(super) linger: Option<Box<end::Linger>>,
    /// All is done on our side; one more dial tells the server that its FIN has come.
    pub(super) last_call: bool,
    /// It has failed; one more dial tells the server so.
    pub(super) tells: bool,
    pub(super) trouble: Option<Box<Trouble>>,
}

/// What few sessions have, or only those whose connection gave reason to worry: made at its first
/// use.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// When a detached server session is given up, or a client's redialling ends.
    pub(super) expires: Option<Instant>,
    /// Since when the peer's host says that nobody is there.
    pub(super) refused_since: Option<Instant>,
    /// For the end-to-end check.
    pub(super) quiet: fault::Quiet,
    /// Back-off of the redials that the peer's GOAWAY asks for.
    pub(super) away: check::Away,
    /// A record that has begun and does not go on.
    pub(super) halted: Option<check::Halted>,
    /// A fault that cannot be dealt with yet.
    pub(super) put_off: Option<put_off::PutOff>,
}

impl Owned {
    pub(super) fn new(socket: Arc<Socket>, id: SessionId) -> Box<Self> {
        Box::new(Self { socket, id, linger: None, last_call: false, tells: false, trouble: None })
    }

    pub(super) fn expires(&self) -> Option<Instant> {
        self.trouble.as_ref().and_then(|trouble| trouble.expires)
    }

    pub(super) fn trouble_mut(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// Nothing of its output is outstanding: an idle session keeps no more than it must.
    pub(super) fn calm(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.quiet = fault::Quiet::default();
            let Trouble { expires, refused_since, quiet: _, away, halted, put_off } = &**trouble;
            let is_timed = expires.is_some() || refused_since.is_some();
            if !is_timed && !away.is_known() && halted.is_none() && put_off.is_none() {
                self.trouble = None;
            }
        }
    }
}
