//! `docs/PROTOCOL.md` against the code: limits, codes and labels, and the tests that it cites.
//!
//! A fact that stands in two places is compared here. The page is read as text, and so is the
//! code: constants are worked out by a small evaluator that knows what constants in this tree use.
//!
//! Not here: whether the cited tests pass, and whether they test what the rule says.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/PROTOCOL.md";
const SOURCES: &str = "crates/proto/src";

/// What the last column of section 10 says of a rule that has no test yet.
const NO_TEST: &str = "none yet:";

/// Rules that may have no test yet. This number only goes down.
const WITHOUT_TEST_MAX: usize = 0;

// ---------------------------------------------------------------------------------------------
// The checks

#[test]
fn every_limit_in_the_document_equals_the_constant_that_it_names() {
    let section = section(&read(PAGE), "8");
    let mut rows: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut bad = Vec::new();
    for row in table_rows(&section) {
        let [_, value, constant, rest @ ..] = row.as_slice() else { continue };
        let Some(name) = quoted(constant).first().cloned() else { continue };
        let file = rest.first().and_then(|file| quoted(file).first().cloned());
        let file = file.unwrap_or_else(|| "limits.rs".to_string());
        if rows.insert(name.clone(), (value.clone(), file)).is_some() {
            bad.push(format!("{name} has two rows"));
        }
    }

    let limits = constants(&read(&format!("{SOURCES}/limits.rs")));
    for name in limits.keys() {
        if rows.get(name).is_none_or(|(_, file)| file != "limits.rs") {
            bad.push(format!("{name} of limits.rs has no row"));
        }
    }
    for (name, (value, file)) in &rows {
        let source = read(&format!("{SOURCES}/{file}"));
        let mut known = constants(&source);
        known.extend(defaults(&source));
        match (quantity(value), evaluate_named(name, &known)) {
            (Some(said), Ok(true_value)) if said == true_value => {}
            (Some(said), Ok(true_value)) => {
                bad.push(format!("{name}: {said:?} in the document, {true_value:?} in {file}"));
            }
            (None, _) => bad.push(format!("{name}: `{value}` is no quantity")),
            (_, Err(error)) => bad.push(format!("{name} in {file}: {error}")),
        }
        let is_bytes = name.ends_with("_BYTES");
        if is_bytes != value.ends_with('B') {
            bad.push(format!("{name}: the unit of `{value}` is not the name's"));
        }
    }
    report(&bad, "section 8 and the code have to agree");
}

#[test]
fn every_code_and_label_in_the_document_is_the_codes_own() {
    let page = read(PAGE);
    let mut bad = Vec::new();
    let tables = [
        ("2.1", "wire/frame.rs", "Kind"),
        ("3", "wire/hello.rs", "HelloKind"),
        ("3.3", "resume.rs", "Reason"),
    ];
    for (number, file, name) in tables {
        let mut said = BTreeSet::new();
        for row in table_rows(&own_part(&section(&page, number))) {
            if let (Some(Ok(code)), Some(word)) = (row.first().map(|c| c.parse()), row.get(1)) {
                said.insert((code, word.clone()));
            }
        }
        let source = read(&format!("{SOURCES}/{file}"));
        let true_codes = discriminants(&source, name);
        if said.is_empty() || said != true_codes {
            bad.push(format!("section {number}: {said:?}\n    {name} in {file}: {true_codes:?}"));
        }
    }

    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut labels = BTreeSet::new();
    for file in rust_files(&root().join(SOURCES)) {
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            if let Some((_, value)) = line.split_once("_LABEL: &str = \"") {
                labels.insert(value.split('"').next().unwrap_or(value).to_string());
            }
        }
    }
    for label in &labels {
        if !text.contains(&format!("\"{label}\"")) {
            bad.push(format!("the label \"{label}\" is not in the document"));
        }
    }
    if labels.is_empty() {
        bad.push("no label was found in the code".to_string());
    }
    report(&bad, "a peer that follows the document has to understand this one");
}

#[test]
fn every_rule_of_the_document_has_an_id_and_every_id_names_tests_that_exist() {
    let page = read(PAGE);
    let (rules, table) = page.split_once("\n## 10.").expect("the document has a section 10");
    let mut bad = Vec::new();

    // Sections 2 to 7 hold the rules; before and after them the words are explained and discussed.
    let mut ids = BTreeSet::new();
    let mut number = String::new();
    for block in blocks(rules) {
        if let Some(heading) = block.strip_prefix('#') {
            let heading = heading.trim_start_matches('#').trim();
            number = heading.split(' ').next().unwrap_or("").trim_end_matches('.').to_string();
            continue;
        }
        let found = ids_in(&block);
        let is_rule = number.starts_with(|c: char| ('2'..='7').contains(&c));
        if is_rule && found.is_empty() && contains_word(&block, "MUST") {
            bad.push(format!("{number}: a MUST without an id: {block}"));
        }
        for id in found {
            let home = id.trim_start_matches("P-").rsplit_once('-').map_or("", |(home, _)| home);
            if home != number {
                bad.push(format!("{id} stands in section {number}"));
            }
            if !contains_word(&block, "MUST") {
                bad.push(format!("{id} holds no MUST"));
            }
            if !ids.insert(id.clone()) {
                bad.push(format!("{id} stands twice"));
            }
        }
    }
    if ids.is_empty() {
        bad.push("the document has no rule".to_string());
    }

    let tests = test_names();
    let mut listed = BTreeSet::new();
    let mut without = 0;
    for row in table_rows(table) {
        let [id, cited] = row.as_slice() else { continue };
        if !id.starts_with("P-") {
            continue;
        }
        if !ids.contains(id) {
            bad.push(format!("{id} is listed, but no rule has it"));
        }
        listed.insert(id.clone());
        if let Some(reason) = cited.strip_prefix(NO_TEST) {
            without += 1;
            if reason.trim().is_empty() {
                bad.push(format!("{id}: say why there is no test"));
            }
            continue;
        }
        let names = quoted(cited);
        if names.is_empty() {
            bad.push(format!("{id} names no test"));
        }
        for name in names {
            if !tests.contains(&name) {
                bad.push(format!("{id}: there is no test `{name}`"));
            }
        }
    }
    for id in ids.difference(&listed) {
        bad.push(format!("{id} has no row in section 10"));
    }
    if without != WITHOUT_TEST_MAX {
        bad.push(format!("{without} rules have no test; WITHOUT_TEST_MAX is {WITHOUT_TEST_MAX}"));
    }
    report(&bad, "each MUST has an id, and each id a row with tests (the limit only goes down)");
}

#[test]
fn every_known_answer_in_the_document_is_the_one_that_the_tests_expect() {
    let code = read("crates/proto/tests/vectors.rs");
    let block = code.split_once("const VECTORS").map_or("", |(_, rest)| rest);
    let block = block.split("];").next().unwrap_or(block);
    let strings: Vec<String> = block
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|string| string.split("\\\n").map(str::trim_start).collect())
        .collect();
    let expected: Vec<(String, String)> =
        strings.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let rows = table_rows(&section(&read(PAGE), "5.3"));
    let said: Vec<(String, String)> = rows
        .iter()
        .filter_map(|row| Some((row.first()?.clone(), quoted(row.get(1)?).first()?.clone())))
        .collect();
    assert!(!expected.is_empty(), "no known answer was found in the tests");
    assert_eq!(said, expected, "section 5.3 and VECTORS have to agree");
}

#[test]
fn the_checks_of_the_document_see_what_they_look_for() {
    let code = "pub const A_BYTES: u64 = 4 * 1024; // x\npub const B: u64 =\n    (u16::MAX as u64) \
                * A_BYTES - 1;\npub const T: Duration = Duration::from_secs(10);\n\
                fn default() -> Self {\n Self { base: Duration::from_millis(50), cap: B }\n}\n";
    assert_eq!(evaluate_named("base", &defaults(code)), Ok(Quantity::Millis(50)));
    assert_eq!(defaults(code).len(), 2);
    let known = constants(code);
    assert_eq!(known.len(), 3);
    assert_eq!(evaluate_named("A_BYTES", &known), Ok(Quantity::Number(4096)));
    assert_eq!(evaluate_named("B", &known), Ok(Quantity::Number(65_535 * 4096 - 1)));
    assert_eq!(evaluate_named("T", &known), Ok(Quantity::Millis(10_000)));
    assert!(evaluate_named("C", &known).is_err());
    assert!(evaluate("1 +", &known, 0).is_err() && evaluate("1 2", &known, 0).is_err());
    assert_eq!(quantity("256 KiB"), Some(Quantity::Number(262_144)));
    assert_eq!(quantity("50 ms"), Some(Quantity::Millis(50)));
    assert_eq!(quantity("16"), Some(Quantity::Number(16)));
    assert_eq!(quantity("some"), None);
    let source = "enum K {\n    /// x\n    OpenOk = 2,\n}\nenum Kind {\n    A = 1,\n}\n";
    assert_eq!(discriminants(source, "K"), BTreeSet::from([(2, "OPEN_OK".to_string())]));
    let page = "# t\n\n## 2. A\n\n### 2.1 B\n\nx MUST\ny. [P-2.1-a]\n- z\n\n## 3. C\n";
    assert_eq!(section(page, "2.1"), "\nx MUST\ny. [P-2.1-a]\n- z\n\n");
    assert_eq!(own_part(&section(page, "2")), "\n");
    assert_eq!(ids_in(page), ["P-2.1-a"]);
    assert_eq!(blocks("## 2. A\nb\nc\n\n- d\n- e\n  f"), ["## 2. A", "b c", "- d", "- e f"]);
    assert_eq!(table_rows("| a | b |\n|---|---|\n| 1 | `c` |\n"), [["a", "b"], ["1", "`c`"]]);
    assert_eq!(quoted("`a`, `b`"), ["a", "b"]);
    let code =
        "#[test]\n// x\nfn a() {}\n\nfn b() {}\n#[test]\n#[ignore = \"r\"]\nasync fn c(x: u8)\n";
    assert_eq!(tests_in(code), ["a", "c"]);
    assert!(contains_word("a MUST b", "MUST") && !contains_word("MUSTER", "MUST"));
}

// ---------------------------------------------------------------------------------------------
// The tree

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

/// The Rust files below `folder`, but none that a build leaves behind.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files = Vec::new();
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files.extend(rust_files(&path));
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}

fn test_names() -> BTreeSet<String> {
    let files = rust_files(&root());
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
    texts.flat_map(|text| tests_in(&text)).collect()
}

// ---------------------------------------------------------------------------------------------
// Reading Rust

/// The functions that stand right below `#[test]`, other attributes and comments in between.
fn tests_in(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if line.starts_with("//") || line.starts_with("#[") {
            continue;
        } else {
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let (true, Some(rest)) = (is_test, function) {
                names.push(rest.chars().take_while(|c| is_ident(*c)).collect());
            }
            is_test = false;
        }
    }
    names
}

/// The public constants of a file, each with its expression.
fn constants(code: &str) -> BTreeMap<String, String> {
    let code = without_comments(code);
    let mut found = BTreeMap::new();
    for item in code.split("pub const ").skip(1) {
        let item = item.split(';').next().unwrap_or(item);
        if let Some((head, value)) = item.split_once('=') {
            let name = head.split(':').next().unwrap_or(head).trim();
            if name.chars().all(|c| is_ident(c) && !c.is_lowercase()) {
                found.insert(name.to_string(), value.trim().to_string());
            }
        }
    }
    found
}

/// The fields that the first `fn default()` of a file sets, each with its expression.
fn defaults(code: &str) -> BTreeMap<String, String> {
    let code = without_comments(code);
    let body = code.split_once("fn default() -> Self {").map_or("", |(_, rest)| rest);
    let body = body.split_once("Self {").map_or("", |(_, rest)| rest);
    let fields = body.split('}').next().unwrap_or(body).split(',');
    let fields = fields.filter_map(|field| field.split_once(':'));
    fields.map(|(name, value)| (name.trim().to_string(), value.trim().to_string())).collect()
}

fn without_comments(code: &str) -> String {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join(" ")
}

/// The codes of an enum, its variants' names as the document writes them: `OpenOk` is `OPEN_OK`.
fn discriminants(code: &str, name: &str) -> BTreeSet<(u64, String)> {
    let body = code.split(&format!("enum {name} {{")).nth(1).unwrap_or("");
    let body = body.split("\n}").next().unwrap_or(body);
    let mut found = BTreeSet::new();
    for line in body.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let Some((variant, code)) = line.trim_end_matches(',').split_once(" = ") else { continue };
        let mut word = String::new();
        for c in variant.chars() {
            if c.is_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.extend(c.to_uppercase());
        }
        if let Ok(code) = code.parse() {
            found.insert((code, word));
        }
    }
    found
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

// ---------------------------------------------------------------------------------------------
// Values

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    Number(u128),
    Millis(u128),
}

/// A value as the document writes it: `4096 B`, `256 KiB`, `10 s`, `16`.
fn quantity(text: &str) -> Option<Quantity> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u128 = number.parse().ok()?;
    Some(match unit {
        "" | "B" => Quantity::Number(number),
        "KiB" => Quantity::Number(number << 10),
        "MiB" => Quantity::Number(number << 20),
        "ms" => Quantity::Millis(number),
        "s" => Quantity::Millis(number * 1000),
        _ => return None,
    })
}

fn evaluate_named(name: &str, known: &BTreeMap<String, String>) -> Result<Quantity, String> {
    let expression = known.get(name).ok_or_else(|| format!("there is no {name}"))?;
    evaluate(expression, known, 0)
}

/// Works out sums, differences and products of numbers, known constants, `uN::MAX` and durations.
fn evaluate(
    expression: &str,
    known: &BTreeMap<String, String>,
    depth: usize,
) -> Result<Quantity, String> {
    if depth > 8 {
        return Err(format!("`{expression}` is too deep"));
    }
    for (call, factor) in [("Duration::from_secs(", 1000), ("Duration::from_millis(", 1)] {
        if let Some(inner) = expression.strip_prefix(call).and_then(|rest| rest.strip_suffix(')')) {
            return match evaluate(inner, known, depth + 1)? {
                Quantity::Number(number) => Ok(Quantity::Millis(number * factor)),
                Quantity::Millis(_) => Err(format!("`{inner}` is a duration already")),
            };
        }
    }
    let tokens = tokens(expression);
    let mut parser = Parser { tokens: &tokens, at: 0, known, depth };
    let value = parser.sum()?;
    if parser.at < tokens.len() {
        return Err(format!("`{expression}` goes on behind its end"));
    }
    Ok(Quantity::Number(value))
}

fn tokens(expression: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut is_word = false;
    for c in expression.chars() {
        let goes_on = is_ident(c) || c == ':';
        match tokens.last_mut() {
            Some(last) if goes_on && is_word => last.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.to_string()),
        }
        is_word = goes_on;
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
    known: &'a BTreeMap<String, String>,
    depth: usize,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<u128, String> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value = value.checked_sub(self.product()?).ok_or("a difference below 0")?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<u128, String> {
        let mut value = self.cast()?;
        while self.take("*") {
            value *= self.cast()?;
        }
        Ok(value)
    }

    fn cast(&mut self) -> Result<u128, String> {
        let value = self.atom()?;
        while self.take("as") {
            self.next()?;
        }
        Ok(value)
    }

    fn atom(&mut self) -> Result<u128, String> {
        let word = self.next()?;
        match word.as_str() {
            "(" => {
                let value = self.sum()?;
                if self.take(")") { Ok(value) } else { Err("a bracket is not closed".to_string()) }
            }
            "u8::MAX" => Ok(u128::from(u8::MAX)),
            "u16::MAX" => Ok(u128::from(u16::MAX)),
            "u32::MAX" => Ok(u128::from(u32::MAX)),
            "u64::MAX" => Ok(u128::from(u64::MAX)),
            _ => {
                let digits: String = word.chars().filter(|c| *c != '_').collect();
                if let Ok(number) = digits.parse() {
                    return Ok(number);
                }
                let expression = self.known.get(&word).ok_or_else(|| format!("what is {word}?"))?;
                match evaluate(expression, self.known, self.depth + 1)? {
                    Quantity::Number(number) => Ok(number),
                    Quantity::Millis(_) => Err(format!("{word} is a duration")),
                }
            }
        }
    }

    fn next(&mut self) -> Result<String, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("the expression breaks off")?;
        self.at += 1;
        Ok(token)
    }

    fn take(&mut self, token: &str) -> bool {
        let is_it = self.tokens.get(self.at).is_some_and(|next| next == token);
        self.at += usize::from(is_it);
        is_it
    }
}

// ---------------------------------------------------------------------------------------------
// Reading the document

/// What stands between the heading of a section and the next heading of its level or above.
fn section(page: &str, number: &str) -> String {
    let level = |line: &str| line.chars().take_while(|c| *c == '#').count();
    let mut text = String::new();
    let mut inside = None;
    for line in page.lines() {
        let depth = level(line);
        if depth > 0 && inside.is_some_and(|own| depth <= own) {
            break;
        }
        if inside.is_some() {
            text.push_str(line);
            text.push('\n');
        }
        let own = line.trim_start_matches('#').trim_start().split(' ').next().unwrap_or("");
        if depth > 0 && own.trim_end_matches('.') == number {
            inside = Some(depth);
        }
    }
    text
}

/// A section without its subsections.
fn own_part(section: &str) -> String {
    section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Paragraphs, list items and headings, each as one line.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let is_heading = line.starts_with('#');
        let is_item = line.starts_with("- ");
        if line.trim().is_empty() || line.starts_with("    ") || line.starts_with('|') {
            is_open = false;
            continue;
        }
        match blocks.last_mut() {
            Some(last) if is_open && !is_heading && !is_item => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => blocks.push(line.trim().to_string()),
        }
        is_open = !is_heading;
    }
    blocks
}

/// The rows of all tables, without the lines under their heads.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_string()).collect();
    rows.filter(|row| !row.starts_with("---")).map(cells).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// The ids in square brackets, without the brackets.
fn ids_in(text: &str) -> Vec<String> {
    let starts = text.split("[P-").skip(1);
    let ids = starts.filter_map(|rest| rest.split_once(']')).map(|(id, _)| format!("P-{id}"));
    ids.filter(|id| id.len() > 3 && id.matches('-').count() == 2).collect()
}

fn contains_word(text: &str, word: &str) -> bool {
    text.split(|c| !is_ident(c)).any(|part| part == word)
}
