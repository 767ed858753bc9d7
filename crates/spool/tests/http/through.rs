//! From an ordinary client through front and adapter to a service and back.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eversock_spool::http::HttpFront;
use eversock_spool::record::Record;
use eversock_spool::submit::Submit;
use eversock_spool::target::{Call, CallFailed, ItemResult, Reply, Target};
use eversock_spool::{Outcome, Reason, Request, RequestId};

use crate::PATIENCE;
use crate::front::{config, start};
use crate::hooks::Folder;
use crate::service::{Service, ok, said};
use crate::target::Bench;

/// A pair that is only its main server.
#[derive(Debug)]
struct Direct(Arc<dyn Target>);

impl Submit for Direct {
    fn submit(&self, _: &str, request: Request, reply: Reply<Outcome>) {
        let items = vec![Record::new(request, 1, 0)].into();
        let call = Call { epoch: 1, items, job: None, timeout: PATIENCE };
        let outcome = |result| match result {
            Ok(ItemResult::Done { answer, .. }) => Outcome::Applied { answer },
            Ok(ItemResult::Refused { code, text }) => {
                let reason = Reason::Refused { code, text };
                Outcome::Rejected { reason, retry_after: Duration::ZERO }
            }
            Ok(ItemResult::Later { after }) => {
                Outcome::Rejected { reason: Reason::Unavailable, retry_after: after }
            }
            Err(CallFailed::Lost(_) | CallFailed::TimedOut) => Outcome::InDoubt,
            Err(_) => {
                let retry_after = Duration::ZERO;
                Outcome::Rejected { reason: Reason::Unavailable, retry_after }
            }
        };
        let reply = move |result: Result<Vec<ItemResult>, _>| {
            reply(outcome(result.map(|mut items| items.remove(0))));
        };
        self.0.call(call, Box::new(reply));
    }

    fn fetch(&self, _: &str, _: RequestId, reply: Reply<Option<Outcome>>) {
        reply(None);
    }
}

fn through(service: &Service) -> (Bench, HttpFront) {
    let bench = Bench::granted(&service.base());
    let front = start(Arc::new(Direct(bench.target.clone())));
    (bench, front)
}

/// What curl prints; `None` if it is missing, which in CI it must not be.
fn curl(arguments: &[&str]) -> Option<String> {
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
        .args(arguments)
        .output();
    let Ok(output) = run else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "curl is missing, and this is CI");
        eprintln!("curl is missing: NOT tested");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn curl_sees_the_service_behind_the_front() {
    let service = Service::start(|asked, stream| {
        let response = match asked.method.as_str() {
            "HEAD" => "HTTP/1.1 200 OK\r\ncontent-length: 4711\r\nx-a: 1\r\n\r\n".to_owned(),
            "DELETE" => said("404 Not Found", "x-own: 1\r\n", "no such thing\n"),
            "GET" => ok(&format!("got {}", asked.target)),
            _ => ok(&format!("{} of {} bytes", asked.method, asked.body.len())),
        };
        stream.write_all(response.as_bytes()).is_ok()
    });
    let (_bench, front) = through(&service);
    let url = format!("http://{}/a/b%20c?d=e", front.local_addr());
    let Some(text) = curl(&[&url]) else { return };
    assert_eq!(text, "got /a/b%20c?d=e");
    assert_eq!(curl(&["-X", "PUT", "--data", "hello", &url]).unwrap(), "PUT of 5 bytes");
    // Above 1 MiB curl asks first (Expect: 100-continue).
    let folder = Folder::new();
    let file = folder.0.join("body");
    std::fs::write(&file, vec![b'x'; 3 << 20]).unwrap();
    let upload = curl(&["--upload-file", file.to_str().unwrap(), &url]);
    assert_eq!(upload.unwrap(), "PUT of 3145728 bytes");
    let refused = curl(&["-i", "-X", "DELETE", &url]).unwrap();
    assert!(refused.starts_with("HTTP/1.1 404 Not Found\r\n"), "{refused}");
    assert!(refused.contains("x-own: 1\r\n") && refused.ends_with("no such thing\n"), "{refused}");
    let head = curl(&["-I", &url]).unwrap();
    assert!(head.contains("content-length: 4711\r\n") && head.contains("x-a: 1\r\n"), "{head}");
    let both = curl(&[&url, &url, "-w", "%{num_connects}"]).unwrap();
    assert_eq!(both.matches("got /a").count(), 2);
    assert!(both.ends_with('0'), "the second used the connection of the first: {both}");
}

#[test]
fn what_the_service_does_not_answer_is_told_as_it_is() {
    let service = Service::start(|asked, stream| match asked.target.as_str() {
        "/dies" => false,
        "/busy" => {
            let response = said("503 Busy", "retry-after: 9\r\n", "");
            stream.write_all(response.as_bytes()).is_ok()
        }
        _ => stream.write_all(ok("x").as_bytes()).is_ok(),
    });
    let (_bench, front) = through(&service);
    let mut client = crate::client::Client::connect(front.local_addr());
    let mut put = |path: &str| {
        client.ask(&format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"))
    };
    let dies = put("/dies");
    assert_eq!((dies.status, dies.header("eversock-outcome")), (504, Some("in-doubt")));
    let busy = put("/busy");
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("9")));
    assert_eq!(put("/fine").status, 200);
}

#[test]
fn a_chunked_answer_of_any_length_comes_whole() {
    let service = Service::start(|_, stream| {
        let mut response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..64 {
            response.extend_from_slice(b"10000\r\n");
            response.extend_from_slice(&[b'z'; 0x10000]);
            response.extend_from_slice(b"\r\n");
        }
        response.extend_from_slice(b"0\r\n\r\n");
        stream.write_all(&response).is_ok()
    });
    let (_bench, front) = through(&service);
    let mut client = crate::client::Client::connect(front.local_addr());
    let response = client.ask("GET /a HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(response.body.len(), 4 << 20);
    assert!(response.body.iter().all(|&byte| byte == b'z'));
}

#[test]
fn many_clients_at_once_each_get_their_own() {
    let service = Service::start(|asked, stream| {
        stream.write_all(ok(&String::from_utf8_lossy(&asked.body)).as_bytes()).is_ok()
    });
    let (_bench, front) = through(&service);
    assert_eq!(config().threads, 2);
    std::thread::scope(|scope| {
        for name in 0..16 {
            let address = front.local_addr();
            scope.spawn(move || {
                let mut client = crate::client::Client::connect(address);
                for turn in 0..50 {
                    let body = format!("{name}-{turn}");
                    let length = body.len();
                    let response = client.ask(&format!(
                        "POST /{name} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"
                    ));
                    assert_eq!(response.body, body.as_bytes());
                }
            });
        }
    });
    assert_eq!(service.count(), 800);
}
