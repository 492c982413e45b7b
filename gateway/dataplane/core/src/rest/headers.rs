//! Which headers of the REST protocol cross the gateway.

use http::header::{
    HeaderName, ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::HeaderMap;

/// Length of the JSON part of a body with binary tensors.
pub(crate) const JSON_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");
const RESERVED: &str = "stagegate-";

/// Headers of one hop only. The length of a body is written anew by hyper.
fn is_of_one_hop(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 6] = [
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    NAMES.contains(name)
        || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "proxy-authorization" | "http2-settings"
        )
        || name.as_str().starts_with(RESERVED)
}

/// Turn a client's headers into those for a backend.
///
/// Answers are asked for as they are, because names in them are rewritten.
pub(crate) fn for_backend(headers: &mut HeaderMap) {
    strip(headers, |name| {
        is_of_one_hop(name) || [HOST, EXPECT, ACCEPT_ENCODING].contains(name)
    });
}

/// Turn a backend's headers into those for a client.
pub(crate) fn for_client(headers: &mut HeaderMap) {
    strip(headers, is_of_one_hop);
}

fn strip(headers: &mut HeaderMap, stops: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let stopped = headers.keys().filter(|name| stops(name)).cloned();
    for name in stopped.chain(named).collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// The length of the JSON part, where a header gives it.
pub(crate) fn json_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(JSON_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_of_one_hop_and_reserved_ones_stay_here() {
        let mut headers = map(&[
            ("host", "gateway"),
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
            ("stagegate-key", "u1"),
            ("content-encoding", "gzip"),
            ("inference-header-content-length", "7"),
            ("x-other", "a"),
            ("x-other", "b"),
        ]);

        for_backend(&mut headers);

        let kept = map(&[
            ("content-encoding", "gzip"),
            ("inference-header-content-length", "7"),
            ("x-other", "a"),
            ("x-other", "b"),
        ]);
        assert_eq!(kept, headers);
        assert_eq!(Some(7), json_length(&headers));
    }

    #[test]
    fn a_backend_cannot_speak_for_the_gateway() {
        let mut headers = map(&[
            ("stagegate-version", "9"),
            ("connection", "close"),
            ("endpoint-load-metrics", "x"),
        ]);

        for_client(&mut headers);

        assert_eq!(map(&[("endpoint-load-metrics", "x")]), headers);
    }
}
