//! The rules of this process, and what they mean to the engine.

use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use eversock_engine::keys::KeyFiles;
use eversock_engine::{
    Answer, Calls, Config, FaultReport, KnownServers, KnowsServers, LineUp, Mode, Peers, PublicKey,
    RecoveryPolicy,
};
use eversock_rules::{Policy, Rule, Rules};
use libc::c_int;

use crate::next::symbol;
use crate::{edge, voice};

/// The rules, each with its configuration. Never freed: a reader may be anywhere.
pub(crate) struct Setup {
    rules: Rules,
    connect: Vec<Arc<Config>>,
    listen: Vec<Arc<Config>>,
}

static SETUP: AtomicPtr<Setup> = AtomicPtr::new(std::ptr::null_mut());

/// Switches the library off, whatever rules there are.
const OFF: &CStr = c"EVERSOCK_OFF";

fn is_set(name: &CStr) -> bool {
    // SAFETY: the name ends with a NUL. The environment is read as std's own `var` reads it.
    !unsafe { libc::getenv(name.as_ptr()) }.is_null()
}

/// The rules, loaded at the first call that needs them.
pub(crate) fn setup() -> &'static Setup {
    let found = SETUP.load(Ordering::Acquire);
    // SAFETY: null or from `Box::into_raw`, and never freed.
    match unsafe { found.as_ref() } {
        Some(setup) => setup,
        None => load(),
    }
}

#[cold]
fn load() -> &'static Setup {
    let before = edge::errno();
    voice::begin();
    let rules = if is_set(OFF) || stands_down() { Ok(Rules::default()) } else { read_rules() };
    let rules = rules.and_then(|rules| {
        // Before any call can lead into the engine, which would lead back here.
        if rules.is_empty() || divert_engine() {
            return Ok(rules);
        }
        Err("this libc lacks a call that eversock needs".to_owned())
    });
    let setup = rules.and_then(Setup::new).unwrap_or_else(|problem| {
        voice::say(format_args!("{problem}"));
        voice::say(format_args!("nothing is virtual in this process until that is mended"));
        Setup { rules: Rules::default(), connect: Vec::new(), listen: Vec::new() }
    });
    edge::set_errno(before);
    publish(std::ptr::null_mut(), setup)
}

/// A program that has eversock in it decides itself what is virtual.
fn stands_down() -> bool {
    let found = eversock_engine::is_in_another_object();
    if found {
        log::info!("the program has eversock in it: the preload stands down");
    }
    found
}

fn read_rules() -> Result<Rules, String> {
    eversock_rules::from_environment(|name| std::env::var_os(name)).map_err(|e| e.to_string())
}

/// Puts `setup` in the place of `old`. Of two threads the first wins.
fn publish(old: *mut Setup, setup: Setup) -> &'static Setup {
    let new = Box::into_raw(Box::new(setup));
    match SETUP.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: from `Box::into_raw`, and never freed.
        Ok(_) => unsafe { &*new },
        Err(other) => {
            // SAFETY: ours was not published.
            drop(unsafe { Box::from_raw(new) });
            // SAFETY: published, so never freed.
            unsafe { &*other }
        }
    }
}

impl Setup {
    fn new(rules: Rules) -> Result<Self, String> {
        let all = |rules: &[Rule]| -> Result<Vec<Arc<Config>>, String> {
            rules.iter().map(|rule| config(rule).map(Arc::new)).collect()
        };
        Ok(Self { connect: all(&rules.connect)?, listen: all(&rules.listen)?, rules })
    }

    /// True when nothing can become virtual.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// True when a listener can become virtual.
    pub(crate) fn has_listeners(&self) -> bool {
        !self.listen.is_empty()
    }

    /// The rule for a connection to `peer`, and what it means.
    pub(crate) fn for_connect(
        &'static self,
        peer: SocketAddr,
    ) -> Option<(&'static Rule, &'static Arc<Config>)> {
        let rule = self.rules.for_connect(peer)?;
        self.rules.connect.iter().zip(&self.connect).find(|(one, _)| std::ptr::eq(*one, rule))
    }

    /// The rule for a listener at `local`, and what it means.
    pub(crate) fn for_listen(&self, local: SocketAddr) -> Option<(&Rule, &Arc<Config>)> {
        let rule = self.rules.for_listen(local)?;
        self.rules.listen.iter().zip(&self.listen).find(|(one, _)| std::ptr::eq(*one, rule))
    }

    /// True when a rule waits for the addresses of this name.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.rules.names().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// Remembers what a name's addresses are, for the rules that name it.
pub(crate) fn learn(name: &str, found: &[IpAddr]) {
    loop {
        let old = setup();
        let mut rules = old.rules.clone();
        rules.learn(name, found);
        if rules == old.rules {
            return;
        }
        let new = Setup { rules, connect: old.connect.clone(), listen: old.listen.clone() };
        // The old one stays allocated: rules have a bounded number of addresses, so this ends.
        publish(std::ptr::from_ref(old).cast_mut(), new);
    }
}

fn config(rule: &Rule) -> Result<Config, String> {
    let default = Config::default();
    let any = rule.mode == eversock_rules::Mode::Auto;
    let mut config = Config {
        mode: Mode::Direct,
        policy: policy(rule),
        line_up: rule.line_up.clone().map(LineUp::Command),
        redial_limit: rule.redial_limit.unwrap_or(default.redial_limit),
        grace: rule.grace.unwrap_or(default.grace),
        peers: if any { Peers::Any } else { Peers::Eversock },
        server_speaks_first: rule.server_speaks_first,
        sessions_max: rule.sessions_max.unwrap_or(default.sessions_max),
        memory_max: rule.memory_max.unwrap_or(default.memory_max),
        handshakes_per_source: rule.handshakes_per_source.unwrap_or(default.handshakes_per_source),
        ..default
    };
    let files = KeyFiles {
        key: rule.key.as_deref(),
        sealed: rule.sealed,
        identity: rule.identity.as_deref(),
        known_peers: rule.known_peers.as_deref(),
        accept_new: rule.accept_new,
        allowed_clients: rule.allowed_clients.as_deref(),
    };
    files.read_into(&mut config).map_err(|error| error.to_string())?;
    let aloud = |KnownServers(known)| KnownServers(Arc::new(Aloud(known)));
    config.known_servers = config.known_servers.map(aloud);
    Ok(config)
}

/// Servers' keys, with a word for the user whose program gets no more than "Permission denied".
struct Aloud(Arc<dyn KnowsServers>);

impl KnowsServers for Aloud {
    fn key_of(&self, host: &str, port: u16) -> Result<Option<PublicKey>, String> {
        self.0.key_of(host, port)
    }

    fn first_seen(&self, host: &str, port: u16, key: PublicKey) -> Result<(), String> {
        self.0.first_seen(host, port, key).inspect_err(|error| {
            voice::say(format_args!("{error}"));
        })
    }

    fn not_proven(&self, host: &str, port: u16) -> String {
        let problem = self.0.not_proven(host, port);
        voice::say(format_args!("{problem}"));
        problem
    }
}

fn policy(rule: &Rule) -> RecoveryPolicy {
    let on_fault = rule.on_fault.clone();
    match (rule.policy, on_fault) {
        (Policy::Auto, None) => RecoveryPolicy::Automatic,
        (Policy::Ask, None) => RecoveryPolicy::AskOutside,
        (Policy::Never, None) => RecoveryPolicy::Never,
        (policy, Some(command)) => RecoveryPolicy::Ask(Arc::new(move |fault| {
            let success = run(&command, fault);
            let go_on = match policy {
                Policy::Auto => true,
                Policy::Ask => success,
                Policy::Never => false,
            };
            if go_on { Answer::Continue } else { Answer::GiveUp }
        })),
    }
}

/// Runs an `on-fault` command; true if it says yes by its exit status.
fn run(command: &str, fault: &FaultReport) -> bool {
    let peer = fault.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let child = Command::new("/bin/sh")
        .args(["-c", command])
        .env_remove("LD_PRELOAD")
        .env("EVS_SESSION", &fault.session)
        .env("EVS_PEER", peer)
        .env("EVS_EPOCH", fault.epoch.to_string())
        .env("EVS_CAUSE", &fault.cause)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    for _ in 0..ON_FAULT_MAX.as_millis() / ON_FAULT_TICK.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(ON_FAULT_TICK),
            Err(_) => break,
        }
    }
    let _gone = child.kill();
    let _gone = child.wait();
    false
}

/// How long an `on-fault` command may take.
const ON_FAULT_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at.
const ON_FAULT_TICK: Duration = Duration::from_millis(20);

/// Makes the engine's own calls pass us by. False if this libc lacks one.
fn divert_engine() -> bool {
    use libc::{
        c_void, epoll_event, msghdr, nfds_t, pollfd, sigset_t, size_t, socklen_t, ssize_t, timespec,
    };
    let found = (
        symbol!(c"close" as unsafe extern "C-unwind" fn(c_int) -> c_int),
        symbol!(
            c"epoll_ctl"
                as unsafe extern "C-unwind" fn(c_int, c_int, c_int, *mut epoll_event) -> c_int
        ),
        symbol!(
            c"epoll_pwait"
                as unsafe extern "C-unwind" fn(
                    c_int,
                    *mut epoll_event,
                    c_int,
                    c_int,
                    *const sigset_t,
                ) -> c_int
        ),
        symbol!(
            c"getsockopt"
                as unsafe extern "C-unwind" fn(
                    c_int,
                    c_int,
                    c_int,
                    *mut c_void,
                    *mut socklen_t,
                ) -> c_int
        ),
        symbol!(
            c"ppoll"
                as unsafe extern "C-unwind" fn(
                    *mut pollfd,
                    nfds_t,
                    *const timespec,
                    *const sigset_t,
                ) -> c_int
        ),
        symbol!(
            c"recv" as unsafe extern "C-unwind" fn(c_int, *mut c_void, size_t, c_int) -> ssize_t
        ),
        symbol!(c"recvmsg" as unsafe extern "C-unwind" fn(c_int, *mut msghdr, c_int) -> ssize_t),
        symbol!(c"sendmsg" as unsafe extern "C-unwind" fn(c_int, *const msghdr, c_int) -> ssize_t),
        symbol!(
            c"setsockopt"
                as unsafe extern "C-unwind" fn(
                    c_int,
                    c_int,
                    c_int,
                    *const c_void,
                    socklen_t,
                ) -> c_int
        ),
    );
    let (
        Some(close),
        Some(epoll_ctl),
        Some(epoll_pwait),
        Some(getsockopt),
        Some(ppoll),
        Some(recv),
        Some(recvmsg),
        Some(sendmsg),
        Some(setsockopt),
    ) = found
    else {
        return false;
    };
    let calls = Calls {
        close,
        epoll_ctl,
        epoll_pwait,
        getsockopt,
        ppoll,
        recv,
        recvmsg,
        sendmsg,
        setsockopt,
    };
    // SAFETY: the next definitions of just these names.
    unsafe { eversock_engine::set_calls(calls) };
    true
}
