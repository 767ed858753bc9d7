//! What who carries logical connections over one session has to know of it, and to ask for.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use core::net::SocketAddr;
use crossbeam_channel::{Receiver, bounded};
use eversock_proto::identity::PublicKey;

use eversock_proto::limits::ADDRS_MAX;

use super::stream;
use crate::error::{errno, fail, poisoned};
use crate::event::{Event, Subscriber};
use crate::host::Kept;
use crate::process;
use crate::reactor::{Command, engine, on_engine_thread};
use crate::socket::route::CANDIDATES_MAX;
use crate::socket::send::Flushed;
use crate::socket::{Socket, bits};
use crate::sys::tcp;

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

/// Resumes a client's session at exactly this address: beside the connection that stands, which
/// stays until the new one is proven, or at once when there is none. `Ok` when it has begun; the
/// event `Resumed` or `MoveFailed` tells how it went, and where it fails nothing changes. Where no
/// connection stands and nobody is to be asked, it is a redial that begins there. Blocks for a
/// moment only.
///
/// # Errors
/// EALREADY while a dial runs. ENOTCONN where none can: the session does not stand or has ended, is
/// a server's or a relative's, or its policy is never to dial. EAGAIN when too many sessions dial.
/// EDEADLK in a callback on the engine's own thread; those of [`link`].
pub fn redial_at(number: RawFd, addr: SocketAddr) -> io::Result<()> {
    let socket = stream(number)?;
    if addr.port() == 0 {
        return fail(libc::EINVAL);
    }
    if on_engine_thread() {
        return fail(libc::EDEADLK);
    }
    let (answer, answered) = bounded(1);
    engine()?.command(Command::RedialAt { socket, addr, answer });
    match answered.recv().map_err(|_| poisoned())? {
        0 => Ok(()),
        number => fail(number),
    }
}

/// Events of the session behind a number; the channel holds 256, later ones are missed until it is
/// read.
pub fn subscribe(number: RawFd) -> io::Result<Receiver<Event>> {
    subscribed(number, None)
}

/// The same for who waits for many sessions, and other things, in an epoll of its own: `bell`, an
/// eventfd, counts one up for each event. It is the caller's to empty, and is let go with the
/// session or the receiver.
pub fn subscribe_with(number: RawFd, bell: Arc<Kept>) -> io::Result<Receiver<Event>> {
    subscribed(number, Some(bell))
}

fn subscribed(number: RawFd, bell: Option<Arc<Kept>>) -> io::Result<Receiver<Event>> {
    let socket = stream(number)?;
    let (sender, receiver) = bounded(256);
    Socket::lock(&socket.meta)?.rare_mut().subscribers.push(Subscriber::new(sender, bell));
    Ok(receiver)
}

/// A proof that this end has the session behind a number: a MAC under the session's secret of these
/// parts, each with its length, in a role of its own (PROTOCOL 5.2). The other end makes the same
/// of the same parts; compare in constant time, with [`is_identity_proof`].
///
/// # Errors
/// ENOTCONN before the session stands, ENOTSOCK or EBADF when the number is no virtual stream.
pub fn identity_proof(number: RawFd, parts: &[&[u8]]) -> io::Result<[u8; 32]> {
    let socket = stream(number)?;
    let meta = Socket::lock(&socket.meta)?;
    let Some(control) = meta.control.as_ref() else { return fail(libc::ENOTCONN) };
    Ok(control.secret.identity_proof(parts))
}

/// True when the proof is the one that the session's ends make of these parts. Takes as long
/// whatever it is.
///
/// # Errors
/// Those of [`identity_proof`].
pub fn is_identity_proof(number: RawFd, parts: &[&[u8]], proof: &[u8; 32]) -> io::Result<bool> {
    let ours = identity_proof(number, parts)?;
    Ok(ours.iter().zip(proof).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0)
}

/// How the path of a connection is, in the kernel's words (TCP_INFO). None where the kernel is too
/// old to say, or has not measured it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The smoothed round-trip time, in microseconds.
    pub rtt_us: Option<u32>,
    /// The least round-trip time of late, in microseconds.
    pub min_rtt_us: Option<u32>,
    /// Segments that were sent again, over the life of the connection.
    pub retrans: Option<u32>,
    /// Segments that were sent, over the life of the connection.
    pub segs_out: Option<u32>,
    /// What the path has delivered lately, in bytes per second.
    pub delivery_rate: Option<u64>,
    /// The greatest packet that the path takes, in bytes.
    pub pmtu: Option<u32>,
}

/// How the path of the connection is that carries the session behind a number. Never blocks for
/// long.
///
/// # Errors
/// ENOTCONN while no connection stands here; ENOTSOCK or EBADF when the number is no virtual
/// stream.
pub fn line(number: RawFd) -> io::Result<Line> {
    let socket = stream(number)?;
    let apart = bits::DETACHED | bits::CONNECTING | bits::FRESH | bits::FAILED | bits::GUEST;
    let real = socket.standing().filter(|_| !socket.has(apart));
    tcp::line(real.ok_or_else(|| errno(libc::ENOTCONN))?)
}

/// The number by which this process is known as a server: the [`Link::instance`] of the sessions
/// that its listeners give. Starts the engine.
///
/// # Errors
/// What keeps the engine from starting.
pub fn instance() -> io::Result<u64> {
    Ok(engine()?.instance)
}

/// Where the session would be looked for at a redial, best first: what the program named or looked
/// up, and what the peer has announced.
///
/// # Errors
/// ENOTSOCK or EBADF when the number is no virtual stream.
pub fn candidates(number: RawFd) -> io::Result<Vec<SocketAddr>> {
    Ok(Socket::lock(&stream(number)?.meta)?.candidates.clone())
}

/// Adds addresses to [`candidates`], behind those that there are, as far as there is room: each
/// session remembers 32.
///
/// # Errors
/// Those of [`candidates`].
pub fn add_candidates(number: RawFd, addrs: &[SocketAddr]) -> io::Result<()> {
    let socket = stream(number)?;
    Socket::lock(&socket.meta)?.add_candidates(addrs);
    Ok(())
}
