//! Key files: what they may look like, and who may read them.
//!
//! A *key* is 32 bytes, or 64 hexadecimal digits or base64, alone in its file; pre-shared keys and
//! the private halves of static keys look the same. Public halves stand in lists: `known_peers`,
//! a line for each server, and `allowed_clients`, a line for each client. Lists are no secret, but
//! who can write them decides whom we trust.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eversock_proto::open::Sealing;
use thiserror::Error;

use crate::config::{Config, KnownServers, KnowsServers, PresharedKey, PublicKey, StaticKey};

/// Length of every key, in bytes.
pub const KEY_BYTES: usize = 32;
/// Longer is no key file, and is not read on.
const KEY_FILE_MAX_BYTES: u64 = 256;
/// A list of keys may be this long, at most.
const LIST_MAX_BYTES: u64 = 1024 * 1024;
/// What others than the owner may do to a file that holds a secret: nothing.
const MODE_OTHERS: u32 = 0o077;
/// What others than the owner may not do to a list.
const MODE_OTHERS_WRITE: u32 = 0o022;

/// Why a file gives no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("{path}: the key cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Others may read it.
    #[error(
        "{path}: others than its owner may read or write this key (mode {mode:04o}); \
         `chmod 600 {path}`, and make a new key if they may have read it"
    )]
    Open {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("{path}: no key; expected 32 bytes, or 64 hexadecimal digits, or 44 of base64")]
    NoKey {
        /// The file.
        path: String,
    },
    /// Others may write a list.
    #[error(
        "{path}: others than its owner may write this list (mode {mode:04o}); `chmod 644 {path}`"
    )]
    Writable {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// A list is too long.
    #[error("{path}: longer than 1 MiB, which no list of keys is; name another file")]
    TooLong {
        /// The file.
        path: String,
    },
    /// A line of a list is wrong.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The file to write to is there already, or cannot be made.
    #[error("{path}: the key cannot be written: {error}{remedy}")]
    Unwritable {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
        /// What to do about it, with what goes before it.
        remedy: &'static str,
    },
}

/// Reads a pre-shared key or the private half of a static key. Only its owner may be able to read
/// the file.
///
/// # Errors
/// Those of [`KeyError`] that are not about lists.
pub fn read_key(path: &Path) -> Result<[u8; KEY_BYTES], KeyError> {
    let (file, mode) = open(path)?;
    let name = || path.display().to_string();
    if mode & MODE_OTHERS != 0 {
        return Err(KeyError::Open { path: name(), mode });
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| KeyError::Unreadable { path: name(), error })?;
    let key = parse(&bytes).ok_or_else(|| KeyError::NoKey { path: name() });
    bytes.fill(0);
    key
}

/// Writes a key as hexadecimal digits into a file that is not there yet and that only its owner can
/// read.
///
/// # Errors
/// [`KeyError::Unwritable`]; a file that is there is never written to.
pub fn write_key(path: &Path, key: &[u8; KEY_BYTES]) -> Result<(), KeyError> {
    let unwritable = |error: io::Error| {
        let is_there = error.kind() == io::ErrorKind::AlreadyExists;
        let remedy = if is_there { "; name another file, or move this one away" } else { "" };
        KeyError::Unwritable { path: path.display().to_string(), error, remedy }
    };
    let mut options = OpenOptions::new();
    // The mode is there from the beginning: at no moment can others read the key.
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    let text = format!("{}\n", to_hex(key));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(unwritable)
}

/// A key as hexadecimal digits.
pub fn to_hex(key: &[u8; KEY_BYTES]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The servers whose static keys are known, as `known_peers` files list them.
///
/// A line is `HOST KEY` or `HOST:PORT KEY` (`[ADDRESS]:PORT` for IPv6); one with the port goes
/// before one without. Empty lines and what follows `#` do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPeers(Vec<KnownPeer>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownPeer {
    line: usize,
    host: String,
    port: Option<u16>,
    key: [u8; KEY_BYTES],
}

impl KnownPeers {
    /// Reads a file.
    ///
    /// # Errors
    /// Those of [`KeyError`] about lists.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&read_list(path)?, &path.display().to_string())
    }

    /// Reads text; `source` is what errors call it.
    ///
    /// # Errors
    /// [`KeyError::Line`].
    pub fn parse(text: &str, source: &str) -> Result<Self, KeyError> {
        let mut peers: Vec<KnownPeer> = Vec::new();
        for (number, fields) in lines(text) {
            let wrong = |problem: String| wrong_line(source, number, problem);
            let [place, key] = fields[..] else {
                let found = fields.len();
                return Err(wrong(format!("{found} fields; expected HOST[:PORT] and a key")));
            };
            let (host, port) = split_place(place).map_err(&wrong)?;
            let key = parse_text(key.as_bytes()).ok_or_else(|| wrong(no_key(key)))?;
            let same = peers.iter().find(|peer| peer.host == host && peer.port == port);
            if let Some(first) = same.filter(|peer| peer.key != key) {
                return Err(wrong(format!(
                    "{place} has another key in line {}; keep the one that is right",
                    first.line
                )));
            }
            peers.push(KnownPeer { line: number, host, port, key });
        }
        Ok(Self(peers))
    }

    /// The key of a server, by the name or address by which it is called.
    pub fn key_of(&self, host: &str, port: u16) -> Option<&[u8; KEY_BYTES]> {
        self.find(host, port).map(|peer| &peer.key)
    }

    /// The line, from 1, in which that key stands.
    pub fn line_of(&self, host: &str, port: u16) -> Option<usize> {
        self.find(host, port).map(|peer| peer.line)
    }

    fn find(&self, host: &str, port: u16) -> Option<&KnownPeer> {
        let with = |wanted: Option<u16>| {
            let is_it =
                |peer: &&KnownPeer| peer.port == wanted && peer.host.eq_ignore_ascii_case(host);
            self.0.iter().find(is_it)
        };
        with(Some(port)).or_else(|| with(None))
    }

    /// The line that makes a server known, for the end of a file.
    pub fn line(host: &str, port: u16, key: &[u8; KEY_BYTES]) -> String {
        let key = to_hex(key);
        if host.contains(':') {
            format!("[{host}]:{port} {key}\n")
        } else {
            format!("{host}:{port} {key}\n")
        }
    }
}

/// A `known_peers` file, read anew for each server that is met.
#[derive(Clone, Debug)]
pub struct KnownFile {
    /// Where it is. One that is not there lists nobody.
    pub path: PathBuf,
    /// A server that is not listed is believed, and added.
    pub accept_new: bool,
}

impl KnowsServers for KnownFile {
    fn key_of(&self, host: &str, port: u16) -> Result<Option<PublicKey>, String> {
        match KnownPeers::read(&self.path) {
            Ok(known) => Ok(known.key_of(host, port).copied().map(PublicKey)),
            Err(KeyError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn first_seen(&self, host: &str, port: u16, key: PublicKey) -> Result<(), String> {
        let (line, path) = (KnownPeers::line(host, port, &key.0), self.path.display());
        if !self.accept_new {
            let line = line.trim_end();
            return Err(format!(
                "the static key of {host}:{port} is not known; if it is the right one, add this \
                 line to {path}: {line}"
            ));
        }
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| {
                // One write, so that two programs which meet servers at once do not mix their
                // lines.
                let text = if is_ended(&self.path)? { line } else { format!("\n{line}") };
                file.write_all(text.as_bytes())
            })
            .map_err(|error| format!("{path}: the key of {host}:{port} cannot be added: {error}"))
    }

    fn not_proven(&self, host: &str, port: u16) -> String {
        let path = self.path.display();
        let known = KnownPeers::read(&self.path).ok();
        // Somebody may have taken the line away a moment ago.
        let (place, line) = match known.and_then(|known| known.line_of(host, port)) {
            Some(line) => (format!("{path}:{line}"), format!("line {line}")),
            None => (path.to_string(), "its line".to_owned()),
        };
        let then = if self.accept_new {
            "the new one is believed at the next connect"
        } else {
            "the next connect names the line to add"
        };
        format!(
            "{host}:{port} has not proven to have the static key in {place}: it has another one \
             now, or somebody is in its place, or it refuses this side's own key; if its key was \
             changed on purpose (ask whoever runs it), remove {line} of {path}, and {then}"
        )
    }
}

/// The files that say who may talk to whom, as rules and options name them.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyFiles<'a> {
    /// The key that both ends need.
    pub key: Option<&'a Path>,
    /// Whether what goes over the wire is encrypted and authenticated.
    pub sealed: bool,
    /// The static key of this side.
    pub identity: Option<&'a Path>,
    /// Where it connects: the static keys of servers.
    pub known_peers: Option<&'a Path>,
    /// With `known_peers`: a server that is not listed is believed, and added.
    pub accept_new: bool,
    /// Where it listens: the static keys of the clients that are let in.
    pub allowed_clients: Option<&'a Path>,
}

impl KeyFiles<'_> {
    /// Reads the files, but for the known peers, which are read at each connect.
    ///
    /// # Errors
    /// What is wrong with one of them; then `config` is to be forgotten.
    pub fn read_into(&self, config: &mut Config) -> Result<(), KeyError> {
        config.key = self.key.map(read_key).transpose()?.map(PresharedKey);
        config.sealing = if self.sealed { Sealing::Always } else { Sealing::Never };
        config.identity = self.identity.map(read_key).transpose()?.map(StaticKey::from_bytes);
        config.known_servers = self.known_peers.map(|path| {
            let file = KnownFile { path: path.to_owned(), accept_new: self.accept_new };
            KnownServers(Arc::new(file))
        });
        let clients = self.allowed_clients.map(read_allowed_clients).transpose()?;
        config.allowed_clients = clients.map(|keys| keys.into_iter().map(PublicKey).collect());
        Ok(())
    }
}

/// Reads the static keys of the clients that a server lets in: `KEY`, and perhaps a name for
/// whoever reads the file.
///
/// # Errors
/// Those of [`KeyError`] about lists.
pub fn read_allowed_clients(path: &Path) -> Result<Vec<[u8; KEY_BYTES]>, KeyError> {
    parse_allowed_clients(&read_list(path)?, &path.display().to_string())
}

fn parse_allowed_clients(text: &str, source: &str) -> Result<Vec<[u8; KEY_BYTES]>, KeyError> {
    let mut keys = Vec::new();
    for (number, fields) in lines(text) {
        let wrong = |problem: String| wrong_line(source, number, problem);
        let (key, names) = fields.split_first().ok_or_else(|| wrong(no_key("")))?;
        keys.push(parse_text(key.as_bytes()).ok_or_else(|| wrong(no_key(key)))?);
        if let [_, unknown, ..] = names {
            return Err(wrong(format!("`{unknown}` is one field too many; expected KEY [NAME]")));
        }
    }
    Ok(keys)
}

fn no_key(text: &str) -> String {
    // What stands there may be a private key: it is not shown.
    let found = text.len();
    format!("{found} characters are no key; expected 64 hexadecimal digits, or 44 of base64")
}

fn wrong_line(source: &str, line: usize, problem: String) -> KeyError {
    KeyError::Line { path: source.to_owned(), line, problem }
}

/// The lines that say something, each with its number and its fields.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let without_comments = text.lines().map(|line| line.split('#').next().unwrap_or(line));
    let fields = without_comments.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    fields.enumerate().map(|(at, fields)| (at + 1, fields)).filter(|(_, f)| !f.is_empty())
}

/// `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn split_place(place: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("`{place}` is no server; expected HOST, HOST:PORT or [ADDRESS]:PORT");
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
        match rest {
            "" => (host, None),
            rest => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
        }
    } else if place.parse::<std::net::Ipv6Addr>().is_ok() {
        (place, None)
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong));
    let port = port.transpose()?;
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

fn open(path: &Path) -> Result<(File, u32), KeyError> {
    let unreadable = |error| KeyError::Unreadable { path: path.display().to_string(), error };
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that was opened, not of whatever has the name by now.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    Ok((file, mode))
}

fn read_list(path: &Path) -> Result<String, KeyError> {
    let name = || path.display().to_string();
    let (file, mode) = open(path)?;
    if mode & MODE_OTHERS_WRITE != 0 {
        return Err(KeyError::Writable { path: name(), mode });
    }
    let mut text = String::new();
    file.take(LIST_MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| KeyError::Unreadable { path: name(), error })?;
    if text.len() as u64 > LIST_MAX_BYTES {
        Err(KeyError::TooLong { path: name() })
    } else {
        Ok(text)
    }
}

/// True when a line that is added to the file begins a line of its own.
fn is_ended(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A whole file: bytes as they are, or text.
fn parse(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    bytes.try_into().ok().or_else(|| parse_text(bytes.trim_ascii()))
}

fn parse_text(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    match text.len() {
        64 => from_hex(text),
        43 | 44 => from_base64(text),
        _ => None,
    }
}

fn from_hex(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let mut key = [0; KEY_BYTES];
    for (out, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

/// 43 digits and perhaps a `=`; the two bits that the last digit has too many are 0.
fn from_base64(text: &[u8]) -> Option<[u8; KEY_BYTES]> {
    let digits = text.strip_suffix(b"=").unwrap_or(text);
    let (mut key, mut at) = ([0; KEY_BYTES], 0);
    let (mut bits, mut held) = (0u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = ((bits << 6 | u32::from(value)) & 0xFFFF, held + 6);
        if held >= 8 {
            held -= 8;
            *key.get_mut(at)? = (bits >> held & 0xFF) as u8;
            at += 1;
        }
    }
    let left_over = bits & ((1 << held) - 1);
    (at == KEY_BYTES && left_over == 0).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A file of this test's own, gone when it ends.
    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Self {
            let name = format!("eversock-keys-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn with(name: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Self {
            let file = Self::new(name);
            std::fs::write(&file.0, bytes).unwrap();
            std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(mode)).unwrap();
            file
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_server_that_is_not_known_is_refused_with_the_line_to_add_or_added() {
        let path = std::env::temp_dir().join(format!("evs-known-{}", std::process::id()));
        let _none = std::fs::remove_file(&path);
        let key = PublicKey([0x5A; KEY_BYTES]);
        let strict = KnownFile { path: path.clone(), accept_new: false };
        assert_eq!(strict.key_of("host", 7), Ok(None), "no file lists nobody");
        let refused = strict.first_seen("host", 7, key).unwrap_err();
        let line = format!("host:7 {}", to_hex(&key.0));
        assert!(refused.ends_with(&line), "{refused}");
        assert_eq!(strict.key_of("host", 7), Ok(None));
        let trusting = KnownFile { accept_new: true, ..strict.clone() };
        trusting.first_seen("host", 7, key).expect("added");
        trusting.first_seen("2001:db8::1", 9, PublicKey([1; KEY_BYTES])).expect("added");
        assert_eq!(strict.key_of("host", 7), Ok(Some(key)));
        assert_eq!(strict.key_of("2001:db8::1", 9), Ok(Some(PublicKey([1; KEY_BYTES]))));
        assert_eq!(strict.key_of("host", 8), Ok(None));
        std::fs::write(&path, "host:7 short\n").expect("written");
        assert!(strict.key_of("host", 7).unwrap_err().contains("expected"));
        std::fs::remove_file(&path).expect("removed");
    }

    /// The line was added behind the last one's end, which made one wrong line of two.
    #[test]
    fn a_server_is_added_to_a_list_whose_last_line_has_no_end() {
        let text = format!("one:1 {}", "01".repeat(32));
        let file = Temp::with("unended", &text, 0o600);
        let trusting = KnownFile { path: file.0.clone(), accept_new: true };
        trusting.first_seen("two", 2, PublicKey([2; KEY_BYTES])).expect("added");
        trusting.first_seen("three", 3, PublicKey([3; KEY_BYTES])).expect("added");
        for (host, port, byte) in [("one", 1, 1), ("two", 2, 2), ("three", 3, 3)] {
            assert_eq!(trusting.key_of(host, port), Ok(Some(PublicKey([byte; KEY_BYTES]))));
        }
        assert_eq!(std::fs::read_to_string(&file.0).unwrap().lines().count(), 3);
    }

    #[test]
    fn what_is_said_of_a_server_that_changed_its_key_names_the_line_to_remove() {
        let key = "01".repeat(32);
        let text = format!("# mine\nother {key}\n\nhost:7 {key}\nhost {key}\n");
        let file = Temp::with("changed", text, 0o600);
        let path = file.0.display();
        for (accept_new, then) in [(false, "names the line to add"), (true, "is believed")] {
            let known = KnownFile { path: file.0.clone(), accept_new };
            for (port, line) in [(7, 4), (8, 5)] {
                let said = known.not_proven("host", port);
                assert!(said.starts_with(&format!("host:{port} has not proven")), "{said}");
                assert!(said.contains(&format!("the static key in {path}:{line}: ")), "{said}");
                assert!(said.contains(&format!("remove line {line} of {path}, ")), "{said}");
                assert!(said.contains(then) && !said.contains(&key), "{said}");
            }
            assert!(known.not_proven("gone", 1).contains(&format!("the static key in {path}: ")));
        }
    }

    #[test]
    fn a_key_is_32_bytes_or_64_hexadecimal_digits_or_base64() {
        assert_eq!(parse(&[7; 32]), Some([7; 32]));
        let digits = "0aFf".repeat(16) + "\n";
        assert_eq!(parse(digits.as_bytes()).unwrap()[..4], [0x0a, 0xff, 0x0a, 0xff]);
        // What `openssl rand -base64 32` writes, with and without its padding.
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        for text in [
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(key), "{text}");
        }
        let wrong: [&[u8]; 9] = [
            b"",
            &[7; 31],
            &[b'0'; 63],
            &[b'g'; 64],
            &[b'0'; 65],
            &[b'A'; 42],
            b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
            b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8==",
            b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd-h8=",
        ];
        for wrong in wrong {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644] {
            let file = Temp::with("open", [7; 32], mode);
            let problem = read_key(&file.0).unwrap_err().to_string();
            let remedy = format!("chmod 600 {}", file.0.display());
            assert!(
                problem.contains(&remedy) && problem.contains(&format!("{mode:04o}")),
                "{problem}"
            );
        }
        for mode in [0o600, 0o400] {
            let file = Temp::with("own", [7; 32], mode);
            assert_eq!(read_key(&file.0).unwrap(), [7; 32]);
        }
    }

    #[test]
    fn a_key_is_written_once_for_its_owner_alone_and_never_over_another_file() {
        let file = Temp::new("written");
        write_key(&file.0, &[9; 32]).unwrap();
        assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read_key(&file.0).unwrap(), [9; 32]);
        let problem = write_key(&file.0, &[8; 32]).unwrap_err().to_string();
        assert!(problem.contains("name another file"), "{problem}");
        assert_eq!(read_key(&file.0).unwrap(), [9; 32]);
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_whole() {
        // Readable by all, as a device is; so its mode is what is told of it.
        assert!(read_key(Path::new("/dev/zero")).is_err());
        let long = Temp::with("long", vec![b'0'; 5000], 0o600);
        let problem = read_key(&long.0).unwrap_err().to_string();
        assert!(problem.contains("expected 32 bytes"), "{problem}");
        let long = Temp::with("list", vec![b'\n'; 2 << 20], 0o600);
        assert!(KnownPeers::read(&long.0).unwrap_err().to_string().contains("1 MiB"));
    }

    #[test]
    fn a_known_peer_is_found_by_host_and_port_and_then_by_host() {
        let (a, b, c) = ("01".repeat(32), "02".repeat(32), "03".repeat(32));
        let text = format!(
            "# servers\n\ndb.example {a}\nDB.example:5432 {b} # the main one\n\
             [::1]:80 {c}\n::1 {a}\n"
        );
        let peers = KnownPeers::parse(&text, "known_peers").unwrap();
        let first = |host, port| peers.key_of(host, port).map(|key| key[0]);
        assert_eq!(first("db.Example", 5432), Some(2));
        assert_eq!(first("db.example", 80), Some(1));
        assert_eq!(first("::1", 80), Some(3));
        assert_eq!(first("::1", 81), Some(1));
        assert_eq!(first("other.example", 80), None);
        for (host, port) in [("db.example", 1), ("::1", 65535)] {
            let line = KnownPeers::line(host, port, &[4; 32]);
            let again = KnownPeers::parse(&line, "one").unwrap();
            assert_eq!(again.key_of(host, port), Some(&[4; 32]));
        }
    }

    #[test]
    fn a_wrong_line_of_a_list_is_named_with_its_number_and_what_was_expected() {
        let key = "01".repeat(32);
        for (line, expected) in [
            ("host".to_owned(), "expected HOST[:PORT] and a key"),
            (format!("host {key} more"), "3 fields"),
            (format!("host {}", &key[1..]), "63 characters are no key"),
            (format!("host:0 {key}"), "expected HOST, HOST:PORT"),
            (format!("host:70000 {key}"), "expected HOST, HOST:PORT"),
            (format!("[x]:1 {key}"), "expected HOST, HOST:PORT"),
            (format!(":1 {key}"), "expected HOST, HOST:PORT"),
            (format!("host:1 {}", "02".repeat(32)), "has another key in line 2"),
        ] {
            let text = format!("# first\nhost:1 {key}\n{line}\n");
            let problem = KnownPeers::parse(&text, "known_peers").unwrap_err().to_string();
            assert!(problem.starts_with("known_peers:3: "), "{line}: {problem}");
            assert!(problem.contains(expected), "{line}: {problem}");
            assert!(!problem.contains(&key[1..]), "a key is shown: {problem}");
        }
        let clients = |text: &str| parse_allowed_clients(text, "allowed_clients");
        assert_eq!(clients(&format!("{key} laptop\n\n# x\n{key}\n")).unwrap().len(), 2);
        let problem = clients(&format!("{key}\n{key} a b\n")).unwrap_err().to_string();
        assert!(problem.starts_with("allowed_clients:2: `b` is one field too many"), "{problem}");
        assert!(clients("01").unwrap_err().to_string().starts_with("allowed_clients:1: 2 char"));
    }

    #[test]
    fn a_list_that_others_may_write_is_refused() {
        for (mode, fits) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            let file = Temp::with("clients", "02".repeat(32), mode);
            let read = read_allowed_clients(&file.0);
            assert_eq!(read.is_ok(), fits, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 644"), "{error}");
            }
        }
    }
}
