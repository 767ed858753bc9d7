//! Where the library is that goes under a program.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const NAME: &str = "libeversock_preload.so";
/// Names the library's file.
pub(crate) const VARIABLE: &str = "EVERSOCK_PRELOAD";

/// Finds the library: where the variable says, else beside `evs` or in `../lib/eversock`.
pub(crate) fn find() -> Result<PathBuf, String> {
    if let Some(given) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        return checked(absolute(Path::new(&given)))
            .map_err(|problem| format!("{problem}; {VARIABLE} must name {NAME}"));
    }
    let own = env::current_exe()
        .map_err(|error| format!("where evs itself is cannot be found: {error}"))?;
    let folder = own.parent().unwrap_or_else(|| Path::new("/"));
    let places = [folder.join(NAME), folder.join("../lib/eversock").join(NAME)];
    match places.iter().find(|place| place.is_file()) {
        Some(place) => checked(place.canonicalize().unwrap_or_else(|_| place.clone())),
        None => Err(format!(
            "{NAME} is neither in {} nor in {}; build or install it, or name it in {VARIABLE}",
            folder.display(),
            folder.join("../lib/eversock").display(),
        )),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A preload that ld.so could not load would leave the program without, with a warning at best.
fn checked(path: PathBuf) -> Result<PathBuf, String> {
    let shown = path.display();
    if !path.is_file() {
        return Err(format!("{shown}: there is no such file"));
    }
    if path.to_str().is_none_or(|text| text.contains([':', ' ', '\t', '\n'])) {
        return Err(format!(
            "{shown}: LD_PRELOAD cannot name a path with blanks, colons or odd bytes; copy the \
             library elsewhere"
        ));
    }
    Ok(path)
}

/// `LD_PRELOAD` with the library behind what stands there: what was there first stays first, as
/// sanitizers demand.
pub(crate) fn preload_with(library: &Path, before: Option<OsString>) -> OsString {
    let Some(mut all) = before.filter(|before| !before.is_empty()) else {
        return library.into();
    };
    let is_there = all
        .to_str()
        .is_some_and(|text| text.split([':', ' ']).any(|one| Path::new(one) == library));
    if !is_there {
        all.push(":");
        all.push(library);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_preloaded_already_stays_before_ours() {
        let ours = Path::new("/lib/ours.so");
        let with = |before: Option<&str>| preload_with(ours, before.map(OsString::from));
        assert_eq!(with(None), "/lib/ours.so");
        assert_eq!(with(Some("")), "/lib/ours.so");
        assert_eq!(with(Some("/a.so b.so")), "/a.so b.so:/lib/ours.so");
        assert_eq!(with(Some("/lib/ours.so:/a.so")), "/lib/ours.so:/a.so");
    }

    #[test]
    fn a_library_whose_path_ld_so_would_cut_up_is_refused() {
        let folder = env::temp_dir().join(format!("evs library {}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join(NAME);
        std::fs::write(&path, b"").unwrap();
        let problem = checked(path).unwrap_err();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(problem.contains("LD_PRELOAD cannot name"), "{problem}");
        assert!(checked("/nonexistent/x.so".into()).unwrap_err().contains("no such file"));
    }
}
