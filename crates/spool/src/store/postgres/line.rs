//! A connection on which nothing is waited for without end.
//!
//! The server bounds statements by itself, but not a commit that waits for a replica, and nothing
//! at all once its processes are stopped. So each wait is bounded here: after that the connection
//! is given up, whatever it was doing.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Row, Statement, ToStatement};

use super::session::Fault;

/// How long a connection that is closed in order may take to say so to the server.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a statement is given.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// One connection. Blocks, and not on a thread of tokio's: it has a runtime of its own.
pub(super) struct Line {
    /// Runs only while something is waited for.
    runtime: Option<Runtime>,
    client: Option<Client>,
    connection: JoinHandle<()>,
    until: Instant,
    /// Nothing more can be asked: an answer is overdue, or a transaction was left open.
    spent: bool,
}

impl Line {
    pub(super) fn connect(config: &Config, until: Instant) -> Result<Self, Fault> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Fault::Failed(e.to_string()))?;
        let connected = bounded(&runtime, until, config.connect(NoTls));
        let (client, connection) = match connected {
            Some(connected) => connected?,
            None => {
                // A name that is still looked up would be waited for.
                runtime.shutdown_background();
                return Err(overdue());
            }
        };
        // How it ends shows in what is asked.
        let connection = runtime.spawn(async move { drop(connection.await) });
        Ok(Self { runtime: Some(runtime), client: Some(client), connection, until, spent: false })
    }

    /// Whatever is asked from now on is given up at that moment.
    pub(super) fn bound(&mut self, until: Instant) {
        self.until = until;
    }

    /// Whether it can surely be used no more.
    pub(super) fn is_closed(&self) -> bool {
        self.spent || self.client.as_ref().is_none_or(Client::is_closed)
    }

    fn ask<'a, T, F>(&'a mut self, ask: impl FnOnce(&'a Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let (Some(runtime), Some(client), false) = (&self.runtime, &self.client, self.spent) else {
            return Err(Fault::Lost("the connection was given up".to_owned()));
        };
        match bounded(runtime, self.until, ask(client)) {
            Some(answer) => Ok(answer?),
            None => {
                self.spent = true;
                Err(overdue())
            }
        }
    }

    pub(super) fn prepare(&mut self, sql: &str) -> Result<Statement, Fault> {
        self.ask(|client| client.prepare(sql))
    }

    pub(super) fn query(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Vec<Row>, Fault> {
        self.ask(|client| client.query(sql, params))
    }

    pub(super) fn query_one(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Row, Fault> {
        self.ask(|client| client.query_one(sql, params))
    }

    pub(super) fn query_opt(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Option<Row>, Fault> {
        self.ask(|client| client.query_opt(sql, params))
    }

    pub(super) fn execute(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<u64, Fault> {
        self.ask(|client| client.execute(sql, params))
    }

    pub(super) fn batch_execute(&mut self, sql: &str) -> Result<(), Fault> {
        self.ask(|client| client.batch_execute(sql))
    }

    pub(super) fn transaction(&mut self) -> Result<Transaction<'_>, Fault> {
        self.begin("BEGIN")
    }

    /// Sees what was committed when it began, and writes nothing.
    pub(super) fn snapshot(&mut self) -> Result<Transaction<'_>, Fault> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    }

    fn begin(&mut self, sql: &str) -> Result<Transaction<'_>, Fault> {
        self.batch_execute(sql)?;
        Ok(Transaction { line: self, over: false })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        self.client = None;
        // The server then ends the session, and frees the lock, without an error in its log.
        if !self.spent && Handle::try_current().is_err() {
            let until = Instant::now() + FAREWELL;
            let _over = bounded(&runtime, until, &mut self.connection);
        }
        runtime.shutdown_background();
    }
}

/// `None`: not by then.
fn bounded<F: Future>(runtime: &Runtime, until: Instant, job: F) -> Option<F::Output> {
    runtime.block_on(async { tokio::time::timeout_at(until.into(), job).await.ok() })
}

fn overdue() -> Fault {
    Fault::Lost("the server has not answered in time".to_owned())
}

/// An open transaction. If it is dropped, its connection is as well: that undoes it without waiting
/// for a server that may not answer.
pub(super) struct Transaction<'a> {
    line: &'a mut Line,
    over: bool,
}

impl Transaction<'_> {
    pub(super) fn query(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Vec<Row>, Fault> {
        self.line.query(sql, params)
    }

    pub(super) fn query_one(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Row, Fault> {
        self.line.query_one(sql, params)
    }

    pub(super) fn query_opt(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<Option<Row>, Fault> {
        self.line.query_opt(sql, params)
    }

    pub(super) fn execute(
        &mut self,
        sql: &(impl ToStatement + ?Sized),
        params: Params<'_>,
    ) -> Result<u64, Fault> {
        self.line.execute(sql, params)
    }

    pub(super) fn batch_execute(&mut self, sql: &str) -> Result<(), Fault> {
        self.line.batch_execute(sql)
    }

    pub(super) fn prepare(&mut self, sql: &str) -> Result<Statement, Fault> {
        self.line.prepare(sql)
    }

    /// Gives what is asked in it another bound than the rest of the connection has.
    pub(super) fn bound(&mut self, until: Instant) {
        self.line.bound(until);
    }

    pub(super) fn commit(mut self) -> Result<(), Fault> {
        let done = self.line.batch_execute("COMMIT");
        self.over = done.is_ok();
        done.map_err(|fault| match fault {
            Fault::Broken(cause) => Fault::Lost(cause),
            fault => fault,
        })
    }

    pub(super) fn rollback(mut self) -> Result<(), Fault> {
        let done = self.line.batch_execute("ROLLBACK");
        self.over = done.is_ok();
        done
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.line.spent |= !self.over;
    }
}
