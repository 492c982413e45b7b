//! A request's right to be with the backends of its version: at once where there is room, else after a
//! wait in the queue of that version, which ends early where waiting has no point.
//!
//! What is let through, and in which order, is in [`stagegate_table::gate`]. Messages of streams are not
//! held back: how many answers one has, and so when it ends, is known to the model alone, and a message
//! that waits would hold up those behind it which the model may need to go on.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stagegate_table::gate::{Ask, Permit, Place, Reason, Refusal, UNBOUNDED};
use stagegate_table::{Model, State, Version};
use stagegate_wire::params::Params;
use tokio::time::timeout;

use crate::client::{Client, Failure};
use crate::cold;
use crate::message;
use crate::routed::{micros, Routed};
use crate::status::{Code, Status};
use crate::worker::Worker;

/// How long a message that is still on its way may hold a place.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// What a call of gRPC holds while it is with a backend; given back when dropped.
pub(crate) enum Admitted {
    /// Its message is here: its time says what the backend takes.
    Whole(Permit),
    /// Its message is on its way still, and so large that it must not be waited for. The place is taken from
    /// it after a second, because nothing bounds how slowly a client sends; its time says nothing.
    Coming(Rc<Cell<Option<Permit>>>),
}

impl Admitted {
    fn coming(permit: Permit) -> Self {
        let place = Rc::new(Cell::new(Some(permit)));
        let held = Rc::downgrade(&place);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(ON_ITS_WAY).await;
            if let Some(place) = held.upgrade() {
                place.take();
            }
        });
        Self::Coming(place)
    }

    /// The backend is done with the request, after `micros`; `good` where its answer is OK. Only the first
    /// call counts.
    pub(crate) fn done(&mut self, micros: u64, good: bool) {
        match self {
            Self::Whole(permit) => permit.done(micros, good),
            Self::Coming(place) => drop(place.take()),
        }
    }

    /// The call ended without an answer; see [`abandon`].
    pub(crate) fn failed(self, failure: &Failure) {
        if let Self::Whole(permit) = self {
            abandon(permit, failure);
        }
    }
}

/// A request that is with a backend ended without an answer. Where its client went away, or its time is
/// over, the backend may go on with it: it keeps its place for as long as a request usually takes, so that
/// what nobody waits for cannot pile up there.
pub(crate) fn abandon(permit: Permit, failure: &Failure) {
    let given_up = match failure {
        Failure::Gone => true,
        Failure::Status(status) => status.code == Code::DeadlineExceeded as u8,
    };
    let time = permit.usual_time();
    if given_up && !time.is_zero() {
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            drop(permit);
        });
    }
}

/// A place for a call of gRPC, waited for as long as its client waits.
pub(crate) async fn admit(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
) -> Result<Admitted, Failure> {
    if client.message.is_whole() {
        if let Some(permit) = Permit::try_new(&routed.version.cell) {
            return Ok(Admitted::Whole(permit));
        }
    }
    // Boxed because it is rare: it would make the future of every call larger.
    let permit = Box::pin(wait_for(worker, client, routed)).await?;
    Ok(if client.message.is_whole() {
        Admitted::Whole(permit)
    } else {
        Admitted::coming(permit)
    })
}

async fn wait_for(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
) -> Result<Permit, Failure> {
    if client.message.fits_window() && routed.version.cell.gate.limit() != UNBOUNDED {
        // A slow sender is to hold no place that others wait for.
        message::gather(client).await?;
        // Nor is its connection to be held up for the sake of other models.
        client.message.release(client.message.len());
    }
    let _rest = client.message.hold_rest()?;
    let wish = wish(client);
    let deadline = client.deadline.at();
    let outcome = {
        let mut waiting = pin!(permit(worker, routed, wish, deadline));
        client.wait(|_, cx| waiting.as_mut().poll(cx)).await
    };
    match outcome {
        Ok(outcome) => Ok(outcome?),
        Err(Failure::Status(status)) if status.code == Code::DeadlineExceeded as u8 => {
            Err(too_late(routed).into())
        }
        Err(failure) => Err(failure),
    }
}

/// What a request says of its place in the queue, by its parameters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    /// 0 for none.
    priority: u64,
    /// In microseconds; 0 for none.
    timeout: u64,
}

impl From<Params<'_>> for Wish {
    fn from(params: Params<'_>) -> Self {
        Self {
            priority: params.priority,
            timeout: params.timeout_us,
        }
    }
}

impl From<u64> for Wish {
    fn from(priority: u64) -> Self {
        Self {
            priority,
            timeout: 0,
        }
    }
}

/// Of a call of gRPC, by what was read of its message.
fn wish(client: &Client) -> Wish {
    let names = client.message.names();
    names.map_or_else(
        |_| Wish::default(),
        |names| Params::scan(names.parameters).into(),
    )
}

/// A permit for a request of any kind.
///
/// It follows the version into today's table if it had to wait. The `wish` is the request's parameters, or
/// its priority alone; a request that cannot be answered before `deadline` is refused before that.
pub(crate) async fn permit(
    worker: &Worker,
    routed: &mut Routed,
    wish: impl Into<Wish>,
    deadline: Option<Instant>,
) -> Result<Permit, Status> {
    let wish = wish.into();
    loop {
        if let Some(permit) = Permit::try_new(&routed.version.cell) {
            return Ok(permit);
        }
        let permit = queue(worker, routed, wish, deadline).await?;
        cold::look_again(worker, routed)?;
        if routed.version.state == State::Ready {
            return Ok(permit);
        }
        drop(permit);
        cold::ready(worker, routed).await?;
    }
}

const EXPIRED: Refusal = Refusal {
    reason: Reason::Expired,
    room_in: Duration::ZERO,
};

async fn queue(
    worker: &Worker,
    routed: &Routed,
    wish: Wish,
    deadline: Option<Instant>,
) -> Result<Permit, Status> {
    let most = worker.limits().queue_per_model;
    let ask = Ask {
        rank: routed.version.rank(wish.priority),
        deadline,
        most: u32::try_from(most).unwrap_or(u32::MAX),
    };
    let outcome = match Place::take(&routed.version.cell, ask) {
        Ok(place) => {
            let _counted = Counted::start(worker, routed);
            match routed.version.longest_wait(wish.timeout) {
                None => place.await,
                Some(time) => timeout(time, place).await.unwrap_or(Err(EXPIRED)),
            }
        }
        Err(refusal) => Err(refusal),
    };
    outcome.map_err(|refusal| refused(worker, routed, refusal))
}

/// Count a refusal and put it in words.
fn refused(worker: &Worker, routed: &Routed, refusal: Refusal) -> Status {
    worker.with_counters(|_, counters| {
        let series = counters.of_version(&routed.model, &routed.version);
        series.rejected(refusal.reason);
    });
    let what = routed.what();
    let text = match refusal.reason {
        Reason::Full => {
            let most = worker.limits().queue_per_model;
            format!(
                "{what} is busy and {most} requests wait for it already (limits.queue_per_model)"
            )
        }
        Reason::Late => {
            format!("{what} is busy and would not answer before the deadline of this request")
        }
        // As Triton says it, whose policy this is.
        Reason::Expired => return Status::unavailable("Request timeout expired"),
        Reason::Displaced => {
            format!("{what} is busy and requests of higher priority took all places in its queue")
        }
    };
    // Not all at the same time again.
    let room_in = u64::try_from(refusal.room_in.as_millis()).unwrap_or(u64::MAX);
    let millis = u32::try_from(room_in.saturating_add(1)).unwrap_or(u32::MAX / 2);
    let spread = worker.draws.below(millis.div_ceil(2));
    Status::new(Code::ResourceExhausted, text).push_back(millis.saturating_add(spread))
}

pub(crate) fn too_late(routed: &Routed) -> Status {
    let text = format!("Deadline Exceeded in the queue of {}", routed.what());
    Status::new(Code::DeadlineExceeded, text)
}

/// A request in the queue; its time there is counted when it leaves.
struct Counted<'w> {
    worker: &'w Worker,
    model: Arc<Model>,
    version: Arc<Version>,
    since: Instant,
}

impl<'w> Counted<'w> {
    fn start(worker: &'w Worker, routed: &Routed) -> Self {
        // Those who wait show in the numbers of a version from its first number on.
        worker.with_counters(|_, counters| {
            counters.of_version(&routed.model, &routed.version);
        });
        Self {
            worker,
            model: Arc::clone(&routed.model),
            version: Arc::clone(&routed.version),
            since: Instant::now(),
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let waited = micros(self.since, Instant::now());
        self.worker.with_counters(|_, counters| {
            counters
                .of_version(&self.model, &self.version)
                .waited(waited);
        });
    }
}
