//! The header: what cbindgen makes of src/ffi is what is committed, and it compiles everywhere.

use eversock_ffi_tests::{Link, Program, compare_or_bless, have, root};

const FILES: [&str; 9] =
    ["version", "config", "keys", "limits", "socket", "io", "poll", "option", "info"];

fn generate() -> String {
    let root = root();
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in FILES {
        builder = builder.with_src(root.join(format!("src/ffi/{file}.rs")));
    }
    let mut bytes = Vec::new();
    builder.generate().expect("cbindgen understands src/ffi").write(&mut bytes);
    let text = String::from_utf8(bytes).expect("cbindgen writes UTF-8");
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines.push("");
    lines.join("\n")
}

#[test]
fn the_committed_header_is_what_the_source_says() {
    compare_or_bless("include/eversock.h", &generate());
}

#[test]
fn every_section_of_the_abi_is_in_the_header() {
    let modules = std::fs::read_to_string(root().join("src/ffi/mod.rs")).unwrap();
    let sections: Vec<&str> = modules
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(sections, FILES);
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
    for standard in ["c99", "c11", "c17", "gnu17"] {
        let name = format!("header-{standard}");
        let source = "ffi-tests/c/header.c";
        let program =
            Program { source, standard, link: Link::Static, extra: &["-Wshadow"], name: &name };
        eversock_ffi_tests::run(&mut std::process::Command::new(program.make()));
    }
}

#[test]
fn the_header_compiles_in_every_cpp() {
    if !have("c++") {
        return;
    }
    for standard in ["c++11", "c++14", "c++17", "c++20"] {
        let name = format!("header-{standard}");
        let source = "ffi-tests/cpp/header.cc";
        let program =
            Program { source, standard, link: Link::Shared, extra: &["-Wshadow"], name: &name };
        eversock_ffi_tests::run(&mut std::process::Command::new(program.make()));
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
            eversock_ffi_tests::run(&mut std::process::Command::new(program.make()));
        }
    }
}
