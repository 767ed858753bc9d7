//! `evs spool`, at work.
