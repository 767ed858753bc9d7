//! What is written in the example is what holds; what is wrong is named with its line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/spool.toml");

const SMALL: &str = "\
dir = \"d\"
[[socket]]
listen = \"127.0.0.1:0\"
[[pair]]
name = \"mail\"
[[pair.server]]
url = \"eversock://127.0.0.1:1\"
[[pair.server]]
url = \"eversock://127.0.0.1:2\"
";

fn parse(text: &str) -> Result<FrontFile, ConfigError> {
    FrontFile::from_text(text, "spool.toml", Path::new("/f"))
}

fn problem(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// [`SMALL`] with a line put in after the one that is `after`; a `-` puts it in its place.
fn with(after: &str, line: &str) -> String {
    let mut text = String::new();
    let mut is_in = false;
    for old in SMALL.lines() {
        let hit = !is_in && old == after.trim_start_matches('-');
        if !(hit && after.starts_with('-')) {
            text.push_str(old);
            text.push('\n');
        }
        if hit {
            text.push_str(line);
            text.push('\n');
            is_in = true;
        }
    }
    assert!(is_in, "no line {after:?}");
    text
}

/// The keys that a table can have, from what the parser says of one that it cannot have.
fn keys(after: &str) -> BTreeSet<String> {
    let problem = problem(&with(after, "nonsense = 1"));
    let (_, listed) = problem.split_once("expected one of ").expect(&problem);
    listed.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

/// The keys that stand in a kind of table of the example, set or not.
fn in_example(text: &str, heading: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut is_in = heading.is_empty();
    for line in text.lines() {
        if line.starts_with('[') {
            is_in = line == heading;
        } else if let Some((key, _)) = line.split_once(" = ")
            && is_in
        {
            let key = key.trim_start_matches('#');
            if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
                keys.insert(key.to_owned());
            }
        }
    }
    keys
}

fn example() -> (String, FrontFile) {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let file = FrontFile::from_text(&text, EXAMPLE, Path::new("/f")).unwrap();
    (text, file)
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let (text, _) = example();
    let tables = [
        ("", "dir = \"d\""),
        ("[[socket]]", "listen = \"127.0.0.1:0\""),
        ("[[pair]]", "name = \"mail\""),
        ("[[pair.server]]", "url = \"eversock://127.0.0.1:1\""),
    ];
    for (heading, after) in tables {
        let mut known = keys(after);
        for table in ["socket", "http", "smtp", "pair", "server"] {
            known.remove(table);
        }
        assert_eq!(in_example(&text, heading), known, "{heading}");
    }
}

#[test]
#[cfg(all(feature = "http", feature = "smtp"))]
fn the_example_has_every_key_of_http_and_smtp() {
    let (text, _) = example();
    let doors = [
        ("[[http]]", "[[http]]\nlisten = \"127.0.0.1:0\"\n"),
        ("[[http.route]]", "[[http]]\nlisten = \"127.0.0.1:0\"\n[[http.route]]\n"),
        ("[[smtp]]", "[[smtp]]\nlisten = \"127.0.0.1:0\"\n"),
    ];
    for (heading, table) in doors {
        let problem = problem(&format!("{SMALL}{table}nonsense = 1\n"));
        let (_, listed) = problem.split_once("expected one of ").expect(&problem);
        let mut known: BTreeSet<String> =
            listed.split(", ").map(|key| key.trim_matches('`').to_owned()).collect();
        known.remove("route");
        assert_eq!(in_example(&text, heading), known, "{heading}");
    }
}

/// Every field of a pair's behaviour: one that is added has to be added here, and to the example.
fn every_field(config: &PairConfig) -> String {
    let PairConfig {
        classes,
        reads,
        overlay: _,
        delete_as_write,
        drain,
        in_doubt,
        hold_max,
        in_flight_max,
        in_flight_bytes_max,
        quota_records,
        quota_bytes,
        call_timeout,
        suspect_errors,
        suspect_window,
        confirm,
        probe_every,
        probe_timeout,
        lease,
        flap_guard,
        release_timeout,
        automatic,
        dry_run,
        drain_window_max,
        drain_calls_max,
        drain_rate,
        freeze,
        retry_after,
    } = config;
    let words = format!("{classes:?} {reads:?} {drain:?} {in_doubt:?}");
    let flags = format!("{delete_as_write} {automatic} {dry_run}");
    let counts = format!(
        "{hold_max} {in_flight_max} {in_flight_bytes_max} {quota_records} {quota_bytes} \
         {suspect_errors} {drain_window_max} {drain_calls_max} {drain_rate}"
    );
    let times = format!(
        "{call_timeout} {suspect_window} {confirm} {probe_every} {probe_timeout} {lease} \
         {flap_guard} {release_timeout} {freeze} {retry_after}"
    );
    format!("{words} {flags} {counts} {times}")
}

#[test]
fn what_the_example_sets_are_the_defaults() {
    let (text, file) = example();
    let [mail, shop] = &file.pairs[..] else { panic!("{:?}", file.pairs) };
    assert_eq!(every_field(&mail.config), every_field(&PairConfig::default()));
    assert_eq!(mail.committer, CommitterConfig::default());
    // The example sets each of them, so that what was compared did not come from the default.
    let unset = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let pair = text.split("[[pair]]").nth(1).unwrap().split("[[pair.server]]").next().unwrap();
    assert!(!pair.lines().any(unset), "{pair}");
    assert_eq!(shop.config.classes, [crate::target::Class::Opaque; 2]);

    let [socket] = &file.sockets[..] else { panic!() };
    assert_eq!(format!("{:?}", socket.door), format!("{:?}", DoorConfig::default()));
    assert_eq!(file.control, PathBuf::from("/var/lib/eversock/spool/control.sock"));
    let bare = parse(SMALL).unwrap();
    assert_eq!(bare.control, PathBuf::from("/f/d/control.sock"));
    assert_eq!(mail.servers[0].name, bare.pairs[0].servers[0].name);
    assert_eq!(mail.servers[1].name, bare.pairs[0].servers[1].name);

    let servers::How::Socket(server) = &mail.servers[0].how else { panic!() };
    let link = crate::link::LinkConfig::new("main");
    assert_eq!(server.grace, Some(link.socket.grace));
    assert_eq!(server.connect_timeout, Some(link.socket.connect_timeout));
    assert_eq!(server.in_flight_max, Some(link.in_flight_max));
    assert_eq!(server.bytes_in_flight_max, Some(link.bytes_in_flight_max));
}

#[test]
#[cfg(all(feature = "http", feature = "smtp"))]
fn what_the_example_sets_of_http_and_smtp_are_the_defaults() {
    use crate::http::{HttpFrontConfig, HttpTargetConfig, Route};
    let (_, file) = example();
    let (_, http) = &file.https[0];
    let plain = HttpFrontConfig::new(http.listen, vec![Route::new("/shop", "shop")]);
    assert_eq!(format!("{http:?}"), format!("{plain:?}"));
    let (_, smtp) = &file.smtps[0];
    let plain = crate::smtp::SmtpConfig::new(smtp.listen, "mail.example.org", "mail");
    assert_eq!(format!("{smtp:?}"), format!("{plain:?}"));
    let servers::How::Http(server) = &file.pairs[1].servers[0].how else { panic!() };
    let plain = HttpTargetConfig::new("shop", "main", "http://10.0.0.3:8080/api");
    assert_eq!(format!("{server:?}"), format!("{plain:?}"));
}

#[test]
fn what_is_wrong_is_named_with_line_key_and_remedy() {
    let server = "url = \"eversock://127.0.0.1:1\"";
    let pair = "name = \"mail\"";
    let cases = [
        // line put in after, the line, where it is, what is said
        (pair, "lease = \"soon\"", 6, "`lease`: invalid value: string \"soon\", expected a time"),
        (pair, "lease = 5", 6, "`lease`: invalid type: integer `5`, expected a time"),
        (pair, "leese = \"5s\"", 6, "unknown field `leese`, expected one of"),
        (pair, "reads = \"later\"", 6, "`wait`"),
        (pair, "quota-bytes = \"lots\"", 6, "`quota-bytes`: invalid value"),
        (pair, "quota-bytes = -1", 6, "expected bytes, as"),
        (pair, "automatic = 1", 6, "`automatic`: invalid type"),
        (pair, "probe-every = \"0s\"", 6, "`probe-every`: it is 0"),
        (pair, "probe-every = \"1us\"", 6, "`probe-every`: it is less than a millisecond"),
        (pair, "lease = \"2s\"", 6, "`lease`: it has to be longer than"),
        (pair, "hold-max = 9000", 6, "`hold-max`: it is 9000, and 8192 at most"),
        (pair, "commit-records-max = 2000", 6, "1024 at most; take less"),
        (pair, "# a remark\n\nfreeze = \"x\"", 8, "`freeze`"),
        ("-name = \"mail\"", "name = \"../x\"", 5, "`name`: \"../x\" is no name for a pair"),
        (server, "class = \"sure\"", 8, "`ledger`"),
        (server, "promote = [\"p\"]", 8, "`promote`: a server at eversock:// has no use for it"),
        (server, "health = \"/\"", 8, "leave it out"),
        (server, "fence = []", 8, "`fence`: it names no program"),
        (server, "fence = \"http://x/\"", 8, "`fence`: such a server is fenced by a command"),
        (server, "fence = 3", 8, "expected [\"program\", \"argument\", ...]"),
        (server, "key = \"k\"\nknown-peers = \"p\"", 8, "`key`: it excludes static keys"),
        (server, "accept-new = true", 8, "`accept-new`: it needs `known-peers`"),
        (server, "identity = \"i\"", 8, "`identity`: it needs `known-peers`"),
        (server, "name = \"standby\"", 4, "both servers of mail are called"),
        (server, "hook-timeout = \"0s\"", 8, "`hook-timeout`: it is 0"),
        (
            "-url = \"eversock://127.0.0.1:2\"",
            "url = \"ftp://x\"",
            9,
            "`url`: \"ftp://x\": expected",
        ),
        ("-url = \"eversock://127.0.0.1:2\"", "url = \"eversock://x\"", 9, "eversock://HOST:PORT"),
        ("-url = \"eversock://127.0.0.1:2\"", "name = \"b\"", 8, "missing field `url`"),
        (
            "-listen = \"127.0.0.1:0\"",
            "listen = \"localhost\"",
            3,
            "`listen`: invalid socket address",
        ),
        ("listen = \"127.0.0.1:0\"", "allowed-clients = \"a\"", 4, "`allowed-clients`: it needs"),
        ("listen = \"127.0.0.1:0\"", "in-flight-max = 0", 4, "`in-flight-max`: it is 0"),
        ("-dir = \"d\"", "dir = \"\"", 1, "`dir`: it is empty"),
        ("dir = \"d\"", "postgres-schema = \"x\"", 2, "`postgres-schema`: "),
        ("dir = \"d\"", "metrics = 9109", 2, "`metrics`"),
    ];
    for (after, line, at, expected) in cases {
        let problem = problem(&with(after, line));
        assert!(problem.starts_with(&format!("spool.toml:{at}: ")), "{line}: {problem}");
        assert!(problem.contains(expected), "{line}: {problem}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let without = |table: &str| SMALL.split(table).next().unwrap().to_owned();
    assert!(problem(&without("dir")).contains("missing field `dir`"));
    let no_pair = without("[[pair]]");
    assert!(problem(&no_pair).contains("`pair`: there is none; add a [[pair]]"));
    let one = SMALL.rsplit_once("[[pair.server]]").unwrap().0;
    assert!(problem(one).starts_with("spool.toml:4: `server`: mail has 1; a pair has two"));
    let no_door = SMALL.replace("[[socket]]\nlisten = \"127.0.0.1:0\"\n", "");
    assert!(problem(&no_door).contains("listens nowhere; add a [[socket]]"));
    let twice = format!("{SMALL}{}", SMALL.split_once("0\"\n").unwrap().1);
    assert!(problem(&twice).starts_with("spool.toml:11: `name`: \"mail\" is another pair's"));
}

#[test]
#[cfg(all(feature = "http", feature = "smtp"))]
fn doors_lead_to_pairs_that_can_take_what_comes() {
    let http = "[[http]]\nlisten = \"127.0.0.1:0\"\n";
    let smtp = "[[smtp]]\nlisten = \"127.0.0.1:0\"\nhostname = \"h\"\npair = \"mail\"\n";
    let route = "[[http.route]]\npath = \"/\"\npair = \"other\"\n";
    let said = problem(&format!("{SMALL}{http}"));
    assert!(said.starts_with("spool.toml:10: `route`: there is none"), "{said}");
    let said = problem(&format!("{SMALL}{http}{route}"));
    assert!(said.starts_with("spool.toml:14: `pair`: no [[pair]] is called \"other\""), "{said}");
    let mixed = SMALL.replace("eversock://127.0.0.1:2", "http://127.0.0.1:2");
    let said = problem(&mixed);
    assert!(said.contains("main and standby promise different things"), "{said}");
    let of_http = format!("{mixed}class = \"ledger\"\n");
    let said = problem(&format!("{of_http}{smtp}"));
    assert!(said.starts_with("spool.toml:14: `pair`: mail has servers that speak HTTP"), "{said}");
    let overlaid = of_http.replace("name = \"mail\"", "name = \"mail\"\nreads = \"overlay\"");
    let said = problem(&overlaid);
    assert!(said.starts_with("spool.toml:6: `reads`: servers that speak HTTP"), "{said}");
    let keyed = format!("{of_http}sealed = true\n");
    let said = problem(&keyed);
    assert!(said.starts_with("spool.toml:11: `sealed`: a server at http:// has no use"), "{said}");
}

#[test]
fn paths_are_relative_to_the_folder_of_the_file() {
    let text = with("listen = \"127.0.0.1:0\"", "key = \"k\"");
    let file = parse(&text).unwrap();
    assert_eq!(file.dir, PathBuf::from("/f/d"));
    assert_eq!(file.sockets[0].keys.key, Some(PathBuf::from("/f/k")));
    let absolute = SMALL.replace("dir = \"d\"", "dir = \"/d\"");
    assert_eq!(parse(&absolute).unwrap().dir, PathBuf::from("/d"));
}

#[test]
fn files_without_end_and_without_being_there_are_refused() {
    let said = FrontFile::from_file(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(said.contains("longer than 1 MiB"), "{said}");
    let said = FrontFile::from_file(Path::new("/nonexistent/f")).unwrap_err().to_string();
    assert!(said.contains("/nonexistent/f: cannot be read"), "{said}");
}
