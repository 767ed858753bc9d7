//! Which network device a line begins at, and what sysfs says of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most of a routing table that is looked at.
const ROUTES_MAX: usize = 4096;

/// The device through which the main routing table sends to this address; none where it does not
/// say, or there is no /proc.
pub(super) fn towards(ip: IpAddr) -> Option<String> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => v4(ip, &fs::read_to_string("/proc/thread-self/net/route").ok()?),
        IpAddr::V6(ip) => v6(ip, &fs::read_to_string("/proc/thread-self/net/ipv6_route").ok()?),
    }
}

/// The device that has this address, as far as a route to its network tells.
pub(super) fn of_local(ip: IpAddr) -> Option<String> {
    towards(ip)
}

/// In millions of bits a second; none where the driver does not know, or says -1.
pub(super) fn speed(device: &str) -> Option<u32> {
    read(device, "speed")
}

/// Largest packet of the device, in bytes.
pub(super) fn mtu(device: &str) -> Option<u32> {
    read(device, "mtu")
}

fn read(device: &str, what: &str) -> Option<u32> {
    // A name from the kernel's table; one with a slash is none.
    let is_name = !device.contains('/') && device != ".." && device != ".";
    let text = is_name.then(|| fs::read_to_string(format!("/sys/class/net/{device}/{what}")));
    text?.ok()?.trim().parse().ok().filter(|value| *value > 0)
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, numbers as they lie in memory.
fn v4(ip: Ipv4Addr, table: &str) -> Option<String> {
    let ip = u32::from_ne_bytes(ip.octets());
    let mut best: Option<(u32, &str)> = None;
    for line in table.lines().skip(1).take(ROUTES_MAX) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [device, destination, _, _, _, _, _, mask, ..] = fields[..] else { continue };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let Some((destination, mask)) = number(destination).zip(number(mask)) else { continue };
        let length = mask.count_ones();
        if ip & mask == destination && best.is_none_or(|(longest, _)| length > longest) {
            best = Some((length, device));
        }
    }
    best.map(|(_, device)| device.to_owned())
}

/// `destination length source length gateway metric refcount use flags device`.
fn v6(ip: Ipv6Addr, table: &str) -> Option<String> {
    let ip = u128::from(ip);
    let mut best: Option<(u32, &str)> = None;
    for line in table.lines().take(ROUTES_MAX) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, length, _, _, _, _, _, _, flags, device] = fields[..] else { continue };
        let destination = u128::from_str_radix(destination, 16).ok();
        let length = u32::from_str_radix(length, 16).ok().filter(|length| *length <= 128);
        let flags = u32::from_str_radix(flags, 16).ok();
        let Some(((destination, length), flags)) = destination.zip(length).zip(flags) else {
            continue;
        };
        // RTF_REJECT: a route to nowhere.
        let is_open = flags & 0x200 == 0;
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        let is_it = is_open && ip & mask == destination & mask;
        if is_it && best.is_none_or(|(longest, _)| length > longest) {
            best = Some((length, device));
        }
    }
    best.map(|(_, device)| device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_route_names_the_device() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     bad\n";
        if cfg!(target_endian = "little") {
            assert_eq!(v4([10, 0, 0, 7].into(), table).as_deref(), Some("eth1"));
            assert_eq!(v4([192, 0, 2, 7].into(), table).as_deref(), Some("eth0"));
        }
        let table = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001 veth0\n\
                     00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n";
        assert_eq!(v6("fd00::1".parse().unwrap(), table).as_deref(), Some("veth0"));
        assert_eq!(v6("2001:db8::1".parse().unwrap(), table), None);
        assert_eq!(v6("::1".parse().unwrap(), "nonsense zz\n"), None);
    }

    #[test]
    fn a_name_that_is_none_reads_nothing() {
        assert_eq!(speed("../../../etc"), None);
        assert_eq!(mtu("no-such-device"), None);
    }
}
