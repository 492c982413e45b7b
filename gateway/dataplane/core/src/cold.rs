//! Versions that are not loaded: ask for a load once, wait in a bounded queue, go on when it is there.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use stagegate_table::{State, Waiting};

use crate::client::{Client, Failure};
use crate::routed::Routed;
use crate::status::{Code, Status};
use crate::worker::Worker;

/// Make sure that the version can take requests now, waiting for it if need be.
pub(crate) async fn ready(worker: &Worker, routed: &mut Routed) -> Result<(), Status> {
    match &routed.version.state {
        State::Ready => Ok(()),
        State::Failed(reason) => Err(failed(routed, reason)),
        State::Cold => Box::pin(wait(worker, routed)).await,
    }
}

/// The same, for as long as a client waits.
pub(crate) async fn ready_for(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
) -> Result<(), Failure> {
    if routed.version.state == State::Ready {
        return Ok(());
    }
    let _rest = client.message.hold_rest()?;
    let outcome = {
        let mut waiting = Box::pin(ready(worker, routed));
        client.wait(|_, cx| waiting.as_mut().poll(cx)).await
    };
    match outcome {
        Ok(outcome) => Ok(outcome?),
        Err(Failure::Status(status)) if status.code == Code::DeadlineExceeded as u8 => {
            Err(too_late(routed).into())
        }
        Err(failure) => Err(failure),
    }
}

async fn wait(worker: &Worker, routed: &mut Routed) -> Result<(), Status> {
    let place = enter(worker, routed)?;
    let cell = Arc::clone(place.cell());
    loop {
        let mut changed = pin!(cell.changed());
        changed.as_mut().enable();
        look_again(worker, routed)?;
        match &routed.version.state {
            State::Ready => return Ok(()),
            State::Failed(reason) => return Err(failed(routed, reason)),
            State::Cold => changed.await,
        }
    }
}

/// Take a place in the queue, and ask for the load if nobody has.
fn enter(worker: &Worker, routed: &Routed) -> Result<Waiting, Status> {
    let limit = worker.limits().queue_per_model;
    let most = u32::try_from(limit).unwrap_or(u32::MAX);
    let place = worker.with_counters(|_, counters| counters.wait(&routed.pick(), most));
    let Some(place) = place else {
        let text = format!(
            "model '{}' is not loaded and {limit} requests wait for it already (limits.queue_per_model)",
            routed.model.name
        );
        return Err(Status::new(Code::ResourceExhausted, text));
    };
    if place.must_ask() && !worker.teller.cold(&routed.model.name, &routed.version.id) {
        place.not_asked();
    }
    Ok(place)
}

/// Follow the version into today's table.
pub(crate) fn look_again(worker: &Worker, routed: &mut Routed) -> Result<(), Status> {
    let found = worker.with_table(|table| {
        let (model, version) = table.version(routed.model.name.as_bytes(), &routed.version.id)?;
        Some((Arc::clone(model), Arc::clone(version)))
    });
    match found {
        Some((model, version)) => {
            routed.model = model;
            routed.version = version;
            Ok(())
        }
        None => Err(Status::new(
            Code::NotFound,
            format!(
                "Request for unknown model: '{}' version {} is not found; it was removed while the request waited",
                routed.model.name, routed.version.id
            ),
        )),
    }
}

fn failed(routed: &Routed, reason: &str) -> Status {
    let (model, version) = (&routed.model.name, &routed.version.id);
    Status::unavailable(format!(
        "model '{model}' version {version} cannot be loaded: {reason}"
    ))
}

pub(crate) fn too_late(routed: &Routed) -> Status {
    let (model, version) = (&routed.model.name, &routed.version.id);
    let text =
        format!("Deadline Exceeded while model '{model}' version {version} was being loaded");
    Status::new(Code::DeadlineExceeded, text)
}
