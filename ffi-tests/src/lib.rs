//! The C and C++ side of the C ABI, built and run by tests.
//!
//! This is the harness: it builds the library once, compiles C and C++ sources against it, runs
//! what comes out under a deadline, and skips loudly (or fails, with CI=true) what needs a program
//! that is not there. The tests are in `tests/`, the sources in `c/` and `cpp/`.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long one program may run, valgrind included.
pub const RUN_SECONDS_MAX: u64 = 120;

/// The warnings with which everything must compile.
pub const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map(Path::to_path_buf).unwrap_or(here)
}

/// The library as built for these tests.
#[derive(Debug)]
pub struct Library {
    /// `libeversock.a`.
    pub archive: PathBuf,
    /// `libeversock.so`, which its SONAME names too.
    pub shared: PathBuf,
    /// Where the SONAME is found at run time.
    pub run_dir: PathBuf,
    /// The target directory of cargo.
    pub target_dir: PathBuf,
    /// What makes cargo build the same profile.
    pub profile: Vec<String>,
}

/// Builds the library with the target directory and profile of the running test, once; with the
/// features controller, dedup and spool, as CI builds the workspace.
///
/// # Panics
/// If it cannot be built.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(build)
}

/// The shared library without any feature, copied to where the next build does not put its
/// own. To be called before [`library`], which both builds have to be followed by.
///
/// # Panics
/// If it cannot be built.
pub fn small_shared_library() -> PathBuf {
    let exe = env::current_exe().expect("the test knows its own path");
    let profile_dir = exe.parent().and_then(Path::parent).expect("the test is below a profile");
    let target_dir = profile_dir.parent().expect("the profile is below a target");
    cargo_build(target_dir, &profile_of(profile_dir), &[]);
    let copy = out_dir().join("libeversock-small.so");
    fs::copy(profile_dir.join("libeversock.so"), &copy).expect("a copy of the library");
    copy
}

fn profile_of(profile_dir: &Path) -> Vec<String> {
    match profile_dir.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => Vec::new(),
        Some(name) => vec!["--profile".to_owned(), name.to_owned()],
    }
}

fn cargo_build(target_dir: &Path, profile: &[String], features: &[&str]) {
    let mut command = cargo();
    command.args(["build", "--quiet", "-p", "eversock", "--lib"]).args(profile).args(features);
    command.current_dir(root()).env("CARGO_TARGET_DIR", target_dir);
    let output = command.output().expect("cargo can be run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "the library cannot be built:\n{text}");
}

fn build() -> Library {
    let exe = env::current_exe().expect("the test knows its own path");
    // <target>/<profile>/deps/<test>
    let profile_dir = exe.parent().and_then(Path::parent).expect("the test is below a profile");
    let target_dir = profile_dir.parent().expect("the profile is below a target").to_path_buf();
    let profile = profile_of(profile_dir);
    cargo_build(&target_dir, &profile, &["--features", "controller,dedup,spool"]);
    let run_dir = out_dir().join("lib");
    fs::create_dir_all(&run_dir).expect("a directory for the SONAME");
    let shared = profile_dir.join("libeversock.so");
    let soname = run_dir.join("libeversock.so.0");
    // Two tests may do this at the same time: the last rename wins and both are right.
    let fresh = run_dir.join(format!("new.{}", std::process::id()));
    let _old = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&shared, &fresh).expect("a link");
    fs::rename(&fresh, &soname).expect("a link under the SONAME");
    Library { archive: profile_dir.join("libeversock.a"), shared, run_dir, target_dir, profile }
}

/// A cargo that is not told what cargo has told this test of its package: crates whose build
/// scripts ask for that (ring) would be built anew, and again by the next cargo that is not told.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| told.iter().any(|told| name.starts_with(told))) {
            command.env_remove(name);
        }
    }
    command
}

/// A directory for what the tests make.
///
/// # Panics
/// If it cannot be made.
pub fn out_dir() -> PathBuf {
    let exe = env::current_exe().expect("the test knows its own path");
    let name = exe.file_stem().and_then(OsStr::to_str).unwrap_or("test").to_owned();
    let dir = exe.parent().expect("the test is in a directory").join("../ffi-tests").join(name);
    fs::create_dir_all(&dir).expect("a directory for what the tests make");
    dir.canonicalize().unwrap_or(dir)
}

/// Whether a program is there. With CI=true a missing one is a failure, else the test says that it
/// leaves something out.
///
/// # Panics
/// With CI=true, if it is missing.
pub fn have(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&paths).any(|dir| dir.join(program).is_file()) {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{program} is missing, and this is CI");
    skipped(&format!("{program} is not installed"));
    false
}

/// Says loudly, past the capturing of test output, that something was left out.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _unseen = writeln!(std::io::stderr().lock(), "\n*** LEFT OUT: {why} ***");
}

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Against `libeversock.a`.
    Static,
    /// Against `libeversock.so`.
    Shared,
    /// Not against eversock at all.
    Plain,
}

/// One program to be made of one C or C++ source.
#[derive(Debug)]
pub struct Program<'a> {
    /// The source, from the root.
    pub source: &'a str,
    /// `-std=`.
    pub standard: &'a str,
    /// How it is linked.
    pub link: Link,
    /// More arguments for the compiler.
    pub extra: &'a [&'a str],
    /// What the program is called.
    pub name: &'a str,
}

/// A program that was made; it goes with this, since a hundred of them would fill a disk.
#[derive(Debug)]
pub struct Built(PathBuf);

impl Built {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What runs it, as long as this is there.
    pub fn command(&self) -> Command {
        Command::new(&self.0)
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

impl Program<'_> {
    /// Compiles and links it.
    ///
    /// # Panics
    /// If there is a warning or an error.
    pub fn make(&self) -> Built {
        let out = out_dir().join(self.name);
        let is_cpp = Path::new(self.source).extension().is_some_and(|ext| ext == "cc");
        let mut command = Command::new(if is_cpp { "c++" } else { "cc" });
        command.current_dir(root()).args(WARNINGS).arg(format!("-std={}", self.standard));
        command.args(["-g", "-O1", "-Iinclude", "-Iffi-tests/c"]).args(self.extra);
        command.arg("-o").arg(&out).arg(self.source);
        match self.link {
            Link::Static => {
                command.arg(&library().archive).args(native_libraries());
            }
            Link::Shared => {
                command.arg(&library().shared).arg("-pthread");
                let mut path = std::ffi::OsString::from("-Wl,-rpath,");
                path.push(&library().run_dir);
                command.arg(path);
            }
            Link::Plain => {
                command.arg("-pthread");
            }
        }
        let output = command.output().expect("the compiler can be run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{self:?} does not compile:\n{text}");
        Built(out)
    }
}

/// What `Libs.private` of `eversock.pc.in` says.
///
/// # Panics
/// If the file or the line is missing.
pub fn native_libraries() -> Vec<String> {
    let text = fs::read_to_string(root().join("eversock.pc.in")).expect("eversock.pc.in");
    let line = text.lines().find_map(|line| line.strip_prefix("Libs.private:"));
    line.expect("a line Libs.private").split_whitespace().map(str::to_owned).collect()
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a program to its end, which must be exit status 0 within [`RUN_SECONDS_MAX`].
///
/// # Panics
/// If it ends otherwise. Nothing of its process group is left then.
pub fn run(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let ended = wait(&mut child, Duration::from_secs(RUN_SECONDS_MAX));
    let group = i32::try_from(child.id()).unwrap_or(0);
    let status = if ended.is_none() {
        let _gone = Command::new("kill").args(["-9", "--", &format!("-{group}")]).status();
        let _reaped = child.wait();
        None
    } else {
        ended
    };
    let said = Said { out: out.join().unwrap_or_default(), err: err.join().unwrap_or_default() };
    match status {
        Some(status) if status.success() => said,
        Some(status) => panic!("{command:?}: {status}\n{}\n{}", said.out, said.err),
        None => panic!("{command:?}: over {RUN_SECONDS_MAX} s\n{}\n{}", said.out, said.err),
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _cut = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child at most so long.
pub fn wait(child: &mut Child, at_most: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + at_most;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// The lines of `new` that differ from `old`, with their surroundings left out.
pub fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let same_head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same_head..], &new[same_head..]);
    let same_tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut text = format!("@@ from line {} @@\n", same_head + 1);
    for line in &old[..old.len() - same_tail] {
        text.push_str(&format!("-{line}\n"));
    }
    for line in &new[..new.len() - same_tail] {
        text.push_str(&format!("+{line}\n"));
    }
    text
}

/// Compares a committed file with what it should be; with EVERSOCK_BLESS=1 writes it.
///
/// # Panics
/// If they differ.
pub fn compare_or_bless(path: &str, wanted: &str) {
    let file = root().join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found == wanted {
        return;
    }
    if env::var_os("EVERSOCK_BLESS").is_some() {
        fs::write(&file, wanted).unwrap_or_else(|error| panic!("{path}: {error}"));
        return;
    }
    let remedy = "EVERSOCK_BLESS=1 cargo test -p eversock-ffi-tests";
    panic!("{path} is not up to date; `{remedy}` writes it:\n{}", diff(&found, wanted));
}
