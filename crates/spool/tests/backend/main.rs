//! What runs inside a server: the lock, the ledger, mailboxes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod crashes;
mod holders;
mod mailboxes;
mod process;
mod replicas;
mod servers;
mod stopped;
