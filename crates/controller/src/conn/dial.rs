//! Dialling blocks, so it has threads of its own: a few, which come when they are needed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use eversock_engine::Config;
use eversock_socket::VirtualStream;

use super::shared::{Order, Shared, lock};

/// Threads that dial.
const THREADS_MAX: usize = 8;
/// Dials that wait for one of them.
const WAITING_MAX: usize = 4096;

/// Whom to dial.
pub(super) struct Job {
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) config: Config,
    pub(super) token: u64,
}

#[derive(Default)]
pub(super) struct Pool {
    waiting: VecDeque<Job>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that have not found the queue empty.
    running: usize,
    ended: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("running", &self.running).finish_non_exhaustive()
    }
}

/// Dials soon, and says what came of it.
pub(super) fn begin(shared: &Arc<Shared>, job: Job) {
    let mut pool = lock(&shared.pool);
    if pool.ended {
        return;
    }
    if pool.waiting.len() >= WAITING_MAX {
        drop(pool);
        let error = io::Error::other(format!("{WAITING_MAX} others wait to be dialled"));
        return shared.order(Order::Dialled { token: job.token, result: Err(error) });
    }
    pool.waiting.push_back(job);
    if pool.running >= THREADS_MAX {
        return;
    }
    let own = Arc::clone(shared);
    let name = format!("{}-dial", shared.name());
    match thread::Builder::new().name(name).spawn(move || run(&own)) {
        Ok(thread) => {
            pool.running += 1;
            pool.threads.retain(|thread| !thread.is_finished());
            pool.threads.push(thread);
        }
        // Whoever runs takes it over.
        Err(_) if pool.running > 0 => {}
        Err(error) => {
            let jobs = std::mem::take(&mut pool.waiting);
            drop(pool);
            for job in jobs {
                let result = Err(io::Error::new(error.kind(), error.to_string()));
                shared.order(Order::Dialled { token: job.token, result });
            }
        }
    }
}

/// Does not begin to dial what still waits to be.
pub(super) fn forget(shared: &Shared, token: u64) {
    lock(&shared.pool).waiting.retain(|job| job.token != token);
}

/// Dials no more; gives the threads that still do.
pub(super) fn end(shared: &Shared) -> Vec<JoinHandle<()>> {
    let mut pool = lock(&shared.pool);
    pool.ended = true;
    pool.waiting.clear();
    std::mem::take(&mut pool.threads)
}

fn run(shared: &Shared) {
    while let Some(Job { addrs, config, token }) = next(shared) {
        // A callback of the configuration may panic.
        let dial = AssertUnwindSafe(|| VirtualStream::connect_with(&addrs[..], config));
        let result =
            catch_unwind(dial).unwrap_or_else(|_| Err(io::Error::other("dialling has panicked")));
        shared.order(Order::Dialled { token, result });
    }
}

/// The next to dial; without any the thread ends, and is not counted any more.
fn next(shared: &Shared) -> Option<Job> {
    let mut pool = lock(&shared.pool);
    let job = pool.waiting.pop_front();
    if job.is_none() {
        pool.running -= 1;
    }
    job
}
