//! The messages before a connection is proven (PROTOCOL 3): an 8-byte envelope and a bounded body.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::limits::{ADDRS_BODY_MAX_BYTES, ADDRS_MAX, HELLO_ENVELOPE_BYTES, HELLO_MAX_BYTES};
use crate::secret::{KEY_BYTES, SessionId};

/// The first bytes of every handshake message. The first is no ASCII and no valid UTF-8 start.
pub const MAGIC: [u8; 4] = [0xEB, b'E', b'V', b'S'];
/// The protocol version of this crate.
pub const VERSION: u8 = 1;

/// What a handshake message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HelloKind {
    /// Client: a new session, please.
    Open = 1,
    /// Server: here is its name.
    OpenOk = 2,
    /// Client: go on with this session.
    Resume = 3,
    /// Server: with pleasure, if you are who you say.
    ResumeOk = 4,
    /// Client: I am.
    Confirm = 5,
    /// Server: no, and why.
    Reject = 6,
}

/// Why bytes are no handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The first bytes are not eversock's.
    #[error("the peer does not speak eversock (first bytes differ)")]
    Magic,
    /// A version that we do not know.
    #[error(
        "the peer speaks eversock version {0}, this side version {VERSION}; upgrade the older one"
    )]
    Version(u8),
    /// A kind or length that no message has.
    #[error("malformed handshake message")]
    Malformed,
}

/// Checks an envelope and gives the kind and the length of the body that follows.
pub fn envelope(bytes: &[u8; HELLO_ENVELOPE_BYTES]) -> Result<(HelloKind, usize), HelloError> {
    if bytes[..4] != MAGIC {
        return Err(HelloError::Magic);
    }
    if bytes[4] != VERSION {
        return Err(HelloError::Version(bytes[4]));
    }
    let kind = match bytes[5] {
        1 => HelloKind::Open,
        2 => HelloKind::OpenOk,
        3 => HelloKind::Resume,
        4 => HelloKind::ResumeOk,
        5 => HelloKind::Confirm,
        6 => HelloKind::Reject,
        _ => return Err(HelloError::Malformed),
    };
    let length = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    if length > HELLO_MAX_BYTES - HELLO_ENVELOPE_BYTES {
        return Err(HelloError::Malformed);
    }
    Ok((kind, length))
}

/// True while `bytes` may still become an eversock envelope: what a listener that also serves
/// plain clients asks.
pub fn may_be_eversock(bytes: &[u8]) -> bool {
    let n = bytes.len().min(MAGIC.len());
    bytes[..n] == MAGIC[..n]
}

/// Collects one message from a stream without reading a byte beyond it.
#[derive(Debug)]
pub struct HelloReader {
    buf: Vec<u8>,
    need: usize,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self { buf: Vec::new(), need: HELLO_ENVELOPE_BYTES }
    }
}

impl HelloReader {
    /// True while no byte was fed.
    pub fn is_untouched(&self) -> bool {
        self.buf.is_empty()
    }

    /// How many bytes to read next, at most; reading more would eat into what follows the message.
    pub fn wants(&self) -> usize {
        self.need - self.buf.len()
    }

    /// Takes bytes that were read, at most [`Self::wants`]. Gives the whole message, envelope
    /// included, once it is
    /// there.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
        debug_assert!(bytes.len() <= self.wants());
        self.buf.extend_from_slice(bytes);
        if !may_be_eversock(&self.buf) {
            return Err(HelloError::Magic);
        }
        if self.buf.len() < self.need {
            return Ok(None);
        }
        if self.need == HELLO_ENVELOPE_BYTES {
            let mut head = [0; HELLO_ENVELOPE_BYTES];
            head.copy_from_slice(&self.buf);
            let (_, length) = envelope(&head)?;
            self.need += length;
            if length > 0 {
                return Ok(None);
            }
        }
        self.need = HELLO_ENVELOPE_BYTES;
        Ok(Some(std::mem::take(&mut self.buf)))
    }

    /// Bytes taken so far of the current message.
    pub fn taken(&self) -> &[u8] {
        &self.buf
    }
}

/// Builds a message.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: HelloKind) -> Self {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
        Self(out)
    }
    pub(crate) fn body() -> Self {
        Self(Vec::with_capacity(64))
    }
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend_from_slice(value);
        self
    }
    pub(crate) fn so_far(&self) -> &[u8] {
        &self.0
    }
    /// The body without an envelope.
    pub(crate) fn into_body(self) -> Vec<u8> {
        self.0
    }
    /// Fills in the envelope's length.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() - HELLO_ENVELOPE_BYTES;
        debug_assert!(self.0.len() <= HELLO_MAX_BYTES);
        self.0[6..8].copy_from_slice(&(length as u16).to_le_bytes());
        self.0
    }
}

/// Reads a body field by field; every shortage is [`HelloError::Malformed`].
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Opens a whole message of the kind expected.
    pub(crate) fn open(message: &'a [u8], expected: HelloKind) -> Result<Self, HelloError> {
        let (kind, body) = split(message)?;
        if kind == expected { Ok(Self(body)) } else { Err(HelloError::Malformed) }
    }
    pub(crate) fn body(body: &'a [u8]) -> Self {
        Self(body)
    }
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], HelloError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, HelloError> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16, HelloError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, HelloError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, HelloError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
    pub(crate) fn end(self) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Malformed) }
    }
}

/// Splits a whole message into kind and body.
pub fn split(message: &[u8]) -> Result<(HelloKind, &[u8]), HelloError> {
    let (head, body) =
        message.split_at_checked(HELLO_ENVELOPE_BYTES).ok_or(HelloError::Malformed)?;
    let mut envelope_bytes = [0; HELLO_ENVELOPE_BYTES];
    envelope_bytes.copy_from_slice(head);
    let (kind, length) = envelope(&envelope_bytes)?;
    if body.len() != length {
        return Err(HelloError::Malformed);
    }
    Ok((kind, body))
}

/// The session that a RESUME names, before anything of it is proven: to find out whose it is.
pub fn resume_session(message: &[u8]) -> Result<SessionId, HelloError> {
    Ok(SessionId(Reader::open(message, HelloKind::Resume)?.array()?))
}

/// The CONFIRM message around a MAC.
pub(crate) fn confirm(mac: &[u8; KEY_BYTES]) -> Vec<u8> {
    Writer::new(HelloKind::Confirm).bytes(mac).finish()
}

/// Encodes addresses as ADDRS and OPEN_OK carry them (PROTOCOL 2.7); those beyond [`ADDRS_MAX`]
/// are left out, and so are those without a port, which nobody could dial and no peer accepts.
pub fn encode_addrs(addrs: &[SocketAddr]) -> Vec<u8> {
    let mut out = Vec::new();
    for addr in addrs.iter().filter(|addr| addr.port() != 0).take(ADDRS_MAX) {
        match addr.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&addr.port().to_le_bytes());
    }
    debug_assert!(out.len() <= ADDRS_BODY_MAX_BYTES);
    out
}

/// Reads what [`encode_addrs`] wrote.
pub fn decode_addrs(bytes: &[u8]) -> Result<Vec<SocketAddr>, HelloError> {
    let mut reader = Reader::body(bytes);
    let mut out = Vec::new();
    while !reader.0.is_empty() {
        let ip = match reader.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
            _ => return Err(HelloError::Malformed),
        };
        let port = reader.u16()?;
        if out.len() == ADDRS_MAX || port == 0 {
            return Err(HelloError::Malformed);
        }
        out.push(SocketAddr::new(ip, port));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_never_wants_bytes_beyond_the_message() {
        let message = confirm(&[7; KEY_BYTES]);
        let mut reader = HelloReader::default();
        let mut at = 0;
        loop {
            let n = reader.wants();
            let got = reader.feed(&message[at..at + n]).expect("well-formed");
            at += n;
            if let Some(whole) = got {
                assert_eq!(whole, message);
                break;
            }
        }
        assert_eq!(at, message.len());
    }

    #[test]
    fn a_foreign_first_byte_is_refused_at_once() {
        assert_eq!(HelloReader::default().feed(b"G"), Err(HelloError::Magic));
    }

    #[test]
    fn both_sides_of_the_message_limit() {
        let mut head = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, 1, 0, 0];
        let max = HELLO_MAX_BYTES - HELLO_ENVELOPE_BYTES;
        head[6..].copy_from_slice(&(max as u16).to_le_bytes());
        assert!(envelope(&head).is_ok());
        head[6..].copy_from_slice(&(max as u16 + 1).to_le_bytes());
        assert_eq!(envelope(&head), Err(HelloError::Malformed));
    }

    proptest! {
        #[test]
        fn addresses_survive_the_wire(
            v4 in proptest::collection::vec((any::<u32>(), 1u16..), 0..9),
            v6 in proptest::collection::vec((any::<u128>(), 1u16..), 0..8),
        ) {
            let v4 = v4.iter().map(|&(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port));
            let v6 = v6.iter().map(|&(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port));
            let addrs: Vec<SocketAddr> = v4.chain(v6).collect();
            prop_assert_eq!(decode_addrs(&encode_addrs(&addrs)), Ok(addrs));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_addrs(&bytes);
            let _ = split(&bytes);
            let _ = resume_session(&bytes);
        }
    }
}
