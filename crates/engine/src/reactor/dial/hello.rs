//! What a dial says and hears: OPEN for a new session, RESUME for one that stands.

use super::*;

/// What this side brings to an open.
pub(in crate::reactor) fn offer(config: &Config, role: Role) -> Offer {
    let server = match config.server_key {
        Some(key) if role == Role::Client => ServerKey::Known(key),
        _ => ServerKey::None,
    };
    Offer {
        key: config.key.clone(),
        window: config.window,
        grace: config.grace,
        addrs: config.own_addrs.clone(),
        sealing: config.sealing,
        aes: has_aes(),
        identity: config.identity.clone(),
        server,
        clients: config.allowed_clients.clone().filter(|_| role == Role::Server),
        share: config.share,
    }
}

/// True when this machine has instructions for AES and for what GCM adds to it.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Gives a socket its session: both directions, ready for the first epoch.
pub(crate) fn furnish(socket: &Socket, role: Role, opened: Opened) -> io::Result<()> {
    let engine = crate::reactor::engine()?;
    let mut tx = socket.lock_tx()?;
    let mut rx = socket.lock_rx()?;
    let mut receiver = Receiver::new(Arc::clone(&engine.pool), 0, socket.config.window);
    receiver.set_window_max(socket.config.window_max);
    let mut sender = Sender::new(Arc::clone(&engine.pool), 0, opened.window);
    if opened.cipher.is_some() {
        receiver.set_sealed();
        sender.set_sealed();
    }
    tx.sender = Some(Box::new(sender));
    rx.receiver = Some(Box::new(receiver));
    drop((tx, rx));
    let mut meta = Socket::lock(&socket.meta)?;
    meta.peer_grace = opened.grace;
    meta.announced(&opened.addrs);
    if opened.peer.is_some() || opened.shares {
        let rare = meta.rare_mut();
        (rare.peer_key, rare.shares) = (opened.peer, opened.shares);
    }
    let mut control = Control::new(role, opened.id, opened.secret);
    control.cipher = opened.cipher;
    meta.control = Some(Box::new(control));
    Ok(())
}

/// Who knows the key of a server that none is pinned for, and what that server is called.
fn unpinned(socket: &Socket, addr: SocketAddr) -> Option<(KnownServers, String, u16)> {
    let known = socket.config.known_servers.clone()?;
    if socket.config.server_key.is_some() {
        return None;
    }
    let named = socket.meta.lock().ok().and_then(|meta| meta.rare().host.clone());
    let (host, port) = named.unwrap_or_else(|| (addr.ip().to_string(), addr.port()));
    Some((known, host, port))
}

/// The errno of a connect to a server whose key is not the one that it should be.
fn distrusted(cause: String) -> io::Error {
    log::error!("connect: {cause}");
    told(libc::EACCES, cause)
}

/// What an open that failed means, and whether the server might speak something else.
fn not_opened(error: &OpenError, known: Option<&(KnownServers, String, u16)>) -> DialError {
    let about_keys = match error {
        OpenError::Key | OpenError::Pin => true,
        OpenError::Refused(reject) => reject.reason == Reason::Key,
        _ => false,
    };
    if let Some((known, host, port)) = known.filter(|_| about_keys)
        && let Ok(Some(_)) = known.0.key_of(host, *port)
    {
        return distrusted(known.0.not_proven(host, *port)).into();
    }
    match error {
        OpenError::Key
        | OpenError::Pin
        | OpenError::Sealing
        | OpenError::Proof
        | OpenError::Refused(_) => DialError::Passing(open_failed(error)),
        // One that says our own words back to us, for example.
        _ => DialError::Foreign(open_failed(error)),
    }
}

impl Reactor {
    pub(super) fn say_hello(&mut self, token: usize, raw: i32) -> Result<(), DialError> {
        let Some(attempt) = self.attempts.get_mut(&token) else { return Ok(()) };
        let Some(dial) = self.dials.get(&attempt.socket) else {
            // Not "nothing to say": the caller would ask again and again.
            return Err(errno(libc::ECANCELED).into());
        };
        let socket = &dial.socket;
        let message = if dial.is_open {
            let mut offer = offer(&socket.config, Role::Client);
            if let Some((known, host, port)) = unpinned(socket, attempt.addr) {
                offer.server = match known.0.key_of(&host, port) {
                    Ok(Some(key)) => ServerKey::Known(key),
                    Ok(None) => ServerKey::Asked,
                    Err(cause) => return Err(distrusted(cause).into()),
                };
            }
            let (client, message) = OpenClient::start(&offer, fd::random())
                .map_err(|error| io::Error::other(error.to_string()))?;
            attempt.stage = Stage::Opening(client);
            if socket.config.takes_plain(Role::Client) {
                let until = clock::now() + SILENCE + 4 * (clock::now() - attempt.since);
                self.timers.set(until, Timer::Silent(token));
            }
            message
        } else {
            let receive = socket.shared.receive.load(Ordering::SeqCst);
            let mut meta = Socket::lock(&socket.meta)?;
            let Some(control) = meta.control.as_mut() else {
                return Err(errno(libc::ENOTCONN).into());
            };
            let (client, message) = control.resume(receive, fd::random());
            let epoch = client.epoch();
            attempt.stage = Stage::Resuming(client, epoch);
            message
        };
        send_whole(raw, &message, false)?;
        Ok(())
    }

    pub(super) fn answered_hello(&mut self, token: usize, message: &[u8]) -> Result<(), DialError> {
        let Some(attempt) = self.attempts.get_mut(&token) else { return Ok(()) };
        let (id, addr) = (attempt.socket, attempt.addr);
        let Some(raw) = attempt.fd.as_ref().map(AsRawFd::as_raw_fd) else { return Ok(()) };
        let stage = std::mem::replace(&mut attempt.stage, Stage::Done);
        let Some(dial) = self.dials.get_mut(&id) else {
            return Err(errno(libc::ECANCELED).into());
        };
        if dial.won.is_some() {
            // Another address was first; its epoch must stay the only one confirmed.
            return Err(errno(libc::ECANCELED).into());
        }
        let (socket, is_asked) = (Arc::clone(&dial.socket), dial.only.is_some());
        let (epoch, peer_receive, confirm, keys) = match stage {
            Stage::Opening(client) => {
                let known = unpinned(&socket, addr);
                let (mut opened, confirm) =
                    client.answered(message).map_err(|error| not_opened(&error, known.as_ref()))?;
                if let Some((known, host, port)) = known {
                    // One that was known has proven itself by answering at all.
                    let key = opened.peer.ok_or_else(|| errno(libc::EACCES))?;
                    if known.0.key_of(&host, port) != Ok(Some(key)) {
                        known.0.first_seen(&host, port, key).map_err(distrusted)?;
                    }
                }
                let (session, keys) = (opened.id, opened.keys.take());
                furnish(&socket, Role::Client, opened)?;
                if let Some(owned) = self.owned.get_mut(&id) {
                    owned.id = session;
                }
                (1, 0, confirm, keys)
            }
            Stage::Resuming(client, epoch) => {
                let mut meta = Socket::lock(&socket.meta)?;
                let Some(control) = meta.control.as_ref() else {
                    return Err(errno(libc::ENOTCONN).into());
                };
                match client.answered(&control.secret, message) {
                    Ok((receive, confirm)) => {
                        let keys = control
                            .cipher
                            .map(|cipher| client.keys(&control.secret, cipher, message));
                        (epoch, receive, confirm, keys)
                    }
                    Err(ResumeError::Refused(reject)) => {
                        let proven = reject.is_proven(&control.secret, client.message());
                        let reason = reject.reason as u8;
                        // The last call of a session that is over is nobody's affair.
                        if !socket.has(bits::OVER) {
                            socket.tell(&mut meta, EventKind::Refused { addr, reason, proven });
                        }
                        return Err(judge(reject, proven));
                    }
                    Err(_) => return Err(errno(libc::EPROTO).into()),
                }
            }
            Stage::Connecting | Stage::Plain | Stage::Done => return Ok(()),
        };
        let mut keys = keys.map(|keys| keys.split(Role::Client));
        // START follows at once: one segment is enough for both.
        send_whole(raw, &confirm, true)?;
        if epoch > 1 && socket.has(bits::FAILED) {
            // The session has failed here; this dial was only to say so.
            crate::reactor::serve::send_reset(self.engine, 0, raw, keys.take());
            self.end(&socket, Reason::Reset);
            return Ok(());
        }
        let fd = attempt.fd.take();
        self.poll.registry().deregister(&mut mio::unix::SourceFd(&raw))?;
        if let Ok(mut meta) = socket.meta.lock() {
            meta.local = meta.local.filter(|_| epoch > 1).or_else(|| tcp::local_addr(raw));
            if epoch == 1 {
                meta.peer = Some(addr);
            }
            meta.worked(addr, epoch == 1 || is_asked);
        }
        let Some(dial) = self.dials.get_mut(&id) else { return Ok(()) };
        dial.won = Some(Won { fd, epoch, peer_receive, keys });
        self.attach_won(id);
        Ok(())
    }
}
