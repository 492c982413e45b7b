//! gRPC statuses, and the one place that turns them into HTTP/2 answers.

use std::borrow::Cow;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::{HeaderName, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use stagegate_wire::text;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(crate) const GRPC_RETRY_PUSHBACK: HeaderName =
    HeaderName::from_static("grpc-retry-pushback-ms");
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// What may come compressed, as Triton writes it.
const OPENED: HeaderValue = HeaderValue::from_static("identity, deflate, gzip");

/// The status codes of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

const DIGITS: [&str; 17] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
];

/// The header value of a status code; one that does not exist is UNKNOWN.
fn digits(code: u8) -> HeaderValue {
    HeaderValue::from_static(DIGITS.get(usize::from(code)).copied().unwrap_or("2"))
}

/// The number in a `grpc-status` value; UNKNOWN where it is none or not one of gRPC's.
pub(crate) fn parse_code(value: &HeaderValue) -> u8 {
    let text = value.as_bytes();
    let found = DIGITS.iter().position(|digits| digits.as_bytes() == text);
    found.map_or(Code::Unknown as u8, |code| code as u8)
}

/// How a call ended: a code and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u8,
    pub(crate) message: Cow<'static, str>,
    /// Milliseconds after which a client may try again.
    pub(crate) push_back: Option<u32>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: code as u8,
            message: message.into(),
            push_back: None,
        }
    }

    /// The same, with the time in milliseconds after which a client may try again.
    pub(crate) fn push_back(self, millis: u32) -> Self {
        Self {
            push_back: Some(millis),
            ..self
        }
    }

    pub(crate) fn ok() -> Self {
        Self::new(Code::Ok, "")
    }

    pub(crate) fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Internal, message)
    }

    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// What a backend said with that code, in the text of its headers or trailers.
    pub(crate) fn told(code: u8, headers: &HeaderMap) -> Self {
        let message = headers.get(GRPC_MESSAGE).map_or_else(String::new, |value| {
            text::decode_message(value.as_bytes()).into_owned()
        });
        Self {
            code,
            message: message.into(),
            push_back: None,
        }
    }

    /// A backend ended a stream that was not at its end.
    pub(crate) fn ended_early(backend: &str) -> Self {
        Self::unavailable(format!("backend '{backend}' ended the stream"))
    }

    /// A backend does not have what the table says that it has.
    pub(crate) fn gone(backend: &str, what: &str, said: &str) -> Self {
        Self::unavailable(format!(
            "backend '{backend}' does not have {what} any more: {said}"
        ))
    }

    /// A backend that cannot be reached, of what was asked for.
    pub(crate) fn no_backend(backend: &str, what: &str, reason: &str) -> Self {
        Self::unavailable(format!(
            "backend '{backend}' of {what} does not answer: {reason}"
        ))
    }

    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "Deadline Exceeded")
    }

    /// Trailers that end an answer with this status.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        self.put(&mut trailers);
        trailers
    }

    /// An answer that is nothing but this status: one HEADERS frame that ends the stream.
    pub(crate) fn trailers_only(&self) -> Response<()> {
        let mut response = bare_head();
        let headers = response.headers_mut();
        self.put(headers);
        if self.code == Code::Unimplemented as u8 {
            headers.insert(GRPC_ACCEPT_ENCODING, OPENED);
        }
        response
    }

    fn put(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, digits(self.code));
        if !self.message.is_empty() {
            headers.insert(
                GRPC_MESSAGE,
                message_value(text::encode_message(&self.message)),
            );
        }
        if let Some(millis) = self.push_back {
            headers.insert(GRPC_RETRY_PUSHBACK, millis.into());
        }
    }

    /// What a reset of the upstream stream, or its end without a status, means for the client.
    pub(crate) fn of_upstream_error(error: &h2::Error, backend: &str) -> Self {
        let code = match error.reason() {
            None | Some(Reason::REFUSED_STREAM) => Code::Unavailable,
            Some(Reason::CANCEL) => Code::Cancelled,
            Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
            Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
            Some(_) if error.is_go_away() => Code::Unavailable,
            Some(_) => Code::Internal,
        };
        Self::new(code, format!("backend '{backend}': {error}"))
    }

    /// The failure that an answer consists of; `None` where it is none, or has more to come.
    pub(crate) fn of_answer(response: &Response<RecvStream>, backend: &str) -> Option<Self> {
        let is_ok = response.status() == StatusCode::OK;
        if is_ok && !response.body().is_end_stream() {
            return None;
        }
        match response.headers().get(GRPC_STATUS).map(parse_code) {
            Some(code) if is_ok => {
                (code != Code::Ok as u8).then(|| Self::told(code, response.headers()))
            }
            _ => Some(Self::of_http(response.status(), backend)),
        }
    }

    /// What an answer without a `grpc-status` means, by its HTTP status.
    pub(crate) fn of_http(status: StatusCode, backend: &str) -> Self {
        let code = match status.as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        let status = status.as_u16();
        Self::new(
            code,
            format!("backend '{backend}' ended the answer without a gRPC status (HTTP {status})"),
        )
    }
}

/// A percent-encoded text as a header value; it has only visible ASCII in it.
pub(crate) fn message_value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The head of an answer that we make ourselves and that has messages.
pub(crate) fn answer_head() -> Response<()> {
    let mut response = bare_head();
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, OPENED);
    response
}

/// The head of an answer that is nothing but a status.
pub(crate) fn bare_head() -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in 0..17 {
            assert_eq!(code, parse_code(&digits(code)));
        }
    }

    #[test]
    fn a_status_that_is_none_is_unknown() {
        for text in ["17", "-1", "x", "", "00"] {
            assert_eq!(2, parse_code(&HeaderValue::from_static(text)), "{text:?}");
        }
    }

    #[test]
    fn a_text_is_percent_encoded() {
        let trailers = Status::internal("50% of \u{e9}\n").trailers();

        assert_eq!("50%25 of %C3%A9%0A", trailers[GRPC_MESSAGE]);
    }

    #[test]
    fn a_time_to_try_again_is_told_in_milliseconds() {
        let status = Status::new(Code::ResourceExhausted, "busy").push_back(120);

        assert_eq!("120", status.trailers()["grpc-retry-pushback-ms"]);
        assert_eq!(
            "120",
            status.trailers_only().headers()["grpc-retry-pushback-ms"]
        );
    }

    #[test]
    fn http_statuses_map_as_the_grpc_specification_says() {
        for (http, code) in [
            (200, 2),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (503, 14),
            (400, 13),
        ] {
            let status = Status::of_http(StatusCode::from_u16(http).unwrap(), "t0");
            assert_eq!(code, status.code, "HTTP {http}");
        }
    }
}
