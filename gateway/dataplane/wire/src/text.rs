//! The text of a `grpc-message`: percent-encoding, the cut, and Triton's model names taken out of it.

use std::borrow::Cow;

use bytes::Bytes;

/// Most bytes of a text, also after percent-encoding, so that it fits the header lists of clients.
pub const MAX_TEXT: usize = 4096;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn is_plain(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte) && byte != b'%'
}

/// The header value of a text: percent-encoded, cut at [`MAX_TEXT`] on a character's boundary.
#[must_use]
pub fn encode_message(text: &str) -> Bytes {
    if text.len() <= MAX_TEXT && text.bytes().all(is_plain) {
        return Bytes::copy_from_slice(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len().min(MAX_TEXT) + 16);
    let mut utf8 = [0; 4];
    for character in text.chars() {
        let before = out.len();
        for &byte in character.encode_utf8(&mut utf8).as_bytes() {
            if is_plain(byte) {
                out.push(byte);
            } else {
                out.extend([
                    b'%',
                    HEX[usize::from(byte >> 4)],
                    HEX[usize::from(byte & 15)],
                ]);
            }
        }
        if out.len() > MAX_TEXT {
            out.truncate(before);
            break;
        }
    }
    out.into()
}

/// The text of a header value. Broken escapes stay as they are, broken UTF-8 is replaced, as the
/// gRPC specification asks: a message is never dropped for its encoding.
#[must_use]
pub fn decode_message(value: &[u8]) -> Cow<'_, str> {
    if !value.contains(&b'%') {
        return String::from_utf8_lossy(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        let escape = if byte == b'%' {
            after.get(..2).and_then(hex_pair)
        } else {
            None
        };
        out.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &after[2..] } else { after };
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (&high, &low) = (pair.first()?, pair.get(1)?);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The longest start of a text that has at most `most` bytes and ends between two characters.
#[must_use]
pub fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text with every mention of a Triton model name replaced by the logical one.
///
/// A mention stands alone: a longer name that holds it is left, but Triton's instance names
/// (`name_0`, `name_0_1`) are mentions.
#[must_use]
pub fn replace_name<'t>(text: &'t str, triton: &str, logical: &str) -> Cow<'t, str> {
    if triton.is_empty() || triton == logical || !text.contains(triton) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(triton) {
        let (before, after) = (&text[..at], &text[at + triton.len()..]);
        if ends_a_word(before) && begins_a_word(after) {
            out.push_str(&text[done..at]);
            out.push_str(logical);
            done = at + triton.len();
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

fn ends_a_word(before: &str) -> bool {
    let mut characters = before.chars().rev();
    match characters.next() {
        Some('.' | ':' | '-') => !characters.next().is_some_and(char::is_alphanumeric),
        Some(last) => !(last.is_alphanumeric() || last == '_'),
        None => true,
    }
}

fn begins_a_word(after: &str) -> bool {
    let mut characters = after.chars();
    match characters.next() {
        Some('.' | ':' | '-') => !characters.next().is_some_and(char::is_alphanumeric),
        Some('_') => characters.next().is_some_and(|next| next.is_ascii_digit()),
        Some(first) => !first.is_alphanumeric(),
        None => true,
    }
}

/// A backend's `grpc-message` for the client: names replaced, cut at [`MAX_TEXT`].
///
/// `None` where the value can be forwarded as it is, which costs one search and no allocation.
#[must_use]
pub fn rewrite_message(value: &[u8], triton: &str, logical: &str) -> Option<Bytes> {
    let escaped = value.contains(&b'%');
    if !escaped && value.len() <= MAX_TEXT && (triton == logical || !holds(value, triton)) {
        return None;
    }
    let text = decode_message(value);
    let renamed = replace_name(&text, triton, logical);
    let unchanged = value.len() <= MAX_TEXT && matches!(renamed, Cow::Borrowed(_));
    (!unchanged).then(|| encode_message(&renamed))
}

fn holds(value: &[u8], name: &str) -> bool {
    // Names are ASCII in practice; a value that is not UTF-8 is looked at in full.
    std::str::from_utf8(value).map_or(true, |text| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_their_header_values() {
        for text in [
            "",
            "plain",
            "50 %",
            "line\nbreak\u{0}",
            "é漢字🦀",
            "%41",
            "tab\t~\u{7f}",
        ] {
            let value = encode_message(text);

            assert!(value.iter().all(|&b| (0x20..=0x7e).contains(&b)));
            assert_eq!(text, decode_message(&value));
        }
    }

    #[test]
    fn bytes_are_escaped_in_upper_case_hex() {
        assert_eq!(&b"a%25b%0A%C3%A9"[..], &encode_message("a%b\né")[..]);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for (value, text) in [
            ("%", "%"),
            ("%4", "%4"),
            ("%zz1", "%zz1"),
            ("%+1", "%+1"),
            ("%41%", "A%"),
        ] {
            assert_eq!(text, decode_message(value.as_bytes()));
        }
        assert_eq!("\u{fffd}", decode_message(b"%ff"));
    }

    #[test]
    fn a_long_text_is_cut_at_4_kib_between_characters() {
        assert_eq!(MAX_TEXT, encode_message(&"a".repeat(5000)).len());
        let value = encode_message(&"é".repeat(5000));
        assert!(value.len() <= MAX_TEXT && value.len() > MAX_TEXT - 6);
        assert!(decode_message(&value).chars().all(|c| c == 'é'));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!("é", cut("éé", 3));
        assert_eq!("", cut("漢", 2));
        assert_eq!("ab", cut("ab", 2));
    }

    #[test]
    fn mentions_of_the_triton_name_become_the_logical_one() {
        let name = "digits.3.0a1b2c3d";
        for (text, expected) in [
            (
                "for model 'digits.3.0a1b2c3d'. Expected 64",
                "for model 'digits'. Expected 64",
            ),
            ("digits.3.0a1b2c3d: no", "digits: no"),
            (
                "instance digits.3.0a1b2c3d_0_1 failed",
                "instance digits_0_1 failed",
            ),
            (
                "/models/digits.3.0a1b2c3d/1/model.py",
                "/models/digits/1/model.py",
            ),
            ("digits.3.0a1b2c3d.", "digits."),
            ("digits.3.0a1b2c3d digits.3.0a1b2c3d", "digits digits"),
            ("digits.3.0a1b2c3d4", "digits.3.0a1b2c3d4"),
            ("my-digits.3.0a1b2c3d", "my-digits.3.0a1b2c3d"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(expected, replace_name(text, name, "digits"), "{text}");
        }
    }

    #[test]
    fn a_short_name_is_not_cut_out_of_words() {
        assert_eq!("a model is b", replace_name("a model is b", "b.", "x"));
        assert_eq!("failed: logical", replace_name("failed: a", "a", "logical"));
    }

    #[test]
    fn a_message_without_the_name_is_forwarded_as_it_is() {
        assert_eq!(None, rewrite_message(b"all is well", "t.1.ab", "t"));
        assert_eq!(None, rewrite_message(b"50%25 of it", "t.1.ab", "t"));
        assert_eq!(None, rewrite_message(b"same name t", "t", "t"));
    }

    #[test]
    fn a_message_with_the_name_or_too_long_is_rewritten() {
        assert_eq!(
            &b"model 't' 5%25"[..],
            &rewrite_message(b"model 't.1.ab' 5%25", "t.1.ab", "t").unwrap()[..]
        );
        assert_eq!(
            MAX_TEXT,
            rewrite_message(&[b'a'; 5000], "t", "t").unwrap().len()
        );
    }
}
