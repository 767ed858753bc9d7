//! A standby watches its main: detection inside the pair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::target::Target;

/// How a main is watched.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// Between two probes.
    pub every: Duration,
    /// A probe without an answer for so long is missed.
    pub timeout: Duration,
    /// So many missed in a row mean that the main is gone.
    pub misses: u32,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        let (every, timeout) = (Duration::from_millis(500), Duration::from_secs(1));
        Self { every, timeout, misses: 3 }
    }
}

/// Probes the other server of the pair from a thread of its own until it is dropped. The target is
/// not closed by it.
#[derive(Debug)]
pub struct PairMonitor {
    missed: Arc<AtomicU32>,
    limit: u32,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PairMonitor {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(target: Arc<dyn Target>, config: MonitorConfig) -> std::io::Result<Self> {
        let missed = Arc::new(AtomicU32::new(0));
        let (stop, stopped) = bounded::<()>(0);
        let counter = Arc::clone(&missed);
        let limit = config.misses.max(1);
        let watch = move || {
            loop {
                if probe(&*target, config.timeout) {
                    counter.store(0, Ordering::SeqCst);
                } else {
                    let _before = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                        Some(n.saturating_add(1))
                    });
                }
                match stopped.recv_timeout(config.every) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("pair-monitor".to_owned()).spawn(watch)?;
        Ok(Self { missed, limit, stop: Some(stop), thread: Some(thread) })
    }

    /// Whether the other server has missed as many probes in a row as it may not.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.missed.load(Ordering::SeqCst) >= self.limit
    }
}

/// Whether it answers. What it says is for the front to judge.
fn probe(target: &dyn Target, timeout: Duration) -> bool {
    let (tell, told) = bounded(1);
    target.probe(
        timeout,
        Box::new(move |report| {
            let _late = tell.try_send(report.is_some());
        }),
    );
    // The target keeps to the timeout; twice of it bounds one that does not.
    told.recv_timeout(timeout * 2).unwrap_or(false)
}

impl Drop for PairMonitor {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
