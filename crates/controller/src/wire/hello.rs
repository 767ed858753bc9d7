//! How a connection begins, and how it is refused. These messages have one form in all versions.

use std::fmt;

use eversock_fields::{Fields, put_text};

use super::parts::{name, put_name};
use super::{Bye, Hello, Role, VERSION, VERSION_OLDEST, Welcome, WireError, codes};
use crate::limits::TEXT_MAX;

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
    /// What to tell the peer: it is in none of these roles, or there is no such version.
    pub fn agree(&self, wanted: &[Role]) -> Result<u16, Bye> {
        if !wanted.contains(&self.role) {
            let text = format!(
                "a {} dials here, and this door is for others: check the address",
                self.role
            );
            return Err(Bye::new(codes::bye::MISMATCH, text));
        }
        let version = self.newest.min(VERSION);
        if version < self.oldest.max(VERSION_OLDEST) {
            let text = format!(
                "no version that both speak: here {VERSION_OLDEST} to {VERSION}, there {} to {}; \
                 update the older program",
                self.oldest, self.newest
            );
            return Err(Bye::new(codes::bye::VERSION, text));
        }
        Ok(version)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(codes::MAGIC.to_le_bytes());
        out.extend(self.oldest.to_le_bytes());
        out.extend(self.newest.to_le_bytes());
        out.push(match self.role {
            Role::Device => codes::role::DEVICE,
            Role::ThirdParty => codes::role::THIRD_PARTY,
            Role::Partner => codes::role::PARTNER,
        });
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        let magic = fields.u32("its magic")?;
        if magic != codes::MAGIC {
            return Err(WireError::Magic(magic));
        }
        Ok(Self {
            oldest: fields.u16("the oldest version")?,
            newest: fields.u16("the newest version")?,
            role: match fields.u8("a role")? {
                codes::role::DEVICE => Role::Device,
                codes::role::THIRD_PARTY => Role::ThirdParty,
                codes::role::PARTNER => Role::Partner,
                code => return Err(WireError::unknown("a role", code)),
            },
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::ThirdParty => "third party",
            Self::Partner => "partner",
        })
    }
}

impl Welcome {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.version.to_le_bytes());
        put_name(&self.controller, out);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self { version: fields.u16("a version")?, controller: name(fields)? })
    }
}

impl Bye {
    /// With a code of [`codes::bye`], and no word of when to come back.
    #[must_use]
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, after_ms: 0, text: text.into() }
    }

    /// Because of a message that is none.
    #[must_use]
    pub fn malformed(error: &WireError) -> Self {
        Self::new(codes::bye::MALFORMED, error.to_string())
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.code);
        out.extend(self.after_ms.to_le_bytes());
        put_text(&self.text, TEXT_MAX, out);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            code: fields.u8("why it ends")?,
            after_ms: fields.u32("when to come back")?,
            text: fields.text("why it ends", TEXT_MAX)?.to_owned(),
        })
    }
}

impl fmt::Display for Bye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection was ended (code {}): {}", self.code, self.text)
    }
}
