//! Programs from the distribution on both ends, as they are, through cuts, byte for byte.
//!
//! `.ci/run` installs nginx-light, curl, wget, socat and netcat-openbsd; elsewhere what is missing
//! is left out, loudly.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{ALL, NONE, Program, cutting, free_port, have, out_dir, preload, random_file};
use common::{cuts, wait_listening};
use eversock_chaos::Proxy;

const MIB: u64 = 1024 * 1024;

/// A folder of its own for one test, and a file of random bytes in it.
fn folder(name: &str, mib: usize) -> (PathBuf, PathBuf) {
    let folder = out_dir().join(name);
    let _old = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("content");
    random_file(&file, mib);
    (folder, file)
}

fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

/// Waits until something listens there; what it accepts is nothing that it must answer.
fn wait_for(port: u16, server: &mut Program) {
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
        assert!(server.is_running() && Instant::now() < until, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn nginx(folder: &Path, workers: usize, rules: Option<&str>) -> (Program, u16) {
    let port = free_port();
    let root = folder.display();
    let config = format!(
        "daemon off; worker_processes {workers}; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; client_max_body_size 0;\n\
         client_body_temp_path {root}/body; proxy_temp_path {root}/t1;\n\
         fastcgi_temp_path {root}/t2; uwsgi_temp_path {root}/t3; scgi_temp_path {root}/t4;\n\
         server {{ listen 127.0.0.1:{port}; root {root};\n\
         location /up/ {{ proxy_pass http://127.0.0.1:{port}/sink/; }}\n\
         location /sink/ {{ return 200 taken; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(folder).arg("-e").arg(folder.join("error.log"));
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()));
    // As root its workers would be nobody, who may not read the folder.
    let user = format!("user {};", user());
    fs::write(&file, format!("{user}\n{}", fs::read_to_string(&file).unwrap())).unwrap();
    let mut server = match rules {
        Some(rules) => Program::start(preload(&mut command, rules)),
        None => Program::start(&mut command),
    };
    wait_for(port, &mut server);
    (server, port)
}

fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

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
fn netcat_and_socat_pass_a_file_through_cuts() {
    for (server, client) in [
        (&["nc", "-l", "-N", "127.0.0.1"][..], &["nc", "-N", "127.0.0.1"][..]),
        (&["socat", "-u", "TCP-LISTEN:", "STDOUT"], &["socat", "-u", "STDIN", "TCP:127.0.0.1:"]),
    ] {
        if !have(server[0]) {
            continue;
        }
        let (folder, file) = folder(server[0], 16);
        let got = folder.join("got");
        let port = free_port();
        let with_port = |words: &[&str], port: u16| {
            let mut command = Command::new(words[0]);
            let mut placed = false;
            for word in &words[1..] {
                let joined = word.ends_with(':');
                placed |= joined;
                command.arg(if joined { format!("{word}{port}") } else { (*word).to_owned() });
            }
            if !placed {
                command.arg(port.to_string());
            }
            command
        };
        // Its output is the pipe that the test reads, so a shell puts it into a file.
        let mut shell = Command::new("sh");
        let line = format!("exec \"$@\" > {}", got.display());
        let listening = with_port(server, port);
        shell.args(["-c", &line, "sh"]).arg(listening.get_program()).args(listening.get_args());
        let mut listening = Program::start(preload(&mut shell, ALL));
        wait_listening(port, &mut listening);
        let proxy = cutting(port, 2 * MIB);
        let hit = cuts(&proxy, || {
            let mut command = with_port(client, proxy.local_addr().port());
            command.stdin(Stdio::from(fs::File::open(&file).unwrap()));
            Program::start(preload(&mut command, ALL)).succeed(client[0]);
            listening.succeed(server[0]);
        });
        assert!(same(&got, &file), "{}: the bytes differ", server[0]);
        assert!(hit >= 5, "{}: only {hit} cuts", server[0]);
    }
}

/// Runs a program to its end: its status, what it printed and what it complained of.
fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let (status, out, errors) = Program::start(command).end();
    (status.code(), out, errors)
}

#[test]
fn programs_under_rules_that_match_nothing_print_and_end_as_without_the_library() {
    if !have("nginx") || !have("curl") || !have("wget") || !have("socat") {
        return;
    }
    let (folder, file) = folder("nothing", 2);
    let plain = nginx(&folder, 2, None).1;
    let url = |name: &str| format!("http://127.0.0.1:{plain}/{name}");
    let refused = format!("http://127.0.0.1:{}/", free_port());
    let (_idle, preloaded) = nginx(&folder, 2, Some(NONE));
    let from_preloaded = format!("http://127.0.0.1:{preloaded}/content");
    let runs: [&[&str]; 6] = [
        &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url("content")],
        &["curl", "-sS", "-f", &url("absent")],
        &["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", &from_preloaded],
        &["wget", "-q", "-O", "/dev/null", &url("absent")],
        &["curl", "-s", "-o", "/dev/null", &refused],
        &["socat", "-u", "OPEN:/etc/hostname", "TCP:127.0.0.1:1"],
    ];
    for words in runs {
        let run = |rules: Option<&str>| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            match rules {
                Some(rules) => outcome(preload(&mut command, rules)),
                None => outcome(&mut command),
            }
        };
        let (without, with) = (run(None), run(Some(NONE)));
        assert_eq!((without.0, &without.1), (with.0, &with.1), "{words:?}: {}", with.2);
        // socat names its process and the time.
        assert!(words[0] == "socat" || without.2 == with.2, "{words:?}: {}", with.2);
    }
    assert!(same(&folder.join("content"), &file));
}
