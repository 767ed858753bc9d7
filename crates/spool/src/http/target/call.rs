//! One call: its lanes side by side, the items of each in order.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::response;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Flight, Shared};
use crate::http::codec::{HEADER_BYTES_MAX, HttpAnswer, HttpRequest};
use crate::http::headers::{EPOCH, FENCED, IDEMPOTENCY_KEY, REPLAYED, end_to_end};
use crate::http::verdict::{Verdict, judge};
use crate::limits::TEXT_MAX;
use crate::record::{Lane, Record};
use crate::target::{Call, CallFailed, CallResult, ItemResult};

/// What became of one item.
enum End {
    /// The server has spoken.
    Told(ItemResult),
    /// Never sent.
    NotSent,
    /// Never sent: there is no connection.
    Unreachable(String),
    /// The server has seen a higher epoch: no effect.
    Fenced(u64),
    /// The server says that it failed.
    Failed(String),
    /// The answer was lost.
    Lost(String),
    /// The answer did not come in time.
    TimedOut,
}

impl End {
    /// Whether items of its lane may follow.
    fn lets_on(&self) -> bool {
        matches!(self, Self::Told(ItemResult::Done { .. } | ItemResult::Refused { .. }))
    }

    fn in_doubt(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Lost(_) | Self::TimedOut)
    }
}

/// What the lanes of one call share.
struct Work {
    call: Call,
    flight: Flight,
    until: Instant,
    lanes: Mutex<VecDeque<Vec<usize>>>,
    /// The call has failed anyway: what is not yet sent would only be done twice.
    stop: AtomicBool,
}

pub(super) async fn run(shared: &Arc<Shared>, call: Call, flight: Flight) -> CallResult {
    let count = call.items.len();
    let (epoch, lanes) = (call.epoch, lanes_of(&call.items));
    let workers = lanes.len().min(shared.config.lanes_max);
    let until = Instant::now() + call.timeout;
    let stop = AtomicBool::new(false);
    let work = Arc::new(Work { call, flight, until, lanes: Mutex::new(lanes), stop });
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work_on_lanes(Arc::clone(shared), Arc::clone(&work)));
    }
    let mut ends: Vec<End> = (0..count).map(|_| End::NotSent).collect();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(done) => done.into_iter().for_each(|(index, end)| ends[index] = end),
            // A panic: what it has done is not known.
            Err(error) => return Err(CallFailed::Lost(error.to_string())),
        }
    }
    result_of(epoch, ends)
}

/// Which items stand in which lane, in the order of the call.
fn lanes_of(items: &[Record]) -> VecDeque<Vec<usize>> {
    let (mut places, mut lanes): (HashMap<Lane, usize>, VecDeque<Vec<usize>>) = Default::default();
    for (index, item) in items.iter().enumerate() {
        let place = *places.entry(item.lane()).or_insert(lanes.len());
        match lanes.get_mut(place) {
            Some(lane) => lane.push(index),
            None => lanes.push_back(vec![index]),
        }
    }
    lanes
}

/// A call has one failure or one result for each item. What was surely not done is told as `Later`
/// beside items that were, and as what hindered it if there are none.
fn result_of(epoch: u64, ends: Vec<End>) -> CallResult {
    let mut doubt = None;
    for end in &ends {
        match end {
            End::Lost(what) => doubt = Some(CallFailed::Lost(what.clone())),
            End::TimedOut if !matches!(doubt, Some(CallFailed::Lost(_))) => {
                doubt = Some(CallFailed::TimedOut);
            }
            End::Failed(what) if doubt.is_none() => doubt = Some(CallFailed::Failed(what.clone())),
            _ => {}
        }
    }
    if let Some(doubt) = doubt {
        return Err(doubt);
    }
    if !ends.iter().any(|end| matches!(end, End::Told(_))) {
        for end in &ends {
            match end {
                End::Fenced(seen) => {
                    return Err(CallFailed::Fenced { asked: epoch, seen: *seen });
                }
                End::Unreachable(what) => return Err(CallFailed::Unreachable(what.clone())),
                _ => {}
            }
        }
    }
    let later = || ItemResult::Later { after: Duration::ZERO };
    let result = |end| if let End::Told(result) = end { result } else { later() };
    Ok(ends.into_iter().map(result).collect())
}

async fn work_on_lanes(shared: Arc<Shared>, work: Arc<Work>) -> Vec<(usize, End)> {
    let mut ends = Vec::new();
    let next = || work.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some(lane) = next() {
        for index in lane {
            if work.stop.load(Ordering::Relaxed) {
                return ends;
            }
            let end = send(&shared, &work, index).await;
            let goes_on = end.lets_on();
            if end.in_doubt() {
                work.stop.store(true, Ordering::Relaxed);
            }
            ends.push((index, end));
            if !goes_on {
                break;
            }
        }
    }
    ends
}

/// Sends one item and waits for its answer, as long as the call has time.
async fn send(shared: &Arc<Shared>, work: &Arc<Work>, index: usize) -> End {
    let record = &work.call.items[index];
    let mut request = match request_of(shared, record, work.call.epoch) {
        Ok(request) => request,
        Err(text) => return End::Told(ItemResult::Refused { code: 400, text: clipped(&text) }),
    };
    let place = Arc::clone(&shared.places).acquire_owned();
    let Ok(Ok(place)) = timeout_at(work.until, place).await else { return End::NotSent };
    if shared.is_closed() {
        return End::Unreachable("its adapter was closed".to_owned());
    }
    let captured = capture_connection(&mut request);
    let bound = work.until.saturating_duration_since(Instant::now()) + shared.config.linger;
    let exchange = exchange(Arc::clone(shared), Arc::clone(work), index, request, place);
    let mut task = tokio::spawn(timeout(bound, exchange));
    match timeout_at(work.until, &mut task).await {
        Ok(done) => ended(done, &captured),
        // It has a connection: the server may be at it, so it is waited for behind the call's back.
        Err(_) if was_connected(&captured) => End::TimedOut,
        Err(_) => {
            task.abort();
            match task.await {
                Err(error) if error.is_cancelled() && !was_connected(&captured) => {
                    End::Unreachable("no connection in time".to_owned())
                }
                done => ended(done, &captured),
            }
        }
    }
}

type Exchanged = Result<Result<End, tokio::time::error::Elapsed>, tokio::task::JoinError>;

fn ended(done: Exchanged, captured: &CaptureConnection) -> End {
    match done {
        Ok(Ok(end)) => end,
        Ok(Err(_)) => End::TimedOut,
        Err(_) if was_connected(captured) => End::Lost("its task has ended".to_owned()),
        Err(_) => End::NotSent,
    }
}

fn was_connected(captured: &CaptureConnection) -> bool {
    captured.connection_metadata().is_some()
}

/// `Err`: it is none that can be sent, now or later.
fn request_of(
    shared: &Shared,
    record: &Record,
    epoch: u64,
) -> Result<Request<Full<Bytes>>, String> {
    let payload = Bytes::copy_from_slice(&record.payload);
    let http = HttpRequest::decode(&payload).map_err(|error| error.to_string())?;
    let mut request = Request::new(Full::new(http.body));
    *request.method_mut() = http.method;
    *request.uri_mut() = shared.base.uri(http.target.as_str())?;
    let mut headers = http.headers;
    for (name, value) in &shared.headers {
        headers.insert(name.clone(), value.clone());
    }
    let id = HeaderValue::try_from(record.id.to_string()).map_err(|error| error.to_string())?;
    headers.insert(IDEMPOTENCY_KEY, id);
    headers.insert(EPOCH, HeaderValue::from(epoch));
    *request.headers_mut() = headers;
    Ok(request)
}

/// Sends a request and reads its answer. Counts as under way until it ends.
async fn exchange(
    shared: Arc<Shared>,
    work: Arc<Work>,
    index: usize,
    request: Request<Full<Bytes>>,
    place: OwnedSemaphorePermit,
) -> End {
    // With the work goes its flight.
    let (_place, _flight) = (place, &work.flight);
    let head = request.method() == Method::HEAD;
    let mut closed = shared.closed.subscribe();
    let mut closed = pin!(closed.wait_for(|&closed| closed));
    let mut answer = pin!(answer_to(&shared, &work.call.items[index], request, head));
    poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Lost("its adapter was closed".to_owned()));
        }
        answer.as_mut().poll(cx)
    })
    .await
}

async fn answer_to(
    shared: &Shared,
    record: &Record,
    request: Request<Full<Bytes>>,
    head: bool,
) -> End {
    let response = match shared.client.request(request).await {
        Ok(response) => response,
        Err(error) if error.is_connect() || never_sent(&error) => {
            return End::Unreachable(clipped(&chain(&error)));
        }
        Err(error) => return End::Lost(clipped(&chain(&error))),
    };
    let (parts, body) = response.into_parts();
    if let Some(fenced) = number(&parts.headers, FENCED.as_str()) {
        return End::Fenced(fenced);
    }
    let body = match read(shared, body).await {
        Ok(body) => body,
        Err(what) => return End::Lost(clipped(&what)),
    };
    let drained = record.lsn > 0;
    match judge(record.kind, drained, parts.status) {
        Verdict::Done => done(parts, body, head),
        Verdict::Refused => {
            let code = parts.status.as_u16().into();
            let text = String::from_utf8_lossy(body.as_deref().unwrap_or_default());
            let text = clipped(&format!("HTTP {}: {}", parts.status, text.trim()));
            End::Told(ItemResult::Refused { code, text })
        }
        Verdict::Later => {
            // Only seconds: a date would need the same clock on both sides.
            let after = number(&parts.headers, RETRY_AFTER.as_str()).unwrap_or(0);
            End::Told(ItemResult::Later { after: Duration::from_secs(after) })
        }
        Verdict::Doubt => {
            let said = clipped(&format!("the service said {}", parts.status));
            // A gateway says so while the service behind it may still be at work.
            match parts.status.as_u16() {
                502 | 504 => End::Lost(said),
                _ => End::Failed(said),
            }
        }
    }
}

/// `None`: longer than an answer may be.
async fn read(shared: &Shared, body: Incoming) -> Result<Option<Bytes>, String> {
    match Limited::new(body, shared.config.answer_max).collect().await {
        Ok(whole) => Ok(Some(whole.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok(None),
        Err(error) => Err(format!("the answer broke off: {}", chain(&*error))),
    }
}

/// The response as an answer.
fn done(mut parts: response::Parts, body: Option<Bytes>, head: bool) -> End {
    let again = parts.headers.get(REPLAYED).is_some_and(|value| value == "true");
    // What a GET would have been long: there is no body to count.
    let bodiless = head || parts.status == StatusCode::NOT_MODIFIED;
    let length = parts.headers.remove(CONTENT_LENGTH).filter(|_| bodiless);
    end_to_end(&mut parts.headers);
    if let Some(length) = length {
        parts.headers.insert(CONTENT_LENGTH, length);
    }
    let status = parts.status;
    let answer = match body {
        Some(body) => HttpAnswer { status, headers: parts.headers, body }.encode().ok(),
        None => None,
    };
    let answer = answer.unwrap_or_else(|| too_long(status));
    End::Told(ItemResult::Done { answer, again })
}

/// In the place of an answer that does not fit one: what was asked for has been done.
fn too_long(status: StatusCode) -> Vec<u8> {
    let text = format!(
        "the service did what was asked and said {status}, but its response is too long to be \
         passed on (headers of {HEADER_BYTES_MAX} bytes, or the front's answer_max): ask it \
         for less\n"
    );
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let status = StatusCode::BAD_GATEWAY;
    let answer = HttpAnswer { status, headers, body: Bytes::from(text) };
    answer.encode().unwrap_or_default()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Whether hyper has not begun to write the request.
fn never_sent(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
