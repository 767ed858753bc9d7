//! What a service's response means for the request it answers.

use hyper::StatusCode;

use crate::request::Kind;

/// What a status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The response is the answer: it goes to the sender as it is.
    Done,
    /// Refused for good: set aside, for an operator.
    Refused,
    /// No effect yet: send it again later.
    Later,
    /// Nobody can say whether it took effect.
    Doubt,
}

/// Judges a status.
///
/// * 408, 425, 429, 503 and 507 say that nothing happened and that it may later.
/// * 500, 502, 504 and the like leave a change in doubt. A read changes nothing: its 500 is the
///   service's answer. A 502 or 504 comes from a gateway that has lost the service, so the main
///   server is in doubt, whatever was asked.
/// * 501 and 505 are refusals like 4xx.
/// * A refusal goes to a sender who still waits (`drained` is false) with the service's own headers
///   and body. A drained change has nobody who waits: it is set aside instead of being lost.
/// * A drained delete that finds nothing (404, 410) is done: another attempt has had effect.
/// * A redirection is no effect, so a drained change is set aside; but 302 and 303 are what
///   services say after they have done a POST.
#[must_use]
pub fn judge(kind: Kind, drained: bool, status: StatusCode) -> Verdict {
    let changes = !kind.only_looks();
    match status.as_u16() {
        408 | 425 | 429 | 503 | 507 => Verdict::Later,
        502 | 504 => Verdict::Doubt,
        501 | 505 if changes && drained => Verdict::Refused,
        501 | 505 => Verdict::Done,
        500.. if changes => Verdict::Doubt,
        404 | 410 if kind == Kind::Delete => Verdict::Done,
        302 | 303 => Verdict::Done,
        300.. if changes && drained => Verdict::Refused,
        _ => Verdict::Done,
    }
}
