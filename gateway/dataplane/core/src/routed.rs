//! A request with the version that answers it, and its place in the counters.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use stagegate_table::{
    pick_for, Arm, Model, Pick, PickError, RefKind, Series, Version, PINNED, WHOLE,
};
use stagegate_wire::names::Names;

use crate::client::Failure;
use crate::sequences::{Asked, Hold, Place};
use crate::status::{Code, Status};
use crate::worker::Worker;

/// One request in the counters: in flight until it is dropped.
pub(crate) struct Count {
    series: Arc<Series>,
    started: Instant,
    ended: Option<(u8, Instant)>,
    /// The place of its sequence.
    hold: Option<Box<Hold>>,
}

impl Count {
    pub(crate) fn start(series: &Arc<Series>, started: Instant) -> Self {
        series.start();
        Self {
            series: Arc::clone(series),
            started,
            ended: None,
            hold: None,
        }
    }

    /// Keep the place of the request's sequence for as long as it runs.
    pub(crate) fn keep(&mut self, hold: Hold) {
        self.hold = Some(Box::new(hold));
    }

    /// The series that it counts in.
    pub(crate) fn series(&self) -> Arc<Series> {
        Arc::clone(&self.series)
    }

    /// It failed with that code, and another arm answers.
    pub(crate) fn fall_back(&mut self, code: u8, now: Instant) {
        self.series.fell_back(code);
        self.end(code, now);
    }

    /// How it ended, and when. Without this it counts as cancelled, or as internal where its task
    /// panicked.
    pub(crate) fn end(&mut self, code: u8, now: Instant) {
        self.ended = Some((code, now));
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let unset = if std::thread::panicking() {
            Code::Internal
        } else {
            Code::Cancelled
        };
        let (code, now) = self.ended.unwrap_or_else(|| (unset as u8, Instant::now()));
        self.series.finish(code, micros(self.started, now));
    }
}

/// From one time to another, in microseconds.
pub(crate) fn micros(start: Instant, end: Instant) -> u64 {
    u64::try_from(end.saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}

/// What a request was routed to.
#[derive(Clone)]
pub(crate) struct Routed {
    pub(crate) model: Arc<Model>,
    pub(crate) version: Arc<Version>,
    /// The arm, for the metadata of the answer.
    pub(crate) arm: HeaderValue,
    /// The sequence that it belongs to: such a request is never tried elsewhere, nor copied.
    pub(crate) sequence: Option<Place>,
    /// The one backend that may answer, known once a sequence has it.
    pub(crate) pinned_backend: Option<u32>,
}

/// A message of a stream, with its arm's name where it was drawn and the series that it counts in.
pub(crate) type RoutedMessage = (Routed, Option<Box<str>>, Arc<Series>);

impl Routed {
    pub(crate) fn new(pick: &Pick<'_>) -> Self {
        Self {
            model: Arc::clone(pick.model),
            version: Arc::clone(pick.version),
            arm: pick.arm_header(),
            sequence: None,
            pinned_backend: None,
        }
    }

    /// Ids of the backends that may answer.
    pub(crate) fn backends(&self) -> &[u32] {
        match &self.pinned_backend {
            Some(id) => std::slice::from_ref(id),
            None => &self.version.backends,
        }
    }

    /// Who answers where this arm fails with that gRPC code. What a client pinned answers for itself, and
    /// so does a sequence.
    pub(crate) fn instead(&self, code: u8) -> Option<Self> {
        let arm: &Arm = self.model.fallback_of(code)?;
        let is_other = self.arm != arm.header && self.arm != PINNED && self.sequence.is_none();
        is_other.then(|| Self {
            model: Arc::clone(&self.model),
            version: Arc::clone(self.model.arm_version(arm)),
            arm: arm.header.clone(),
            sequence: None,
            pinned_backend: None,
        })
    }

    /// A version that nobody was routed to.
    pub(crate) fn of_version(model: &Arc<Model>, version: &Arc<Version>) -> Self {
        Self {
            model: Arc::clone(model),
            version: Arc::clone(version),
            arm: HeaderValue::from_static(PINNED),
            sequence: None,
            pinned_backend: None,
        }
    }

    /// This version as a pick, for what is counted by version.
    pub(crate) fn pick(&self) -> Pick<'_> {
        Pick {
            model: &self.model,
            version: &self.version,
            arm: None,
            reference: RefKind::Version,
        }
    }

    /// What a text calls it.
    pub(crate) fn what(&self) -> String {
        format!("model '{}' version {}", self.model.name, self.version.id)
    }
}

impl Worker {
    /// Route an inference by its names and what else it says of itself, and count it; a refusal is counted here.
    pub(crate) fn route(
        &self,
        names: Names<'_>,
        headers: &HeaderMap,
        started: Instant,
    ) -> Result<(Routed, Count), Status> {
        match self.sequence_of(names) {
            None => self.route_alone(names, headers, started),
            Some(asked) => self.route_in_sequence(&asked, names, headers, started),
        }
    }

    fn route_in_sequence(
        &self,
        asked: &Asked<'_>,
        names: Names<'_>,
        headers: &HeaderMap,
        started: Instant,
    ) -> Result<(Routed, Count), Status> {
        if let Some(known) = self.continue_sequence(asked) {
            let mut count = Count::start(&known.series, started);
            if let Some(status) = known.lost {
                count.end(status.code, Instant::now());
                return Err(status);
            }
            count.keep(known.hold);
            return Ok((known.routed, count));
        }
        let (mut routed, mut count) = self.route_alone(names, headers, started)?;
        match self.begin_sequence(asked, &mut routed) {
            Ok(hold) => hold.into_iter().for_each(|hold| count.keep(hold)),
            Err(status) => {
                count.end(status.code, Instant::now());
                return Err(status);
            }
        }
        Ok((routed, count))
    }

    fn route_alone(
        &self,
        names: Names<'_>,
        headers: &HeaderMap,
        started: Instant,
    ) -> Result<(Routed, Count), Status> {
        self.with_counters(|table, counters| {
            match pick_for(table, names, headers, || self.draws.below(WHOLE)) {
                Ok((pick, _)) => Ok((
                    Routed::new(&pick),
                    Count::start(counters.series(&pick), started),
                )),
                Err(error) => {
                    Count::start(counters.refused(&error), started)
                        .end(error.code(), Instant::now());
                    Err(refusal(error))
                }
            }
        })
    }

    /// Route anything else by its names; only inferences are counted.
    pub(crate) fn resolve(&self, names: Names<'_>, headers: &HeaderMap) -> Result<Routed, Status> {
        self.with_table(
            |table| match pick_for(table, names, headers, || self.draws.below(WHOLE)) {
                Ok((pick, _)) => Ok(Routed::new(&pick)),
                Err(error) => Err(refusal(error)),
            },
        )
    }

    /// Route a message of a stream, with its arm's name and its series. A refusal counts where the
    /// message is the stream's `first`.
    pub(crate) fn route_message(
        &self,
        names: Names<'_>,
        headers: &HeaderMap,
        first: bool,
        started: Instant,
    ) -> Result<RoutedMessage, Status> {
        self.with_counters(|table, counters| {
            match pick_for(table, names, headers, || self.draws.below(WHOLE)) {
                Ok((pick, _)) => {
                    let arm = pick.arm.map(|arm| arm.name.clone());
                    Ok((Routed::new(&pick), arm, Arc::clone(counters.series(&pick))))
                }
                Err(error) => {
                    if first {
                        Count::start(counters.refused(&error), started)
                            .end(error.code(), Instant::now());
                    }
                    Err(refusal(error))
                }
            }
        })
    }

    /// Route by an earlier pick: the same arm of the same model, while it has weight.
    pub(crate) fn route_on_arm(&self, model: &str, arm: &str) -> Option<(Routed, Arc<Series>)> {
        self.with_counters(|table, counters| {
            let pick = Pick::on_arm(table, model, arm)?;
            Some((Routed::new(&pick), Arc::clone(counters.series(&pick))))
        })
    }

    /// Count a request that never named a model.
    pub(crate) fn count_nameless(&self, failure: &Failure, started: Instant) {
        self.with_counters(|_, counters| {
            let mut count = Count::start(counters.unknown(), started);
            if let Failure::Status(status) = failure {
                count.end(status.code, Instant::now());
            }
        });
    }
}

fn refusal(error: PickError) -> Status {
    Status {
        code: error.code(),
        message: error.message.into(),
        push_back: None,
    }
}
