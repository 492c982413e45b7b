//! Waiting under a deadline. A client that goes away ends the wait by itself: hyper drops it.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::Poll;

use crate::deadline::Deadline;
use crate::status::Status;

/// Wait for something, unless the deadline passes.
pub(crate) async fn before<T>(
    deadline: &mut Deadline,
    what: impl Future<Output = T>,
) -> Result<T, Status> {
    let mut what = pin!(what);
    poll_fn(|cx| match what.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => deadline.poll(cx).map(|()| Err(Status::deadline())),
    })
    .await
}
