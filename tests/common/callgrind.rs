//! Counts instructions with valgrind's callgrind, which do not vary with the machine's load.
//!
//! A test runs itself again under callgrind. There it does each operation a number of times,
//! between which anything may be prepared; only what runs inside of [`counted_part`] is counted, of
//! the thread that calls it. The figures are compared with `tests/instructions.txt`.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set in the process that is counted.
const COUNTED: &str = "EVERSOCK_COUNTED";
/// Before the words that it says of each part.
const SAID: &str = "counted ";
/// Long copies by vectors, as everywhere else: where the processor has `rep movsb`, each byte of it
/// would be counted as an instruction and hide all others.
const TUNABLES: &str = "glibc.cpu.x86_rep_movsb_threshold=1000000000:\
                        glibc.cpu.x86_rep_stosb_threshold=1000000000";
/// More than this above the recorded figure is a failure, in per cent; so much below it is one too,
/// as a limit that is far away guards nothing.
const WORSE_MAX: u64 = 5;
const BETTER_MAX: u64 = 15;
/// Figures so small vary by an instruction or two with the compiler's mood.
const PLAY: u64 = 2;

/// True in the process that is counted.
pub(crate) fn is_counted() -> bool {
    env::var_os(COUNTED).is_some()
}

// The two functions are known to callgrind by their names.

#[inline(never)]
fn counted_part(operation: &mut dyn FnMut()) {
    operation();
    black_box(());
}

#[inline(never)]
fn part_is_over(name: &str) {
    black_box(name);
}

/// How often an operation is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Before it is counted: what only the first do is not looked for, as memory, symbols, windows
    /// that grow.
    pub(crate) before: u64,
    pub(crate) counted: u64,
    /// In one call, where it is short.
    pub(crate) each: u64,
}

/// One row of the table: an operation that is done so often, each time after `prepare`.
pub(crate) fn part(
    name: &str,
    times: Times,
    mut prepare: impl FnMut(),
    mut operation: impl FnMut(),
) {
    for _ in 0..times.before {
        prepare();
        operation();
    }
    for _ in 0..times.counted {
        prepare();
        counted_part(&mut operation);
    }
    println!("{SAID}{} {name}", times.counted * times.each);
    part_is_over(name);
}

/// A figure: the row's name and the instructions of one operation.
pub(crate) type Figure = (String, u64);

/// Runs the test of this name again under callgrind; none if that is not installed.
pub(crate) fn count(test: &str, environment: &[(&str, &str)]) -> Option<Vec<Figure>> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("SKIPPED: the recorded instructions are those of x86_64");
        return None;
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&folders).any(|folder| folder.join("valgrind").is_file()) {
        assert!(env::var("CI").as_deref() != Ok("true"), "valgrind is missing, and this is CI");
        eprintln!("SKIPPED: no instruction was counted, as valgrind is not installed");
        return None;
    }
    let file = env::temp_dir().join(format!("evs-callgrind-{test}-{}", std::process::id()));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--combine-dumps=yes", "--toggle-collect=*counted_part*"])
        .args(["--dump-after=*part_is_over*", "--trace-children=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(COUNTED, "1")
        .env("GLIBC_TUNABLES", TUNABLES)
        .envs(environment.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} under callgrind: {said}\n{errors}");
    let text = fs::read_to_string(&file).unwrap();
    // It is only a temporary file.
    let _left = fs::remove_file(&file);
    let sums = text.lines().filter_map(|line| line.strip_prefix("summary: "));
    let sums = sums.map(|sum| sum.trim().parse::<u64>().unwrap());
    // libtest writes its own line first, without an end.
    let parts = said.lines().filter_map(|line| line.split_once(SAID).map(|(_, part)| part));
    let figures: Vec<Figure> = parts
        .zip(sums)
        .map(|(part, sum)| {
            let (times, name) = part.split_once(' ').unwrap();
            (name.to_owned(), sum / times.parse::<u64>().unwrap())
        })
        .collect();
    assert!(!figures.is_empty(), "nothing was counted: {said}\n{errors}");
    Some(figures)
}

fn table() -> PathBuf {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let file = "tests/instructions.txt";
    [here.join(file), here.join("../..").join(file)]
        .into_iter()
        .find(|file| file.is_file())
        .unwrap()
}

/// Compares with the recorded rows whose names begin with one of `areas`; none may be missing on
/// either side. `EVERSOCK_BLESS=1` records the figures instead.
pub(crate) fn compare(figures: &[Figure], areas: &[&str]) {
    let file = table();
    let text = fs::read_to_string(&file).unwrap();
    for (name, figure) in figures {
        println!("{figure:>9}  {name}");
    }
    if env::var_os("EVERSOCK_BLESS").is_some() {
        return bless(&file, &text, figures);
    }
    let is_ours = |name: &str| areas.iter().any(|area| name.starts_with(area));
    let recorded: Vec<Figure> = rows(&text).filter(|(name, _)| is_ours(name)).collect();
    let mut bad = verdicts(figures, &recorded);
    let known = |name: &String| figures.iter().any(|(counted, _)| counted == name);
    bad.extend(
        recorded
            .iter()
            .filter(|(name, _)| !known(name))
            .map(|(name, _)| format!("{name}: is recorded and was not counted")),
    );
    assert!(
        bad.is_empty(),
        "{}\nEVERSOCK_BLESS=1 records what is counted now in {}; say in the commit why",
        bad.join("\n"),
        file.display()
    );
}

fn rows(text: &str) -> impl Iterator<Item = Figure> {
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    rows.map(|line| {
        let (figure, name) = line.trim().split_once("  ").unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), figure.replace('_', "").parse().unwrap())
    })
}

/// What is wrong with the figures.
fn verdicts(figures: &[Figure], recorded: &[Figure]) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, figure) in figures {
        let Some((_, was)) = recorded.iter().find(|(row, _)| row == name) else {
            bad.push(format!("{name}: {figure} instructions, and nothing is recorded"));
            continue;
        };
        if *figure > was + was * WORSE_MAX / 100 + PLAY {
            bad.push(format!("{name}: {figure} instructions, {was} are recorded: it is dearer"));
        } else if *figure + PLAY < was - was * BETTER_MAX / 100 {
            bad.push(format!(
                "{name}: {figure} instructions, {was} are recorded: well done, lower the limit"
            ));
        }
    }
    bad
}

fn bless(file: &Path, text: &str, figures: &[Figure]) {
    let mut rows: Vec<Figure> = rows(text).collect();
    for (name, figure) in figures {
        match rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, was)) => *was = *figure,
            None => rows.push((name.clone(), *figure)),
        }
    }
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
    let rows: Vec<String> =
        rows.iter().map(|(name, figure)| format!("{figure:>9}  {name}")).collect();
    fs::write(file, format!("{}\n\n{}\n", head.join("\n"), rows.join("\n"))).unwrap();
}

#[test]
fn a_figure_that_is_dearer_or_far_better_than_recorded_is_told() {
    let row = |figure| ("send".to_owned(), figure);
    let told = |figure| verdicts(&[row(figure)], &[row(1000)]).len();
    for (figure, wrong) in [(1000, 0), (1052, 0), (1053, 1), (848, 0), (847, 1)] {
        assert_eq!(told(figure), wrong, "{figure}");
    }
    assert_eq!(verdicts(&[row(1)], &[]).len(), 1);
}
