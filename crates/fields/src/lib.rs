//! The fields that messages on the wire are made of.
//!
//! Numbers are little-endian. A text or a run of bytes is its length as a u32 and then itself, and
//! a list is its count as a u32 and then its items. A duration is its whole microseconds, rounded
//! up, as a u64. Something that may be missing is 0, or 1 and then itself. Every length is checked
//! against a limit, and against what is there, before memory is taken for it.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why bytes are not the fields that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldError {
    /// They end too early.
    Short(&'static str),
    /// They go on behind the last field.
    Trailing {
        /// How many there are.
        count: usize,
    },
    /// A code without a meaning.
    UnknownCode {
        /// Of what.
        what: &'static str,
        /// Which.
        code: u64,
    },
    /// A length or a number that is larger than it may be.
    TooLong {
        /// Of what, with its unit.
        what: &'static str,
        /// What came.
        came: u64,
        /// What may be.
        limit: u64,
    },
    /// Bytes that should be text.
    NotText(&'static str),
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(what) => write!(f, "the message ends before {what}"),
            Self::Trailing { count } => {
                write!(f, "{count} bytes stand behind the end of the message")
            }
            Self::UnknownCode { what, code } => {
                write!(f, "{code} means nothing as {what}; does the peer speak another version?")
            }
            Self::TooLong { what, came, limit } => {
                write!(f, "{what} is {came}, and may be {limit} at most")
            }
            Self::NotText(what) => write!(f, "{what} is not UTF-8"),
        }
    }
}

impl Error for FieldError {}

/// Reads fields from the front of a body and never beyond it. `what` names the field in errors.
#[derive(Debug, Clone)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a whole body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// Bytes that are not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    ///
    /// [`FieldError::Trailing`]
    pub fn end(&self) -> Result<(), FieldError> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(FieldError::Trailing { count }),
        }
    }

    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], FieldError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(FieldError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    /// So many bytes as they are.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FieldError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// A number of one byte.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn u8(&mut self, what: &'static str) -> Result<u8, FieldError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A number of two bytes.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn u16(&mut self, what: &'static str) -> Result<u16, FieldError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// A number of four bytes.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn u32(&mut self, what: &'static str) -> Result<u32, FieldError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A number of eight bytes.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn u64(&mut self, what: &'static str) -> Result<u64, FieldError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A number of sixteen bytes.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`]
    pub fn u128(&mut self, what: &'static str) -> Result<u128, FieldError> {
        Ok(u128::from_le_bytes(self.array(what)?))
    }

    /// 0 or 1.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`], [`FieldError::UnknownCode`]
    pub fn flag(&mut self, what: &'static str) -> Result<bool, FieldError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            code => Err(FieldError::UnknownCode { what, code: code.into() }),
        }
    }

    /// 0, or 1 and then what `read` reads.
    ///
    /// # Errors
    ///
    /// Those of [`Self::flag`] and of `read`.
    pub fn option<T, E: From<FieldError>>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        if self.flag(what)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A count or a length of at most `limit`.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`], [`FieldError::TooLong`]
    pub fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, FieldError> {
        let came = self.u32(what)?;
        match usize::try_from(came) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(FieldError::TooLong { what, came: came.into(), limit: limit as u64 }),
        }
    }

    /// At most `limit` items that `read` reads. Room is made as they are read, so that a count
    /// alone costs nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Self::count`] and of `read`.
    pub fn list<T, E: From<FieldError>>(
        &mut self,
        what: &'static str,
        limit: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let count = self.count(what, limit)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// A run of at most `limit` bytes, still where it lies.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`], [`FieldError::TooLong`]
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], FieldError> {
        let length = self.count(what, limit)?;
        self.take(length, what)
    }

    /// A text of at most `limit` bytes, still where it lies.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`], [`FieldError::TooLong`], [`FieldError::NotText`]
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, FieldError> {
        let bytes = self.bytes(what, limit)?;
        std::str::from_utf8(bytes).map_err(|_| FieldError::NotText(what))
    }

    /// A duration of at most `limit`.
    ///
    /// # Errors
    ///
    /// [`FieldError::Short`], [`FieldError::TooLong`]
    pub fn duration(
        &mut self,
        what: &'static str,
        limit: Duration,
    ) -> Result<Duration, FieldError> {
        let (came, limit) = (self.u64(what)?, micros(limit));
        if came > limit {
            return Err(FieldError::TooLong { what, came, limit });
        }
        Ok(Duration::from_micros(came))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Appends a count; whoever reads it refuses one that is too large for a u32.
pub fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

/// Appends a run of bytes.
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_count(bytes.len(), out);
    out.extend(bytes);
}

/// Appends a text. Of one longer than `limit` bytes goes what fits, whole characters of it.
pub fn put_text(text: &str, limit: usize, out: &mut Vec<u8>) {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    put_bytes(&text.as_bytes()[..end.unwrap_or(0)], out);
}

/// Appends a duration. One longer than `limit` goes as `limit`.
pub fn put_duration(duration: Duration, limit: Duration, out: &mut Vec<u8>) {
    out.extend(micros(duration.min(limit)).to_le_bytes());
}

/// Appends whether there is something, and then that.
pub fn put_option<T>(value: Option<T>, out: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    out.push(value.is_some().into());
    if let Some(value) = value {
        put(value, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "a field";

    #[test]
    fn numbers_are_little_endian_and_never_read_beyond_the_end() {
        let bytes: Vec<u8> = (1..=32).collect();
        let mut fields = Fields::new(&bytes);
        assert_eq!(fields.u8(WHAT), Ok(1));
        assert_eq!(fields.u16(WHAT), Ok(0x0302));
        assert_eq!(fields.u32(WHAT), Ok(0x0706_0504));
        assert_eq!(fields.u64(WHAT), Ok(0x0f0e_0d0c_0b0a_0908));
        assert_eq!(fields.u128(WHAT), Ok(0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110));
        assert_eq!(fields.u16(WHAT), Err(FieldError::Short(WHAT)));
        assert_eq!(fields.end(), Err(FieldError::Trailing { count: 1 }));
        assert_eq!(fields.u8(WHAT), Ok(32));
        assert_eq!(fields.end(), Ok(()));
    }

    #[test]
    fn lengths_are_held_against_the_limit_and_against_what_is_there() {
        let mut out = Vec::new();
        put_bytes(b"abc", &mut out);
        assert_eq!(out, [3, 0, 0, 0, b'a', b'b', b'c']);
        assert_eq!(Fields::new(&out).bytes(WHAT, 3), Ok(&b"abc"[..]));
        let too_long = FieldError::TooLong { what: WHAT, came: 3, limit: 2 };
        assert_eq!(Fields::new(&out).bytes(WHAT, 2), Err(too_long));
        assert_eq!(Fields::new(&out[..6]).bytes(WHAT, 3), Err(FieldError::Short(WHAT)));
        let huge = [255; 4];
        let list = Fields::new(&huge).list(WHAT, usize::MAX, |fields| fields.u8(WHAT));
        assert_eq!(list, Err(FieldError::Short(WHAT)), "and no memory was taken");
    }

    #[test]
    fn a_text_goes_as_far_as_whole_characters_fit() {
        let mut out = Vec::new();
        put_text("a\u{e4}b", 2, &mut out);
        assert_eq!(Fields::new(&out).text(WHAT, 2), Ok("a"));
        let not_text = [1, 0, 0, 0, 0xff];
        assert_eq!(Fields::new(&not_text).text(WHAT, 9), Err(FieldError::NotText(WHAT)));
    }

    #[test]
    fn durations_are_rounded_up_and_bounded() {
        let (mut out, limit) = (Vec::new(), Duration::from_secs(1));
        put_duration(Duration::from_nanos(1), limit, &mut out);
        put_duration(Duration::MAX, limit, &mut out);
        let mut fields = Fields::new(&out);
        assert_eq!(fields.duration(WHAT, limit), Ok(Duration::from_micros(1)));
        assert_eq!(fields.clone().duration(WHAT, limit), Ok(limit));
        let less = limit - Duration::from_micros(1);
        assert!(matches!(fields.duration(WHAT, less), Err(FieldError::TooLong { .. })));
    }

    #[test]
    fn what_may_be_missing_is_0_or_1_and_itself() {
        let mut out = Vec::new();
        put_option(Some(7u8), &mut out, |n, out| out.push(n));
        put_option(None::<u8>, &mut out, |n, out| out.push(n));
        out.push(2);
        assert_eq!(out, [1, 7, 0, 2]);
        let mut fields = Fields::new(&out);
        assert_eq!(fields.option(WHAT, |f| f.u8(WHAT)), Ok(Some(7)));
        assert_eq!(fields.option(WHAT, |f| f.u8(WHAT)), Ok(None));
        let unknown = FieldError::UnknownCode { what: WHAT, code: 2 };
        assert_eq!(fields.option(WHAT, |f| f.u8(WHAT)), Err(unknown));
    }
}
