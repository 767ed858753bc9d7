//! What callers from C hand over: memory and socket addresses. For those who give the twins of
//! [`crate::posix`] C's signatures.

pub mod addr;
pub mod data;
pub mod memory;
pub mod wait;
