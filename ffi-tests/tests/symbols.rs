//! What the libraries export, and what they are called.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use eversock_ffi_tests::{
    Library, cargo, compare_or_bless, have, native_libraries, root, run, small_shared_library,
};

/// The library without any feature and the one with all: cargo puts both at one place, so the
/// former is built and copied before any test looks at the latter.
fn libraries() -> (&'static Path, &'static Library) {
    static SMALL: OnceLock<PathBuf> = OnceLock::new();
    (SMALL.get_or_init(small_shared_library), eversock_ffi_tests::library())
}

fn library() -> &'static Library {
    libraries().1
}

#[test]
fn the_shared_library_exports_the_listed_symbols_and_no_others() {
    exports(&library().shared, "ffi-tests/golden/libeversock.symbols");
}

#[test]
fn without_features_it_exports_less() {
    exports(libraries().0, "ffi-tests/golden/libeversock-small.symbols");
    let golden = root().join("ffi-tests/golden/libeversock-small.symbols");
    let golden = std::fs::read_to_string(golden).unwrap();
    let others = ["evs_controller", "evs_device", "evs_pool", "evs_shared", "evs_spool"];
    assert!(!golden.lines().any(|name| others.iter().any(|other| name.starts_with(other))));
}

fn exports(library: &Path, golden: &str) {
    if !have("nm") {
        return;
    }
    let said = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let mut symbols: Vec<&str> =
        said.out.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    symbols.sort_unstable();
    let foreign: Vec<_> = symbols.iter().filter(|name| !name.starts_with("evs_")).collect();
    assert!(foreign.is_empty(), "symbols that are not ours to define: {foreign:?}");
    compare_or_bless(golden, &(symbols.join("\n") + "\n"));
}

#[test]
fn every_symbol_has_a_prototype_and_every_prototype_a_symbol() {
    let header = std::fs::read_to_string(root().join("include/eversock.h")).unwrap();
    // What stands between EVS_API and the next parenthesis ends with the name, or is a macro's.
    let mut declared: Vec<&str> = header
        .split("EVS_API")
        .skip(1)
        .filter_map(|rest| rest.split('(').next()?.split_whitespace().last())
        .map(|name| name.trim_start_matches('*'))
        .filter(|name| name.starts_with("evs_"))
        .collect();
    declared.sort_unstable();
    declared.dedup();
    let golden = root().join("ffi-tests/golden/libeversock.symbols");
    let golden = std::fs::read_to_string(golden).unwrap();
    assert_eq!(declared, golden.lines().collect::<Vec<_>>());
}

#[test]
fn the_shared_library_is_called_libeversock_so_0() {
    if !have("readelf") {
        return;
    }
    let said = run(Command::new("readelf").arg("-d").arg(&library().shared));
    assert!(said.out.contains("Library soname: [libeversock.so.0]"), "{}", said.out);
}

#[test]
fn pkg_config_tells_the_version_and_the_native_libraries_of_the_build() {
    let template = std::fs::read_to_string(root().join("eversock.pc.in")).unwrap();
    let version = format!("Version: {}", env!("CARGO_PKG_VERSION"));
    assert!(template.lines().any(|line| line == version), "no line `{version}`");

    // These arguments make another unit of the crate alone; what it depends on is there already.
    let library = library();
    let mut command = cargo();
    command.args(["rustc", "-p", "eversock", "--lib", "--crate-type", "staticlib"]);
    command.args(["--features", "controller,dedup,spool"]);
    command.args(&library.profile).args(["--", "--print", "native-static-libs"]);
    command.current_dir(root()).env("CARGO_TARGET_DIR", &library.target_dir);
    let said = run(&mut command);
    let line = said.err.lines().find_map(|line| line.split("native-static-libs: ").nth(1));
    let line = line.unwrap_or_else(|| panic!("rustc does not tell:\n{}", said.err));
    let wanted: Vec<&str> = line.split_whitespace().collect();
    let mut unique: Vec<&str> = Vec::new();
    for name in wanted {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    assert_eq!(native_libraries(), unique);
}

#[test]
fn pkg_config_takes_the_file() {
    if !have("pkg-config") {
        return;
    }
    let dir = eversock_ffi_tests::out_dir();
    let template = std::fs::read_to_string(root().join("eversock.pc.in")).unwrap();
    std::fs::write(dir.join("eversock.pc"), template.replace("@prefix@", "/opt/evs")).unwrap();
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", &dir).args(["--static", "--libs", "--cflags", "eversock"]);
    let said = run(&mut command);
    for word in ["-I/opt/evs/include", "-L/opt/evs/lib", "-leversock", "-lpthread"] {
        assert!(said.out.contains(word), "{word} is missing: {}", said.out);
    }
}
