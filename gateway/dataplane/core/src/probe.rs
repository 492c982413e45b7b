//! Whether a backend that is passed over answers again: a real inference of zeros, where the model's own
//! metadata say what it takes. Runs beside the calls of clients, once a pause.

use std::rc::Weak;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use stagegate_table::health::FIRST_PAUSE;
use stagegate_table::{Ejected, Fault, State};
use stagegate_wire::tensors::{inputs_of, misfit, zeros};
use tokio::time::{timeout, timeout_at};

use crate::ask;
use crate::ejection::{judge, Outcome};
use crate::routed::Routed;
use crate::status::{Status, GRPC};
use crate::worker::Worker;

const METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Time that a probe has.
const TIME: Duration = Duration::from_secs(5);
/// Bytes of zeros that are sent at most.
const MOST: usize = 1 << 20;
/// How often it is looked whether a client's request was the better probe.
const LOOK: Duration = Duration::from_millis(500);

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Well,
    Fault(Fault, String),
    /// A request of zeros cannot tell: a client's has to.
    Unknown,
}

/// Probe a backend that has just been ejected from a version, after each pause, until it is well.
pub(crate) fn start(worker: &Worker, routed: Routed, backend: u32) {
    tokio::task::spawn_local(keep_probing(worker.me.clone(), routed, backend));
}

async fn keep_probing(worker: Weak<Worker>, routed: Routed, backend: u32) {
    let cell = Arc::clone(&routed.version.cell);
    let name = (routed.model.name.clone(), routed.version.id.clone());
    drop(routed);
    let mut opened: Option<Ejected> = None;
    let mut revivals = worker
        .upgrade()
        .map_or(0, |worker| revivals_of(&worker, backend));
    while let Some(ejected) = cell.health.ejected(backend) {
        // Where a request of zeros cannot tell, a client's request is the trial, and this only watches.
        let is_opened = opened
            .as_ref()
            .is_some_and(|known| known.until == ejected.until);
        if is_opened {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        revivals = pause(&worker, backend, ejected.until, revivals).await;
        let Some(worker) = worker.upgrade() else {
            return;
        };
        let Some(routed) = find(&worker, &name, backend) else {
            // It no longer has the version; what was known of it is worth nothing.
            cell.health.forget(backend);
            return;
        };
        match probe(&worker, &routed, backend).await {
            Finding::Well => worker.report(&routed, backend, Outcome::Good),
            Finding::Fault(fault, reason) => {
                worker.report(&routed, backend, Outcome::Fault(fault, &reason));
            }
            Finding::Unknown => {
                cell.health.open_trial(backend, Instant::now());
                routed.version.cell.wake();
                opened = Some(ejected);
            }
        }
    }
}

/// Wait for the end of a pause, or until the backend is connected anew, but for a while in any case: it may
/// be another process by then, or the way to it is whole again. Gives how often it was connected anew.
async fn pause(worker: &Weak<Worker>, backend: u32, until: Instant, before: u64) -> u64 {
    let least = (Instant::now() + FIRST_PAUSE).min(until);
    tokio::time::sleep_until(least.into()).await;
    loop {
        let Some(strong) = worker.upgrade() else {
            return before;
        };
        let revivals = revivals_of(&strong, backend);
        let connections = strong.pool.connections();
        drop(strong);
        if revivals != before {
            return revivals;
        }
        if timeout_at(until.into(), connections.notified())
            .await
            .is_err()
        {
            return before;
        }
    }
}

fn revivals_of(worker: &Worker, backend: u32) -> u64 {
    worker
        .with_table(|table| {
            let upstream = worker.pool.get(table.backend(backend)?)?;
            Some(upstream.revivals())
        })
        .unwrap_or(0)
}

/// The version as it is in today's table, if the backend still has it.
fn find(worker: &Worker, name: &(Box<str>, Box<str>), backend: u32) -> Option<Routed> {
    worker.with_table(|table| {
        let (model, version) = table.version(name.0.as_bytes(), &name.1)?;
        let has_it = version.state == State::Ready && version.backends.contains(&backend);
        has_it.then(|| Routed::of_version(model, version))
    })
}

async fn probe(worker: &Worker, routed: &Routed, backend: u32) -> Finding {
    match timeout(TIME, infer(worker, routed, backend)).await {
        Ok(finding) => finding,
        Err(_) => Finding::Fault(
            Fault::TimedOut,
            format!("a probe had no answer within {} s", TIME.as_secs()),
        ),
    }
}

async fn infer(worker: &Worker, routed: &Routed, backend: u32) -> Finding {
    let tail = &routed.version.request_tail;
    let metadata = match call(worker, backend, METADATA, tail.clone()).await {
        Ok(metadata) => metadata,
        Err(status) => return finding(&status),
    };
    let body = inputs_of(&metadata)
        .ok()
        .and_then(|inputs| zeros(&inputs, MOST));
    let Some(body) = body else {
        return Finding::Unknown;
    };
    let mut request = BytesMut::with_capacity(body.len() + tail.len());
    request.put_slice(&body);
    request.put_slice(tail);
    match call(worker, backend, INFER, request.freeze()).await {
        Ok(answer) => match misfit(&answer) {
            None => Finding::Well,
            Some(why) => Finding::Fault(
                Fault::Failed,
                format!("it answers OK, but the bytes do not fit: {why}"),
            ),
        },
        Err(status) => finding(&status),
    }
}

/// What an error says: a fault, or that zeros are not what this model wants.
fn finding(status: &Status) -> Finding {
    match judge(status.code, &status.message) {
        Some(fault) => Finding::Fault(fault, status.message.to_string()),
        None => Finding::Unknown,
    }
}

/// One small call: the one message of its answer, or the status that it ended with.
async fn call(
    worker: &Worker,
    backend: u32,
    path: &'static str,
    message: Bytes,
) -> Result<Bytes, Status> {
    let path = PathAndQuery::from_static(path);
    ask::ask(worker, backend, path, metadata_of_a_call(), message).await
}

fn metadata_of_a_call() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers
}
