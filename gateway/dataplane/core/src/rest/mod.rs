//! The v2 REST protocol on the HTTP port: the same routing as gRPC, forwarded to the HTTP endpoint of a
//! backend.
//!
//! Model and version stand in the path, so that a request's body is passed on as it comes and no tensor
//! is parsed; of an answer only the top level of its JSON is looked at, for the names. HTTP/1.1 is
//! hyper's, which refuses what is ambiguous.

mod about;
mod answers;
mod body;
mod calls;
mod connection;
mod download;
mod exchange;
mod fetch;
mod headers;
mod infer;
mod io;
mod json;
mod parameters;
mod path;
mod pool;
mod refusal;
mod statistics;
mod upload;
mod wait;
mod webhook;

pub(crate) use connection::{serve, Rest};
