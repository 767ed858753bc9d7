//! eversock: chaos
