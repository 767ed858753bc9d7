//! Where the engine's threads meet, tried in every interleaving and with every value that a load
//! may give (loom). There is nothing here but tests.
//!
//! The files of `crates/engine/src/meet` are built three times: as they are written
//! (`as_written`), with `SeqCst` as no more than acquire and release (`half`), and with no order at
//! all (`relaxed`). A model that finds nothing in the first must find something in the others
//! wherever the order matters: so it is known to look. What no order can show is planted: a step
//! left out or taken too early (`Plant`).
//!
//! The kernel is a model too: a bell is an eventfd, a `Line` a connection, and what stands under
//! the program's number a word that the swap changes.

#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a model that cannot go on has failed")]
#![allow(clippy::duplicate_mod, reason = "the same source over other atomics is the point")]
#![allow(dead_code, reason = "a model needs a part of each file")]

mod as_written;
mod half;
mod kit;
mod orders;
mod relaxed;
mod tests;

/// What is left out or done too early in a model, for the checker to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    /// As the engine does it.
    Nothing,
    /// Who is about to sleep looks first and puts its bell on the list afterwards.
    LooksFirst,
    /// Who runs out of room does not look at the edge again.
    LooksNoMore,
    /// Who leaves the lock does not look for wishes.
    LeavesWithout,
    /// Who changes the connection does not wait for the reader.
    WaitsForNobody,
    /// The reader takes its role when it has let go of the receiving lock.
    LeadsUnlocked,
    /// A reader that was disowned counts what it brings.
    CountsAnyway,
    /// Another reads where there is no connection any more.
    ReadsWhereNothingIs,
    /// The leader does not wait for who reads at this moment.
    PassesBy,
}
