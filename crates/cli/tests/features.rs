//! What `evs` is linked with, by its features.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeSet;
use std::process::Command;

/// The packages that `evs` is built from, in these features.
fn packages(features: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--package", "eversock-cli", "--edges", "normal,build"]);
    command.args(["--prefix", "none", "--format", "{p}"]).args(features);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn evs_without_its_benches_is_linked_with_nothing_that_only_they_need() {
    let (whole, lean) = (packages(&[]), packages(&["--no-default-features"]));
    for name in ["eversock-bench", "rustls", "rcgen", "plotters"] {
        assert!(whole.contains(name), "{name} is not needed by the benches any more: {whole:?}");
        assert!(!lean.contains(name), "{name}: {lean:?}");
    }
    assert!(lean.contains("eversock") && lean.is_subset(&whole), "{lean:?}");
}
