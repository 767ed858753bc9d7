//! The form of requests and answers: nothing is lost, nothing else is read, nothing panics.

use eversock_spool::http::codec::{
    BODY_MAX, CodecError, HEADERS_MAX, HttpAnswer, HttpRequest, TARGET_MAX,
};
use eversock_spool::limits::PAYLOAD_MAX;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

fn headers() -> impl Strategy<Value = HeaderMap> {
    let value = vec(prop_oneof![Just(b'\t'), 0x20..0x7f_u8, 0x80..=0xff_u8], 0..40);
    vec(("[a-z][a-z0-9-]{0,20}", value), 0..12).prop_map(|list| {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(&value).unwrap());
        }
        headers
    })
}

fn request() -> impl Strategy<Value = HttpRequest> {
    let target = "/[a-zA-Z0-9/._~%:@!$&'()*+,;=-]{0,60}(\\?[a-z0-9=&%/?]{0,40})?";
    ("[A-Z]{1,12}", target, headers(), vec(any::<u8>(), 0..300)).prop_map(
        |(method, target, headers, body)| HttpRequest {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            target: target.parse().unwrap(),
            headers,
            body: body.into(),
        },
    )
}

fn simple() -> HttpRequest {
    let (method, target) = (Method::PUT, "/a".parse().unwrap());
    HttpRequest { method, target, headers: HeaderMap::new(), body: Bytes::new() }
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was(request in request()) {
        let bytes = Bytes::from(request.encode().unwrap());
        prop_assert_eq!(HttpRequest::decode(&bytes).unwrap(), request);
        prop_assert!(HttpAnswer::decode(&bytes).is_err());
    }

    #[test]
    fn an_answer_comes_back_as_it_was(
        status in 100..1000_u16, headers in headers(), body in vec(any::<u8>(), 0..300)
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = HttpAnswer { status, headers, body: body.into() };
        let bytes = Bytes::from(answer.encode().unwrap());
        prop_assert_eq!(HttpAnswer::decode(&bytes).unwrap(), answer);
        prop_assert!(HttpRequest::decode(&bytes).is_err());
    }

    /// Whatever is read is written the same again: there is one form.
    #[test]
    fn damaged_bytes_are_refused_or_read_as_what_they_are(
        request in request(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<bool>()
    ) {
        let mut bytes = request.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(read) = HttpRequest::decode(&Bytes::from(bytes.clone())) {
            prop_assert_eq!(read.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read_as_what_they_are(
        what in prop_oneof![Just(b'Q'), Just(b'A')], bytes in vec(any::<u8>(), 0..200)
    ) {
        let bytes: Vec<u8> = [1, what].into_iter().chain(bytes).collect();
        if let Ok(read) = HttpRequest::decode(&Bytes::from(bytes.clone())) {
            prop_assert_eq!(read.encode().unwrap(), bytes.clone());
        }
        if let Ok(read) = HttpAnswer::decode(&Bytes::from(bytes.clone())) {
            prop_assert_eq!(read.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn the_order_in_which_headers_came_makes_no_difference() {
    let with = |names: [&'static str; 3]| {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        HttpRequest { headers, ..simple() }.encode().unwrap()
    };
    assert_eq!(with(["accept", "x-a", "cookie"]), with(["x-a", "cookie", "accept"]));
}

#[test]
fn what_is_too_long_is_refused_and_named() {
    let too_long = |request: HttpRequest, text: &str| {
        let error = request.encode().unwrap_err();
        assert!(matches!(error, CodecError::TooLong { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    let target = format!("/{}", "a".repeat(TARGET_MAX)).parse().unwrap();
    too_long(HttpRequest { target, ..simple() }, "path");
    too_long(HttpRequest { body: vec![0; BODY_MAX + 1].into(), ..simple() }, "body");
    let mut headers = HeaderMap::new();
    (0..=HEADERS_MAX).for_each(|_| {
        headers.append("x-a", HeaderValue::from_static("b"));
    });
    too_long(HttpRequest { headers, ..simple() }, "list of headers");
    let mut headers = HeaderMap::new();
    (0..2).for_each(|_| {
        headers.append("x-a", HeaderValue::try_from("b".repeat(40_000)).unwrap());
    });
    too_long(HttpRequest { headers, ..simple() }, "text of the headers");
    let method = Method::from_bytes(&[b'A'; 33]).unwrap();
    too_long(HttpRequest { method, ..simple() }, "method");
}

#[test]
fn the_longest_of_everything_fits_a_payload() {
    let mut headers = HeaderMap::new();
    for _ in 0..HEADERS_MAX {
        headers.append("x-a", HeaderValue::try_from("b".repeat(512 - 3)).unwrap());
    }
    let method = Method::from_bytes(&[b'A'; 32]).unwrap();
    let target = format!("/{}", "a".repeat(TARGET_MAX - 1)).parse().unwrap();
    let request = HttpRequest { method, target, headers, body: vec![7; BODY_MAX].into() };
    let bytes = request.encode().unwrap();
    assert!(bytes.len() <= PAYLOAD_MAX);
    assert_eq!(HttpRequest::decode(&Bytes::from(bytes)).unwrap(), request);
}

#[test]
fn the_form_stays_what_it_is() {
    let mut headers = HeaderMap::new();
    headers.append("b", HeaderValue::from_static("2"));
    headers.append("a", HeaderValue::from_static("1"));
    let request = HttpRequest { headers, body: "xy".into(), ..simple() };
    let bytes = b"\x01Q\x03PUT\x00\x02/a\x02\x01a\x00\x011\x01b\x00\x012xy";
    assert_eq!(request.encode().unwrap(), bytes);
    let headers = HeaderMap::new();
    let answer = HttpAnswer { status: StatusCode::NOT_FOUND, headers, body: "z".into() };
    assert_eq!(answer.encode().unwrap(), b"\x01A\x01\x94\x00z");
}
