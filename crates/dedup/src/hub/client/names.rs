//! What names say of a server (the fourth embodiment): where else it may be, and which of the
//! sessions that stand it might be. Hints only; what they lead to has to prove itself.

use std::sync::atomic::Ordering;

use eversock_engine::names;

use super::*;

/// Look-ups at a time; a session beyond goes without.
const RESOLVERS_MAX: usize = 4;
/// Addresses that names may add to a session.
const HINTS_MAX: usize = 16;

impl Client {
    /// Looks for other addresses of a session's server, on a thread of its own: resolvers block.
    pub(super) fn look_up(&self, session: u64, how: &How, number: RawFd) {
        let addr = posix::link(number).ok().and_then(|link| link.peer);
        let (true, Some(addr)) = (self.config.hints, addr) else { return };
        if self.resolvers.fetch_add(1, Ordering::Relaxed) >= RESOLVERS_MAX {
            self.resolvers.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (line, host) = (self.line.clone(), how.host.clone());
        let resolvers = Arc::clone(&self.resolvers);
        let run = move || {
            let addrs = addresses_of(addr, host);
            resolvers.fetch_sub(1, Ordering::Relaxed);
            if !addrs.is_empty() {
                line.tell(Command::Hinted { session, addrs });
            }
        };
        if let Err(error) = eversock_engine::host::spawn(c"eversock-names", run) {
            self.resolvers.fetch_sub(1, Ordering::Relaxed);
            log::debug!("names are not looked up: {error}");
        }
    }

    /// The session is looked for at these too, once it is lost; and asked first whether they are
    /// its server's.
    pub(super) fn hinted(&mut self, session: u64, addrs: &[SocketAddr]) {
        let Some(held) = self.by_session.get(&session).and_then(|id| self.held.get_mut(id)) else {
            return;
        };
        log::debug!("session {session}: its server's names lead to {addrs:?}");
        held.hints = addrs.to_vec();
        let known = posix::candidates(held.number).unwrap_or_default();
        held.only_hinted = addrs.iter().filter(|addr| !known.contains(addr)).copied().collect();
        look(&self.books).hints.insert(session, addrs.len());
        if let Err(error) = posix::add_candidates(held.number, addrs) {
            log::debug!("session {session}: {error}");
        }
    }

    /// How likely it is that these addresses belong to the session's server: more is likelier.
    pub(super) fn likelihood(&self, session: u64, addrs: &[SocketAddr]) -> usize {
        let held = self.by_session.get(&session).and_then(|id| self.held.get(id));
        held.map_or(0, |held| addrs.iter().filter(|addr| held.hints.contains(addr)).count())
    }
}

/// All addresses that the names of an address, and the name that was asked for, lead to.
fn addresses_of(addr: SocketAddr, host: Option<(String, u16)>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = Vec::new();
    let mut asked = Vec::new();
    let reverse = names::reverse(addr.ip());
    for name in host.map(|(name, _)| name).into_iter().chain(reverse) {
        ask(name, addr.port(), &mut asked, &mut all);
    }
    all.retain(|found| *found != addr);
    all.truncate(HINTS_MAX);
    all
}

fn ask(name: String, port: u16, asked: &mut Vec<String>, all: &mut Vec<SocketAddr>) {
    if asked.contains(&name) {
        return;
    }
    let found = names::lookup(&name, port);
    asked.push(name);
    let Ok(found) = found else { return };
    for addr in found.addrs {
        if !all.contains(&addr) {
            all.push(addr);
        }
    }
    if let Some(canonical) = found.canonical.filter(|name| !asked.contains(name)) {
        // One step: an alias of an alias is the resolver's to follow.
        asked.push(canonical.clone());
        let more = names::lookup(&canonical, port).map(|found| found.addrs).unwrap_or_default();
        all.extend(more.into_iter().filter(|addr| !all.contains(addr)).collect::<Vec<_>>());
    }
}
