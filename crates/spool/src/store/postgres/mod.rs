//! The spool of pairs in PostgreSQL (13 or later): for those who have outgrown one machine, and
//! whose server is replicated by means of its own.
//!
//! Each pair has a table of its own in one schema, so that to drop it is cheap, and a row in
//! `spool_meta` with its counters, its state and the last place given; each transaction locks that
//! row first. The session that writes holds an advisory lock: a second front is refused, and a
//! front whose session is gone can write only after it has taken the lock again. So the parameters
//! have to name the server itself, or a pooler that keeps sessions together.
//!
//! Calls block, and none of them may be made from a thread of tokio's: the client has a runtime
//! of its own inside and would panic. Whatever a server does or does not do, a call ends: each wait
//! for it is bounded by [`PostgresConfig::call_timeout`], and after a connection that was lost in a
//! commit the same time is spent once more to find out what became of it. A commit for which a
//! synchronous replica does not answer in this time is [`StoreError::Unknown`].
//!
//! A front that has lost its session and finds that another front has written since is refused for
//! good: what it knows of the pair is of the past.

mod line;
mod read;
mod schema;
mod session;
mod write;

use std::fmt;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use self::line::Line;
use self::schema::Names;
use self::session::{Fault, Session};
use self::write::{Statements, Writing};
use super::{Appended, Batch, PairState, Quota, SpoolReader, SpoolStore, StoreError, Totals};
use crate::failpoint;
use crate::limits::PAIR_NAME_MAX;

pub use self::read::PostgresReader;

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// As libpq has it: `host=... user=... dbname=...`, or a URL. Without TLS: a socket of the same
    /// machine, or a network that is trusted.
    pub params: String,
    /// The schema that the tables are in; made if it is not there.
    pub schema: String,
    /// How long one call may try, connections made anew included; twice that if a connection is
    /// lost in a commit.
    pub call_timeout: Duration,
}

impl PostgresConfig {
    /// With the schema `eversock` and ten seconds.
    #[must_use]
    pub fn new(params: &str) -> Self {
        let (params, schema) = (params.to_owned(), "eversock".to_owned());
        Self { params, schema, call_timeout: Duration::from_secs(10) }
    }
}

/// Writes the spool of a pair in PostgreSQL.
pub struct PostgresStore {
    config: PostgresConfig,
    names: Names,
    quota: Quota,
    /// Tells this store's transactions from those of another front.
    writer: i64,
    /// Who wrote before this store; `None` once this store has.
    before: Option<i64>,
    /// Another front has written since: what this one has in memory is of the past.
    superseded: bool,
    session: Option<(Session, Statements)>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("pair", &self.names.pair).finish_non_exhaustive()
    }
}

/// Where an attempt was lost.
enum Attempt {
    /// Before the commit: nothing of it is there.
    Before(Fault),
    /// In the commit, with this serial number.
    Commit(Fault, u64),
}

impl From<Fault> for Attempt {
    fn from(fault: Fault) -> Self {
        Self::Before(fault)
    }
}

impl PostgresStore {
    /// Opens the spool of `pair`, and makes its table if it is not there. Blocks for up to
    /// [`PostgresConfig::call_timeout`]; not from a thread of tokio's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if another front has it, [`StoreError::Foreign`] if the tables are of a
    /// newer version, others of the server.
    pub fn open(config: &PostgresConfig, pair: &str, quota: Quota) -> Result<Self, StoreError> {
        let names = Names::new(&config.schema, pair);
        let what = name(&names);
        let fail = |fault: Fault| session::error(&what, fault);
        let usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if pair.is_empty() || pair.len() > PAIR_NAME_MAX || !pair.chars().all(usual) {
            let cause = "its name has to be 1 to 64 letters, digits, `-` or `_`".to_owned();
            return Err(fail(Fault::Failed(cause)));
        }
        let mut token = [0; 8];
        SystemRandom::new()
            .fill(&mut token)
            .map_err(|_| fail(Fault::Failed("the system has no randomness".to_owned())))?;
        let (config, writer) = (config.clone(), i64::from_be_bytes(token));
        let mut store =
            Self { config, names, quota, writer, before: None, superseded: false, session: None };
        store.before = Some(store.last_writer()?);
        Ok(store)
    }

    /// Reads the spool of `pair`, whether or not a front holds it at the moment. Blocks like
    /// [`PostgresStore::open`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Foreign`] if there is no such pair or its tables are of a newer version,
    /// others of the server.
    pub fn open_reader(config: &PostgresConfig, pair: &str) -> Result<PostgresReader, StoreError> {
        PostgresReader::open(config, pair)
    }

    /// The session, with the lock. Connects anew until then.
    fn connected(&mut self, until: Instant) -> Result<&mut (Session, Statements), Fault> {
        if self.superseded {
            return Err(Fault::Held);
        }
        let session = match self.session.take() {
            Some(session) if !session.0.client.is_closed() => session,
            _ => {
                let mut session = session::take(&self.config, &self.names, self.writer, until)?;
                if !self.names.judge(&mut session.client)? {
                    self.names.create(&mut session.client)?;
                }
                let statements = Statements::prepare(&mut session.client, &self.names)?;
                (session, statements)
            }
        };
        let session = self.session.insert(session);
        session.0.client.bound(until);
        Ok(session)
    }

    /// One transaction. Where the connection is lost it is made anew and, unless the transaction
    /// turns out to be on disk, everything is done again, until the time is over.
    fn transact<T>(
        &mut self,
        job: &mut dyn FnMut(&mut Writing<'_>) -> Result<T, Fault>,
        reach: &dyn Fn(Moment),
    ) -> Result<T, Fault> {
        let until = Instant::now() + self.config.call_timeout;
        loop {
            let mut result = None;
            match self.attempt(job, reach, until, &mut result) {
                Ok(()) => {}
                Err(Attempt::Before(Fault::Lost(cause))) => {
                    self.session = None;
                    if Instant::now() >= until {
                        return Err(Fault::Lost(cause));
                    }
                    continue;
                }
                Err(Attempt::Before(fault)) => {
                    // What hinders a transaction may be the session's.
                    self.session = None;
                    return Err(fault);
                }
                Err(Attempt::Commit(Fault::Lost(cause), serial)) => {
                    self.session = None;
                    if !self.was_committed(serial, &cause)? {
                        // A server that dies of each commit is not asked for ever.
                        if Instant::now() >= until {
                            return Err(Fault::Failed(cause));
                        }
                        continue;
                    }
                }
                Err(Attempt::Commit(fault, _)) => {
                    self.session = None;
                    return Err(fault);
                }
            }
            self.before = None;
            if let Some(result) = result {
                reach(Moment::AfterCommit);
                return Ok(result);
            }
        }
    }

    fn attempt<T>(
        &mut self,
        job: &mut dyn FnMut(&mut Writing<'_>) -> Result<T, Fault>,
        reach: &dyn Fn(Moment),
        until: Instant,
        result: &mut Option<T>,
    ) -> Result<(), Attempt> {
        let writer = self.writer;
        let pair = self.names.pair.clone();
        let before = self.before;
        let (session, statements) = self.connected(until)?;
        let mut writing = Writing::begin(&mut session.client, statements, &pair)?;
        if writing.writer != writer && Some(writing.writer) != before {
            drop(writing);
            self.superseded = true;
            log::error!("spool {pair}: another front has written meanwhile, this one has to end");
            return Err(Attempt::Before(Fault::Held));
        }
        let serial = writing.counters.serial + 1;
        *result = Some(job(&mut writing)?);
        let tx = writing.end(writer)?;
        reach(Moment::BeforeCommit);
        tx.commit().map_err(|fault| Attempt::Commit(fault, serial))
    }

    /// After a connection that was lost in the commit. Waits for what the old session has under
    /// way: it holds the row of the pair.
    fn was_committed(&mut self, serial: u64, cause: &str) -> Result<bool, Fault> {
        log::warn!("spool {}: a commit was lost with its connection: {cause}", self.names.pair);
        let unknown = |fault: Fault| Fault::Unknown(format!("{cause}; then: {fault:?}"));
        let until = Instant::now() + self.config.call_timeout;
        loop {
            let seen = self.seen(until);
            match seen {
                Err(Fault::Lost(_)) if Instant::now() < until => self.session = None,
                Err(fault) => {
                    self.session = None;
                    return Err(unknown(fault));
                }
                Ok((now, writer)) if now >= serial && writer == self.writer => return Ok(true),
                Ok((now, _)) if now < serial => return Ok(false),
                Ok(_) => {
                    let cause = format!("{cause}; another front has written since");
                    return Err(Fault::Unknown(cause));
                }
            }
        }
    }

    /// The serial number of the last transaction, and whose it was; both are then as safe as an
    /// acknowledged commit. To see them is not enough: a session that is ended while it waits for a
    /// replica shows what that replica has not.
    fn seen(&mut self, until: Instant) -> Result<(u64, i64), Fault> {
        let pair = self.names.pair.clone();
        let (session, statements) = self.connected(until)?;
        let writing = Writing::begin(&mut session.client, statements, &pair)?;
        let seen = (writing.counters.serial, writing.writer);
        writing.touch()?.commit()?;
        Ok(seen)
    }

    fn last_writer(&mut self) -> Result<i64, StoreError> {
        self.look(|client, names| {
            let sql = format!("SELECT writer FROM {} WHERE pair = $1", names.meta);
            Ok(client.query_one(&sql, &[&names.pair])?.try_get(0)?)
        })
    }

    /// Reads something small.
    fn look<T>(
        &mut self,
        mut read: impl FnMut(&mut Line, &Names) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let names = self.names.clone();
        let until = Instant::now() + self.config.call_timeout;
        loop {
            let looked =
                self.connected(until).and_then(|(session, _)| read(&mut session.client, &names));
            match looked {
                Err(Fault::Lost(_)) if Instant::now() < until => self.session = None,
                Err(fault) => {
                    self.session = None;
                    return Err(self.error(fault));
                }
                Ok(seen) => return Ok(seen),
            }
        }
    }

    fn error(&self, fault: Fault) -> StoreError {
        session::error(&name(&self.names), fault)
    }
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    BeforeCommit,
    AfterCommit,
}

/// How errors call a store.
fn name(names: &Names) -> String {
    format!("{} (schema {} in PostgreSQL)", names.pair, names.schema)
}

impl SpoolStore for PostgresStore {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<Appended>, StoreError> {
        failpoint::reach("store.begin");
        let ends = !batch.finish.is_empty();
        let quota = self.quota;
        let reach = |moment| match moment {
            Moment::BeforeCommit => {
                failpoint::reach("store.before_commit");
                if ends {
                    failpoint::reach("store.finish.before_commit");
                }
            }
            Moment::AfterCommit => {
                failpoint::reach("store.after_commit");
                if ends {
                    failpoint::reach("store.finish.after_commit");
                }
            }
        };
        let result = self.transact(&mut |writing| writing.batch(batch, quota), &reach);
        result.map_err(|fault| self.error(fault))
    }

    /// A record that the server cannot even read cannot be set aside: that is
    /// [`StoreError::Failed`], and the server's own tools have to repair it.
    fn quarantine(&mut self, lsn: u64, what: &str) -> Result<(), StoreError> {
        let result = self.transact(&mut |writing| writing.quarantine(lsn, what), &|_| ());
        result.map_err(|fault| self.error(fault))
    }

    fn state(&mut self) -> Result<PairState, StoreError> {
        self.look(|client, names| {
            let sql = format!("SELECT epoch, holder, on_hold FROM {} WHERE pair = $1", names.meta);
            let row = client.query_one(&sql, &[&names.pair])?;
            let holder: i16 = row.try_get(1)?;
            Ok(PairState {
                epoch: row.try_get::<_, i64>(0)?.cast_unsigned(),
                holder: u8::try_from(holder).unwrap_or(0),
                on_hold: row.try_get(2)?,
            })
        })
    }

    fn totals(&mut self) -> Result<Totals, StoreError> {
        self.look(|client, names| {
            let mut tx = client.snapshot()?;
            let totals = read::totals(&mut tx, names)?;
            tx.rollback()?;
            Ok(totals)
        })
    }

    fn forget(&mut self, before_ms: u64, limit: usize) -> Result<u64, StoreError> {
        // Most of the time there is nothing, and nothing is written.
        let there: bool = self.look(|client, names| {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM {} WHERE ended_ms IS NOT NULL AND NOT aside
                 AND ended_ms < $1)",
                names.record
            );
            let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
            Ok(client.query_one(&sql, &[&before])?.try_get(0)?)
        })?;
        if !there {
            return Ok(0);
        }
        let result = self.transact(&mut |writing| writing.forget(before_ms, limit), &|_| ());
        result.map_err(|fault| self.error(fault))
    }

    fn reader(&self) -> Result<Box<dyn SpoolReader>, StoreError> {
        Ok(Box::new(PostgresReader::open(&self.config, &self.names.pair)?))
    }
}
