//! What who carries logical connections over one session has to know of it, and to ask for.

use std::io;
use std::os::fd::RawFd;

use core::net::SocketAddr;
use eversock_proto::identity::PublicKey;

use eversock_proto::limits::ADDRS_MAX;

use super::stream;
use crate::error::fail;
use crate::process;
use crate::reactor::{Command, engine};
use crate::socket::route::CANDIDATES_MAX;
use crate::socket::send::Flushed;
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

/// Sets where a client's session is looked for at a redial, best first: in place of all that was
/// known, a name that would be looked up included. Where the session is now, or was last, is kept
/// as the last one if it is not among them. What the peer announces later is added. A dial that
/// runs goes to the new ones too. Never blocks for long.
///
/// # Errors
/// EINVAL for more than 32 addresses, or one without a port; ENOTCONN before connect; those of
/// [`link`].
pub fn set_candidates(number: RawFd, addrs: &[SocketAddr]) -> io::Result<()> {
    let socket = stream(number)?;
    if addrs.len() > CANDIDATES_MAX || addrs.iter().any(|addr| addr.port() == 0) {
        return fail(libc::EINVAL);
    }
    if socket.has(bits::FRESH | bits::CONNECTING) {
        return fail(libc::ENOTCONN);
    }
    let here = socket.route().filter(|_| !socket.has(bits::DETACHED)).map(|(peer, _)| peer);
    {
        let mut meta = Socket::lock(&socket.meta)?;
        let current = here.or_else(|| meta.candidates.first().copied());
        meta.set_candidates(addrs, current);
    }
    engine()?.command(Command::Candidates { socket });
    Ok(())
}

/// Tells the peer at which other addresses this side can be found, in place of those that it was
/// told before; none withdraws them. Told again over each later connection. Never blocks for long.
///
/// # Errors
/// EINVAL for more than 16 addresses, or one without a port; ENOTCONN before the session stands and
/// after it has failed; ENOTSOCK or EBADF when the number is no virtual stream; those of claiming a
/// session that a relative has.
pub fn announce(number: RawFd, addrs: &[SocketAddr]) -> io::Result<()> {
    let socket = stream(number)?;
    if addrs.len() > ADDRS_MAX || addrs.iter().any(|addr| addr.port() == 0) {
        return fail(libc::EINVAL);
    }
    if socket.has(bits::FRESH | bits::CONNECTING | bits::FAILED) {
        return fail(libc::ENOTCONN);
    }
    process::claim(&socket)?;
    let mut tx = socket.lock_tx()?;
    let Some(sender) = tx.sender.as_mut() else { return fail(libc::ENOTCONN) };
    sender.want_addrs(addrs);
    if socket.flush(&mut tx, false) == Flushed::Owed {
        socket.owe();
    }
    socket.finish_tx(tx);
    Ok(())
}
