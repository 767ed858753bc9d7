//! Whatever bytes come, in whatever pieces: lines and mails are what they are, and nothing else
//! ends them.

use eversock_spool::smtp::{COMMAND_MAX, Content, Line, Lines, Part};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes as an attacker mixes them.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n.\r\n".to_vec()),
        Just(b"\n.\n".to_vec()),
        Just(b"\r.\r".to_vec()),
        Just(b".".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        vec(any::<u8>(), 0..5),
        vec(Just(b'a'), 0..3000),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(1..40_usize, 1..20)
}

/// In pieces of these lengths, over and over.
fn pieces<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.len().min(*cuts.next()?));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn all_lines(bytes: &[u8], cuts: &[usize]) -> Vec<Line> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    for mut piece in pieces(bytes, cuts) {
        while !piece.is_empty() {
            let (taken, line) = lines.take(piece);
            assert!(taken > 0);
            assert!(line.is_some() || taken == piece.len());
            found.extend(line);
            piece = &piece[taken..];
        }
    }
    found
}

/// What comes of the first mail in `bytes`, and how many bytes it took.
fn content(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, usize, Part) {
    let (mut content, mut out, mut all) = (Content::default(), Vec::new(), 0);
    for piece in pieces(bytes, cuts) {
        let (taken, part) = content.take(piece, &mut out);
        all += taken;
        if part != Part::More {
            return (out, all, part);
        }
        assert_eq!(taken, piece.len());
    }
    (out, all, Part::More)
}

proptest! {
    #[test]
    fn a_line_ends_with_cr_lf_only(bytes in hostile(), cuts in cuts()) {
        // The plain way: split, and judge each part.
        let text: Vec<&[u8]> = split(&bytes);
        let found = all_lines(&bytes, &cuts);
        prop_assert_eq!(found.len(), text.len());
        for (line, text) in found.iter().zip(text) {
            let bare = text[..text.len() - 2].iter().any(|byte| b"\r\n".contains(byte));
            match line {
                Line::TooLong => prop_assert!(text.len() > COMMAND_MAX),
                Line::Torn => prop_assert!(bare && text.len() <= COMMAND_MAX),
                Line::Whole(line) => {
                    prop_assert!(!bare);
                    prop_assert_eq!(&line[..], text);
                }
            }
        }
    }

    #[test]
    fn a_mail_ends_with_cr_lf_dot_cr_lf_only(bytes in hostile(), cuts in cuts()) {
        let (out, taken, part) = content(&bytes, &cuts);
        let before = [b"\r\n", &bytes[..]].concat();
        let end = before.windows(5).position(|five| five == b"\r\n.\r\n");
        match (part, end) {
            (Part::More, None) => prop_assert_eq!(taken, bytes.len()),
            (Part::End { torn }, Some(end)) => {
                prop_assert_eq!(taken, end + 3);
                let text = &bytes[..end];
                prop_assert_eq!(torn, has_bare(text));
                prop_assert!(out.len() <= taken);
                if !torn {
                    prop_assert_eq!(out, unstuffed(text));
                }
            }
            (part, end) => prop_assert!(false, "{part:?} for an end at {end:?}"),
        }
    }

    #[test]
    fn what_is_stuffed_comes_out_as_it_was(lines in vec("[ -~]{0,20}", 0..10), cuts in cuts()) {
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let stuffed: String = lines
            .iter()
            .map(|line| format!("{}{line}\r\n", if line.starts_with('.') { "." } else { "" }))
            .collect();
        let sent = format!("{stuffed}.\r\nQUIT\r\n");
        let (out, taken, part) = content(sent.as_bytes(), &cuts);
        prop_assert_eq!(part, Part::End { torn: false });
        prop_assert_eq!(&sent[taken..], "QUIT\r\n");
        prop_assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        lines.push(&bytes[..end + 2]);
        bytes = &bytes[end + 2..];
    }
    lines
}

fn has_bare(text: &[u8]) -> bool {
    let lines = split(text);
    let whole: usize = lines.iter().map(|line| line.len()).sum();
    let bare = |text: &[u8]| text.iter().any(|byte| b"\r\n".contains(byte));
    lines.iter().any(|line| bare(&line[..line.len() - 2])) || bare(&text[whole..])
}

fn unstuffed(text: &[u8]) -> Vec<u8> {
    split(text).iter().flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}
