//! JSON on its way through: the names in an answer become logical ones, and nothing else changes.
//!
//! An answer is a top-level object. Only its own keys are looked at; of what it holds nothing is kept,
//! so that an answer of any size passes in the pieces that it came in.

use bytes::Bytes;
use stagegate_wire::text::{cut, replace_name, MAX_TEXT};

/// Longer keys are none of those looked for, however they are escaped.
const MAX_KEY: usize = 128;
/// Of an error text this much is looked at; clients get far less.
const MAX_HELD: usize = 64 << 10;

/// What becomes of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The logical name, as a JSON string.
    model: Bytes,
    /// The version that answered, as a JSON string.
    version: Bytes,
    /// Triton's model name and the logical one, for texts.
    triton: Box<str>,
    logical: Box<str>,
}

impl Names {
    pub(crate) fn new(model: &str, version: &str, triton: &str) -> Self {
        Self {
            model: quoted(model).into(),
            version: quoted(version).into(),
            triton: triton.into(),
            logical: model.into(),
        }
    }

    /// A text for the client: without Triton's name, and not too long.
    pub(crate) fn text(&self, text: &str) -> String {
        cut(&replace_name(text, &self.triton, &self.logical), MAX_TEXT).to_owned()
    }
}

/// A text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What the body of an error says; the body itself where it is in no form that we know.
pub(crate) fn error_text(body: &[u8]) -> String {
    let told = serde_json::from_slice::<serde_json::Value>(body).ok();
    let text = told.as_ref().and_then(|told| told.get("error")?.as_str());
    text.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned)
}

/// Where the scanner stands in the top-level object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Before,
    /// Before a key or the end.
    Key,
    InKey,
    Colon,
    Value,
    /// In a string value.
    Text(Fate),
    /// In a number, `true`, `false` or `null`.
    Word,
    /// In an array or object, that deep.
    Nested(u32),
    /// In a string in there.
    NestedText(u32),
    After,
    /// Behind the object, or in something that is none.
    Over,
}

/// What becomes of a string value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    /// It was replaced when it began.
    Drop,
    /// It is collected and written anew at its end.
    Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Model,
    Version,
    Error,
    Other,
}

/// Rewrites one top-level object that comes in pieces.
#[derive(Debug)]
pub(crate) struct Rewriter {
    names: Names,
    at: At,
    escaped: bool,
    key: Key,
    held: Vec<u8>,
    /// Whether the model and the version are through.
    seen: [bool; 2],
    error_seen: bool,
}

impl Rewriter {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            at: At::Before,
            escaped: false,
            key: Key::Other,
            held: Vec::new(),
            seen: [false; 2],
            error_seen: false,
        }
    }

    /// Begin another object.
    pub(crate) fn again(&mut self) {
        self.at = At::Before;
        self.escaped = false;
        self.held.clear();
        self.seen = [false; 2];
    }

    /// Whether all that follows passes as it is.
    pub(crate) fn is_settled(&self) -> bool {
        let between = !matches!(self.at, At::Text(Fate::Drop | Fate::Hold));
        self.at == At::Over || (self.seen == [true; 2] && between)
    }

    /// Whether there was an error in any of the objects so far.
    pub(crate) fn error_seen(&self) -> bool {
        self.error_seen
    }

    /// The next piece; what goes on is appended to `out`.
    pub(crate) fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for (at, byte) in piece.iter().enumerate() {
            if self.is_settled() {
                out.extend_from_slice(&piece[at..]);
                return;
            }
            self.take(*byte, out);
        }
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.at {
            At::Text(Fate::Drop) => return self.in_text(byte),
            At::Text(Fate::Hold) => return self.hold(byte, out),
            At::Value => return self.value(byte, out),
            _ => out.push(byte),
        }
        match self.at {
            At::Before => match byte {
                b'{' => self.at = At::Key,
                _ if byte.is_ascii_whitespace() => {}
                _ => self.at = At::Over,
            },
            At::Key => match byte {
                b'"' => {
                    self.held.clear();
                    self.at = At::InKey;
                }
                b'}' => self.at = At::Over,
                _ => {}
            },
            At::InKey => self.in_key(byte),
            At::Colon => {
                if byte == b':' {
                    self.at = At::Value;
                }
            }
            At::Text(_) => self.in_text(byte),
            At::Word | At::After => match byte {
                b',' => self.at = At::Key,
                b'}' => self.at = At::Over,
                _ => {}
            },
            At::Nested(depth) => self.nested(depth, byte),
            At::NestedText(depth) => {
                if self.closes(byte) {
                    self.at = At::Nested(depth);
                }
            }
            At::Value | At::Over => {}
        }
    }

    /// Whether a byte of a string ends it.
    fn closes(&mut self, byte: u8) -> bool {
        if std::mem::replace(&mut self.escaped, false) {
            return false;
        }
        self.escaped = byte == b'\\';
        byte == b'"'
    }

    fn in_key(&mut self, byte: u8) {
        if self.closes(byte) {
            self.key = key(&self.held);
            self.at = At::Colon;
        } else if self.held.len() <= MAX_KEY {
            self.held.push(byte);
        }
    }

    fn value(&mut self, byte: u8, out: &mut Vec<u8>) {
        let (is_text, key) = (byte == b'"', self.key);
        self.at = match byte {
            b'"' => At::Text(Fate::Keep),
            b'{' | b'[' => At::Nested(1),
            _ if byte.is_ascii_whitespace() => At::Value,
            _ => At::Word,
        };
        match key {
            Key::Model if is_text => {
                out.extend_from_slice(&self.names.model);
                self.seen[0] = true;
                self.at = At::Text(Fate::Drop);
            }
            Key::Version if is_text => {
                out.extend_from_slice(&self.names.version);
                self.seen[1] = true;
                self.at = At::Text(Fate::Drop);
            }
            Key::Error if is_text => {
                self.error_seen = true;
                self.held.clear();
                self.at = At::Text(Fate::Hold);
            }
            _ => out.push(byte),
        }
    }

    fn in_text(&mut self, byte: u8) {
        if self.closes(byte) {
            self.at = At::After;
        }
    }

    fn hold(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.closes(byte) {
            let text = self.names.text(&unquoted(&self.held));
            out.extend_from_slice(quoted(&text).as_bytes());
            self.held = Vec::new();
            self.at = At::After;
        } else if self.held.len() < MAX_HELD {
            self.held.push(byte);
        }
    }

    fn nested(&mut self, depth: u32, byte: u8) {
        self.at = match byte {
            b'"' => At::NestedText(depth),
            b'{' | b'[' => At::Nested(depth.saturating_add(1)),
            b'}' | b']' if depth == 1 => At::After,
            b'}' | b']' => At::Nested(depth - 1),
            _ => return,
        };
    }
}

fn key(raw: &[u8]) -> Key {
    match raw {
        b"model_name" => Key::Model,
        b"model_version" => Key::Version,
        b"error" => Key::Error,
        _ if raw.contains(&b'\\') && raw.len() <= MAX_KEY => match unquoted(raw).as_str() {
            "model_name" => Key::Model,
            "model_version" => Key::Version,
            "error" => Key::Error,
            _ => Key::Other,
        },
        _ => Key::Other,
    }
}

/// The text between the quotes of a JSON string; as it is where it is none.
fn unquoted(raw: &[u8]) -> String {
    let mut whole = Vec::with_capacity(raw.len() + 2);
    whole.push(b'"');
    whole.extend_from_slice(raw);
    whole.push(b'"');
    serde_json::from_slice(&whole).unwrap_or_else(|_| String::from_utf8_lossy(raw).into_owned())
}

/// Rewrites server-sent events: each `data:` line is a JSON object.
#[derive(Debug)]
pub(crate) struct Events {
    rewriter: Rewriter,
    /// How much of `data:` a line begins with, as far as it is there.
    matched: usize,
    line: Line,
    /// Lines of data that are complete.
    pub(crate) ended: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Begins,
    Data,
    Other,
}

const DATA: &[u8] = b"data:";

impl Events {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            rewriter: Rewriter::new(names),
            matched: 0,
            line: Line::Begins,
            ended: 0,
        }
    }

    /// Whether any event so far was an error.
    pub(crate) fn error_seen(&self) -> bool {
        self.rewriter.error_seen()
    }

    /// The next piece; what goes on is appended to `out`.
    pub(crate) fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, next) = rest.split_at(end.unwrap_or(rest.len()));
            self.part(line, out);
            rest = next;
            if end.is_some() {
                out.push(b'\n');
                rest = &rest[1..];
                self.ended += u64::from(self.line == Line::Data);
                self.line = Line::Begins;
                self.matched = 0;
            }
        }
    }

    fn part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        for (at, byte) in part.iter().enumerate() {
            match self.line {
                Line::Begins if *byte == DATA[self.matched] => {
                    out.push(*byte);
                    self.matched += 1;
                    if self.matched == DATA.len() {
                        self.rewriter.again();
                        self.line = Line::Data;
                    }
                }
                Line::Begins => {
                    out.push(*byte);
                    self.line = Line::Other;
                }
                Line::Data => return self.rewriter.feed(&part[at..], out),
                Line::Other => return out.extend_from_slice(&part[at..]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("digits", "2", "digits.2.0a1b2c3d")
    }

    /// The outcome, which must not depend on how the input is cut.
    fn rewritten(input: &str) -> String {
        let whole = {
            let mut out = Vec::new();
            Rewriter::new(names()).feed(input.as_bytes(), &mut out);
            out
        };
        for at in 0..=input.len() {
            let (mut rewriter, mut out) = (Rewriter::new(names()), Vec::new());
            rewriter.feed(&input.as_bytes()[..at], &mut out);
            rewriter.feed(&input.as_bytes()[at..], &mut out);
            assert_eq!(whole, out, "cut at {at}");
        }
        let (mut rewriter, mut single) = (Rewriter::new(names()), Vec::new());
        for byte in input.as_bytes() {
            rewriter.feed(std::slice::from_ref(byte), &mut single);
        }
        assert_eq!(whole, single);
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn names_become_logical_wherever_they_stand() {
        for (input, expected) in [
            (
                r#"{"id":"a","model_name":"digits.2.0a1b2c3d","model_version":"1","outputs":[]}"#,
                r#"{"id":"a","model_name":"digits","model_version":"2","outputs":[]}"#,
            ),
            (
                r#" { "outputs" : [{"model_name":"x"}, "]", {}], "model_version" : "1" , "model_name":"y" } "#,
                r#" { "outputs" : [{"model_name":"x"}, "]", {}], "model_version" : "2" , "model_name":"digits" } "#,
            ),
            (
                r#"{"a":"model_name","b":1.5e3,"c":null,"model_name":"q\"\\","model_version":"\u0031"}"#,
                r#"{"a":"model_name","b":1.5e3,"c":null,"model_name":"digits","model_version":"2"}"#,
            ),
            (
                r#"{"mod\u0065l_name":"y","model_version":1}"#,
                r#"{"mod\u0065l_name":"digits","model_version":1}"#,
            ),
            (
                r#"{"x":{"model_name":"y","z":["{","\"}"]},"model_name":"y"}"#,
                r#"{"x":{"model_name":"y","z":["{","\"}"]},"model_name":"digits"}"#,
            ),
        ] {
            assert_eq!(expected, rewritten(input));
        }
    }

    #[test]
    fn what_is_no_object_passes_as_it_is() {
        for input in [
            "",
            "[]",
            "  7",
            "\"model_name\"",
            "{}",
            "{",
            "not json {\"model_name\":\"x\"}",
        ] {
            assert_eq!(input, rewritten(input));
        }
    }

    #[test]
    fn an_error_text_has_logical_names_and_an_end() {
        assert_eq!(
            r#"{"error":"model 'digits' said \"no\"\n"}"#,
            rewritten(r#"{"error":"model 'digits.2.0a1b2c3d' said \"no\"\u000a"}"#)
        );
        let mut out = Vec::new();
        let long = format!(r#"{{"error":"{}"}}"#, "a".repeat(5000));
        Rewriter::new(names()).feed(long.as_bytes(), &mut out);
        assert_eq!(MAX_TEXT + r#"{"error":""}"#.len(), out.len());
    }

    #[test]
    fn an_endless_error_text_is_not_kept() {
        let (mut rewriter, mut out) = (Rewriter::new(names()), Vec::new());
        rewriter.feed(br#"{"error":""#, &mut out);
        for _ in 0..1000 {
            rewriter.feed(&[b'x'; 1024], &mut out);
        }

        assert!(rewriter.held.len() <= MAX_HELD);
        rewriter.feed(b"\"}", &mut out);
        assert!(rewriter.error_seen() && out.len() < 2 * MAX_TEXT);
    }

    #[test]
    fn once_both_names_are_through_the_rest_is_not_looked_at() {
        let (mut rewriter, mut out) = (Rewriter::new(names()), Vec::new());

        rewriter.feed(br#"{"model_name":"x","model_version":"1"#, &mut out);
        assert!(!rewriter.is_settled());
        rewriter.feed(br#"""#, &mut out);
        assert!(rewriter.is_settled());
        rewriter.feed(br#","model_name":"x"}"#, &mut out);

        assert_eq!(
            r#"{"model_name":"digits","model_version":"2","model_name":"x"}"#,
            String::from_utf8(out).unwrap()
        );
    }

    #[test]
    fn a_name_is_written_as_json() {
        assert_eq!(r#""a\"\\\né""#, quoted("a\"\\\né"));
    }

    #[test]
    fn events_are_rewritten_line_by_line_however_they_are_cut() {
        let input = "data: {\"model_name\":\"x\",\"model_version\":\"1\",\"t\":\"a\"}\n\n: ping\n\
                     data: {\"model_name\":\"x\",\"model_version\":\"1\"}\n\ndatum: {\"model_name\":\"x\"}\n\
                     data: {\"error\":\"digits.2.0a1b2c3d broke\"}\n\n";
        let expected = "data: {\"model_name\":\"digits\",\"model_version\":\"2\",\"t\":\"a\"}\n\n: ping\n\
                        data: {\"model_name\":\"digits\",\"model_version\":\"2\"}\n\ndatum: {\"model_name\":\"x\"}\n\
                        data: {\"error\":\"digits broke\"}\n\n";
        for at in 0..=input.len() {
            let (mut events, mut out) = (Events::new(names()), Vec::new());
            events.feed(&input.as_bytes()[..at], &mut out);
            events.feed(&input.as_bytes()[at..], &mut out);

            assert_eq!(expected, String::from_utf8(out).unwrap());
            assert_eq!((3, true), (events.ended, events.error_seen()));
        }
    }
}
