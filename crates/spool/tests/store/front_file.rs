//! A front's file says which of the two stores it is.

use std::path::Path;

use eversock_spool::config::FrontFile;
use eversock_spool::store::StoreError;

use crate::cluster::PostgresMaker;
use crate::common::{Scratch, appends, record, unique};

fn front_file(folder: &Path, lines: &str) -> FrontFile {
    let text = format!(
        "dir = \"spool\"\n{lines}\n[[socket]]\nlisten = \"127.0.0.1:0\"\n\
         [[pair]]\nname = \"orders\"\n\
         [[pair.server]]\nurl = \"eversock://127.0.0.1:9\"\n\
         [[pair.server]]\nurl = \"eversock://127.0.0.1:9\"\n"
    );
    FrontFile::from_text(&text, "spool.toml", folder).unwrap()
}

/// Written, read beside, held by one at a time; and a front starts on it.
fn serves(file: &FrontFile) {
    let pair = file.pair("orders").unwrap();
    let mut store = file.open_store(pair).unwrap();
    store.commit(&appends([record(1), record(2)])).unwrap();
    let second = file.open_store(pair).err().unwrap();
    assert!(matches!(second, StoreError::Held { .. }), "{second}");
    let mut reader = file.open_reader(pair).unwrap();
    assert_eq!(reader.reader().list(0, 10).unwrap().len(), 2);
    let kept = reader.reader().kept(2).unwrap().unwrap();
    assert_eq!((kept.payload, kept.whole), (record(2).payload, true));
    let refused = file.start().err().unwrap().to_string();
    assert!(
        refused.starts_with("spool.toml: ") && refused.contains("held by another"),
        "{refused}"
    );
    drop(store);

    let running = file.start().unwrap();
    let status = running.gate().with(|front| front.status("orders")).unwrap().unwrap();
    assert_eq!(status.pair.totals.pending, 2);
    let gate = std::sync::Arc::clone(running.gate());
    running.close();
    assert!(gate.with(|_| ()).is_none(), "nobody is asked any more");
    // All of it is given up.
    drop(file.open_store(pair).unwrap());
}

#[test]
fn a_front_on_files() {
    let folder = Scratch::new();
    let file = front_file(folder.path(), "");
    let pair = file.pair("orders").unwrap();
    let nothing = file.open_reader(pair).unwrap_err().to_string();
    assert!(nothing.contains("there is none yet"), "{nothing}");
    file.make_dir().unwrap();
    serves(&file);
    assert!(file.spool_file(pair).unwrap().exists());
}

#[test]
fn a_front_on_postgresql() {
    let Some(maker) = PostgresMaker::new() else { return };
    let folder = Scratch::new();
    let params = &maker.config.params;
    let lines = format!("postgres = \"{params}\"\npostgres-schema = \"front_{}\"", unique());
    let file = front_file(folder.path(), &lines);
    serves(&file);
    assert!(file.spool_file(file.pair("orders").unwrap()).is_none());
}
