//! What other threads tell an event loop: a channel whose letters wake the loop's epoll.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::signals;

/// The reading end.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    letters: Receiver<T>,
    wake: UnixStream,
    post: Post<T>,
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Post<T> {
    letters: Sender<T>,
    waker: Arc<UnixStream>,
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Self {
        Self { letters: self.letters.clone(), waker: Arc::clone(&self.waker) }
    }
}

impl<T> Post<T> {
    pub(super) fn send(&self, letter: T) {
        // The loop may have ended, and a full pair has woken it already.
        if self.letters.send(letter).is_ok() {
            let _full = (&*self.waker).write(&[1]);
        }
    }
}

impl<T: Send + 'static> Inbox<T> {
    pub(super) fn new() -> io::Result<Self> {
        let (wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let (sender, letters) = channel();
        let post = Post { letters: sender, waker: Arc::new(waker) };
        Ok(Self { letters, wake, post })
    }

    pub(super) fn post(&self) -> Post<T> {
        self.post.clone()
    }

    /// The next letter, if there is one.
    pub(super) fn next(&self) -> Option<T> {
        let mut bytes = [0; 64];
        // Emptied before the channel is looked at, or a letter in between would wake nobody.
        while matches!((&self.wake).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        self.letters.try_recv().ok()
    }

    /// SIGINT and SIGTERM come as letters; beyond `heeded` they end the process at once. To be
    /// called before the process has other threads.
    pub(super) fn take_signals(
        &self,
        heeded: u32,
        letter: impl Fn(&'static str) -> T + Send + 'static,
    ) -> io::Result<()> {
        let post = self.post();
        let mut left = heeded;
        signals::on_each(move |name| {
            if left == 0 {
                signals::leave_now(1);
            }
            left -= 1;
            post.send(letter(name));
        })
    }

    /// The lines of `input` come as letters; its end is `None`.
    pub(super) fn take_lines(
        &self,
        name: &str,
        input: impl Read + Send + 'static,
        letter: impl Fn(Option<String>) -> T + Send + 'static,
    ) -> io::Result<()> {
        let post = self.post();
        let read = move || {
            let lines = io::BufReader::new(input).lines().map_while(Result::ok);
            lines.for_each(|line| post.send(letter(Some(line))));
            post.send(letter(None));
        };
        thread::Builder::new().name(name.to_owned()).spawn(read)?;
        Ok(())
    }
}

impl<T> AsRawFd for Inbox<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}
