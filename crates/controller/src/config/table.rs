//! Reads a file of TOML key by key, and notes all that is wrong with it, each with its line.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use crate::model::ControllerId;
use crate::node::SHARED;

/// Problems of one file that are told; more are of no use to anybody.
const PROBLEMS_MAX: usize = 100;
/// Addresses of one name that are tried.
const ADDRS_MAX: usize = crate::limits::ADDRS_MAX;

/// A value and where it stands.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// A file, and what is wrong with it as far as it was read.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: &'a str,
    folder: &'a Path,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, folder: &'a Path) -> Self {
        Self { text, folder, problems: RefCell::new(Vec::new()) }
    }

    /// The whole file. What cannot be parsed is noted; what can be is given all the same.
    pub(super) fn root<'s>(&'s self) -> Table<'a, 's> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(0, |span| span.start);
            self.note(at, error.message().trim_end().replace('\n', "; "));
        }
        Table {
            source: self,
            at: 0,
            heading: String::new(),
            left: root.into_inner(),
            known: vec![],
        }
    }

    /// Notes what is wrong at this byte of the text.
    pub(super) fn note(&self, at: usize, text: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem { line: self.line_of(at), text: text.into() });
        }
    }

    /// All problems, from the top of the file to its end.
    pub(super) fn problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// From 1.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }
}

/// A table of the file. Each key is taken out of it; what is left at the end nobody knows.
#[derive(Debug)]
pub(super) struct Table<'a, 's> {
    source: &'s Source<'a>,
    at: usize,
    /// As people know it; empty for what stands before the first heading.
    heading: String,
    left: DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a, 's> Table<'a, 's> {
    /// Where it begins.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether the key stands there, right or wrong; to be asked before it is taken.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Notes what is wrong with a key, where the table begins.
    pub(super) fn wrong(&self, at: usize, key: &str, problem: &str) {
        self.source.note(at, format!("`{key}`{}: {problem}", self.within()));
    }

    fn within(&self) -> String {
        if self.heading.is_empty() { String::new() } else { format!(" in {}", self.heading) }
    }

    /// Takes a key, and its value as `read` understands it. `None`: it is not there, or is wrong,
    /// which is noted.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        self.take_at(key, read).map(|(value, _)| value)
    }

    /// The same, with where the value stands.
    pub(super) fn take_at<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<(T, usize)> {
        let value = self.value(key)?;
        let at = value.span().start;
        match read(value.get_ref()) {
            Ok(read) => Some((read, at)),
            Err(problem) => {
                self.wrong(at, key, &problem);
                None
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        self.left.remove(key)
    }

    /// A key that must be there.
    pub(super) fn need<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.wrong(self.at, key, "it is missing; add it");
        }
        self.take(key, read)
    }

    /// Sets a value if the file has it.
    pub(super) fn set<T>(
        &mut self,
        to: &mut T,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) {
        if let Some(value) = self.take(key, read) {
            *to = value;
        }
    }

    /// A path, relative to the folder of the file.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.source.folder;
        self.take(key, |value| match text(value)? {
            text if text.is_empty() => Err("it is empty; name a file".to_owned()),
            text => Ok(folder.join(text)),
        })
    }

    /// A table within this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        self.nested(value, key.to_owned(), format!("[{key}]"))
    }

    /// All tables of a list.
    pub(super) fn tables(&mut self, key: &'static str, most: usize) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let at = value.span().start;
        let DeValue::Array(array) = value.into_inner() else {
            self.wrong(at, key, &format!("it is no list of tables; write [[{key}]]"));
            return Vec::new();
        };
        if array.len() > most {
            self.wrong(at, key, &format!("there are {}, and {most} at most", array.len()));
        }
        let all = array.into_iter().take(most);
        all.filter_map(|value| self.nested(value, key.to_owned(), format!("[[{key}]]"))).collect()
    }

    /// The tables within a table, each with the name under which it stands.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(String, Self)> {
        let Some(table) = self.table(key) else { return Vec::new() };
        let mut all = Vec::new();
        for (name, value) in table.left {
            let name = name.into_inner().into_owned();
            let heading = format!("[{key}.{name:?}]");
            all.extend(self.nested(value, name.clone(), heading).map(|table| (name, table)));
        }
        all
    }

    /// The keys of a table whose keys are names of the user's own, with their values.
    pub(super) fn pairs<T>(
        mut self,
        read: impl Fn(&str, &DeValue<'a>) -> Result<T, String>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        for (name, value) in std::mem::take(&mut self.left) {
            match read(name.get_ref(), value.get_ref()) {
                Ok(read) => all.push(read),
                Err(problem) => self.wrong(value.span().start, name.get_ref(), &problem),
            }
        }
        all
    }

    fn nested(&self, value: Value<'a>, key: String, heading: String) -> Option<Self> {
        let at = value.span().start;
        let kind = value.get_ref().type_str();
        if let DeValue::Table(left) = value.into_inner() {
            return Some(Self { source: self.source, at, heading, left, known: vec![] });
        }
        self.wrong(at, &key, &format!("it is no table but of type {kind}; write {heading}"));
        None
    }

    /// The end of it: keys that are left are known to nobody.
    pub(super) fn end(self) {
        for name in self.left.keys() {
            let (at, name) = (name.span().start, name.get_ref());
            let known = self.known.join("`, `");
            let within = self.within();
            let text = format!("unknown key `{name}`{within}; there are `{known}`");
            self.source.note(at, text);
        }
    }
}

fn other(value: &DeValue<'_>, wanted: &str) -> String {
    let shown = match value {
        DeValue::String(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => format!("something of type {}", other.type_str()),
    };
    format!("it is {shown}; take {wanted}")
}

/// Some text.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| other(value, "some text in quotes"))
}

/// Text that something else is made of.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    value: &DeValue<'_>,
) -> Result<T, String> {
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// The name of a controller, and of a partition.
pub(super) fn controller(value: &DeValue<'_>) -> Result<ControllerId, String> {
    match parsed::<ControllerId>(value)? {
        id if id.as_str() == SHARED => Err(format!(
            "{SHARED} is the partition of what all controllers share; take another name"
        )),
        id => Ok(id),
    }
}

/// True or false.
pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| other(value, "true or false"))
}

/// A number in bounds.
pub(super) fn number<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let digits = value.as_integer().map(|number| (number.as_str(), number.radix()));
        let found = digits.and_then(|(digits, radix)| u64::from_str_radix(digits, radix).ok());
        let found = found.filter(|found| (least..=most).contains(found));
        let found = found.and_then(|found| T::try_from(found).ok());
        found.ok_or_else(|| other(value, &format!("a number from {least} to {most}")))
    }
}

/// A time in bounds.
pub(super) fn time(
    least: Duration,
    most: Duration,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        let found = value.as_str().and_then(eversock_units::time).map(|time| time.0);
        let Some(found) = found else { return Err(other(value, eversock_units::TIME)) };
        if (least..=most).contains(&found) {
            return Ok(found);
        }
        Err(other(value, &format!("a time from {least:?} to {most:?}")))
    }
}

/// Bytes, as a number or as text with a unit.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, String> {
    let found = match value {
        DeValue::Integer(_) => number::<u64>(0, i64::MAX as u64)(value).ok(),
        DeValue::String(text) => eversock_units::size(text).map(|size| size.0),
        _ => None,
    };
    found.ok_or_else(|| other(value, eversock_units::SIZE))
}

/// An address to listen on.
pub(super) fn addr(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| other(value, "an address with a port, as \"127.0.0.1:7600\""))
}

/// Some text, or several: 1 to `most`.
pub(super) fn list(value: &DeValue<'_>, most: usize) -> Result<Vec<String>, String> {
    let texts: Vec<String> = match value {
        DeValue::Array(array) => {
            array.iter().map(|one| text(one.get_ref())).collect::<Result<_, _>>()?
        }
        one => vec![text(one)?],
    };
    if (1..=most).contains(&texts.len()) {
        return Ok(texts);
    }
    Err(format!("it has {}; take 1 to {most}", texts.len()))
}

/// `HOST:PORT`, or several of them. Names are looked up later, when they are needed.
pub(super) fn places(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let texts = list(value, ADDRS_MAX)?;
    for text in &texts {
        let split = text.rsplit_once(':');
        let is_place = split.is_some_and(|(host, port)| {
            let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace());
            is_host && port.parse::<u16>().is_ok()
        });
        if !is_place {
            return Err(format!("{text:?} is no place; take HOST:PORT, as \"10.0.0.1:7600\""));
        }
    }
    Ok(texts)
}
