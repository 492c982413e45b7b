//! Answers that nobody wants any more. Mostly the backend is told so; beyond a rate it is left in peace,
//! because a storm of resets is what has ended real Tritons.

use std::future::{poll_fn, Future};
use std::time::{Duration, Instant};

use h2::client::ResponseFuture;
use h2::RecvStream;
use tokio::time::timeout;

use crate::upstream::Lease;
use crate::worker::Worker;

/// Answers of one backend that are read for nobody at one time; what is beyond is reset all the same.
const MOST: usize = 1_000;
/// Time for which one is read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Give up an answer that has not begun.
pub(crate) fn answer(worker: &Worker, lease: Lease, response: ResponseFuture) {
    unless_reset(worker, lease, async move {
        if let Ok(response) = response.await {
            drain(response.into_body()).await;
        }
    });
}

/// Give up the rest of an answer.
pub(crate) fn rest(worker: &Worker, lease: Lease, body: RecvStream) {
    unless_reset(worker, lease, drain(body));
}

/// Read on in the background, unless one more reset is allowed: dropping the stream sends it.
fn unless_reset(worker: &Worker, lease: Lease, reading: impl Future<Output = ()> + 'static) {
    let upstream = lease.upstream();
    let limit = worker.limits().cancels_per_second;
    if upstream.cancels().is_within(limit, Instant::now()) || upstream.discarding() >= MOST {
        return;
    }
    tokio::task::spawn_local(async move {
        let _counted = lease.upstream().discard();
        let _ = timeout(PATIENCE, reading).await;
    });
}

async fn drain(mut body: RecvStream) {
    while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
        let _ = body.flow_control().release_capacity(data.len());
    }
}
