//! Requests and answers of the calls that the gateway answers itself.

use bytes::{Bytes, BytesMut};

use crate::encode::{put_len, put_number, put_text};
use crate::fields::{Fields, Malformed};

/// One line of a `RepositoryIndexResponse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexLine<'a> {
    /// Logical model name.
    pub name: &'a str,
    /// Concrete version.
    pub version: &'a str,
    /// Triton's words: `READY`, `UNAVAILABLE`, or empty.
    pub state: &'a str,
    /// Why it is not ready, or empty.
    pub reason: &'a str,
}

/// A `ServerMetadataResponse`.
#[must_use]
pub fn server_metadata(name: &str, version: &str, extensions: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    put_text(&mut out, 1, name);
    put_text(&mut out, 2, version);
    for extension in extensions {
        put_len(&mut out, 3, extension.as_bytes());
    }
    out.freeze()
}

/// A `RepositoryIndexResponse`.
#[must_use]
pub fn repository_index<'a>(lines: impl IntoIterator<Item = IndexLine<'a>>) -> Bytes {
    let mut out = BytesMut::new();
    let mut entry = Vec::new();
    for line in lines {
        entry.clear();
        put_text(&mut entry, 1, line.name);
        put_text(&mut entry, 2, line.version);
        put_text(&mut entry, 3, line.state);
        put_text(&mut entry, 4, line.reason);
        put_len(&mut out, 1, &entry);
    }
    out.freeze()
}

/// A `RepositoryIndexRequest`: whether only ready versions are asked for.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn index_wants_ready(msg: &[u8]) -> Result<bool, Malformed> {
    let mut ready = false;
    for field in Fields::new(msg) {
        let field = field?;
        if field.number == 2 {
            ready = field.varint().unwrap_or(0) != 0;
        }
    }
    Ok(ready)
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Takes requests.
    Serving = 1,
    /// Does not now.
    NotServing = 2,
    /// No such service; only in `Watch`.
    ServiceUnknown = 3,
}

/// A `HealthCheckResponse`.
#[must_use]
pub fn health(status: Serving) -> Bytes {
    Bytes::from_static(match status {
        Serving::Serving => b"\x08\x01",
        Serving::NotServing => b"\x08\x02",
        Serving::ServiceUnknown => b"\x08\x03",
    })
}

/// The service of a `HealthCheckRequest`, empty for the whole server.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn health_service(msg: &[u8]) -> Result<&[u8], Malformed> {
    last_text(msg, 1)
}

/// The last value of a string field, empty where it is absent.
fn last_text(msg: &[u8], number: u32) -> Result<&[u8], Malformed> {
    let mut text: &[u8] = b"";
    for field in Fields::new(msg) {
        let field = field?;
        if field.is(number) {
            text = field.payload;
        }
    }
    Ok(text)
}

/// What a `ServerReflectionRequest` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflection<'a> {
    /// The file of that name.
    FileByName(&'a [u8]),
    /// The file that defines that symbol.
    FileOfSymbol(&'a [u8]),
    /// The file that extends that type.
    FileOfExtension(&'a [u8]),
    /// Numbers of all extensions of that type.
    ExtensionsOf(&'a [u8]),
    /// All services.
    Services,
    /// None of these.
    Unknown,
}

/// Read a `ServerReflectionRequest` (v1 and v1alpha are alike). The last member of the oneof counts.
///
/// # Errors
/// The bytes are no protobuf message.
pub fn reflection_request(msg: &[u8]) -> Result<Reflection<'_>, Malformed> {
    let mut request = Reflection::Unknown;
    for field in Fields::new(msg) {
        let field = field?;
        request = match field.number {
            3 if field.is(3) => Reflection::FileByName(field.payload),
            4 if field.is(4) => Reflection::FileOfSymbol(field.payload),
            5 if field.is(5) => Reflection::FileOfExtension(last_text(field.payload, 1)?),
            6 if field.is(6) => Reflection::ExtensionsOf(field.payload),
            7 if field.is(7) => Reflection::Services,
            _ => request,
        };
    }
    Ok(request)
}

fn reflection_answer(request: &[u8], number: u32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(request.len() + body.len() + 12);
    put_len(&mut out, 2, request);
    put_len(&mut out, number, body);
    out.freeze()
}

/// A `ServerReflectionResponse` with serialised `FileDescriptorProto`s; `request` is echoed.
#[must_use]
pub fn reflection_files<'a>(request: &[u8], files: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut body = Vec::new();
    for file in files {
        put_len(&mut body, 1, file);
    }
    reflection_answer(request, 4, &body)
}

/// A `ServerReflectionResponse` with the names of services; `request` is echoed.
#[must_use]
pub fn reflection_services(request: &[u8], services: &[&str]) -> Bytes {
    let mut body = Vec::new();
    let mut service = Vec::new();
    for name in services {
        service.clear();
        put_text(&mut service, 1, name);
        put_len(&mut body, 1, &service);
    }
    reflection_answer(request, 6, &body)
}

/// A `ServerReflectionResponse` that is an error: a gRPC code and a text; `request` is echoed.
#[must_use]
pub fn reflection_error(request: &[u8], code: u8, text: &str) -> Bytes {
    let mut body = Vec::new();
    put_number(&mut body, 1, u64::from(code));
    put_text(&mut body, 2, text);
    reflection_answer(request, 7, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(msg: &[u8]) -> Vec<(u32, Vec<u8>)> {
        Fields::new(msg)
            .map(|f| f.map(|f| (f.number, f.payload.to_vec())).unwrap())
            .collect()
    }

    #[test]
    fn server_metadata_lists_its_extensions() {
        let expected = vec![
            (1, b"triton".to_vec()),
            (2, b"2.51.0".to_vec()),
            (3, b"classification".to_vec()),
            (3, b"sequence".to_vec()),
        ];

        assert_eq!(
            expected,
            fields(&server_metadata(
                "triton",
                "2.51.0",
                &["classification", "sequence"]
            ))
        );
    }

    #[test]
    fn an_index_has_one_entry_a_line() {
        let ready = IndexLine {
            name: "m",
            version: "1",
            state: "READY",
            reason: "",
        };
        let failed = IndexLine {
            name: "m",
            version: "2",
            state: "UNAVAILABLE",
            reason: "why",
        };

        let index = fields(&repository_index([ready, failed]));

        assert_eq!(2, index.len());
        assert_eq!(
            vec![1, 2, 3],
            fields(&index[0].1).iter().map(|f| f.0).collect::<Vec<_>>()
        );
        assert_eq!((4, b"why".to_vec()), fields(&index[1].1)[3]);
    }

    #[test]
    fn the_ready_filter_of_an_index_is_read() {
        assert_eq!(Ok(true), index_wants_ready(b"\x10\x01"));
        assert_eq!(Ok(false), index_wants_ready(b"\x0a\x01r"));
        assert!(index_wants_ready(b"\x10").is_err());
    }

    #[test]
    fn health_is_one_enum() {
        assert_eq!(&b"\x08\x02"[..], &health(Serving::NotServing)[..]);
        assert_eq!(b"svc", health_service(b"\x0a\x03svc").unwrap());
    }

    #[test]
    fn every_reflection_request_is_told_apart() {
        for (bytes, expected) in [
            (&b"\x1a\x01f"[..], Reflection::FileByName(b"f")),
            (b"\x22\x01s", Reflection::FileOfSymbol(b"s")),
            (
                b"\x2a\x05\x0a\x01t\x10\x05",
                Reflection::FileOfExtension(b"t"),
            ),
            (b"\x32\x01t", Reflection::ExtensionsOf(b"t")),
            (b"\x3a\x00", Reflection::Services),
            (b"\x0a\x01h", Reflection::Unknown),
        ] {
            assert_eq!(Ok(expected), reflection_request(bytes));
        }
    }

    #[test]
    fn reflection_answers_echo_the_request() {
        for answer in [
            reflection_files(b"\x3a\x00", [&b"file"[..]]),
            reflection_services(b"\x3a\x00", &["a.B"]),
            reflection_error(b"\x3a\x00", 5, "no such symbol"),
        ] {
            assert_eq!((2, b"\x3a\x00".to_vec()), fields(&answer)[0]);
        }
    }

    #[test]
    fn a_reflection_error_has_code_and_text() {
        let answer = fields(&reflection_error(b"", 5, "no"));

        assert_eq!((7, b"\x08\x05\x12\x02no".to_vec()), answer[1]);
    }
}
