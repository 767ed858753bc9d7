//! HTTP/1.1: a front for clients that speak it, and an adapter for servers that do.
//!
//! A request travels as the payload of a record and a response as its answer, both in a form of
//! their own ([`codec`]). [`HttpFront`] makes records of what clients ask; [`HttpTarget`] makes
//! requests of them again. Neither speaks TLS: put a proxy that does in front of it.
//!
//! Headers that only belong to these two, all optional for clients and services:
//!
//! | header | from, to | says |
//! |---|---|---|
//! | `Idempotency-Key` | client to front | the name of the request, the same in each retry |
//! | `Eversock-Id` | both ways at the front | the number of the request: 32 hexadecimal digits |
//! | `Eversock-Outcome` | front to client | what became of it: see below |
//! | `Eversock-Lsn` | front to client | the place in the spool |
//! | `Idempotency-Key` | front to service | the number of the request, the same in each retry |
//! | `Eversock-Epoch` | front to service | the lock key under which the request is sent |
//! | `Eversock-Fenced` | service to front | the service refuses that epoch: it has seen this one |
//! | `Idempotent-Replayed: true` | service to front | the request had taken effect before |
//! | `Eversock-Switch: 1` | health response to front | asks that the other server take over |
//!
//! Outcomes are `applied`, `spooled`, `held`, `stale`, `in-doubt`, `rejected` (by the front) and
//! `refused` (by the service).

pub mod codec;
mod front;
mod headers;
mod hook;
mod patient;
mod replies;
mod serve;
mod target;
mod verdict;

pub use front::{HttpFront, HttpFrontConfig, Route};
pub use headers::PER_ATTEMPT;
pub use hook::Hook;
pub use target::{HttpTarget, HttpTargetConfig};
pub use verdict::{Verdict, judge};

use std::io;

use tokio::runtime::{Builder, Handle};

use crate::target::Reply;

/// Threads that HTTP runs on: one for any number of [`HttpTarget`]s; an [`HttpFront`] has its own.
///
/// Dropped, it ends at once without waiting: what was under way on it fails.
#[derive(Debug)]
pub struct Runtime {
    inner: Option<tokio::runtime::Runtime>,
}

impl Runtime {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    ///
    /// The system gives no threads or no epoll descriptor.
    pub fn start(name: &str, threads: usize) -> io::Result<Self> {
        let inner = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .max_blocking_threads(16)
            .thread_name(name)
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self { inner: Some(inner) })
    }

    fn handle(&self) -> Handle {
        match &self.inner {
            Some(inner) => inner.handle().clone(),
            None => unreachable!("only dropping takes it"),
        }
    }
}

impl Drop for Runtime {
    /// A plain drop would block, and panic on a thread of a runtime: callbacks run on those.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.shutdown_background();
        }
    }
}

/// A callback that is called once even if the task that holds it is dropped.
struct Promise<T> {
    reply: Option<(Reply<T>, T)>,
}

impl<T> Promise<T> {
    /// `otherwise` is what the callback gets if nobody keeps the promise.
    fn new(reply: Reply<T>, otherwise: T) -> Self {
        Self { reply: Some((reply, otherwise)) }
    }

    fn keep(mut self, value: T) {
        if let Some((reply, _)) = self.reply.take() {
            reply(value);
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some((reply, otherwise)) = self.reply.take() {
            reply(otherwise);
        }
    }
}
