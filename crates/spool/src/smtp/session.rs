//! What a client may say when, and what it is told (RFC 5321).

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use smtp_proto::{
    Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request,
};

use super::front::Shared;
use super::lines::Line;
use super::mail::Mail;
use super::talk::{Body, Over, Talk};
use crate::limits::BATCH_BYTES_MAX;
use crate::request::{self, Kind, Outcome, Reason};

/// Clients wait ten minutes for the reply to a message (RFC 5321, 4.5.3.2.6).
const REPLY_WITHIN: Duration = Duration::from_secs(5 * 60);
/// What a pair's answer may be late.
const GRACE: Duration = Duration::from_secs(5);
/// Commands between two messages, besides one for each recipient that is allowed.
const COMMANDS_MAX: usize = 200;
/// Bytes of a text of others in a reply.
const QUOTE_MAX: usize = 300;

/// How a command ends.
enum Next {
    Go,
    /// The command was an error: not too many of them.
    Wrong,
    End,
}

/// A message before its content.
struct Envelope {
    sender: String,
    eight_bit: bool,
    utf8: bool,
    recipients: Vec<String>,
}

struct Session<'a> {
    talk: Talk,
    shared: &'a Shared,
    greeted: bool,
    envelope: Option<Envelope>,
}

/// Talks with one client until one of both ends it.
pub(super) fn run(talk: Talk, shared: &Shared) {
    let mut session = Session { talk, shared, greeted: false, envelope: None };
    let host = shared.config.hostname.clone();
    let last = match session.serve() {
        Ok(()) => None,
        Err(Over::Gone) if shared.closing.load(Ordering::Acquire) => Some("4.3.2 the front ends"),
        Err(Over::Gone) => None,
        Err(Over::Silent) => Some("4.4.2 nothing has come for too long"),
        Err(Over::Endless) => Some("4.3.0 the message has no end"),
    };
    if let Some(last) = last {
        session.talk.say(421, false, &format!("{last}, {host} closes the connection"));
    }
    let _ = session.talk.flush();
}

impl Session<'_> {
    fn serve(&mut self) -> Result<(), Over> {
        let config = &self.shared.config;
        self.talk.say(220, false, &format!("{} ESMTP eversock", config.hostname));
        let (mut errors, mut commands) = (0, 0);
        loop {
            if self.shared.closing.load(Ordering::Acquire) {
                return Err(Over::Gone);
            }
            let line = self.talk.line(config.idle)?;
            let had_envelope = self.envelope.is_some();
            let next = self.command(line)?;
            commands += 1;
            if had_envelope && self.envelope.is_none() {
                commands = 0;
            }
            errors += u32::from(matches!(next, Next::Wrong));
            if matches!(next, Next::End) {
                return Ok(());
            }
            if errors >= config.errors_max || commands > COMMANDS_MAX + config.recipients_max {
                self.talk.say(421, false, "4.7.0 too many errors, or commands without a message");
                return Ok(());
            }
        }
    }

    fn reply(&mut self, code: u16, text: &str) -> Next {
        self.talk.say(code, false, text);
        if code >= 400 { Next::Wrong } else { Next::Go }
    }

    fn command(&mut self, line: Line) -> Result<Next, Over> {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong => return Ok(self.reply(500, "5.5.6 the line is too long")),
            Line::Torn => {
                return Ok(self.reply(500, "5.5.2 a line ends with CR LF and has neither in it"));
            }
        };
        // The parser puts other characters in the place of what it cannot read.
        let text = &line[..line.len() - 2];
        if std::str::from_utf8(text).is_err() || text.iter().any(u8::is_ascii_control) {
            return Ok(self.reply(500, "5.5.2 the line has bytes in it that no command has"));
        }
        let request = match Request::parse(&mut line.iter()) {
            Ok(request) => request.into_owned(),
            Err(error) => return Ok(self.cannot_parse(&error)),
        };
        Ok(match request {
            Request::Ehlo { .. } => self.hello(true),
            Request::Helo { .. } => self.hello(false),
            Request::Mail { from } => self.mail(from, &line),
            Request::Rcpt { to } => self.rcpt(to, &line),
            Request::Data => return self.data(&line),
            Request::Rset => {
                self.envelope = None;
                self.reply(250, "2.0.0 reset")
            }
            Request::Noop { .. } => self.reply(250, "2.0.0 done"),
            Request::Vrfy { .. } => self.reply(252, "2.5.0 not looked up, but mail is accepted"),
            Request::Help { .. } => self.reply(214, "2.0.0 see RFC 5321"),
            Request::Quit => {
                self.talk.say(221, false, &format!("2.0.0 {} ends", self.shared.config.hostname));
                Next::End
            }
            // What follows it is no command, and must not be taken for one.
            Request::Bdat { .. } => {
                self.talk.say(502, false, "5.5.1 there is no CHUNKING here: use DATA");
                Next::End
            }
            other => self.reply(502, &format!("5.5.1 there is no {} here", other.name())),
        })
    }

    fn cannot_parse(&mut self, error: &Error) -> Next {
        match error {
            Error::InvalidSenderAddress => self.reply(501, "5.1.7 the sender is no address"),
            Error::InvalidRecipientAddress => self.reply(501, "5.1.3 the recipient is no address"),
            Error::SyntaxError { syntax } => self.reply(501, &format!("5.5.4 use: {syntax}")),
            Error::InvalidParameter { param } => {
                self.reply(501, &format!("5.5.4 the parameter {param} makes no sense"))
            }
            Error::UnsupportedParameter { .. } => {
                self.reply(555, "5.5.4 a parameter is not known here")
            }
            _ => self.reply(500, "5.5.1 no such command"),
        }
    }

    fn hello(&mut self, extended: bool) -> Next {
        self.greeted = true;
        self.envelope = None;
        let config = &self.shared.config;
        if !extended {
            self.talk.say(250, false, &config.hostname);
            return Next::Go;
        }
        self.talk.say(250, true, &config.hostname);
        self.talk.say(250, true, "PIPELINING");
        self.talk.say(250, true, &format!("SIZE {}", config.message_max));
        self.talk.say(250, true, "8BITMIME");
        self.talk.say(250, true, "SMTPUTF8");
        self.talk.say(250, false, "ENHANCEDSTATUSCODES");
        Next::Go
    }

    fn mail(&mut self, from: MailFrom<String>, line: &[u8]) -> Next {
        if !self.greeted {
            return self.reply(503, "5.5.1 say EHLO first");
        }
        if self.envelope.is_some() {
            return self.reply(503, "5.5.1 there is a sender already: RSET to begin anew");
        }
        let known = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8;
        // What an extension that was not offered asks for would not be done.
        let plain = MailFrom {
            address: from.address.clone(),
            flags: from.flags & known,
            size: from.size,
            ..MailFrom::default()
        };
        if from != plain {
            return self.reply(555, "5.5.4 a parameter is not known here");
        }
        if from.size > self.shared.config.message_max {
            return self.too_long();
        }
        let utf8 = from.flags & MAIL_SMTPUTF8 != 0;
        if !utf8 && !from.address.is_ascii() {
            return self.reply(550, "5.6.7 the sender needs SMTPUTF8");
        }
        let eight_bit = from.flags & MAIL_BODY_8BITMIME != 0;
        let sender = postmaster_if_empty(from.address, line);
        self.envelope = Some(Envelope { sender, eight_bit, utf8, recipients: Vec::new() });
        self.reply(250, "2.1.0 the sender is fine")
    }

    fn rcpt(&mut self, to: RcptTo<String>, line: &[u8]) -> Next {
        let config = &self.shared.config;
        let Some(envelope) = &mut self.envelope else {
            return self.reply(503, "5.5.1 say MAIL first");
        };
        let refusal = if to.orcpt.is_some() || to.rrvs != 0 || to.flags != 0 {
            Some((555, "5.5.4 a parameter is not known here"))
        } else if envelope.recipients.len() >= config.recipients_max {
            Some((452, "4.5.3 too many recipients: send the message to the rest of them again"))
        } else if !envelope.utf8 && !to.address.is_ascii() {
            Some((553, "5.6.7 the recipient needs SMTPUTF8"))
        } else {
            None
        };
        if let Some((code, text)) = refusal {
            return self.reply(code, text);
        }
        let recipient = postmaster_if_empty(to.address, line);
        if recipient.is_empty() {
            return self.reply(501, "5.1.3 the recipient is no address");
        }
        let domain = recipient.rsplit_once('@').map_or("", |(_, domain)| domain);
        let ours = |name: &String| name.eq_ignore_ascii_case(domain);
        // Each domain has a postmaster, and he is the one of RCPT TO:<postmaster> (4.5.1).
        if !domain.is_empty() && !config.domains.is_empty() && !config.domains.iter().any(ours) {
            return self.reply(550, "5.7.1 no mail for this domain is taken here");
        }
        // Twice in one message is once.
        if !envelope.recipients.contains(&recipient) {
            envelope.recipients.push(recipient);
        }
        self.reply(250, "2.1.5 the recipient is fine")
    }

    fn too_long(&mut self) -> Next {
        let text =
            format!("5.3.4 messages of at most {} bytes are taken", self.shared.config.message_max);
        self.reply(552, &text)
    }

    fn data(&mut self, line: &[u8]) -> Result<Next, Over> {
        // A client that has not waited for the 354 may mean what follows as content or not: taking
        // it for commands would let a sender smuggle some in.
        if self.talk.is_ahead() {
            self.talk.say(503, false, "5.5.1 nothing may follow DATA before its reply");
            return Ok(Next::End);
        }
        if line.len() > 6 && !line[4..].trim_ascii().is_empty() {
            return Ok(self.reply(501, "5.5.4 use: DATA"));
        }
        if self.envelope.is_none() {
            return Ok(self.reply(503, "5.5.1 say MAIL first"));
        }
        let Some(envelope) = self.envelope.take_if(|envelope| !envelope.recipients.is_empty())
        else {
            return Ok(self.reply(554, "5.5.1 the message has no recipient"));
        };
        self.talk.say(354, false, "the message, and a line with a dot");
        let (config, memory) = (&self.shared.config, &self.shared.memory);
        let body =
            self.talk.body(config.message_max, memory, config.idle, config.message_timeout)?;
        Ok(match body {
            Body::Whole(content, share) => {
                let (code, text) = hand_in(self.shared, envelope, content);
                drop(share);
                self.talk.say(code, false, &text);
                Next::Go
            }
            Body::Torn => self.reply(554, "5.6.0 the message has a CR or LF that stands alone"),
            Body::TooLong => self.too_long(),
            Body::NoMemory => self.reply(452, "4.3.1 too many messages are coming in"),
        })
    }
}

/// The parser gives an empty address for `<>` and for `<postmaster>`.
fn postmaster_if_empty(address: String, line: &[u8]) -> String {
    let inside = line.iter().position(|&byte| byte == b'<').map(|at| line[at + 1..].trim_ascii());
    if address.is_empty() && inside.is_some_and(|inside| !inside.starts_with(b">")) {
        return "postmaster".to_owned();
    }
    address
}

/// What the pair has said of the recipients so far.
#[derive(Default)]
struct Said {
    waiting: usize,
    /// Recipients that have it.
    taken: usize,
    /// For now: the first reply that says so.
    later: Option<(u16, String)>,
    /// For good: the first text.
    refused: Option<String>,
}

/// Hands a message in for each of its recipients, and gives the one reply for all of them.
///
/// If one fails for now, the client is told to send all again. If some are refused for good and
/// none fails for now, it is told that; those that have the message keep it, since RFC 5321 has no
/// reply for half of a message.
fn hand_in(shared: &Shared, envelope: Envelope, content: Vec<u8>) -> (u16, String) {
    let until = Instant::now() + REPLY_WITHIN;
    let (sender, receiver) = channel();
    let mut said = Said::default();
    let Envelope { sender: from, eight_bit, utf8, recipients } = envelope;
    let mut mail = Mail { sender: from, recipient: String::new(), eight_bit, utf8, content };
    // Each request has a copy of the message: not too many at a time.
    let at_a_time = (BATCH_BYTES_MAX / mail.content.len().max(1)).clamp(1, 64);
    for recipient in recipients {
        while said.waiting >= at_a_time && said.later.is_none() {
            hear(shared, &receiver, &mut said);
        }
        // All of them come again anyway.
        if said.later.is_some() {
            break;
        }
        mail.recipient = recipient;
        submit(shared, &mail, until, &sender, &mut said);
    }
    while said.waiting > 0 {
        hear(shared, &receiver, &mut said);
    }
    match (said.later, said.refused) {
        (Some(later), _) => later,
        (None, Some(text)) => (554, text),
        (None, None) => (250, format!("2.0.0 taken for {} recipients", said.taken)),
    }
}

fn submit(
    shared: &Shared,
    mail: &Mail,
    until: Instant,
    sender: &Sender<(String, Outcome)>,
    said: &mut Said,
) {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        said.later = Some((451, "4.4.7 the pair takes too long".to_owned()));
        return;
    }
    let payload = match mail.encode() {
        Ok(payload) => payload,
        Err(error) => {
            said.refused = Some(format!("5.3.4 {}", quoted(&error.to_string())));
            return;
        }
    };
    let id = match mail.id(&payload) {
        Ok(id) => id,
        Err(error) => {
            said.later = Some((451, format!("4.3.0 {}", quoted(&error.to_string()))));
            return;
        }
    };
    let (key, deadline) = (mail.key(), shared.config.deadline.min(left));
    let request = request::Request { id, kind: Kind::Write, key, payload, deadline };
    let (sender, recipient) = (sender.clone(), mail.recipient.clone());
    said.waiting += 1;
    let reply = Box::new(move |outcome| {
        // The session may have given up; the mail is delivered all the same.
        let _ = sender.send((recipient, outcome));
    });
    shared.submit.submit(&shared.config.pair, request, reply);
}

/// Waits for one answer.
fn hear(shared: &Shared, receiver: &Receiver<(String, Outcome)>, said: &mut Said) {
    let Ok((recipient, outcome)) = receiver.recv_timeout(shared.config.deadline + GRACE) else {
        said.waiting = 0;
        said.later = Some((451, "4.4.1 the pair does not answer".to_owned()));
        return;
    };
    said.waiting -= 1;
    let later = |said: &mut Said, code, text: String| {
        said.later.get_or_insert((code, text));
    };
    match outcome {
        Outcome::Applied { .. } | Outcome::Spooled { .. } => said.taken += 1,
        Outcome::Rejected { reason: Reason::SpoolFull, .. } => {
            later(said, 452, "4.3.1 the spool of the pair is full: come back later".to_owned());
        }
        Outcome::Rejected { reason: Reason::Refused { code, text }, .. } => {
            let (recipient, text) = (quoted(&recipient), quoted(&text));
            let text = format!("5.0.0 refused for {recipient}: {code} {text}");
            said.refused.get_or_insert(text);
        }
        Outcome::Rejected { reason, .. } => {
            later(said, 451, format!("4.3.0 {}: come back later", quoted(&reason.to_string())));
        }
        Outcome::InDoubt => {
            later(said, 451, "4.3.0 nobody can say whether it was taken: send it again".to_owned());
        }
        Outcome::Held { .. } | Outcome::Stale => {
            later(said, 451, "4.3.0 the pair has not taken it: come back later".to_owned());
        }
    }
}

/// A text of others as part of a reply: one line of ASCII, not too long.
fn quoted(text: &str) -> String {
    let fits = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(QUOTE_MAX).map(fits).collect()
}
