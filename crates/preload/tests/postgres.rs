//! PostgreSQL and its clients from the distribution, through cuts.
//!
//! `.ci/run` installs postgresql; elsewhere what is missing is left out, loudly.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::fs;
use std::process::Command;

use common::servers::Postgres;
use common::{ALL, Program, cuts, cutting, evs, free_port, preload};

const MIB: u64 = 1024 * 1024;

/// Half a million rows.
const ROWS: &str = "select g, md5(g::text) from generate_series(1, 500000) g";

/// A rule for the server alone, which has other listeners and connections too.
fn rule(port: u16) -> String {
    format!("[[listen]]\nport = {port}\nmode = \"require\"\n")
}

/// One session with one transaction: half a million rows out and in again by COPY, and how many of
/// those that came back are others.
fn a_transaction(cluster: &Postgres, table: &str) -> [String; 4] {
    let file = cluster.folder.join(table);
    [
        format!("create table {table} (g int, m text)"),
        format!("\\copy ({ROWS}) to '{}'", file.display()),
        format!("\\copy {table} from '{}'", file.display()),
        format!("select count(*) from (select * from {table} except {ROWS}) d"),
    ]
}

/// What psql says to it, and to how many rows it finds afterwards in another session.
const SAID: &str = "CREATE TABLE\nCOPY 500000\nCOPY 500000\n0\n";

fn psql(statements: &[String]) -> Vec<&str> {
    let mut arguments = vec!["-1", "-At"];
    for statement in statements {
        arguments.extend(["-c", statement]);
    }
    arguments.push("postgres");
    arguments
}

#[test]
fn postgresql_keeps_sessions_and_transactions_through_cuts() {
    let Some(cluster) = Postgres::new("cut") else { return };
    let port = free_port();
    let _server = cluster.serve(port, Some(&rule(port)));
    let proxy = cutting(port, 2 * MIB);
    let client = |name: &str, arguments: &[&str]| {
        let mut command = cluster.client(name, proxy.local_addr().port(), arguments);
        Program::start(preload(&mut command, ALL)).succeed(name)
    };
    let hit = cuts(&proxy, || {
        client("pgbench", &["-i", "-s", "1", "-q", "postgres"]);
        client("pgbench", &["-c", "4", "-j", "2", "-t", "250", "postgres"]);
        let balance = "select sum(abalance) = (select sum(tbalance) from pgbench_tellers) \
                       from pgbench_accounts";
        assert_eq!(client("psql", &["-Atc", balance, "postgres"]), "t\n");
        let count = "select count(*) from pgbench_history";
        assert_eq!(client("psql", &["-Atc", count, "postgres"]), "1000\n");
        assert_eq!(client("psql", &psql(&a_transaction(&cluster, "t"))), SAID);
        let same = format!("select count(*) from (select * from t intersect {ROWS}) d");
        assert_eq!(client("psql", &["-Atc", &same, "postgres"]), "500000\n");
        // 200 MB in one COPY.
        let big = cluster.folder.join("big");
        let wide = "select g, repeat(md5(g::text), 32) from generate_series(1, 200000) g";
        let copy = format!("\\copy ({wide}) to '{}'", big.display());
        assert_eq!(client("psql", &["-Atc", &copy, "postgres"]), "COPY 200000\n");
        assert!(fs::metadata(&big).unwrap().len() > 200_000_000);
        let sum = format!("select sum(length(m)), bit_xor(hashtext(m)) from ({wide}) t(g, m)");
        let expected = client("psql", &["-Atc", &sum, "postgres"]);
        let back = format!("\\copy big from '{}'", big.display());
        let sum = "select sum(length(m)), bit_xor(hashtext(m)) from big";
        let table = "create unlogged table big (g int, m text)";
        let found = client("psql", &["-qAt", "-c", table, "-c", &back, "-c", sum, "postgres"]);
        assert!(found.ends_with(&expected), "{found} {expected}");
    });
    assert!(hit >= 10, "only {hit} cuts");
}

#[test]
fn without_eversock_psql_and_pgbench_lose_their_sessions_at_the_first_cut() {
    let Some(cluster) = Postgres::new("control") else { return };
    let port = free_port();
    let _server = cluster.serve(port, None);
    let proxy = cutting(port, MIB / 4);
    let run = |name: &str, port: u16, arguments: &[&str]| {
        Program::start(&mut cluster.client(name, port, arguments)).end().0
    };
    // What it asks of is made without cuts.
    assert!(run("pgbench", port, &["-i", "-s", "1", "-q", "postgres"]).success());
    let to = proxy.local_addr().port();
    let hit = cuts(&proxy, || {
        let copy = format!("\\copy ({ROWS}) to '/dev/null'");
        assert!(!run("psql", to, &["-Atc", &copy, "postgres"]).success(), "the cut did nothing");
    });
    assert!(hit >= 1, "nothing was cut");
    let hit = cuts(&proxy, || {
        let load = ["-c", "2", "-j", "2", "-t", "5000", "-S", "-n", "postgres"];
        assert!(!run("pgbench", to, &load).success(), "the cut did nothing");
    });
    assert!(hit >= 1, "nothing was cut");
}

/// `evs gateway` with these arguments, and the port at which it takes connections.
fn gateway(arguments: &[&str]) -> (Program, u16) {
    let mut command = Command::new(evs());
    let mut gateway = Program::start(command.args(["gateway", "--json"]).args(arguments));
    let line = gateway.line();
    let addr = line.split("\"addr\":\"127.0.0.1:").nth(1);
    let port = addr.and_then(|rest| rest.split('"').next());
    let port = port.and_then(|port| port.parse().ok());
    (gateway, port.unwrap_or_else(|| panic!("no address: {line:?}")))
}

// README: how to keep a psql session alive. The server knows nothing of it.
#[test]
fn psql_keeps_a_transaction_by_way_of_gateways_to_a_plain_postgresql_through_cuts() {
    let Some(cluster) = Postgres::new("gateway") else { return };
    let port = free_port();
    let _server = cluster.serve(port, None);
    let to = format!("127.0.0.1:{port}");
    let (_far, far) = gateway(&["--resilient-listen", "127.0.0.1:0", "--plain-to", &to]);
    let proxy = cutting(far, 2 * MIB);
    let to = proxy.local_addr();
    let (_near, near) = gateway(&["--plain", "127.0.0.1:0", "--resilient", &to.to_string()]);
    // By two gateways, both programs as they are.
    let hit = cuts(&proxy, || {
        let statements = a_transaction(&cluster, "plain");
        let mut plain = cluster.client("psql", near, &psql(&statements));
        assert_eq!(Program::start(&mut plain).succeed("psql"), SAID);
    });
    assert!(hit >= 5, "only {hit} cuts");
    // By the one at the server, with the client under `evs run`.
    let hit = cuts(&proxy, || {
        let statements = a_transaction(&cluster, "run");
        let psql = cluster.client("psql", to.port(), &psql(&statements));
        let mut command = Command::new(evs());
        command.args(["run", "--connect", &to.to_string(), "--mode", "require", "--"]);
        command.arg(psql.get_program()).args(psql.get_args());
        assert_eq!(Program::start(&mut command).succeed("evs run psql"), SAID);
    });
    assert!(hit >= 5, "only {hit} cuts");
    for table in ["plain", "run"] {
        let same = format!("select count(*) from (select * from {table} intersect {ROWS}) d");
        let mut count = cluster.client("psql", port, &["-Atc", &same, "postgres"]);
        assert_eq!(Program::start(&mut count).succeed("psql"), "500000\n");
    }
}
