//! A mail for one recipient as the payload of a record.

use std::borrow::Cow;

use crate::limits::{KEY_MAX, PAYLOAD_MAX};
use crate::request::RequestId;

const VERSION: u8 = 1;
const MAIL: u8 = b'M';
const EIGHT_BIT: u8 = 1;
const UTF8: u8 = 2;
/// What stands before the content, without addresses.
const HEAD: usize = 7;

/// What is no mail, or none that fits a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Longer than what a record holds.
    #[error("{what} is longer than the {limit} bytes that fit a record: send it in parts")]
    TooLong {
        /// What.
        what: &'static str,
        /// Bytes.
        limit: usize,
    },
    /// Bytes that no version so far has written.
    #[error("not a mail of version {VERSION}: {what}; was it spooled by another front?")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
}

/// A mail for one recipient.
///
/// As bytes, numbers big-endian: the byte 1, `M`, flags (1: BODY=8BITMIME, 2: SMTPUTF8), sender and
/// recipient (length u16 each), content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Empty for one that must not be answered. Without quotes: see [`Mail::path`].
    pub sender: String,
    /// As the client wrote it, but without quotes: see [`Mail::path`].
    pub recipient: String,
    /// The client said `BODY=8BITMIME`.
    pub eight_bit: bool,
    /// The client said `SMTPUTF8`.
    pub utf8: bool,
    /// Lines end in CR LF; dots that were put in for the way are out again.
    pub content: Vec<u8>,
}

impl Mail {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// [`MailError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, MailError> {
        let length = HEAD + self.sender.len() + self.recipient.len() + self.content.len();
        within("the mail", length, PAYLOAD_MAX)?;
        let mut out = Vec::with_capacity(length);
        let flags = if self.eight_bit { EIGHT_BIT } else { 0 } | if self.utf8 { UTF8 } else { 0 };
        out.extend_from_slice(&[VERSION, MAIL, flags]);
        for address in [&self.sender, &self.recipient] {
            within("an address", address.len(), KEY_MAX)?;
            out.extend_from_slice(&(address.len() as u16).to_be_bytes());
            out.extend_from_slice(address.as_bytes());
        }
        out.extend_from_slice(&self.content);
        Ok(out)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// They are not those of a mail.
    pub fn decode(bytes: &[u8]) -> Result<Self, MailError> {
        within("the mail", bytes.len(), PAYLOAD_MAX)?;
        let [VERSION, MAIL, flags, rest @ ..] = bytes else {
            return Err(invalid("its version"));
        };
        if flags & !(EIGHT_BIT | UTF8) != 0 {
            return Err(invalid("its flags"));
        }
        let (sender, rest) = address(rest)?;
        let (recipient, content) = address(rest)?;
        Ok(Self {
            sender,
            recipient,
            eight_bit: flags & EIGHT_BIT != 0,
            utf8: flags & UTF8 != 0,
            content: content.to_vec(),
        })
    }

    /// What requests for the same mailbox have in common: the recipient in lower case. Local parts
    /// that differ in case only are one mailbox nearly everywhere; where they are not, their mails
    /// merely wait for each other.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        self.recipient.to_lowercase().into_bytes()
    }

    /// The number of the request with this payload: its hash, so that a client that sends the same
    /// message again, since one of its recipients could not be served, asks for nothing new.
    ///
    /// Sender, recipient, parameters and content are all in it, and the Message-ID in the content.
    /// A message without one has a random number instead: two equal alarms of a script are two
    /// mails. Hence the limits: such a message may come twice to recipients who had it when another
    /// one failed; and one that is sent again on purpose, with its old Message-ID, is not delivered
    /// again as long as the pair knows its id (`keep_ids`).
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub fn id(&self, payload: &[u8]) -> std::io::Result<RequestId> {
        if !has_message_id(&self.content) {
            return RequestId::random();
        }
        let mut name = b"smtp\0".to_vec();
        name.extend_from_slice(ring::digest::digest(&ring::digest::SHA256, payload).as_ref());
        Ok(RequestId::of_name(&name))
    }

    /// An address as it stands in a command, without the angle brackets: its local part in quotes
    /// if it needs them.
    #[must_use]
    pub fn path(address: &str) -> Cow<'_, str> {
        let (local, domain) = match address.rsplit_once('@') {
            Some((local, domain)) => (local, Some(domain)),
            None => (address, None),
        };
        let atom =
            |c: char| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c);
        let dots = local.starts_with('.') || local.ends_with('.') || local.contains("..");
        if address.is_empty()
            || (!local.is_empty() && !dots && local.chars().all(|c| atom(c) || c == '.'))
        {
            return Cow::Borrowed(address);
        }
        let mut quoted = String::from("\"");
        for c in local.chars() {
            if c == '"' || c == '\\' {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        if let Some(domain) = domain {
            quoted.push('@');
            quoted.push_str(domain);
        }
        Cow::Owned(quoted)
    }
}

fn invalid(what: &'static str) -> MailError {
    MailError::Invalid { what }
}

fn within(what: &'static str, length: usize, limit: usize) -> Result<(), MailError> {
    if length > limit { Err(MailError::TooLong { what, limit }) } else { Ok(()) }
}

fn address(bytes: &[u8]) -> Result<(String, &[u8]), MailError> {
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| invalid("it ends too soon"))?;
    let length = usize::from(u16::from_be_bytes(*length));
    within("an address", length, KEY_MAX)?;
    let (text, rest) = rest.split_at_checked(length).ok_or_else(|| invalid("it ends too soon"))?;
    let text = std::str::from_utf8(text).map_err(|_| invalid("an address that is no UTF-8"))?;
    Ok((text.to_owned(), rest))
}

/// Whether a Message-ID with something in it stands before the first empty line.
fn has_message_id(content: &[u8]) -> bool {
    let mut lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).peekable();
    while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
        if !name.eq_ignore_ascii_case(b"message-id") {
            continue;
        }
        // The value may stand in a line of its own, which then begins with a space.
        let folded = lines.peek().filter(|next| value.is_empty() && next.starts_with(b" "));
        let value = folded.map_or(value, |next| next.trim_ascii());
        if value.len() > 2 && value.starts_with(b"<") {
            return true;
        }
    }
    false
}
