//! Requests of which nobody knows whether they took effect, and that an operator decides about.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{PATIENCE, Place};
use crate::world::{Front, World};

/// A service that keeps no ids, and that can be told to hang up instead of answering.
struct Service {
    addr: SocketAddr,
    hangs_up: Arc<AtomicBool>,
    hung_up: Arc<AtomicU64>,
    done: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Its threads end with the test's process.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self {
            addr: listener.local_addr().unwrap(),
            hangs_up: Arc::default(),
            hung_up: Arc::default(),
            done: Arc::default(),
        };
        let (hangs_up, hung_up) = (Arc::clone(&service.hangs_up), Arc::clone(&service.hung_up));
        let done = Arc::clone(&service.done);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (hangs_up, hung_up) = (Arc::clone(&hangs_up), Arc::clone(&hung_up));
                let done = Arc::clone(&done);
                thread::spawn(move || serve(&stream, &hangs_up, &hung_up, &done));
            }
        });
        service
    }
}

/// One connection, to its end.
fn serve(
    stream: &TcpStream,
    hangs_up: &AtomicBool,
    hung_up: &AtomicU64,
    done: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream);
    loop {
        let mut first = String::new();
        lines.read_line(&mut first).ok().filter(|&count| count > 0)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).ok().filter(|&count| count > 0)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        lines.read_exact(&mut vec![0; length]).ok()?;
        if first.starts_with("PUT") {
            if hangs_up.load(Ordering::SeqCst) {
                hung_up.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            done.lock().unwrap().push(first.split(' ').nth(1)?.to_owned());
        }
        (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

fn world(services: &[Service; 2]) -> World {
    let place = Place::new();
    let config = place.file("spool.toml");
    let text = format!(
        "dir = \"spool\"\n\
         metrics = \"127.0.0.1:0\"\n\
         [[http]]\n\
         listen = \"127.0.0.1:0\"\n\
         [[http.route]]\n\
         path = \"/\"\n\
         pair = \"mail\"\n\
         [[pair]]\n\
         name = \"mail\"\n\
         in-doubt = \"hold\"\n\
         [[pair.server]]\n\
         url = \"http://{}\"\n\
         [[pair.server]]\n\
         url = \"http://{}\"\n",
        services[0].addr, services[1].addr
    );
    fs::write(&config, text).unwrap();
    World { servers: Vec::new(), addrs: Vec::new(), config, place }
}

fn put(front: &Front, path: &str) {
    let mut client = TcpStream::connect(front.door("http")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    );
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

#[test]
fn what_is_in_doubt_waits_until_it_is_retried_or_purged() {
    let services = [Service::start(), Service::start()];
    let world = world(&services);
    let front = world.start();
    world.wait_until_normal();
    world.json(&["hold", "mail"]);
    put(&front, "/a");
    put(&front, "/b");
    for service in &services {
        service.hangs_up.store(true, Ordering::SeqCst);
    }
    let stuck = world.run(&["drain", "mail", "--json"]);
    assert_eq!(stuck.code, Some(1), "{stuck:?}");
    assert!(stuck.stderr.contains("the 2 records that are left are held"), "{stuck:?}");
    let pair = world.wait_for_pair("stuck", |pair| pair["live"]["stuck"] == true);
    assert_eq!(
        (pair["spool"]["held"].as_u64(), pair["spool"]["pending"].as_u64()),
        (Some(2), Some(2))
    );
    assert_eq!(services.iter().map(|one| one.hung_up.load(Ordering::SeqCst)).sum::<u64>(), 2);
    let rows = world.rows();
    let keys: Vec<_> =
        rows.iter().map(|row| (row["key"].as_str().unwrap(), &row["state"])).collect();
    assert!(keys.iter().all(|(_, state)| *state == "in doubt"), "{keys:?}");
    let plan = world.json(&["drain", "mail", "--dry-run"]);
    assert_eq!((plan["records"].as_u64(), plan["held"].as_u64()), (Some(0), Some(2)), "{plan:#}");

    for service in &services {
        service.hangs_up.store(false, Ordering::SeqCst);
    }
    let lsn = |row: &serde_json::Value| row["lsn"].as_u64().unwrap().to_string();
    world.json(&["purge", "mail", &lsn(&rows[1])]);
    world.json(&["retry", "mail", &lsn(&rows[0])]);
    world.wait_for_pair("drained", |pair| pair["spool"]["pending"] == 0);
    let done: Vec<String> =
        services.iter().flat_map(|one| one.done.lock().unwrap().clone()).collect();
    assert_eq!(done, ["/a"], "the other was given up");
    front.stop();
}
