//! Key files: 32 bytes, or 64 hexadecimal digits and perhaps a newline.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use eversock::PresharedKey;

const KEY_BYTES: usize = 32;
/// Longer is no key file, and is not read on.
const FILE_BYTES_MAX: u64 = 256;

/// Reads a key file; the error says what was expected.
pub(crate) fn read(path: &Path) -> Result<PresharedKey, String> {
    let unreadable = |error| format!("{}: the key cannot be read: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(&bytes).map(PresharedKey).ok_or_else(|| {
        let path = path.display();
        format!("{path}: no key; expected 32 bytes, or 64 hexadecimal digits")
    })
}

fn parse(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    if let Ok(key) = bytes.try_into() {
        return Some(key);
    }
    let text = bytes.trim_ascii();
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let mut key = [0; KEY_BYTES];
    for (out, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_64_hexadecimal_digits() {
        assert_eq!(parse(&[7; 32]), Some([7; 32]));
        let digits = "0aFf".repeat(16) + "\n";
        assert_eq!(parse(digits.as_bytes()).unwrap()[..4], [0x0a, 0xff, 0x0a, 0xff]);
        for wrong in [&b""[..], &[7; 31], &[b'0'; 63], &[b'g'; 64], &[b'0'; 65]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_whole() {
        let problem = read(Path::new("/dev/zero")).map(drop).unwrap_err();
        assert!(problem.contains("expected 32 bytes"), "{problem}");
    }
}
