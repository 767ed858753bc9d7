//! Sessions of this process with guests, of whom the test reads and writes the ends.

use std::io::IoSlice;

use super::*;
use crate::Config;
use crate::sys::fd;
use eversock_proto::send::{GATHER_SLICES, Sender};
use eversock_proto::wire::frame::Acks;
use rustix::net::SocketType;

/// A session of this process, its connection, and the other end of that.
fn session(window: u64) -> (Arc<Socket>, Fd, Fd) {
    let engine = crate::reactor::engine().expect("an engine");
    let config = Config { window, window_max: window, ..Config::default() };
    let (real, peer) = sys::tcp::loopback_pair().expect("a connection");
    let number = real.as_raw_fd();
    let socket = Arc::new(Socket::new(engine.next_id(), Arc::new(config), vec![number], 0));
    let opened = eversock_proto::open::Opened {
        id: eversock_proto::secret::SessionId::new(1, fd::random_u64()),
        secret: eversock_proto::secret::Secret::from_bytes([6; 32]),
        window,
        grace: Duration::ZERO,
        addrs: Vec::new(),
        peer: None,
        shares: false,
        cipher: None,
        keys: None,
    };
    let role = eversock_proto::control::Role::Server;
    crate::reactor::furnish(&socket, role, opened).expect("furnished");
    assert!(socket.owner.claim(engine.instance, true));
    socket.settle(number, 1, None).expect("settled");
    (socket, real, peer)
}

/// What the peer sends.
fn sender(window: u64) -> Sender {
    let engine = crate::reactor::engine().expect("an engine");
    let mut sender = Sender::new(Arc::clone(&engine.pool), 0, window);
    sender.begin_epoch(0).expect("an epoch");
    sender
}

/// Sends what the connection takes of what is to be sent; false when that was all.
fn say(peer: &Fd, sender: &mut Sender) -> bool {
    if !sender.prepare(Acks::default()) {
        return false;
    }
    let mut slices = [IoSlice::new(&[]); GATHER_SLICES];
    let (count, _) = sender.gather(&mut slices);
    match sys::io::send(peer.as_raw_fd(), &slices[..count], false) {
        Ok(n) => sender.sent(n),
        Err(error) => assert!(would_block(&error), "{error}"),
    }
    true
}

/// A guest, with room for all that one turn moves.
fn guest(socket: &Arc<Socket>, can_ask: bool) -> Arc<End> {
    let (near, far) = sys::tcp::loopback_pair().expect("a pair");
    let much = (1024 * 1024i32).to_ne_bytes();
    sys::tcp::set_option(far.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &much).expect("room");
    let (line, _their_line) = fd::unix_pair(SocketType::SEQPACKET).expect("a line");
    let end = End::new(far, near, line, can_ask);
    socket.add_guest(Arc::clone(&end));
    end
}

/// A session of two guests, and what the peer says.
struct Shared {
    socket: Arc<Socket>,
    _real: Fd,
    peer: Fd,
    sender: Sender,
    until: Instant,
}

impl Shared {
    fn new() -> Self {
        let window = 1024 * 1024;
        let (socket, real, peer) = session(window);
        let until = clock::now() + Duration::from_secs(20);
        Self { socket, _real: real, peer, sender: sender(window), until }
    }

    fn say(&mut self, text: &str) {
        assert_eq!(self.sender.write(text.as_bytes()), text.len());
        while say(&self.peer, &mut self.sender) {}
    }

    /// What has had no room is said; false when there is none.
    fn say_more(&mut self) -> bool {
        say(&self.peer, &mut self.sender)
    }

    fn end(&mut self) {
        self.sender.finish();
        while say(&self.peer, &mut self.sender) {}
    }

    /// Serves the guests until this one has `bytes` to read.
    fn fill(&self, end: &End, bytes: usize) {
        while end.in_pair() < bytes {
            assert!(clock::now() < self.until, "it has {} of {bytes} bytes", end.in_pair());
            self.socket.serve_guests(false);
        }
    }

    /// What this guest reads, up to the end if that has been told.
    fn read(&self, end: &End, bytes: usize) -> String {
        self.fill(end, bytes);
        let mut buf = vec![0; bytes];
        let n = sys::io::recv_one(end.near.as_raw_fd(), &mut buf).expect("it has bytes");
        String::from_utf8_lossy(&buf[..n]).into_owned()
    }
}

/// The rest lay in the stash, of which no event tells: the guest waited for ever, and now and
/// then a test with it.
#[test]
fn a_turn_that_leaves_bytes_in_the_stash_is_to_be_taken_again_until_a_guest_has_all() {
    const BYTES: usize = 600_000;
    let window = 1024 * 1024;
    let (socket, _real, peer) = session(window);
    // All of it is read ahead before the guest gets anything.
    let mut sender = sender(window);
    let mut left = BYTES;
    while left > 0 || sender.prepare(Acks::default()) {
        left -= sender.write(&vec![7; left]);
        say(&peer, &mut sender);
        socket.read_ahead();
    }
    let stashed = || {
        let rx = socket.rx.lock().expect("the lock");
        rx.receiver.as_ref().expect("a receiver").stashed()
    };
    while stashed() < BYTES {
        socket.read_ahead();
    }
    let end = guest(&socket, false);
    let mut got = 0;
    loop {
        let left = socket.serve_guests(false);
        let mut buf = vec![0; BYTES];
        while let Ok(n) = sys::io::recv_one(end.near.as_raw_fd(), &mut buf) {
            got += n;
        }
        if !left.again {
            break;
        }
    }
    assert_eq!(got, BYTES);
}

/// They were the program's alone: where an exec had failed, whose pump had got them, they were
/// lost to the process that went on with the session as a guest.
#[test]
fn what_a_guest_has_left_unread_is_read_by_the_guest_that_stays_and_before_what_comes_later() {
    let mut shared = Shared::new();
    let goes = guest(&shared.socket, false);
    shared.say("first, ");
    shared.fill(&goes, 7);
    let stays = guest(&shared.socket, false);
    shared.say("second");
    assert_eq!(shared.socket.remove_guest(&goes), Removal::Done);
    assert_eq!(shared.read(&stays, 13), "first, second");
}

/// A helper program that had the number and never read took a parent's request for itself
/// (review).
#[test]
fn who_asks_gets_what_another_has_not_read() {
    let mut shared = Shared::new();
    let idle = guest(&shared.socket, false);
    let reader = guest(&shared.socket, true);
    shared.say("to the one ");
    shared.fill(&idle, 11);
    reader.ask();
    shared.say("who reads");
    assert_eq!(shared.read(&reader, 20), "to the one who reads");
    // It is the last that asked: what comes now is put there too.
    shared.say(", again");
    assert_eq!(shared.read(&reader, 7), ", again");
}

/// Each turn began with the first of them: the program got the pieces of both in the order of
/// the guests, not in that of the stream (review).
#[test]
fn what_lies_unread_with_several_guests_is_taken_back_in_order() {
    let mut shared = Shared::new();
    let guests = [guest(&shared.socket, false), guest(&shared.socket, false)];
    let unread = || guests.iter().map(|end| end.in_pair()).sum::<usize>();
    let mut said = String::new();
    for n in 0..50 {
        let word = format!("{n} ");
        shared.say(&word);
        said += &word;
        while unread() < said.len() {
            assert!(clock::now() < shared.until, "{} of {}", unread(), said.len());
            shared.socket.serve_guests(n % 3 == 0);
        }
    }
    shared.socket.take_back();
    let mut got = vec![0; said.len()];
    let n = shared.socket.read_returned(&mut [IoSliceMut::new(&mut got)], false);
    assert_eq!((n, String::from_utf8(got)), (Some(said.len()), Ok(said)));
}

/// The other never had a turn (review).
#[test]
fn a_guest_that_does_not_touch_what_it_has_got_gives_way_to_the_next() {
    let mut shared = Shared::new();
    let reader = guest(&shared.socket, false);
    let idle = guest(&shared.socket, false);
    shared.say("to whom?");
    shared.fill(&idle, 8);
    while reader.in_pair() == 0 {
        assert!(shared.socket.serve_guests(true).look, "no further look is wanted");
        assert!(clock::now() < shared.until, "it keeps what it does not read");
    }
    assert_eq!(shared.read(&reader, 8), "to whom?");
}

/// It read an end instead of the last bytes, which another guest had and left (review).
#[test]
fn nobody_is_told_of_the_end_before_the_bytes_that_another_may_leave() {
    let mut shared = Shared::new();
    let goes = guest(&shared.socket, false);
    shared.say("the last");
    shared.fill(&goes, 8);
    let stays = guest(&shared.socket, true);
    shared.end();
    for _ in 0..10 {
        shared.socket.serve_guests(false);
    }
    assert!(!stays.told.load(Ordering::SeqCst));
    stays.ask();
    assert_eq!(shared.read(&stays, 8), "the last");
    while !stays.told.load(Ordering::SeqCst) {
        assert!(clock::now() < shared.until, "the end is not told");
        shared.socket.serve_guests(false);
    }
}

/// A look at the kernel's queue alone sent a reader to sleep over what a guest had just got, or
/// had just left (review).
#[test]
fn a_reader_does_not_sleep_while_a_guest_has_something_unread() {
    let mut shared = Shared::new();
    let leaves = guest(&shared.socket, false);
    assert!(!shared.socket.is_woken());
    shared.say("unread");
    shared.fill(&leaves, 6);
    assert!(shared.socket.is_woken(), "it lies with the guest");
    assert_eq!(shared.socket.remove_guest(&leaves), Removal::Done);
    assert!(shared.socket.is_woken(), "it has come back");
}

/// The lock of what a pair had no room for was asked for by who waits in epoll, under the set's
/// lock, and held by the engine while it told the set of input: both stood still (review).
#[test]
fn who_looks_whether_there_is_input_waits_for_nobody_who_moves_it() {
    let shared = Shared::new();
    let end = guest(&shared.socket, false);
    let _moving = end.rest.lock().expect("the lock");
    let socket = Arc::clone(&shared.socket);
    let looks = std::thread::spawn(move || {
        let _ = (socket.readiness(), socket.is_woken());
    });
    while !looks.is_finished() {
        assert!(clock::now() < shared.until, "it waits");
        std::thread::yield_now();
    }
}

/// The program read on in what it had taken back while its beginning lay with a guest again
/// (review).
#[test]
fn what_a_guest_has_got_again_is_read_before_what_it_has_not() {
    const BYTES: usize = 200_000;
    let mut shared = Shared::new();
    let said: String = (0..).map(|n| format!("{n} ")).take(BYTES / 5).collect();
    shared.say(&said);
    let guests = [guest(&shared.socket, false), guest(&shared.socket, false)];
    let mut got = String::new();
    while got.len() < said.len() {
        assert!(clock::now() < shared.until, "{} of {}", got.len(), said.len());
        // Whatever it has is put into a pair as far as it goes, and half of the rest is not.
        shared.socket.serve_guests(false);
        while shared.say_more() {}
        let mut buf = vec![0; 3000];
        let slices = &mut [IoSliceMut::new(&mut buf)];
        if !shared.socket.has(bits::RETURNED) {
            assert!(shared.socket.take_back());
        }
        let n = shared.socket.recv_returned(slices, false).expect("no fault");
        got += &String::from_utf8_lossy(&buf[..n.unwrap_or(0)]);
    }
    assert!(got == said, "out of order");
    drop(guests);
}

/// What lay in the kernel's queue of the first could not be taken in one piece, so the second
/// never got anything (review).
#[test]
fn who_asks_gets_what_fills_the_pair_of_one_that_reads_no_more() {
    const BYTES: usize = 900_000;
    let mut shared = Shared::new();
    let (near, far) = guest_pair().expect("a pair");
    let (line, _their_line) = fd::unix_pair(SocketType::SEQPACKET).expect("a line");
    let idle = End::new(far, near, line, false);
    shared.socket.add_guest(Arc::clone(&idle));
    let said = "0123456789".repeat(BYTES / 10);
    shared.say(&said);
    while idle.rest_bytes.load(Ordering::SeqCst) == 0 {
        assert!(clock::now() < shared.until, "it never is full");
        shared.socket.serve_guests(false);
        while shared.say_more() {}
    }
    let reader = guest(&shared.socket, true);
    reader.ask();
    let mut got = String::new();
    while got.len() < said.len() {
        assert!(clock::now() < shared.until, "{} of {}", got.len(), said.len());
        shared.socket.serve_guests(true);
        while shared.say_more() {}
        let mut buf = vec![0; BYTES];
        if let Ok(n) = sys::io::recv_one(reader.near.as_raw_fd(), &mut buf) {
            got += &String::from_utf8_lossy(&buf[..n]);
        }
    }
    assert!(got == said, "out of order");
}

/// What the pair had no room for was cut off behind a clean end (review).
#[test]
fn a_slow_guest_reads_all_before_the_end_of_a_session_that_is_over() {
    const BYTES: usize = 900_000;
    let mut shared = Shared::new();
    let (near, far) = guest_pair().expect("a pair");
    let (line, _their_line) = fd::unix_pair(SocketType::SEQPACKET).expect("a line");
    let end = End::new(far, near, line, false);
    let silent = guest(&shared.socket, true);
    shared.socket.add_guest(Arc::clone(&end));
    let said = "0123456789".repeat(BYTES / 10);
    shared.say(&said);
    shared.end();
    let mut over = false;
    let mut got = 0;
    loop {
        assert!(clock::now() < shared.until, "{got} of {BYTES}");
        shared.socket.serve_guests(true);
        while shared.say_more() {}
        let is_at_end = {
            let rx = shared.socket.rx.lock().expect("the lock");
            rx.receiver.as_ref().is_some_and(|receiver| receiver.is_at_end())
        };
        if is_at_end && !over {
            assert!(end.unread() > 0, "it is no slow guest");
            shared.socket.guests_are_over();
            over = true;
        }
        if over && got < BYTES {
            assert!(!silent.told.load(Ordering::SeqCst));
        }
        let mut buf = vec![0; 10_000];
        match sys::io::recv_one(end.near.as_raw_fd(), &mut buf) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(_) => {}
        }
    }
    assert_eq!(got, BYTES);
    while !silent.told.load(Ordering::SeqCst) {
        assert!(clock::now() < shared.until, "the other is not told");
        shared.socket.serve_guests(true);
    }
}

/// Its pair had lost what was on its way, which was waited for, and the processor with it, for ever
/// (review).
#[test]
fn a_guest_that_shuts_its_pair_and_gets_bytes_all_the_same_keeps_nobody() {
    let mut shared = Shared::new();
    let shuts = guest(&shared.socket, false);
    rustix::net::shutdown(&shuts.near, rustix::net::Shutdown::Both).expect("shut");
    let stays = guest(&shared.socket, true);
    let mut said = String::new();
    let mut got = 0;
    while got == 0 {
        assert!(clock::now() < shared.until, "nothing comes");
        shared.say("again ");
        said += "again ";
        shared.socket.serve_guests(true);
        stays.ask();
        let mut buf = vec![0; said.len()];
        got = sys::io::recv_one(stays.near.as_raw_fd(), &mut buf).unwrap_or(0);
    }
    while shared.socket.remove_guest(&shuts) == Removal::Later {
        assert!(clock::now() < shared.until, "it is never rid of");
    }
    assert!(shared.socket.take_back());
}

/// Each timer of a look that had given way to an earlier one planned the next: hundreds a second
/// after a while (review).
#[test]
fn a_look_that_gives_way_to_an_earlier_one_comes_no_more() {
    let shared = Shared::new();
    let _guest = guest(&shared.socket, false);
    let mut planned = Vec::new();
    for _ in 0..6 {
        planned.push(shared.socket.plan_look().expect("none is planned"));
        assert!(shared.socket.plan_look().is_none(), "one is planned");
        while !shared.socket.look_has_come() {
            assert!(clock::now() < shared.until, "it is never due");
            std::thread::yield_now();
        }
        assert!(!shared.socket.look_has_come(), "it has come");
    }
    let late = shared.socket.plan_look().expect("none is planned");
    shared.socket.look_soon();
    let soon = shared.socket.plan_look().expect("none is planned");
    assert!(soon < late, "somebody reads now");
    while clock::now() < late {
        std::thread::yield_now();
    }
    assert!(shared.socket.look_has_come() && !shared.socket.look_has_come(), "one of both");
}

/// Who had shut its pair was waited for until its end (review).
#[test]
fn the_end_is_told_although_one_guest_has_shut_its_pair_with_bytes_unread() {
    let mut shared = Shared::new();
    let shuts = guest(&shared.socket, false);
    rustix::net::shutdown(&shuts.near, rustix::net::Shutdown::Both).expect("shut");
    while !shuts.is_broken() {
        assert!(clock::now() < shared.until, "nobody notices");
        shared.say("again ");
        shared.socket.serve_guests(true);
    }
    let silent = guest(&shared.socket, true);
    shared.end();
    shared.socket.guests_are_over();
    while !silent.told.load(Ordering::SeqCst) {
        assert!(clock::now() < shared.until, "the other is not told");
        shared.socket.read_ahead();
        shared.socket.serve_guests(true);
        shared.socket.take_back();
        let mut buf = [0; 4096];
        let _rest = shared.socket.recv_returned(&mut [IoSliceMut::new(&mut buf)], false);
    }
    assert!(!shared.socket.has_untold_guests());
}

/// A relative had the session as it was at the fork: another peer's end, and addresses that were
/// withdrawn since.
#[test]
fn who_gets_a_session_from_a_relative_knows_its_peer_and_route_as_they_are() {
    use eversock_proto::identity::PublicKey;
    let engine = crate::reactor::engine().expect("an engine");
    let (ours, _real, _peer) = session(1 << 16);
    let (theirs, _other_real, _other_peer) = session(1 << 16);
    let at = |port: u16| core::net::SocketAddr::from(([127, 0, 0, 1], port));
    {
        let mut meta = ours.meta.lock().expect("a lock");
        meta.announced(&[at(3)]);
        let rare = meta.rare_mut();
        (rare.peer_key, rare.shares) = (Some(PublicKey([7; 32])), true);
        rare.route = Some((at(1), at(2)));
    }
    theirs.meta.lock().expect("a lock").announced(&[at(9)]);
    let mut carried = Vec::new();
    let asker = engine.instance ^ 4;
    let given = ours.hand_over(engine.instance, asker, |state, _| {
        carried = state.to_vec();
        Ok(())
    });
    assert!(matches!(given, Ok(Ok(()))), "{given:?}");
    theirs.take_over(&carried, None).expect("taken");
    let meta = theirs.meta.lock().expect("a lock");
    let rare = meta.rare();
    assert_eq!((rare.peer_key, rare.shares), (Some(PublicKey([7; 32])), true));
    assert_eq!(rare.route, Some((at(1), at(2))));
    assert_eq!((&meta.candidates, &rare.announced), (&vec![at(3)], &vec![at(3)]));
}
