//! The index: what makes a message be there.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::headers::Headers;
use crate::request::RequestId;

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS mail (
        uid INTEGER PRIMARY KEY AUTOINCREMENT,
        mailbox TEXT NOT NULL,
        name TEXT NOT NULL,
        id BLOB NOT NULL,
        size INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        flags TEXT NOT NULL DEFAULT '',
        subject TEXT NOT NULL,
        sender TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS mail_mailbox ON mail (mailbox, uid);
    CREATE INDEX IF NOT EXISTS mail_name ON mail (name);
    CREATE INDEX IF NOT EXISTS mail_id ON mail (id);
";

/// A message in the index, and in the answer to those who ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    pub(super) uid: i64,
    pub(super) mailbox: String,
    pub(super) size: i64,
    pub(super) at_ms: i64,
    pub(super) flags: String,
    pub(super) subject: String,
    pub(super) from: String,
    #[serde(skip)]
    pub(super) name: String,
}

const COLUMNS: &str = "uid, mailbox, size, at_ms, flags, subject, sender, name";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        uid: row.get(0)?,
        mailbox: row.get(1)?,
        size: row.get(2)?,
        at_ms: row.get(3)?,
        flags: row.get(4)?,
        subject: row.get(5)?,
        from: row.get(6)?,
        name: row.get(7)?,
    })
}

pub(super) struct NewMail<'a> {
    pub(super) mailbox: &'a str,
    pub(super) name: &'a str,
    pub(super) id: RequestId,
    pub(super) size: usize,
    pub(super) at_ms: u64,
    pub(super) headers: &'a Headers,
}

pub(super) fn insert(tx: &Connection, mail: &NewMail<'_>) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "INSERT INTO mail (mailbox, name, id, size, at_ms, subject, sender)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        mail.mailbox,
        mail.name,
        mail.id.0.to_be_bytes(),
        i64::try_from(mail.size).unwrap_or(i64::MAX),
        i64::try_from(mail.at_ms).unwrap_or(i64::MAX),
        mail.headers.subject,
        mail.headers.from
    ])?;
    Ok(tx.last_insert_rowid())
}

pub(super) fn one(tx: &Connection, mailbox: &str, uid: i64) -> rusqlite::Result<Option<Entry>> {
    tx.prepare_cached(&format!("SELECT {COLUMNS} FROM mail WHERE uid = ?1 AND mailbox = ?2"))?
        .query_row(params![uid, mailbox], entry)
        .optional()
}

pub(super) fn newest(tx: &Connection, mailbox: &str) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM mail WHERE mailbox = ?1 ORDER BY uid DESC LIMIT 1");
    tx.prepare_cached(&sql)?.query_row([mailbox], entry).optional()
}

pub(super) fn written(
    tx: &Connection,
    mailbox: &str,
    id: RequestId,
) -> rusqlite::Result<Option<Entry>> {
    tx.prepare_cached(&format!("SELECT {COLUMNS} FROM mail WHERE id = ?1 AND mailbox = ?2"))?
        .query_row(params![id.0.to_be_bytes(), mailbox], entry)
        .optional()
}

/// Messages of one mailbox, or of all, with numbers above `after`.
pub(super) fn list(
    tx: &Connection,
    mailbox: Option<&str>,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Entry>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let which = if mailbox.is_some() { "mailbox = ?3 AND" } else { "?3 IS NULL AND" };
    let sql = format!("SELECT {COLUMNS} FROM mail WHERE {which} uid > ?1 ORDER BY uid LIMIT ?2");
    tx.prepare_cached(&sql)?.query_map(params![after, limit, mailbox], entry)?.collect()
}

pub(super) fn remove(tx: &Connection, uid: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM mail WHERE uid = ?1")?.execute([uid])?;
    Ok(())
}

pub(super) fn set_flags(tx: &Connection, uid: i64, flags: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE mail SET flags = ?2 WHERE uid = ?1")?.execute(params![uid, flags])?;
    Ok(())
}

pub(super) fn has_file(tx: &Connection, mailbox: &str, name: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT 1 FROM mail WHERE name = ?1 AND mailbox = ?2")?
        .exists(params![name, mailbox])
}
