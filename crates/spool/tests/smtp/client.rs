//! A client that sends just what it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects, and hears the greeting.
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let mut client = Self::silent(to);
        assert!(client.reply().starts_with("220 mx.example "));
        client
    }

    pub(crate) fn silent(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    /// And has said EHLO.
    pub(crate) fn greeted(to: SocketAddr) -> Self {
        let mut client = Self::connect(to);
        assert!(client.ask("EHLO client").starts_with("250"));
        client
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.reader.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// All lines of one reply, without their ends.
    pub(crate) fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            assert!(line.ends_with("\r\n"), "half a reply: {reply:?} {line:?}");
            assert!(line.len() <= 512, "a reply has at most 512 bytes in a line");
            reply.push_str(line.trim_end());
            if line.as_bytes()[3] != b'-' {
                return reply;
            }
            reply.push('\n');
        }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, code: &str) {
        let reply = self.ask(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
    }

    /// Sends a whole message; gives the reply to its end.
    #[track_caller]
    pub(crate) fn mail(&mut self, from: &str, to: &[&str], content: &str) -> String {
        self.expect(&format!("MAIL FROM:<{from}>"), "250");
        for to in to {
            self.expect(&format!("RCPT TO:<{to}>"), "250");
        }
        self.expect("DATA", "354");
        self.send(content);
        self.ask(".")
    }

    /// Whether the other side ends the connection, with or without a last word.
    pub(crate) fn is_cut(&mut self) -> bool {
        let ended = self.reader.read_to_end(&mut Vec::new());
        ended.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
    }

    /// Whether the other side has ended the connection.
    pub(crate) fn is_over(&mut self) -> bool {
        match self.reader.read(&mut [0; 256]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
