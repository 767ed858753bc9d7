//! Both directions and the control part of a session in one value, for those who need no
//! concurrency: both simulations (`testing`, `crates/sim`) and tests. The engine holds the same
//! three parts under locks of their own.
//!
//! Order of calls: put bytes in ([`Session::handle_bytes`]), then drain [`Session::transmit`];
//! the program's side ([`Session::read`], [`Session::write`]) may come at any time.

use core::net::SocketAddr;
use std::io::IoSlice;
use std::sync::Arc;

use crate::control::{Control, Offsets, Role};
use crate::log::Pool;
use crate::open::Opened;
use crate::recv::{Receiver, Violation};
use crate::seal::EpochKeys;
use crate::send::{ClaimError, GATHER_SLICES, Sender};
use thiserror::Error;

/// Why a connection, or the session with it, came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The bytes of the connection cannot be.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The peer confirms what was never sent.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl Fault {
    /// True when no other connection can mend it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Violation(Violation::DataLost { .. }))
    }
}

/// Where the two directions start counting, and what they may hold. Real sessions start at 0.
#[derive(Clone, Debug)]
pub struct Start {
    /// First offset of what we send.
    pub send: u64,
    /// First offset of what we receive.
    pub receive: u64,
    /// Credit that we give at first, in bytes.
    pub window: u64,
    /// Credit that we give at most, in bytes.
    pub window_max: u64,
}

/// A whole session.
#[derive(Debug)]
pub struct Session {
    /// The sending direction.
    pub tx: Sender,
    /// The receiving direction.
    pub rx: Receiver,
    /// Epochs and progress.
    pub control: Control,
    reset_by_peer: Option<u64>,
    goaway: bool,
    addrs: Option<Vec<SocketAddr>>,
}

impl Session {
    /// A session that has just opened; its first epoch begins.
    pub fn new(role: Role, opened: Opened, start: &Start, pool: Arc<Pool>) -> Self {
        let edge = start.send.saturating_add(opened.window);
        let mut rx = Receiver::new(Arc::clone(&pool), start.receive, start.window);
        rx.set_window_max(start.window_max);
        let mut session = Self {
            tx: Sender::new(pool, start.send, edge),
            rx,
            control: Control::new(role, opened.id, opened.secret),
            reset_by_peer: None,
            goaway: false,
            addrs: None,
        };
        if let Some(cipher) = opened.cipher {
            session.control.cipher = Some(cipher);
            session.tx.set_sealed();
            session.rx.set_sealed();
        }
        session.rx.begin_epoch();
        // Both sides start where they agreed to: nothing can be beyond what was sent.
        let begun = session.tx.begin_epoch(start.send);
        debug_assert!(begun.is_ok());
        if let Some(keys) = opened.keys {
            session.seal_with(keys);
        }
        session
    }

    /// The keys of the epoch that has just begun; a sealed session is silent and deaf before.
    pub fn seal_with(&mut self, keys: EpochKeys) {
        let (sealer, opener) = keys.split(self.control.role);
        self.tx.seal_with(sealer);
        self.rx.open_with(opener);
    }

    /// A new connection stands; `peer_receive` is what the peer quoted.
    pub fn begin_epoch(&mut self, peer_receive: u64) -> Result<(), ClaimError> {
        // All that the old connection told was absorbed when it came, or refused for good.
        self.rx.begin_epoch();
        self.tx.begin_epoch(peer_receive)
    }

    /// What the control part needs to know of the directions.
    pub fn offsets(&self) -> Offsets {
        Offsets {
            acked: self.tx.delivered(),
            receive: self.rx.next(),
            expecting: self.tx.is_expecting(),
        }
    }

    /// Takes bytes of the connection that stands.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let fed = self.rx.feed(bytes);
        self.digest()?;
        Ok(fed?)
    }

    /// Takes the result of one scattered read of the connection that stands straight into the
    /// program's buffer: see [`Receiver::accept`].
    pub fn accept(&mut self, buf: &mut [u8], front: usize, n: usize) -> Result<usize, Fault> {
        let taken = self.rx.accept(buf, front, n);
        if taken.is_ok_and(|payload| payload > 0) {
            self.control.progress();
        }
        self.digest()?;
        Ok(taken?)
    }

    /// The same for a sealed session: see [`Receiver::accept_records`].
    pub fn accept_records(&mut self, n: usize, out: &mut [u8]) -> Result<usize, Fault> {
        let taken = self.rx.accept_records(n, out);
        if taken.is_ok_and(|payload| payload > 0) {
            self.control.progress();
        }
        self.digest()?;
        Ok(taken?)
    }

    /// Passes on what the receiving direction has learnt.
    fn digest(&mut self) -> Result<(), Fault> {
        let (ack, edge) = self.rx.peer();
        let before = self.tx.acked();
        self.tx.absorb(ack, edge)?;
        if self.tx.acked() > before {
            self.control.progress();
        }
        let news = self.rx.take_news();
        if news.stop {
            self.tx.stop();
        }
        if news.blocked {
            self.rx.grow_window();
        }
        self.reset_by_peer = self.reset_by_peer.or(news.reset);
        self.goaway |= news.goaway;
        if news.addrs.is_some() {
            self.addrs = news.addrs;
        }
        if self.tx.is_out_of_room() {
            // Programs that write before they read would otherwise wait for each other.
            self.rx.grow_window();
        }
        self.note_acks();
        Ok(())
    }

    /// The next bytes for the connection that stands, at most `limit`; empty when there are none.
    pub fn transmit(&mut self, limit: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < limit && self.tx.prepare(self.rx.acks()) {
            let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
            let (count, _) = self.tx.gather(&mut slices);
            let before = out.len();
            for slice in &slices[..count] {
                let n = slice.len().min(limit - out.len());
                out.extend_from_slice(&slice[..n]);
            }
            let n = out.len() - before;
            debug_assert!(n > 0, "a frame is to go out and there is nothing of it");
            if n == 0 {
                break;
            }
            self.tx.sent(n);
        }
        out
    }

    /// The program writes; gives how many bytes were taken.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.tx.write(bytes)
    }

    /// The program reads; gives how many bytes came.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let n = self.rx.read_stash(out);
        if n > 0 {
            self.control.progress();
        }
        self.note_acks();
        n
    }

    /// The program has closed: what came is consumed unread, and the peer is told to stop if there
    /// was anything. Gives the number of bytes.
    pub fn discard(&mut self) -> usize {
        let n = self.rx.discard_stash();
        if n > 0 {
            self.tx.want_stop(self.rx.consumed());
        }
        self.note_acks();
        n
    }

    /// The lazy sweep: an idle side tells what it has not told yet.
    pub fn sweep(&mut self) {
        if self.is_untold() {
            self.tx.want_ack();
        }
    }

    /// The code with which the peer has reset the session.
    pub fn reset_by_peer(&self) -> Option<u64> {
        self.reset_by_peer
    }

    /// True once for each time that the peer asked to be resumed elsewhere or later.
    pub fn take_goaway(&mut self) -> bool {
        std::mem::take(&mut self.goaway)
    }

    /// The peer's alternative addresses, where it has told them since they were taken.
    pub fn take_addrs(&mut self) -> Option<Vec<SocketAddr>> {
        self.addrs.take()
    }

    /// True when the peer could be told more than it was.
    pub fn is_untold(&self) -> bool {
        self.tx.ack_is_stale(self.rx.acks())
    }

    /// True when both directions have ended and both ends know it.
    pub fn is_over(&self) -> bool {
        self.tx.is_done() && self.rx.is_at_end() && !self.is_untold()
    }

    fn note_acks(&mut self) {
        if self.tx.ack_is_due(self.rx.acks(), self.rx.fin_seen()) {
            self.tx.want_ack();
        }
    }
}
