//! Blocks of addresses, ranges of ports, spans of time, sizes, as people write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    first: IpAddr,
    bits: u8,
}

/// An IPv4 address in IPv6 clothes is the IPv4 address: dual-stack programs use both for one peer.
fn bare(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

impl Block {
    /// True when the address is in the block.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.first, bare(addr)) {
            (IpAddr::V4(first), IpAddr::V4(addr)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (u32::from(first) ^ u32::from(addr)) & mask == 0
            }
            (IpAddr::V6(first), IpAddr::V6(addr)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (u128::from(first) ^ u128::from(addr)) & mask == 0
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for Block {
    fn from(addr: IpAddr) -> Self {
        let first = bare(addr);
        Self { first, bits: if first.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits)),
            None => (text, None),
        };
        let addr = addr.trim_start_matches('[').trim_end_matches(']');
        let first: IpAddr = addr.parse().map_err(|_| format!("`{addr}` is not an address"))?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let Some(bits) = bits else { return Ok(Self { first, bits: most }.normal()) };
        match bits.parse::<u8>() {
            Ok(bits) if bits <= most => Ok(Self { first, bits }.normal()),
            _ => Err(format!("`/{bits}` is not a length of 0 to {most} bits")),
        }
    }
}

impl Block {
    fn normal(self) -> Self {
        match bare(self.first) {
            v4 @ IpAddr::V4(_) if self.first.is_ipv6() && self.bits >= 96 => {
                Self { first: v4, bits: self.bits - 96 }
            }
            _ => self,
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.first.is_ipv4() { 32 } else { 128 };
        if self.bits == most {
            return self.first.fmt(f);
        }
        write!(f, "{}/{}", self.first, self.bits)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// True when the port is in the range.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

const PORTS_EXPECTED: &str = "a port from 1 to 65535, or a range as \"5000-5100\"";

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first > 0 && first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no port; expected {PORTS_EXPECTED}")),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl<'de> de::Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Ports;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(PORTS_EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Ports, E> {
                match u16::try_from(number) {
                    Ok(port) if port > 0 => Ok(Ports { first: port, last: port }),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

const SPAN_EXPECTED: &str =
    "seconds, or a number with a unit, as \"500ms\", \"30s\", \"15m\", \"2h\"";
/// Longer than any wait that makes sense, and far from what clocks can add.
const SPAN_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A span of time in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no span of time; expected {SPAN_EXPECTED}");
        let digits =
            text.trim().len() - text.trim().trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.trim().split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = match unit.trim() {
            "ms" => 1,
            "" | "s" => 1000,
            "m" | "min" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(bad()),
        };
        let span = number.checked_mul(millis).map(Duration::from_millis);
        span.filter(|&span| span <= SPAN_MAX).map(Self).ok_or_else(bad)
    }
}

impl<'de> de::Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SPAN_EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Span, E> {
                let span = u64::try_from(number).ok().map(Duration::from_secs);
                let span = span.filter(|&span| span <= SPAN_MAX).map(Span);
                span.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

const SIZE_EXPECTED: &str =
    "bytes, or a number with a unit, as \"64KiB\", \"256MiB\", \"2GB\"; 0 for no limit";

/// A number of bytes in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no size; expected {SIZE_EXPECTED}");
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let bytes = match unit.trim() {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            _ => return Err(bad()),
        };
        number.checked_mul(bytes).map(Self).ok_or_else(bad)
    }
}

impl<'de> de::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_EXPECTED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
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

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_holds_the_addresses_that_share_its_bits_and_no_others() {
        let net = block("10.1.0.0/16");
        assert!(net.contains(addr("10.1.255.3")));
        assert!(!net.contains(addr("10.2.0.0")));
        assert!(block("0.0.0.0/0").contains(addr("255.1.2.3")));
        assert!(!block("0.0.0.0/0").contains(addr("::1")));
        assert!(block("2001:db8::/33").contains(addr("2001:db8:7fff::1")));
        assert!(!block("2001:db8::/33").contains(addr("2001:db8:8000::1")));
        assert!(block("::/0").contains(addr("2001:db8::1")));
        assert!(block("[::1]").contains(addr("::1")));
        assert!(!block("::1").contains(addr("::2")));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
        assert!(block("10.1.0.0/16").contains(addr("::ffff:10.1.2.3")));
        assert!(block("::ffff:10.1.0.0/112").contains(addr("10.1.2.3")));
        assert!(!block("::/0").contains(addr("::ffff:10.1.2.3")));
    }

    #[test]
    fn a_block_that_is_none_says_why() {
        assert!("10.1.0.0/33".parse::<Block>().unwrap_err().contains("0 to 32"));
        assert!("::/129".parse::<Block>().unwrap_err().contains("0 to 128"));
        assert!("10.1.0/8".parse::<Block>().unwrap_err().contains("not an address"));
        assert!("10.1.0.0/-1".parse::<Block>().is_err());
        assert!("".parse::<Block>().is_err());
    }

    #[test]
    fn a_range_of_ports_holds_both_its_ends() {
        let ports: Ports = "5000-5100".parse().unwrap();
        assert!(ports.contains(5000) && ports.contains(5100));
        assert!(!ports.contains(4999) && !ports.contains(5101));
        let one: Ports = "80".parse().unwrap();
        assert!(one.contains(80) && !one.contains(81));
        assert_eq!((ports.to_string(), one.to_string()), ("5000-5100".into(), "80".into()));
        for bad in ["0", "70000", "9-8", "-", "80-", "http"] {
            assert!(bad.parse::<Ports>().unwrap_err().contains("expected a port"), "{bad}");
        }
    }

    #[test]
    fn a_size_takes_units_and_must_fit() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1 B", 1),
            ("64KiB", 64 << 10),
            ("256 M", 256 << 20),
            ("2GB", 2_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5GB", "-1", "5s", "18446744073709551616", "17179869184G"] {
            assert!(size(bad).unwrap_err().contains("expected bytes"), "{bad}");
        }
    }

    #[test]
    fn a_span_takes_units_and_has_a_limit() {
        let span = |text: &str| text.parse::<Span>().map(|span| span.0);
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("30"), Ok(Duration::from_secs(30)));
        assert_eq!(span("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(span("2 h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "m", "5 weeks", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(span(bad).unwrap_err().contains("expected seconds"), "{bad}");
        }
    }
}
