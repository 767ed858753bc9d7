//! Key files, as commands read them.

use std::path::Path;

use eversock::PresharedKey;
use eversock_rules::keys;

/// Reads a key file; the error says what was expected.
pub(crate) fn read(path: &Path) -> Result<PresharedKey, String> {
    keys::read_key(path).map(PresharedKey).map_err(|error| error.to_string())
}
