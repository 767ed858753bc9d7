//! eversock: proto
