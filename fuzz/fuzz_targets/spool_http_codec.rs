//! HTTP requests and responses as they lie in a spool: whatever bytes are there, they are read as
//! what they are or refused, and what is read has one form only.
#![no_main]

use arbitrary::Arbitrary;
use eversock_spool::http::codec::{Bytes, HttpAnswer, HttpRequest};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Any(&'a [u8]),
    /// With the beginning that all have.
    Request(&'a [u8]),
    Answer(&'a [u8]),
    /// Built of its parts, and then changed at a byte.
    Built {
        method: &'a str,
        target: &'a str,
        names: Vec<(&'a str, &'a [u8])>,
        body: &'a [u8],
        at: u16,
        to: u8,
    },
}

fn read(bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let request = HttpRequest::decode(&bytes);
    if let Ok(request) = &request {
        assert!(request.target.as_str().starts_with('/'));
        assert_eq!(request.encode().expect("it was read"), bytes);
    }
    if let Ok(answer) = HttpAnswer::decode(&bytes) {
        assert!(request.is_err(), "both at once");
        assert_eq!(answer.encode().expect("it was read"), bytes);
    }
}

fn put(out: &mut Vec<u8>, wide: bool, text: &[u8]) {
    if wide {
        out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    } else {
        out.push(text.len() as u8);
    }
    out.extend_from_slice(text);
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Any(bytes) => read(bytes.to_vec()),
        Input::Request(bytes) => read([b"\x01Q", bytes].concat()),
        Input::Answer(bytes) => read([b"\x01A", bytes].concat()),
        Input::Built { method, target, mut names, body, at, to } => {
            names.sort();
            let mut out = b"\x01Q".to_vec();
            put(&mut out, false, method.as_bytes());
            put(&mut out, true, target.as_bytes());
            out.push(names.len() as u8);
            for (name, value) in names {
                put(&mut out, false, name.as_bytes());
                put(&mut out, true, value);
            }
            out.extend_from_slice(body);
            read(out.clone());
            let at = usize::from(at) % out.len();
            out[at] = to;
            read(out);
        }
    }
});
