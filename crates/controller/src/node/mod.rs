//! A whole controller: its partitions with a thread each, its links to partners, its doors for
//! devices and third parties.

pub mod status;
