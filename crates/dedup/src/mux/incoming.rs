//! What comes from the peer: frames, however they are cut, and what each does to its stream.

use super::frame::{HEADER_BYTES, Header, Kind, flags};
use super::stream::{Stream, WINDOW_INITIAL_BYTES, news};
use super::{Input, Mux, Role, Violation, reason};

impl Mux {
    /// Takes bytes of the session, however they are cut.
    ///
    /// # Errors
    /// When the peer has broken a rule. The session is to be ended; nothing here is of use then.
    pub fn feed(&mut self, mut bytes: &[u8], now: u64) -> Result<(), Violation> {
        while !bytes.is_empty() {
            match &mut self.input {
                Input::Header { bytes: header, have } => {
                    let n = bytes.len().min(HEADER_BYTES - *have);
                    header[*have..*have + n].copy_from_slice(&bytes[..n]);
                    *have += n;
                    bytes = &bytes[n..];
                    if *have == HEADER_BYTES {
                        let header = Header::decode(*header)?;
                        self.input = Input::Header { bytes: [0; HEADER_BYTES], have: 0 };
                        self.take_header(header, now)?;
                    }
                }
                Input::Payload { stream, left, ends } => {
                    let n = bytes.len().min(*left);
                    let (number, ends) = (*stream, *ends && *left == n);
                    *left -= n;
                    let done = *left == 0;
                    self.take_payload(number, &bytes[..n], ends);
                    bytes = &bytes[n..];
                    if done {
                        self.input = Input::Header { bytes: [0; HEADER_BYTES], have: 0 };
                    }
                }
            }
        }
        Ok(())
    }

    fn take_header(&mut self, header: Header, now: u64) -> Result<(), Violation> {
        match header.kind {
            Kind::Ping => {
                if header.flags & flags::SYN != 0 {
                    self.pong = Some(header.length);
                }
                return Ok(());
            }
            Kind::GoAway => {
                self.goaway_received.get_or_insert(header.length);
                return Ok(());
            }
            Kind::Data | Kind::WindowUpdate if header.stream == 0 => {
                return Err(Violation::Session);
            }
            Kind::Data | Kind::WindowUpdate => {}
        }
        let number = header.stream;
        if header.flags & flags::SYN != 0 {
            self.take_syn(number, now)?;
        }
        if let Some(stream) = self.streams.get_mut(&number)
            && header.flags & flags::ACK != 0
            && std::mem::take(&mut stream.is_unacked)
        {
            self.unacked -= 1;
            self.tell(number, news::ACCEPTED);
        }
        if header.flags & flags::RST != 0 {
            if header.kind == Kind::WindowUpdate {
                // What stands in the credit's place is none, and nothing can end any more.
                self.take_reset(number, header.length);
                return Ok(());
            }
            self.take_reset(number, reason::NONE);
        }
        let ends = header.flags & flags::FIN != 0;
        match header.kind {
            Kind::Data => self.take_data(number, header.length, ends),
            _ => {
                self.take_credit(number, header.length)?;
                if ends {
                    self.take_payload(number, &[], true);
                }
                Ok(())
            }
        }
    }

    fn take_syn(&mut self, number: u32, now: u64) -> Result<(), Violation> {
        let is_peers = (number % 2 == 1) == (self.role == Role::Server);
        if !is_peers || number <= self.last_peer {
            return Err(Violation::Number(number));
        }
        self.last_peer = number;
        let is_full = self.streams.len() >= self.limits.streams_max;
        if self.goaway_sent || self.goaway_due.is_some() {
            self.owe_reset(number, reason::GONE_AWAY);
            return Ok(());
        }
        if is_full {
            self.owe_reset(number, reason::FULL);
            return Ok(());
        }
        self.streams.insert(number, Stream::new(false, now));
        self.tell(number, news::OPENED);
        Ok(())
    }

    fn take_data(&mut self, number: u32, length: u32, ends: bool) -> Result<(), Violation> {
        if let Some(stream) = self.streams.get_mut(&number)
            && stream.news & news::RESET == 0
        {
            if stream.ended && (length > 0 || ends) {
                return Err(Violation::BehindEnd(number));
            }
            if length > stream.granted {
                let granted = stream.granted;
                return Err(Violation::Credit { stream: number, length, granted });
            }
            stream.granted -= length;
        } else if length > WINDOW_INITIAL_BYTES.max(self.limits.window_max) {
            // Of a stream that is gone: nobody was ever granted so much.
            return Err(Violation::Credit { stream: number, length, granted: 0 });
        }
        if length == 0 {
            self.take_payload(number, &[], ends);
        } else {
            self.input = Input::Payload { stream: number, left: length as usize, ends };
        }
        Ok(())
    }

    fn take_payload(&mut self, number: u32, bytes: &[u8], ends: bool) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.news & news::RESET != 0 {
            return;
        }
        if stream.closed {
            // Nobody reads it any more.
            if !bytes.is_empty() {
                return self.reset(number);
            }
            stream.ended |= ends;
            return self.remove_if_over(number);
        }
        stream.received.extend(bytes);
        let mut told = if bytes.is_empty() { 0 } else { news::READABLE };
        if ends && !stream.ended {
            stream.ended = true;
            // Nothing more is granted.
            stream.grant_due = false;
            told |= news::ENDED;
        }
        if told != 0 {
            self.tell(number, told);
        }
    }

    fn take_credit(&mut self, number: u32, more: u32) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&number) else { return Ok(()) };
        let credit = stream.credit.checked_add(more).ok_or(Violation::CreditOverflow(number))?;
        stream.credit = credit;
        self.note_ready(number);
        Ok(())
    }

    fn take_reset(&mut self, number: u32, reason: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.closed {
            self.forget(number);
            return;
        }
        // What the program does with it from here on is refused; it goes when that has been told.
        stream.forget_all();
        stream.reset_reason.get_or_insert(reason);
        self.tell(number, news::RESET);
    }
}
