//! Threads of the engine's own.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Room for whatever a program's callback or a look-up of names needs.
pub(crate) const ROOMY: usize = 2 * 1024 * 1024;

struct Begin {
    name: &'static CStr,
    run: Box<dyn FnOnce() + Send>,
}

/// Starts a thread for which nobody waits, with so many bytes of stack.
///
/// Not by way of `std::thread`, which begins and ends each thread under a lock of its own: a child
/// that is forked at that moment inherits it locked, and no thread of std's ever begins there. A
/// program that forks as soon as it listens does that, and need not know that we have a thread.
pub(crate) fn spawn(
    name: &'static CStr,
    stack: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let begin = Box::into_raw(Box::new(Begin { name, run: Box::new(run) }));
    let started = match create(Some(stack), begin) {
        // Less than this system needs, as with much thread-local memory: as much as is usual.
        libc::EINVAL => create(None, begin),
        other => other,
    };
    if started == 0 {
        return Ok(());
    }
    // SAFETY: no thread has got it.
    drop(unsafe { Box::from_raw(begin) });
    Err(io::Error::from_raw_os_error(started))
}

fn create(stack: Option<usize>, begin: *mut Begin) -> libc::c_int {
    let mut attr = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the attributes are initialised first and destroyed last; `begin` is the new thread's
    // from here on if there is one, and the caller's if not.
    unsafe {
        let result = libc::pthread_attr_init(attr.as_mut_ptr());
        if result != 0 {
            return result;
        }
        let attr = attr.as_mut_ptr();
        libc::pthread_attr_setdetachstate(attr, libc::PTHREAD_CREATE_DETACHED);
        let sized = stack.map_or(0, |stack| libc::pthread_attr_setstacksize(attr, stack));
        let result = match sized {
            0 => libc::pthread_create(thread.as_mut_ptr(), attr, begin_here, begin.cast()),
            error => error,
        };
        libc::pthread_attr_destroy(attr);
        result
    }
}

extern "C" fn begin_here(begin: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: from `Box::into_raw` in `spawn`, which gives it to this thread alone.
    let Begin { name, run } = *unsafe { Box::from_raw(begin.cast::<Begin>()) };
    // SAFETY: this very thread, and a null-terminated name.
    let _unnamed = unsafe { libc::pthread_setname_np(libc::pthread_self(), name.as_ptr()) };
    // Nothing may be unwound beyond here; the panic has said its words.
    let _panicked = catch_unwind(AssertUnwindSafe(run));
    std::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// std gives each thread a stack for signals, under the lock that a child may inherit locked.
    #[test]
    fn a_thread_of_ours_begins_with_its_name_and_without_what_std_does_under_its_lock() {
        let (tell, told) = channel();
        spawn(c"eversock-test", ROOMY, move || {
            let mut stack = MaybeUninit::<libc::stack_t>::uninit();
            // SAFETY: nothing is set; `stack` is writable, and written.
            let flags = unsafe {
                assert_eq!(libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()), 0);
                stack.assume_init().ss_flags
            };
            let name = std::fs::read_to_string("/proc/thread-self/comm").expect("a name");
            tell.send((name, flags)).expect("somebody hears");
        })
        .expect("a thread");
        let (name, flags) = told.recv_timeout(PATIENCE).expect("it runs");
        assert_eq!((name.trim_end(), flags), ("eversock-test", libc::SS_DISABLE));
    }

    #[test]
    fn a_stack_that_is_too_small_becomes_the_usual_one_and_a_panic_ends_its_thread_only() {
        let (tell, told) = channel();
        spawn(c"eversock-test", 1, move || {
            // A small thread would not survive that.
            std::hint::black_box([0u8; 256 * 1024]);
            tell.send(()).expect("somebody hears");
            std::panic::resume_unwind(Box::new("the end of this thread"));
        })
        .expect("a thread");
        told.recv_timeout(PATIENCE).expect("it runs");
        // The sender is dropped as the thread is unwound.
        assert!(told.recv_timeout(PATIENCE).is_err());
    }
}
