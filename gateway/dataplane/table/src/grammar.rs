//! What a request may write as a model name and as a reference, before anything is looked up.

use stagegate_wire::text::cut;

/// Most bytes of a logical model name.
pub const MAX_NAME: usize = 256;

/// Most characters of a reference.
pub const MAX_REFERENCE: usize = 128;

/// Whether bytes are a logical model name: 1 to 256 letters, digits, `.`, `_`, `-` or `:`.
#[must_use]
pub fn is_model_name(name: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
}

/// Whether a text can be a version id, an alias or a stage: 1 to 128 characters, none of control.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_REFERENCE * 4
        && text.chars().count() <= MAX_REFERENCE
        && !text.chars().any(char::is_control)
}

/// A reference as a client writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// As written, `@` included.
    pub text: &'a str,
    /// Without a leading `@`.
    pub name: &'a str,
    /// Whether it began with `@`: then only an alias can be meant.
    pub alias_only: bool,
}

impl<'a> Reference<'a> {
    /// Read a reference that is not empty; `None` where it is malformed.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let alias = text.strip_prefix('@');
        let name = alias.unwrap_or(text);
        is_reference(name).then_some(Self {
            text,
            name,
            alias_only: alias.is_some(),
        })
    }
}

/// The names of a request, well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The logical model name.
    pub model: &'a [u8],
    /// What follows the first `@` of the model name.
    pub in_name: Option<Reference<'a>>,
    /// What the version field says, unless it is empty.
    pub in_version: Option<Reference<'a>>,
}

/// Read the name fields of a request.
///
/// # Errors
/// The sentence for the client: which field is malformed, and what is allowed.
pub fn parse<'a>(model: &'a [u8], version: &'a [u8]) -> Result<Asked<'a>, String> {
    let (name, in_name) = match model.iter().position(|&b| b == b'@') {
        Some(at) => (
            &model[..at],
            Some(reference("model_name", &model[at + 1..])?),
        ),
        None => (model, None),
    };
    if !is_model_name(name) {
        return Err(bad_name(name));
    }
    let in_version = match version {
        b"" => None,
        _ => Some(reference("model_version", version)?),
    };
    Ok(Asked {
        model: name,
        in_name,
        in_version,
    })
}

fn reference<'a>(field: &str, text: &'a [u8]) -> Result<Reference<'a>, String> {
    std::str::from_utf8(text)
        .ok()
        .and_then(Reference::parse)
        .ok_or_else(|| {
            format!(
                "{field}: the reference {} is malformed (a version, a stage or an @alias of 1 to \
             {MAX_REFERENCE} characters, without control characters)",
                quote(text)
            )
        })
}

fn bad_name(name: &[u8]) -> String {
    if name.is_empty() {
        return "model_name is empty; name a model, such as 'fraud' or 'fraud@production'"
            .to_owned();
    }
    format!(
        "model_name {} is not allowed (1 to {MAX_NAME} letters, digits, '.', '_', '-' or ':')",
        quote(name)
    )
}

/// Bytes of a client in quotes, escaped, and cut so that they fit into a sentence.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]);
    let short = cut(&text, 80);
    let more = if short.len() < text.len() || bytes.len() > 512 {
        "..."
    } else {
        ""
    };
    let escaped: String = short
        .chars()
        .flat_map(|c| {
            let plain = !c.is_control() && c != '\\' && c != '\'';
            let (one, other) = if plain {
                (Some(c), None)
            } else {
                (None, Some(c.escape_default()))
            };
            one.into_iter().chain(other.into_iter().flatten())
        })
        .collect();
    format!("'{escaped}{more}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_are_ascii_words() {
        for good in [&b"a"[..], b"fraud", b"A.b_c-d:9", &[b'a'; MAX_NAME]] {
            assert!(is_model_name(good));
        }
        for bad in [
            &b""[..],
            b"a b",
            b"a/b",
            "é".as_bytes(),
            b"a\0",
            &[b'a'; MAX_NAME + 1],
        ] {
            assert!(!is_model_name(bad));
        }
    }

    #[test]
    fn a_reference_after_an_at_sign_can_only_be_an_alias() {
        let alias = Reference::parse("@champion").unwrap();

        assert_eq!(("champion", true), (alias.name, alias.alias_only));
    }

    #[test]
    fn malformed_references_are_told_with_their_field() {
        for (model, version, field) in [
            (&b"m@"[..], &b""[..], "model_name"),
            (b"m@@", b"", "model_name"),
            (b"m@a\nb", b"", "model_name"),
            (b"m", b"@", "model_version"),
            (b"m", b"\xff", "model_version"),
            (b"m", "\u{85}".as_bytes(), "model_version"),
            (b"m", &[b'1'; MAX_REFERENCE + 1], "model_version"),
        ] {
            let error = parse(model, version).unwrap_err();

            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_reference_may_have_128_characters_of_any_script() {
        let text = "漢".repeat(MAX_REFERENCE);

        assert!(parse(b"m", text.as_bytes()).is_ok());
    }

    #[test]
    fn the_first_at_sign_ends_the_name() {
        let asked = parse(b"m@@x", b"7").unwrap();

        assert_eq!(b"m", asked.model);
        assert_eq!("@x", asked.in_name.unwrap().text);
        assert_eq!("7", asked.in_version.unwrap().text);
    }

    #[test]
    fn quoted_bytes_are_escaped_and_short() {
        assert_eq!(r"'a\n\u{1b}[31m\'\\'", quote(b"a\n\x1b[31m'\\"));
        assert_eq!("'\u{fffd}'", quote(b"\xff"));
        assert!(quote(&vec![b'\n'; 100_000]).len() < 200);
        assert_eq!("'é'", quote("é".as_bytes()));
    }
}
