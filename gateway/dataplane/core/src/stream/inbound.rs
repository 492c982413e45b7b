//! The client's messages, each to the leg of its backend.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use http::Request;
use stagegate_wire::names::{scan_message, Names};
use stagegate_wire::stream::{error_answer, request_id};

use crate::client::Failure;
use crate::cold;
use crate::framer::Caps;
use crate::joined::Joined;
use crate::message::malformed;
use crate::reader::{ReadError, Reader};
use crate::routed::{Count, Routed, RoutedMessage};
use crate::status::Status;
use crate::upstream::{Lease, Unreachable};

use super::leg::Leg;
use super::Session;

/// Names that one stream remembers the arms of; beyond it the oldest is forgotten.
const REMEMBERED: usize = 1024;

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

/// Take messages until the client has sent its last one.
pub(super) async fn take_messages(
    session: &Session<'_>,
    body: RecvStream,
    started: Instant,
) -> Result<(), Failure> {
    let mut reader = Reader::new(body, Caps::of(&session.worker.limits()));
    let mut known = Vec::new();
    loop {
        let message = match poll_fn(|cx| reader.poll_message(&session.headers, cx)).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(ReadError::Status(status)) => return Err(status.into()),
            Err(ReadError::Broken(_)) => return Err(Failure::Gone),
        };
        session.worker.totals.message_received();
        if let Err(status) = take(session, &mut known, message.clone(), started).await {
            refuse(session, status, &message).await?;
        }
    }
    session
        .legs
        .borrow()
        .iter()
        .for_each(|leg| leg.half_close());
    Ok(())
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

async fn take(
    session: &Session<'_>,
    known: &mut Vec<Known>,
    message: Bytes,
    started: Instant,
) -> Result<(), Status> {
    let names = scan_message(&message).map_err(malformed)?;
    let (mut routed, arm, series) = route(session, known, names, started)?;
    cold::ready(session.worker, &mut routed).await?;
    let before = known
        .iter()
        .find(|known| known.is(names))
        .map(|known| known.backend);
    let leg = leg_for(session, &routed, before).await?;
    remember(known, names, &routed, arm, leg.backend);
    let mut piece = Joined::message(message.clone(), routed.version.request_tail.clone());
    leg.expect(routed, series);
    if poll_fn(|cx| leg.poll_send(&mut piece, cx)).await {
        return Ok(());
    }
    Err(Status::unavailable(format!(
        "backend '{}' ended the stream",
        leg.name()
    )))
}

/// The same arm as before while it has weight; else as for any request. The first message counts the
/// stream.
fn route(
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
        session.count.replace(Some(Count::start(&series, started)));
        session.first.replace(Some(routed.clone()));
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

/// The leg of a backend that has the version: the one that this model used, else any, else a new one.
async fn leg_for(
    session: &Session<'_>,
    routed: &Routed,
    before: Option<u32>,
) -> Result<Rc<Leg>, Status> {
    let backends = &routed.version.backends;
    if let Some(leg) = open_leg(session, backends, before) {
        return Ok(leg);
    }
    let (backend, lease) = open_lease(session, routed).await?;
    let leg = Rc::new(begin(session, backend, lease)?);
    session.legs.borrow_mut().push(Rc::clone(&leg));
    Ok(leg)
}

fn open_leg(session: &Session<'_>, backends: &[u32], before: Option<u32>) -> Option<Rc<Leg>> {
    let legs = session.legs.borrow();
    let mut fitting = legs.iter().filter(|leg| backends.contains(&leg.backend));
    let first = fitting.clone().next()?;
    Some(Rc::clone(
        fitting
            .find(|leg| Some(leg.backend) == before)
            .unwrap_or(first),
    ))
}

async fn open_lease(session: &Session<'_>, routed: &Routed) -> Result<(u32, Lease), Status> {
    let worker = session.worker;
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let chosen = worker.with_table(|table| {
            let ids = &routed.version.backends;
            let (backend, upstream) = worker.pool.choose(table, ids, &tried, &worker.draws)?;
            Some((backend.id, upstream))
        });
        let Some((id, upstream)) = chosen else { break };
        match upstream.open().await {
            Ok(lease) => return Ok((id, lease)),
            Err(Unreachable(reason)) => {
                last = Some(Status::no_backend(upstream.name(), &routed.what(), &reason));
                tried.push(id);
            }
        }
    }
    Err(last.unwrap_or_else(|| Status::unavailable(format!("no backend serves {}", routed.what()))))
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
    Ok(Leg::new(
        backend,
        lease,
        streams,
        Caps::of(&worker.limits()),
    ))
}
