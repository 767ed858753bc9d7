//! What a front answers on its control socket.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use eversock_spool::config::{FrontFile, Running};

use super::ask::{LSNS_MAX, Order, REQUEST_MAX, ROWS_MAX, Request};
use super::stat::{Front, Row};
use crate::service::asked::Reply;
use crate::service::claim::{Claim, refusal, reply};

/// How long a listing may take.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers on threads of its own, for as long as the process lives.
pub(super) fn serve(claim: &Claim, file: FrontFile, running: &Arc<Running>) -> io::Result<()> {
    let server = Server { file, running: Arc::downgrade(running) };
    claim.serve("spool", REQUEST_MAX, move |request| server.answer(request))
}

struct Server {
    file: FrontFile,
    /// Gone when the front ends.
    running: Weak<Running>,
}

impl Server {
    fn answer(&self, request: Request) -> Vec<u8> {
        let Some(running) = self.running.upgrade() else { return refusal("the front ends") };
        match request {
            Request::Stat => reply(&Reply::Ok(Front::of(&self.file, &running))),
            Request::Ls { pair, after, limit } => reply(&rows(&running, &pair, after, limit)),
            Request::Do { pair, order } => reply(&obey(&running, &pair, order)),
        }
    }
}

fn rows(running: &Running, pair: &str, after: u64, limit: usize) -> Reply<Vec<Row>> {
    let limit = limit.min(ROWS_MAX);
    let list = move |reader: &mut dyn eversock_spool::store::SpoolReader| reader.list(after, limit);
    match running.gate().with(|front| front.read(pair, READ_TIMEOUT, list)) {
        Some(Some(Ok(rows))) => Reply::Ok(rows.into_iter().map(|row| Row::of(pair, row)).collect()),
        Some(Some(Err(error))) => Reply::Error(error.to_string()),
        Some(None) => Reply::Error(format!("{pair}: no such pair, or its spool does not answer")),
        None => Reply::Error("the front ends".to_owned()),
    }
}

fn obey(running: &Running, pair: &str, order: Order) -> Reply<String> {
    if let Order::Retry(lsns) | Order::Purge(lsns) = &order
        && lsns.len() > LSNS_MAX
    {
        return Reply::Error(format!("{LSNS_MAX} places at most in one request"));
    }
    log::info!("pair {pair}: told to {order:?}");
    match running.gate().with(|front| front.command(pair, order.into())) {
        Some(Ok(said)) => Reply::Ok(said),
        Some(Err(why)) => Reply::Error(format!("{pair}: {why}")),
        None => Reply::Error("the front ends".to_owned()),
    }
}
