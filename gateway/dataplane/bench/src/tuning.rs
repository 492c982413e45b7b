//! HTTP/2 settings of both ends of a measurement.

use h2::{client, server};

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Far above what any run sends: h2's default budget for small DATA frames ends busy connections.
const DATA_FRAME_BUDGET: usize = 1 << 40;

/// The backend's side.
#[must_use]
pub fn server() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(10_000)
        .max_concurrent_reset_streams(10_000)
        .max_local_error_reset_streams(None)
        .max_send_buffer_size(1 << 20)
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}

/// The client's side.
#[must_use]
pub fn client() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(10_000)
        .max_local_error_reset_streams(None)
        .max_send_buffer_size(1 << 20)
        .data_frame_budget(DATA_FRAME_BUDGET);
    builder
}
