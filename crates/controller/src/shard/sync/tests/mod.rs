//! Two and three tables that exchange what they have.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod chance;
mod interrupted;
mod lies;
mod load;
mod world;
