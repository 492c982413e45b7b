//! One copy on its way to its shadow, to the end of the answer, which nobody gets.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::SendStream;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};
use stagegate_table::counters::{ShadowResult, Uncompared};
use stagegate_table::gate::Permit;
use stagegate_table::{State, Version, VersionCell};
use stagegate_wire::text::decode_message;
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

use crate::balance::Choice;
use crate::client::poll_room;
use crate::download::accept_head;
use crate::framer::Caps;
use crate::headers;
use crate::joined::Joined;
use crate::routed::{micros, Count, Routed};
use crate::shadow::budget::Charge;
use crate::shadow::kept::Kept;
use crate::shadow::pairs::Pair;
use crate::shadow::queue::Copy;
use crate::status::{parse_code, Code, Status, GRPC_STATUS};
use crate::upstream::{Lease, Upstream};
use crate::worker::Worker;

/// Pauses between two looks whether clients leave room.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// For how long a copy waits for room: it keeps those of other shadows from being sent meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// What a shadow answered.
struct Answer {
    code: u8,
    /// Its message, where it is kept.
    message: Result<Bytes, Uncompared>,
    /// For as long as the message is held.
    _charge: Charge,
}

/// Send a copy and read what comes back; everything is counted here.
pub(crate) async fn send(worker: &Worker, copy: &Copy) {
    let Some(version) = version(worker, copy) else {
        return copy.target.count(ShadowResult::NotReady);
    };
    let Some(mut permit) = room(&version.cell, copy.until).await else {
        return copy.target.count(ShadowResult::Overload);
    };
    let Some(to) = choose(worker, copy) else {
        return copy.target.count(ShadowResult::NotReady);
    };
    let until = copy.until.into();
    let Ok(Ok(lease)) = timeout_at(until, to.upstream.open()).await else {
        return copy.target.count(ShadowResult::Unreachable);
    };
    let sent = Instant::now();
    let mut count = Count::start(&copy.target.series, sent);
    let outcome = timeout_at(until, exchange(worker, copy, &to, &lease, sent)).await;
    let now = Instant::now();
    let (code, result) = judge(&outcome);
    count.end(code, now);
    drop(count);
    if let Ok(Ok(answer)) = outcome {
        permit.done(micros(sent, now), result == ShadowResult::Ok);
        count_backend(worker, copy, &to, (micros(sent, now), now));
        if result == ShadowResult::Ok {
            hand_over(worker, copy, &to, answer, now);
        }
    }
    // Last, so that whoever sees it finds all that came of the copy.
    copy.target.count(result);
}

/// The gRPC code that a copy counts under, and what became of it.
fn judge(outcome: &Result<Result<Answer, Status>, Elapsed>) -> (u8, ShadowResult) {
    const OK: u8 = Code::Ok as u8;
    match outcome {
        // An OK without one whole message is none.
        Ok(Ok(answer)) if answer.code == OK => match answer.message {
            Err(Uncompared::Unreadable) => (Code::Internal as u8, ShadowResult::Error),
            _ => (OK, ShadowResult::Ok),
        },
        Ok(Ok(answer)) => (answer.code, ShadowResult::Error),
        Ok(Err(status)) => (status.code, ShadowResult::Error),
        Err(_) => (Code::DeadlineExceeded as u8, ShadowResult::Timeout),
    }
}

/// Where a copy goes.
struct Way {
    version: Arc<Version>,
    backend: u32,
    upstream: Rc<Upstream>,
}

/// A permit of the shadow's version, once clients leave room: copies take none of the places for which
/// somebody waits, nor the last half of them. `None` where they did not for a while.
async fn room(cell: &Arc<VersionCell>, until: Instant) -> Option<Permit> {
    let mut pause = FIRST_PAUSE;
    let until = until.min(Instant::now() + PATIENCE);
    loop {
        let gate = &cell.gate;
        if gate.waiting() == 0 && gate.inflight() < (gate.limit() / 2).max(1) {
            if let Some(permit) = Permit::try_new(cell) {
                return Some(permit);
            }
        }
        // To be woken by every client that ends would cost those clients.
        let again = Instant::now() + pause;
        if again >= until {
            return None;
        }
        tokio::time::sleep_until(again.into()).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One of the backends that have the shadow's version.
fn choose(worker: &Worker, copy: &Copy) -> Option<Way> {
    let version = version(worker, copy)?;
    let routed = Routed::of_version(&copy.original.model, &version);
    let Choice { backend, upstream } = worker.choose(&version.backends, Some(&routed), &[]).ok()?;
    Some(Way {
        version,
        backend,
        upstream,
    })
}

/// The shadow's version as it stands in today's table, where it can take requests.
fn version(worker: &Worker, copy: &Copy) -> Option<Arc<Version>> {
    let original = &copy.original;
    let shadow = &original.model.shadows[copy.target.at];
    worker.with_table(|table| {
        let model = table.model(original.model.name.as_bytes())?;
        // No other version may take the place of the one that was drawn for.
        let version = model.shadow_version(model.shadow(&shadow.name)?);
        let same = version.id == original.model.shadow_version(shadow).id;
        if !same || version.state != State::Ready {
            return None;
        }
        Some(Arc::clone(version))
    })
}

/// Send the message and read the answer, side by side.
async fn exchange(
    worker: &Worker,
    copy: &Copy,
    to: &Way,
    lease: &Lease,
    now: Instant,
) -> Result<Answer, Status> {
    let mut headers = copied_headers(copy);
    worker.timeouts.set(&mut headers, Some(copy.until), now);
    let request = to
        .upstream
        .request(PathAndQuery::from_static(INFER), headers);
    let backend = to.upstream.name();
    let (response, mut send) = lease
        .send(request, false)
        .map_err(|error| Status::of_upstream_error(&error, backend))?;
    let message = Joined::message(copy.original.body.clone(), to.version.request_tail.clone());
    let mut sending = pin!(upload(&mut send, message));
    let mut reading = pin!(read(worker, backend, response));
    let mut done = false;
    poll_fn(|cx| {
        let answer = reading.as_mut().poll(cx);
        if answer.is_pending() && !done {
            done = sending.as_mut().poll(cx).is_ready();
        }
        answer
    })
    .await
}

/// The client's headers without what opens doors, and with the shadow's name.
fn copied_headers(copy: &Copy) -> HeaderMap {
    let mut copied = copy.original.headers.clone();
    headers::for_backend(&mut copied);
    headers::without_credentials(&mut copied);
    let shadow = &copy.original.model.shadows[copy.target.at];
    copied.insert(headers::SHADOW, shadow.header.clone());
    copied
}

/// Send all of a message, as the backend takes it.
async fn upload(send: &mut SendStream<Joined>, mut message: Joined) {
    while let Some(room) = poll_fn(|cx| poll_room(send, message.remaining(), cx)).await {
        let piece = message.split_to(room);
        let last = !message.has_remaining();
        if send.send_data(piece, last).is_err() || last {
            return;
        }
    }
}

/// Read an answer to its end; what is too much of it is read and not kept.
async fn read(worker: &Worker, backend: &str, response: ResponseFuture) -> Result<Answer, Status> {
    let broken = |error: h2::Error| Status::of_upstream_error(&error, backend);
    let (head, mut body) = accept_head(response.await.map_err(broken)?, backend)?;
    let mut kept = Kept::new(worker.limits().replay);
    kept.begin(head.headers());
    let mut charge = worker.shadows.budget().nothing();
    let code = if body.is_end_stream() {
        code_of(head.headers(), backend)?
    } else {
        while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
            let data = data.map_err(broken)?;
            let _ = body.flow_control().release_capacity(data.len());
            kept.push(&data, &mut charge);
        }
        let trailers = poll_fn(|cx| body.poll_trailers(cx)).await.map_err(broken)?;
        code_of(&trailers.unwrap_or_default(), backend)?
    };
    Ok(Answer {
        code,
        message: kept.message(Caps::of(&worker.limits())),
        _charge: charge,
    })
}

fn code_of(headers: &HeaderMap, backend: &str) -> Result<u8, Status> {
    let status = headers.get(GRPC_STATUS);
    status
        .map(parse_code)
        .ok_or_else(|| Status::of_http(StatusCode::OK, backend))
}

fn count_backend(worker: &Worker, copy: &Copy, to: &Way, took: (u64, Instant)) {
    worker.with_counters(|table, counters| {
        if let Some(backend) = table.backend(to.backend) {
            counters.answered(&copy.original.model, &to.version, backend, took);
        }
    });
}

/// Give both answers to the control plane, where both are at hand and it has room.
fn hand_over(worker: &Worker, copy: &Copy, to: &Way, answer: Answer, now: Instant) {
    let original = &copy.original;
    let primary = original.answer.message(Caps::of(&worker.limits()));
    let why = match (primary, answer.message) {
        (Ok(primary), Ok(message)) => {
            let text = |value: &Option<HeaderValue>| {
                let value = value.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
                decode_message(value).into_owned()
            };
            let pair = Pair {
                model: original.model.name.to_string(),
                version: text(&original.version),
                shadow: original.model.shadows[copy.target.at].name.to_string(),
                shadow_version: to.version.id.to_string(),
                request: text(&original.token),
                primary,
                copy: message,
            };
            if worker.shared.pairs.push(pair, now) {
                return;
            }
            Uncompared::Busy
        }
        (Err(why), _) | (_, Err(why)) => why,
    };
    copy.target.series.shadow().uncompared(why);
}
