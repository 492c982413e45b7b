//! What the data plane reads and writes of gRPC and protobuf, and nothing else of either.
//!
//! - [`frame`]: the 5-byte prefix of a message.
//! - [`fields`]: the protobuf wire format, field by field, without a schema.
//! - [`names`]: the model name and version of a request, whole or in pieces.
//! - [`params`]: the parameters of a request.
//! - [`repository`]: requests to load a model, in two forms.
//! - [`rewrite`]: names put in by appending, answers with repeated names re-encoded.
//! - [`statistics`]: what several backends counted for one version, added up.
//! - [`stream`]: what must be seen of a `ModelStreamInferResponse`.
//! - [`tensors`]: requests of zeros, and whether the bytes of an answer fit its shapes.
//! - [`local`]: requests and answers of the calls that the gateway answers itself.
//! - [`encode`]: the small protobuf writers under both.
//! - [`timeout`], [`text`], [`inflate`]: `grpc-timeout`, `grpc-message`, compressed messages.
//!
//! No part of it trusts its input: any bytes give an answer or [`Malformed`], never a panic, and
//! nothing is allocated in proportion to a length that a message only claims.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_sign_loss)
)]

pub mod encode;
pub mod fields;
pub mod frame;
pub mod inflate;
pub mod inflating;
pub mod local;
pub mod names;
pub mod params;
pub mod repository;
pub mod rewrite;
pub mod statistics;
pub mod stream;
pub mod tensors;
pub mod text;
pub mod timeout;

pub use fields::Malformed;
