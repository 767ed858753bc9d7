//! posix_spawn: a program of its own, and what it is to have of virtual sockets.
//!
//! libc duplicates numbers in the child, where nobody sees it. So the end of a pump is made when
//! the program says what the child is to have, and the child duplicates that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{c_char, c_void};
use std::io;
use std::sync::{Mutex, PoisonError};

use eversock_engine::exec::{self, Engine, Inherited};
use libc::{c_int, pid_t};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::FdFlags;

use super::process::{Kept, Strings};
use crate::edge;
use crate::next::hook;

/// What was made for file actions, by their address and the virtual number: it stays open until
/// they are destroyed, as they may be used more than once, or the number is closed.
type Made = BTreeMap<(usize, c_int), (OwnedFd, Option<OwnedFd>)>;

static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());

macro_rules! spawn {
    ($($name:ident;)*) => {$(
        hook! { next = fn $name(
            pid: *mut pid_t,
            path: *const c_char,
            actions: *const c_void,
            attributes: *const c_void,
            argv: Strings,
            envp: Strings,
        ) -> c_int {
            // The child's copies of the flags are the parent's at this moment.
            let _kept = Kept::back();
            next(pid, path, actions, attributes, argv, envp)
        } }
    )*};
}

spawn! {
    posix_spawn;
    posix_spawnp;
}

/// The number that a child is to duplicate in the place of a virtual one, and that of the line
/// which must stay open while the program lives.
fn stand_in(actions: usize, fd: c_int) -> io::Result<(c_int, Option<c_int>)> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let (file, line) = match made.entry((actions, fd)) {
        Entry::Occupied(found) => found.into_mut(),
        Entry::Vacant(place) => {
            let (file, line) = match exec::inherit(fd, Engine::LivesOn)? {
                Inherited::AsItIs => return Ok((fd, None)),
                Inherited::Pump(pump, line) => (pump, Some(line)),
                Inherited::Listener(real) => (real, None),
            };
            // Other children are to have neither.
            for descriptor in [Some(&file), line.as_ref()].into_iter().flatten() {
                rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
            }
            place.insert((file, line))
        }
    };
    Ok((file.as_raw_fd(), line.as_ref().map(AsRawFd::as_raw_fd)))
}

/// A virtual number is about to be closed. File actions that name it are of no use from here on,
/// whether they are destroyed or not, and what has the number next is not what they meant.
pub(super) fn closed(number: c_int) {
    edge::awake(|| {
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|&(_, of), _| of != number);
        Ok(0)
    });
}

hook! { next = fn posix_spawn_file_actions_adddup2(
    actions: *mut c_void,
    fd: c_int,
    new: c_int,
) -> c_int {
    if !edge::is_ours(fd) || edge::is_guest() {
        return next(actions, fd, new);
    }
    let before = edge::errno();
    let mut failed = 0;
    edge::awake(|| {
        let (file, line) = match stand_in(actions as usize, fd) {
            Ok(found) => found,
            Err(error) => {
                log::warn!("a virtual socket is not passed on to a program: {error}");
                failed = error.raw_os_error().unwrap_or(libc::EOPNOTSUPP);
                return Ok(0);
            }
        };
        failed = next(actions, file, new);
        if let Some(line) = line.filter(|_| failed == 0) {
            // Onto itself: this alone makes it stay open in the new program (POSIX, glibc 2.29).
            failed = next(actions, line, line);
        }
        Ok(0)
    });
    edge::set_errno(before);
    failed
} }

hook! { next = fn posix_spawn_file_actions_destroy(actions: *mut c_void) -> c_int {
    if edge::is_used() && !edge::is_guest() {
        let address = actions as usize;
        edge::awake(|| {
            let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
            let of_these = (address, c_int::MIN)..=(address, c_int::MAX);
            let keys: Vec<_> = made.range(of_these).map(|(&key, _)| key).collect();
            for key in keys {
                made.remove(&key);
            }
            Ok(0)
        });
    }
    next(actions)
} }
