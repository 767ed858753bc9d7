//! What the library defines, and what it must not do before anything is virtual.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{ALL, Program, here, library, preload};

fn names(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new("nm").args(arguments).arg(library()).output().unwrap();
    assert!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect()
}

#[test]
fn the_library_defines_libcs_names_and_nothing_else() {
    let golden = std::fs::read_to_string(here().join("tests/golden/symbols.txt")).unwrap();
    let golden: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
    let defined = names(&["-D", "--defined-only"]);
    let missing: Vec<_> = golden.difference(&defined).collect();
    let surplus: Vec<_> = defined.difference(&golden).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:?}, not in tests/golden/symbols.txt {surplus:?}"
    );
}

#[test]
fn a_program_without_virtual_sockets_has_no_thread_and_no_descriptor_more() {
    let look =
        "import os; print(len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd')))";
    let count = |command: &mut Command| {
        let mut program = Program::start(command.arg("-c").arg(look));
        program.succeed("python3")
    };
    let plain = count(&mut Command::new("python3"));
    assert_eq!(count(preload(&mut Command::new("python3"), ALL)), plain);
}
