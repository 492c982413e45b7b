//! Of a sampled request: what a copy of it needs, kept while its client is served.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use stagegate_table::counters::ShadowResult;
use stagegate_table::{Model, Series, State, PINNED, WHOLE};
use stagegate_wire::names::scan_message;
use stagegate_wire::params::Params;

use crate::client::{Client, Failure};
use crate::headers;
use crate::routed::Routed;
use crate::shadow::budget::Charge;
use crate::shadow::kept::Kept;
use crate::status::Code;
use crate::worker::Worker;

/// A shadow that a request was sampled for.
pub(crate) struct Target {
    /// Its place in the model's shadows.
    pub(crate) at: usize,
    pub(crate) series: Arc<Series>,
}

impl Target {
    pub(crate) fn count(&self, result: ShadowResult) {
        self.series.shadow().result(result);
    }
}

/// What is kept of a request and of its answer until that has ended.
pub(crate) struct Capture {
    model: Arc<Model>,
    targets: Vec<Target>,
    headers: HeaderMap,
    charge: Charge,
    answer: Kept,
    token: Option<HeaderValue>,
}

/// A request that was answered OK, with that answer: what its copies share.
pub(crate) struct Original {
    pub(crate) model: Arc<Model>,
    /// The client's headers as they came.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) answer: Kept,
    /// The version that answered.
    pub(crate) version: Box<str>,
    pub(crate) token: Option<HeaderValue>,
    pub(crate) _charge: Charge,
}

/// Draw for every shadow of a request's model, and keep the request where one of them gets it. To be
/// called only where the model has shadows.
pub(crate) fn sample(worker: &Worker, client: &Client, routed: &Routed) -> Option<Box<Capture>> {
    if routed.arm == PINNED {
        return None;
    }
    let targets = draw(worker, client, &routed.model);
    if targets.is_empty() {
        return None;
    }
    let Some(charge) = worker.shadows.budget().charge(client.message.len()) else {
        for target in &targets {
            target.count(ShadowResult::Bytes);
        }
        return None;
    };
    Some(Box::new(Capture {
        model: Arc::clone(&routed.model),
        targets,
        headers: client.headers.clone(),
        charge,
        answer: Kept::new(worker.limits().replay),
        token: None,
    }))
}

/// The shadows that are to get a copy, without those that cannot take one now.
fn draw(worker: &Worker, client: &Client, model: &Arc<Model>) -> Vec<Target> {
    let draws = |sample| sample > 0 && worker.draws.below(WHOLE) < sample;
    let mut targets = Vec::new();
    for (at, shadow) in model.shadows.iter().enumerate() {
        if !draws(shadow.sample) {
            continue;
        }
        let series = worker.with_counters(|_, counters| Arc::clone(counters.shadow(model, shadow)));
        let target = Target { at, series };
        let refusal = if model.shadow_version(shadow).state != State::Ready {
            Some(ShadowResult::NotReady)
        } else if worker.shared.is_draining() || worker.shadows.is_behind(client.started) {
            Some(ShadowResult::Overload)
        } else if client.message.is_kept() {
            None
        } else {
            Some(ShadowResult::TooLarge)
        };
        match refusal {
            Some(result) => target.count(result),
            None => targets.push(target),
        }
    }
    targets
}

impl Capture {
    /// The client's answer begins with these headers, the gateway's own among them.
    pub(crate) fn answer_begins(&mut self, headers: &HeaderMap) {
        self.answer.begin(headers);
        self.token = headers.get(headers::REQUEST).cloned();
    }

    /// A DATA frame of the client's answer.
    pub(crate) fn answer_goes_on(&mut self, data: &Bytes) {
        self.answer.push(data, &mut self.charge);
    }
}

/// The client was served: queue the copies of its request, where it was answered OK.
pub(crate) fn offer(
    worker: &Worker,
    client: &mut Client,
    capture: Capture,
    routed: &Routed,
    outcome: &Result<u8, Failure>,
) {
    let ok = matches!(outcome, Ok(code) if *code == Code::Ok as u8);
    let body = if ok { client.message.complete() } else { None };
    let Some(body) = body else {
        for target in &capture.targets {
            target.count(ShadowResult::PrimaryFailed);
        }
        return;
    };
    // A part of a sequence says nothing without the others, which may have gone elsewhere.
    if is_in_sequence(&body) {
        return;
    }
    let original = Rc::new(Original {
        model: capture.model,
        headers: capture.headers,
        body,
        answer: capture.answer,
        version: routed.version.id.clone(),
        token: capture.token,
        _charge: capture.charge,
    });
    let now = client.answered.unwrap_or_else(Instant::now);
    for target in capture.targets {
        worker.shadows.push(&original, target, now);
    }
}

/// Whether a `ModelInferRequest` is a part of a sequence.
fn is_in_sequence(message: &[u8]) -> bool {
    let names = scan_message(message);
    names.is_ok_and(|names| Params::scan(names.parameters).sequence.is_some())
}
