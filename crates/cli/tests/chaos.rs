//! `evs chaos`: faults on demand, the log, the summary, and the ways to end it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use common::{PATIENCE, Place, Running};
use serde_json::Value;

fn proxy(place: &Place, more: &[&str]) -> (TcpListener, Running) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = upstream.local_addr().unwrap().to_string();
    let args = ["chaos", "--listen", "127.0.0.1:0", "--upstream", &addr, "--json"];
    (upstream, place.start(&[&args[..], more].concat()))
}

fn pair(upstream: &TcpListener, proxy: &Running) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(proxy.addr()).unwrap();
    let (server, _) = upstream.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (client, server)
}

fn summary((code, lines): (Option<i32>, Vec<String>)) -> Value {
    assert_eq!(code, Some(0), "{lines:?}");
    let summary: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(summary["elapsed_s"].is_f64(), "{summary}");
    summary
}

#[test]
fn a_script_cuts_at_its_byte_and_the_summary_counts_it() {
    let place = Place::new();
    let (upstream, mut proxy) = proxy(&place, &["-e", "after 1000 up reset"]);
    let (mut client, mut server) = pair(&upstream, &proxy);
    client.write_all(&[7; 5000]).unwrap();
    let mut got = Vec::new();
    let error = server.read_to_end(&mut got).unwrap_err();
    assert_eq!((got.len(), error.kind()), (1000, ErrorKind::ConnectionReset));
    let fault = proxy.json("fault");
    assert_eq!((&fault["fault"], &fault["up"]), (&"reset".into(), &1000.into()));
    proxy.close_input();
    let summary = summary(proxy.wait());
    assert_eq!((&summary["cuts"], &summary["cuts_flowing"]), (&1.into(), &1.into()));
}

#[test]
fn a_file_and_a_seed_make_a_plan_too() {
    let place = Place::new();
    let file = std::env::temp_dir().join(format!("evs-script-{}", std::process::id()));
    std::fs::write(&file, "# nothing but a delay\nalways delay 1ms\n").unwrap();
    let path = file.to_str().unwrap();
    let more = ["--script", path, "--seed", "3", "--cuts", "1", "--bytes", "64K"];
    let (upstream, mut proxy) = proxy(&place, &more);
    let (mut client, mut server) = pair(&upstream, &proxy);
    // It is cut somewhere in here; both sides then see an error or the end.
    drop(client.write_all(&[7; 256 << 10]));
    drop(server.read_to_end(&mut Vec::new()));
    proxy.json("fault");
    drop((client, server));
    proxy.close_input();
    let summary = summary(proxy.wait());
    assert_eq!((&summary["plan_steps"], &summary["cuts"]), (&2.into(), &1.into()));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn signals_and_the_duration_end_it_in_order() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::new();
        let (_upstream, mut proxy) = proxy(&place, &[]);
        proxy.json("listening");
        let kill = Command::new("kill").args([signal, &proxy.child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        summary(proxy.wait());
    }
    let place = Place::new();
    let (_upstream, mut proxy) = proxy(&place, &["--duration", "100ms"]);
    summary(proxy.wait());
}

#[test]
fn an_input_that_is_no_pipe_does_not_end_it() {
    let args = ["chaos", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let mut command = Place::new().command(&[&args[..], &["--duration", "300ms"]].concat());
    let began = std::time::Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && began.elapsed().as_millis() >= 300, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("listening on 127.0.0.1:"));
}

#[test]
fn wrong_arguments_are_named() {
    let place = Place::new();
    let run = |more: &[&str]| {
        let args = ["chaos", "--listen", "127.0.0.1:0", "--upstream"];
        place.run(&[&args[..], more].concat())
    };
    for (more, word) in [
        (&["nonsense"][..], "--upstream nonsense"),
        (&["127.0.0.1:1", "-e", "after lunch reset"], "after lunch"),
        (&["127.0.0.1:1", "--cuts", "3"], "--bytes"),
    ] {
        let done = run(more);
        assert_eq!(done.code, Some(2), "{done:?}");
        assert!(done.stderr.contains(word), "{done:?}");
    }
    let done = run(&["127.0.0.1:1", "--script", "/nowhere"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("/nowhere"), "{done:?}");
}
