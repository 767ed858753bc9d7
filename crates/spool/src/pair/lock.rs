//! The granter's side of the lock key: which server may work, and since when surely none does.

use crate::pair::event::Side;

/// Until when a server may be at work at most. Times are the front's, in microseconds of a clock
/// that never goes back.
///
/// A grant goes out with the stamp of the report that it answers, and the holder counts its lease
/// from that stamp. The report was written before it arrived, and it arrived before the grant was
/// sent: so the holder stops before `sent + lease + margin` on the front's clock, however long the
/// grant was on its way.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    /// The highest that was ever granted.
    pub(crate) epoch: u64,
    /// To whom.
    pub(crate) holder: Side,
    /// Another front granted it, to whom nobody has said: until it is free, no server may have it.
    is_foreign: bool,
    /// `None`: nobody holds it.
    until: Option<u64>,
}

impl Lock {
    /// As the store has it. Whoever held it may hold it still: the front does not know when it
    /// granted last.
    pub(crate) fn load(epoch: u64, holder: Side, now: u64, span: u64) -> Self {
        Self { epoch, holder, is_foreign: false, until: (epoch > 0).then_some(now + span) }
    }

    /// As another front has left it, which may have granted it just now, to either.
    pub(crate) fn adopt(&mut self, epoch: u64, now: u64, span: u64) {
        self.epoch = self.epoch.max(epoch);
        self.is_foreign = true;
        self.sent(now, span);
    }

    /// Whether this server may have the next one.
    pub(crate) fn may_pass_to(&self, side: Side, now: u64) -> bool {
        self.is_free(now) || side == self.holder && !self.is_foreign
    }

    /// A grant is on its way: `span` is the lease with its margin.
    pub(crate) fn sent(&mut self, now: u64, span: u64) {
        self.until = Some(self.until.unwrap_or(0).max(now + span));
    }

    /// The holder gave it back, or can do nothing any more.
    pub(crate) fn freed(&mut self, side: Side, epoch: u64) {
        if side == self.holder && epoch == self.epoch {
            self.until = None;
        }
    }

    /// Whether no server holds it.
    pub(crate) fn is_free(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// When it will be free if nobody renews it.
    pub(crate) fn free_at(&self) -> u64 {
        self.until.unwrap_or(0)
    }

    /// This number is used up without having been granted; the holder keeps what it has.
    pub(crate) fn skip(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The next one is this server's: the one that holds it now, or any if it [is
    /// free](Lock::is_free).
    pub(crate) fn pass(&mut self, epoch: u64, holder: Side) {
        self.epoch = epoch;
        self.is_foreign = false;
        if holder != self.holder {
            self.holder = holder;
            self.until = None;
        }
    }
}
