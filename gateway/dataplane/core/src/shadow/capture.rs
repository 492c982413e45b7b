//! Of a sampled request: what a copy of it needs, kept while its client is served.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use stagegate_table::counters::ShadowResult;
use stagegate_table::{Model, Series, State, PINNED, WHOLE};
use stagegate_wire::fields::{Field, Fields, Kind};
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
    version: Option<HeaderValue>,
    token: Option<HeaderValue>,
}

/// A request that was answered OK, with that answer: what its copies share.
pub(crate) struct Original {
    pub(crate) model: Arc<Model>,
    /// The client's headers as they came.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) answer: Kept,
    /// The version that answered, as the client was told.
    pub(crate) version: Option<HeaderValue>,
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
        version: None,
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
        self.version = headers.get(headers::VERSION).cloned();
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
    if !stands_alone(&body) {
        return;
    }
    if routed.version.cell.gate.waiting() > 0 {
        // Clients wait for the backends of this model: nothing is to be added there.
        for target in &capture.targets {
            target.count(ShadowResult::Overload);
        }
        return;
    }
    let original = Rc::new(Original {
        model: capture.model,
        headers: capture.headers,
        body,
        answer: capture.answer,
        version: capture.version,
        token: capture.token,
        _charge: capture.charge,
    });
    let now = client.answered.unwrap_or_else(Instant::now);
    for target in capture.targets {
        worker.shadows.push(&original, target, now);
    }
}

/// Whether a `ModelInferRequest` means the same when it is sent a second time, elsewhere.
///
/// A part of a sequence says nothing without the others. A tensor in shared memory is the client's: a copy
/// would read what came there since, or write over the client's own answer.
fn stands_alone(message: &[u8]) -> bool {
    let names = scan_message(message);
    let in_sequence = names.is_ok_and(|names| Params::scan(names.parameters).sequence.is_some());
    !in_sequence && !names_shared_memory(message)
}

/// Whether an input or a requested output has the parameter `shared_memory_region`.
fn names_shared_memory(message: &[u8]) -> bool {
    const INPUT: u32 = 5;
    const OUTPUT: u32 = 6;
    fields(message).any(|tensor| {
        let parameters = match tensor.number {
            INPUT => 4,
            OUTPUT => 2,
            _ => return false,
        };
        tensor.kind == Kind::Len
            && fields(tensor.payload)
                .filter(|parameter| parameter.is(parameters))
                .any(|parameter| {
                    fields(parameter.payload)
                        .any(|key| key.is(1) && key.payload == b"shared_memory_region")
                })
    })
}

/// The fields of a message, up to one that is broken.
fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    Fields::new(message).map_while(Result::ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagegate_wire::encode::put_len;

    fn with(number: u32, tensor: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        put_len(&mut message, 1, b"digits");
        put_len(&mut message, number, tensor);
        put_len(&mut message, 7, b"tensor");
        message
    }

    fn entry(number: u32, name: &str) -> Vec<u8> {
        let (mut parameter, mut holder) = (Vec::new(), Vec::new());
        put_len(&mut parameter, 1, name.as_bytes());
        put_len(&mut parameter, 2, b"\x10\x07");
        put_len(&mut holder, number, &parameter);
        holder
    }

    #[test]
    fn a_sequence_is_known_by_its_parameter() {
        for (name, alone) in [("sequence_id", false), ("sequence_start", true)] {
            let mut message = with(7, b"tensor");
            message.extend(entry(4, name));

            assert_eq!(alone, stands_alone(&message), "{name}");
        }
    }

    #[test]
    fn shared_memory_of_inputs_and_outputs_is_known() {
        for (tensor, parameters) in [(5, 4), (6, 2)] {
            for (name, alone) in [("shared_memory_region", false), ("classification", true)] {
                let message = with(tensor, &entry(parameters, name));

                assert_eq!(alone, stands_alone(&message), "{tensor} {name}");
            }
            // The same number of a field means something else in the other one.
            let other = entry(6 - parameters, "shared_memory_region");
            assert!(stands_alone(&with(tensor, &other)));
        }
    }
}
