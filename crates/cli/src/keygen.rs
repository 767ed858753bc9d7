//! `evs keygen`: makes a key.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use eversock_engine::keys;
use eversock_proto::identity::StaticKey;

use crate::failure::Failure;
use crate::output;

/// Make a key, in a file that only you can read.
///
/// Without --static the key is a pre-shared one: both ends need the same file. With it the file
/// holds the private half of a static key, which stays on this machine, and the public half is
/// printed: for the `known_peers` of those who connect to this machine, or for the
/// `allowed_clients` of those that it connects to.
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// Make a static key, and print its public half.
    #[arg(long = "static")]
    is_static: bool,
    /// The file; one that is there is never written to.
    file: PathBuf,
}

impl Keygen {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        let key = random().map_err(|error| {
            Failure::new(format!("the kernel gives no random bytes: {error}; nothing was written"))
        })?;
        keys::write_key(&self.file, &key).map_err(Failure::new)?;
        if self.is_static {
            output::text(&format!("{}\n", StaticKey::from_bytes(key).public()))?;
        }
        Ok(true)
    }
}

fn random() -> io::Result<[u8; keys::KEY_BYTES]> {
    let mut key = [0; keys::KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}
