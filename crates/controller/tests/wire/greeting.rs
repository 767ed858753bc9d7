//! How connections begin.

use eversock_controller::wire::codes::bye;
use eversock_controller::wire::{Bye, Hello, Role, VERSION, VERSION_OLDEST};

const DOOR: &[Role] = &[Role::Device, Role::ThirdParty];

#[test]
fn both_go_on_with_the_newest_version_that_both_speak() {
    assert_eq!(Hello::new(Role::Device).agree(DOOR), Ok(VERSION));
    let newer = Hello { oldest: VERSION_OLDEST, newest: VERSION + 7, role: Role::ThirdParty };
    assert_eq!(newer.agree(DOOR), Ok(VERSION));
    let exact = Hello { oldest: VERSION, newest: VERSION, role: Role::Partner };
    assert_eq!(exact.agree(&[Role::Partner]), Ok(VERSION));
}

#[test]
fn without_a_common_version_the_peer_is_told_which_there_are() {
    let too_new = Hello { oldest: VERSION + 1, newest: VERSION + 2, role: Role::Device };
    let too_old = Hello { oldest: 0, newest: VERSION_OLDEST - 1, role: Role::Device };
    let none = Hello { oldest: VERSION, newest: VERSION_OLDEST - 1, role: Role::Device };
    for hello in [too_new, too_old, none] {
        let Bye { code, text, .. } = hello.agree(DOOR).unwrap_err();
        assert_eq!(code, bye::VERSION, "{hello:?}");
        assert!(text.contains(&format!("there {} to {}", hello.oldest, hello.newest)), "{text}");
    }
}

#[test]
fn a_role_that_is_not_wanted_is_refused_before_its_version() {
    let hello = Hello { oldest: 99, newest: 99, role: Role::Partner };
    let refused = hello.agree(DOOR).unwrap_err();
    assert_eq!(refused.code, bye::MISMATCH);
    assert!(refused.text.contains("partner"), "{}", refused.text);
}
