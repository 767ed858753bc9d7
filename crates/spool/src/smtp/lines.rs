//! Lines of commands and of mail, out of the bytes of a connection.
//!
//! Only CR LF ends a line, and only CR LF `.` CR LF ends a mail. Who takes less for an end than the
//! next server does lets a sender hide a second mail in the first ("smuggling"), so a lone CR or LF
//! in a command is an error, and in a mail it makes the whole mail one that is refused.

/// Bytes of a command with its CR LF: RFC 5321 asks for 512, and parameters come on top.
pub const COMMAND_MAX: usize = 2048;

/// A line of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// With its CR LF.
    Whole(Vec<u8>),
    /// Longer than [`COMMAND_MAX`]; all of it was passed over.
    TooLong,
    /// With a lone CR or LF in it.
    Torn,
}

/// Makes lines of what comes.
#[derive(Debug, Default)]
pub struct Lines {
    /// What of the line has come, at most [`COMMAND_MAX`] bytes.
    line: Vec<u8>,
    too_long: bool,
    torn: bool,
    after_cr: bool,
}

impl Lines {
    /// Takes bytes up to the end of a line. Gives how many it took, and the line if it is whole.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Option<Line>) {
        for (at, &byte) in bytes.iter().enumerate() {
            let ends = byte == b'\n' && self.after_cr;
            self.torn |= (byte == b'\n') != self.after_cr;
            self.after_cr = byte == b'\r';
            if self.line.len() < COMMAND_MAX {
                self.line.push(byte);
            } else {
                self.too_long = true;
            }
            if ends {
                let whole = std::mem::take(self);
                let line = match (whole.too_long, whole.torn) {
                    (true, _) => Line::TooLong,
                    (false, true) => Line::Torn,
                    (false, false) => Line::Whole(whole.line),
                };
                return (at + 1, Some(line));
            }
        }
        (bytes.len(), None)
    }
}

/// What came of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// More is to come.
    More,
    /// It is whole.
    End {
        /// A CR or LF stood alone in it.
        torn: bool,
    },
}

/// Makes the content of a mail of what comes after DATA: takes out the dots that RFC 5321, 4.5.2
/// has senders put in.
#[derive(Debug)]
pub struct Content {
    at: At,
    torn: bool,
}

/// Where in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Dot,
    DotCr,
    Inside,
    Cr,
}

impl Default for Content {
    /// The first line begins where DATA ended.
    fn default() -> Self {
        Self { at: At::Start, torn: false }
    }
}

impl Content {
    /// Takes bytes up to the end of the mail and appends its content to `out`. Gives how many it
    /// took. `out` grows by no more than these.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (usize, Part) {
        for (index, &byte) in bytes.iter().enumerate() {
            let before = self.at;
            self.at = match (before, byte) {
                (At::Start, b'.') => {
                    self.at = At::Dot;
                    continue;
                }
                (At::Dot, b'\r') => {
                    self.at = At::DotCr;
                    continue;
                }
                (At::DotCr, b'\n') => {
                    return (index + 1, Part::End { torn: self.torn });
                }
                (At::DotCr, _) => {
                    // A dot that was put in, and a CR that ends nothing.
                    self.torn = true;
                    out.push(b'\r');
                    if byte == b'\r' { At::Cr } else { At::Inside }
                }
                (At::Cr, b'\n') => At::Start,
                (At::Cr, b'\r') => {
                    self.torn = true;
                    At::Cr
                }
                (_, b'\r') => At::Cr,
                (_, b'\n') => {
                    self.torn = true;
                    At::Inside
                }
                (At::Cr, _) => {
                    self.torn = true;
                    At::Inside
                }
                _ => At::Inside,
            };
            out.push(byte);
        }
        (bytes.len(), Part::More)
    }
}
