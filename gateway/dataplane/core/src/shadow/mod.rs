//! Copies of sampled requests for shadow versions, which answer nobody.
//!
//! - `capture`: what is kept of a request and its answer while its client is served.
//! - `kept`: an answer that is kept as it passes, up to a cap.
//! - `budget`: the bytes that all copies of a thread may hold.
//! - `queue`: who waits, who runs, and what is given up when there is too much.
//! - `pulse`: how busy the thread is.
//! - `send`: one copy on its way, to the end of its answer.
//! - `pairs`: two answers for the control plane to compare.
//!
//! A copy is sent when its client has the whole answer, and only where that was OK. So nothing here can
//! hold up a client, a shadow on the same Triton works after the client's request and not beside it, a
//! request that breaks its model is not repeated, and every copy has an answer to be compared with.
//! What is too much is given up, never waited for.

mod budget;
mod capture;
mod kept;
mod pairs;
mod pulse;
mod queue;
mod send;

pub use pairs::{Pair, Pairs};

pub(crate) use capture::{offer, sample, Capture};
pub(crate) use queue::{drive, Shadows};
