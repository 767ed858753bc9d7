//! What is written in the example is what holds; all that is wrong is named with its line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::node::{Dial, DoorConfig};
use crate::shard::input::FailBackPolicy;
use crate::store::Quota;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

const SMALL: &str = "\
name = \"a\"
[door]
listen = \"127.0.0.1:0\"
insecure = true # the door
[partner-door]
listen = \"127.0.0.1:0\"
insecure = true
[[partner]]
name = \"b\"
addrs = \"127.0.0.1:1\"
[link]
[[dispatch]]
prefix = \"b-\"
partition = \"b\"
[store]
dir = \"d\"
[policy]
[partition.b]
";

fn parse(text: &str) -> Result<ControllerFile, ConfigError> {
    ControllerFile::from_text(text, "c.toml", Path::new("/f"))
}

fn problem(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// [`SMALL`] with a line put in after the one that is `after`; a `-` puts it in its place.
fn with(after: &str, line: &str) -> String {
    let place = after.trim_start_matches('-');
    let (before, behind) = SMALL.split_once(&format!("{place}\n")).expect(after);
    let kept = if after.starts_with('-') { String::new() } else { format!("{place}\n") };
    format!("{before}{kept}{line}\n{behind}")
}

/// The keys that a table can have, from what is said of one that it cannot have.
fn keys(problem: &str) -> BTreeSet<String> {
    let (_, listed) = problem.split_once("there are ").expect(problem);
    listed.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

/// The keys that stand in a table of an example, set or not.
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

fn example() -> (String, ControllerFile) {
    let path = format!("{EXAMPLES}/controller.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let file = ControllerFile::from_text(&text, &path, Path::new("/f")).unwrap();
    (text, file)
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let (text, _) = example();
    let tables = [
        ("", "name = \"a\""),
        ("[door]", "[door]"),
        ("[partner-door]", "[partner-door]"),
        ("[[partner]]", "[[partner]]"),
        ("[link]", "[link]"),
        ("[[dispatch]]", "[[dispatch]]"),
        ("[store]", "[store]"),
        ("[policy]", "[policy]"),
        ("[partition.south]", "[partition.b]"),
    ];
    for (heading, after) in tables {
        let mut known = keys(&problem(&with(after, "nonsense = 1")));
        for (table, _) in tables {
            let table = table.trim_matches(['[', ']']).split('.').next().unwrap();
            if heading.is_empty() {
                known.remove(table);
            }
        }
        known.remove("device-keys");
        assert_eq!(in_example(&text, heading), known, "{heading}");
    }
}

#[test]
fn what_the_example_sets_are_the_defaults() {
    let (_, file) = example();
    let bare = parse(SMALL).unwrap();
    assert_eq!(file.usual, Policy::default());
    assert_eq!(file.link, LinkConfig::default());
    assert_eq!(file.partitions[0].policy, Policy::default());
    assert_eq!(file.partitions[0].queue, QueueConfig::default());
    let door = DoorConfig::new(file.door.listen);
    for one in [&file, &bare] {
        assert_eq!(one.door.connections_max, door.connections_max);
        assert_eq!(one.door.registrations_per_second, door.registrations_per_second);
    }
    assert_eq!((file.store.quota, bare.store.quota), (Quota::default(), Quota::default()));
    let large = parse(&with("dir = \"d\"", "quota-bytes = \"20GiB\"")).unwrap();
    assert!(large.snapshot_bytes_max() >= 20 << 30, "what is kept can be sent");
    assert_eq!((file.partners[0].dial, bare.partners[0].dial), (Dial::Auto, Dial::Auto));
    assert_eq!(file.dispatch[0].1.mode, bare.dispatch[0].1.mode);
    assert_eq!(file.control, PathBuf::from("/var/lib/eversock/controller/control.sock"));
    assert_eq!(bare.control, PathBuf::from("/f/d/control.sock"));
}

#[test]
fn a_partition_behaves_as_all_do_unless_its_own_table_says_more() {
    let text = SMALL
        .replace("[policy]\n", "[policy]\nmisses = 4\nfail-back = \"auto 5min\"\n")
        .replace("[partition.b]\n", "[partition.b]\nfail-back = \"manual\"\nalternates = \"b\"\n");
    let file = parse(&text).unwrap();
    let (own, other) = (file.policy(&file.name).clone(), &file.partitions[0]);
    assert_eq!((own.misses, other.policy.misses), (4, 4));
    assert_eq!(own.fail_back, FailBackPolicy::Auto { after: 300_000 });
    assert_eq!(other.policy.fail_back, FailBackPolicy::Manual);
    assert_eq!(other.alternates, ["b".parse().unwrap()]);
}

#[test]
fn what_is_wrong_is_named_with_line_key_and_remedy() {
    let key = "00".repeat(32);
    let keyed = format!("public-key = \"{key}\"");
    let cases = [
        // line put in after, the line, where it is, what is said
        ("-name = \"a\"", "name = \"a b\"", 1, "`name`: \"a b\" cannot be the name"),
        ("-name = \"a\"", "name = \"shared\"", 1, "shared is the partition of what all"),
        ("name = \"a\"", "metrics = 9110", 2, "`metrics`: it is 9110; take some text"),
        ("[door]", "connections-max = 0", 3, "`connections-max` in [door]: it is 0; take a number"),
        ("[door]", "grace = \"soon\"", 3, "it is \"soon\"; take a time, as"),
        ("[door]", "grace = 5", 3, "it is 5; take a time, as"),
        ("[door]", "sealed = 1", 3, "`sealed` in [door]: it is 1; take true or false"),
        ("[door]", "memory-max = -1", 3, "it is -1; take bytes, as"),
        ("[door]", "key = \"\"", 3, "`key` in [door]: it is empty"),
        ("[door]", "allowed-clients = \"x\"", 2, "it needs an `identity`"),
        ("[door]", "key = \"k\"\nidentity = \"i\"", 2, "`key` in [door]: it excludes static keys"),
        ("[door]", "lisen = \"x\"", 3, "unknown key `lisen` in [door]; there are `listen`, "),
        (
            "-insecure = true # the door",
            "",
            2,
            "`insecure` in [door]: anybody could say that he is",
        ),
        ("-insecure = true # the door", "identity = \"i\"", 2, "anybody could say that he is a"),
        ("[door]", "key = \"k\"", 2, "only those with keys get in"),
        ("[door]", "identity = \"i\"\nallowed-clients = \"c\"", 2, "only those with keys get in"),
        ("insecure = true", "identity = \"i\"", 5, "exclude each other; keep one"),
        ("-insecure = true", "", 5, "anybody could say that he is a partner"),
        ("-name = \"b\"", "name = \"a\"", 8, "it is this controller's own"),
        ("-addrs = \"127.0.0.1:1\"", "", 8, "`addrs` in [[partner]]: this side dials"),
        ("-addrs = \"127.0.0.1:1\"", "addrs = \"b\"", 10, "\"b\" is no place; take HOST:PORT"),
        ("-addrs = \"127.0.0.1:1\"", "addrs = []", 10, "it has 0; take 1 to 8"),
        ("addrs = \"127.0.0.1:1\"", "dial = \"now\"", 11, "take \"auto\", \"always\" or \"never\""),
        ("addrs = \"127.0.0.1:1\"", "public-key = \"x\"", 11, "take the 64 digits of `evs keygen`"),
        ("addrs = \"127.0.0.1:1\"", &keyed, 8, "it needs an `identity` in [partner-door]"),
        ("[link]", "silence = \"1s\"", 11, "`silence` in [link]: a link would be given up"),
        ("prefix = \"b-\"", "device = \"b-1\"", 12, "one of `device`, `prefix` and `default`"),
        ("-partition = \"b\"", "partition = \"c\"", 14, "no [[partner]] is called c"),
        ("partition = \"b\"", "mode = \"x\"", 15, "take \"serve\", \"proxy\" or \"refuse\""),
        ("dir = \"d\"", "postgres-prefix = \"x\"", 15, "belong to it; add it"),
        ("dir = \"d\"", "quota-bytes = \"65GiB\"", 17, "a snapshot has 64 GiB at most"),
        ("dir = \"d\"", "quota-bytes = 0", 17, "`quota-bytes` in [store]: it is 0"),
        ("[policy]", "lease = \"60s\"", 17, "`lease` in [policy]: 60s is over before"),
        ("[policy]", "fail-back = \"soon\"", 18, "\"soon\" is no way home; take \"manual\""),
        ("[partition.b]", "misses = 0", 19, "`misses` in [partition.\"b\"]: it is 0"),
        ("-[partition.b]", "[partition.\"b c\"]", 18, "cannot be the name of a controller"),
    ];
    for (after, line, at, expected) in cases {
        let problem = problem(&with(after, line));
        assert!(problem.starts_with(&format!("c.toml:{at}: ")), "{line}: {problem}");
        assert!(problem.contains(expected), "{line}: {problem}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = SMALL
        .replace("name = \"a\"\n", "nome = \"a\"\n")
        .replace("insecure = true", "insecure = \"yes\"")
        .replace("dir = \"d\"", "dir = 5")
        .replace("[policy]", "[policy]\nlease = 1\nmisses = 1000");
    let ConfigError::Wrong { problems, .. } = parse(&text).unwrap_err() else { panic!() };
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted(), "{problems:?}");
    for line in [1, 4, 7, 16, 18, 19] {
        assert!(lines.contains(&line), "{line}: {problems:?}");
    }
    let said = problem(&text);
    assert_eq!(said.lines().count(), problems.len());
    assert!(said.lines().all(|line| line.starts_with("c.toml:")), "{said}");
}

#[test]
fn what_is_no_toml_is_named_too() {
    for (text, line) in [("name = ", 1), ("name = \"a\"\n[door\n", 2), ("\u{1}", 1)] {
        let said = problem(text);
        assert!(said.contains(&format!("c.toml:{line}: ")), "{said}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let said = problem("");
    for key in ["`name`: it is missing", "`door`: no device gets in", "`store`: the records"] {
        assert!(said.contains(key), "{key}: {said}");
    }
    let no_door = SMALL.replace("[partner-door]\nlisten = \"127.0.0.1:0\"\ninsecure = true\n", "");
    assert!(problem(&no_door).contains("there is no [partner-door]"));
    let comes = SMALL.replace("name = \"b\"\naddrs", "name = \"A\"\naddrs");
    let comes = comes.replace("partition = \"b\"", "partition = \"A\"");
    assert!(parse(&comes).is_ok());
    let nowhere = comes.replace("[partner-door]\nlisten = \"127.0.0.1:0\"\n", "[partner-door]\n");
    assert!(problem(&nowhere).contains("[partner-door] listens nowhere"), "{nowhere}");
    let anywhere = SMALL.replace("[door]\nlisten = \"127", "[door]\nlisten = \"0");
    let anywhere = anywhere.replacen("0.0.0.1:0", "0.0.0.0:0", 1);
    assert!(problem(&anywhere).contains("say where they find it"));
}

#[test]
fn keys_of_devices_are_those_of_keygen() {
    let key = eversock_engine::StaticKey::from_bytes([7; 32]).public();
    let small = with("[door]", "identity = \"i\"");
    let keyed = format!("[device-keys]\n\"b-1\" = \"{key}\"\n");
    let file = parse(&format!("{small}{keyed}")).unwrap();
    assert_eq!(file.device_keys.get(&"b-1".parse().unwrap()), Some(&key));
    // A door without one never learns whose key a connection has.
    let said = problem(&format!("{SMALL}{keyed}"));
    assert!(said.contains("c.toml:19: `device-keys`: connections have no static keys"), "{said}");
    let said = problem(&format!("{SMALL}[device-keys]\n\"b 1\" = \"{key}\"\nb-2 = \"0\"\n"));
    assert!(said.contains("c.toml:20: `b 1` in [device-keys]"), "{said}");
    assert!(said.contains("c.toml:21: `b-2` in [device-keys]"), "{said}");
}

#[test]
fn paths_are_relative_to_the_folder_of_the_file() {
    let file = parse(&with("-insecure = true # the door", "key = \"k\"")).unwrap();
    assert_eq!(file.store.dir, PathBuf::from("/f/d"));
    assert_eq!(file.door.keys.key, Some(PathBuf::from("/f/k")));
    let absolute = SMALL.replace("dir = \"d\"", "dir = \"/d\"");
    assert_eq!(parse(&absolute).unwrap().store.dir, PathBuf::from("/d"));
}

#[test]
fn files_without_end_and_without_being_there_are_refused() {
    let said = ControllerFile::from_file(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(said.contains("longer than 1 MiB"), "{said}");
    let said = ControllerFile::from_file(Path::new("/nonexistent/f")).unwrap_err().to_string();
    assert!(said.contains("/nonexistent/f: cannot be read"), "{said}");
}

#[test]
fn the_example_of_a_device_has_every_key_and_no_other() {
    let path = format!("{EXAMPLES}/device.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let file = DeviceFile::from_text(&text, &path, Path::new("/f")).unwrap();
    assert_eq!(file.name.as_str(), "lamp-1");
    let config = file.device_config().unwrap();
    let places: Vec<&str> =
        config.policy.controllers.iter().map(|place| place.controller.as_str()).collect();
    assert_eq!(places, ["north", "south"]);
    config.policy.check().unwrap();
    let usual = crate::device::Policy::new(config.policy.controllers.clone());
    assert_eq!(format!("{:?}", config.policy), format!("{usual:?}"));
    for (heading, tables) in
        [("[device]", &["home", "backup"][..]), ("[device.home]", &[]), ("[[device.backup]]", &[])]
    {
        let wrong = text.replace(heading, &format!("{heading}\nnonsense = 1"));
        let said = DeviceFile::from_text(&wrong, "d.toml", Path::new("/f")).unwrap_err();
        let mut known = keys(&said.to_string());
        tables.iter().for_each(|table| {
            known.remove(*table);
        });
        assert_eq!(in_example(&text, heading), known, "{heading}");
    }
    let said = DeviceFile::from_text("", "d.toml", Path::new("/f")).unwrap_err().to_string();
    assert!(said.contains("begin with [device]"), "{said}");
}

/// Partners that know each other by keys tell nothing to who listens in between.
#[test]
fn what_partners_with_keys_say_is_sealed() {
    let folder = std::env::temp_dir().join(format!("evs-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let key = folder.join("k");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let public = eversock_engine::StaticKey::from_bytes([7; 32]).public();
    let by_identity = with("addrs = \"127.0.0.1:1\"", &format!("public-key = \"{public}\""));
    for (text, way) in [(by_identity, "identity"), (SMALL.to_owned(), "key")] {
        let text = text.replace("insecure = true\n", &format!("{way} = \"k\"\n"));
        let file = ControllerFile::from_text(&text, "c.toml", &folder).unwrap();
        let config = file.node_config().unwrap();
        let listens = config.partner_door.unwrap().socket;
        for socket in [&listens, &config.partners[0].socket] {
            assert_eq!(socket.sealing, eversock_engine::Sealing::Always, "{way}");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// What passes the check is what can be started.
#[test]
fn a_device_that_could_not_start_is_refused() {
    let small = "[device]\nname = \"x\"\nrequests-max = 4096\n[device.home]\nname = \"a\"\n\
                 addrs = \"127.0.0.1:1\"\n[[device.backup]]\nname = \"b\"\n\
                 addrs = \"127.0.0.1:2\"\n";
    let parse = |text: &str| DeviceFile::from_text(text, "d.toml", Path::new("/f"));
    parse(small).unwrap().device_config().unwrap().policy.check().unwrap();
    for (from, to, expected) in [
        ("4096", "4097", "d.toml:3: `requests-max` in [device]: it is 4097"),
        ("\"b\"", "\"a\"", "d.toml:7: `name` in [[backup]]: a stands here already"),
    ] {
        let said = parse(&small.replace(from, to)).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}
