//! Programs from the distribution on both ends, as they are, through cuts, byte for byte.
//!
//! `.ci/run` installs nginx-light, curl, wget, socat and netcat-openbsd; elsewhere what is missing
//! is left out, loudly.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::process::Command;

use common::servers::{COPIERS, folder, nginx, same, start};
use common::{ALL, NONE, Program, cuts, cutting, have, preload};
use eversock_chaos::Proxy;

const MIB: u64 = 1024 * 1024;

fn url(proxy: &Proxy, path: &str) -> String {
    format!("http://{}/{path}", proxy.local_addr())
}

#[test]
fn curl_gets_a_file_from_nginx_through_cuts() {
    if !have("nginx") || !have("curl") {
        return;
    }
    let (folder, file) = folder("download", 200);
    let (_server, port) = nginx(&folder, 2, Some(ALL));
    let proxy = cutting(port, 16 * MIB);
    let got = folder.join("got");
    let hit = cuts(&proxy, || {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o"]).arg(&got).arg(url(&proxy, "content"));
        Program::start(preload(&mut command, ALL)).succeed("curl");
    });
    assert!(same(&got, &file), "the bytes differ");
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn without_eversock_curl_fails_at_the_first_cut() {
    if !have("nginx") || !have("curl") {
        return;
    }
    let (folder, _) = folder("control", 64);
    let (_server, port) = nginx(&folder, 1, None);
    let proxy = cutting(port, 8 * MIB);
    cuts(&proxy, || {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null"]).arg(url(&proxy, "content"));
        assert!(!Program::start(&mut command).end().0.success(), "the cut did nothing");
    });
}

#[test]
fn wget_and_curl_reuse_connections_to_nginx_through_cuts() {
    if !have("nginx") || !have("curl") || !have("wget") {
        return;
    }
    let (folder, file) = folder("keepalive", 8);
    let (_server, port) = nginx(&folder, 2, Some(ALL));
    let proxy = cutting(port, 2 * MIB);
    let hit = cuts(&proxy, || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--write-out", "%{num_connects} "]);
        for at in 0..3 {
            curl.arg("-o").arg(folder.join(format!("c{at}"))).arg(url(&proxy, "content"));
        }
        let connects = Program::start(preload(&mut curl, ALL)).succeed("curl");
        assert_eq!(connects, "1 0 0 ");
        let mut wget = Command::new("wget");
        wget.args(["-q", "-O"]).arg(folder.join("w")).arg(url(&proxy, "content"));
        Program::start(preload(&mut wget, ALL)).succeed("wget");
    });
    for name in ["c0", "c1", "c2", "w"] {
        assert!(same(&folder.join(name), &file), "{name}: the bytes differ");
    }
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn curl_puts_a_file_through_nginx_to_another_server_through_cuts() {
    if !have("nginx") || !have("curl") {
        return;
    }
    // nginx is a client too here: it registers its sockets before it connects them.
    let (folder, file) = folder("upload", 32);
    let (_server, port) = nginx(&folder, 1, Some(ALL));
    let proxy = cutting(port, 4 * MIB);
    let hit = cuts(&proxy, || {
        let mut command = Command::new("curl");
        command.args(["-sS", "-T"]).arg(&file).arg(url(&proxy, "up/x"));
        let mut curl = Program::start(preload(&mut command, ALL));
        assert_eq!(curl.succeed("curl"), "taken");
    });
    assert!(hit >= 5, "only {hit} cuts");
}

#[test]
fn curl_puts_200_mb_into_a_folder_of_nginx_through_cuts_and_without_eversock_it_fails() {
    if !have("nginx") || !have("curl") {
        return;
    }
    for (rules, mib) in [(Some(ALL), 200), (None, 32)] {
        let (folder, file) = folder("put", mib);
        let (_server, port) = nginx(&folder, 1, rules);
        let proxy = cutting(port, 16 * MIB);
        let hit = cuts(&proxy, || {
            let mut command = Command::new("curl");
            command.args(["-sS", "-f", "-T"]).arg(&file).arg(url(&proxy, "put/got"));
            let (status, _, errors) = start(&mut command, rules).end();
            assert_eq!(status.success(), rules.is_some(), "{errors}");
        });
        let got = folder.join("put/got");
        if rules.is_some() {
            assert!(same(&got, &file), "the bytes differ");
            assert!(hit >= 10, "only {hit} cuts");
        } else {
            assert!(hit >= 1 && !got.exists(), "the cut did nothing");
        }
    }
}

#[test]
fn without_eversock_wget_fails_at_the_first_cut() {
    if !have("nginx") || !have("wget") {
        return;
    }
    let (folder, _) = folder("wget-control", 32);
    let (_server, port) = nginx(&folder, 1, None);
    let proxy = cutting(port, 4 * MIB);
    let hit = cuts(&proxy, || {
        let mut command = Command::new("wget");
        // Left to itself it would ask for the rest: it knows HTTP, which a session need not.
        command.args(["-q", "--tries=1", "-O", "/dev/null"]).arg(url(&proxy, "content"));
        assert!(!Program::start(&mut command).end().0.success(), "the cut did nothing");
    });
    assert!(hit >= 1, "nothing was cut");
}

#[test]
fn a_listener_in_auto_mode_serves_plain_curl_as_before() {
    if !have("nginx") || !have("curl") {
        return;
    }
    let (folder, file) = folder("auto", 8);
    let (_server, port) = nginx(&folder, 2, Some("[[listen]]\nmode = \"auto\"\n"));
    let get = |name: &str, rules: &str| {
        let mut command = Command::new("curl");
        let url = format!("http://127.0.0.1:{port}/content");
        command.args(["-sS", "-o"]).arg(folder.join(name)).arg(url);
        Program::start(preload(&mut command, rules)).succeed("curl");
        assert!(same(&folder.join(name), &file), "{name}: the bytes differ");
    };
    get("plain", NONE);
    get("resilient", ALL);
    get("auto", "[[connect]]\n");
}

#[test]
fn curl_in_auto_mode_gets_a_file_from_a_plain_nginx() {
    if !have("nginx") || !have("curl") {
        return;
    }
    let (folder, file) = folder("plain", 8);
    let (_server, port) = nginx(&folder, 1, None);
    let mut command = Command::new("curl");
    let url = format!("http://127.0.0.1:{port}/content");
    command.args(["-sS", "-o"]).arg(folder.join("got")).arg(url);
    Program::start(preload(&mut command, "[[connect]]\n")).succeed("curl");
    assert!(same(&folder.join("got"), &file), "the bytes differ");
}

#[test]
fn netcat_and_socat_pass_a_file_through_cuts_and_without_eversock_they_do_not() {
    for copier in COPIERS.iter().filter(|copier| have(copier.name)) {
        let name = copier.name;
        for rules in [Some(ALL), None] {
            let (folder, file) = folder(name, 16);
            let got = folder.join("got");
            let (mut server, port) = copier.serve(&got, rules);
            let proxy = cutting(port, 2 * MIB);
            let hit = cuts(&proxy, || {
                let mut client = copier.send(&file, proxy.local_addr().port(), rules);
                if rules.is_some() {
                    client.succeed(name);
                    server.succeed(name);
                } else {
                    client.end();
                    server.end();
                }
            });
            assert_eq!(same(&got, &file), rules.is_some(), "{name} with {rules:?}");
            assert!(hit >= if rules.is_some() { 5 } else { 1 }, "{name}: only {hit} cuts");
        }
    }
}
