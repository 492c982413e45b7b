//! The client's messages, each to the leg of its backend.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use http::Request;
use stagegate_table::counters::RetryReason;
use stagegate_table::{Series, State};
use stagegate_wire::names::{scan_message, Names};
use stagegate_wire::stream::{error_answer, request_id};

use crate::balance::{Choice, NoChoice};
use crate::budget::Held;
use crate::client::Failure;
use crate::cold;
use crate::exchange::went_away;
use crate::framer::Caps;
use crate::joined::Joined;
use crate::message::malformed;
use crate::reader::{ReadError, Reader};
use crate::retry::{self, WaitFor, PATIENCE};
use crate::routed::{Count, Routed, RoutedMessage};
use crate::sequences::Continued;
use crate::status::Status;
use crate::upstream::{Lease, Unreachable};

use super::kept::{Returned, To, Unanswered, TRIES};
use super::lanes::{Lanes, Preparing, Turn};
use super::leg::Leg;
use super::Session;

/// Names that one stream remembers the arms of; beyond it the oldest is forgotten.
const REMEMBERED: usize = 1024;
/// Times that one message waits for a backend.
const WAITS: u8 = 8;

/// What the names of earlier messages led to.
struct Known {
    model: Box<[u8]>,
    version: Box<[u8]>,
    logical: Box<str>,
    /// The arm that was drawn; none for a pinned version.
    arm: Option<Box<str>>,
    backend: u32,
}

impl Known {
    fn is(&self, names: Names<'_>) -> bool {
        *self.model == *names.model && *self.version == *names.version
    }
}

/// What a message needs to be sent: where to, and as what.
type Prepared = (Rc<Leg>, To);

/// How far a message is.
enum Way<'s> {
    /// It can be sent now.
    Open(Box<Prepared>),
    /// Something must be waited for.
    Wait(Preparing<'s, Result<Prepared, Refusal>>),
}

/// Why a message is not sent; counted by the series that it was routed to.
type Refusal = (Status, Arc<Series>);

/// What happens next.
enum Event {
    /// A message is to be sent once more.
    Returned(Returned),
    /// A message that waited can be sent, or not.
    Turn(Turn<Result<Prepared, Refusal>>),
    Message(Bytes),
    End,
}

/// The client's messages until its last one, and those that wait.
struct Inbound<'s, 'w> {
    session: &'s Session<'w>,
    reader: Reader,
    lanes: Lanes<'s, Result<Prepared, Refusal>>,
    known: Vec<Known>,
    started: Instant,
    ended: bool,
    /// Messages that came back one after the other, and stand before those that wait.
    again: usize,
}

/// Take messages until the client has sent its last one and none waits any more.
pub(super) async fn take_messages(
    session: &Session<'_>,
    body: RecvStream,
    started: Instant,
) -> Result<(), Failure> {
    let mut inbound = Inbound {
        session,
        reader: Reader::new(body, Caps::of(&session.worker.limits()))
            .counted(Held::new(&session.worker.budget)),
        lanes: Lanes::new(),
        known: Vec::new(),
        started,
        ended: false,
        again: 0,
    };
    loop {
        match poll_fn(|cx| inbound.poll_event(cx)).await? {
            Event::Message(message) => {
                session.worker.totals.message_received();
                inbound.begin(message).await?;
            }
            Event::Returned(returned) => inbound.take_back(returned),
            Event::Turn(turn) => inbound.go_on(turn).await?,
            Event::End => return Ok(()),
        }
    }
}

impl Inbound<'_, '_> {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Failure>> {
        if let Some(returned) = self.session.returned.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Event::Returned(returned)));
        }
        self.again = 0;
        if let Poll::Ready(turn) = self.lanes.poll(cx) {
            return Poll::Ready(Ok(Event::Turn(turn)));
        }
        if self.ended && self.lanes.is_empty() {
            let legs = self.session.legs.borrow();
            legs.iter().for_each(|leg| leg.half_close());
            // The session is stirred when one of them gives a message back, and when it ends.
            return if legs.iter().any(|leg| leg.may_give_back()) {
                Poll::Pending
            } else {
                Poll::Ready(Ok(Event::End))
            };
        }
        if self.ended || !self.lanes.has_room() {
            return Poll::Pending;
        }
        match ready!(self.reader.poll_message(&self.session.headers, cx)) {
            Ok(Some(message)) => Poll::Ready(Ok(Event::Message(message))),
            Ok(None) => {
                self.ended = true;
                self.poll_event(cx)
            }
            Err(ReadError::Status(status)) => Poll::Ready(Err(status.into())),
            Err(ReadError::Broken(_)) => Poll::Ready(Err(Failure::Gone)),
        }
    }

    /// Send a message to another backend than before; those of its model that came later wait for it.
    fn take_back(&mut self, returned: Returned) {
        let message = returned.kept.message.clone();
        let preparing = Box::pin(again(self.session, returned));
        self.lanes.begin(self.again, message, preparing);
        self.again += 1;
    }

    /// Send a message, or let it wait, behind those of its model that do.
    async fn begin(&mut self, message: Bytes) -> Result<(), Failure> {
        match self.lanes.join(message) {
            Some(message) => self.take(message, self.lanes.end()).await,
            None => Ok(()),
        }
    }

    /// Send a message, or let it wait at that place.
    async fn take(&mut self, message: Bytes, at: usize) -> Result<(), Failure> {
        match take(self.session, &self.known, &message, self.started) {
            Ok(Way::Open(prepared)) => self.send(*prepared, message).await,
            Ok(Way::Wait(preparing)) => {
                self.lanes.begin(at, message, preparing);
                Ok(())
            }
            Err(status) => refuse(self.session, status, &message).await,
        }
    }

    /// Go on with a message that waited.
    async fn go_on(&mut self, turn: Turn<Result<Prepared, Refusal>>) -> Result<(), Failure> {
        match turn {
            Turn::Next(message, at) => self.take(message, at).await,
            Turn::Prepared(message, Ok(prepared)) => self.send(prepared, message).await,
            Turn::Prepared(message, Err((status, series))) => {
                series.streams().error();
                refuse(self.session, status, &message).await
            }
        }
    }

    async fn send(&mut self, prepared: Prepared, message: Bytes) -> Result<(), Failure> {
        let (leg, to) = prepared;
        if let (false, Ok(names)) = (to.continued, scan_message(&message)) {
            let arm = to.arm.clone();
            remember(&mut self.known, names, &to.routed, arm, leg.backend);
        }
        let mut piece = Joined::message(message.clone(), to.routed.version.request_tail.clone());
        let series = Arc::clone(&to.series);
        let id = request_id(&message).unwrap_or_default();
        leg.expect(to.routed.clone(), Arc::clone(&series), id);
        leg.keep(message.clone(), to);
        if poll_fn(|cx| leg.poll_send(&mut piece, cx)).await {
            return Ok(());
        }
        if leg.cut_off() {
            // Its answers' side tells what becomes of the message.
            return Ok(());
        }
        series.streams().error();
        refuse(self.session, Status::ended_early(leg.name()), &message).await
    }
}

/// What is wrong with one message is told as Triton does, in an answer of its own, and the stream goes
/// on; unless the client wants a status.
async fn refuse(session: &Session<'_>, status: Status, message: &[u8]) -> Result<(), Failure> {
    if session.strict {
        return Err(status.into());
    }
    poll_fn(|_| {
        if session.local_is_full() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let id = request_id(message).unwrap_or_default();
    session
        .local
        .borrow_mut()
        .push_back(error_answer(&status.message, id).into());
    Ok(())
}

/// Route a message, and see whether anything must be waited for before it is sent.
fn take<'s>(
    session: &'s Session<'_>,
    known: &[Known],
    message: &Bytes,
    started: Instant,
) -> Result<Way<'s>, Status> {
    let names = scan_message(message).map_err(malformed)?;
    let mut to = route(session, known, names, started)?;
    to.series.streams().request();
    let before = known
        .iter()
        .find(|known| known.is(names))
        .map(|known| known.backend);
    if to.routed.version.state == State::Ready {
        session.worker.choose_for_sequence(&mut to.routed)?;
        if let Some(leg) = open_leg(session, &to, before) {
            return Ok(Way::Open(Box::new((leg, to))));
        }
    }
    Ok(Way::Wait(Box::pin(async move {
        match leg_in_time(session, &mut to, before).await {
            Ok(leg) => Ok((leg, to)),
            Err(status) => Err((status, to.series)),
        }
    })))
}

/// Prepare a message for another backend than those that did not take it.
async fn again(session: &Session<'_>, returned: Returned) -> Result<Prepared, Refusal> {
    let Returned { kept, why, status } = returned;
    let (worker, mut to) = (session.worker, kept.to);
    let leg = async {
        let is_alone = to.avoided().is_empty();
        if why == RetryReason::Gone && is_alone && to.routed.sequence.is_none() {
            let until = Instant::now() + PATIENCE;
            if !retry::wait_alone(worker, &to.routed, WaitFor::Table, until).await {
                return Err(status);
            }
        }
        cold::look_again(worker, &mut to.routed)?;
        worker.with_counters(|_, counters| {
            counters.retried(&to.routed.model, &to.routed.version, why);
        });
        leg_in_time(session, &mut to, None).await
    };
    match leg.await {
        Ok(leg) => Ok((leg, to)),
        Err(status) => Err((status, to.series)),
    }
}

/// The leg for a message, after a while where its version is being loaded or its backends are down just now.
async fn leg_in_time(
    session: &Session<'_>,
    to: &mut To,
    before: Option<u32>,
) -> Result<Rc<Leg>, Status> {
    let worker = session.worker;
    let until = Instant::now() + PATIENCE;
    let mut waits = 0;
    loop {
        cold::ready(worker, &mut to.routed).await?;
        worker.choose_for_sequence(&mut to.routed)?;
        let NoLeg { status, may_come } = match leg_for(session, to, before).await {
            Ok(leg) => return Ok(leg),
            Err(none) => none,
        };
        waits += 1;
        let may_wait = may_come && waits <= WAITS && to.routed.sequence.is_none();
        let what = WaitFor::Connection;
        if !may_wait || !retry::wait_alone(worker, &to.routed, what, until).await {
            return Err(status);
        }
        cold::look_again(worker, &mut to.routed)?;
    }
}

/// To where its sequence is open, else as the stream's earlier messages went, else as any request goes.
fn route(
    session: &Session<'_>,
    known: &[Known],
    names: Names<'_>,
    started: Instant,
) -> Result<To, Status> {
    let worker = session.worker;
    let asked = worker.sequence_of(names);
    if let Some(open) = asked
        .as_ref()
        .and_then(|asked| worker.continue_sequence(asked))
    {
        return continue_sequence(session, open, started);
    }
    let (mut routed, arm, series) = route_alone(session, known, names, started)?;
    let hold = match &asked {
        Some(asked) => worker.begin_sequence(asked, &mut routed)?,
        None => None,
    };
    Ok(To {
        routed,
        arm,
        series,
        hold,
        continued: false,
        failed: Vec::new(),
        retried: false,
    })
}

fn continue_sequence(
    session: &Session<'_>,
    open: Continued,
    started: Instant,
) -> Result<To, Status> {
    let first = !session.counted.replace(true);
    if let Some(status) = open.lost {
        open.series.streams().error();
        if first {
            Count::start(&open.series, started).end(status.code, Instant::now());
        }
        return Err(status);
    }
    if first {
        session.count_stream(&open.routed, &open.series, started);
    }
    Ok(To {
        routed: open.routed,
        arm: None,
        series: open.series,
        hold: Some(open.hold),
        continued: true,
        failed: Vec::new(),
        retried: false,
    })
}

/// The same arm as before while it has weight; else as for any request. The first message counts the
/// stream.
fn route_alone(
    session: &Session<'_>,
    known: &[Known],
    names: Names<'_>,
    started: Instant,
) -> Result<RoutedMessage, Status> {
    let worker = session.worker;
    let before = known.iter().find(|known| known.is(names));
    if let Some((logical, arm)) =
        before.and_then(|known| Some((&known.logical, known.arm.as_ref()?)))
    {
        if let Some((routed, series)) = worker.route_on_arm(logical, arm) {
            return Ok((routed, Some(arm.clone()), series));
        }
    }
    let first = !session.counted.replace(true);
    let (routed, arm, series) = worker.route_message(names, &session.headers, first, started)?;
    if first {
        session.count_stream(&routed, &series, started);
    }
    Ok((routed, arm, series))
}

fn remember(
    known: &mut Vec<Known>,
    names: Names<'_>,
    routed: &Routed,
    arm: Option<Box<str>>,
    backend: u32,
) {
    if let Some(known) = known.iter_mut().find(|known| known.is(names)) {
        (known.arm, known.backend) = (arm, backend);
        return;
    }
    if known.len() >= REMEMBERED {
        known.remove(0);
    }
    let (model, version) = (names.model.into(), names.version.into());
    known.push(Known {
        model,
        version,
        logical: routed.model.name.clone(),
        arm,
        backend,
    });
}

/// Why there is no leg, and whether it is worth while to wait for one.
struct NoLeg {
    status: Status,
    may_come: bool,
}

impl NoLeg {
    /// And waiting is of no use.
    fn now(status: Status) -> Self {
        Self {
            status,
            may_come: false,
        }
    }
}

/// The leg of a backend that has the version: the one that this model used, else any, else a new one.
async fn leg_for(session: &Session<'_>, to: &To, before: Option<u32>) -> Result<Rc<Leg>, NoLeg> {
    let mut tries = 0;
    loop {
        let mut opening = pin!(open_lease(session, to));
        // Another message may have the same need at the same time, and then one leg serves both.
        let opened = poll_fn(|cx| match open_leg(session, to, before) {
            Some(leg) => Poll::Ready(Ok(Err(leg))),
            None => opening.as_mut().poll(cx).map_ok(Ok),
        });
        let (backend, lease) = match opened.await? {
            Ok(opened) => opened,
            Err(leg) => return Ok(leg),
        };
        match begin(session, backend, lease) {
            Ok(leg) => {
                let leg = Rc::new(leg);
                session.legs.borrow_mut().push(Rc::clone(&leg));
                return Ok(leg);
            }
            // The connection ends; another one takes the stream.
            Err(_) if tries < TRIES => tries += 1,
            Err(status) => return Err(NoLeg::now(status)),
        }
    }
}

fn open_leg(session: &Session<'_>, to: &To, before: Option<u32>) -> Option<Rc<Leg>> {
    let (backends, avoided) = (to.routed.backends(), to.avoided());
    let legs = session.legs.borrow();
    let mut fitting = legs.iter().filter(|leg| {
        leg.is_open() && backends.contains(&leg.backend) && !avoided.contains(&leg.backend)
    });
    let first = fitting.clone().next()?;
    Some(Rc::clone(
        fitting
            .find(|leg| Some(leg.backend) == before)
            .unwrap_or(first),
    ))
}

async fn open_lease(session: &Session<'_>, to: &To) -> Result<(u32, Lease), NoLeg> {
    let (worker, routed) = (session.worker, &to.routed);
    let ids = routed.backends();
    let mut tried = to.avoided().to_vec();
    let mut last = None;
    let mut may_come = false;
    loop {
        let Choice {
            backend: id,
            upstream,
        } = match worker.choose(ids, Some(routed), &tried) {
            Ok(choice) => choice,
            Err(NoChoice::Ejected) => {
                return Err(NoLeg {
                    status: worker.all_ejected(routed, ids),
                    may_come: may_come || went_away(routed, ids),
                })
            }
            Err(NoChoice::Tried) => break,
        };
        match upstream.open().await {
            Ok(lease) => return Ok((id, lease)),
            Err(Unreachable(reason)) => {
                last = Some(Status::no_backend(upstream.name(), &routed.what(), &reason));
                may_come |= upstream.is_newly_down(Instant::now());
                tried.push(id);
            }
        }
    }
    let none = || Status::unavailable(format!("no backend serves {}", routed.what()));
    Err(NoLeg {
        status: last.unwrap_or_else(none),
        may_come,
    })
}

fn begin(session: &Session<'_>, backend: u32, lease: Lease) -> Result<Leg, Status> {
    let worker = session.worker;
    let mut headers = session.forwarded.clone();
    worker
        .timeouts
        .set(&mut headers, session.deadline, Instant::now());
    let upstream = lease.upstream();
    let request: Request<()> = upstream.request(session.path.clone(), headers);
    let streams = lease
        .send(request, false)
        .map_err(|error| Status::of_upstream_error(&error, upstream.name()))?;
    let limits = worker.limits();
    let unanswered = Unanswered::new(&worker.budget, limits.replay);
    Ok(Leg::new(
        backend,
        lease,
        streams,
        unanswered,
        Caps::of(&limits),
    ))
}
