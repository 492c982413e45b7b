//! One request to one of a version's backends, and once more where the policy allows it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::Response;
use stagegate_table::counters::RetryReason;
use stagegate_table::Fault;
use stagegate_wire::text::replace_name;

use crate::balance::{Choice, NoChoice};
use crate::client::{Client, Failure};
use crate::discard;
use crate::ejection::{judge, Outcome};
use crate::headers;
use crate::retry::{self, Again, WaitFor, PATIENCE};
use crate::routed::{micros, Routed};
use crate::status::{Code, Status};
use crate::upload::Upload;
use crate::upstream::{Lease, Unreachable, Upstream};
use crate::worker::Worker;

/// Backends or connections that one request is tried on.
const TRIES: u8 = 4;
/// Times that one request waits for a backend; each wait ends in a change of something.
const WAITS: u8 = 8;
/// Time after which a client's own `grpc-timeout` is no longer what is left.
const FRESH: Duration = Duration::from_millis(1);
/// A backend that has had less time than this for a request that timed out is not to blame.
const FAIR: Duration = Duration::from_secs(1);

/// What is asked of a backend, beside the message of the call.
pub(crate) struct Ask<'a> {
    /// Appended to the message.
    pub(crate) tail: &'a Bytes,
    /// Ids of the backends that may answer.
    pub(crate) backends: &'a [u32],
    /// The version that is asked, where it is one.
    pub(crate) version: Option<&'a Routed>,
    /// Whether one backend must answer, and no other may.
    pub(crate) pinned: bool,
    /// What is asked for, for texts.
    pub(crate) what: &'a dyn Fn() -> String,
}

/// The way that a request took; holds its stream open until it is dropped.
pub(crate) struct Via {
    lease: Lease,
    backend: u32,
    sent: Instant,
}

/// Send the message of a call to a backend of a version and wait for the head of the answer. With `pin`
/// only that backend is asked. Afterwards `routed` is what was asked last.
pub(crate) async fn ask_version(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
    pin: Option<u32>,
) -> Result<(Response<RecvStream>, Via), Failure> {
    let mut tries = Tries::default();
    loop {
        let version = &routed.version;
        let ask = Ask {
            tail: &version.request_tail,
            backends: pin.as_ref().map_or(&version.backends, std::slice::from_ref),
            version: Some(routed),
            pinned: pin.is_some(),
            what: &|| routed.what(),
        };
        let failure = match exchange(worker, client, &ask, &mut tries).await {
            Err(failure) => failure,
            done @ Ok(_) => return done,
        };
        // Another arm that answers at once is better than waiting.
        let waits = routed.instead(Code::Unavailable as u8).is_none();
        let Some(wait) = tries.wait().filter(|_| waits) else {
            return Err(failure);
        };
        Box::pin(retry::wait(worker, client, routed, wait, failure)).await?;
    }
}

/// Send the message of a call and wait for the head of the answer.
pub(crate) async fn exchange(
    worker: &Worker,
    client: &mut Client,
    ask: &Ask<'_>,
    tries: &mut Tries,
) -> Result<(Response<RecvStream>, Via), Failure> {
    headers::for_backend(&mut client.headers);
    loop {
        let Choice { backend, upstream } = tries.next(worker, ask)?;
        let lease = match upstream.try_open() {
            Some(lease) => lease,
            None => match open(client, &upstream).await? {
                Ok(lease) => lease,
                Err(Unreachable(reason)) => {
                    tries.unreachable(ask, (backend, &upstream), &reason);
                    continue;
                }
            },
        };
        let via = Via {
            lease,
            backend,
            sent: Instant::now(),
        };
        let may_retry = tries.count < TRIES && client.message.is_kept();
        let missed = match send(worker, client, ask, &via) {
            Ok(mut response) => {
                let waited = client.wait(|_, cx| Pin::new(&mut response).poll(cx)).await;
                match waited {
                    Ok(Ok(response)) => {
                        upstream.heard();
                        match missed(ask, &via, response) {
                            Ok(response) => return Ok((response, via)),
                            Err(missed) => *missed,
                        }
                    }
                    Ok(Err(error)) => broken(&error, &via),
                    Err(failure) => {
                        given_up(worker, client, ask, via, response, &failure);
                        return Err(failure);
                    }
                }
            }
            Err(error) => Missed {
                // The stream was never opened.
                again: Again::Free(RetryReason::Refused),
                ..broken(&error, &via)
            },
        };
        if let Some(done) = tries.missed(worker, ask, &via, missed, may_retry) {
            return done.map(|response| (response, via));
        }
        client.upload = None;
    }
}

/// A try that did not lead to a good answer, nor to an error that is the client's.
struct Missed {
    again: Again,
    fault: Option<Fault>,
    status: Status,
    /// The backend's answer, where it gave one.
    response: Option<Response<RecvStream>>,
}

/// Whether an answer is a backend's failure.
fn missed(
    ask: &Ask<'_>,
    via: &Via,
    response: Response<RecvStream>,
) -> Result<Response<RecvStream>, Box<Missed>> {
    let Some(mut status) = Status::of_answer(&response, via.name()) else {
        return Ok(response);
    };
    rename(ask, &mut status);
    let fault = judge(status.code, &status.message);
    Err(Box::new(Missed {
        again: Again::after(status.code == Code::Unavailable as u8, fault),
        fault,
        status,
        response: Some(response),
    }))
}

/// Say a status under the names that the client knows.
fn rename(ask: &Ask<'_>, status: &mut Status) {
    if let Some(routed) = ask.version {
        let (triton, logical) = (&routed.version.backend_model, &routed.model.name);
        status.message = replace_name(&status.message, triton, logical)
            .into_owned()
            .into();
    }
}

/// What the end of a stream without an answer means.
fn broken(error: &h2::Error, via: &Via) -> Missed {
    let status = Status::of_upstream_error(error, via.name());
    let fault = fault_of(error);
    Missed {
        again: again_after(error, fault),
        fault,
        status,
        response: None,
    }
}

/// Whether what was sent on a stream that ended in this way may be sent again.
pub(crate) fn again_after(error: &h2::Error, fault: Option<Fault>) -> Again {
    match fault {
        None if is_unprocessed(error) => Again::Free(RetryReason::Refused),
        Some(Fault::Broken) => Again::after(true, fault),
        _ => Again::Never,
    }
}

/// What a backend did wrong, when a stream of its ends without a status.
pub(crate) fn fault_of(error: &h2::Error) -> Option<Fault> {
    if is_unprocessed(error) {
        None
    } else if error.reason().is_none() || error.is_go_away() {
        Some(Fault::Broken)
    } else if error.reason() == Some(Reason::CANCEL) {
        None
    } else {
        Some(Fault::Failed)
    }
}

/// What was tried for one request.
#[derive(Default)]
pub(crate) struct Tries {
    count: u8,
    waits: u8,
    /// Whether something that may have been begun was sent once more.
    retried: bool,
    /// Backends that are not to be tried again before something has changed.
    failed: Vec<u32>,
    last: Option<Box<Status>>,
    wait_for: Option<WaitFor>,
    until: Option<Instant>,
    /// Why there is to be another try.
    why: Option<RetryReason>,
}

impl Tries {
    fn next(&mut self, worker: &Worker, ask: &Ask<'_>) -> Result<Choice, Failure> {
        if self.count == TRIES {
            return Err(self.status(ask).into());
        }
        self.count += 1;
        match worker.choose(ask.backends, ask.version, &self.failed) {
            Ok(choice) => {
                self.count_retry(worker, ask);
                Ok(choice)
            }
            Err(NoChoice::Tried) => Err(self.status(ask).into()),
            Err(NoChoice::Ejected) => Err(self.ejected(worker, ask).into()),
        }
    }

    fn count_retry(&mut self, worker: &Worker, ask: &Ask<'_>) {
        if let (Some(reason), Some(routed)) = (self.why.take(), ask.version) {
            worker.with_counters(|_, counters| {
                counters.retried(&routed.model, &routed.version, reason);
            });
        }
    }

    /// What there is to wait for before the next round, and until when.
    fn wait(&mut self) -> Option<(WaitFor, Instant)> {
        let what = self.wait_for.take()?;
        let until = *self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        self.waits += 1;
        (self.count, self.last) = (0, None);
        self.failed.clear();
        (self.waits <= WAITS).then_some((what, until))
    }

    fn unreachable(&mut self, ask: &Ask<'_>, (backend, upstream): (u32, &Upstream), reason: &str) {
        let status = Status::no_backend(upstream.name(), &(ask.what)(), reason);
        self.give_up_on(backend, status);
        self.why = Some(RetryReason::Unreachable);
        if upstream.is_newly_down(Instant::now()) {
            self.wait_for = Some(WaitFor::Connection);
        }
    }

    /// Note a try that failed. Gives what the client gets, unless there is to be another try.
    fn missed(
        &mut self,
        worker: &Worker,
        ask: &Ask<'_>,
        via: &Via,
        missed: Missed,
        may_retry: bool,
    ) -> Option<Result<Response<RecvStream>, Failure>> {
        if let Some(routed) = ask.version {
            let text = &missed.status.message;
            let fault = missed.fault.map(|fault| Outcome::Fault(fault, text));
            worker.report(routed, via.backend, fault.unwrap_or(Outcome::Refused));
        }
        let is_gone = missed.fault == Some(Fault::Gone);
        let status = if is_gone {
            Status::gone(via.name(), &(ask.what)(), &missed.status.message)
        } else {
            missed.status
        };
        if may_retry && self.may_repeat(ask, via, missed.again) {
            self.prepare(ask, via.backend, missed.again, status);
            return None;
        }
        self.wait_for = None;
        Some(match missed.response {
            Some(response) if !is_gone => Ok(response),
            _ => Err(status.into()),
        })
    }

    /// Whether a request can be sent once more; takes that out of the budget.
    fn may_repeat(&self, ask: &Ask<'_>, via: &Via, again: Again) -> bool {
        match again {
            Again::Never => false,
            Again::Free(_) => true,
            Again::Once(reason) => {
                let is_other = |id: &u32| *id != via.backend && !self.failed.contains(id);
                // A broken connection may be made anew; what a backend said it will say again.
                let is_of_use = reason == RetryReason::Broken || ask.backends.iter().any(is_other);
                let may = is_of_use && !ask.pinned && !self.retried;
                may && via.lease.upstream().budget().withdraw(Instant::now())
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
            self.last = Some(Box::new(status));
        }
    }

    fn give_up_on(&mut self, backend: u32, status: Status) {
        self.failed.push(backend);
        self.last = Some(Box::new(status));
    }

    fn status(&mut self, ask: &Ask<'_>) -> Status {
        let none = || Status::unavailable(format!("no backend serves {}", (ask.what)()));
        self.last.take().map_or_else(none, |last| *last)
    }

    /// All that are left are passed over.
    fn ejected(&mut self, worker: &Worker, ask: &Ask<'_>) -> Status {
        let Some(routed) = ask.version else {
            return self.status(ask);
        };
        if went_away(routed, ask.backends) {
            self.wait_for = Some(WaitFor::Connection);
        }
        worker.all_ejected(routed, ask.backends)
    }
}

/// Whether backends are passed over because they went away just now: the table or a connection is about
/// to tell what becomes of them.
pub(crate) fn went_away(routed: &Routed, backends: &[u32]) -> bool {
    let health = &routed.version.cell.health;
    backends.iter().any(|id| {
        health.ejected(*id).is_some_and(|ejected| {
            matches!(ejected.fault, Fault::Gone | Fault::Broken)
                && ejected.since.elapsed() < PATIENCE
        })
    })
}

async fn open(
    client: &mut Client,
    upstream: &Rc<Upstream>,
) -> Result<Result<Lease, Unreachable>, Failure> {
    // Boxed because it is rare: it would make the future of every call larger.
    let mut opening = Box::pin(upstream.open());
    client.wait(|_, cx| opening.as_mut().poll(cx)).await
}

/// Open the stream and begin to send the message.
fn send(
    worker: &Worker,
    client: &mut Client,
    ask: &Ask<'_>,
    via: &Via,
) -> Result<ResponseFuture, h2::Error> {
    let upstream = via.lease.upstream();
    let (path, mut headers) = if client.message.is_kept() {
        (client.path.clone(), client.headers.clone())
    } else {
        (client.path.clone(), std::mem::take(&mut client.headers))
    };
    let fresh = via.sent.saturating_duration_since(client.started) < FRESH;
    if !(fresh && headers.contains_key(headers::GRPC_TIMEOUT)) {
        worker
            .timeouts
            .set(&mut headers, client.deadline.at(), via.sent);
    }
    let (response, send) = via.lease.send(upstream.request(path, headers), false)?;
    client.upload = Upload::start(&client.message, ask.tail, send);
    Ok(response)
}

/// The call ends before there is an answer: its deadline passed, or the client is gone.
fn given_up(
    worker: &Worker,
    client: &Client,
    ask: &Ask<'_>,
    via: Via,
    response: ResponseFuture,
    failure: &Failure,
) {
    if let (Some(routed), Failure::Status(status)) = (ask.version, failure) {
        let is_late = status.code == Code::DeadlineExceeded as u8;
        if is_late && via.sent.elapsed() >= FAIR {
            let outcome = Outcome::Fault(Fault::TimedOut, "no answer within a request's deadline");
            worker.report(routed, via.backend, outcome);
        }
    }
    if client.upload.is_none() {
        discard::answer(worker, via.lease, response);
    }
}

/// Whether the backend said that it did not begin with the request.
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    // h2 gives a remote GOAWAY only to the streams that are beyond the last one processed.
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

impl Via {
    /// Name of the backend.
    pub(crate) fn name(&self) -> &str {
        self.lease.upstream().name()
    }

    /// Time since the request was sent, in microseconds.
    pub(crate) fn took(&self, now: Instant) -> u64 {
        micros(self.sent, now)
    }

    /// Count an answer that ended, or broke off, and the time that the backend took for it.
    pub(crate) fn count(
        &self,
        worker: &Worker,
        routed: &Routed,
        outcome: &Result<u8, Failure>,
        now: Instant,
    ) {
        let took = (self.took(now), now);
        worker.with_counters(|table, counters| {
            if let Some(backend) = table.backend(self.backend) {
                counters.answered(&routed.model, &routed.version, backend, took);
            }
        });
        match outcome {
            Ok(code) if *code == Code::Ok as u8 => {
                worker.report(routed, self.backend, Outcome::Good);
            }
            Err(Failure::Status(status)) if status.code != Code::DeadlineExceeded as u8 => {
                let is_lost = status.code == Code::Unavailable as u8;
                let fault = if is_lost {
                    Fault::Broken
                } else {
                    Fault::Failed
                };
                worker.report(routed, self.backend, Outcome::Fault(fault, &status.message));
            }
            _ => {}
        }
    }

    /// The client does not want the rest of the answer.
    pub(crate) fn leave(self, worker: &Worker, body: RecvStream) {
        discard::rest(worker, self.lease, body);
    }
}
