//! Gives the shared library its SONAME. Until 1.0 the number changes with every release that breaks
//! a program; `golden/libeversock.symbols` in ffi-tests shows what may break.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libeversock.so.0");
}
