//! The arrows between the crates.

/// Which crates of the workspace a package may link to. `None`: any.
pub(super) const ARROWS: &[(&str, Option<&[&str]>)] = &[
    ("eversock-proto", Some(&[])),
    ("eversock-fields", Some(&[])),
    ("eversock-engine", Some(&["eversock-proto"])),
    ("eversock-socket", Some(&["eversock-engine"])),
    ("eversock-rules", Some(&[])),
    ("eversock-preload", Some(&["eversock-engine", "eversock-rules", "eversock-dedup"])),
    ("eversock-dedup", Some(&["eversock-engine"])),
    (
        "eversock-spool",
        Some(&["eversock-engine", "eversock-fields", "eversock-socket", "eversock-units"]),
    ),
    (
        "eversock-controller",
        Some(&["eversock-engine", "eversock-fields", "eversock-socket", "eversock-units"]),
    ),
    ("eversock-units", Some(&[])),
    ("eversock-chaos", Some(&[])),
    ("eversock-sim", Some(&["eversock-proto"])),
    (
        "eversock",
        Some(&[
            "eversock-engine",
            "eversock-socket",
            "eversock-dedup",
            "eversock-spool",
            "eversock-controller",
        ]),
    ),
    ("eversock-models", Some(&[])),
    (
        "eversock-bench",
        Some(&[
            "eversock",
            "eversock-chaos",
            "eversock-controller",
            "eversock-dedup",
            "eversock-spool",
        ]),
    ),
    ("eversock-cli", None),
    ("eversock-ffi-tests", None),
];
