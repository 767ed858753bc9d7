//! Places at which a process can be told to die, as a power cut would have it.
//!
//! Without the feature `failpoints` they are nothing. With it, `EVERSOCK_SPOOL_DIE=NAME:N` kills
//! the process (SIGKILL) when it comes to the place NAME for the Nth time.

/// Dies here if the process was told to.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PLAN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("EVERSOCK_SPOOL_DIE").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((wanted, count)) = plan else { return };
    if wanted == name && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *count {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_name: &str) {}
