//! The data plane: it accepts gRPC calls, routes each by the published table, and forwards it to a
//! Triton that has the version. Nothing in here knows Python.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admission;
mod allow;
mod answer;
mod ask;
mod balance;
mod budget;
mod client;
mod client_certificate;
mod cold;
mod connection;
mod contained;
mod dataplane;
mod deadline;
mod discard;
mod dispatch;
mod download;
mod ejection;
mod events;
mod exchange;
#[cfg(feature = "failpoints")]
mod failpoint;
mod fallback;
mod forward;
mod frame_watch;
mod framer;
mod headers;
mod health;
mod io;
mod joined;
mod limits;
mod listen;
mod liveness;
mod message;
mod opened;
mod pool;
mod probe;
mod rate;
mod reader;
mod reflection;
mod refusal;
mod repeated_end;
mod rest;
mod retry;
mod routed;
mod runners;
mod sequences;
mod settings;
mod shadow;
mod shared;
mod statistics;
mod status;
mod stream;
mod tls;
mod tls_socket;
mod token;
mod unary;
mod upload;
mod upstream;
mod validity;
mod webhooks;
mod worker;

pub use dataplane::Dataplane;
pub use events::{Event, EventKind, Events};
pub use listen::Unbound;
pub use settings::{Secret, Settings};
pub use shadow::{Pair, Pairs};
pub use tls::{BackendTls, ServerTls, TlsError};
pub use webhooks::{Webhook, Webhooks};
