//! The two headers that the index keeps.

/// Bytes of a message that are looked at.
const HEADERS_MAX: usize = 64 << 10;
/// Characters of a header that are kept.
const HEADER_MAX: usize = 256;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) subject: String,
    pub(super) from: String,
}

/// Reads subject and sender. A message without headers has none.
pub(super) fn parse(message: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(&message[..message.len().min(HEADERS_MAX)]);
    let mut headers = Headers::default();
    let mut current: Option<&mut String> = None;
    for line in text.lines() {
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(value) = &mut current {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { break };
        current = match name.trim_end() {
            name if name.eq_ignore_ascii_case("subject") => Some(&mut headers.subject),
            name if name.eq_ignore_ascii_case("from") => Some(&mut headers.from),
            _ => None,
        };
        // The first of several counts.
        match &mut current {
            Some(kept) if kept.is_empty() => kept.push_str(value.trim()),
            _ => current = None,
        }
    }
    headers.subject = tidy(&headers.subject);
    headers.from = tidy(&headers.from);
    headers
}

/// Where the text of a message begins.
pub(super) fn body(message: &[u8]) -> &[u8] {
    let mut rest = message;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, left) = rest.split_at(end);
        rest = left;
        if matches!(line, b"\n" | b"\r\n") {
            break;
        }
    }
    rest
}

fn tidy(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(HEADER_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{body, parse};

    #[test]
    fn headers_are_found() {
        let message =
            b"From: a@b\r\nSUBJECT : Hello\r\n  again\r\nX: y\r\n z\r\nsubject: no\r\n q\r\n\
            \r\nfrom: the body";
        let headers = parse(message);
        assert_eq!((headers.subject.as_str(), headers.from.as_str()), ("Hello again", "a@b"));
        assert_eq!(body(message), b"from: the body");
    }

    #[test]
    fn messages_without_headers_have_none() {
        for message in [&b""[..], b"no headers\nsubject: x", b"\nsubject: x", b"\xff\xfe:\n"] {
            assert_eq!(parse(message), super::Headers::default(), "{message:?}");
        }
        let long = format!("subject: {}\n", "é\u{1}".repeat(10_000));
        assert_eq!(parse(long.as_bytes()).subject.chars().count(), 256);
        assert_eq!(body(b"a\nb"), b"");
        assert_eq!(body(b""), b"");
    }
}
