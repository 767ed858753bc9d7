//! How a connection begins, and how it is refused.

use super::parts::{Reader, put_text};
use super::{VERSION, VERSION_OLDEST, WireError, codes};

/// Who dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A sender, to a front.
    Sender,
    /// A front, to a server.
    Front,
}

/// The first message of a connection, from who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that it speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// Who it is.
    pub role: Role,
}

impl Hello {
    /// This program's.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { oldest: VERSION_OLDEST, newest: VERSION, role }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    ///
    /// What to tell the peer: it is in another role, or there is no such version.
    pub fn agree(&self, wanted: Role) -> Result<u16, Bye> {
        if self.role != wanted {
            let text = format!("a {:?} dials here, and only a {wanted:?} should", self.role);
            return Err(Bye { code: codes::bye::MISMATCH, text });
        }
        let version = self.newest.min(VERSION);
        if version < self.oldest.max(VERSION_OLDEST) {
            let text = format!(
                "no version that both speak: here {VERSION_OLDEST} to {VERSION}, there {} to {}; \
                 update the older program",
                self.oldest, self.newest
            );
            return Err(Bye { code: codes::bye::VERSION, text });
        }
        Ok(version)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(codes::MAGIC.to_le_bytes());
        out.extend(self.oldest.to_le_bytes());
        out.extend(self.newest.to_le_bytes());
        out.push(match self.role {
            Role::Sender => codes::role::SENDER,
            Role::Front => codes::role::FRONT,
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let magic = reader.u32("its magic")?;
        if magic != codes::MAGIC {
            return Err(WireError::Magic(magic));
        }
        Ok(Self {
            oldest: reader.u16("the oldest version")?,
            newest: reader.u16("the newest version")?,
            role: match reader.u8("a role")? {
                codes::role::SENDER => Role::Sender,
                codes::role::FRONT => Role::Front,
                code => {
                    return Err(WireError::UnknownCode { what: "a role", code: code.into() });
                }
            },
        })
    }
}

/// The last message of a connection: why it ends. Codes are those of
/// [`codes::bye`]; one that is not known is shown with its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer ended the connection (code {code}): {text}")]
pub struct Bye {
    /// For programs.
    pub code: u8,
    /// For people; at most [`TEXT_MAX`](crate::limits::TEXT_MAX) bytes go.
    pub text: String,
}

impl Bye {
    /// Because of a message that is none.
    #[must_use]
    pub fn malformed(error: &WireError) -> Self {
        Self { code: codes::bye::MALFORMED, text: error.to_string() }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.code);
        put_text(&self.text, out);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { code: reader.u8("why it ends")?, text: reader.text("why it ends")? })
    }
}
