//! One request to the HTTP endpoint of one of a version's backends, and once more where the policy
//! allows it: the same choice, the same budget and the same verdicts as for gRPC.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::response::Parts;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use stagegate_table::counters::RetryReason;
use stagegate_table::{Fault, State};

use crate::balance::{Choice, NoChoice};
use crate::cold;
use crate::deadline::Deadline;
use crate::ejection::{judge, Outcome};
use crate::rest::json::error_text;
use crate::rest::pool::{Endpoint, Lease, SendError};
use crate::rest::refusal::{code_of, Refusal};
use crate::rest::upload::{Given, Upload};
use crate::rest::wait::before;
use crate::retry::{self, Again, WaitFor, PATIENCE};
use crate::routed::{micros, Routed};
use crate::status::{Code, Status};
use crate::upstream::{Upstream, Visit};
use crate::worker::Worker;

/// Backends or connections that one request is tried on.
const TRIES: u8 = 4;
/// How often it is looked whether a lost backend is there again.
const LOOK: Duration = Duration::from_millis(250);
/// A backend that has had less time than this for a request that timed out is not to blame.
const FAIR: Duration = Duration::from_secs(1);
/// Of an error's body this much is read.
const MOST_ERROR: usize = 64 << 10;

/// A request to a backend.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// Ids of the backends that may answer.
    pub(crate) backends: &'a [u32],
    /// Whether one backend must answer, and no other may.
    pub(crate) pinned: bool,
    /// The version that is asked, where it is one.
    pub(crate) version: Option<&'a Routed>,
    /// What is asked for, for texts.
    pub(crate) what: &'a dyn Fn() -> String,
}

/// What is asked of a version: method, how its path is made, and headers.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a dyn Fn(&Routed) -> String,
    pub(crate) headers: &'a HeaderMap,
}

/// What is sent with a request.
pub(crate) enum Payload {
    /// Bytes, which can be sent again.
    Whole(Bytes),
    /// A body that comes once. Why it was given up, if it was, is in the second.
    Once(Box<Upload>, Given),
}

/// A backend's answer.
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: AnswerBody,
    pub(crate) via: Via,
}

/// The body of an answer: that of an error was read.
pub(crate) enum AnswerBody {
    There(Bytes),
    Coming(Incoming),
}

/// The way that a request took; closes it when it is dropped.
pub(crate) struct Via {
    /// None once it was given back.
    lease: Option<Lease>,
    /// Name of the backend.
    pub(crate) name: Box<str>,
    backend: u32,
    sent: Instant,
    _visit: Visit,
}

/// Send a request to a backend of a version and wait for the head of the answer. Afterwards `routed` is
/// what was asked last.
pub(crate) async fn ask_version(
    worker: &Worker,
    deadline: &mut Deadline,
    routed: &mut Routed,
    question: &Question<'_>,
    payload: Payload,
) -> Result<Answer, Refusal> {
    let mut tries = Tries::new(payload);
    let until = Instant::now() + PATIENCE;
    loop {
        let failure = {
            let pin = routed.pinned_backend.as_ref();
            let ask = Ask {
                method: question.method.clone(),
                path: &(question.path)(routed),
                headers: question.headers,
                backends: pin.map_or(&routed.version.backends, std::slice::from_ref),
                pinned: pin.is_some(),
                version: Some(routed),
                what: &|| routed.what(),
            };
            match exchange(worker, deadline, &ask, &mut tries).await {
                Err(failure) => failure,
                done @ Ok(_) => return done,
            }
        };
        let Some(what) = tries.wait() else {
            return Err(failure);
        };
        if Instant::now() >= until {
            return Err(failure);
        }
        wait(worker, deadline, routed, what, failure).await?;
    }
}

/// Wait until it may be worth while to ask again.
async fn wait(
    worker: &Worker,
    deadline: &mut Deadline,
    routed: &mut Routed,
    what: WaitFor,
    failure: Refusal,
) -> Result<(), Refusal> {
    let limit = u32::try_from(worker.limits().queue_per_model).unwrap_or(u32::MAX);
    let place = worker.with_counters(|_, counters| counters.wait(&routed.pick(), limit));
    let Some(place) = place else {
        return Err(failure);
    };
    // No load is asked for here: it is ready as far as we know.
    place.not_asked();
    // Nobody tells of an HTTP endpoint that is there again.
    before(
        deadline,
        retry::change(worker, routed, what, Instant::now() + LOOK),
    )
    .await?;
    drop(place);
    cold::look_again(worker, routed)?;
    if routed.version.state != State::Ready {
        before(deadline, cold::ready(worker, routed)).await??;
    }
    Ok(())
}

/// Send a request and wait for the head of the answer.
pub(crate) async fn exchange(
    worker: &Worker,
    deadline: &mut Deadline,
    ask: &Ask<'_>,
    tries: &mut Tries,
) -> Result<Answer, Refusal> {
    let known = with_endpoint(worker, ask)?;
    loop {
        let found = tries.next(worker, ask, &known)?;
        let mut lease = match before(deadline, found.connection()).await? {
            Ok(lease) => lease,
            Err(error) => {
                let reason = format!("cannot connect to {}: {error}", found.endpoint.address());
                tries.unreachable(&found, ask, &reason);
                continue;
            }
        };
        let request = tries.request(ask, &found)?;
        let (sent, visit) = (Instant::now(), found.upstream.visit());
        let outcome = match before(deadline, lease.send(request)).await {
            Ok(outcome) => outcome,
            Err(late) => {
                blame_for_time(worker, ask, found.id, sent);
                return Err(late.into());
            }
        };
        match outcome {
            Ok(response) => {
                let via = Via {
                    lease: Some(lease),
                    name: found.name.clone(),
                    backend: found.id,
                    sent,
                    _visit: visit,
                };
                let answer = read_error(deadline, response, via).await?;
                if let Some(done) = tries.answered(worker, ask, &found, answer) {
                    return done;
                }
            }
            Err(SendError::Unsent(request, error)) => {
                tries.take_back(request.into_body());
                let status = ended_early(&found.name, &error);
                tries.unsent(&found, status);
            }
            Err(SendError::Sent(error)) => {
                if let Some(refusal) = tries.given.take() {
                    return Err(refusal);
                }
                let status = ended_early(&found.name, &error);
                tries.broken(worker, ask, &found, lease.is_used, status)?;
            }
        }
    }
}

/// Those of the backends that may answer whose HTTP endpoint is known.
fn with_endpoint(worker: &Worker, ask: &Ask<'_>) -> Result<Vec<u32>, Refusal> {
    let known: Vec<u32> = worker.with_table(|table| {
        let has_http = |id: &&u32| {
            let backend = table.backend(**id);
            backend.is_some_and(|backend| !backend.http.is_empty())
        };
        ask.backends.iter().filter(has_http).copied().collect()
    });
    if known.is_empty() && !ask.backends.is_empty() {
        let text = format!(
            "no backend of {} has a known HTTP endpoint; set 'http' beside 'grpc' in backends[] of the \
             gateway's configuration",
            (ask.what)()
        );
        return Err(Status::unavailable(text).into());
    }
    Ok(known)
}

fn ended_early(backend: &str, error: &hyper::Error) -> Status {
    Status::unavailable(format!(
        "backend '{backend}' ended the connection before it answered: {error}"
    ))
}

fn blame_for_time(worker: &Worker, ask: &Ask<'_>, backend: u32, sent: Instant) {
    if let (Some(routed), true) = (ask.version, sent.elapsed() >= FAIR) {
        let outcome = Outcome::Fault(Fault::TimedOut, "no answer within a request's deadline");
        worker.report(routed, backend, outcome);
    }
}

/// An answer, with its body where it is an error: that says whose fault it is.
async fn read_error(
    deadline: &mut Deadline,
    response: Response<Incoming>,
    mut via: Via,
) -> Result<Answer, Refusal> {
    let (head, mut incoming) = response.into_parts();
    let kind = head.headers.get(CONTENT_TYPE);
    let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if head.status.is_success() || is_stream {
        let body = AnswerBody::Coming(incoming);
        return Ok(Answer { head, body, via });
    }
    let mut body = BytesMut::new();
    let is_whole = loop {
        match before(deadline, incoming.frame()).await? {
            None => break true,
            Some(Ok(frame)) => body.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(_)) => break false,
        }
        if body.len() > MOST_ERROR {
            break false;
        }
    };
    if is_whole {
        via.give_back();
    }
    let body = AnswerBody::There(body.freeze());
    Ok(Answer { head, body, via })
}

/// A backend that a request is sent to.
struct Found {
    id: u32,
    name: Box<str>,
    endpoint: Rc<Endpoint>,
    upstream: Rc<Upstream>,
}

impl Found {
    async fn connection(&self) -> std::io::Result<Lease> {
        match self.endpoint.take_idle(Instant::now()) {
            Some(lease) => Ok(lease),
            None => self.endpoint.connect().await,
        }
    }
}

/// A request with what was tried for it.
pub(crate) struct Tries {
    payload: Option<Payload>,
    given: Given,
    count: u8,
    /// Whether something that may have been begun was sent once more.
    retried: bool,
    failed: Vec<u32>,
    last: Option<Status>,
    wait_for: Option<WaitFor>,
    /// Why there is to be another try.
    why: Option<RetryReason>,
}

impl Tries {
    pub(crate) fn new(payload: Payload) -> Self {
        let given = match &payload {
            Payload::Whole(_) => Given::default(),
            Payload::Once(_, given) => Rc::clone(given),
        };
        Self {
            payload: Some(payload),
            given,
            count: 0,
            retried: false,
            failed: Vec::new(),
            last: None,
            wait_for: None,
            why: None,
        }
    }

    fn next(&mut self, worker: &Worker, ask: &Ask<'_>, known: &[u32]) -> Result<Found, Refusal> {
        if self.count == TRIES || self.payload.is_none() {
            return Err(self.status(ask).into());
        }
        self.count += 1;
        let Choice { backend, upstream } = match worker.choose(known, ask.version, &self.failed) {
            Ok(choice) => choice,
            Err(NoChoice::Tried) => return Err(self.status(ask).into()),
            Err(NoChoice::Ejected) => return Err(self.ejected(worker, ask, known).into()),
        };
        let found = worker.with_table(|table| {
            let backend = table.backend(backend)?;
            Some(Found {
                id: backend.id,
                name: backend.name.clone(),
                endpoint: worker.rest.pool.get(table, backend)?,
                upstream,
            })
        });
        self.count_retry(worker, ask);
        found.ok_or_else(|| self.status(ask).into())
    }

    fn count_retry(&mut self, worker: &Worker, ask: &Ask<'_>) {
        if let (Some(reason), Some(routed)) = (self.why.take(), ask.version) {
            worker.with_counters(|_, counters| {
                counters.retried(&routed.model, &routed.version, reason);
            });
        }
    }

    /// What there is to wait for before the next round, where the request can be sent again.
    fn wait(&mut self) -> Option<WaitFor> {
        let what = self.wait_for.take()?;
        (self.count, self.last) = (0, None);
        self.failed.clear();
        self.payload.is_some().then_some(what)
    }

    fn request(&mut self, ask: &Ask<'_>, found: &Found) -> Result<Request<Upload>, Refusal> {
        let body = match self.payload.take() {
            Some(Payload::Whole(body)) => {
                self.payload = Some(Payload::Whole(body.clone()));
                Upload::whole(body)
            }
            Some(Payload::Once(body, _)) => *body,
            None => return Err(self.status(ask).into()),
        };
        let uri = Uri::try_from(ask.path)
            .map_err(|_| Status::internal(format!("{} cannot be asked for", ask.path)))?;
        let mut request = Request::new(body);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = ask.headers.clone();
        let host = found.endpoint.host.clone();
        request.headers_mut().insert(HOST, host);
        Ok(request)
    }

    /// Nothing of this body was sent.
    fn take_back(&mut self, body: Upload) {
        if self.payload.is_none() {
            let given = Rc::clone(&self.given);
            self.payload = Some(Payload::Once(Box::new(body), given));
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self.payload, Some(Payload::Whole(_))) && self.count < TRIES
    }

    fn unreachable(&mut self, found: &Found, ask: &Ask<'_>, reason: &str) {
        let status = Status::no_backend(&found.name, &(ask.what)(), reason);
        self.give_up_on(found.id, status);
        self.why = Some(RetryReason::Unreachable);
        if found.endpoint.is_newly_down(Instant::now()) {
            self.wait_for = Some(WaitFor::Connection);
        }
    }

    /// The connection was closed before anything was sent on it: that happens to connections which were
    /// kept, and those beside it are no better.
    fn unsent(&mut self, found: &Found, status: Status) {
        found.endpoint.forget_idle();
        self.last = Some(status);
    }

    /// The connection ended after something was sent on it.
    fn broken(
        &mut self,
        worker: &Worker,
        ask: &Ask<'_>,
        found: &Found,
        is_used: bool,
        status: Status,
    ) -> Result<(), Refusal> {
        found.endpoint.forget_idle();
        if !is_used {
            // Each connection carries one request, so that each that breaks is a failure by itself.
            report(worker, ask, found, Some((Fault::Failed, &status.message)));
        }
        let again = Again::after(true, Some(Fault::Broken));
        if !(self.is_kept() && self.may_repeat(ask, found, again)) {
            return Err(status.into());
        }
        self.prepare(ask, found.id, again, status);
        Ok(())
    }

    /// An answer: what the client gets, unless there is to be another try.
    fn answered(
        &mut self,
        worker: &Worker,
        ask: &Ask<'_>,
        found: &Found,
        answer: Answer,
    ) -> Option<Result<Answer, Refusal>> {
        found.upstream.heard();
        let AnswerBody::There(body) = &answer.body else {
            return Some(Ok(answer));
        };
        let text = error_text(body);
        let code = code_of(answer.head.status);
        let fault = judge(code, &text);
        report(worker, ask, found, fault.map(|fault| (fault, &*text)));
        let is_gone = fault == Some(Fault::Gone) && ask.version.is_some();
        let status = if is_gone {
            gone(ask, &found.name, &text)
        } else {
            Status {
                code,
                message: text.into(),
                push_back: None,
            }
        };
        let again = Again::after(code == Code::Unavailable as u8, fault);
        if self.is_kept() && self.may_repeat(ask, found, again) {
            self.prepare(ask, found.id, again, status);
            return None;
        }
        self.wait_for = None;
        Some(if is_gone {
            Err(status.into())
        } else {
            Ok(answer)
        })
    }

    /// Whether a request can be sent once more; takes that out of the budget.
    fn may_repeat(&self, ask: &Ask<'_>, found: &Found, again: Again) -> bool {
        match again {
            Again::Never => false,
            Again::Free(_) => true,
            Again::Once(reason) => {
                let is_other = |id: &u32| *id != found.id && !self.failed.contains(id);
                // A broken connection may be made anew; what a backend said it will say again.
                let is_of_use = reason == RetryReason::Broken || ask.backends.iter().any(is_other);
                let may = is_of_use && !ask.pinned && !self.retried;
                may && found.upstream.budget().withdraw(Instant::now())
            }
        }
    }

    fn prepare(&mut self, ask: &Ask<'_>, backend: u32, again: Again, status: Status) {
        let (Again::Free(reason) | Again::Once(reason)) = again else {
            return;
        };
        self.why = Some(reason);
        self.retried |= matches!(again, Again::Once(_));
        let is_gone = reason == RetryReason::Gone;
        if is_gone && !ask.pinned {
            self.wait_for = Some(WaitFor::Table);
        }
        // Another backend is better, but where there is none the same one may do.
        if is_gone || ask.backends.len() > 1 {
            self.give_up_on(backend, status);
        } else {
            self.last = Some(status);
        }
    }

    fn give_up_on(&mut self, backend: u32, status: Status) {
        self.failed.push(backend);
        self.last = Some(status);
    }

    fn status(&mut self, ask: &Ask<'_>) -> Status {
        self.last
            .take()
            .unwrap_or_else(|| Status::unavailable(format!("no backend serves {}", (ask.what)())))
    }

    fn ejected(&mut self, worker: &Worker, ask: &Ask<'_>, known: &[u32]) -> Status {
        match ask.version {
            Some(routed) => worker.all_ejected(routed, known),
            None => self.status(ask),
        }
    }
}

/// Tell what came of a try.
fn report(worker: &Worker, ask: &Ask<'_>, found: &Found, fault: Option<(Fault, &str)>) {
    if let Some(routed) = ask.version {
        let outcome = fault.map_or(Outcome::Refused, |(fault, text)| {
            Outcome::Fault(fault, text)
        });
        worker.report(routed, found.id, outcome);
    }
}

/// A backend does not have what the table says that it has.
fn gone(ask: &Ask<'_>, backend: &str, said: &str) -> Status {
    Status::unavailable(format!(
        "backend '{backend}' does not have {} any more: {said}",
        (ask.what)()
    ))
}

impl Via {
    /// Id of the backend.
    pub(crate) fn backend(&self) -> u32 {
        self.backend
    }

    /// Time since the request was sent, in microseconds.
    pub(crate) fn took(&self, now: Instant) -> u64 {
        micros(self.sent, now)
    }

    /// Count an answer that ended, or broke off, and the time that the backend took for it.
    pub(crate) fn count(&self, worker: &Worker, routed: &Routed, outcome: Outcome<'_>) {
        let now = Instant::now();
        let took = (self.took(now), now);
        worker.with_counters(|table, counters| {
            if let Some(backend) = table.backend(self.backend) {
                counters.answered(&routed.model, &routed.version, backend, took);
            }
        });
        worker.report(routed, self.backend, outcome);
    }

    /// The answer was read to its end.
    pub(crate) fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}
