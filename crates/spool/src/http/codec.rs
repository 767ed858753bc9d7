//! An HTTP request as the payload of a record, and an HTTP response as its answer.
//!
//! Version 1, numbers big-endian: the byte 1, then `Q` and method (length u8) and path with query
//! (length u16), or `A` and status (u16); then the headers: their count (u8), each a name (length
//! u8) and a value (length u16), names in lower case and in ascending order; the rest is the body.
//! There is one form of each request: equal requests are equal bytes, and so have one fingerprint.

/// Bytes that messages are read from and bodies are made of; parts of them share their memory.
pub use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode};

use crate::limits::PAYLOAD_MAX;

/// Bytes of a method.
pub const METHOD_MAX: usize = 32;
/// Bytes of a path with its query.
pub const TARGET_MAX: usize = 8192;
/// Headers of one message; each value of a repeated one counts.
pub const HEADERS_MAX: usize = 128;
/// Bytes of all names and values of one message.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body: what is left of a payload when all else is as long as it may be.
pub const BODY_MAX: usize =
    PAYLOAD_MAX - HEADER_BYTES_MAX - TARGET_MAX - METHOD_MAX - 3 * HEADERS_MAX - 8;

const VERSION: u8 = 1;
const REQUEST: u8 = b'Q';
const ANSWER: u8 = b'A';

/// What cannot be written or read in this form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than what this form holds.
    #[error("{what} is longer than the {limit} that fit a record: make it shorter")]
    TooLong {
        /// What.
        what: &'static str,
        /// Bytes, or their number.
        limit: usize,
    },
    /// Bytes that no version so far has written.
    #[error("not an HTTP message of version {VERSION}: {what}; was it spooled by another front?")]
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// At most [`METHOD_MAX`] bytes.
    pub method: Method,
    /// As the client sent it, at most [`TARGET_MAX`] bytes; begins with `/`.
    pub target: PathAndQuery,
    /// Those that go to the service.
    pub headers: HeaderMap,
    /// At most [`BODY_MAX`] bytes.
    pub body: Bytes,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// 100 to 999.
    pub status: StatusCode,
    /// Those that go to the client.
    pub headers: HeaderMap,
    /// At most [`BODY_MAX`] bytes.
    pub body: Bytes,
}

impl HttpRequest {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let (method, target) = (self.method.as_str(), self.target.as_str());
        within("the method", method.len(), METHOD_MAX)?;
        within("the path with its query", target.len(), TARGET_MAX)?;
        let mut out = vec![VERSION, REQUEST, method.len() as u8];
        out.extend_from_slice(method.as_bytes());
        out.extend_from_slice(&(target.len() as u16).to_be_bytes());
        out.extend_from_slice(target.as_bytes());
        put_rest(&mut out, &self.headers, &self.body)?;
        Ok(out)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// They are not those of a request.
    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::begin(bytes, REQUEST)?;
        let length = reader.u8()?.into();
        within("the method", length, METHOD_MAX)?;
        let method = Method::from_bytes(reader.take(length)?).map_err(|_| invalid("its method"))?;
        let length = reader.u16()?.into();
        within("the path with its query", length, TARGET_MAX)?;
        let text = reader.take(length)?;
        let target = PathAndQuery::try_from(text).map_err(|_| invalid("its path"))?;
        // What is parsed more kindly than it is written would have two forms.
        if target.as_str().as_bytes() != text || !text.starts_with(b"/") {
            return Err(invalid("its path"));
        }
        let (headers, body) = reader.rest()?;
        Ok(Self { method, target, headers, body })
    }
}

impl HttpAnswer {
    /// As bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![VERSION, ANSWER];
        out.extend_from_slice(&self.status.as_u16().to_be_bytes());
        put_rest(&mut out, &self.headers, &self.body)?;
        Ok(out)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// They are not those of a response.
    pub fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::begin(bytes, ANSWER)?;
        let status = StatusCode::from_u16(reader.u16()?).map_err(|_| invalid("its status"))?;
        let (headers, body) = reader.rest()?;
        Ok(Self { status, headers, body })
    }
}

fn invalid(what: &'static str) -> CodecError {
    CodecError::Invalid { what }
}

fn within(what: &'static str, length: usize, limit: usize) -> Result<(), CodecError> {
    if length > limit { Err(CodecError::TooLong { what, limit }) } else { Ok(()) }
}

fn put_rest(out: &mut Vec<u8>, headers: &HeaderMap, body: &Bytes) -> Result<(), CodecError> {
    within("the list of headers", headers.len(), HEADERS_MAX)?;
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    within("the text of the headers", bytes, HEADER_BYTES_MAX)?;
    within("the body", body.len(), BODY_MAX)?;
    let mut names: Vec<&HeaderName> = headers.keys().collect();
    names.sort_unstable_by_key(|name| name.as_str());
    out.reserve(1 + bytes + 3 * headers.len() + body.len());
    out.push(headers.len() as u8);
    for name in names {
        let text = name.as_str().as_bytes();
        within("the name of a header", text.len(), u8::MAX.into())?;
        for value in headers.get_all(name) {
            within("a header", value.len(), u16::MAX.into())?;
            out.push(text.len() as u8);
            out.extend_from_slice(text);
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value.as_bytes());
        }
    }
    out.extend_from_slice(body);
    Ok(())
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn begin(bytes: &'a Bytes, what: u8) -> Result<Self, CodecError> {
        within("the message", bytes.len(), PAYLOAD_MAX)?;
        let mut reader = Self { bytes, at: 0 };
        match reader.take(2)? {
            [VERSION, found] if *found == what => Ok(reader),
            [VERSION, _] => Err(invalid("another kind of message")),
            _ => Err(invalid("its version")),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let part =
            self.bytes.get(self.at..self.at + length).ok_or_else(|| invalid("it ends too soon"))?;
        self.at += length;
        Ok(part)
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, CodecError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn rest(mut self) -> Result<(HeaderMap, Bytes), CodecError> {
        let count = usize::from(self.u8()?);
        within("the list of headers", count, HEADERS_MAX)?;
        let mut headers = HeaderMap::with_capacity(count);
        let (mut last, mut bytes): (&[u8], usize) = (b"", 0);
        for _ in 0..count {
            let length = self.u8()?.into();
            let name = self.take(length)?;
            let length = self.u16()?.into();
            let value = self.take(length)?;
            bytes += name.len() + value.len();
            within("the text of the headers", bytes, HEADER_BYTES_MAX)?;
            if name < last {
                return Err(invalid("the order of its headers"));
            }
            last = name;
            // Takes lower case only.
            let name = HeaderName::from_lowercase(name).map_err(|_| invalid("a header's name"))?;
            let value = HeaderValue::from_bytes(value).map_err(|_| invalid("a header's value"))?;
            headers.append(name, value);
        }
        let body = self.bytes.slice(self.at..);
        within("the body", body.len(), BODY_MAX)?;
        Ok((headers, body))
    }
}
