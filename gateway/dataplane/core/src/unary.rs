//! `ModelInfer`, from the client's first byte to the backend's last.

use std::time::Instant;

use h2::RecvStream;
use http::Response;

use crate::admission::{self, Admitted};
use crate::client::{Client, Failure};
use crate::cold;
use crate::download::{self, Rename};
use crate::exchange::{ask_version, Via};
use crate::fallback;
use crate::headers;
use crate::message;
use crate::routed::{Count, Routed};
use crate::shadow;
use crate::status::Status;
use crate::worker::Worker;

/// Answer one `ModelInfer`.
pub(crate) async fn infer(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    if let Err(failure) = receive(worker, client).await {
        worker.count_nameless(&failure, client.started);
        return Err(failure);
    }
    let (mut routed, mut count) = route(worker, client)?;
    let outcome = answer(worker, client, &mut routed).await;
    if let Some(capture) = client.capture.take() {
        shadow::offer(worker, client, *capture, &routed, &outcome);
    }
    let now = client.answered.unwrap_or_else(Instant::now);
    match &outcome {
        Ok(code) => count.end(*code, now),
        Err(Failure::Status(status)) => count.end(status.code, now),
        Err(Failure::Gone) => {}
    }
    if let Some(code) = client.fell_back {
        count.fall_back(code, now);
    }
    outcome.map(|_| ())
}

/// Read the request of a unary call so far that its names are known.
pub(crate) async fn receive(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    let own = own_deadline(&client.headers, client.started)?;
    client.has_deadline = own.is_some();
    client
        .deadline
        .set(own.or_else(|| usual_deadline(worker, client.started)));
    message::read(client, &worker.limits()).await
}

fn route(worker: &Worker, client: &mut Client) -> Result<(Routed, Count), Failure> {
    let names = match client.message.names() {
        Ok(names) => names,
        Err(status) => {
            let failure = status.into();
            worker.count_nameless(&failure, client.started);
            return Err(failure);
        }
    };
    let (routed, count) = worker.route(names, &client.headers, client.started)?;
    if let (false, Some(time)) = (client.has_deadline, routed.model.deadline) {
        client.deadline.set(Some(client.started + time));
    }
    Ok((routed, count))
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
    let time = worker.limits().default_deadline;
    if time.is_zero() {
        None
    } else {
        started.checked_add(time)
    }
}

async fn answer(worker: &Worker, client: &mut Client, routed: &mut Routed) -> Result<u8, Failure> {
    if routed.model.fallback.is_some() {
        return Box::pin(fallback::answer(worker, client, routed)).await;
    }
    let asked = ask(worker, client, routed).await?;
    forward(worker, client, routed, asked).await
}

/// A backend's answer that has begun, the way to it, and the request's place at the version.
pub(crate) type Asked = (Response<RecvStream>, Via, Admitted);

/// Send the request to a backend that has the version, and wait for the head of its answer.
pub(crate) async fn ask(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
) -> Result<Asked, Failure> {
    cold::ready_for(worker, client, routed).await?;
    let place = admission::admit(worker, client, routed).await?;
    worker.choose_for_sequence(routed)?;
    if !routed.model.shadows.is_empty() && routed.sequence.is_none() {
        client.capture = shadow::sample(worker, client, routed);
    }
    let pin = routed.pinned_backend;
    let (response, via) = match ask_version(worker, client, routed, pin).await {
        Ok(answer) => answer,
        Err(failure) => {
            place.failed(&failure);
            return Err(failure);
        }
    };
    Ok((response, via, place))
}

/// Send the answer on to the client; gives its gRPC code.
pub(crate) async fn forward(
    worker: &Worker,
    client: &mut Client,
    routed: &Routed,
    (response, via, mut place): Asked,
) -> Result<u8, Failure> {
    let version = &routed.version;
    let rename = Rename {
        tail: &version.answer_tail,
        names: Some((&version.backend_model, &routed.model.name)),
    };
    let ended = download::begin(worker, client, response, via.name(), &rename, Some(routed))?;
    let outcome = if let Some(code) = ended {
        Ok(code)
    } else {
        // The backend is done with it; how long the client takes is its own affair.
        place.done(via.took(Instant::now()), true);
        download::finish(client, via.name(), rename.names).await
    };
    let now = Instant::now();
    place.done(via.took(now), matches!(outcome, Ok(0)));
    via.count(worker, routed, &outcome, now);
    client.answered = Some(now);
    if outcome.is_err() {
        leave(worker, client, via);
    }
    outcome
}

/// The answer is not wanted any more, or it is broken.
fn leave(worker: &Worker, client: &mut Client, via: Via) {
    if let (None, Some(rest)) = (&client.upload, client.rest.take()) {
        via.leave(worker, rest.into_body());
    }
}
