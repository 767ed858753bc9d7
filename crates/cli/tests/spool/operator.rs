//! Commands to a front that runs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use eversock_spool::job::JobReader;
use serde_json::Value;

use crate::common::PATIENCE;
use crate::world::{World, server, subjects, write};

/// Asks for figures as a scraper does.
fn scrape(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn what_is_held_is_shown_exported_purged_and_drained() {
    let world = World::new();
    let front = world.start();
    let sender = front.sender();
    world.wait_until_normal();
    write(&sender, "alice", "first");
    assert_eq!(world.rows().len(), 0);

    let said = world.json(&["hold", "mail"]);
    assert_eq!(said["pair"], "mail");
    for n in 0..6 {
        write(&sender, if n % 2 == 0 { "alice" } else { "carol" }, &format!("held {n}"));
    }
    let pair = world.wait_for_pair("on hold", |pair| pair["live"]["on_hold"] == true);
    assert_eq!(pair["spool"]["pending"], 6, "{pair:#}");
    let ages = pair["spool"]["ages"].as_array().unwrap();
    assert_eq!(ages.len(), 8);
    assert_eq!(ages.iter().map(|age| age.as_u64().unwrap()).sum::<u64>(), 6);

    let rows = world.rows();
    let keys: Vec<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["alice", "carol", "alice", "carol", "alice", "carol"]);
    let lsn = |row: &Value| row["lsn"].as_u64().unwrap();
    let behind = lsn(&rows[1]).to_string();
    let some = world.json(&["ls", "--pair", "mail", "--after", &behind, "--limit", "2"]);
    assert_eq!(some.as_array().unwrap()[..], rows[2..4]);

    // For people.
    let table = world.run(&["stat"]).stdout;
    let headings: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let ages = ["5s", "10s", "20s", "40s", "80s", "160s", "320s", "OLDER"];
    assert_eq!(headings[5..13], ages, "{table}");
    assert!(table.lines().any(|line| line.starts_with("mail") && line.contains("on hold")));
    let table = world.run(&["ls"]).stdout;
    assert_eq!(table.lines().count(), 7, "{table}");

    let plan = world.json(&["drain", "mail", "--dry-run", "--limit", "3"]);
    assert_eq!((plan["records"].as_u64(), plan["keys"].as_u64()), (Some(6), Some(2)), "{plan:#}");
    let holder = usize::try_from(pair["live"]["holder"].as_u64().unwrap()).unwrap();
    assert_eq!(plan["to"], ["left", "right"][holder]);
    assert_eq!(plan["first"].as_array().unwrap().len(), 3);
    let text = world.run(&["drain", "mail", "--dry-run", "--limit", "3"]).stdout;
    assert!(text.contains("6 records") && text.contains("... and 3 more"), "{text}");
    assert_eq!(world.rows(), rows, "looking has changed nothing");

    let verified = world.json(&["verify"]);
    assert_eq!(verified[0]["ok"], true, "{verified}");

    let job = world.place.file("held.job");
    let exported = world.json(&["export", "mail", "--out", job.to_str().unwrap()]);
    assert_eq!(exported["records"], 6);
    let mode = fs::metadata(&job).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut reader = JobReader::new(BufReader::new(File::open(&job).unwrap())).unwrap();
    assert_eq!(reader.pair(), "mail");
    for row in &rows {
        let record = reader.next_record().unwrap().unwrap();
        assert_eq!(
            (record.lsn, record.id.to_string()),
            (lsn(row), row["id"].as_str().unwrap().into())
        );
    }
    assert!(reader.next_record().unwrap().is_none());
    let again = world.run(&["export", "mail", "--out", job.to_str().unwrap()]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("it is there already"), "{again:?}");

    let text = scrape(front.metrics(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(figure(&text, "spool_depth{pair=\"mail\"}"), 6.0);
    assert_eq!(figure(&text, "spool_on_hold{pair=\"mail\"}"), 1.0);
    assert_eq!(figure(&text, "spool_requests_total{pair=\"mail\",outcome=\"spooled\"}"), 6.0);
    assert!(figure(&text, "spool_commit_seconds_count{pair=\"mail\"}") >= 1.0);
    assert!(figure(&text, "spool_bytes{pair=\"mail\"}") > 0.0);

    world.json(&["purge", "mail", &lsn(&rows[0]).to_string(), &lsn(&rows[5]).to_string()]);
    let left: Vec<u64> = world.rows().iter().map(lsn).collect();
    assert_eq!(left, rows[1..5].iter().map(lsn).collect::<Vec<_>>());

    let done = world.run(&["drain", "mail", "--timeout", "60s"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("nothing waits; 4 records went"), "{done:?}");
    assert!(done.stderr.contains("records wait"), "lines, as this is no terminal: {done:?}");
    assert_eq!(subjects(&sender, "alice"), ["first", "held 2", "held 4"]);
    assert_eq!(subjects(&sender, "carol"), ["held 1", "held 3"]);
    let text = scrape(front.metrics(), "GET /metrics?x HTTP/1.0\r\n\r\n");
    assert_eq!(figure(&text, "spool_depth{pair=\"mail\"}"), 0.0);
    assert_eq!(figure(&text, "spool_drained_total{pair=\"mail\"}"), 4.0);
    front.stop();
}

#[test]
fn a_switch_is_without_loss_and_a_suspected_main_that_is_well_stays() {
    let world = World::new();
    let front = world.start();
    let sender = front.sender();
    let before = world.wait_until_normal();
    write(&sender, "alice", "one");
    let holder = before["live"]["holder"].as_u64().unwrap();
    world.json(&["suspect", "mail"]);
    world.wait_for_pair("looked at and well", |pair| {
        pair["state"] == "normal" && pair["live"]["counters"]["suspected"].as_u64() >= Some(1)
    });
    world.wait_for_pair("ready for a switch", |pair| {
        pair["live"]["ready"] == serde_json::json!([true, true]) && pair["state"] == "normal"
    });
    world.json(&["switch", "mail"]);
    write(&sender, "alice", "two");
    let is_over = |pair: &Value, other: u64| {
        pair["state"] == "normal"
            && pair["live"]["holder"] == other
            && pair["spool"]["pending"] == 0
    };
    world.wait_for_pair("served by the other", |pair| is_over(pair, 1 - holder));
    write(&sender, "alice", "three");
    world.json(&["switch", "mail", "--now"]);
    write(&sender, "alice", "four");
    world.wait_for_pair("served by the first again", |pair| is_over(pair, holder));
    assert_eq!(subjects(&sender, "alice"), ["one", "two", "three", "four"]);
    let wrong = world.run(&["switch", "nobody"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("no pair is called \"nobody\"; it has mail"), "{wrong:?}");
    front.stop();
}

#[test]
fn the_sockets_of_a_front_bear_whatever_comes() {
    let world = World::new();
    let front = world.start();
    let control = front.ready["control"].as_str().unwrap();
    let mode = fs::metadata(control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may command it");

    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(control).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may be refused before all of it is written.
        let _refused = stream.write_all(bytes);
        let mut line = String::new();
        // A reset after the refusal is as good as an end.
        let _reset = BufReader::new(stream).read_line(&mut line);
        line
    };
    assert!(ask(b"nonsense\n").contains("not understood"));
    assert!(ask(b"{\"cmd\":\"explode\"}\n").contains("not understood"));
    assert!(
        ask(b"{\"cmd\":\"ls\",\"pair\":\"x\",\"after\":0,\"limit\":9}\n").contains("no such pair")
    );
    let places: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let order = format!(
        "{{\"cmd\":\"do\",\"pair\":\"mail\",\"order\":{{\"purge\":[{}]}}}}\n",
        places.join(",")
    );
    assert!(ask(order.as_bytes()).contains("1000 places at most"));
    assert!(ask(&[b'x'; 65 << 10]).contains("one line of at most 64 KiB"));
    assert_eq!(ask(b"").len(), 0, "nobody is answered who says nothing");

    let addr = front.metrics();
    assert!(scrape(addr, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(scrape(addr, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    let head = scrape(addr, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let mut long = TcpStream::connect(addr).unwrap();
    long.set_read_timeout(Some(PATIENCE)).unwrap();
    let _refused = long.write_all(&[b'x'; 9 << 10]);
    let mut answer = Vec::new();
    let _reset = long.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    // And the front is there still.
    world.wait_until_normal();
    front.stop();
}

#[test]
fn a_job_is_worked_off_by_a_server_that_nobody_serves() {
    let world = World::new();
    let front = world.start();
    let sender = front.sender();
    world.wait_until_normal();
    world.json(&["hold", "mail"]);
    for n in 0..5 {
        write(&sender, "dora", &format!("job {n}"));
    }
    let ids: Vec<Value> = world.rows().iter().map(|row| row["id"].clone()).collect();
    let job = world.place.file("a.job");
    let job = job.to_str().unwrap();
    world.json(&["export", "mail", "--out", job]);

    let other = server(&world.place, "other-mail");
    let url = format!("eversock://{}", other.addr());
    let run_job =
        |url: &str| world.place.run(&["spool", "run-job", job, "--json", "--server", url]);
    let told = |done: &crate::common::Done| -> Vec<Value> {
        let lines = done.stdout.lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let done = run_job(&url);
    assert_eq!(done.code, Some(0), "{done:?}");
    let first = told(&done);
    assert_eq!(first.iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), ids);
    assert!(first.iter().all(|one| one["outcome"] == "done"), "{first:?}");
    let done = run_job(&url);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(told(&done).iter().all(|one| one["outcome"] == "again"), "once and no more: {done:?}");

    // The one that the front has given its lock is left alone.
    let pair = world.json(&["stat"])[0].clone();
    let holder = usize::try_from(pair["live"]["holder"].as_u64().unwrap()).unwrap();
    let refused = run_job(&format!("eversock://{}", world.addrs[holder]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("stop that front"), "{refused:?}");

    let mut bytes = fs::read(job).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(job, bytes).unwrap();
    let refused = run_job(&url);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("the job file is damaged after"), "{refused:?}");
    front.stop();
}
