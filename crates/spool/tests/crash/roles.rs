//! What the processes are: a front, or a server that notes each effect in a table.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eversock_engine::Config;
use eversock_socket::VirtualListener;
use eversock_spool::backend::ledger::LedgerConfig;
use eversock_spool::backend::{BackendServer, Effects, LedgerBackend};
use eversock_spool::door::{DoorConfig, SocketDoor};
use eversock_spool::front::{Front, PairSetup};
use eversock_spool::link::{LinkConfig, SocketTarget};
use eversock_spool::pair::{Command, PairConfig};
use eversock_spool::record::Record;
use eversock_spool::serve::ServeConfig;
use eversock_spool::store::committer::CommitterConfig;
use eversock_spool::store::postgres::{PostgresConfig, PostgresStore};
use eversock_spool::store::sqlite::SqliteStore;
use eversock_spool::store::{Quota, SpoolStore};
use eversock_spool::submit::Submit;
use eversock_spool::target::{ItemResult, Target};
use rusqlite::{Connection, OpenFlags, Transaction};

/// The pair's name.
pub(crate) const PAIR: &str = "ledger";

/// The spool's file.
pub(crate) fn spool(dir: &Path) -> PathBuf {
    dir.join(format!("{PAIR}.db"))
}

fn ledger(dir: &Path) -> PathBuf {
    dir.join("servers.db")
}

/// If this process is one of those that a test has started: runs until it is killed, or the test
/// is gone.
pub(crate) fn run() {
    let Ok(role) = std::env::var("EVERSOCK_SPOOL_ROLE") else { return };
    let var = |name| std::env::var(name).unwrap();
    let dir = PathBuf::from(var("EVERSOCK_SPOOL_DIR"));
    let listen: SocketAddr = var("EVERSOCK_SPOOL_LISTEN").parse().unwrap();
    match role.as_str() {
        "front" => {
            let servers = var("EVERSOCK_SPOOL_SERVERS");
            let servers: Vec<SocketAddr> =
                servers.split(',').map(|addr| addr.parse().unwrap()).collect();
            front(&dir, listen, &servers);
        }
        _ => server(&dir, listen),
    }
    // No test output after this: the process ends with the test that started it.
    std::process::exit(0);
}

fn listener(listen: SocketAddr) -> VirtualListener {
    // Sessions of a process that was killed are not waited for.
    let grace = Duration::from_secs(1);
    let config = Config { grace, grace_after_close: grace, ..Config::default() };
    VirtualListener::bind_with(listen, config).unwrap()
}

fn front(dir: &Path, listen: SocketAddr, servers: &[SocketAddr]) {
    let quota = Quota { records: 1_000_000, bytes: 1 << 30 };
    let store: Box<dyn SpoolStore> = match std::env::var("EVERSOCK_SPOOL_POSTGRES") {
        Err(_) => Box::new(SqliteStore::open(&spool(dir), PAIR, quota).unwrap()),
        Ok(params) => {
            let config = PostgresConfig::new(&params);
            Box::new(PostgresStore::open(&config, PAIR, quota).unwrap())
        }
    };
    let target = |addr: SocketAddr| -> Arc<dyn Target> {
        let mut config = LinkConfig::new(addr.to_string());
        config.socket.grace = Duration::from_millis(300);
        config.back_off = (Duration::from_millis(5), Duration::from_millis(50));
        SocketTarget::new(vec![addr], config).unwrap()
    };
    let millis = |millis: u64| millis * 1000;
    let setup = PairSetup {
        name: PAIR.to_owned(),
        config: PairConfig {
            lease: millis(1000),
            confirm: millis(200),
            probe_every: millis(100),
            probe_timeout: millis(300),
            call_timeout: millis(500),
            flap_guard: 0,
            ..PairConfig::default()
        },
        store,
        committer: CommitterConfig::default(),
        servers: [target(servers[0]), target(servers[1])],
    };
    let front = Arc::new(Front::start(vec![setup]).unwrap());
    let submit: Arc<dyn Submit> = Arc::<Front>::clone(&front);
    let door = SocketDoor::start(listener(listen), submit, DoorConfig::default()).unwrap();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let command = match line.unwrap().as_str() {
            "hold" => Command::Hold,
            "who" => {
                let status = front.status(PAIR);
                println!("main {}", status.map_or(9, |status| status.pair.holder));
                continue;
            }
            "status" => {
                eprintln!("{:#?}", front.status(PAIR));
                continue;
            }
            _ => Command::Release,
        };
        // A store that is just dying may refuse.
        let _ = front.command(PAIR, command);
    }
    drop(door);
}

/// Notes each effect.
struct Notes;

impl Effects for Notes {
    type Prepared = ();

    fn set_up(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS effect
             (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, id BLOB NOT NULL,
              epoch INTEGER NOT NULL)",
        )
    }

    fn prepare(&self, _item: &Record) -> Result<(), ItemResult> {
        Ok(())
    }

    fn apply(
        &self,
        tx: &Connection,
        item: &Record,
        _prepared: Option<&()>,
    ) -> rusqlite::Result<ItemResult> {
        if item.kind.only_looks() {
            let count: i64 =
                tx.query_row("SELECT count(*) FROM effect WHERE key = ?1", [&item.key], |row| {
                    row.get(0)
                })?;
            return Ok(ItemResult::Done { answer: count.to_be_bytes().to_vec(), again: false });
        }
        // The epoch of the server that does it, not that under which it was accepted.
        let epoch: i64 = tx.query_row(EPOCH, [], |row| row.get(0))?;
        tx.execute(
            "INSERT INTO effect (key, id, epoch) VALUES (?1, ?2, ?3)",
            rusqlite::params![item.key, item.id.0.to_be_bytes().as_slice(), epoch],
        )?;
        Ok(ItemResult::Done { answer: Vec::new(), again: false })
    }
}

const EPOCH: &str = "SELECT value FROM evs_number WHERE name = 'epoch'";

fn server(dir: &Path, listen: SocketAddr) {
    let backend = LedgerBackend::open(&ledger(dir), LedgerConfig::default(), Notes).unwrap();
    let backend = Arc::new(backend);
    let server = BackendServer::start(listener(listen), backend, ServeConfig::default()).unwrap();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        drop(line);
    }
    drop(server);
}

/// An effect, as the servers' table has it.
#[derive(Debug)]
pub(crate) struct Effect {
    pub(crate) key: Vec<u8>,
    pub(crate) id: u128,
    pub(crate) epoch: u64,
}

pub(crate) fn effects(dir: &Path) -> Vec<Effect> {
    let conn = Connection::open_with_flags(ledger(dir), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.busy_timeout(Duration::from_secs(30)).unwrap();
    let mut query = conn.prepare("SELECT key, id, epoch FROM effect ORDER BY seq").unwrap();
    let rows = query.query_map([], |row| {
        let id: Vec<u8> = row.get(1)?;
        let epoch: i64 = row.get(2)?;
        Ok(Effect {
            key: row.get(0)?,
            id: u128::from_be_bytes(id.try_into().unwrap()),
            epoch: u64::try_from(epoch).unwrap(),
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}
