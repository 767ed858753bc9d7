//! Sealed sessions over real sockets: the bytes, what a program sees of them, and who gets in.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use common::child::{Helper, hear, role, say};
use common::limit::Limit;
use common::mitm::{Attack, Mitm};
use common::side::{How, converse};
use common::{
    Ends, MIB, begin, data, ends, exchange, fill, linger_zero, quick, read_all, read_exactly,
    send_and_end, wait_until, while_cutting,
};
use eversock::{
    Config, Mode, PresharedKey, PublicKey, RecoveryPolicy, Sealing, State, StaticKey,
    VirtualListener, VirtualStream,
};
use eversock_chaos::{Fault, Target};
use eversock_engine::posix;

const PATIENCE: Duration = Duration::from_secs(90);

fn sealed() -> Config {
    Config { sealing: Sealing::Always, ..quick() }
}

fn sealed_pair() -> Ends {
    ends("127.0.0.1:0", sealed(), sealed())
}

fn through(ends: &Ends, bytes: usize, every: usize, fault: &Fault) -> usize {
    let (up, down) = (data(1, bytes), data(2, bytes));
    while_cutting(&ends.proxy, fault, every, || exchange(&ends.client, &ends.server, &up, &down))
}

#[test]
fn sealed_bytes_come_through_cuts_at_many_places_whatever_the_mode() {
    let _limit = Limit::new("sealed through cuts", PATIENCE);
    for (client, server) in [
        (Mode::Direct, Mode::Direct),
        (Mode::Pumped, Mode::Direct),
        (Mode::Direct, Mode::Pumped),
        (Mode::Pumped, Mode::Pumped),
    ] {
        for (fault, every) in [(Fault::Reset, 200_001), (Fault::Fin, 300_001)] {
            let [client, server] = [client, server].map(|mode| Config { mode, ..sealed() });
            let ends = ends("127.0.0.1:0", client, server);
            let hit = through(&ends, 6 * MIB, every, &fault);
            assert!(hit > 0, "no cut hit");
        }
    }
}

#[test]
fn sealed_bytes_come_through_without_a_cut_in_the_first_epoch() {
    let _limit = Limit::new("sealed, no cut", PATIENCE);
    let ends = sealed_pair();
    exchange(&ends.client, &ends.server, &data(1, 20 * MIB), &data(2, 20 * MIB));
    assert_eq!(ends.client.info().unwrap().epoch, 1, "a record was refused");
}

#[test]
fn a_conversation_of_small_sealed_messages_stays_in_step_through_cuts() {
    let _limit = Limit::new("small sealed messages", PATIENCE);
    let ends = sealed_pair();
    let words = data(3, 256 * 300);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut server = &ends.server;
            let mut buf = [0; 300];
            for length in 0..256 {
                let word = &mut buf[..length + 1];
                server.read_exact(word).unwrap();
                server.write_all(word).unwrap();
            }
        });
        let mut client = &ends.client;
        for length in 0..256 {
            if length % 16 == 7 {
                ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
            }
            let word = &words[length * 300..][..length + 1];
            client.write_all(word).unwrap();
            let mut echo = vec![0; word.len()];
            client.read_exact(&mut echo).unwrap();
            assert!(echo == word, "message {length}");
        }
    });
}

#[test]
fn event_loops_of_every_kind_move_sealed_bytes_through_cuts_without_spinning() {
    let _limit = Limit::new("sealed event loops", PATIENCE);
    for how in [How::Level, How::Edge, How::OneShot, How::Poll, How::Select] {
        let ends = sealed_pair();
        let (up, down) = (data(4, 2 * MIB), data(5, 2 * MIB));
        while_cutting(&ends.proxy, &Fault::Reset, 600_000, || {
            std::thread::scope(|scope| {
                let server = scope.spawn(|| converse(how, &ends.server, &down));
                assert!(converse(how, &ends.client, &up) == down, "{how:?}");
                assert!(server.join().unwrap() == up, "{how:?}");
            });
        });
    }
}

#[test]
fn half_a_sealed_conversation_goes_on_when_the_other_half_has_ended() {
    let _limit = Limit::new("sealed half-close", PATIENCE);
    let ends = sealed_pair();
    send_and_end(&ends.client, b"all I have to say");
    assert_eq!(read_all(&ends.server), b"all I have to say");
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    let answer = data(6, MIB);
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(&ends.server, &answer));
        assert!(read_all(&ends.client) == answer);
    });
}

#[test]
fn a_reset_of_a_sealed_session_reaches_the_peer_with_its_proof() {
    let _limit = Limit::new("sealed reset", PATIENCE);
    for cut in [false, true] {
        let Ends { client, server, proxy, listener: _listener } = sealed_pair();
        (&client).write_all(b"x").unwrap();
        read_exactly(&server, 1);
        if cut {
            proxy.inject(Fault::Reset, Target::Open).unwrap();
        }
        linger_zero(&server);
        drop(server);
        let error = (&client).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "cut: {cut}");
    }
}

#[test]
fn a_session_whose_policy_is_never_to_recover_ends_with_one_error_also_when_sealed() {
    let _limit = Limit::new("sealed, never", PATIENCE);
    let never = Config { policy: RecoveryPolicy::Never, ..sealed() };
    let ends = ends("127.0.0.1:0", never, sealed());
    (&ends.client).write_all(b"x").unwrap();
    read_exactly(&ends.server, 1);
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    let error = (&ends.client).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!((&ends.client).read(&mut [0]).unwrap(), 0, "the error is told once");
}

#[test]
fn the_number_of_bytes_that_can_be_read_is_exact_also_of_records() {
    let _limit = Limit::new("sealed FIONREAD", PATIENCE);
    let ends = sealed_pair();
    let number = ends.client.as_raw_fd();
    assert_eq!(posix::readable_bytes(number).unwrap(), 0);
    for (nth, length) in [1, 100, 5_000, 100_000].into_iter().enumerate() {
        (&ends.server).write_all(&data(nth as u64, length)).unwrap();
        wait_until("all is counted", || {
            let counted = posix::readable_bytes(number).unwrap();
            assert!(counted <= length, "{counted} of {length}");
            counted == length
        });
        assert!(read_exactly(&ends.client, length) == data(nth as u64, length));
        assert_eq!(posix::readable_bytes(number).unwrap(), 0);
    }
}

#[test]
fn a_sealed_writer_that_nobody_reads_is_bounded_and_goes_on_afterwards() {
    let _limit = Limit::new("sealed credit", PATIENCE);
    let ends = sealed_pair();
    ends.client.set_nonblocking(true).unwrap();
    let bytes = data(7, 64 * MIB);
    let taken = fill(&ends.client, &bytes);
    assert!(taken <= 5 * MIB, "{taken} bytes were taken");
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    ends.client.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(&ends.client, &bytes[taken..8 * MIB]));
        assert!(read_all(&ends.server) == bytes[..8 * MIB]);
    });
}

#[test]
fn a_blocking_reader_and_a_peeking_one_see_sealed_bytes_as_soon_as_they_are_there() {
    let _limit = Limit::new("sealed readers", PATIENCE);
    let ends = sealed_pair();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let client = &ends.client;
        let reader = scope.spawn(move || {
            // SAFETY: a number, nothing else.
            tell.send(unsafe { libc::gettid() }).unwrap();
            read_exactly(client, 5)
        });
        let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
        wait_until("the reader sleeps", || {
            std::fs::read_to_string(&stat).unwrap().contains(") S ")
        });
        (&ends.server).write_all(b"woken").unwrap();
        assert_eq!(reader.join().unwrap(), b"woken");
    });
    (&ends.server).write_all(b"looked at").unwrap();
    let mut buf = [0; 64];
    wait_until("all can be seen", || ends.client.peek(&mut buf).unwrap() == 9);
    assert_eq!(&buf[..9], b"looked at");
    assert_eq!(read_exactly(&ends.client, 9), b"looked at");
}

/// A byte was taken out of the stream, and what is left waits for the next record: neither end has
/// anything else to go by.
#[test]
fn a_sealed_connection_that_stops_within_a_record_is_given_up_by_whoever_waits_for_the_rest() {
    let _limit = Limit::new("half a record", PATIENCE);
    begin();
    // The deadline of a record is never longer than that of a connect.
    let config = Config {
        connect_timeout: Duration::from_secs(2),
        probe_after: Duration::from_secs(3600),
        ..sealed()
    };
    for is_up in [true, false] {
        let listener = VirtualListener::bind_with("127.0.0.1:0", config.clone()).unwrap();
        // Behind handshake and START, in the message.
        let plan = vec![(300, Attack::Drop(1))];
        let (up, down) = if is_up { (plan, Vec::new()) } else { (Vec::new(), plan) };
        let mitm = Mitm::new(listener.local_addr().unwrap(), up, down);
        let client = VirtualStream::connect_with(mitm.addr(), config.clone()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (mut from, to) = if is_up { (&client, &server) } else { (&server, &client) };
        from.write_all(&data(1, 400)).unwrap();
        assert!(read_exactly(to, 400) == data(1, 400));
        assert_eq!((mitm.done(), client.info().unwrap().resumes), (1, 1), "up: {is_up}");
        let cause = to.info().unwrap().last_error.unwrap_or_default();
        assert!(cause.contains("record"), "{cause}");
    }
}

// ---------------------------------------------------------------------------------------------
// Processes

/// Forks; `child` runs in the new process, which ends with it.
fn fork_to(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the hooks of eversock care for its own thread; the child uses no other's locks.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        std::process::exit(i32::from(run.is_err()));
    }
    pid
}

fn echo(mut stream: &VirtualStream) {
    let mut buf = vec![0; 60_001];
    loop {
        match stream.read(&mut buf).unwrap() {
            0 => break,
            n => stream.write_all(&buf[..n]).unwrap(),
        }
    }
}

/// The server of the two tests below. Its child waits for a word of the test's before it serves.
#[test]
fn helper_process() {
    let Some((_, _)) = role() else { return };
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", sealed()).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    let (mut stream, _) = listener.accept().unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).unwrap();
    stream.write_all(&word).unwrap();
    let (mut wait, go) = std::io::pipe().unwrap();
    let pid = fork_to(|| {
        wait.read_exact(&mut [0]).unwrap();
        echo(&stream);
    });
    say("forked");
    assert!(hear());
    { &go }.write_all(b"!").unwrap();
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child failed");
    drop((stream, listener));
    std::process::exit(0);
}

/// Talks with the parent, then, cut or not, with the child; gives the resumes that there were.
fn through_a_fork(is_cut: bool) -> u64 {
    begin();
    let mut helper = Helper::spawn("helper_process", "server", "");
    let proxy = common::proxy_to(helper.addr());
    let mut client = VirtualStream::connect_with(proxy.local_addr(), sealed()).unwrap();
    client.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&client, 5), b"hello");
    assert_eq!(helper.word(), "forked");
    if is_cut {
        // Nobody uses the session: the parent's engine resumes it, and has it from then on.
        proxy.inject(Fault::Reset, Target::Open).unwrap();
        wait_until("resumed", || client.info().unwrap().resumes == 1);
    }
    helper.go();
    let bytes = data(8, MIB);
    std::thread::scope(|scope| {
        scope.spawn(|| send_and_end(&client, &bytes));
        assert!(read_all(&client) == bytes);
    });
    let resumes = client.info().unwrap().resumes;
    drop(client);
    assert!(helper.end().success());
    resumes
}

#[test]
fn a_child_that_alone_goes_on_with_a_sealed_session_needs_no_other_connection() {
    let _limit = Limit::new("a sealed fork", PATIENCE);
    assert_eq!(through_a_fork(false), 0);
}

#[test]
fn a_sealed_session_that_is_handed_to_another_process_goes_on_over_another_connection() {
    let _limit = Limit::new("a sealed hand-over", PATIENCE);
    assert_eq!(through_a_fork(true), 2, "one for the cut, one for the hand-over");
}

// ---------------------------------------------------------------------------------------------
// Who gets in

fn identity(byte: u8) -> StaticKey {
    StaticKey::from_bytes([byte; 32])
}

/// What a client with this configuration gets from a server with that one.
fn meet(client: Config, server: Config) -> Result<(VirtualStream, VirtualStream), i32> {
    begin();
    let listener = VirtualListener::bind_with("127.0.0.1:0", server).unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    match VirtualStream::connect_with(addr, client) {
        Ok(client) => Ok((client, listener.accept().unwrap().0)),
        Err(error) => {
            listener.set_nonblocking(true).unwrap();
            let nobody = listener.accept().map(|_| ()).unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "the server has a session");
            Err(error.raw_os_error().unwrap_or(0))
        }
    }
}

fn talk(pair: Result<(VirtualStream, VirtualStream), i32>) {
    let (client, server) = pair.unwrap();
    exchange(&client, &server, b"up", b"down");
}

#[test]
fn a_session_is_sealed_if_both_ends_agree_and_refused_to_those_who_do_not() {
    let _limit = Limit::new("sealing agreed", PATIENCE);
    let with = |sealing| Config { sealing, ..quick() };
    for (client, server, agreed) in [
        (Sealing::Never, Sealing::Never, true),
        (Sealing::Never, Sealing::Either, true),
        (Sealing::Either, Sealing::Either, true),
        (Sealing::Always, Sealing::Either, true),
        (Sealing::Either, Sealing::Always, true),
        (Sealing::Always, Sealing::Always, true),
        (Sealing::Never, Sealing::Always, false),
        (Sealing::Always, Sealing::Never, false),
        (Sealing::Either, Sealing::Never, false),
    ] {
        let met = meet(with(client), with(server));
        if agreed {
            talk(met);
        } else {
            assert_eq!(met.map(|_| ()), Err(libc::EACCES), "{client:?} and {server:?}");
        }
    }
}

#[test]
fn nobody_without_the_key_opens_a_session_with_a_keyed_listener() {
    let _limit = Limit::new("keyed", PATIENCE);
    let with = |key: Option<u8>, sealing| Config {
        key: key.map(|byte| PresharedKey([byte; 32])),
        sealing,
        ..quick()
    };
    for sealing in [Sealing::Never, Sealing::Always] {
        talk(meet(with(Some(1), sealing), with(Some(1), sealing)));
        for client in [None, Some(2)] {
            let met = meet(with(client, sealing), with(Some(1), sealing));
            assert_eq!(met.map(|_| ()), Err(libc::EACCES), "{client:?}");
        }
        let met = meet(with(Some(1), sealing), with(None, sealing));
        assert_eq!(met.map(|_| ()), Err(libc::EACCES));
    }
}

#[test]
fn static_keys_let_in_whom_the_other_side_knows_and_nobody_else() {
    let _limit = Limit::new("static keys", PATIENCE);
    let server = |allowed: Option<Vec<PublicKey>>| Config {
        identity: Some(identity(8)),
        allowed_clients: allowed,
        ..sealed()
    };
    let client = |knows: u8, is: Option<u8>| Config {
        server_key: Some(identity(knows).public()),
        identity: is.map(identity),
        ..sealed()
    };
    let friends = || Some(vec![identity(6).public(), identity(7).public()]);
    talk(meet(client(8, None), server(None)));
    talk(meet(client(8, Some(7)), server(None)));
    talk(meet(client(8, Some(7)), server(friends())));
    for (why, client, server) in [
        ("another server", client(9, None), server(None)),
        ("a stranger", client(8, Some(5)), server(friends())),
        ("one without a name", client(8, None), server(friends())),
        ("one who asks for nothing", sealed(), server(None)),
        ("a server without a key", client(8, None), sealed()),
    ] {
        assert_eq!(meet(client, server).map(|_| ()), Err(libc::EACCES), "{why}");
    }
}

/// It was "Permission denied", and nothing said which line of which file to look at.
#[test]
fn a_connect_to_a_server_with_another_key_than_the_one_listed_names_the_line() {
    let _limit = Limit::new("a changed key", PATIENCE);
    begin();
    let server = |byte| Config { identity: Some(identity(byte)), ..sealed() };
    let listener = VirtualListener::bind_with("127.0.0.1:0", server(8)).unwrap();
    let addr = listener.local_addr().unwrap();
    let path = std::env::temp_dir().join(format!("evs-changed-{}", std::process::id()));
    let known = eversock::builder().known_peers(&path, false).build();
    let client = || Config { known_servers: known.known_servers.clone(), ..sealed() };
    let listed = |byte: u8| {
        let text = format!("# servers\n{addr} {}\n", identity(byte).public());
        std::fs::write(&path, text).unwrap();
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, own).unwrap();
    };
    listed(8);
    let pair = VirtualStream::connect_with(addr, client()).map_err(|_| 0);
    talk(pair.map(|client| (client, listener.accept().unwrap().0)));

    listed(9);
    let socket = posix::socket(libc::AF_INET, libc::SOCK_STREAM, 0, client().share()).unwrap();
    let error = posix::connect(socket, addr).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    let said = posix::info(socket).unwrap().last_error.unwrap();
    let path_text = path.display();
    assert!(said.contains(&format!("{addr} has not proven to have")), "{said}");
    assert!(said.contains(&format!("the static key in {path_text}:2: ")), "{said}");
    assert!(said.contains(&format!("remove line 2 of {path_text}")), "{said}");
    posix::close(socket).unwrap();

    // Removed as it says: the refusal names the line to add.
    std::fs::write(&path, "# servers\n").unwrap();
    let socket = posix::socket(libc::AF_INET, libc::SOCK_STREAM, 0, client().share()).unwrap();
    let error = posix::connect(socket, addr).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    let said = posix::info(socket).unwrap().last_error.unwrap();
    let line = format!("{addr} {}", identity(8).public());
    assert!(said.contains(&format!("add this line to {path_text}: {line}")), "{said}");
    posix::close(socket).unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_session_with_static_keys_is_resumed_by_its_secret() {
    let _limit = Limit::new("static keys through cuts", PATIENCE);
    let server = Config {
        identity: Some(identity(8)),
        allowed_clients: Some(vec![identity(7).public()]),
        ..sealed()
    };
    let client =
        Config { server_key: Some(identity(8).public()), identity: Some(identity(7)), ..sealed() };
    let ends = ends("127.0.0.1:0", client, server);
    let hit = through(&ends, 4 * MIB, 200_001, &Fault::Reset);
    assert!(hit > 0, "only {hit} cuts");
}

#[test]
fn keys_that_do_not_go_together_are_refused_before_anything_is_said() {
    let _limit = Limit::new("contradicting keys", PATIENCE);
    let client = Config {
        key: Some(PresharedKey([1; 32])),
        server_key: Some(identity(8).public()),
        ..sealed()
    };
    assert!(meet(client, sealed()).is_err());
    let nameless = Config { identity: Some(identity(7)), ..sealed() };
    assert!(meet(nameless, sealed()).is_err(), "a name without a server to tell it to");
}

#[test]
fn an_outage_of_a_sealed_session_is_survived_while_the_program_waits() {
    let _limit = Limit::new("sealed outage", PATIENCE);
    let ends = sealed_pair();
    (&ends.client).write_all(b"before").unwrap();
    assert_eq!(read_exactly(&ends.server, 6), b"before");
    ends.proxy.inject(Fault::Refuse(eversock_chaos::Refusal::Reset(None)), Target::All).unwrap();
    ends.proxy.inject(Fault::Reset, Target::Open).unwrap();
    wait_until("the outage", || ends.client.info().unwrap().state == State::Detached);
    (&ends.client).write_all(b"meanwhile").unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_exactly(&ends.server, 9));
        ends.proxy.inject(Fault::Heal, Target::All).unwrap();
        assert_eq!(reader.join().unwrap(), b"meanwhile");
    });
    ends.client.shutdown(Shutdown::Both).unwrap();
}
