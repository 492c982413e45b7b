//! One request to one of a version's backends, tried again where nothing was processed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response};
use stagegate_table::Backend;

use crate::client::{Client, Failure};
use crate::headers;
use crate::message::Message;
use crate::routed::{micros_since, Routed};
use crate::status::Status;
use crate::upload::Upload;
use crate::upstream::{Lease, Unreachable, Upstream};
use crate::worker::Worker;

/// Backends or connections that one request is tried on.
const TRIES: usize = 4;
/// Time after which a client's own `grpc-timeout` is no longer what is left.
const FRESH: Duration = Duration::from_millis(1);

/// What is asked of a backend.
pub(crate) struct Ask<'a> {
    pub(crate) path: &'a PathAndQuery,
    pub(crate) headers: HeaderMap,
    /// Appended to the message.
    pub(crate) tail: Bytes,
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

/// Why one try gave no answer.
enum Missed {
    /// Nothing was processed; another try may help.
    Unprocessed(Status),
    Final(Failure),
}

/// Send a message and wait for the head of the answer.
pub(crate) async fn exchange(
    worker: &Worker,
    client: &mut Client<'_>,
    mut message: Message,
    mut ask: Ask<'_>,
) -> Result<(Response<RecvStream>, Via), Failure> {
    let mut tried: Vec<u32> = Vec::new();
    let mut last = None;
    for try_number in 1..=TRIES {
        let chosen = worker.with_table(|table| {
            let (backend, upstream) =
                worker
                    .pool
                    .choose(table, ask.backends, &tried, &worker.draws)?;
            Some((backend.id, upstream))
        });
        let Some((id, upstream)) = chosen else { break };
        let lease = match open(client, &upstream).await? {
            Ok(lease) => lease,
            Err(Unreachable(reason)) => {
                tried.push(id);
                last = Some(Status::no_backend(upstream.name(), &(ask.what)(), &reason));
                continue;
            }
        };
        let may_retry = message.is_kept() && try_number < TRIES;
        let headers = if may_retry {
            ask.headers.clone()
        } else {
            std::mem::take(&mut ask.headers)
        };
        let sent = Instant::now();
        let request = request(&upstream, ask.path, headers, client, worker, sent);
        match attempt(client, message, &lease, request, &ask.tail).await {
            Ok(response) => {
                return Ok((
                    response,
                    Via {
                        lease,
                        backend: id,
                        sent,
                    },
                ))
            }
            Err(Missed::Unprocessed(status)) if may_retry => {
                last = Some(status);
                if ask.backends.len() > 1 {
                    tried.push(id);
                }
            }
            Err(Missed::Unprocessed(status)) => return Err(status.into()),
            Err(Missed::Final(failure)) => return Err(failure),
        }
        let Some(upload) = client.upload.take() else {
            break;
        };
        message = upload.into_message();
    }
    Err(last
        .unwrap_or_else(|| Status::unavailable(format!("no backend serves {}", (ask.what)())))
        .into())
}

async fn open(
    client: &mut Client<'_>,
    upstream: &Rc<Upstream>,
) -> Result<Result<Lease, Unreachable>, Failure> {
    if let Some(lease) = upstream.try_open() {
        return Ok(Ok(lease));
    }
    let mut opening = Box::pin(upstream.open());
    client.wait(|_, cx| opening.as_mut().poll(cx)).await
}

fn request(
    upstream: &Upstream,
    path: &PathAndQuery,
    mut headers: HeaderMap,
    client: &Client<'_>,
    worker: &Worker,
    now: Instant,
) -> Request<()> {
    let fresh = now.saturating_duration_since(client.started) < FRESH;
    if !(fresh && headers.contains_key(headers::GRPC_TIMEOUT)) {
        worker.timeouts.set(&mut headers, client.deadline.at(), now);
    }
    upstream.request(path.clone(), headers)
}

async fn attempt(
    client: &mut Client<'_>,
    message: Message,
    lease: &Lease,
    request: Request<()>,
    tail: &Bytes,
) -> Result<Response<RecvStream>, Missed> {
    let name = lease.upstream().name();
    let (mut response, send) = match lease.send(request, false) {
        Ok(streams) => streams,
        Err(error) => {
            let status = Status::of_upstream_error(&error, name);
            return Err(Missed::Final(status.into()));
        }
    };
    client.upload = Some(Upload::start(message, tail.clone(), send));
    let outcome = client.wait(|_, cx| poll_response(&mut response, cx)).await;
    match outcome.map_err(Missed::Final)? {
        Ok(response) => Ok(response),
        Err(error) => {
            let status = Status::of_upstream_error(&error, name);
            Err(if is_unprocessed(&error) {
                Missed::Unprocessed(status)
            } else {
                Missed::Final(status.into())
            })
        }
    }
}

fn poll_response(
    response: &mut ResponseFuture,
    cx: &mut std::task::Context<'_>,
) -> std::task::Poll<Result<Response<RecvStream>, h2::Error>> {
    Pin::new(response).poll(cx)
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

    /// Count the time that the backend took for a version.
    pub(crate) fn count(&self, worker: &Worker, routed: &Routed) {
        let micros = micros_since(self.sent);
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
