//! Statuses as the REST protocol says them: an HTTP status and `{"error": "..."}`.

use http::header::{HeaderName, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::client::Failure;
use crate::rest::body::Body;
use crate::rest::json::quoted;
use crate::status::{Code, Status};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Seconds after which a client that was turned away may try again.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// The same in milliseconds, by the name that others know it by.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Why a request is not answered by a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) http: StatusCode,
    pub(crate) status: Status,
}

impl Refusal {
    /// A request beyond a size that is allowed.
    pub(crate) fn too_large(text: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self {
            http: StatusCode::PAYLOAD_TOO_LARGE,
            status: Status::new(Code::ResourceExhausted, text),
        }
    }

    /// Something that only HTTP has a status for.
    pub(crate) fn http(http: StatusCode, text: &'static str) -> Self {
        Self {
            http,
            status: Status {
                code: code_of(http),
                message: text.into(),
                push_back: None,
            },
        }
    }

    pub(crate) fn answer(&self) -> Response<Body> {
        let mut answer = json(self.http, error_body(&self.status.message));
        let headers = answer.headers_mut();
        match self.status.push_back {
            Some(millis) => {
                // Whole seconds are all that this header knows.
                headers.insert(RETRY_AFTER, millis.div_ceil(1000).into());
                headers.insert(RETRY_AFTER_MS, millis.into());
            }
            None if self.http == StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, AGAIN);
            }
            None => {}
        }
        answer
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self {
            http: http_of(status.code),
            status,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Status(status) => status.into(),
            Failure::Gone => Status::new(Code::Cancelled, "the client is gone").into(),
        }
    }
}

/// Triton's HTTP status for a gRPC status, and the usual one where Triton has none.
fn http_of(code: u8) -> StatusCode {
    const NAMES: [(Code, StatusCode); 10] = [
        (Code::Ok, StatusCode::OK),
        (Code::Unknown, StatusCode::INTERNAL_SERVER_ERROR),
        (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT),
        (Code::NotFound, StatusCode::NOT_FOUND),
        (Code::PermissionDenied, StatusCode::FORBIDDEN),
        (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
        (Code::Unimplemented, StatusCode::NOT_IMPLEMENTED),
        (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR),
        (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        (Code::Unauthenticated, StatusCode::UNAUTHORIZED),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known as u8 == code)
        .map_or(StatusCode::BAD_REQUEST, |(_, http)| *http)
}

/// The gRPC status that a backend's HTTP status counts as.
pub(crate) fn code_of(http: StatusCode) -> u8 {
    let code = match http.as_u16() {
        200..=299 => Code::Ok,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        413 | 429 => Code::ResourceExhausted,
        500 => Code::Internal,
        405 | 501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        408 | 504 => Code::DeadlineExceeded,
        400..=499 => Code::InvalidArgument,
        _ => Code::Unknown,
    };
    code as u8
}

/// An answer in JSON.
pub(crate) fn json(http: StatusCode, body: String) -> Response<Body> {
    let mut answer = Response::new(Body::whole(body));
    *answer.status_mut() = http;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// A body that says what is wrong.
pub(crate) fn error_body(text: &str) -> String {
    format!("{{\"error\":{}}}", quoted(text))
}

/// An answer that closes its connection.
pub(crate) fn closing(mut answer: Response<Body>) -> Response<Body> {
    const CONNECTION: HeaderName = http::header::CONNECTION;
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_triton() {
        for (code, http) in [
            (0, 200),
            (1, 400),
            (3, 400),
            (4, 504),
            (5, 404),
            (8, 429),
            (9, 400),
            (12, 501),
            (13, 500),
            (14, 503),
            (16, 401),
        ] {
            assert_eq!(http, http_of(code).as_u16(), "{code}");
        }
    }

    #[test]
    fn a_backends_status_counts_as_a_grpc_code() {
        for (http, code) in [
            (200, 0),
            (400, 3),
            (404, 5),
            (413, 8),
            (429, 8),
            (500, 13),
            (501, 12),
            (503, 14),
            (504, 4),
            (302, 2),
            (418, 3),
        ] {
            assert_eq!(code, code_of(StatusCode::from_u16(http).unwrap()), "{http}");
        }
    }

    #[test]
    fn who_is_turned_away_is_told_when_to_come_back() {
        let refusal = Refusal::from(Status::new(Code::ResourceExhausted, "full"));

        assert_eq!("1", refusal.answer().headers()[RETRY_AFTER]);
        assert_eq!(StatusCode::TOO_MANY_REQUESTS, refusal.answer().status());
    }

    #[test]
    fn a_text_is_json() {
        assert_eq!(r#"{"error":"a \"b\"\n"}"#, error_body("a \"b\"\n"));
    }
}
