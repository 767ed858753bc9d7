//! Datagrams that say to which address they came, and answers that come from there: a server on all
//! addresses of a machine otherwise answers from whichever the kernel likes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::host::Kept;
use crate::sys::udp;

/// A UDP socket, not connected: non-blocking, closed on exec, with a number out of the program's
/// way, and no child's. One for IPv6 takes no IPv4.
#[derive(Debug)]
pub struct Udp(Kept);

/// One datagram that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its bytes that are in the buffer.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address to which it was sent.
    pub to: Option<IpAddr>,
    /// What is left of its time to live, or of its hops.
    pub ttl: Option<u8>,
    /// It was longer than the buffer; the rest is lost.
    pub truncated: bool,
}

impl Udp {
    /// A socket at this address; port 0 is any.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self(Kept::new(udp::bind(addr)?.into())?))
    }

    /// The address at which it is.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = crate::sys::tcp::local_addr(self.0.as_raw_fd());
        addr.ok_or_else(|| crate::error::errno(libc::ENOTSOCK))
    }

    /// Takes the next datagram. Never blocks.
    ///
    /// # Errors
    /// EAGAIN when none is there; those of recvmsg(2).
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        udp::recv(self.0.as_raw_fd(), buf)
    }

    /// Sends one datagram, from the address `from` of this machine if one is given. Never blocks.
    ///
    /// # Errors
    /// EAGAIN when there is no room; EINVAL when the addresses are not of one family, or `from` is
    /// not this machine's; EMSGSIZE; those of sendmsg(2).
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        udp::send(self.0.as_raw_fd(), bytes, to, from)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Udp {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// The next datagram, waited for.
    fn next(socket: &Udp, buf: &mut [u8]) -> Received {
        let events = libc::POLLIN;
        let mut fds = [libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 }];
        let came = crate::sys::io::poll(&mut fds, Some(Duration::from_secs(20)));
        assert_eq!(came.expect("a poll"), 1, "no datagram came");
        socket.recv(buf).expect("a datagram")
    }

    fn client(addr: &str) -> UdpSocket {
        let client = UdpSocket::bind(addr).expect("a client");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        client
    }

    #[test]
    fn who_is_asked_on_one_address_answers_from_there() {
        let server = Udp::bind(([0, 0, 0, 0], 0).into()).expect("bound");
        let port = server.local_addr().expect("an address").port();
        let mut buf = [0; 64];
        assert_eq!(server.recv(&mut buf).expect_err("none").raw_os_error(), Some(libc::EAGAIN));
        for asked in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            // A client that is connected hears from nobody else.
            let client = client("127.0.0.1:0");
            client.connect((IpAddr::from(asked), port)).expect("connected");
            client.set_ttl(9).expect("set");
            client.send(b"question").expect("sent");
            let got = next(&server, &mut buf);
            assert_eq!((&buf[..got.len], got.truncated), (b"question".as_slice(), false));
            assert_eq!(got.from, client.local_addr().expect("an address"));
            assert_eq!((got.to, got.ttl), (Some(IpAddr::from(asked)), Some(9)));
            server.send(b"answer", got.from, got.to).expect("sent");
            assert_eq!(client.recv(&mut buf).expect("an answer"), 6);
        }
        let foreign = server.send(b"x", ([127, 0, 0, 1], 9).into(), "::1".parse().ok());
        assert_eq!(foreign.expect_err("another family").raw_os_error(), Some(libc::EINVAL));
        let no_address = server.send(b"x", ([127, 0, 0, 1], 9).into(), "192.0.2.1".parse().ok());
        assert!(no_address.is_err());
    }

    #[test]
    fn datagrams_of_both_families_keep_their_ends_apart() {
        let Ok(server) = Udp::bind("[::]:0".parse().expect("an address")) else {
            // A machine without IPv6 has nothing to try.
            return;
        };
        let at = server.local_addr().expect("an address");
        // The port is free for IPv4 all the same.
        let _both = Udp::bind(([0, 0, 0, 0], at.port()).into());
        let mut buf = [0; 64];
        let Ok(client) = UdpSocket::bind("[::1]:0") else { return };
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        client.connect(("::1", at.port())).expect("connected");
        client.send(b"question").expect("sent");
        let got = next(&server, &mut buf);
        assert_eq!(got.to, "::1".parse().ok());
        assert!(got.ttl.is_some_and(|hops| hops > 0));
        assert_eq!(got.from, client.local_addr().expect("an address"));
        server.send(b"answer", got.from, got.to).expect("sent");
        assert_eq!(client.recv(&mut buf).expect("an answer"), 6);
        assert!(server.send(b"x", got.from, Some(IpAddr::from([127, 0, 0, 1]))).is_err());
    }

    #[test]
    fn a_datagram_longer_than_the_buffer_is_known_as_cut_and_an_empty_one_is_one() {
        let server = Udp::bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let client = client("127.0.0.1:0");
        let to = server.local_addr().expect("an address");
        for length in [8usize, 9, 0] {
            client.send_to(&vec![7; length], to).expect("sent");
            let mut buf = [0; 8];
            let got = next(&server, &mut buf);
            assert_eq!((got.len, got.truncated), (length.min(8), length > 8));
        }
    }
}
