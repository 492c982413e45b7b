//! One request to one of a version's backends, tried again where nothing was processed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::Response;
use stagegate_table::Backend;

use crate::client::{Client, Failure};
use crate::headers;
use crate::routed::{micros, Routed};
use crate::status::Status;
use crate::upload::Upload;
use crate::upstream::{Lease, Unreachable, Upstream};
use crate::worker::Worker;

/// Backends or connections that one request is tried on.
const TRIES: usize = 4;
/// Time after which a client's own `grpc-timeout` is no longer what is left.
const FRESH: Duration = Duration::from_millis(1);

/// What is asked of a backend, beside the message of the call.
pub(crate) struct Ask<'a> {
    /// Appended to the message.
    pub(crate) tail: &'a Bytes,
    /// Ids of the backends that may answer.
    pub(crate) backends: &'a [u32],
    /// What is asked for, for texts.
    pub(crate) what: &'a dyn Fn() -> String,
}

/// The way that a request took; holds its stream open until it is dropped.
pub(crate) struct Via {
    lease: Lease,
    backend: u32,
    sent: Instant,
}

/// Send the message of a call and wait for the head of the answer.
pub(crate) async fn exchange(
    worker: &Worker,
    client: &mut Client,
    ask: &Ask<'_>,
) -> Result<(Response<RecvStream>, Via), Failure> {
    headers::for_backend(&mut client.headers);
    let mut tries = Tries::default();
    while let Some((id, upstream)) = tries.next(worker, ask) {
        let lease = match upstream.try_open() {
            Some(lease) => lease,
            None => match open(client, &upstream).await? {
                Ok(lease) => lease,
                Err(Unreachable(reason)) => {
                    tries.unreachable(
                        id,
                        Status::no_backend(upstream.name(), &(ask.what)(), &reason),
                    );
                    continue;
                }
            },
        };
        let via = Via {
            lease,
            backend: id,
            sent: Instant::now(),
        };
        let may_retry = tries.count < TRIES && client.message.is_kept();
        let mut response = send(worker, client, ask, &via, may_retry)?;
        match client
            .wait(|_, cx| Pin::new(&mut response).poll(cx))
            .await?
        {
            Ok(response) => return Ok((response, via)),
            Err(error) => {
                let status = Status::of_upstream_error(&error, via.name());
                if !(may_retry && is_unprocessed(&error)) {
                    return Err(status.into());
                }
                client.upload = None;
                tries.unprocessed(id, ask, status);
            }
        }
    }
    Err(tries.status(ask).into())
}

/// What was tried for one request.
#[derive(Default)]
struct Tries {
    count: usize,
    /// Backends that are not to be tried again.
    failed: Vec<u32>,
    last: Option<Box<Status>>,
}

impl Tries {
    fn next(&mut self, worker: &Worker, ask: &Ask<'_>) -> Option<(u32, Rc<Upstream>)> {
        if self.count == TRIES {
            return None;
        }
        self.count += 1;
        worker.with_table(|table| {
            let (backend, upstream) =
                worker
                    .pool
                    .choose(table, ask.backends, &self.failed, &worker.draws)?;
            Some((backend.id, upstream))
        })
    }

    fn unreachable(&mut self, id: u32, status: Status) {
        self.failed.push(id);
        self.last = Some(Box::new(status));
    }

    /// Refused without being begun: another backend is better, but the same one may do.
    fn unprocessed(&mut self, id: u32, ask: &Ask<'_>, status: Status) {
        if ask.backends.len() > 1 {
            self.failed.push(id);
        }
        self.last = Some(Box::new(status));
    }

    fn status(self, ask: &Ask<'_>) -> Status {
        let none = || Status::unavailable(format!("no backend serves {}", (ask.what)()));
        self.last.map_or_else(none, |last| *last)
    }
}

async fn open(
    client: &mut Client,
    upstream: &Rc<Upstream>,
) -> Result<Result<Lease, Unreachable>, Failure> {
    // Boxed because it is rare: it would make the future of every call larger.
    let mut opening = Box::pin(upstream.open());
    client.wait(|_, cx| opening.as_mut().poll(cx)).await
}

/// Open the stream and begin to send the message.
fn send(
    worker: &Worker,
    client: &mut Client,
    ask: &Ask<'_>,
    via: &Via,
    may_retry: bool,
) -> Result<ResponseFuture, Failure> {
    let upstream = via.lease.upstream();
    let (path, mut headers) = if may_retry {
        (client.path.clone(), client.headers.clone())
    } else {
        (client.path.clone(), std::mem::take(&mut client.headers))
    };
    let fresh = via.sent.saturating_duration_since(client.started) < FRESH;
    if !(fresh && headers.contains_key(headers::GRPC_TIMEOUT)) {
        worker
            .timeouts
            .set(&mut headers, client.deadline.at(), via.sent);
    }
    let streams = via.lease.send(upstream.request(path, headers), false);
    let (response, send) =
        streams.map_err(|error| Status::of_upstream_error(&error, via.name()))?;
    client.upload = Upload::start(&client.message, ask.tail, send);
    Ok(response)
}

/// Whether the backend said that it did not begin with the request.
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    // h2 gives a remote GOAWAY only to the streams that are beyond the last one processed.
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

impl Via {
    /// Name of the backend.
    pub(crate) fn name(&self) -> &str {
        self.lease.upstream().name()
    }

    /// Time since the request was sent, in microseconds.
    pub(crate) fn took(&self, now: Instant) -> u64 {
        micros(self.sent, now)
    }

    /// Count the time that the backend took for a version.
    pub(crate) fn count(&self, worker: &Worker, routed: &Routed, now: Instant) {
        let micros = self.took(now);
        worker.with_counters(|table, counters| {
            if let Some(backend) = table.backend(self.backend) {
                let backend: &Backend = backend;
                counters
                    .backend(&routed.model, &routed.version, backend)
                    .record(micros);
            }
        });
    }
}
