//! Mistakes that tests ask for, in builds with the feature `failpoints` only.

use std::cell::Cell;

use http::HeaderMap;

thread_local! {
    static IN_H2: Cell<bool> = const { Cell::new(false) };
}

/// `x-failpoint: panic` panics here; `x-failpoint: h2` panics while h2 holds the lock of the connection
/// that the next message is sent on.
pub(crate) fn hit(headers: &HeaderMap) {
    match headers.get("x-failpoint").map(http::HeaderValue::as_bytes) {
        Some(b"panic") => panic!("asked for by x-failpoint"),
        Some(b"h2") => IN_H2.set(true),
        _ => {}
    }
}

/// Called where h2 looks at a message.
pub(crate) fn looked_at() {
    assert!(!IN_H2.replace(false), "asked for by x-failpoint, inside h2");
}
