//! One HTTP request, from its headers to its response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, COOKIE, EXPECT, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use super::codec::{CodecError, HttpRequest};
use super::front::{Route, Shared, shares};
use super::headers::{self, ID, IDEMPOTENCY_KEY};
use super::replies::{self, Asked, Refusal};
use crate::limits::KEY_MAX;
use crate::request::{self, Kind, Outcome, RequestId};

/// Bytes of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_MAX: usize = 256;
/// Under this path the front answers for itself.
const OWN: &str = "/.eversock/";
/// What of a body that nobody wants is read, so that the client reads why instead of a reset.
const UNWANTED_MAX: usize = 1 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(2);

/// A path as keys and routes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    /// One way of writing it (RFC 3986, 6.2.2.1 and 6.2.2.2); no more is changed, since `//` and
    /// `/` at the end can mean something to a service.
    pub(super) fn of(text: &str) -> Result<Self, Refusal> {
        if !text.starts_with('/') {
            return Err(Refusal::bad("the path does not begin with /"));
        }
        let (mut path, mut bytes) = (String::with_capacity(text.len()), text.bytes());
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                // Bytes above 127 come in no URI; as characters of their own they do no harm.
                path.push(byte.into());
                continue;
            }
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(Refusal::bad("the path has a % without two hexadecimal digits"));
            };
            match char::from_u32(high * 16 + low) {
                Some(plain) if plain.is_ascii_alphanumeric() || "-._~".contains(plain) => {
                    path.push(plain);
                }
                _ => path.push_str(&format!("%{high:X}{low:X}")),
            }
        }
        if path.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(Refusal::bad("the path has . or .. in it: resolve them first"));
        }
        Ok(Self(path))
    }

    /// Whether it is `prefix` or below it.
    fn is_under(&self, prefix: &str) -> bool {
        let Ok(Self(prefix)) = Self::of(prefix) else { return false };
        let prefix = prefix.trim_end_matches('/');
        self.0.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A response to anything.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.uri.path().starts_with(OWN) {
        return Ok(own(&shared, &parts).await);
    }
    Ok(match ask(&shared, parts, body).await {
        Ok((asked, outcome)) => replies::of_outcome(&asked, outcome),
        Err(refusal) => refusal.response(),
    })
}

/// Reads a request, hands it in, waits for what becomes of it.
async fn ask(
    shared: &Shared,
    mut parts: Parts,
    body: Incoming,
) -> Result<(Asked, Outcome), Refusal> {
    let path = Path::of(parts.uri.path())?;
    if path.0.len() > KEY_MAX {
        let what = format!("the path is longer than the {KEY_MAX} bytes that a key may have");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, &what));
    }
    let routes = shared.config.routes.iter().filter(|route| path.is_under(&route.path_prefix));
    let Some(route) = routes.max_by_key(|route| route.path_prefix.len()) else {
        let what = "no route leads from this path to a pair: see the routes of the front";
        return Err(Refusal::new(StatusCode::NOT_FOUND, what));
    };
    let kind = kind_of(&parts.method, route, &path)?;
    let id = id_of(&parts, route, &path)?;
    // Before the body: what is refused for its length alone is not asked for it.
    let (body, _share) = read_body(shared, &parts.headers, body).await?;

    headers::of_request(&mut parts.headers, shared.config.keep_host, &shared.dropped);
    let target = parts.uri.path_and_query().cloned();
    let http = HttpRequest {
        method: parts.method.clone(),
        target: target.ok_or_else(|| Refusal::bad("the request names no path"))?,
        headers: parts.headers,
        body,
    };
    let payload =
        http.encode().map_err(|error| Refusal::new(too_long(&error), &error.to_string()))?;
    let asked = Asked {
        id,
        pair: route.pair.clone(),
        spooled: shared.config.spooled_status,
        head: parts.method == Method::HEAD,
    };
    let deadline = shared.config.deadline;
    let request = request::Request { id, kind, key: path.0.into_bytes(), payload, deadline };
    let (sender, receiver) = oneshot::channel();
    // Who has gone by the time of the answer does not hear it; the request is done all the same.
    let reply = Box::new(move |outcome| drop(sender.send(outcome)));
    shared.submit.submit(&asked.pair, request, reply);
    let outcome = receiver.await.map_err(|_| replies::nobody_answers(&asked))?;
    Ok((asked, outcome))
}

fn too_long(error: &CodecError) -> StatusCode {
    match error {
        CodecError::TooLong { what, .. } if what.contains("path") => StatusCode::URI_TOO_LONG,
        CodecError::TooLong { what, .. } if what.contains("body") => StatusCode::PAYLOAD_TOO_LARGE,
        CodecError::TooLong { what, .. } if what.contains("header") => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }
        _ => StatusCode::BAD_REQUEST,
    }
}

fn kind_of(method: &Method, route: &Route, path: &Path) -> Result<Kind, Refusal> {
    let searches = || route.search_prefixes.iter().any(|prefix| path.is_under(prefix));
    match *method {
        Method::GET | Method::HEAD if searches() => Ok(Kind::Search),
        Method::GET | Method::HEAD => Ok(Kind::Read),
        Method::POST if route.search_post && searches() => Ok(Kind::Search),
        Method::PUT | Method::POST | Method::PATCH => Ok(Kind::Write),
        Method::DELETE => Ok(Kind::Delete),
        Method::OPTIONS | Method::TRACE | Method::CONNECT => Err(Refusal::not_allowed()),
        _ => {
            let what = format!("the front knows no method {method}");
            Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, &what))
        }
    }
}

/// The number of the request: what the client calls it, or what it heard of an earlier attempt.
fn id_of(parts: &Parts, route: &Route, path: &Path) -> Result<RequestId, Refusal> {
    let one = |name| {
        let mut values = parts.headers.get_all(&name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|value| value.as_bytes().trim_ascii())),
            _ => Err(Refusal::bad(&format!("{name} is there more than once"))),
        }
    };
    let (key, number) = (one(IDEMPOTENCY_KEY)?, one(ID)?);
    if let Some(key) = key {
        let bare = key.strip_prefix(b"\"").and_then(|key| key.strip_suffix(b"\"")).unwrap_or(key);
        if bare.is_empty() || bare.len() > IDEMPOTENCY_KEY_MAX {
            let what = format!("Idempotency-Key is not 1 to {IDEMPOTENCY_KEY_MAX} bytes long");
            return Err(Refusal::bad(&what));
        }
        // Nothing in front of the key can have a zero byte in it.
        let before = [route.pair.as_bytes(), parts.method.as_str().as_bytes(), path.0.as_bytes()];
        let mut name = before.join(&0);
        name.push(0);
        name.extend_from_slice(bare);
        // Who asks for the result of a read by its number must have known what it was asked with.
        if !parts.method.is_safe() {
            return Ok(RequestId::of_name(&name));
        }
        for secret in [AUTHORIZATION, COOKIE] {
            for value in parts.headers.get_all(secret) {
                name.push(0);
                name.extend_from_slice(value.as_bytes());
            }
        }
        return Ok(RequestId::of_name(&name));
    }
    if let Some(number) = number {
        return parse_id(number)
            .ok_or_else(|| Refusal::bad("Eversock-Id is not 32 hexadecimal digits"));
    }
    RequestId::random()
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
}

fn parse_id(text: &[u8]) -> Option<RequestId> {
    if text.len() != 32 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(RequestId)
}

/// The whole body, and its share of the memory for bodies.
async fn read_body(
    shared: &Shared,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    let config = &shared.config;
    let length = body.size_hint().exact();
    if length == Some(0) {
        return Ok((Bytes::new(), None));
    }
    let most = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(config.body_max);
    let too_large = || {
        let what = format!("the body is longer than {} bytes: send less", config.body_max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, &what)
    };
    if length.is_some_and(|length| length > config.body_max as u64) {
        // To who waits for 100 (Continue), the refusal is the answer.
        if !headers.contains_key(EXPECT) {
            skip(body).await;
        }
        return Err(too_large());
    }
    let share = Arc::clone(&shared.bodies).acquire_many_owned(shares(most));
    let Ok(Ok(share)) = timeout(config.body_timeout, share).await else {
        return Err(Refusal::busy("too many bodies are on their way"));
    };
    let mut limited = Limited::new(body, config.body_max);
    match timeout(config.body_timeout, (&mut limited).collect()).await {
        Ok(Ok(whole)) => Ok((whole.to_bytes(), Some(share))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::bad(&format!("the body cannot be read: {error}"))),
        Err(_) => {
            let what = format!("the body has not come within {:?}", config.body_timeout);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, &what))
        }
    }
}

async fn skip(body: Incoming) {
    let mut limited = Limited::new(body, UNWANTED_MAX);
    let skipping = async { while let Some(Ok(_)) = limited.frame().await {} };
    let _ = timeout(UNWANTED_TIME, skipping).await;
}

/// What the front answers for itself: `/.eversock/result/PAIR/ID`.
async fn own(shared: &Shared, parts: &Parts) -> Response<Full<Bytes>> {
    let path = parts.uri.path();
    let found = path.strip_prefix(replies::RESULT).and_then(|rest| {
        let (pair, id) = rest.split_once('/')?;
        let ours = shared.config.routes.iter().any(|route| route.pair == pair);
        Some((pair.to_owned(), parse_id(id.as_bytes()).filter(|_| ours)?))
    });
    let Some((pair, id)) = found else {
        let what =
            format!("there is nothing but {}PAIR/ID (32 hexadecimal digits)", replies::RESULT);
        return Refusal::new(StatusCode::NOT_FOUND, &what).response();
    };
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Refusal::not_allowed().response();
    }
    let (sender, receiver) = oneshot::channel();
    shared.submit.fetch(&pair, id, Box::new(move |outcome| drop(sender.send(outcome))));
    let head = parts.method == Method::HEAD;
    let asked = Asked { id, pair, spooled: StatusCode::ACCEPTED.as_u16(), head };
    let patience = shared.config.deadline;
    match timeout(patience, receiver).await {
        Ok(Ok(Some(outcome))) => replies::of_outcome(&asked, outcome),
        Ok(Ok(None)) => {
            let what = "nothing is known of this id: it was never here, or is forgotten";
            Refusal::new(StatusCode::NOT_FOUND, what).response()
        }
        _ => Refusal::busy("the pair does not say what became of it").response(),
    }
}
