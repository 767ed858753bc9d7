//! Two sessions and a bad network in virtual time.
