//! Scripts: which program really runs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What runs a script, as its first line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) path: OsString,
    /// The program that `env` is asked to find.
    pub(super) by_env: Option<OsString>,
}

/// Reads `#!INTERPRETER [ARGUMENT]`; none if these are not the first bytes of a script.
pub(super) fn interpreter(first_bytes: &[u8]) -> Option<Interpreter> {
    let line = first_bytes.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = words(line);
    let path = words.next()?;
    let is_env = Path::new(path).file_name() == Some(OsStr::new("env"));
    // What stands before the program: options of env, and variables that it sets.
    let is_before = |word: &&OsStr| {
        let bytes = word.as_bytes();
        bytes.starts_with(b"-") || bytes.contains(&b'=')
    };
    let by_env = if is_env { words.find(|word| !is_before(word)) } else { None };
    Some(Interpreter { path: path.to_owned(), by_env: by_env.map(OsStr::to_owned) })
}

fn words(line: &[u8]) -> impl Iterator<Item = &OsStr> {
    let words = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r'));
    words.filter(|word| !word.is_empty()).map(OsStr::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_in_the_first_line() {
        let read = |text: &str| {
            let found = interpreter(text.as_bytes())?;
            let text = |text: OsString| text.into_string().unwrap();
            Some((text(found.path), found.by_env.map(text)))
        };
        let sh = Some(("/bin/sh".to_owned(), None));
        assert_eq!(read("#!/bin/sh\necho"), sh);
        assert_eq!(read("#! /bin/sh -e\n"), sh);
        assert_eq!(read("#!/bin/sh"), sh);
        let env = |program: &str| Some(("/usr/bin/env".to_owned(), Some(program.to_owned())));
        assert_eq!(read("#!/usr/bin/env python3\n"), env("python3"));
        assert_eq!(read("#!/usr/bin/env -S A=1 python3 -u\n"), env("python3"));
        assert_eq!(read("#!/usr/bin/env\n"), Some(("/usr/bin/env".to_owned(), None)));
        assert_eq!((read("#!\n"), read("# x"), read("")), (None, None, None));
    }
}
