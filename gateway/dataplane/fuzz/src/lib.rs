//! Changed copies of real messages and byte streams, thrown at everything that reads what others send.
//!
//! - [`messages`]: targets that take the bytes of one message. Each states what must hold of any bytes.
//! - [`frames`]: a running data plane that takes the bytes of one client connection.
//! - [`mutate`]: how a seed is changed. The same seed number gives the same inputs.
//!
//! No nightly compiler is needed. The targets are plain functions of bytes, so coverage-guided fuzzers can
//! call them as well.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod corpus;
pub mod frames;
pub mod messages;
pub mod mutate;
pub mod neighbour;
pub mod random;
