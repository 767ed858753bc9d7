//! Sizes and times as people write them: `1MiB`, `2.5s`; read and written the same way.

use std::fmt;
use std::time::Duration;

/// A number with an optional fraction and the unit that follows it, as written.
fn split(text: &str) -> Option<(u128, u32, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(unit_at.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.contains('.') {
        return None;
    }
    let digits: String = format!("{whole}{fraction}").chars().filter(|c| *c != '_').collect();
    let decimals = fraction.chars().filter(|c| *c != '_').count();
    // Twenty digits hold every u64; more is a slip of the finger, and 10^20 must fit below.
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    Some((digits.parse().ok()?, u32::try_from(decimals).ok()?, unit))
}

fn scale(digits: u128, decimals: u32, unit: u128) -> Option<u64> {
    let value = digits.checked_mul(unit)? / 10_u128.pow(decimals);
    u64::try_from(value).ok()
}

/// Bytes, with `B`, `kB`/`MB`/`GB` (powers of 1000) or `KiB`/`MiB`/`GiB`, `K`/`M`/`G` (of 1024).
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, decimals, unit) = split(text)?;
    let unit = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    scale(digits, decimals, unit)
}

/// A time with its unit: `ns`, `us`, `ms`, `s` or `min`. The unit is never left out.
pub(crate) fn parse_time(text: &str) -> Option<Duration> {
    let (digits, decimals, unit) = split(text)?;
    let unit = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "min" => 60_000_000_000,
        _ => return None,
    };
    scale(digits, decimals, unit).map(Duration::from_nanos)
}

/// Writes a size so that [`parse_size`] reads the same number back.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Writes a time so that [`parse_time`] reads the same one back.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
            if nanos.is_multiple_of(unit) {
                return write!(f, "{}{name}", nanos / unit);
            }
        }
        write!(f, "{nanos}ns")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("1_000B", Some(1000)),
            ("1.5MiB", Some(1_572_864)),
            ("2kB", Some(2000)),
            ("4K", Some(4096)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1s", None),
            ("1.", None),
            (".5K", None),
            ("1.2.3", None),
            ("_", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("2.5s"), Some(Duration::from_millis(2500)));
        assert_eq!(parse_time("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(parse_time("1.5min"), Some(Duration::from_secs(90)));
        assert_eq!(parse_time("3"), None);
        assert_eq!(parse_time("99999999999999min"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1 << 20, 5 << 20, (1 << 30) + 1, u64::MAX] {
            assert_eq!(parse_size(&Size(bytes).to_string()), Some(bytes));
        }
        for nanos in [0, 1, 1500, 2_500_000, 3_000_000_000] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(parse_time(&Time(time).to_string()), Some(time));
        }
    }
}
