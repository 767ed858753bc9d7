//! Taken.
