//! The system's own resolver, in both directions. It may block for as long as its configuration
//! says, which can be half a minute: not for a thread that others wait for.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::sys;

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What it is called in full, if the resolver says so.
    pub canonical: Option<String>,
    /// Its addresses, best first, each once and with the port that was asked for; at most 64.
    pub addrs: Vec<SocketAddr>,
}

/// Looks a name up, or reads an address (getaddrinfo(3), AI_CANONNAME).
///
/// # Errors
/// `NotFound` when there is no such name, `InvalidInput` for one with a zero byte in it; other
/// kinds when it cannot be told, of which some pass.
pub fn lookup(host: &str, port: u16) -> io::Result<Names> {
    sys::names::lookup(host, port)
}

/// The name of an address, if it has one (getnameinfo(3), NI_NAMEREQD).
pub fn reverse(addr: IpAddr) -> Option<String> {
    sys::names::reverse(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_itself_with_the_port_that_was_asked_for() {
        for text in ["127.0.0.1", "::1"] {
            let found = lookup(text, 8080).expect("an address");
            assert_eq!(found.addrs, [SocketAddr::new(text.parse().expect("one"), 8080)]);
            assert_eq!(found.canonical.as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_name_is_an_error_and_no_panic() {
        let zero = lookup("a\0b", 1).expect_err("no name");
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
        // Too long a label, which no resolver sends anywhere.
        assert!(lookup(&"x".repeat(300), 1).is_err());
    }

    #[test]
    fn the_name_of_an_address_is_text_that_stands_for_it() {
        // Whether this machine's own address has a name is for its configuration to say.
        if let Some(name) = reverse(IpAddr::from([127, 0, 0, 1])) {
            assert!(!name.is_empty() && !name.contains('\0'), "{name:?}");
        }
    }
}
