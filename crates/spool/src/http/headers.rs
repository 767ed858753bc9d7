//! Which headers go on and which end here.

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Headers that differ from one attempt of a request to the next without meaning anything for its
/// effect. A front drops them: two attempts have to be equal bytes, or the second is taken for
/// another request under the same id.
pub const PER_ATTEMPT: [&str; 18] = [
    "b3",
    "baggage",
    "cf-ray",
    "date",
    "forwarded",
    "traceparent",
    "tracestate",
    "via",
    "x-amzn-trace-id",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
];

/// The name a client gives its request.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub(super) const ID: HeaderName = HeaderName::from_static("eversock-id");
pub(super) const OUTCOME: HeaderName = HeaderName::from_static("eversock-outcome");
pub(super) const LSN: HeaderName = HeaderName::from_static("eversock-lsn");
pub(super) const EPOCH: HeaderName = HeaderName::from_static("eversock-epoch");
pub(super) const FENCED: HeaderName = HeaderName::from_static("eversock-fenced");
pub(super) const SWITCH: HeaderName = HeaderName::from_static("eversock-switch");
pub(super) const PAIR: HeaderName = HeaderName::from_static("eversock-pair");
pub(super) const SERVER: HeaderName = HeaderName::from_static("eversock-server");

/// Takes out what concerns one connection only (RFC 9110, 7.6.1) with all that `Connection` names,
/// lengths, which are made anew, and names that are eversock's own.
pub(super) fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let own = headers.keys().filter(|name| name.as_str().starts_with("eversock-")).cloned();
    let single_hop = [
        CONNECTION,
        CONTENT_LENGTH,
        HeaderName::from_static("keep-alive"),
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        HeaderName::from_static("proxy-connection"),
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let gone: Vec<HeaderName> = own.chain(named).chain(single_hop).collect();
    for name in gone {
        headers.remove(name);
    }
}

/// What of a client's headers lies in a record.
pub(super) fn of_request(headers: &mut HeaderMap, keep_host: bool, dropped: &[HeaderName]) {
    end_to_end(headers);
    headers.remove(IDEMPOTENCY_KEY);
    // The front itself has said whether it wants the body.
    headers.remove(EXPECT);
    if !keep_host {
        headers.remove(HOST);
    }
    for name in dropped {
        headers.remove(name);
    }
}
