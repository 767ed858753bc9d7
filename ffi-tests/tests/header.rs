//! The header: what cbindgen makes of src/ffi is what is committed, and it compiles everywhere.

use std::path::PathBuf;

use eversock_ffi_tests::{Link, Program, compare_or_bless, have, out_dir, root};

/// Which features a program sees.
const NONE: [&str; 3] = ["-UEVERSOCK_CONTROLLER", "-UEVERSOCK_DEDUP", "-UEVERSOCK_SPOOL"];
const POOLS: [&str; 3] = ["-UEVERSOCK_CONTROLLER", "-DEVERSOCK_DEDUP", "-UEVERSOCK_SPOOL"];
const SPOOL: [&str; 3] = ["-UEVERSOCK_CONTROLLER", "-UEVERSOCK_DEDUP", "-DEVERSOCK_SPOOL"];
const CONTROLLER: [&str; 3] = ["-DEVERSOCK_CONTROLLER", "-UEVERSOCK_DEDUP", "-UEVERSOCK_SPOOL"];
const ALL: [&str; 3] = ["-DEVERSOCK_CONTROLLER", "-DEVERSOCK_DEDUP", "-DEVERSOCK_SPOOL"];

/// The public modules of src/ffi in the order in which they are declared, with their features, for
/// cbindgen to follow: it would take what others import from libc for ours.
fn sections() -> PathBuf {
    let modules = root().join("src/ffi");
    let text = std::fs::read_to_string(modules.join("mod.rs")).expect("src/ffi/mod.rs");
    let mut sections = String::new();
    let mut before = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            if before.starts_with("#[cfg") {
                sections += before;
            }
            let file = modules.join(name).with_extension("rs");
            sections += &format!("#[path = {:?}] {line}\n", file.display().to_string());
        }
        before = line;
    }
    let file = out_dir().join(format!("sections-{:?}.rs", std::thread::current().id()));
    std::fs::write(&file, sections).expect("a file for cbindgen");
    file
}

fn generate() -> String {
    let root = root();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let builder = cbindgen::Builder::new().with_config(config).with_src(sections());
    let mut bytes = Vec::new();
    builder.generate().expect("cbindgen understands src/ffi").write(&mut bytes);
    let text = String::from_utf8(bytes).expect("cbindgen writes UTF-8");
    let mut lines = one_guard_for_neighbours(text.lines().map(str::trim_end));
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines.push("");
    lines.join("\n")
}

/// cbindgen guards each item of a feature by itself; here neighbours of one feature get one guard.
fn one_guard_for_neighbours<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const OPEN: [&str; 3] = [
        "#if defined(EVERSOCK_CONTROLLER)",
        "#if defined(EVERSOCK_DEDUP)",
        "#if defined(EVERSOCK_SPOOL)",
    ];
    let mut out: Vec<&str> = Vec::new();
    let (mut inside, mut last) = (None, None);
    for line in lines {
        if OPEN.contains(&line) {
            inside = Some(line);
            if last == inside && out.ends_with(&["", "#endif", ""]) {
                out.truncate(out.len() - 2);
            } else {
                out.extend([line, ""]);
            }
        } else if line == "#endif" && inside.is_some() {
            last = inside.take();
            out.extend(["", line]);
        } else {
            out.push(line);
        }
    }
    out
}

#[test]
fn the_committed_header_is_what_the_source_says() {
    compare_or_bless("include/eversock.h", &generate());
}

#[test]
fn every_function_is_documented_to_the_end() {
    let header = generate();
    let mut bad = Vec::new();
    let mut comment = String::new();
    for block in header.split("\n\n") {
        let is_function = block.contains("EVS_API") && block.trim_end().ends_with(");");
        if block.trim_start().starts_with("/**") {
            block.clone_into(&mut comment);
        }
        if is_function && !block.starts_with("/*\n") {
            let name = block.split("evs_").last().unwrap_or(block);
            let is_void = block.contains("EVS_API void ");
            for word in ["Thread safety:", "Since:", "Returns:"] {
                let is_told = comment.contains(word) || is_void && word == "Returns:";
                if !is_told {
                    bad.push(format!("evs_{name}: no `{word}`"));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn the_header_compiles_in_every_c() {
    if !have("cc") {
        return;
    }
    for (standard, features) in [
        ("c99", NONE),
        ("c11", POOLS),
        ("c17", ALL),
        ("gnu17", NONE),
        ("gnu17", SPOOL),
        ("gnu17", CONTROLLER),
        ("c99", ALL),
    ] {
        let name = format!("header-{standard}{}", features.concat());
        let source = "ffi-tests/c/header.c";
        let extra = &["-Wshadow", features[0], features[1], features[2]];
        let program = Program { source, standard, link: Link::Static, extra, name: &name };
        eversock_ffi_tests::run(&mut program.make().command());
    }
}

#[test]
fn the_header_compiles_in_every_cpp() {
    if !have("c++") {
        return;
    }
    for (standard, features) in [
        ("c++11", ALL),
        ("c++14", NONE),
        ("c++17", SPOOL),
        ("c++17", CONTROLLER),
        ("c++20", POOLS),
        ("c++20", ALL),
    ] {
        let name = format!("header-{standard}{}", features.concat());
        let source = "ffi-tests/cpp/header.cc";
        let extra = &["-Wshadow", features[0], features[1], features[2]];
        let program = Program { source, standard, link: Link::Shared, extra, name: &name };
        eversock_ffi_tests::run(&mut program.make().command());
    }
}

#[test]
fn the_posix_header_compiles_in_every_c() {
    if !have("cc") {
        return;
    }
    for standard in ["c99", "c11", "c17", "gnu17"] {
        for extra in [&["-include", "eversock_posix.h"][..], &["-DEVERSOCK_POSIX_PUMPED"][..]] {
            let name = format!("posix-{standard}-{}", extra.len());
            let source = "ffi-tests/c/posix_names.c";
            let program = Program { source, standard, link: Link::Static, extra, name: &name };
            eversock_ffi_tests::run(&mut program.make().command());
        }
    }
}
