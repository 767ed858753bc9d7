//! Whether a program's connections can be made to survive by preloading, told in advance.
//!
//! * `elf`: what an ELF file says of itself.
//! * `script`: which program runs a script.
//! * `library`: where the library to preload is.
//!
//! Nothing of the program is run. Libraries are those that the dynamic loader lists; what a program
//! loads later is not seen.

mod elf;
pub(crate) mod library;
mod script;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::Architecture;
use serde::Serialize;

use self::elf::Elf;
use crate::failure::Failure;

/// Scripts whose interpreter is a script, at most: so many does Linux follow.
const SCRIPTS_MAX: usize = 5;
/// So much of a file tells what it is; Linux itself reads 256 bytes of a script's first line.
const FIRST_BYTES: u64 = 256;
/// The longest list of libraries that is read.
const LIST_BYTES_MAX: u64 = 1024 * 1024;
const GATEWAY: &str = "put `evs gateway` before it, which needs nothing of the program";

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Weight {
    /// Good to know.
    Note,
    /// Works, except for something.
    Limit,
    /// Cannot work.
    Obstacle,
}

/// Something about the program.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

/// All that is known of a program before it runs.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) program: PathBuf,
    /// The files that the kernel starts for it: a script's interpreters, at last an ELF program.
    pub(crate) files: Vec<PathBuf>,
    /// The library that would be preloaded.
    pub(crate) preload: Option<PathBuf>,
    /// The calls of the library that the program, or a library that it is linked to, makes by name.
    pub(crate) calls: BTreeSet<String>,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn weight(&self) -> Weight {
        self.findings.iter().map(|finding| finding.weight).max().unwrap_or(Weight::Note)
    }

    fn add(&mut self, weight: Weight, what: String, remedy: Option<&str>) {
        let remedy = remedy.map(str::to_owned);
        self.findings.push(Finding { weight, what, remedy });
    }

    fn obstacle(&mut self, path: &Path, what: &str, remedy: &str) {
        self.add(Weight::Obstacle, format!("{}: {what}", path.display()), Some(remedy));
    }
}

/// Finds a program as a shell would.
pub(crate) fn locate(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 || path.is_absolute() || path.starts_with(".") {
        return path.exists().then(|| path.to_owned());
    }
    let is_program = |path: &PathBuf| {
        let executable = |file: Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
        fs::metadata(path).is_ok_and(executable)
    };
    let folders = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&folders).map(|folder| folder.join(program)).find(is_program)
}

/// Looks at a program; the error is that there is none.
pub(crate) fn examine(program: &OsStr) -> Result<Report, Failure> {
    let path = locate(program)
        .ok_or_else(|| Failure::new(format!("{}: there is no such program", program.display())))?;
    let mut report = Report {
        program: path.clone(),
        files: Vec::new(),
        preload: None,
        calls: BTreeSet::new(),
        findings: Vec::new(),
    };
    let library = match library::find() {
        Ok(library) => Some(library),
        Err(problem) => {
            report.add(Weight::Obstacle, problem, None);
            None
        }
    };
    let calls = library.as_deref().map(|library| (library, elf::read(library)));
    let ours = match calls {
        Some((_, Ok(elf))) => elf.exports,
        Some((library, Err(problem))) => {
            report.obstacle(library, &problem, "build or install the library again");
            BTreeSet::new()
        }
        None => BTreeSet::new(),
    };
    report.preload = library;
    follow(&mut report, path, &ours, 0);
    Ok(report)
}

/// Looks at a file and at what runs it.
fn follow(report: &mut Report, path: PathBuf, ours: &BTreeSet<String>, depth: usize) {
    report.files.push(path.clone());
    let first = match first_bytes(&path) {
        Ok(first) => first,
        Err(problem) => {
            return report.obstacle(&path, &problem, "make it readable, so that it can be judged");
        }
    };
    if first.starts_with(b"\x7fELF") {
        return match elf::read(&path) {
            Ok(elf) => judge(report, &path, &elf, ours),
            Err(problem) => report.obstacle(&path, &problem, "it cannot be started either"),
        };
    }
    let Some(found) = script::interpreter(&first) else {
        let what = "neither an ELF program nor a script that begins with #!";
        return report.obstacle(&path, what, "name the program that runs it");
    };
    if depth == SCRIPTS_MAX {
        return report.obstacle(&path, "scripts run by scripts, too many", "name the last one");
    }
    let by_env = found.by_env;
    for program in [Some(found.path), by_env].into_iter().flatten() {
        match locate(&program) {
            Some(next) => follow(report, next, ours, depth + 1),
            None => {
                let what = format!("its interpreter {} is not there", program.display());
                report.obstacle(&path, &what, "install it");
            }
        }
    }
}

fn first_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Before it is opened: the opening of a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("not a file".to_owned());
    }
    let mut first = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FIRST_BYTES).read_to_end(&mut first).map_err(unreadable)?;
    Ok(first)
}

/// Judges an ELF program.
fn judge(report: &mut Report, path: &Path, elf: &Elf, ours: &BTreeSet<String>) {
    if let Some(what) = privileges(path) {
        report.obstacle(path, &what, GATEWAY);
    }
    let own = own_architecture();
    if elf.architecture != own || elf.is_64_bit != cfg!(target_pointer_width = "64") {
        let bits = if elf.is_64_bit { 64 } else { 32 };
        let what =
            format!("made for {:?} ({bits} bits), and the library for {own:?}", elf.architecture);
        return report.obstacle(path, &what, GATEWAY);
    }
    if elf.is_go {
        let what = "written in Go, which makes its system calls itself";
        report.obstacle(path, what, GATEWAY);
    }
    let Some(interpreter) = &elf.interpreter else {
        let what = "statically linked: there is no loader that could preload anything";
        return report.obstacle(path, what, GATEWAY);
    };
    let loader = Path::new(interpreter);
    let name = loader.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    if name.contains("musl") {
        let what = "linked to musl, and the library to glibc";
        return report.obstacle(path, what, GATEWAY);
    }
    if !name.starts_with("ld-linux") && !name.starts_with("ld64") {
        let what = format!("its loader {interpreter} is not glibc's");
        return report.obstacle(path, &what, GATEWAY);
    }
    // The calls of the whole program: its own, and those of its libraries.
    let mut imports = elf.imports.clone();
    let mut names = Vec::new();
    for library in libraries(report, loader, path) {
        let name = library.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        // What libc calls within itself does not pass by a preload.
        if !name.starts_with("libc.so") && !name.starts_with("ld-linux") {
            names.push(name.into_owned());
            if let Ok(elf) = elf::read(&library) {
                imports.extend(elf.imports);
            }
        }
    }
    report.calls.extend(imports.intersection(ours).cloned());
    hints(report, path, &imports, &names);
}

/// What names of calls and libraries hint at.
fn hints(report: &mut Report, path: &Path, imports: &BTreeSet<String>, libraries: &[String]) {
    let shown = path.display().to_string();
    let has = |names: &[&str]| names.iter().any(|name| imports.contains(*name));
    let linked = |start: &str| libraries.iter().any(|name| name.starts_with(start));
    if linked("liburing") || imports.iter().any(|name| name.starts_with("io_uring_")) {
        let what = format!(
            "{shown}: may use io_uring, which reads and writes past every library; the preload \
             refuses to set it up where it can, so that the program takes other ways"
        );
        let remedy = "if it insists on io_uring, put `evs gateway` before it";
        report.add(Weight::Limit, what, Some(remedy));
    }
    if linked("libseccomp") || has(&["seccomp_load", "seccomp_init"]) {
        let what = format!(
            "{shown}: may lock itself into a seccomp filter, which must allow what the engine \
             does after it (threads, sockets, epoll, eventfd)"
        );
        let remedy = "switch its sandbox off for these connections, or put `evs gateway` before it";
        report.add(Weight::Limit, what, Some(remedy));
    }
    if has(&["connect", "listen", "accept", "accept4"]) {
        return starts_others(report, &shown, imports);
    }
    let what = format!(
        "{shown}: neither it nor a library that it is linked to names connect or listen; what it \
         loads later may"
    );
    report.add(Weight::Note, what, None);
    starts_others(report, &shown, imports);
}

fn starts_others(report: &mut Report, shown: &str, imports: &BTreeSet<String>) {
    let starts = ["vfork", "execve", "execv", "execvp", "posix_spawn", "posix_spawnp", "system"];
    let starts = starts.into_iter().filter(|name| imports.contains(*name));
    let starts: Vec<&str> = starts.collect();
    if !starts.is_empty() {
        let what = format!(
            "{shown}: can start other programs ({}), which are under the same rules; look at them \
             with `evs doctor` too",
            starts.join(", ")
        );
        report.add(Weight::Note, what, None);
    }
}

/// Why the kernel would start the program in secure mode, in which LD_PRELOAD is not heeded.
fn privileges(path: &Path) -> Option<String> {
    let file = fs::metadata(path).ok()?;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let drops = "so the loader ignores LD_PRELOAD";
    if file.mode() & libc::S_ISUID != 0 && file.uid() != uid {
        return Some(format!("setuid to user {}, {drops}", file.uid()));
    }
    let set_group = libc::S_ISGID | libc::S_IXGRP;
    if file.mode() & set_group == set_group && file.gid() != gid {
        return Some(format!("setgid to group {}, {drops}", file.gid()));
    }
    let mut value = [0; 64];
    let capabilities = rustix::fs::getxattr(path, "security.capability", &mut value);
    // To root they add nothing, and the kernel does not call that secure.
    if uid != 0 && capabilities.is_ok_and(|n| n > 0) {
        return Some(format!("has file capabilities, {drops}"));
    }
    None
}

/// The libraries that the loader finds for a program. The loader lists them; it runs nothing.
fn libraries(report: &mut Report, loader: &Path, path: &Path) -> Vec<PathBuf> {
    let listed = list(loader, path);
    let text = match listed {
        Ok(text) => text,
        Err(problem) => {
            let what = format!("{}: its libraries cannot be listed: {problem}", path.display());
            report.add(Weight::Note, what, None);
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((name, place)) = line.split_once("=>") else { continue };
        let place = place.trim();
        match place.rsplit_once(" (") {
            Some((file, _)) if file.starts_with('/') => found.push(PathBuf::from(file)),
            _ if place.contains("not found") => {
                let what = format!("{}: {} is not installed", path.display(), name.trim());
                report.add(Weight::Limit, what, Some("install it, or the program cannot start"));
            }
            _ => {}
        }
    }
    found
}

fn list(loader: &Path, path: &Path) -> Result<String, String> {
    let mut command = Command::new(loader);
    command.arg("--list").arg(path).env_remove("LD_PRELOAD");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", loader.display()))?;
    let mut bytes = Vec::new();
    if let Some(output) = child.stdout.take() {
        let read = output.take(LIST_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match status.success() || !bytes.is_empty() {
        true => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        false => Err(format!("{} ended with {status}", loader.display())),
    }
}

/// What this program, and the library with it, was made for.
fn own_architecture() -> Architecture {
    match env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        _ => Architecture::Unknown,
    }
}
