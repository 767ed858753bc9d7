//! Sizes and times as people write and read them: `256MiB`, `64K`, `2.5s`, `300ms`.
//!
//! The same units as in the scripts of the fault proxy.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
];

/// Nanoseconds in each unit of time.
const TIMES: &[(&str, u64)] = &[
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a number with a unit, rounded down to whole smallest units.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Twenty digits hold every u64; more is a slip of the finger and could overflow below.
    if whole.is_empty() || number.ends_with('.') || whole.len() + fraction.len() > 20 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(digits.checked_mul(u128::from(*factor))? / scale).ok()
}

/// Reads a size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse(text, SIZES).ok_or_else(|| "a size is like 256MiB, 64K, 1.5GB or 4096".to_owned())
}

/// Reads a time; the unit is never left out.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nanos = parse(text, TIMES);
    nanos.map(Duration::from_nanos).ok_or_else(|| "a time is like 2.5s, 300ms or 10min".to_owned())
}

/// A size for reading: three digits or four and a unit.
pub(crate) fn show_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.95 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A time for reading.
pub(crate) fn show_millis(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..100_000 => format!("{:.1} s", millis as f64 / 1e3),
        _ => format!("{} min {} s", millis / 60_000, millis / 1_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("256MiB", 256 << 20),
            ("64K", 64 << 10),
            ("64 KiB", 64 << 10),
            ("1.5GB", 1_500_000_000),
            ("0", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.", ".5K", "1.2.3", "-1", "5s", "18446744073709551616", "99999G9"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(duration("2.5s"), Ok(Duration::from_millis(2500)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("1.5min"), Ok(Duration::from_secs(90)));
        for text in ["3", "s", "5MiB", "99999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_times_are_shown() {
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1 << 20), "1.0 MiB");
        assert_eq!(show_size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(show_millis(999), "999 ms");
        assert_eq!(show_millis(1_500), "1.5 s");
        assert_eq!(show_millis(125_000), "2 min 5 s");
    }
}
