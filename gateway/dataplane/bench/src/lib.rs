//! What the measuring binaries share.
//!
//! - [`message`]: the one request that is sent, the one answer that is given, and the check of an answer.
//! - [`tuning`]: HTTP/2 settings high enough that no limit of ours shapes a figure.
//! - [`load`]: the closed loop of connections times streams.
//! - [`trust`]: TLS of the client.
//! - [`args`]: `--key value` command lines.
//! - [`lines`]: the line protocol with the program that runs the measurement.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod args;
pub mod lines;
pub mod load;
pub mod message;
pub mod trust;
pub mod tuning;
