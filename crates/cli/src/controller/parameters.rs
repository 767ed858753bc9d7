//! `evs controller config`: the parameters that all controllers share.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use eversock_controller::limits::PARAMETERS_MAX;
use eversock_controller::node::Parameters;
use serde_json::json;

use super::Which;
use super::ask::Asked;
use crate::failure::Failure;
use crate::output;

/// The parameters that all controllers share: what stands there goes before what the files of the
/// controllers say.
///
/// They are pushed to one controller, which tells its partners. A controller that cannot use them
/// goes on with the older ones and says so in its `status`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the parameters in use, and who has which.
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Write the parameters in use to a file.
    Pull {
        #[command(flatten)]
        which: Which,
        /// The file; standard output if none is named.
        file: Option<PathBuf>,
    },
    /// Show how a file differs from the parameters in use. Exit status 1 if it does.
    Diff {
        #[command(flatten)]
        which: Which,
        /// The file; `-` for standard input.
        file: PathBuf,
    },
    /// Make the text of a file the parameters of all controllers.
    Push {
        #[command(flatten)]
        which: Which,
        /// The file; `-` for standard input.
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self) -> Result<bool, Failure> {
        match self.what {
            What::Show { which } => show(&which),
            What::Pull { which, file } => pull(&which, file.as_deref()),
            What::Diff { which, file } => diff(&which, &file),
            What::Push { which, file } => push(&which, &file),
        }
    }
}

fn show(which: &Which) -> Result<bool, Failure> {
    let file = which.file()?;
    let asked = Asked::of(&file)?;
    let (shared, status) = (asked.parameters()?, asked.status()?);
    if which.json {
        let partners: Vec<_> = status
            .partners
            .iter()
            .map(|one| {
                json!({
                    "partner": one.partner, "generation": one.generation,
                    "refused": one.generation_refused,
                })
            })
            .collect();
        output::json_line(&json!({
            "generation": shared.generation,
            "refused": status.generation_refused,
            "text": shared.text,
            "partners": partners,
        }))?;
        return Ok(true);
    }
    let mut text = format!("# generation {}\n", shared.generation);
    for partner in &status.partners {
        text.push_str(&format!("# {} has generation {}", partner.partner, partner.generation));
        if !partner.generation_refused.is_empty() {
            text.push_str(&format!(", and refuses a newer one: {}", partner.generation_refused));
        }
        text.push('\n');
    }
    text.push_str(&ended(&shared.text));
    output::text(&text).map(|()| true)
}

fn pull(which: &Which, to: Option<&Path>) -> Result<bool, Failure> {
    let file = which.file()?;
    let shared = Asked::of(&file)?.parameters()?;
    let Some(path) = to else {
        if which.json {
            output::json_line(&shared)?;
        } else {
            output::text(&shared.text)?;
        }
        return Ok(true);
    };
    std::fs::write(path, &shared.text).map_err(|error| {
        let path = path.display();
        Failure::new(format!("{path}: cannot be written: {error}; name another file"))
    })?;
    if which.json {
        output::json_line(&json!({ "generation": shared.generation, "file": path }))?;
    } else {
        let path = path.display();
        output::text(&format!("{path}: generation {}\n", shared.generation))?;
    }
    Ok(true)
}

fn diff(which: &Which, path: &Path) -> Result<bool, Failure> {
    let file = which.file()?;
    let new = read(path)?;
    let shared = Asked::of(&file)?.parameters()?;
    let lines = changed(&shared.text, &new);
    if which.json {
        output::json_line(&json!({ "generation": shared.generation, "lines": lines }))?;
    } else {
        lines.iter().try_for_each(|line| output::text(&format!("{line}\n")))?;
    }
    Ok(lines.is_empty())
}

fn push(which: &Which, path: &Path) -> Result<bool, Failure> {
    let file = which.file()?;
    let text = read(path)?;
    // Before anybody is told of it.
    Parameters::parse(&text)
        .map_err(|problem| Failure::usage(format!("{}: {problem}", path.display())))?;
    let generation = Asked::of(&file)?.set_parameters(&text)?;
    if which.json {
        output::json_line(&json!({ "generation": generation }))?;
    } else {
        output::text(&format!("generation {generation}\n"))?;
    }
    Ok(true)
}

fn read(path: &Path) -> Result<String, Failure> {
    let most = PARAMETERS_MAX as u64;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(most + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text))
    };
    let path = path.display();
    read.map_err(|error| Failure::new(format!("{path}: cannot be read: {error}")))?;
    if text.len() > PARAMETERS_MAX {
        let text = format!("{path}: parameters have {PARAMETERS_MAX} bytes at most; shorten them");
        return Err(Failure::usage(text));
    }
    Ok(text)
}

fn ended(text: &str) -> String {
    let is_open = !text.is_empty() && !text.ends_with('\n');
    format!("{text}{}", if is_open { "\n" } else { "" })
}

/// Lines that are gone, with a `-`, and that have come, with a `+`, in their order. Lines that two
/// texts have in common before and behind the first and last difference are left out.
fn changed(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let before = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[before..], &new[before..]);
    let behind = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - behind], &new[..new.len() - behind]);
    let gone = old.iter().map(|line| format!("-{line}"));
    gone.chain(new.iter().map(|line| format!("+{line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_common_are_left_out() {
        assert_eq!(changed("a\nb\nc\n", "a\nb\nc\n"), Vec::<String>::new());
        assert_eq!(changed("a\nb\nc\n", "a\nx\nc\n"), ["-b", "+x"]);
        assert_eq!(changed("", "a\n"), ["+a"]);
        assert_eq!(changed("a\na\n", "a\n"), ["-a"]);
        assert_eq!(changed("a\nb\n", ""), ["-a", "-b"]);
    }
}
