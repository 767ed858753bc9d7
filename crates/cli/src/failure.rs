//! What a command says when it cannot do its work, and the exit status that goes with it.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Why a command failed: what happened, to what, and what can be done about it.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Exit status 1.
    Failed,
    /// Exit status 2: other arguments would help.
    Usage,
    /// Nobody reads our output any more; no reason to complain.
    NoReader,
    /// An exit status that the command itself has given a meaning.
    Status(u8),
    /// The same, and the command has said already what there is to say.
    Silent(u8),
}

impl Failure {
    /// The work could not be done.
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), kind: Kind::Failed }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), kind: Kind::Usage }
    }

    /// Ends with this exit status.
    pub(crate) fn with_status(status: u8, what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), kind: Kind::Status(status) }
    }

    /// Ends with this exit status and says no more.
    pub(crate) fn silent(status: u8) -> Self {
        Self { what: String::new(), kind: Kind::Silent(status) }
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => Kind::NoReader,
            _ => Kind::Failed,
        };
        Self { what: format!("cannot write to standard output: {error}"), kind }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// The exit status of a command: `Ok(false)` is a failure that the command itself has reported.
pub(crate) fn exit_code(done: Result<bool, Failure>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            if !matches!(failure.kind, Kind::NoReader | Kind::Silent(_)) {
                eprintln!("evs: {failure}");
            }
            match failure.kind {
                Kind::Usage => ExitCode::from(2),
                Kind::Status(status) | Kind::Silent(status) => ExitCode::from(status),
                Kind::Failed | Kind::NoReader => ExitCode::FAILURE,
            }
        }
    }
}
