//! What must hold of the source tree itself: layout, wording, versions, dependency arrows.
//!
//! The checks read the files that git knows or would take in, so that a new file is checked before
//! it is added. Each check collects every offender before it fails. They are heuristics over text
//! with comments and strings blanked out; where one is wrong, make it cleverer rather than weaker.
//!
//! Not here: what the compiler, clippy and rustfmt check (see `.ci/run`).

#[path = "tidy/arrows.rs"]
mod arrows;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrows::ARROWS;

// ---------------------------------------------------------------------------------------------
// Limits and lists

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 800;

/// Files that may be longer than `LINES_MAX`, each with its own limit. Limits only go down: a test
/// fails when a file has become shorter than its entry by more than `RATCHET_SLACK_LINES`.
const LONG_FILES: &[(&str, usize)] = &[];
const RATCHET_SLACK_LINES: usize = 50;

/// How far above an `unsafe` its `SAFETY:` comment may end; the comment itself may be longer.
const SAFETY_LINES_ABOVE: usize = 6;

/// Generated files, whose wording and layout belong to their generator.
const GENERATED: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock"];

/// The only folders that may define symbols under plain names.
const SYMBOL_FOLDERS: &[&str] = &["src/ffi/", "crates/preload/src/"];

/// What the code of `proto` must not name: a path (with everything below it) or a crate.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "ring::rand::SystemRandom",
    "libc",
    "mio",
    "rustix",
    "socket2",
];

/// Names that are impure in any path, since nothing pure is called so.
const IMPURE_NAMES: &[&str] = &["SystemRandom", "SystemTime"];

// ---------------------------------------------------------------------------------------------
// The checks

#[test]
fn no_rust_line_is_longer_than_100_columns() {
    let mut bad = Vec::new();
    for file in rust_files() {
        for (number, line) in numbered(&file.text) {
            let columns = line.chars().count();
            let is_link = line.contains("http://") || line.contains("https://");
            if columns > COLUMNS_MAX && !is_link {
                bad.push(format!("{}:{number}: {columns} columns", file.path));
            }
        }
    }
    report(&bad, "split these lines");
}

#[test]
fn no_rust_file_is_longer_than_800_lines() {
    let files = rust_files();
    let mut bad = Vec::new();
    for file in &files {
        let lines = file.text.lines().count();
        let entry = LONG_FILES.iter().find(|(path, _)| *path == file.path);
        let limit = entry.map_or(LINES_MAX, |(_, limit)| *limit);
        if lines > limit {
            bad.push(format!("{}: {lines} lines, limit {limit}", file.path));
        } else if entry.is_some() && lines + RATCHET_SLACK_LINES < limit.max(LINES_MAX) {
            bad.push(format!("{}: {lines} lines: lower its limit {limit}", file.path));
        }
    }
    for (path, _) in LONG_FILES {
        if !files.iter().any(|file| file.path == *path) {
            bad.push(format!("{path}: listed in LONG_FILES, but not there"));
        }
    }
    report(&bad, "split these files along a boundary");
}

#[test]
fn no_file_says_a_banned_word() {
    // Put together here, so that this file does not say them.
    let words = [
        ["to", "do!"].concat(),
        ["un", "implemented!"].concat(),
        ["db", "g!"].concat(),
        ["FIX", "ME"].concat(),
    ];
    let hosts = [
        ["crates", ".io"].concat(),
        ["pypi", ".org"].concat(),
        ["npmjs", ".org"].concat(),
        ["deb.debian", ".org"].concat(),
    ];
    let mut bad = Vec::new();
    for file in text_files().iter().filter(|file| !GENERATED.contains(&file.path.as_str())) {
        for (number, line) in numbered(&file.text) {
            for word in words.iter().filter(|word| contains_word(line, word)) {
                bad.push(format!("{}:{number}: {word}", file.path));
            }
            for host in hosts.iter().filter(|host| contains_host(line, host)) {
                bad.push(format!("{}:{number}: {host}", file.path));
            }
        }
    }
    report(&bad, "finish what is unfinished; leave registries to the tools' own settings");
}

#[test]
fn text_has_no_odd_characters_and_no_trailing_space() {
    let mut bad = Vec::new();
    for path in tree() {
        let Ok(bytes) = fs::read(root().join(&path)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else {
            if is_source(&path) {
                bad.push(format!("{path}: is not UTF-8"));
            }
            continue;
        };
        if text.contains('\0') && !is_source(&path) {
            continue;
        }
        for (number, line) in text.split('\n').enumerate().map(|(index, line)| (index + 1, line)) {
            if line.ends_with('\r') {
                bad.push(format!("{path}:{number}: CRLF"));
            } else if line.ends_with([' ', '\t']) {
                bad.push(format!("{path}:{number}: trailing space"));
            }
            for odd in line.trim_end_matches('\r').chars().filter(|c| is_odd(*c)) {
                if odd != '\t' || !takes_tabs(&path, line) {
                    bad.push(format!("{path}:{number}: U+{:04X}", u32::from(odd)));
                }
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            bad.push(format!("{path}: no newline at the end"));
        } else if text.ends_with("\n\n") {
            bad.push(format!("{path}: empty lines at the end"));
        }
    }
    report(&bad, "clean these up");
}

#[test]
fn every_unsafe_block_and_impl_says_why_it_is_sound() {
    let mut bad = Vec::new();
    // Clippy asks the same of the workspace, its tests included, but not of fuzz/.
    for file in rust_files() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (line, next) in unsafe_uses(&blank_out(&file.text)) {
            let sound = match next.as_str() {
                "{" | "impl" => has_safety_comment(&lines, line),
                "fn" if lines[line].trim_start().starts_with("pub") => {
                    has_safety_section(&lines, line)
                }
                _ => true,
            };
            if !sound {
                let wanted = if next == "fn" { "# Safety" } else { "SAFETY:" };
                bad.push(format!("{}:{}: no {wanted}", file.path, line + 1));
            }
        }
    }
    report(&bad, "name the fact that makes it sound, just above");
}

#[test]
fn every_ignored_test_says_why() {
    let mut bad = Vec::new();
    for file in rust_files() {
        for (index, code) in blank_out(&file.text).lines().enumerate() {
            let squeezed: String = code.split_whitespace().collect();
            let bare = squeezed.contains("#[ignore]")
                || squeezed.contains("#[ignore=\"\"]")
                    && file.text.lines().nth(index).is_some_and(|line| line.contains("\"\""))
                || squeezed.contains("cfg_attr(") && squeezed.contains(",ignore)");
            if bare {
                bad.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    report(&bad, "write the reason as #[ignore = \"reason\"]");
}

#[test]
fn the_version_is_the_same_everywhere() {
    let manifest = read("Cargo.toml");
    let version = section(&manifest, "workspace.package")
        .iter()
        .find_map(|line| value_of(line, "version"))
        .expect("Cargo.toml has no workspace version");
    let mut bad = Vec::new();

    for line in section(&manifest, "workspace.dependencies") {
        if line.contains("path = ") && !line.contains(&format!("version = \"{version}\"")) {
            bad.push(format!("Cargo.toml: {line}"));
        }
    }
    for (path, manifest) in manifests() {
        if !section(&manifest, "package").contains(&"version.workspace = true") {
            bad.push(format!("{path}: version.workspace = true is missing"));
        }
    }
    let mut numbers = version.split(['.', '-']);
    let header = "include/eversock.h";
    if root().join(header).exists() {
        let text = read(header);
        for part in ["MAJOR", "MINOR", "PATCH"] {
            let number = numbers.next().unwrap_or("0");
            let name = format!("EVS_VERSION_{part}");
            let found = text.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let is_it = words.next() == Some("#define") && words.next() == Some(&name);
                if is_it { words.next() } else { None }
            });
            if found != Some(number) {
                bad.push(format!("{header}: {name} is {found:?}, not {number}"));
            }
        }
    }
    let log = read("CHANGELOG.md");
    let newest = log.lines().find_map(|line| line.strip_prefix("## [")?.split(']').next());
    if newest != Some(&version) {
        bad.push(format!("CHANGELOG.md: the newest heading is {newest:?}"));
    }
    report(&bad, &format!("the workspace has version {version}"));
}

#[test]
fn proto_names_no_clock_no_thread_and_no_io() {
    let mut bad = Vec::new();
    for file in rust_files().iter().filter(|file| file.path.starts_with("crates/proto/src/")) {
        let code = blank_out(&file.text);
        let used = used_paths(&code);
        for impure in IMPURE {
            let below = format!("{impure}::");
            for (line, path) in &used {
                if path == impure || path.starts_with(&below) {
                    bad.push(format!("{}:{line}: use {path}", file.path));
                }
            }
            // A crate's name may also be a plain word; as a path it is followed by `::`.
            let needle = if impure.contains("::") { *impure } else { below.as_str() };
            for (number, line) in numbered(&code) {
                let is_use = used.iter().any(|(used_line, _)| *used_line == number);
                if contains_word(line, needle) && !is_use {
                    bad.push(format!("{}:{number}: {impure}", file.path));
                }
            }
        }
        for (number, line) in numbered(&code) {
            for name in IMPURE_NAMES.iter().filter(|name| contains_word(line, name)) {
                bad.push(format!("{}:{number}: {name}", file.path));
            }
        }
    }
    let code = blank_out(&read("crates/proto/src/lib.rs"));
    let first = code.lines().map(str::trim).find(|line| !line.is_empty());
    if first != Some("#![forbid(unsafe_code)]") {
        bad.push(
            "crates/proto/src/lib.rs: does not begin with #![forbid(unsafe_code)]".to_string(),
        );
    }
    report(&bad, "time, randomness and bytes are arguments (addresses: core::net)");
}

#[test]
fn proto_repeats_the_clippy_settings_of_the_root() {
    let own = read("crates/proto/clippy.toml");
    let is_setting = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let bad: Vec<String> = read("clippy.toml")
        .lines()
        .filter(is_setting)
        .filter(|line| !own.lines().any(|own| own == *line))
        .map(|line| format!("crates/proto/clippy.toml lacks: {line}"))
        .collect();
    report(&bad, "clippy takes the nearest file only");
}

#[test]
fn dependencies_point_one_way() {
    let mut bad = Vec::new();
    for (path, manifest) in manifests() {
        let name = section(&manifest, "package")
            .iter()
            .find_map(|line| value_of(line, "name"))
            .unwrap_or_else(|| panic!("{path} has no package name"));
        let Some((_, allowed)) = ARROWS.iter().find(|(package, _)| *package == name) else {
            bad.push(format!("{path}: {name} is not in ARROWS"));
            continue;
        };
        for dependency in linked(&manifest) {
            let is_ours = dependency == "eversock" || dependency.starts_with("eversock-");
            if is_ours && allowed.is_some_and(|allowed| !allowed.contains(&dependency.as_str())) {
                bad.push(format!("{path}: {name} -> {dependency}"));
            }
        }
    }
    report(&bad, "the layers are in docs/ARCHITECTURE.md and in ARROWS");
}

#[test]
fn only_the_c_abi_defines_plain_symbols() {
    let mut bad = Vec::new();
    for file in rust_files() {
        if SYMBOL_FOLDERS.iter().any(|folder| file.path.starts_with(folder)) {
            continue;
        }
        for (number, line) in numbered(&blank_out(&file.text)) {
            for name in ["no_mangle", "export_name"] {
                if contains_word(line, name) {
                    bad.push(format!("{}:{number}: {name}", file.path));
                }
            }
        }
    }
    report(&bad, "a cdylib re-exports every such symbol of the crates it links");
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let items = invariants(&read("docs/ARCHITECTURE.md"));
    let mut bad = Vec::new();
    if items.is_empty() {
        bad.push("docs/ARCHITECTURE.md has no numbered item under ## Invariants".to_string());
    }
    let files = tree();
    let functions = function_names();
    for (index, (number, text)) in items.iter().enumerate() {
        if *number != index + 1 {
            bad.push(format!("item {number} stands where item {} should", index + 1));
        }
        let tests = named_tests(text);
        if tests.is_empty() {
            bad.push(format!("item {number} names no test: end it with (tests: `name`)"));
        }
        for test in tests {
            let function = test.rsplit("::").next().unwrap_or(&test);
            let is_file = files.iter().any(|file| {
                let is_c = file.ends_with(".c") || file.ends_with(".cc") || file.ends_with(".cpp");
                is_c && (*file == test || file.ends_with(&format!("/{test}")))
            });
            if !functions.contains(function) && !is_file {
                bad.push(format!("item {number}: there is no test `{test}`"));
            }
        }
    }
    report(&bad, "each invariant is held by a test");
}

#[test]
fn every_test_that_testing_md_names_exists() {
    let functions = function_names();
    let mut bad = Vec::new();
    for (at, line) in numbered(&read("docs/TESTING.md")) {
        let missing = sentences(line).into_iter().filter(|name| !functions.contains(name));
        bad.extend(missing.map(|name| format!("docs/TESTING.md:{at}: there is no test `{name}`")));
    }
    report(&bad, "each row of the tables names tests that exist");
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(sentences("| `a_b_c_d` (`c.rs`) `cc`, `SO_A_B_C` | `x_y` |"), ["a_b_c_d"]);
    let code =
        blank_out("let c = '\"'; // unsafe {\nlet r = r#\"unsafe \" {\"#; 'a: unsafe { x }\n");
    assert_eq!(unsafe_uses(&code), [(1, "{".to_string())]);
    let code = blank_out("/* a /* b */ unsafe */ pub unsafe extern \"C\" fn f(g: unsafe fn()) {}");
    assert_eq!(unsafe_uses(&code), [(0, "fn".to_string())]);
    let code = "use std::{net::{self, IpAddr as A}, time};\npub use b::*;\n";
    let paths: Vec<String> = used_paths(code).into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, ["std::net", "std::net::IpAddr", "std::time", "b::*"]);
    assert!(contains_word("a libc::x", "libc::x") && !contains_word("glibc::x", "libc::x"));
    assert!(has_safety_comment(&["// SAFETY: x", "let a =", "    unsafe {"], 2));
    assert!(!has_safety_comment(&["// a", "unsafe {"], 1));
    let page = "## Invariants\n1. A holds\n   here (tests: `a::b`, `c.c`).\n2. B.\n## C\n3. D\n";
    let items = invariants(page);
    assert_eq!(items.len(), 2);
    assert_eq!(named_tests(&items[0].1), ["a::b", "c.c"]);
    assert!(named_tests(&items[1].1).is_empty());
    let manifest = "[dependencies]\na.workspace = true\nb = \"1\"\n[dependencies.c]\nx = 1\n\
                    [target.'cfg(unix)'.dependencies]\nd = { package = \"e\" }\n\
                    [dev-dependencies]\nf = \"1\"\n";
    assert_eq!(linked(manifest), ["a", "b", "c", "e"]);
}

// ---------------------------------------------------------------------------------------------
// The tree

/// A text file of the tree, by its path from the root.
struct Text {
    path: String,
    text: String,
}

fn report(bad: &[String], remedy: &str) {
    assert!(bad.is_empty(), "{} found; {remedy}:\n  {}", bad.len(), bad.join("\n  "));
}

fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    here.or_else(|| option_env!("CARGO_MANIFEST_DIR").map(PathBuf::from))
        .or_else(|| env::current_dir().ok())
        .expect("no CARGO_MANIFEST_DIR and no current directory")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file that git knows or would take in; without git, all but what a build leaves behind.
fn tree() -> Vec<String> {
    let listing = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(root())
        .output();
    let mut files = Vec::new();
    match listing {
        Ok(listing) if listing.status.success() => {
            let names = String::from_utf8_lossy(&listing.stdout).into_owned();
            files.extend(names.split_terminator('\0').map(str::to_string));
        }
        _ => walk(&root(), &mut files),
    }
    // What a fuzzer has made is no text of ours.
    files.retain(|file| root().join(file).is_file() && !file.starts_with("fuzz/corpus/"));
    files.sort();
    files.dedup();
    assert!(files.iter().any(|file| file == "Cargo.toml"), "the list of files is not this tree's");
    files
}

fn walk(folder: &Path, files: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                walk(&path, files);
            }
        } else if let Ok(relative) = path.strip_prefix(root()) {
            files.push(relative.to_string_lossy().into_owned());
        }
    }
}

fn text_files() -> Vec<Text> {
    let load = |path: String| {
        let text = fs::read_to_string(root().join(&path)).ok()?;
        (!text.contains('\0')).then_some(Text { path, text })
    };
    tree().into_iter().filter_map(load).collect()
}

fn rust_files() -> Vec<Text> {
    text_files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// The manifests of all packages; the root's is one of them.
fn manifests() -> Vec<(String, String)> {
    let is_manifest = |path: &String| {
        let name = path.strip_suffix("Cargo.toml");
        name.is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
            && !path.starts_with("fuzz/")
    };
    tree().into_iter().filter(is_manifest).map(|path| (path.clone(), read(&path))).collect()
}

fn function_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in rust_files() {
        for line in blank_out(&file.text).lines() {
            for (at, _) in line.match_indices("fn ") {
                let name: String = line[at + 3..].chars().take_while(|c| is_ident(*c)).collect();
                if !name.is_empty() && line[at + 3 + name.len()..].starts_with(['(', '<']) {
                    names.insert(name);
                }
            }
        }
    }
    names
}

fn is_source(path: &str) -> bool {
    let endings = [".rs", ".toml", ".md", ".c", ".h", ".cc", ".cpp", ".sh", ".py", ".in", ".lock"];
    endings.iter().any(|ending| path.ends_with(ending))
}

/// Make wants tabs, and C sources taken over as they are keep theirs at the start of a line.
fn takes_tabs(path: &str, line: &str) -> bool {
    let is_make = path.ends_with("Makefile") || path.ends_with(".mk");
    let is_c = path.ends_with(".c") && !line.trim_start_matches('\t').contains('\t');
    is_make || is_c
}

/// Control characters, and characters that show nothing or turn the direction of the text.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}')
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

// ---------------------------------------------------------------------------------------------
// Reading Rust

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `line` and is not a part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let open = word.starts_with(is_ident);
    let closed = word.ends_with(is_ident);
    line.match_indices(word).any(|(at, _)| {
        let goes_on_before = open && line[..at].ends_with(is_ident);
        let goes_on_after = closed && line[at + word.len()..].starts_with(is_ident);
        !goes_on_before && !goes_on_after
    })
}

/// Whether `line` names the host or a host below it; a longer name is another host.
fn contains_host(line: &str, host: &str) -> bool {
    let line = line.to_lowercase();
    line.match_indices(host).any(|(at, _)| {
        !line[..at].ends_with(|c| is_ident(c) || c == '-')
            && !line[at + host.len()..].starts_with(is_ident)
    })
}

/// The same text with the insides of comments, strings and characters turned into spaces.
fn blank_out(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let begin = i;
        let after_ident = i > 0 && is_ident(chars[i - 1]);
        let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
        if at(i) == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
            blank(&mut out, &chars[begin..i]);
        } else if at(i) == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => depth += 1,
                    ('*', '/') => depth -= 1,
                    _ => {
                        i += 1;
                        continue;
                    }
                }
                i += 2;
                if depth == 0 {
                    break;
                }
            }
            i = i.min(chars.len());
            blank(&mut out, &chars[begin..i]);
        } else if at(i) == 'r'
            && at(i + 1 + hashes) == '"'
            && (!after_ident || matches!(chars[i - 1], 'b' | 'c'))
        {
            i += hashes + 2;
            let ends = |i: usize| at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#');
            while i < chars.len() && !ends(i) {
                i += 1;
            }
            blank(&mut out, &chars[begin..i.min(chars.len())]);
            out.push('"');
            i = (i + hashes + 1).min(chars.len());
        } else if at(i) == '"' || at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            let quote = at(i);
            i += 1;
            while i < chars.len() && chars[i] != quote {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i = i.min(chars.len());
            out.push(quote);
            blank(&mut out, &chars[begin + 1..i]);
            out.push(quote);
            i += 1;
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

fn blank(out: &mut String, chars: &[char]) {
    out.extend(chars.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
}

/// Each `unsafe` in blanked code: its line, from 0, and what it makes unsafe: `{`, `impl`, `fn`...
/// Types of function pointers and `unsafe(..)` attributes are left out.
fn unsafe_uses(code: &str) -> Vec<(usize, String)> {
    let mut uses = Vec::new();
    for (at, word) in code.match_indices("unsafe") {
        let rest = &code[at + word.len()..];
        if code[..at].ends_with(is_ident) || rest.starts_with(is_ident) {
            continue;
        }
        let mut rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("extern") {
            rest = after.trim_start().trim_start_matches(['"', ' ']);
            if rest.starts_with('{') {
                continue;
            }
        }
        let length = rest.find(|c| !is_ident(c)).unwrap_or(rest.len()).max(1);
        let next: String = rest.chars().take(length).collect();
        let is_type = next == "fn" && rest[length..].trim_start().starts_with('(');
        if next != "(" && !is_type {
            uses.push((code[..at].matches('\n').count(), next));
        }
    }
    uses
}

fn has_safety_comment(lines: &[&str], line: usize) -> bool {
    let is_comment = |text: &str| text.trim_start().starts_with("//");
    let mut first = line.saturating_sub(SAFETY_LINES_ABOVE);
    while first > 0 && is_comment(lines[first]) && is_comment(lines[first - 1]) {
        first -= 1;
    }
    lines[first..=line].iter().any(|text| text.contains("SAFETY:"))
}

/// Looks through the attributes and comments that stand before the function.
fn has_safety_section(lines: &[&str], line: usize) -> bool {
    let is_head = |text: &&&str| {
        let text = text.trim();
        text.starts_with("//") || text.starts_with("#[") || text.ends_with(']')
    };
    let mut above = lines[..line].iter().rev().take_while(is_head);
    above.any(|text| text.contains("# Safety"))
}

/// All paths that the `use` items of blanked code bring in, each with the line it begins on.
fn used_paths(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(is_ident) {
            continue;
        }
        let Some(end) = code[at..].find(';') else { continue };
        let item = &code[at + 4..at + end];
        let mut found = Vec::new();
        expand(item, "", &mut found);
        let line = code[..at].matches('\n').count() + 1;
        paths.extend(found.into_iter().map(|path| (line, path)));
    }
    paths
}

fn expand(item: &str, prefix: &str, paths: &mut Vec<String>) {
    let item = item.trim();
    if let Some(open) = item.find('{') {
        let prefix = format!("{prefix}{}", item[..open].split_whitespace().collect::<String>());
        let list = &item[open + 1..item.rfind('}').unwrap_or(item.len())];
        let (mut depth, mut begin) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&list[begin..at], &prefix, paths);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        expand(&list[begin..], &prefix, paths);
    } else if !item.is_empty() {
        let name = item.split(" as ").next().unwrap_or(item).trim();
        let path = format!("{prefix}{name}");
        let path = path.trim_start_matches("::");
        paths.push(path.strip_suffix("::self").unwrap_or(path).to_string());
    }
}

// ---------------------------------------------------------------------------------------------
// Reading manifests and documents

/// The lines of one section of a TOML file, without comments and empty lines.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!("[{name}]");
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != heading);
    lines.next();
    let is_content = |line: &&str| !line.is_empty() && !line.starts_with('#');
    lines.take_while(|line| !line.starts_with('[')).filter(is_content).collect()
}

fn value_of(line: &str, key: &str) -> Option<String> {
    let value = line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim();
    Some(value.strip_prefix('"')?.split('"').next()?.to_string())
}

/// The packages that a manifest links to, for any target; what only its tests use is left out.
fn linked(manifest: &str) -> Vec<String> {
    let mut packages = Vec::new();
    let mut is_list = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(heading) = line.strip_prefix('[') {
            let heading = heading.trim_end_matches(']');
            let kind = heading.rsplit('.').next().unwrap_or(heading);
            is_list = ["dependencies", "build-dependencies"].contains(&kind)
                && !heading.starts_with("workspace");
            let table = ["dependencies.", "build-dependencies."]
                .iter()
                .find_map(|prefix| heading.strip_prefix(prefix));
            packages.extend(table.map(str::to_string));
        } else if is_list && line.starts_with(is_ident) {
            let key: String = line.chars().take_while(|c| is_ident(*c) || *c == '-').collect();
            let renamed = line.split("package = \"").nth(1).and_then(|rest| rest.split('"').next());
            packages.push(renamed.map_or(key, str::to_string));
        }
    }
    packages
}

/// The numbered items under `## Invariants`, each with all of its lines.
fn invariants(page: &str) -> Vec<(usize, String)> {
    let mut items: Vec<(usize, String)> = Vec::new();
    let lines = page.lines().skip_while(|line| line.trim() != "## Invariants").skip(1);
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        let number = line.split_once(". ").and_then(|(number, _)| number.parse().ok());
        match (number, items.last_mut()) {
            (Some(number), _) => items.push((number, line.to_string())),
            (None, Some((_, text))) => {
                text.push(' ');
                text.push_str(line.trim());
            }
            (None, None) => {}
        }
    }
    items
}

/// What stands between backticks and is a sentence, as names of tests are: several words of small
/// letters.
fn sentences(line: &str) -> Vec<String> {
    let quoted = line.split('`').skip(1).step_by(2);
    let is_small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_name = |name: &&str| name.chars().all(is_small) && name.matches('_').count() >= 3;
    quoted.filter(is_name).map(str::to_string).collect()
}

/// What stands between backticks in `(test: ..)` and `(tests: ..)`.
fn named_tests(item: &str) -> Vec<String> {
    let lists = ["(test: ", "(tests: "].map(|opening| item.split(opening).skip(1));
    let lists = lists.into_iter().flatten().map(|list| list.split(')').next().unwrap_or(list));
    lists.flat_map(|list| list.split('`').skip(1).step_by(2)).map(str::to_string).collect()
}
