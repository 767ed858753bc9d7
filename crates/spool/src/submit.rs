//! Where fronts of every language (virtual sockets, HTTP, SMTP) hand in what they were asked.

use std::fmt;

use crate::request::{Outcome, Request, RequestId};
use crate::target::Reply;

/// Takes requests for pairs. The front itself is one; tests of the languages have their own.
pub trait Submit: Send + Sync + fmt::Debug {
    /// Hands a request in. Does not block; `reply` is called once, within the request's deadline,
    /// on any thread, or at once. An unknown pair is answered with
    /// [`Reason::Malformed`](crate::Reason::Malformed).
    fn submit(&self, pair: &str, request: Request, reply: Reply<Outcome>);

    /// What became of a request that was spooled or held: `None` if its id is not known (never
    /// seen, or forgotten after the pair's `keep_ids`). [`Outcome::Held`] while it waits.
    fn fetch(&self, pair: &str, id: RequestId, reply: Reply<Option<Outcome>>);
}
