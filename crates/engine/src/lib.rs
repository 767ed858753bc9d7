//! eversock: engine
