//! Which headers cross the gateway, and what it adds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    HeaderName, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use stagegate_wire::timeout::{format_grpc_timeout, parse_grpc_timeout};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("stagegate-version");
pub(crate) const ARM: HeaderName = HeaderName::from_static("stagegate-arm");
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
    if *name == TE || *name == TRANSFER_ENCODING || *name == UPGRADE {
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
fn strip(headers: &mut HeaderMap) {
    // Rarely is there anything to take out, and then at most a few names.
    while let Some(name) = headers.keys().find(|name| stops_here(name)).cloned() {
        headers.remove(name);
    }
}

/// Turn a client's headers into those for a backend.
pub(crate) fn for_backend(headers: &mut HeaderMap) {
    let te = headers.remove(TE);
    strip(headers);
    // The gRPC specification demands it of clients, so a backend may insist on it.
    headers.insert(TE, te.filter(|te| te == TRAILERS).unwrap_or(TRAILERS));
}

/// Turn a backend's headers or trailers into those for a client.
pub(crate) fn for_client(headers: &mut HeaderMap) {
    strip(headers);
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
    usual: Duration,
    value: HeaderValue,
}

impl Timeouts {
    /// `usual` is the deadline of requests that bring none.
    pub(crate) fn new(usual: Duration) -> Self {
        Self {
            usual,
            value: timeout_value(usual),
        }
    }

    /// Tell the backend how much time is left.
    pub(crate) fn set(&self, headers: &mut HeaderMap, deadline: Option<Instant>, now: Instant) {
        let Some(deadline) = deadline else {
            headers.remove(GRPC_TIMEOUT);
            return;
        };
        let left = deadline.saturating_duration_since(now);
        let fresh = left <= self.usual && self.usual.saturating_sub(left) < FRESH;
        let value = if fresh {
            self.value.clone()
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
