//! What who carries logical connections over one session has to know of it, and to ask for.

use std::io;
use std::os::fd::RawFd;

use core::net::SocketAddr;
use eversock_proto::identity::PublicKey;

use super::stream;
use crate::error::fail;
use crate::socket::{Socket, bits};

/// A session, the connection under it, and who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The session's id, which both ends know, and whoever listens.
    pub id: [u8; 16],
    /// The part of the id that names the server process: of two sessions with one of them it is
    /// the same, and after a restart it is another.
    pub instance: u64,
    /// The static key that the peer has proven to have, if it was asked for one.
    pub key: Option<PublicKey>,
    /// Both ends have said that they would carry several logical connections over the session.
    pub shares: bool,
    /// The number of the connection within the session, from 1.
    pub epoch: u64,
    /// The peer's end of the connection that stands, or of the last one.
    pub peer: Option<SocketAddr>,
    /// Our end of it.
    pub local: Option<SocketAddr>,
    /// A connection stands.
    pub attached: bool,
}

/// The session behind a number, and what carries it now. Never blocks for long.
///
/// # Errors
/// ENOTCONN before the session stands, ENOTSOCK or EBADF when the number is no virtual stream.
pub fn link(number: RawFd) -> io::Result<Link> {
    let socket = stream(number)?;
    let meta = Socket::lock(&socket.meta)?;
    let Some(control) = meta.control.as_ref() else { return fail(libc::ENOTCONN) };
    let rare = meta.rare();
    let apart = bits::DETACHED | bits::CONNECTING | bits::FRESH | bits::FAILED | bits::OVER;
    Ok(Link {
        id: control.id.0,
        instance: control.id.instance(),
        key: rare.peer_key,
        shares: rare.shares,
        epoch: control.epoch(),
        peer: rare.route.map(|(peer, _)| peer).or(meta.peer),
        local: rare.route.map(|(_, local)| local).or(meta.local),
        attached: !socket.has(apart),
    })
}
