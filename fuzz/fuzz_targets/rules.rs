//! Rule files: whatever they say, they give rules or one line of what is wrong; and rules that are
//! written out again mean the same.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use eversock_rules::from_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let rules = match from_text(text, "fuzz.toml") {
        Ok(rules) => rules,
        Err(error) => {
            assert!(error.to_string().contains("fuzz.toml"), "{error}: where?");
            return;
        }
    };
    let again = from_text(&rules.to_toml(), "again.toml").expect("what was written is read");
    assert_eq!(again.to_toml(), rules.to_toml());
    let some = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    for ip in some {
        for port in [1, 80, 5432, 65535] {
            let addr = SocketAddr::new(ip, port);
            assert_eq!(rules.for_connect(addr).is_some(), again.for_connect(addr).is_some());
            assert_eq!(rules.for_listen(addr).is_some(), again.for_listen(addr).is_some());
        }
    }
});
