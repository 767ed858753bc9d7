//! Processes: exec and exit. fork needs no hook of its own: libc calls the engine's around it.
//!
//! A descriptor that went through exec as it is would be a bare TCP connection in the middle of a
//! session. The new program gets the end of a pump in its place, from whoever has the session: a
//! relative that lives on, or a *keeper*, a process that is forked for this alone and ends with
//! the session.

use std::ffi::{CStr, c_char};
use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use eversock_engine::exec::{self, Engine, Inherited};
use eversock_engine::posix;
use libc::c_int;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::io::{DupFlags, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::number::runs;
use crate::edge;
use crate::next::hook;

/// Virtual numbers that one exec passes on, or keeps from the new program, at most; a set of them
/// on the stack, as a child between vfork and exec must not allocate much.
const NUMBERS_MAX: usize = 256;
/// Below this a child of vfork is looked at for numbers that it has made itself.
const VFORK_NUMBERS: c_int = 256;

/// For so long it is asked for sessions whose program did not come, before others are asked for.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);

fn borrow<'a>(number: c_int) -> BorrowedFd<'a> {
    // SAFETY: callers pass numbers that are not -1; one that is closed makes the call fail.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn goes_through(number: c_int) -> bool {
    rustix::io::fcntl_getfd(borrow(number)).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// Numbers that a new program is not to have, to be put back if it does not come.
pub(super) struct Kept {
    numbers: [c_int; NUMBERS_MAX],
    count: usize,
}

impl Kept {
    /// Marks all virtual numbers that an exec would pass on. Raw calls only.
    pub(super) fn back() -> Self {
        let mut kept = Self { numbers: [-1; NUMBERS_MAX], count: 0 };
        if edge::is_used() {
            posix::for_each_number(|number| {
                if goes_through(number) {
                    kept.add(number);
                }
            });
        }
        kept
    }

    fn add(&mut self, number: c_int) {
        if rustix::io::fcntl_setfd(borrow(number), FdFlags::CLOEXEC).is_ok()
            && let Some(place) = self.numbers.get_mut(self.count)
        {
            *place = number;
            self.count += 1;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let after = edge::errno();
        for &number in &self.numbers[..self.count] {
            let _closed = rustix::io::fcntl_setfd(borrow(number), FdFlags::empty());
        }
        edge::set_errno(after);
    }
}

/// One number that goes through exec: what stands there for the new program, and what stood there.
struct Passed {
    number: c_int,
    saved: OwnedFd,
}

/// What a new program inherits of virtual sockets, and how to undo it.
struct Legacy {
    passed: Vec<Passed>,
    /// Ends of pumps, and the lines that must stay open while the program lives.
    held: Vec<(OwnedFd, Option<OwnedFd>)>,
    /// Closed by the exec, which tells the keeper that the program has what it needs.
    keeper: Option<OwnedFd>,
    /// What could not be passed on.
    kept: Kept,
}

impl Legacy {
    /// Puts what the program is to have under its numbers.
    fn prepare() -> Self {
        let kept = Kept { numbers: [-1; NUMBERS_MAX], count: 0 };
        let mut legacy = Self { passed: Vec::new(), held: Vec::new(), keeper: None, kept };
        let guest = edge::is_guest();
        let wanted = wanted(guest);
        if !guest {
            let keep: Vec<c_int> = wanted
                .iter()
                .map(|&(number, _)| number)
                .filter(|&n| exec::needs_keeper(n))
                .collect();
            if !keep.is_empty() {
                legacy.keeper = keeper(&keep).inspect_err(|error| log::warn!("{error}")).ok();
            }
        }
        let engine = if guest { Engine::LivesOn } else { Engine::Ends };
        let mut done: Vec<((u64, u64), usize)> = Vec::new();
        for (number, of) in wanted {
            if let Err(error) = legacy.pass(number, of, engine, &mut done) {
                log::warn!("a virtual socket is not passed on to a new program: {error}");
                if goes_through(number) {
                    legacy.kept.add(number);
                }
            }
        }
        legacy
    }

    /// Passes the socket of the virtual number `of` on under `number`: duplicates share one pump.
    fn pass(
        &mut self,
        number: c_int,
        of: c_int,
        engine: Engine,
        done: &mut Vec<((u64, u64), usize)>,
    ) -> io::Result<()> {
        let stat = rustix::fs::fstat(borrow(number))?;
        let identity = (stat.st_dev, stat.st_ino);
        let at = match done.iter().find(|(known, _)| *known == identity) {
            Some(&(_, at)) => at,
            None => {
                self.held.push(match exec::inherit(of, engine)? {
                    Inherited::AsItIs => return Ok(()),
                    Inherited::Pump(pump, line) => (pump, Some(line)),
                    Inherited::Listener(real) => (real, None),
                });
                done.push((identity, self.held.len() - 1));
                self.held.len() - 1
            }
        };
        let file = &self.held[at].0;
        // Only the copies under the program's numbers are to go through.
        rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC)?;
        let saved = rustix::io::fcntl_dupfd_cloexec(borrow(number), 3)?;
        put(file.as_fd(), number)?;
        self.passed.push(Passed { number, saved });
        Ok(())
    }

    /// No program came: the numbers are again what they were, and a session that was given to a
    /// keeper is used by way of it.
    fn undo(mut self) {
        let after = edge::errno();
        if edge::is_guest() {
            // A child of vfork tries the next folder of its path: what it has will do.
            let saved = self.passed.into_iter().map(|passed| passed.saved);
            let held = self.held.into_iter().flat_map(|(file, line)| [Some(file), line]).flatten();
            for descriptor in saved.chain(held) {
                let _stays = descriptor.into_raw_fd();
            }
        } else {
            for passed in &self.passed {
                let _lost = put(passed.saved.as_fd(), passed.number);
            }
            // By way of the owner again, before the pumps go: one whose program has closed the
            // session, or a keeper, sees somebody who goes on. Nothing is read.
            let until = Instant::now() + GIVE_BACK_WITHIN;
            for passed in &self.passed {
                // Of an owner that does not answer each of its sessions would wait.
                if Instant::now() < until {
                    let _later = posix::recv(passed.number, &mut [], libc::MSG_DONTWAIT);
                }
            }
            // What has come meanwhile lies in the pumps, and is to be read first.
            let lines = self.held.drain(..).filter_map(|(_, line)| line).collect();
            if let Err(error) = exec::give_back(lines) {
                log::warn!("a session's owner does not take back what it gave: {error}");
            }
        }
        edge::set_errno(after);
    }
}

/// Puts the file under the number, to stay through exec.
fn put(file: BorrowedFd<'_>, number: c_int) -> io::Result<()> {
    use rustix::fd::FromRawFd;
    // SAFETY: the number is the program's and stays so: it is never dropped.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(rustix::io::dup3(file, &mut target, DupFlags::empty())?)
}

/// The numbers that go through exec, each with a virtual number of the same socket.
fn wanted(guest: bool) -> Vec<(c_int, c_int)> {
    let mut wanted = Vec::new();
    let mut table = Vec::new();
    posix::for_each_number(|number| table.push(number));
    if !guest {
        wanted.extend(table.into_iter().filter(|&n| goes_through(n)).map(|n| (n, n)));
    } else if !table.is_empty() {
        // The table is the parent's; the child's numbers may be others.
        let more = table.into_iter().filter(|&number| number >= VFORK_NUMBERS);
        for number in (0..VFORK_NUMBERS).chain(more).filter(|&number| goes_through(number)) {
            if let Ok(stat) = rustix::fs::fstat(borrow(number))
                && let Some(of) = exec::number_of((stat.st_dev, stat.st_ino))
            {
                wanted.push((number, of));
            }
        }
    }
    wanted.truncate(NUMBERS_MAX);
    wanted
}

/// Forks a process that keeps the sessions of these numbers; gives a descriptor whose last copy the
/// exec closes. The process is nobody's child, so that no program has one which it does not know.
fn keeper(numbers: &[c_int]) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the handlers around fork are ours and libc's.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            drop(ours);
            // SAFETY: as above.
            if unsafe { libc::fork() } == 0 {
                be_keeper(numbers, &theirs);
            }
            // SAFETY: takes no pointers.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(theirs);
            // SAFETY: our child; no status is asked for. A program that reaps all its children
            // may have been faster.
            while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } == -1
                && edge::errno() == libc::EINTR
            {}
        }
    }
    let mut ready = [0];
    loop {
        match rustix::io::read(&ours, &mut ready) {
            Ok(1) => return Ok(ours),
            Err(rustix::io::Errno::INTR) => {}
            _ => return Err(io::Error::other("the process that should keep a session has ended")),
        }
    }
}

fn be_keeper(numbers: &[c_int], to_relative: &OwnedFd) -> ! {
    // Nothing of the program but these numbers: neither its files, nor its terminal, nor its
    // handlers.
    let _new = rustix::process::setsid();
    for signal in 1..=libc::SIGSYS {
        let action = if signal == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: these actions run no code of the process.
        unsafe { libc::signal(signal, action) };
    }
    let mut others = Vec::new();
    posix::for_each_number(|number| others.push(number));
    others.retain(|number| !numbers.contains(number));
    for number in others {
        let _told = posix::close(number);
    }
    let mut spared: Vec<u32> = numbers.iter().map(|number| number.unsigned_abs()).collect();
    spared.push(to_relative.as_raw_fd().unsigned_abs());
    if log::max_level() != log::LevelFilter::Off {
        spared.push(libc::STDERR_FILENO.unsigned_abs());
    }
    runs(0, u32::MAX, spared, |from, to| {
        // SAFETY: takes no pointers; what is closed is nobody's in this process any more.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    });
    let kept = exec::keep(numbers, || {
        let _gone = rustix::io::write(to_relative, &[1]);
        let mut end = [0];
        while rustix::io::read(to_relative, &mut end) == Err(rustix::io::Errno::INTR) {}
    });
    // SAFETY: takes no pointers.
    unsafe { libc::_exit(i32::from(kept.is_err())) }
}

/// Runs an exec. `path` is what it names, if that says where the program is.
///
/// # Safety
/// `path` is NULL or a C string.
unsafe fn run(path: *const c_char, exec: impl FnOnce() -> c_int) -> c_int {
    if !edge::is_used() {
        return exec();
    }
    if !path.is_null() {
        // SAFETY: the caller's word.
        let path = unsafe { CStr::from_ptr(path) };
        if rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_err() {
            // Shells try each folder of their path: nothing is prepared for those that fail.
            let _kept = Kept::back();
            return exec();
        }
    }
    if !edge::is_guest() {
        exec::flush();
    }
    let legacy = Legacy::prepare();
    let result = exec();
    // Here only if it failed.
    legacy.undo();
    result
}

pub(super) type Strings = *const *const c_char;

hook! { next = fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(path, || next(path, argv, envp)) }
} }

hook! { next = fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(path, || next(path, argv)) }
} }

hook! { next = fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(std::ptr::null(), || next(file, argv)) }
} }

hook! { next = fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(std::ptr::null(), || next(file, argv, envp)) }
} }

hook! { next = fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(std::ptr::null(), || next(fd, argv, envp)) }
} }

hook! { next = fn execveat(
    dir: c_int,
    path: *const c_char,
    argv: Strings,
    envp: Strings,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe { run(std::ptr::null(), || next(dir, path, argv, envp, flags)) }
} }

/// The most arguments of execl and its like, and of their programs.
const LIST_MAX: usize = 4096;
/// How many arguments come in registers.
#[cfg(target_arch = "x86_64")]
const REGISTERS: usize = 6;
#[cfg(target_arch = "aarch64")]
const REGISTERS: usize = 8;

/// The arguments of a variadic call: those from registers, then those from the stack.
struct Arguments {
    registers: *const usize,
    stack: *const usize,
}

impl Arguments {
    /// # Safety
    /// There are so many arguments.
    unsafe fn get(&self, at: usize) -> usize {
        // SAFETY: the caller's word.
        unsafe {
            match at.checked_sub(REGISTERS) {
                None => self.registers.add(at).read(),
                Some(at) => self.stack.add(at).read(),
            }
        }
    }

    /// The list of strings behind the first argument, and the argument behind the list.
    ///
    /// # Safety
    /// The list ends with a NULL; if the caller is execle, `envp` follows.
    unsafe fn list(&self, list: &mut [*const c_char; LIST_MAX]) -> Option<usize> {
        for (at, place) in list.iter_mut().enumerate() {
            // SAFETY: the caller's word: the list has not ended yet.
            *place = unsafe { self.get(at + 1) } as *const c_char;
            if place.is_null() {
                return Some(at + 2);
            }
        }
        None
    }
}

/// Defines a function of libc's that takes a list of strings: the arguments are put where they can
/// be read one after the other, as a variadic function cannot be defined otherwise.
macro_rules! listed {
    ($($name:ident => $run:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`, for virtual sockets too.")]
        ///
        /// # Safety
        /// The caller's word is that of libc's function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[cfg(target_arch = "x86_64")]
        pub(crate) unsafe extern "C" fn $name() -> c_int {
            core::arch::naked_asm!(
                "sub rsp, 56",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "mov rdi, rsp",
                "lea rsi, [rsp + 64]",
                "call {run}",
                "add rsp, 56",
                "ret",
                run = sym $run,
            )
        }

        #[doc = concat!("`", stringify!($name), "`, for virtual sockets too.")]
        ///
        /// # Safety
        /// The caller's word is that of libc's function of this name.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        #[cfg(target_arch = "aarch64")]
        pub(crate) unsafe extern "C" fn $name() -> c_int {
            core::arch::naked_asm!(
                "stp x29, x30, [sp, #-80]!",
                "mov x29, sp",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "stp x6, x7, [sp, #64]",
                "add x0, sp, #16",
                "add x1, sp, #80",
                "bl {run}",
                "ldp x29, x30, [sp], #80",
                "ret",
                run = sym $run,
            )
        }
    )*};
}

listed! {
    execl => run_execl;
    execlp => run_execlp;
    execle => run_execle;
}

macro_rules! run_listed {
    ($($run:ident($path:ident, $argv:ident, $envp:ident) => $body:expr;)*) => {$(
        unsafe extern "C" fn $run(registers: *const usize, stack: *const usize) -> c_int {
            let arguments = Arguments { registers, stack };
            let mut list = [std::ptr::null(); LIST_MAX];
            // SAFETY: the caller's word, which is that of the function of this name.
            let Some(_rest) = (unsafe { arguments.list(&mut list) }) else {
                edge::set_errno(libc::E2BIG);
                return -1;
            };
            // SAFETY: as above: the path is there, and where it is looked at the environment.
            let ($path, $envp) = unsafe {
                (arguments.get(0) as *const c_char, || arguments.get(_rest) as Strings)
            };
            let _unused = &$envp;
            let $argv = list.as_ptr();
            // SAFETY: as above.
            unsafe { $body }
        }
    )*};
}

run_listed! {
    run_execl(path, argv, envp) => execv(path, argv);
    run_execlp(path, argv, envp) => execvp(path, argv);
    run_execle(path, argv, envp) => execve(path, argv, envp());
}

hook! { next = fn system(command: *const c_char) -> c_int {
    let _kept = Kept::back();
    next(command)
} }

hook! { next = fn popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    let _kept = Kept::back();
    next(command, mode)
} }

macro_rules! exit {
    ($($name:ident;)*) => {$(
        hook! { next = fn $name(status: c_int) -> () {
            if edge::is_used() && !edge::is_guest() {
                eversock_engine::shutdown_from_exit();
            }
            next(status)
        } }
    )*};
}

exit! {
    _exit;
    _Exit;
    quick_exit;
}
