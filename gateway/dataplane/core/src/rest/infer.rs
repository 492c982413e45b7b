//! `infer`, `generate` and `generate_stream`, from the head of the request to that of the answer.

use std::rc::Rc;
use std::time::Instant;

use http::{Method, Response};
use stagegate_table::gate::Permit;
use stagegate_wire::names::Names;

use crate::admission;
use crate::cold;
use crate::deadline::Deadline;
use crate::rest::about::backend_path;
use crate::rest::body::Body;
use crate::rest::calls::Asked;
use crate::rest::download::{begin, Running};
use crate::rest::exchange::{ask_version, Answer, Payload, Question};
use crate::rest::headers;
use crate::rest::path::ModelCall;
use crate::rest::refusal::Refusal;
use crate::rest::upload::{read_whole, BodyLimits, Given, Upload, SMALL};
use crate::rest::wait::before;
use crate::routed::Routed;
use crate::unary::usual_deadline;
use crate::worker::Worker;

/// Run a model.
pub(crate) async fn run(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    call: ModelCall,
    names: Names<'_>,
) -> Result<Response<Body>, Refusal> {
    let started = Instant::now();
    let (routed, count) = worker.route(names, &asked.headers, started)?;
    let is_stream = call == ModelCall::GenerateStream;
    let at = if is_stream {
        None
    } else {
        let own = routed.model.deadline.map(|time| started + time);
        own.or_else(|| usual_deadline(worker, started))
    };
    let mut running = Running {
        series: is_stream.then(|| count.series()),
        worker: Rc::clone(worker),
        routed,
        deadline: Deadline::new(&worker.deadlines, at),
        count,
        started,
        open: asked.open.pass_on(),
    };
    let outcome = match send(worker, asked, call, &mut running).await {
        Ok(answer) => begin(running, answer).await,
        Err(refusal) => Err((refusal, running.count)),
    };
    outcome.map_err(|(refusal, mut count)| {
        count.end(refusal.status.code, Instant::now());
        refusal
    })
}

async fn send(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    call: ModelCall,
    running: &mut Running,
) -> Result<Answer, Refusal> {
    let limits = BodyLimits::new(&asked.headers, asked.length(), &worker.limits())?;
    ready(worker, &mut running.deadline, &mut running.routed).await?;
    let payload = payload(asked, limits, &mut running.deadline).await?;
    let mut permit = if call == ModelCall::GenerateStream {
        worker.totals.message_received();
        None
    } else {
        Some(admit(worker, running).await?)
    };
    headers::for_backend(&mut asked.headers);
    let query = asked.query.as_deref();
    let question = Question {
        method: Method::POST,
        path: &|routed| backend_path(routed, call, query),
        headers: std::mem::take(&mut asked.headers),
        pin: None,
    };
    let (deadline, routed) = (&mut running.deadline, &mut running.routed);
    let answer = ask_version(worker, deadline, routed, &question, payload).await?;
    if let Some(permit) = &mut permit {
        // The backend is done with it; how long the client takes is its own affair.
        permit.done(
            answer.via.took(Instant::now()),
            answer.head.status.is_success(),
        );
    }
    Ok(answer)
}

/// The body of a request: read where it is small, so that it can be sent again and a slow sender holds no
/// place that others wait for.
async fn payload(
    asked: &mut Asked,
    limits: BodyLimits,
    deadline: &mut Deadline,
) -> Result<Payload, Refusal> {
    let is_small = asked.length().is_some_and(|length| length <= SMALL);
    Ok(match asked.body.take() {
        None => Payload::Whole(<_>::default()),
        Some(body) if is_small => {
            Payload::Whole(before(deadline, read_whole(body, limits)).await??)
        }
        Some(body) => {
            let given = Given::default();
            let upload = Upload::passing(body, limits, &given);
            Payload::Once(Box::new(upload), given)
        }
    })
}

async fn admit(worker: &Worker, running: &mut Running) -> Result<Permit, Refusal> {
    let (priority, at) = (0, running.deadline.at());
    let waiting = admission::permit(worker, &mut running.routed, priority, at);
    let outcome = before(&mut running.deadline, waiting).await;
    match outcome {
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
