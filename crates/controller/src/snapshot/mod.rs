//! Snapshots of a partition as files: those made here for partners, and those that come from them.

pub mod format;
