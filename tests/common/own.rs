//! What a process holds: descriptors and memory.

use std::path::PathBuf;

/// How many descriptors this process has, that of the look itself and eventfds not counted: the
/// engine keeps one of these in a pool for each thread that has slept at the same time as others.
pub(crate) fn descriptors() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = links.map(|link| std::fs::read_link(link.unwrap().path()));
    let is_eventfd = |file: &PathBuf| file.to_str() == Some("anon_inode:[eventfd]");
    // The look's own is a folder of /proc.
    files.filter_map(Result::ok).filter(|f| !is_eventfd(f) && !f.starts_with("/proc")).count()
}

/// How many eventfds this process has.
pub(crate) fn eventfds() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    files.filter(|file| file.to_str() == Some("anon_inode:[eventfd]")).count()
}

/// KiB of this process that are in memory.
pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// KiB that this process has allocated and not freed, and KiB of it that are in memory when the
/// allocator has given back what it kept for later. Otherwise threads that come and go leave some
/// MiB more or less in its arenas, as they happen to meet there.
pub(crate) fn held_kib() -> (usize, u64) {
    // SAFETY: takes a number, and changes nothing that anybody has.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: takes nothing, and gives numbers.
    let info = unsafe { libc::mallinfo2() };
    ((info.uordblks + info.hblkhd) / 1024, resident_kib())
}

/// A number that the caller of the test may set.
pub(crate) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}"))
    })
}
