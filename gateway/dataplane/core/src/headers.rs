//! Which headers cross the gateway, and what it adds.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    HeaderName, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue};
use stagegate_wire::timeout::{format_grpc_timeout, parse_grpc_timeout};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("stagegate-version");
pub(crate) const ARM: HeaderName = HeaderName::from_static("stagegate-arm");
pub(crate) const SHADOW: HeaderName = HeaderName::from_static("stagegate-shadow");
pub(crate) const REQUEST: HeaderName = HeaderName::from_static("stagegate-request");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
/// Time after which a deadline that was just set is no longer the usual one.
const FRESH: Duration = Duration::from_millis(1);
const RESERVED: &str = "stagegate-";

/// Headers of one hop only, and those whose value no longer holds once a message was rewritten.
fn stops_here(name: &HeaderName) -> bool {
    if *name == CONTENT_LENGTH || *name == CONNECTION || *name == HOST {
        return true;
    }
    if *name == TRANSFER_ENCODING || *name == UPGRADE {
        return true;
    }
    let name = name.as_str();
    name.starts_with(RESERVED)
        || matches!(
            name,
            "keep-alive" | "proxy-connection" | "grpc-previous-rpc-attempts"
        )
}

/// Take out of `headers` what must not cross. The rest keeps its order, its duplicates and its flags.
fn strip(headers: &mut HeaderMap, stops: impl Fn(&HeaderName) -> bool) {
    // Rarely is there anything to take out.
    let stopped: Vec<HeaderName> = headers.keys().filter(|name| stops(name)).cloned().collect();
    for name in stopped {
        headers.remove(name);
    }
}

/// Headers of gRPC's own that say nothing about a client's call.
fn is_internal(name: &HeaderName) -> bool {
    let Some(rest) = name.as_str().strip_prefix("grpc-") else {
        return false;
    };
    !matches!(
        rest,
        "timeout" | "encoding" | "accept-encoding" | "trace-bin" | "tags-bin"
    )
}

/// The name of binary metadata that is no base64. Some servers close the connection over it, and others
/// share that.
pub(crate) fn broken_binary(headers: &HeaderMap) -> Option<&HeaderName> {
    let is_broken = |(name, value): &(&HeaderName, &HeaderValue)| {
        let mut values = value.as_bytes().split(|byte| *byte == b',');
        name.as_str().ends_with("-bin") && !values.all(is_base64)
    };
    headers.iter().find(is_broken).map(|(name, _)| name)
}

/// Whether bytes are base64, padded or not.
fn is_base64(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let whole = match padding {
        0 => digits.len() % 4 != 1,
        1 | 2 => text.len().is_multiple_of(4),
        _ => false,
    };
    whole
        && digits
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// Turn a client's headers into those for a backend.
pub(crate) fn for_backend(headers: &mut HeaderMap) {
    strip(headers, |name| stops_here(name) || is_internal(name));
    // The gRPC specification demands it of clients, so a backend may insist on it.
    if headers.get(TE).is_none_or(|te| te != TRAILERS) {
        headers.insert(TE, TRAILERS);
    }
    for (name, value) in headers.iter_mut() {
        if !is_steady(name) {
            value.set_sensitive(true);
        }
    }
}

/// Whether a header has the same few values in all requests. Others (callers, traces, tokens) would push
/// these out of the header table that all clients share, and cost more there than as they are; some are
/// secrets besides.
fn is_steady(name: &HeaderName) -> bool {
    *name == CONTENT_TYPE
        || *name == TE
        || *name == USER_AGENT
        || *name == GRPC_TIMEOUT
        || matches!(
            name.as_str(),
            "grpc-accept-encoding" | "grpc-encoding" | "accept-encoding"
        )
}

/// Take what says who the client is, and proves it, out of the headers of a copy.
pub(crate) fn without_credentials(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
        headers.remove(name);
    }
}

/// Turn a backend's headers or trailers into those for a client.
pub(crate) fn for_client(headers: &mut HeaderMap) {
    // h2 lets no `te` but `trailers` in, and that has no meaning in an answer.
    strip(headers, stops_here);
}

/// Whether a content type is one of gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    match value.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The client's own deadline. `Err` where the header is malformed.
pub(crate) fn client_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ()> {
    match headers.get(GRPC_TIMEOUT) {
        None => Ok(None),
        Some(value) => parse_grpc_timeout(value.as_bytes()).map(Some).ok_or(()),
    }
}

/// Writes `grpc-timeout`; the usual value is made once.
#[derive(Debug)]
pub(crate) struct Timeouts {
    usual: Cell<Duration>,
    value: RefCell<HeaderValue>,
}

impl Timeouts {
    /// `usual` is the deadline of requests that bring none.
    pub(crate) fn new(usual: Duration) -> Self {
        Self {
            usual: Cell::new(usual),
            value: RefCell::new(timeout_value(usual)),
        }
    }

    /// The usual deadline is another one from now on.
    pub(crate) fn follow(&self, usual: Duration) {
        self.usual.set(usual);
        self.value.replace(timeout_value(usual));
    }

    /// Tell the backend how much time is left.
    pub(crate) fn set(&self, headers: &mut HeaderMap, deadline: Option<Instant>, now: Instant) {
        let Some(deadline) = deadline else {
            headers.remove(GRPC_TIMEOUT);
            return;
        };
        let left = deadline.saturating_duration_since(now);
        let usual = self.usual.get();
        let fresh = left <= usual && usual.saturating_sub(left) < FRESH;
        let value = if fresh {
            self.value.borrow().clone()
        } else {
            rare(timeout_value(left))
        };
        headers.insert(GRPC_TIMEOUT, value);
    }
}

fn timeout_value(left: Duration) -> HeaderValue {
    let text = Bytes::copy_from_slice(format_grpc_timeout(left).as_bytes());
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

/// A value that hardly ever comes twice would only push others out of the header table.
fn rare(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn reserved_and_hop_by_hop_headers_stay_here() {
        let mut headers = map(&[
            ("content-length", "5"),
            ("connection", "close"),
            ("stagegate-key", "a"),
            ("stagegate-version", "9"),
            ("grpc-previous-rpc-attempts", "2"),
            ("x-mine", "kept"),
        ]);

        for_backend(&mut headers);

        assert_eq!(map(&[("x-mine", "kept"), ("te", "trailers")]), headers);
    }

    #[test]
    fn a_copy_has_no_credentials() {
        let mut headers = map(&[
            ("authorization", "Bearer a"),
            ("authorization", "Basic b"),
            ("proxy-authorization", "c"),
            ("cookie", "d=e"),
            ("x-mine", "kept"),
        ]);

        without_credentials(&mut headers);

        assert_eq!(map(&[("x-mine", "kept")]), headers);
    }

    #[test]
    fn only_headers_with_few_values_go_into_the_shared_header_table() {
        let mut headers = map(&[
            ("user-agent", "grpc-python/1"),
            ("x-user-id", "user-7"),
            ("authorization", "Bearer x"),
        ]);

        for_backend(&mut headers);

        let kept: Vec<&str> = headers
            .iter()
            .filter(|(_, value)| !value.is_sensitive())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(vec!["user-agent", "te"], kept);
    }

    #[test]
    fn duplicates_keep_their_order_and_binary_values_their_bytes() {
        let mut headers = map(&[
            ("x-bin", "AAE"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("te", "trailers"),
        ]);

        for_backend(&mut headers);

        let values: Vec<_> = headers.get_all("x-a").iter().collect();
        assert_eq!(vec!["1", "2"], values);
        assert_eq!("AAE", headers["x-bin"]);
    }

    #[test]
    fn of_grpcs_own_headers_only_those_about_the_call_reach_a_backend() {
        let mut headers = map(&[
            ("grpc-status", "0"),
            ("grpc-status-details-bin", "AA"),
            ("grpc-retry-pushback-ms", "1"),
            ("grpc-timeout", "1S"),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-trace-bin", "AA"),
            ("grpc-tags-bin", "AA"),
        ]);

        for_backend(&mut headers);

        assert_eq!(6, headers.len());
        for internal in [
            "grpc-status",
            "grpc-status-details-bin",
            "grpc-retry-pushback-ms",
        ] {
            assert!(!headers.contains_key(internal), "{internal}");
        }
    }

    #[test]
    fn binary_metadata_is_base64_padded_or_not() {
        for (value, broken) in [
            ("", false),
            ("AAE", false),
            ("AAE=", false),
            ("AA==", false),
            ("AAE,AAE=, AA", false),
            ("A", true),
            ("AA=", true),
            ("A===", true),
            ("AA=A", true),
            ("AA AA", true),
            ("AA_-", true),
            ("!!!!", true),
        ] {
            let headers = map(&[("x", "!"), ("x-bin", value)]);
            assert_eq!(broken, broken_binary(&headers).is_some(), "{value}");
        }
    }

    #[test]
    fn content_types_of_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;v=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(
                expected,
                is_grpc(&map(&[("content-type", value)])),
                "{value}"
            );
        }
        assert!(!is_grpc(&map(&[])));
    }

    #[test]
    fn the_time_that_is_left_is_written() {
        let mut headers = HeaderMap::new();
        let now = Instant::now();

        let timeouts = Timeouts::new(Duration::from_secs(30));
        timeouts.set(&mut headers, Some(now + Duration::from_millis(1500)), now);

        assert_eq!("1500000u", headers[GRPC_TIMEOUT]);
    }
}
