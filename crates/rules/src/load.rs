//! Where rules come from, and what is wrong with them.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::rule::Rules;

/// The variable with the rules themselves, as TOML; it goes before every file.
pub const RULES_VARIABLE: &str = "EVERSOCK_RULES";
/// The variable that names the file with the rules.
pub const CONFIG_VARIABLE: &str = "EVERSOCK_CONFIG";
/// Rules may be this long, at most; more is a wrong file.
const LENGTH_MAX_BYTES: u64 = 1024 * 1024;

/// Why there are no rules although there should be.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file that was named, or found, cannot be read.
    #[error("{path}: cannot be read: {error}; name another file in {CONFIG_VARIABLE}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is too long to be rules.
    #[error(
        "{path}: longer than 1 MiB, which no rules are; name another file in {CONFIG_VARIABLE}"
    )]
    TooLong {
        /// The file.
        path: String,
    },
    /// A rule is wrong.
    #[error("{path}:{line}: {problem}")]
    Wrong {
        /// The file, or the variable.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what was expected.
        problem: String,
    },
}

/// Reads rules from text; `source` is what errors call it.
///
/// # Errors
/// [`LoadError::Wrong`], with the line.
pub fn from_text(text: &str, source: &str) -> Result<Rules, LoadError> {
    Rules::parse(text).map_err(|(at, problem)| {
        let line = text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
        let problem = problem.trim_end().replace('\n', "; ");
        LoadError::Wrong { path: source.to_owned(), line, problem }
    })
}

/// Reads the rules of a file.
///
/// # Errors
/// Those of [`LoadError`].
pub fn from_file(path: &Path) -> Result<Rules, LoadError> {
    let name = path.display().to_string();
    let unreadable = |error| LoadError::Unreadable { path: name.clone(), error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(LENGTH_MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LENGTH_MAX_BYTES {
        return Err(LoadError::TooLong { path: name });
    }
    from_text(&text, &name)
}

/// The files in which rules are looked for, in this order; the first that exists counts. A file
/// that [`CONFIG_VARIABLE`] names must exist, and no other is looked at.
pub fn candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = given(CONFIG_VARIABLE) {
        return vec![path.into()];
    }
    let user = given("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| given("HOME").map(|home| PathBuf::from(home).join(".config")));
    let folders = user.into_iter().chain([PathBuf::from("/etc")]);
    folders.map(|folder| folder.join("eversock").join("eversock.toml")).collect()
}

/// The rules of this process, as its environment says. No rules at all is no error.
///
/// # Errors
/// Those of [`LoadError`].
pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Rules, LoadError> {
    if let Some(text) = variable(RULES_VARIABLE) {
        let text = text.into_string().map_err(|_| LoadError::Wrong {
            path: RULES_VARIABLE.to_owned(),
            line: 1,
            problem: "not UTF-8; expected rules as TOML".to_owned(),
        })?;
        return from_text(&text, RULES_VARIABLE);
    }
    let is_named = variable(CONFIG_VARIABLE).is_some_and(|value| !value.is_empty());
    for path in candidates(variable) {
        match from_file(&path) {
            Err(LoadError::Unreadable { error, .. })
                if !is_named && error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    Ok(Rules::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        from_text(text, "eversock.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_bad_rule_is_refused_with_its_line_and_what_was_expected() {
        let before = "# mine\n[[connect]]\nport = 80\n";
        let cases = [
            ("mode = \"maybe\"", "`require`, `auto`, `off`"),
            ("policy = \"perhaps\"", "`auto`, `ask`, `never`"),
            ("prot = 80", "expected one of"),
            ("host = \"10.0.0.0/40\"", "0 to 32"),
            ("host = \"a b\"", "expected an address, a block"),
            ("grace = \"soon\"", "expected seconds"),
            ("redial-limit = -1", "expected u32"),
            ("server-speaks-first = 1", "expected a boolean"),
            ("share = 1", "expected a boolean"),
            ("addresses = [\"x\"]", "IP address"),
            ("on-fault = 3", "expected a string"),
            ("sessions-max = -1", "expected u32"),
            ("sessions-max = \"many\"", "expected u32"),
            ("memory-max = -1", "expected bytes"),
            ("memory-max = \"256MB/s\"", "expected bytes"),
            ("memory-max = true", "expected bytes"),
            ("handshakes-per-source = 4294967296", "expected u32"),
            ("handshakes-per-source = 1.5", "expected u32"),
        ];
        for (line, expected) in cases {
            let problem = problem(&format!("{before}{line}\n"));
            assert!(problem.starts_with("eversock.toml:4: "), "{line}: {problem}");
            assert!(problem.contains(expected), "{line}: {problem}");
        }
        assert!(problem("[[connect]]\nport = 0\n").starts_with("eversock.toml:2: "));
        // What contradicts itself is said of the rule's first line, not of the first rule's.
        let contradicts = problem(&format!("{before}[[connect]]\nkey = \"/k\"\nmode = \"auto\"\n"));
        assert!(contradicts.starts_with("eversock.toml:4: a key needs"), "{contradicts}");
        assert!(problem("[[conect]]\n").contains("`connect`"));
        assert!(problem("[[connect]]\nport = \n").starts_with("eversock.toml:2: "));
    }

    #[test]
    fn files_are_looked_for_in_the_users_folder_and_then_in_the_systems() {
        let with = |pairs: &'static [(&str, &str)]| {
            candidates(move |name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
            })
        };
        let etc = PathBuf::from("/etc/eversock/eversock.toml");
        assert_eq!(with(&[]), std::slice::from_ref(&etc));
        assert_eq!(
            with(&[("HOME", "/h")]),
            [PathBuf::from("/h/.config/eversock/eversock.toml"), etc.clone()]
        );
        assert_eq!(
            with(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]),
            [PathBuf::from("/x/eversock/eversock.toml"), etc]
        );
        assert_eq!(with(&[("HOME", "/h"), ("EVERSOCK_CONFIG", "/c")]), [PathBuf::from("/c")]);
    }

    #[test]
    fn rules_in_the_environment_go_before_every_file() {
        let rules = from_environment(|name| match name {
            RULES_VARIABLE => Some("[[connect]]\nport = 9\n".into()),
            CONFIG_VARIABLE => Some("/nonexistent/file".into()),
            _ => None,
        });
        assert_eq!(rules.unwrap().connect.len(), 1);
    }

    #[test]
    fn a_named_file_must_exist_and_others_need_not() {
        let named = from_environment(|name| {
            (name == CONFIG_VARIABLE).then(|| OsString::from("/nonexistent/file"))
        });
        let error = named.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/file") && error.contains(CONFIG_VARIABLE), "{error}");
        let none = from_environment(|name| {
            (name == "XDG_CONFIG_HOME").then(|| OsString::from("/nonexistent"))
        });
        // The system's file may exist on the machine at hand; then it counts.
        if !Path::new("/etc/eversock/eversock.toml").exists() {
            assert!(none.unwrap().is_empty());
        }
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_whole() {
        let error = from_file(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("longer than 1 MiB"), "{error}");
    }
}
