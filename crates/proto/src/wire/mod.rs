//! Bytes to types and back.
//!
//! [`frame`] is what a proven connection carries; [`hello`] is what is exchanged before.

pub mod frame;
pub mod hello;
