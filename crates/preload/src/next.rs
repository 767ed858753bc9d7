//! The next definition of each name, after ours in the search order: libc's, or another preload's.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A symbol that is looked up at its first use. No lock: two threads find the same.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The definition; null if this libc has none.
    #[inline]
    pub(crate) fn get(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if found.is_null() { self.look_up() } else { found }
    }

    #[cold]
    fn look_up(&self) -> *mut c_void {
        // SAFETY: the name ends with a NUL.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

/// What stands in for a function that this libc does not have.
pub(crate) trait Absent {
    const VALUE: Self;
}

impl Absent for libc::c_int {
    const VALUE: Self = -1;
}

impl Absent for isize {
    const VALUE: Self = -1;
}

impl Absent for i64 {
    const VALUE: Self = -1;
}

impl Absent for () {
    const VALUE: Self = ();
}

impl<T> Absent for *mut T {
    const VALUE: Self = std::ptr::null_mut();
}

/// Defines one of libc's functions. In the body, the name before `=` calls the next definition.
macro_rules! hook {
    ($next:ident = fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        #[doc = concat!("`", stringify!($name), "`, for virtual sockets too.")]
        ///
        /// # Safety
        /// The caller's word is that of libc's function of this name.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            static NEXT: $crate::next::Next = $crate::next::Next::new(
                match std::ffi::CStr::from_bytes_with_nul(
                    concat!(stringify!($name), "\0").as_bytes(),
                ) {
                    Ok(name) => name,
                    Err(_) => panic!("a name with a NUL"),
                },
            );
            #[allow(unused_variables, reason = "some bodies never pass on")]
            let $next = |$($arg: $ty),*| -> $ret {
                let found = NEXT.get();
                if found.is_null() {
                    $crate::edge::set_errno(libc::ENOSYS);
                    return <$ret as $crate::next::Absent>::VALUE;
                }
                let next: unsafe extern "C-unwind" fn($($ty),*) -> $ret =
                    // SAFETY: the symbol of this name has this signature (libc's own headers).
                    unsafe { std::mem::transmute(found) };
                // SAFETY: the caller's word, which is that of the function of this name.
                unsafe { next($($arg),*) }
            };
            $body
        }
    };
}

/// Gives an already defined function a second name, as glibc does.
macro_rules! alias {
    ($($name:ident = $of:path, ($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {$(
        #[doc = concat!("glibc's second name of `", stringify!($of), "`.")]
        ///
        /// # Safety
        /// The caller's word is that of libc's function of this name.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C-unwind" fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: the caller's word.
            unsafe { $of($($arg),*) }
        }
    )*};
}

pub(crate) use {alias, hook};

/// The next definition of a function that is called by pointer.
macro_rules! symbol {
    ($name:literal as $ty:ty) => {{
        static NEXT: $crate::next::Next = $crate::next::Next::new($name);
        let found = NEXT.get();
        // SAFETY: the symbol of this name has this signature, and a null pointer is `None`.
        unsafe { std::mem::transmute::<*mut std::ffi::c_void, Option<$ty>>(found) }
    }};
}

pub(crate) use symbol;
