//! The part of the settings that may change while the data plane runs.

use std::time::Duration;

use crate::settings::Settings;

/// Bounds that every worker keeps its own copy of; a reload replaces it. What a connection was begun
/// with (streams, header list, frame) stays with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_message: usize,
    pub(crate) max_streams: u32,
    pub(crate) max_header_list: u32,
    pub(crate) max_frame: u32,
    pub(crate) queue_per_model: usize,
    /// Zero for none.
    pub(crate) default_deadline: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) inflate_ratio: usize,
    pub(crate) replay: usize,
    pub(crate) answer_timeout: Duration,
    pub(crate) resets_per_second: u32,
    /// Zero for none.
    pub(crate) max_connection_age: Duration,
    /// Of one thread, towards one backend.
    pub(crate) cancels_per_second: usize,
    pub(crate) max_buffered: usize,
}

impl Limits {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            max_message: settings.max_message,
            max_streams: settings.max_streams,
            max_header_list: settings.max_header_list,
            max_frame: settings.max_frame,
            queue_per_model: settings.queue_per_model,
            default_deadline: Duration::from_millis(settings.default_deadline_ms),
            handshake_timeout: Duration::from_millis(settings.handshake_timeout_ms),
            idle_timeout: Duration::from_millis(settings.idle_timeout_ms),
            inflate_ratio: settings.inflate_ratio,
            replay: settings.replay,
            answer_timeout: Duration::from_millis(settings.answer_timeout_ms),
            resets_per_second: settings.resets_per_second,
            max_connection_age: Duration::from_millis(settings.max_connection_age_ms),
            cancels_per_second: settings
                .cancels_per_second
                .div_ceil(settings.threads.max(1)),
            max_buffered: settings.max_buffered,
        }
    }
}
