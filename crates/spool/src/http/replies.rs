//! What became of a request, as an HTTP response.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::codec::HttpAnswer;
use super::headers::{ID, LSN, OUTCOME};
use crate::request::{Outcome, Reason, RequestId};

/// Below it lie the results of what was spooled or held.
pub(super) const RESULT: &str = "/.eversock/result/";
/// When to come back if nobody has said.
const COME_BACK: Duration = Duration::from_secs(1);

/// What was asked, as far as its answer depends on it.
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) pair: String,
    /// Status for what is spooled.
    pub(super) spooled: u16,
    /// The response has no body, whatever its length says.
    pub(super) head: bool,
}

/// A request that the front itself refuses.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    what: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, what: &str) -> Self {
        Self { status, what: what.to_owned() }
    }

    pub(super) fn bad(what: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, what)
    }

    pub(super) fn busy(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, what)
    }

    pub(super) fn not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this method cannot be used here: see Allow")
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let body = json!({ "outcome": "rejected", "message": self.what });
        let mut response = of_json(self.status, "rejected", &body);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD, PUT, POST, PATCH, DELETE");
            response.headers_mut().insert(ALLOW, allowed);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            come_back(&mut response, COME_BACK);
        }
        response
    }
}

/// The pair has let a request go without an answer, which it must not.
pub(super) fn nobody_answers(asked: &Asked) -> Refusal {
    let what = format!(
        "the pair {} gave no answer to {}: nobody can say whether it took effect; ask again \
         under the same id",
        asked.pair, asked.id
    );
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, &what)
}

/// The response to an outcome.
pub(super) fn of_outcome(asked: &Asked, outcome: Outcome) -> Response<Full<Bytes>> {
    let mut response = match outcome {
        Outcome::Applied { answer } => applied(asked, answer),
        Outcome::Spooled { lsn } => {
            let status = StatusCode::from_u16(asked.spooled).unwrap_or(StatusCode::ACCEPTED);
            let message = "it is on disk and will be done by the new main server";
            waiting(asked, status, "spooled", lsn, message)
        }
        Outcome::Held { lsn } => {
            let message = "it waits in the spool: ask for its result under Location";
            let mut response = waiting(asked, StatusCode::ACCEPTED, "held", lsn, message);
            if let Ok(location) = HeaderValue::from_str(&result(asked)) {
                response.headers_mut().insert(LOCATION, location);
            }
            come_back(&mut response, COME_BACK);
            response
        }
        Outcome::Stale => {
            let message = "writes of this key wait in the spool: ask again when they are done";
            let mut response = told(asked, StatusCode::SERVICE_UNAVAILABLE, "stale", message);
            come_back(&mut response, COME_BACK);
            response
        }
        Outcome::InDoubt => {
            let message = "nobody can say whether it took effect, since the server that had it \
                           is gone: ask again under the same Idempotency-Key or Eversock-Id";
            told(asked, StatusCode::GATEWAY_TIMEOUT, "in-doubt", message)
        }
        Outcome::Rejected { reason, retry_after } => rejected(asked, &reason, retry_after),
    };
    if let Ok(id) = HeaderValue::from_str(&asked.id.to_string()) {
        response.headers_mut().insert(ID, id);
    }
    response
}

fn result(asked: &Asked) -> String {
    format!("{RESULT}{}/{}", asked.pair, asked.id)
}

/// What the service said.
fn applied(asked: &Asked, answer: Vec<u8>) -> Response<Full<Bytes>> {
    // Answers of drained writes are not kept where nobody is expected to ask.
    if answer.is_empty() {
        return told(asked, StatusCode::OK, "applied", "it has been done");
    }
    let mut answer = match HttpAnswer::decode(&Bytes::from(answer)) {
        Ok(answer) => answer,
        Err(error) => {
            let message = format!("it has been done, but its answer cannot be read: {error}");
            return told(asked, StatusCode::BAD_GATEWAY, "applied", &message);
        }
    };
    // What HTTP itself uses while a response is still to come is none that can be passed on.
    if answer.status.is_informational() {
        let message = format!("it has been done, but the service said {}", answer.status);
        return told(asked, StatusCode::BAD_GATEWAY, "applied", &message);
    }
    // A length without a body is only right where there is none by rule.
    if !asked.head && answer.status != StatusCode::NOT_MODIFIED {
        answer.headers.remove(CONTENT_LENGTH);
    }
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response.headers_mut().insert(OUTCOME, HeaderValue::from_static("applied"));
    response
}

fn rejected(asked: &Asked, reason: &Reason, retry_after: Duration) -> Response<Full<Bytes>> {
    let (status, remedy) = match reason {
        Reason::SpoolFull => (StatusCode::SERVICE_UNAVAILABLE, "come back when it has drained"),
        Reason::HoldFull => (StatusCode::SERVICE_UNAVAILABLE, "come back a little later"),
        Reason::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "come back when one is there"),
        Reason::Closing => (StatusCode::SERVICE_UNAVAILABLE, "come back when it is there again"),
        Reason::Deadline => (StatusCode::GATEWAY_TIMEOUT, "it had no effect: ask again"),
        Reason::Malformed(_) => (StatusCode::BAD_REQUEST, "mend the request or the route"),
        Reason::IdReused => (StatusCode::UNPROCESSABLE_ENTITY, "take a new Idempotency-Key"),
        Reason::Refused { code, text } => return refused(asked, *code, text),
    };
    let mut response = told(asked, status, "rejected", &format!("{reason}: {remedy}"));
    if status == StatusCode::SERVICE_UNAVAILABLE || !retry_after.is_zero() {
        come_back(&mut response, retry_after);
    }
    response
}

/// What a service refused when it was drained.
fn refused(asked: &Asked, code: u32, text: &str) -> Response<Full<Bytes>> {
    let status = u16::try_from(code).ok().filter(|code| (400..=599).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(OUTCOME, HeaderValue::from_static("refused"));
    log::debug!("{} was refused by the pair {}", asked.id, asked.pair);
    response
}

fn waiting(
    asked: &Asked,
    status: StatusCode,
    outcome: &'static str,
    lsn: u64,
    message: &str,
) -> Response<Full<Bytes>> {
    let body = json!({
        "outcome": outcome, "pair": asked.pair, "id": asked.id.to_string(), "lsn": lsn,
        "result": result(asked), "message": message,
    });
    let mut response = of_json(status, outcome, &body);
    response.headers_mut().insert(LSN, HeaderValue::from(lsn));
    response
}

fn told(
    asked: &Asked,
    status: StatusCode,
    outcome: &'static str,
    message: &str,
) -> Response<Full<Bytes>> {
    let body = json!({
        "outcome": outcome, "pair": asked.pair, "id": asked.id.to_string(), "message": message,
    });
    of_json(status, outcome, &body)
}

fn of_json(
    status: StatusCode,
    outcome: &'static str,
    body: &serde_json::Value,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(OUTCOME, HeaderValue::from_static(outcome));
    response
}

/// Whole seconds, rounded up, at least one: sooner would only be refused again.
fn come_back(response: &mut Response<Full<Bytes>>, after: Duration) {
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
}
