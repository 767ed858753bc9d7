//! What requests do to mailboxes.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use serde_json::json;

use super::command::{
    self, BAD_COMMAND, BAD_KIND, Deleting, FILE_GONE, Field, NOT_FOUND, Reading, Searching, refused,
};
use super::files::{Files, Stray};
use super::headers::{self, Headers};
use super::index::{self, Entry, NewMail};
use crate::backend::ledgered::Effects;
use crate::limits::PAYLOAD_MAX;
use crate::record::Record;
use crate::request::Kind;
use crate::target::ItemResult;

/// Messages of one list.
pub const LIST_MAX: usize = 500;
/// Messages that one search gives.
pub const FOUND_MAX: usize = 200;
/// Messages that one search looks at.
pub const LOOKED_AT_MAX: usize = 2000;
/// Bytes of messages that one search reads.
pub const SEARCHED_BYTES_MAX: usize = 64 << 20;
/// The code of the [`Kind::Custom`] that changes flags.
pub const FLAGS: u16 = 1;

/// Mailboxes under one directory: [`Effects`] for a ledger in the same directory.
#[derive(Debug)]
pub struct Mailboxes {
    files: Files,
    retry_after: Duration,
}

/// What was done, or is to be done, to files.
#[derive(Debug)]
pub struct Prepared(Work);

#[derive(Debug)]
enum Work {
    /// A message that is in `new`, and in no index yet.
    Written { mailbox: String, name: String, headers: Headers },
    /// A message that loses its file when the transaction has been committed.
    Delete(OnceLock<Entry>),
    /// A message whose file moves when the transaction has been committed.
    Flag(OnceLock<Entry>),
}

impl Mailboxes {
    /// Under this directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn open(directory: &Path, retry_after: Duration) -> io::Result<Self> {
        Ok(Self { files: Files::open(directory)?, retry_after })
    }

    /// Tells of files older than the grace, which may belong to no message, in portions; see
    /// [`Files::strays`].
    pub(super) fn strays(
        &self,
        grace: Duration,
        portion: &mut dyn FnMut(&[Stray]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.files.strays(grace, portion)
    }

    /// Those of the files that no message has now.
    pub(super) fn unknown<'a>(
        connection: &Connection,
        strays: &'a [Stray],
    ) -> rusqlite::Result<Vec<&'a Stray>> {
        let mut unknown = Vec::new();
        for stray in strays {
            if !index::has_file(connection, &stray.mailbox, &stray.name)? {
                unknown.push(stray);
            }
        }
        Ok(unknown)
    }

    /// Removes those of the files that no message has. Nobody writes beside this transaction, and
    /// whoever writes after it looks whether its file is still there.
    pub(super) fn sweep(tx: &Transaction<'_>, strays: &[&Stray]) -> rusqlite::Result<u64> {
        let mut swept = 0;
        for stray in strays {
            if !index::has_file(tx, &stray.mailbox, &stray.name)? {
                stray.remove();
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn later(&self, what: &str, error: &io::Error) -> ItemResult {
        log::warn!("mail: {what}: {error}");
        ItemResult::Later { after: self.retry_after }
    }

    fn deliver(
        &self,
        tx: &Connection,
        item: &Record,
        prepared: &Work,
    ) -> rusqlite::Result<ItemResult> {
        let Work::Written { mailbox, name, headers } = prepared else {
            return Ok(refused(BAD_KIND, "not a write"));
        };
        // A sweep may have come between: it takes no file any more once this transaction is open.
        if !self.files.is_new(mailbox, name) {
            return Ok(ItemResult::Later { after: Duration::ZERO });
        }
        let (id, size, at_ms) = (item.id, item.payload.len(), item.accepted_ms);
        let uid = index::insert(tx, &NewMail { mailbox, name, id, size, at_ms, headers })?;
        Ok(done(&json!({ "uid": uid })))
    }

    fn delete(
        &self,
        tx: &Connection,
        item: &Record,
        later: &OnceLock<Entry>,
    ) -> rusqlite::Result<ItemResult> {
        let parsed = command::mailbox(&item.key)
            .and_then(|mailbox| Ok((mailbox, command::delete(&item.payload)?)));
        let (mailbox, which) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => return Ok(refusal),
        };
        let found = match which {
            Deleting::One(uid) => index::one(tx, mailbox, uid)?,
            Deleting::Written(id) => index::written(tx, mailbox, id)?,
        };
        let deleted = u32::from(found.is_some());
        if let Some(entry) = found {
            index::remove(tx, entry.uid)?;
            let _first = later.set(entry);
        }
        Ok(done(&json!({ "deleted": deleted })))
    }

    fn flag(
        &self,
        tx: &Connection,
        item: &Record,
        later: &OnceLock<Entry>,
    ) -> rusqlite::Result<ItemResult> {
        let parsed = command::mailbox(&item.key)
            .and_then(|mailbox| Ok((mailbox, command::flag(&item.payload)?)));
        let (mailbox, change) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => return Ok(refusal),
        };
        let Some(mut entry) = index::one(tx, mailbox, change.uid)? else {
            return Ok(refused(NOT_FOUND, format!("no message {} in {mailbox}", change.uid)));
        };
        entry.flags = command::changed(&entry.flags, &change);
        index::set_flags(tx, entry.uid, &entry.flags)?;
        let answer = done(&json!({ "uid": entry.uid, "flags": entry.flags }));
        let _first = later.set(entry);
        Ok(answer)
    }

    fn read(&self, tx: &Connection, item: &Record) -> rusqlite::Result<ItemResult> {
        let parsed = command::mailbox(&item.key)
            .and_then(|mailbox| Ok((mailbox, command::read(&item.payload)?)));
        let (mailbox, which) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => return Ok(refusal),
        };
        let entry = match which {
            Reading::One(uid) => index::one(tx, mailbox, uid)?,
            Reading::Newest => index::newest(tx, mailbox)?,
            Reading::List { after } => {
                let mut messages = index::list(tx, Some(mailbox), after, LIST_MAX + 1)?;
                let more = messages.len() > LIST_MAX;
                messages.truncate(LIST_MAX);
                return Ok(done(&json!({ "messages": messages, "more": more })));
            }
        };
        let Some(entry) = entry else {
            return Ok(refused(NOT_FOUND, format!("no such message in {mailbox}")));
        };
        match self.files.read(mailbox, &entry.name, &entry.flags, PAYLOAD_MAX) {
            Ok(answer) => Ok(ItemResult::Done { answer, again: false }),
            Err(error) => {
                log::error!("mail: message {} of {mailbox}: {error}", entry.uid);
                Ok(refused(FILE_GONE, format!("message {} cannot be read: {error}", entry.uid)))
            }
        }
    }

    fn search(&self, tx: &Connection, item: &Record) -> rusqlite::Result<ItemResult> {
        let mailbox =
            if item.key.is_empty() { Ok(None) } else { command::mailbox(&item.key).map(Some) };
        let parsed = mailbox.and_then(|mailbox| Ok((mailbox, command::search(&item.payload)?)));
        let (mailbox, wanted) = match parsed {
            Ok(parsed) => parsed,
            Err(refusal) => return Ok(refusal),
        };
        let looked_at = index::list(tx, mailbox, wanted.after, LOOKED_AT_MAX + 1)?;
        let mut left = SEARCHED_BYTES_MAX;
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        let (mut last, mut next) = (wanted.after, None);
        for (place, entry) in looked_at.into_iter().enumerate() {
            if place == LOOKED_AT_MAX || found.len() == FOUND_MAX || left == 0 {
                next = Some(last);
                break;
            }
            last = entry.uid;
            match self.fits(&entry, &wanted, &mut left) {
                Ok(true) => found.push(entry),
                Ok(false) => {}
                Err(error) => {
                    log::error!("mail: message {} of {}: {error}", entry.uid, entry.mailbox);
                    unread.push(entry.uid);
                }
            }
        }
        let mut answer = json!({ "found": found, "next": next });
        if !unread.is_empty() {
            // Whether they have the text, nobody can say.
            answer["unread"] = json!(unread);
        }
        Ok(done(&answer))
    }

    fn fits(&self, entry: &Entry, wanted: &Searching, left: &mut usize) -> io::Result<bool> {
        let has = |text: &str| text.to_ascii_lowercase().contains(&wanted.text);
        let in_headers = match wanted.field {
            Field::Any => has(&entry.subject) || has(&entry.from),
            Field::Subject => has(&entry.subject),
            Field::From => has(&entry.from),
            Field::Body => false,
        };
        if in_headers || !matches!(wanted.field, Field::Any | Field::Body) {
            return Ok(in_headers);
        }
        // The message that goes over the bound is still searched whole.
        let mut message =
            self.files.read(&entry.mailbox, &entry.name, &entry.flags, PAYLOAD_MAX)?;
        *left = left.saturating_sub(message.len());
        message.make_ascii_lowercase();
        Ok(String::from_utf8_lossy(headers::body(&message)).contains(&wanted.text))
    }
}

fn done(answer: &serde_json::Value) -> ItemResult {
    ItemResult::Done { answer: answer.to_string().into_bytes(), again: false }
}

impl Effects for Mailboxes {
    type Prepared = Prepared;

    fn set_up(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        tx.execute_batch(index::TABLES)
    }

    fn prepare(&self, item: &Record) -> Result<Prepared, ItemResult> {
        let mailbox = command::mailbox(&item.key)?;
        match item.kind {
            Kind::Write => {
                if item.payload.is_empty() {
                    return Err(refused(BAD_COMMAND, "an empty message"));
                }
                let name = self
                    .files
                    .write(mailbox, &item.payload)
                    .map_err(|error| self.later("a message cannot be written", &error))?;
                let (mailbox, headers) = (mailbox.to_owned(), headers::parse(&item.payload));
                Ok(Prepared(Work::Written { mailbox, name, headers }))
            }
            Kind::Delete => Ok(Prepared(Work::Delete(OnceLock::new()))),
            Kind::Custom(FLAGS) => Ok(Prepared(Work::Flag(OnceLock::new()))),
            kind => Err(refused(BAD_KIND, format!("mailboxes know no request of kind {kind}"))),
        }
    }

    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        prepared: Option<&Prepared>,
    ) -> rusqlite::Result<ItemResult> {
        match (item.kind, prepared) {
            (Kind::Read, _) => self.read(tx, item),
            (Kind::Search, _) => self.search(tx, item),
            (_, Some(Prepared(work @ Work::Written { .. }))) => self.deliver(tx, item, work),
            (_, Some(Prepared(Work::Delete(later)))) => self.delete(tx, item, later),
            (_, Some(Prepared(Work::Flag(later)))) => self.flag(tx, item, later),
            (_, None) => Ok(ItemResult::Later { after: Duration::ZERO }),
        }
    }

    fn settle(&self, _item: &Record, prepared: Prepared, applied: Option<bool>) {
        match (prepared.0, applied) {
            (Work::Written { mailbox, name, .. }, Some(false)) => {
                self.files.remove(&mailbox, &name, "");
            }
            (Work::Delete(entry), Some(true)) => {
                if let Some(Entry { mailbox, name, flags, .. }) = entry.into_inner() {
                    self.files.remove(&mailbox, &name, &flags);
                }
            }
            (Work::Flag(entry), Some(true)) => {
                if let Some(Entry { mailbox, name, flags, .. }) = entry.into_inner()
                    && let Err(error) = self.files.flag(&mailbox, &name, &flags)
                {
                    // It is found under its old name, and by its flags in the index.
                    log::warn!("mail: a file of {mailbox} keeps its name: {error}");
                }
            }
            // Nobody knows, or nothing was done: a sweep asks the index.
            (Work::Written { .. } | Work::Delete(_) | Work::Flag(_), _) => {}
        }
    }
}
