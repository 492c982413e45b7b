//! `infer`, `generate` and `generate_stream`, from the head of the request to that of the answer.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, Method, Response};
use hyper::body::Incoming;
use stagegate_table::gate::Permit;
use stagegate_wire::names::Names;
use stagegate_wire::params::Params;

use crate::admission;
use crate::budget::Held;
use crate::client::Failure;
use crate::cold;
use crate::deadline::Deadline;
use crate::rest::about::backend_path;
use crate::rest::body::Body;
use crate::rest::calls::Asked;
use crate::rest::download::{begin, Running};
use crate::rest::exchange::{ask_version, Answer, Payload, Question};
use crate::rest::path::ModelCall;
use crate::rest::refusal::{code_of, Refusal};
use crate::rest::upload::{read_most, Begun, BodyLimits, Given, More, Upload, Whole};
use crate::rest::wait::before;
use crate::rest::{headers, parameters};
use crate::routed::Routed;
use crate::unary::usual_deadline;
use crate::worker::Worker;

/// Run a model.
pub(crate) async fn run(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    call: ModelCall,
    mut names: Names<'_>,
) -> Result<Response<Body>, Refusal> {
    let started = Instant::now();
    let mut deadline = Deadline::new(&worker.deadlines, usual_deadline(worker, started));
    let body = match receive(worker, asked, &mut deadline).await {
        Ok(body) => body,
        Err(refusal) => {
            if let Ok((_, mut count)) = worker.route(names, &asked.headers, started) {
                count.end(refusal.status.code, Instant::now());
            }
            return Err(refusal);
        }
    };
    let parameters = parameters::of(body.json(headers::json_length(&asked.headers)), call);
    names.parameters = &parameters;
    let (routed, count) = worker.route(names, &asked.headers, started)?;
    let is_stream = call == ModelCall::GenerateStream;
    if is_stream {
        deadline.set(None);
    } else if let Some(time) = routed.model.deadline {
        deadline.set(Some(started + time));
    }
    let mut running = Running {
        series: is_stream.then(|| count.series()),
        worker: Rc::clone(worker),
        routed,
        deadline,
        count,
        fell_back: None,
        started,
        open: asked.open.pass_on(),
    };
    let priority = Params::scan(&parameters).priority;
    let (payload, _held) = body.into_payload();
    headers::for_backend(&mut asked.headers);
    let question = Asking {
        call,
        query: asked.query.as_deref(),
        headers: &asked.headers,
        priority,
    };
    let outcome = match send_or_fall_back(&question, &mut running, payload).await {
        Ok(answer) => begin(running, answer).await,
        Err(refusal) => Err((refusal, running)),
    };
    outcome.map_err(|(refusal, mut running)| {
        running.end(refusal.status.code, Instant::now());
        refusal
    })
}

/// What a client asks of a model, beside the body.
struct Asking<'a> {
    call: ModelCall,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    priority: u64,
}

/// Send a request; where its arm fails and the route says so, another arm answers.
async fn send_or_fall_back(
    asking: &Asking<'_>,
    running: &mut Running,
    payload: Payload,
) -> Result<Answer, Refusal> {
    let kept = match &payload {
        Payload::Whole(body) if asking.call != ModelCall::GenerateStream => Some(body.clone()),
        _ => None,
    };
    let first = send(asking, running, payload).await;
    let code = match &first {
        Ok(answer) => code_of(answer.head.status),
        Err(refusal) => refusal.status.code,
    };
    let in_time = running.deadline.at().is_none_or(|at| at > Instant::now());
    let (Some(body), Some(other), true) = (kept, running.routed.instead(code), in_time) else {
        return first;
    };
    // Its place and its connection are free before the other arm is asked.
    drop(first);
    running.fell_back = Some(code);
    running.routed = other;
    send(asking, running, Payload::Whole(body)).await
}

/// The body of a request, as far as it was received before the request is routed.
enum Received {
    /// All of it.
    Whole(Whole),
    /// Too long to be kept.
    Coming(Incoming, BodyLimits),
    /// It turned out to be too long: its length was not told.
    More(Box<More>),
}

impl Received {
    /// Its JSON, as far as it is there.
    fn json(&self, length: Option<u64>) -> &[u8] {
        let Self::Whole(whole) = self else {
            return b"";
        };
        let length = length.map_or(usize::MAX, |length| length as usize);
        &whole.plain[..whole.plain.len().min(length)]
    }
}

impl Received {
    /// As it is sent, and what keeps its place among the bytes that the gateway holds.
    fn into_payload(self) -> (Payload, Option<Held>) {
        match self {
            Self::Whole(whole) => (Payload::Whole(whole.body), Some(whole.held)),
            Self::Coming(body, limits) => {
                let given = Given::default();
                let upload = Upload::passing(body, limits, &given);
                (Payload::Once(Box::new(upload), given), None)
            }
            Self::More(more) => {
                let given = Given::default();
                let (upload, held) = Upload::after(*more, &given);
                (Payload::Once(Box::new(upload), given), Some(held))
            }
        }
    }
}

/// Read a body that can be kept, so that it can be sent again, and a slow sender holds no place that others
/// wait for.
async fn receive(
    worker: &Worker,
    asked: &mut Asked,
    deadline: &mut Deadline,
) -> Result<Received, Refusal> {
    let length = asked.length();
    let limits = worker.limits();
    let of_body = BodyLimits::new(&asked.headers, length, &limits)?;
    // How long a chunked body is shows at its end: a short one names sequences and the like as others do.
    let is_kept = length.is_none_or(|length| length <= limits.replay as u64);
    Ok(match asked.body.take() {
        Some(body) if is_kept => {
            let reading = read_most(body, of_body, &worker.budget, limits.replay);
            match before(deadline, reading).await?? {
                Begun::Whole(whole) => Received::Whole(whole),
                Begun::More(more) => Received::More(more),
            }
        }
        Some(body) => Received::Coming(body, of_body),
        None => Received::Whole(Whole {
            body: <_>::default(),
            plain: <_>::default(),
            held: Held::new(&worker.budget),
        }),
    })
}

async fn send(
    asking: &Asking<'_>,
    running: &mut Running,
    payload: Payload,
) -> Result<Answer, Refusal> {
    let worker = Rc::clone(&running.worker);
    ready(&worker, &mut running.deadline, &mut running.routed).await?;
    let permit = if asking.call == ModelCall::GenerateStream {
        worker.totals.message_received();
        None
    } else {
        Some(Kept(Some(admit(&worker, running, asking.priority).await?)))
    };
    worker.choose_for_sequence(&mut running.routed)?;
    let question = Question {
        method: Method::POST,
        path: &|routed| backend_path(routed, asking.call, asking.query),
        headers: asking.headers,
    };
    let (deadline, routed) = (&mut running.deadline, &mut running.routed);
    let outcome = ask_version(&worker, deadline, routed, &question, payload).await;
    if let Some(permit) = permit {
        permit.end(&outcome);
    }
    outcome
}

/// A permit of a request that is with a backend. Where the client goes away, this is dropped with it.
struct Kept(Option<Permit>);

impl Kept {
    fn end(mut self, outcome: &Result<Answer, Refusal>) {
        let Some(mut permit) = self.0.take() else {
            return;
        };
        match outcome {
            // The backend is done with it; how long the client takes is its own affair.
            Ok(answer) => permit.done(
                answer.via.took(Instant::now()),
                answer.head.status.is_success(),
            ),
            Err(refusal) => admission::abandon(permit, &refusal.status.clone().into()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(permit) = self.0.take() {
            admission::abandon(permit, &Failure::Gone);
        }
    }
}

async fn admit(worker: &Worker, running: &mut Running, priority: u64) -> Result<Permit, Refusal> {
    let at = running.deadline.at();
    let waiting = admission::permit(worker, &mut running.routed, priority, at);
    match before(&mut running.deadline, waiting).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(admission::too_late(&running.routed).into()),
    }
}

/// Wait for a version to be ready, within the deadline.
pub(crate) async fn ready(
    worker: &Worker,
    deadline: &mut Deadline,
    routed: &mut Routed,
) -> Result<(), Refusal> {
    match before(deadline, cold::ready(worker, routed)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(cold::too_late(routed).into()),
    }
}
