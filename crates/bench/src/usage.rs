//! What the kernel says of a process: time, memory, descriptors.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Nanoseconds of the clock that all processes of a machine share.
pub(crate) fn monotonic_ns() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    at.tv_sec.unsigned_abs() * 1_000_000_000 + at.tv_nsec.unsigned_abs()
}

/// What this process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// Times that a thread went to sleep by itself: wake-ups.
    pub(crate) sleeps: u64,
}

pub(crate) fn usage() -> Usage {
    // SAFETY: rusage is plain numbers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let time = |at: libc::timeval| {
        Duration::from_secs(at.tv_sec.unsigned_abs())
            + Duration::from_micros(at.tv_usec.unsigned_abs())
    };
    Usage {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        sleeps: usage.ru_nvcsw.unsigned_abs(),
    }
}

/// Private resident memory of this process, in bytes: anonymous pages, not files or code.
pub(crate) fn resident_bytes() -> u64 {
    own_bytes("RssAnon:")
}

/// The most that this process ever had resident, in bytes; files and code too.
#[cfg(feature = "spool")]
pub(crate) fn resident_most_bytes() -> u64 {
    own_bytes("VmHWM:")
}

/// What this process has resident, in bytes; files and code too.
#[cfg(feature = "controller")]
pub(crate) fn resident_now_bytes() -> u64 {
    own_bytes("VmRSS:")
}

fn own_bytes(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What the kernel holds for sockets, files and the like, of all processes, in bytes.
pub(crate) fn kernel_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Raises the limit of open descriptors as far as this user may; many sessions need it.
pub(crate) fn raise_descriptor_limit() {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let most: u64 = text.trim().parse().unwrap_or(0);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // Beyond the hard limit only root may go.
    // SAFETY: `limit` is readable.
    if most > 0 && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
        return;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is readable.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// Keeps all threads of this process, and those to come, on one processor (of those there are).
pub(crate) fn pin(cpu: usize) {
    // Not std's count: that one shrinks with what was set here before.
    // SAFETY: no memory is passed.
    let cpus = usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1);
    // SAFETY: cpu_set_t is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(cpu % cpus.clamp(1, 1024), &mut set) };
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).unwrap_or(0);
        // SAFETY: the set is readable for its size.
        unsafe { libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const set) };
    }
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cpus} x {model}, Linux {}, load {load}", kernel.trim())
}

/// How many descriptors this process may have.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur
}

/// The program is killed when the thread that starts it ends, however that comes: one that waits
/// for a peer would not see that nobody talks to it any more.
pub(crate) fn end_with_us(command: &mut Command) {
    let ask = || {
        // SAFETY: no memory is passed.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only a system call is made, and errno is read.
    unsafe { command.pre_exec(ask) };
}
