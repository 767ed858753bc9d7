//! Where in a file something stands.

use super::ConfigError;

/// A table of a file, for errors that are found later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub(super) line: usize,
    /// Its heading.
    pub(super) table: &'static str,
}

/// The text of a file, to say where in it something is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) name: &'a str,
}

impl Source<'_> {
    /// What the parser found.
    pub(super) fn error(&self, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().trim_end().replace('\n', "; ");
        let problem = match self.key_at(at) {
            Some(key) if !message.contains(&format!("`{key}`")) => format!("`{key}`: {message}"),
            _ => message,
        };
        self.at(self.line_of(at), problem)
    }

    /// What is wrong with a key of the table that begins at `table`.
    pub(super) fn key(&self, table: usize, key: &str, problem: &str) -> ConfigError {
        let first = self.line_of(table);
        let lines = self.text.lines().zip(1..).skip(first - 1);
        let own = lines
            .enumerate()
            .take_while(|(nth, (line, _))| *nth == 0 || !line.trim_start().starts_with('['));
        let found = own
            .map(|(_, numbered)| numbered)
            .find(|(line, _)| key_of(line) == Some(key))
            .map_or(first, |(_, line)| line);
        self.at(found, format!("`{key}`: {problem}"))
    }

    pub(super) fn place(&self, at: usize, table: &'static str) -> Place {
        Place { line: self.line_of(at), table }
    }

    fn at(&self, line: usize, problem: String) -> ConfigError {
        ConfigError::Wrong { path: self.name.to_owned(), line, problem }
    }

    /// From 1.
    fn line_of(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }

    /// The key of the line in which a value stands.
    fn key_at(&self, at: usize) -> Option<&str> {
        key_of(self.text.lines().nth(self.line_of(at) - 1)?)
    }
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_key.then_some(key)
}
