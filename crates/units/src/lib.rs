//! Times and sizes as people write them in files: `5s`, `200ms`, `10GiB`.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// What a time looks like, for errors.
pub const TIME: &str = "a time, as \"200ms\", \"5s\", \"10min\", \"24h\" or \"7d\"";
/// What a size looks like, for errors.
pub const SIZE: &str = "bytes, as 4096, \"64KiB\", \"256MiB\" or \"10GiB\"";

/// Longer than anything that is waited for: what is added to a moment does not overflow.
const TIME_MAX: Duration = Duration::from_secs(1000 * 24 * 3600);

/// Microseconds of each unit.
const TIMES: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// Bytes of each unit.
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A span of time, at most 1,000 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl Time {
    /// In microseconds.
    #[must_use]
    pub fn micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A number with a unit; neither sign nor fraction.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A time, which always has a unit; `None` if it is none, or longer than 1,000 days.
#[must_use]
pub fn time(text: &str) -> Option<Time> {
    let time = Duration::from_micros(parse(text, TIMES)?);
    (time <= TIME_MAX).then_some(Time(time))
}

/// Bytes with a unit or without; `None` if they are none.
#[must_use]
pub fn size(text: &str) -> Option<Size> {
    parse(text, SIZES).map(Size)
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Time;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(TIME)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                time(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Size;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(SIZE)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                size(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                let size = u64::try_from(number).map(Size);
                size.map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_an_end() {
        let is = |text: &str, micros: u64| {
            assert_eq!(time(text), Some(Time(Duration::from_micros(micros))), "{text}");
        };
        is("200ms", 200_000);
        is("5s", 5_000_000);
        is(" 10 min", 600_000_000);
        is("24h", 86_400_000_000);
        is("7d", 604_800_000_000);
        for wrong in ["", "5", "s", "-1s", "1.5s", "1001d", "99999999999999999999s", "1 s s"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_units() {
        assert_eq!(size("4096"), Some(Size(4096)));
        assert_eq!(size("10GiB"), Some(Size(10 << 30)));
        assert_eq!(size("64 KiB"), Some(Size(65536)));
        for wrong in ["", "GiB", "-1", "1.5GiB", "99999999999GiB", "5s"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
