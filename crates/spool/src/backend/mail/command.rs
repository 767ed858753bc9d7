//! What the payload of a request means.
//!
//! | kind | key | payload |
//! |---|---|---|
//! | write | mailbox | the message, as it is kept |
//! | read | mailbox | a number, `list`, `list AFTER`, or nothing: the newest |
//! | delete | mailbox | a number, or `id` and the 32 hex digits of the write |
//! | search | mailbox, or nothing: all | `[after:N ][subject:\|from:\|body:]TEXT` |
//! | custom 1 | mailbox | a number, and `+`, `-` or `=` with flags out of `DFPRST` |

use crate::request::RequestId;
use crate::target::ItemResult;

/// Refusal: the mailbox has a name that none has.
pub const BAD_MAILBOX: u32 = 1;
/// Refusal: the payload is none of the above.
pub const BAD_COMMAND: u32 = 2;
/// Refusal: there is no such message.
pub const NOT_FOUND: u32 = 3;
/// Refusal: a kind of request that mailboxes do not know.
pub const BAD_KIND: u32 = 4;
/// Refusal: the message is in the index, and its file is not there or cannot be read: it was
/// deleted in this moment, or it is lost.
pub const FILE_GONE: u32 = 5;

/// Bytes of the name of a mailbox.
pub const MAILBOX_MAX: usize = 128;
/// Bytes of the text that is searched for.
pub const SEARCH_MAX: usize = 256;
/// Bytes of a command.
const COMMAND_MAX: usize = 512;

pub(super) fn refused(code: u32, text: impl Into<String>) -> ItemResult {
    ItemResult::Refused { code, text: text.into() }
}

fn bad(text: &str) -> ItemResult {
    refused(BAD_COMMAND, text)
}

/// The mailbox that a key names. It becomes the name of a directory.
pub(super) fn mailbox(key: &[u8]) -> Result<&str, ItemResult> {
    let no = |what: &str| Err(refused(BAD_MAILBOX, format!("no name for a mailbox: {what}")));
    let Ok(name) = std::str::from_utf8(key) else { return no("not UTF-8") };
    if name.is_empty() || name.len() > MAILBOX_MAX {
        return no("1 to 128 bytes are allowed");
    }
    if name.starts_with('.') {
        return no("it begins with a dot");
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')) {
        return no("it has a slash or a control character in it");
    }
    Ok(name)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Newest,
    One(i64),
    List { after: i64 },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Deleting {
    One(i64),
    Written(RequestId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Any,
    Subject,
    From,
    Body,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Searching {
    pub(super) after: i64,
    pub(super) field: Field,
    /// In small letters.
    pub(super) text: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flagging {
    pub(super) uid: i64,
    pub(super) how: char,
    pub(super) flags: String,
}

fn text(payload: &[u8]) -> Result<&str, ItemResult> {
    if payload.len() > COMMAND_MAX {
        return Err(bad("the command is longer than 512 bytes"));
    }
    std::str::from_utf8(payload).map(str::trim).map_err(|_| bad("the command is not UTF-8"))
}

fn number(text: &str) -> Result<i64, ItemResult> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(bad("the number of a message is expected")),
    }
}

pub(super) fn read(payload: &[u8]) -> Result<Reading, ItemResult> {
    let text = text(payload)?;
    match text.strip_prefix("list") {
        _ if text.is_empty() => Ok(Reading::Newest),
        Some("") => Ok(Reading::List { after: 0 }),
        Some(after) if after.starts_with(' ') => {
            Ok(Reading::List { after: number(after.trim_start())? })
        }
        _ => Ok(Reading::One(number(text)?)),
    }
}

pub(super) fn delete(payload: &[u8]) -> Result<Deleting, ItemResult> {
    let text = text(payload)?;
    let Some(id) = text.strip_prefix("id ") else { return Ok(Deleting::One(number(text)?)) };
    let digits = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u128::from_str_radix(id, 16) {
        Ok(id) if digits => Ok(Deleting::Written(RequestId(id))),
        _ => Err(bad("an id has 32 hex digits")),
    }
}

pub(super) fn search(payload: &[u8]) -> Result<Searching, ItemResult> {
    let mut rest = text(payload)?;
    let mut after = 0;
    if let Some(more) = rest.strip_prefix("after:") {
        let (count, left) = more.split_once(' ').ok_or_else(|| bad("nothing to search for"))?;
        (after, rest) = (number(count)?, left.trim_start());
    }
    let fields = [("subject:", Field::Subject), ("from:", Field::From), ("body:", Field::Body)];
    let mut field = Field::Any;
    for (prefix, which) in fields {
        if let Some(left) = rest.strip_prefix(prefix) {
            (field, rest) = (which, left);
            break;
        }
    }
    if rest.is_empty() || rest.len() > SEARCH_MAX {
        return Err(bad("a text of 1 to 256 bytes is expected"));
    }
    Ok(Searching { after, field, text: rest.to_ascii_lowercase() })
}

pub(super) fn flag(payload: &[u8]) -> Result<Flagging, ItemResult> {
    let text = text(payload)?;
    let (uid, change) =
        text.split_once(' ').ok_or_else(|| bad("a number and flags are expected"))?;
    let uid = number(uid)?;
    let mut rest = change.chars();
    match rest.next() {
        Some(how @ ('+' | '-' | '=')) if rest.clone().all(|flag| "DFPRST".contains(flag)) => {
            Ok(Flagging { uid, how, flags: rest.as_str().to_owned() })
        }
        _ => Err(bad("+, - or = and flags out of DFPRST are expected")),
    }
}

/// Flags after a change: each once, in the order of the alphabet.
pub(super) fn changed(before: &str, change: &Flagging) -> String {
    let wanted = |flag: &char| match change.how {
        '+' => before.contains(*flag) || change.flags.contains(*flag),
        '-' => before.contains(*flag) && !change.flags.contains(*flag),
        _ => change.flags.contains(*flag),
    };
    "DFPRST".chars().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for good in ["a", "user@host", "Jürgen", "a.b", "a b", "cur"] {
            assert_eq!(mailbox(good.as_bytes()).unwrap(), good);
        }
        let long = "x".repeat(129);
        let bad = ["", ".", "..", "../a", "a/b", "a\\b", "/etc", ".hidden", "a\0b", "a\nb", &long];
        for bad in bad {
            assert!(mailbox(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(mailbox(b"\xff").is_err());
    }

    #[test]
    fn commands() {
        assert_eq!(read(b"").unwrap(), Reading::Newest);
        assert_eq!(read(b"12\n").unwrap(), Reading::One(12));
        assert_eq!(read(b"list").unwrap(), Reading::List { after: 0 });
        assert_eq!(read(b"list 7").unwrap(), Reading::List { after: 7 });
        for bad in ["+1", "-1", "listing", "list x", "99999999999999999999", "1 2", "\u{0660}"] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read(&[b'1'; 600]).is_err());
        assert!(read(b"\xff").is_err());
        let id = RequestId(0xab);
        assert_eq!(delete(format!("id {id}").as_bytes()).unwrap(), Deleting::Written(id));
        assert_eq!(delete(b"3").unwrap(), Deleting::One(3));
        for bad in ["", "id", "id 5", "id +0000000000000000000000000000005"] {
            assert!(delete(bad.as_bytes()).is_err(), "{bad}");
        }
        let found = search(b"after:3 subject:Hello: World").unwrap();
        let text = "hello: world".to_owned();
        assert_eq!(found, Searching { after: 3, field: Field::Subject, text });
        assert!(search(b"").is_err() && search(b"body:").is_err() && search(b"after:3").is_err());
        assert!(search(&[b'x'; 257]).is_err() && search(&[b'x'; 256]).is_ok());
    }

    #[test]
    fn flags() {
        let after =
            |before: &str, command: &str| changed(before, &flag(command.as_bytes()).unwrap());
        assert_eq!(after("S", "1 +FS"), "FS");
        assert_eq!(after("FS", "1 -F"), "S");
        assert_eq!(after("FS", "1 =TD"), "DT");
        assert_eq!(after("FS", "1 ="), "");
        for bad in ["1", "1 S", "1 +X", "x +S", "", "1 +é"] {
            assert!(flag(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
