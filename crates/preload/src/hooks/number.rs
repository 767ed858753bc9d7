//! Numbers: dup and its like, ranges, flags.

use eversock_engine::posix;
use libc::{c_int, c_uint};

use super::inherited;
use super::made::made;
use crate::early;
use crate::edge::{self, awake, fail};
use crate::next::{alias, hook};

/// True when a call that changes numbers concerns a virtual socket and the caller may touch it.
fn concerns(numbers: &[c_int]) -> bool {
    numbers.iter().any(|&number| edge::is_ours(number)) && !edge::is_guest()
}

hook! { next = fn dup(fd: c_int) -> c_int {
    inherited::before_dup(fd);
    if concerns(&[fd]) {
        return awake(|| posix::dup(fd).inspect(|&new| early::forget(new)));
    }
    made(next(fd))
} }

/// True when a descriptor cannot be put under this number, as the engine has it; EBUSY, as of
/// dup2(2) for a number that is about to be given to an open(2).
fn is_taken(fd: c_int, new: c_int) -> bool {
    let is_taken = fd != new && edge::is_engines(new);
    if is_taken {
        log::warn!("nothing can be put under number {new}, which eversock uses: choose another");
        edge::set_errno(libc::EBUSY);
    }
    is_taken
}

hook! { next = fn dup2(fd: c_int, new: c_int) -> c_int {
    inherited::before_dup(fd);
    if is_taken(fd, new) {
        return -1;
    }
    if fd != new {
        if concerns(&[fd, new]) {
            early::forget(new);
            super::spawn::closed(new);
            return awake(|| posix::dup3(fd, new, 0));
        }
        forget_replaced(new);
    }
    next(fd, new)
} }

hook! { next = fn dup3(fd: c_int, new: c_int, flags: c_int) -> c_int {
    inherited::before_dup(fd);
    if is_taken(fd, new) {
        return -1;
    }
    if concerns(&[fd, new]) {
        early::forget(new);
        super::spawn::closed(new);
        return awake(|| posix::dup3(fd, new, flags));
    }
    forget_replaced(new);
    next(fd, new, flags)
} }

/// A number that is not virtual is about to name another file.
fn forget_replaced(number: c_int) {
    early::forget(number);
    if edge::is_used() && !edge::is_guest() {
        posix::forget_epoll(number);
    }
}

/// The ends of the runs of numbers from `first` to `last` that are not the engine's own, nor among
/// `own`.
pub(super) fn runs(
    first: c_uint,
    last: c_uint,
    mut own: Vec<c_uint>,
    mut visit: impl FnMut(c_uint, c_uint),
) {
    let mut from = first;
    posix::for_each_own_number(|number| own.push(number.unsigned_abs()));
    own.sort_unstable();
    own.dedup();
    for number in own.into_iter().filter(|number| (first..=last).contains(number)) {
        if number > from {
            visit(from, number - 1);
        }
        from = number + 1;
    }
    if from <= last {
        visit(from, last);
    }
}

hook! { next = fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if !edge::is_used() || edge::is_guest() || first > last {
        return next(first, last, flags);
    }
    awake(|| {
        let cloexec = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
        if flags & cloexec == 0 {
            let mut ours = Vec::new();
            posix::for_each_number(|number| ours.push(number));
            ours.retain(|&number| !posix::is_own_number(number));
            for number in ours {
                if (first..=last).contains(&number.unsigned_abs()) {
                    // As close_range(2), which tells no errors of single numbers.
                    let _told = posix::close(number);
                }
            }
        }
        let mut result = 0;
        runs(first, last, Vec::new(), |from, to| {
            if result == 0 {
                result = next(from, to, flags);
            }
        });
        if result == 0 { Ok(0) } else { fail(edge::errno()) }
    })
} }

hook! { next = fn closefrom(first: c_int) -> () {
    if !edge::is_used() || edge::is_guest() {
        return next(first);
    }
    // SAFETY: takes no pointers.
    let _all = unsafe { close_range(first.max(0).unsigned_abs(), c_uint::MAX, 0) };
} }

hook! { next = fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
        inherited::before_dup(fd);
    } else if matches!(command, libc::F_SETFD | libc::F_SETFL) {
        inherited::known(fd);
    }
    if !edge::is_ours(fd) {
        let result = next(fd, command, argument);
        if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
            return made(result);
        }
        return result;
    }
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) && edge::is_guest() {
        return next(fd, command, argument);
    }
    // An int or a pointer in C: of an int the upper half is not defined.
    let number = i64::from(argument as c_int);
    let mut ours = true;
    let result = awake(|| match posix::fcntl(fd, command, number) {
        Some(result) => result,
        None => {
            ours = false;
            Ok(0)
        }
    });
    if ours { result } else { next(fd, command, argument) }
} }

hook! { next = fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    let matters =
        matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_SETFD | libc::F_SETFL);
    if !edge::is_ours(fd) && !matters {
        return next(fd, command, argument);
    }
    // SAFETY: the caller's word.
    unsafe { fcntl(fd, command, argument) }
} }

alias! {
    __dup2 = dup2, (fd: c_int, new: c_int) -> c_int;
    __fcntl = fcntl, (fd: c_int, command: c_int, argument: usize) -> c_int;
}
