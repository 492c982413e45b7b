//! `ModelInfer`, from the client's first byte to the backend's last.

use std::time::{Duration, Instant};

use h2::RecvStream;
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::client::{Client, Failure};
use crate::cold;
use crate::download::{self, Rename};
use crate::exchange::{exchange, Ask};
use crate::headers;
use crate::message::Message;
use crate::routed::{Count, Routed};
use crate::status::Status;
use crate::worker::Worker;

/// Answer one `ModelInfer`.
pub(crate) async fn infer(
    worker: &Worker,
    client: &mut Client<'_>,
    head: Parts,
    body: RecvStream,
) -> Result<(), Failure> {
    let mut headers = head.headers;
    let (message, mut routed, mut count) = match receive(worker, client, &mut headers, body).await {
        Ok(received) => received,
        Err(Refused::Counted(status)) => return Err(status.into()),
        Err(Refused::Nameless(failure)) => {
            worker.count_nameless(&failure, client.started);
            return Err(failure);
        }
    };
    let outcome = answer(worker, client, &mut routed, headers, message).await;
    match &outcome {
        Ok(code) => count.set(*code),
        Err(Failure::Status(status)) => count.set(status.code),
        Err(Failure::Gone) => {}
    }
    outcome.map(|_| ())
}

/// Why a request was not routed.
enum Refused {
    /// Its names lead nowhere; that was counted.
    Counted(Status),
    /// It ended before it named anything.
    Nameless(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Nameless(failure)
    }
}

async fn receive(
    worker: &Worker,
    client: &mut Client<'_>,
    headers: &mut http::HeaderMap,
    body: RecvStream,
) -> Result<(Message, Routed, Count), Refused> {
    let own = own_deadline(headers, client.started).map_err(Failure::from)?;
    client
        .deadline
        .set(own.or_else(|| usual_deadline(worker, client.started)));
    let message = Message::read(client, body, headers, &worker.shared.settings).await?;
    let names = message.names().map_err(Failure::from)?;
    let (routed, count) = worker
        .route(names, client.started)
        .map_err(Refused::Counted)?;
    if let (None, Some(time)) = (own, routed.model.deadline) {
        client.deadline.set(Some(client.started + time));
    }
    Ok((message, routed, count))
}

/// The client's own deadline.
pub(crate) fn own_deadline(
    headers: &http::HeaderMap,
    started: Instant,
) -> Result<Option<Instant>, Status> {
    match headers::client_timeout(headers) {
        Ok(time) => Ok(time.and_then(|time| started.checked_add(time))),
        Err(()) => Err(Status::internal(
            "grpc-timeout is malformed: at most 8 digits and one of H M S m u n",
        )),
    }
}

/// The deadline of unary calls that bring none.
pub(crate) fn usual_deadline(worker: &Worker, started: Instant) -> Option<Instant> {
    let time = Duration::from_millis(worker.shared.settings.default_deadline_ms);
    if time.is_zero() {
        None
    } else {
        started.checked_add(time)
    }
}

async fn answer(
    worker: &Worker,
    client: &mut Client<'_>,
    routed: &mut Routed,
    mut headers: http::HeaderMap,
    message: Message,
) -> Result<u8, Failure> {
    cold::ready_for(worker, client, routed).await?;
    headers::for_backend(&mut headers);
    let version = &routed.version;
    let ask = Ask {
        path: &path("/inference.GRPCInferenceService/ModelInfer"),
        headers,
        tail: version.request_tail.clone(),
        backends: &version.backends,
        what: &|| routed.what(),
    };
    let (response, via) = exchange(worker, client, message, ask).await?;
    let rename = Rename {
        tail: version.answer_tail.clone(),
        names: Some((&version.backend_model, &routed.model.name)),
    };
    let outcome =
        download::forward(worker, client, response, via.name(), rename, Some(routed)).await;
    via.count(worker, routed);
    outcome
}

/// The path of a method, without copying it.
pub(crate) fn path(path: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(path)
}
