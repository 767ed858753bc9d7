//! Shards: registrations case by case, and whole worlds of controllers, devices and links in virtual
//! time with everything that can go wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod registrations;
