//! Connections that the kernel kills (ss -K), both ends of them, under programs from the
//! distribution while their data flow. Of Python `python.rs` has the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::process::Command;

use common::servers::{COPIERS, Postgres, folder, nginx, redis, same, survives_kills};
use common::{ALL, free_port, have, killed_while_it_runs, out_dir};

#[test]
fn a_download_by_curl_from_nginx_survives_kills_by_the_kernel() {
    if !have("nginx") || !have("curl") || !have("ss") {
        return;
    }
    let (folder, file) = folder("killed", 64);
    let (_server, port) = nginx(&folder, 2, Some(ALL));
    let got = folder.join("got");
    let mut command = Command::new("curl");
    // Slow enough to be killed several times.
    command.args(["-sS", "--limit-rate", "48M", "-o"]).arg(&got);
    command.arg(format!("http://127.0.0.1:{port}/content"));
    survives_kills(&mut command, port, "curl");
    assert!(same(&got, &file), "the bytes differ");
}

#[test]
fn a_pipelined_client_of_redis_survives_kills_by_the_kernel() {
    if !have("redis-server") || !have("redis-cli") || !have("ss") {
        return;
    }
    const PIPED: usize = 1_000_000;
    let folder = out_dir().join("redis-killed");
    let (_server, port) = redis(&folder, Some(ALL));
    let commands = folder.join("commands");
    fs::write(&commands, "INCR piped\r\n".repeat(PIPED)).unwrap();
    let client = |arguments: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string()]).args(arguments);
        command
    };
    let mut pipe = client(&["--pipe"]);
    let said = survives_kills(pipe.stdin(fs::File::open(&commands).unwrap()), port, "redis-cli");
    assert!(said.contains(&format!("errors: 0, replies: {PIPED}")), "{said}");
    let mut get = client(&["get", "piped"]);
    let found = common::Program::start(common::preload(&mut get, ALL)).succeed("redis-cli");
    assert_eq!(found.trim(), PIPED.to_string(), "a command was lost, or came twice");
}

#[test]
fn psql_and_pgbench_survive_kills_by_the_kernel() {
    if !have("ss") {
        return;
    }
    let Some(cluster) = Postgres::new("killed") else { return };
    let port = free_port();
    let rules = format!("[[listen]]\nport = {port}\nmode = \"require\"\n");
    let _server = cluster.serve(port, Some(&rules));
    let out = cluster.folder.join("out");
    let rows = "select g, repeat(md5(g::text), 8) from generate_series(1, 400000) g";
    let statements = [
        "create table t (g int, m text)".to_owned(),
        format!("\\copy ({rows}) to '{}'", out.display()),
        format!("\\copy t from '{}'", out.display()),
        format!("select count(*) from (select * from t except {rows}) d"),
    ];
    let mut arguments = vec!["-1", "-At"];
    for statement in &statements {
        arguments.extend(["-c", statement]);
    }
    arguments.push("postgres");
    let mut psql = cluster.client("psql", port, &arguments);
    let said = survives_kills(&mut psql, port, "psql");
    assert_eq!(said, "CREATE TABLE\nCOPY 400000\nCOPY 400000\n0\n");

    let plain = |name: &str, arguments: &[&str]| {
        let mut command = cluster.client(name, port, arguments);
        common::Program::start(common::preload(&mut command, ALL)).succeed(name)
    };
    plain("pgbench", &["-i", "-s", "1", "-q", "postgres"]);
    // One client, so that none connects, or ends, while the kernel kills the others' connections.
    let load = ["-c", "1", "-t", "1500", "-n", "postgres"];
    let said = survives_kills(&mut cluster.client("pgbench", port, &load), port, "pgbench");
    assert!(said.contains("processed: 1500/1500"), "{said}");
    let count = "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) \
                 from pgbench_history";
    assert_eq!(plain("psql", &["-Atc", count, "postgres"]), "1500|t\n");
}

#[test]
fn files_sent_by_netcat_and_socat_survive_kills_by_the_kernel() {
    if !have("ss") {
        return;
    }
    for copier in COPIERS.iter().filter(|copier| have(copier.name)) {
        let (folder, file) = folder(&format!("{}-killed", copier.name), 128);
        let got = folder.join("got");
        let (mut server, port) = copier.serve(&got, Some(ALL));
        let mut client = copier.send(&file, port, Some(ALL));
        killed_while_it_runs(&mut client, port, copier.name);
        client.succeed(copier.name);
        server.succeed(copier.name);
        assert!(same(&got, &file), "{}: the bytes differ", copier.name);
    }
}
