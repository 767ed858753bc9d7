//! Small messages on a session to which nothing else happens: what the general way does
//! ([`super::send`], [`super::lead`]) without all that is not needed then.
//!
//! A step here either is the whole of it, or has changed nothing and leaves it to the general way,
//! or says what is left to be done. None of them reaches a cancellation point, so they need not
//! hold cancellation off, which costs two locked instructions a time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use eversock_proto::limits::HEADER_BYTES;
use eversock_proto::recv::Receiver;
use eversock_proto::send::ack_step;

use super::{Socket, bits};
use crate::error::{caught, guarded, number, would_block};
use crate::meet::{credit, wish};
use crate::{process, sys};

/// Longest write that may go the quick way, header and all in one piece.
pub(super) const SMALL_MAX_BYTES: usize = 256;
/// Room for a frame of the smallest writes: to zero more costs more than the copy.
const TINY_FRAME_BYTES: usize = 128;

/// What a quick write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Small {
    /// Nothing has changed: the general way.
    NotHere,
    /// It is taken, and the kernel has all of it or no connection is left to give it to.
    Sent,
    /// It is taken, and the kernel lacks a part of it.
    Owed,
}

/// What is left to be done behind a quick write.
enum After {
    Nothing,
    /// The connection has died.
    Fault(u64, io::Error),
    NotHere,
    Owed,
}

impl Socket {
    /// Takes a small write whole and gives its frame to the kernel.
    pub(super) fn send_small(self: &Arc<Self>, bytes: &[u8]) -> io::Result<Small> {
        if bytes.len() + HEADER_BYTES <= TINY_FRAME_BYTES {
            self.send_in(bytes, &mut [0; TINY_FRAME_BYTES])
        } else {
            self.send_in(bytes, &mut [0; HEADER_BYTES + SMALL_MAX_BYTES])
        }
    }

    /// True when the session stands, is this process's, and nothing is the matter with it.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.bits() == 0 && process::is_used_by_us(self)
    }

    /// True when a read sleeps as long as it takes.
    #[inline]
    pub(crate) fn blocks(&self) -> bool {
        !self.nonblocking.load(Ordering::Relaxed)
            && self.recv_timeout_us.load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn send_in(self: &Arc<Self>, bytes: &[u8], frame: &mut [u8]) -> io::Result<Small> {
        let shared = &self.shared;
        let mut looks = false;
        let after = caught(|| {
            let Ok(mut tx) = self.tx.try_lock() else { return Ok(After::NotHere) };
            if self.bits() & !bits::STASH != 0 || !process::is_ours(self) || tx.number < 0 {
                return Ok(After::NotHere);
            }
            let (to, epoch) = (tx.number, tx.epoch);
            let Some(sender) = tx.sender.as_deref_mut() else { return Ok(After::NotHere) };
            let acked = sender.acked();
            let ack = shared.peer_ack.load(Ordering::SeqCst);
            let edge = credit::edge(&shared.peer_edge);
            // What the peer cannot have meant is the general way's to answer.
            if sender.absorb(ack, edge).is_err() {
                return Ok(After::NotHere);
            }
            if sender.acked() > acked {
                shared.count_progress();
            }
            let Some(n) = sender.write_frame(bytes, self.acks(), frame) else {
                return Ok(After::NotHere);
            };
            shared.written.store(sender.written(), Ordering::Release);
            match sys::io::send_one(to, &frame[..n], false) {
                Ok(taken) => {
                    sender.sent(taken);
                    let told = sender.told();
                    shared.told_edge.store(told.edge(), Ordering::Release);
                    shared.told_ack.store(told.ack, Ordering::Release);
                    looks = tx.is_to_look();
                    Ok(if taken < n { After::Owed } else { After::Nothing })
                }
                Err(error) if would_block(&error) || number(&error) == libc::ENOBUFS => {
                    Ok(After::Owed)
                }
                Err(error) => {
                    tx.number = -1;
                    Ok(After::Fault(epoch, error))
                }
            }
        })?;
        let small = match after {
            After::NotHere => return Ok(Small::NotHere),
            After::Nothing => Small::Sent,
            After::Owed => Small::Owed,
            After::Fault(epoch, error) => {
                guarded(|| {
                    self.fault(epoch, &error.to_string());
                    Ok(())
                })?;
                Small::Sent
            }
        };
        // As `finish_tx` does: whoever could not have the lock has set the flag.
        if wish::is_left(&shared.ack_wanted) || !shared.in_sweep.load(Ordering::Relaxed) || looks {
            guarded(|| {
                if looks {
                    self.eat_control_frames();
                }
                if wish::is_left(&shared.ack_wanted) {
                    self.send_ack();
                }
                self.list_for_sweep();
                Ok(())
            })?;
        }
        Ok(small)
    }

    /// Notes what a read has brought when it was payload and numbers, nothing that anybody waits
    /// for or must be told; false, with nothing changed, where [`Socket::after_input`] is the way.
    pub(super) fn is_noted(self: &Arc<Self>, receiver: &Receiver) -> bool {
        let shared = &self.shared;
        let acks = receiver.acks();
        let told_edge = shared.told_edge.load(Ordering::Relaxed);
        let due = acks.edge().saturating_sub(told_edge) >= ack_step(receiver.window());
        if due
            || receiver.has_news()
            || receiver.fin_seen()
            || receiver.violation().is_some()
            || receiver.stashed() > 0
            || self.bits() != 0
        {
            return false;
        }
        let (ack, edge) = receiver.peer();
        if ack > shared.peer_ack.load(Ordering::Relaxed) {
            shared.peer_ack.store(ack, Ordering::Release);
        }
        // Since our look a writer may have run out of room, and have missed the new edge.
        let no_room = || self.has(bits::NO_ROOM);
        let opened = credit::publish(&shared.peer_edge, edge, no_room, &shared.written);
        shared.receive.store(receiver.next(), Ordering::Release);
        shared.ack.store(acks.ack, Ordering::Release);
        shared.window.store(u32::from(acks.window), Ordering::Release);
        if opened || !shared.in_sweep.load(Ordering::Relaxed) {
            let _uncancelled = sys::process::Uncancelled::begin();
            if opened {
                self.change(0, bits::NO_ROOM);
            }
            self.list_for_sweep();
        }
        true
    }
}
