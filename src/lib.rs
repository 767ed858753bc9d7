//! eversock
