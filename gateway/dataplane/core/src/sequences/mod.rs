//! Stateful sequences: the requests of one (model, `sequence_id`) stay on one version and one backend, from
//! the one that starts it to the one that ends it, or until it was idle for as long as Triton allows.

mod map;

use std::sync::Arc;
use std::time::Instant;

use stagegate_table::pick::named;
use stagegate_table::{Model, Pick, RefKind, Series, PINNED};
use stagegate_wire::names::Names;
use stagegate_wire::params::{Params, SequenceId};
use stagegate_wire::text::cut;

use crate::balance::NoChoice;
use crate::routed::Routed;
use crate::status::{Code, Status};
use crate::worker::Worker;

use map::{Begun, Key, Pin};
pub(crate) use map::{Hold, Place, Sequences};

/// Bytes of a sequence id that an error shows.
const SHOWN: usize = 80;

/// What a request says of its sequence.
pub(crate) struct Asked<'a> {
    key: Key,
    model: Arc<Model>,
    id: SequenceId<'a>,
    start: bool,
    end: bool,
}

/// A request of an open sequence, with the series that it counts in.
pub(crate) struct Continued {
    pub(crate) routed: Routed,
    pub(crate) series: Arc<Series>,
    pub(crate) hold: Hold,
    /// What to answer instead, where the place of its state is gone.
    pub(crate) lost: Option<Status>,
}

impl Worker {
    /// The sequence of a request, if it has one. Costs nothing where it has no parameters.
    pub(crate) fn sequence_of<'a>(&self, names: Names<'a>) -> Option<Asked<'a>> {
        if names.parameters.is_empty() {
            return None;
        }
        let params = Params::scan(names.parameters);
        let id = params.sequence?;
        self.with_table(|table| {
            let (model, reference) = named(table, names)?;
            Some(Asked {
                key: self.shared.sequences.key(&model.name, reference, id),
                model: Arc::clone(model),
                id,
                start: params.start,
                end: params.end,
            })
        })
    }

    /// Route a request of an open sequence to where that is. `None` for the first request of one, and for
    /// one that is not known: it goes as any other request does.
    pub(crate) fn continue_sequence(&self, asked: &Asked<'_>) -> Option<Continued> {
        if asked.start {
            return None;
        }
        let sequences = &self.shared.sequences;
        let (pin, hold) = sequences.find(asked.key, asked.end, Instant::now())?;
        let model = &asked.model;
        let today = model.version(&pin.version.id);
        let is_lost = match (today, pin.backend) {
            (None, _) => true,
            (Some(version), Some(backend)) => !version.backends.contains(&backend),
            (Some(_), None) => false,
        };
        let arm = pin.arm.as_ref().and_then(|name| model.arm(name));
        let pick = Pick {
            model,
            version: today.unwrap_or(&pin.version),
            arm: arm.filter(|arm| *model.arm_version(arm).id == *pin.version.id),
            reference: RefKind::Version,
        };
        let mut routed = Routed::new(&pick);
        routed.sequence = Some(hold.place());
        routed.pinned_backend = pin.backend;
        Some(Continued {
            series: self.with_counters(|_, counters| Arc::clone(counters.series(&pick))),
            lost: is_lost.then(|| lost(&routed, Some(asked.id))),
            routed,
            hold,
        })
    }

    /// Open the sequence of a request that starts one; its version is the one that the request got.
    pub(crate) fn begin_sequence(
        &self,
        asked: &Asked<'_>,
        routed: &mut Routed,
    ) -> Result<Option<Hold>, Status> {
        if !asked.start {
            return Ok(None);
        }
        let arm = routed.arm.to_str().ok().filter(|arm| *arm != PINNED);
        let pin = Pin {
            version: Arc::clone(&routed.version),
            arm: arm.map(Into::into),
            backend: None,
        };
        let sequences = &self.shared.sequences;
        match sequences.begin(asked.key, pin, asked.end, Instant::now()) {
            Begun::Open(hold, forgotten) => {
                if forgotten {
                    self.totals.sequence_forgotten();
                }
                routed.sequence = Some(hold.place());
                Ok(Some(hold))
            }
            Begun::Full => Err(Status::new(
                Code::ResourceExhausted,
                "too many sequences are open with requests on their way; try again later",
            )),
        }
    }

    /// Choose the one backend of a request's sequence, or find the one that was chosen. To be called when
    /// the version is ready.
    pub(crate) fn choose_for_sequence(&self, routed: &mut Routed) -> Result<(), Status> {
        let Some(place) = routed.sequence else {
            return Ok(());
        };
        let backends = &routed.version.backends;
        let id = match routed.pinned_backend {
            Some(id) => id,
            None => match self.choose(backends, Some(routed), &[]) {
                Ok(choice) => self.shared.sequences.backend_or(place, choice.backend),
                Err(NoChoice::Ejected) => return Err(self.all_ejected(routed, backends)),
                Err(NoChoice::Tried) => return Err(lost(routed, None)),
            },
        };
        if !backends.contains(&id) {
            return Err(lost(routed, None));
        }
        routed.pinned_backend = Some(id);
        Ok(())
    }
}

/// The state of a sequence is gone: only its client can make it again.
fn lost(routed: &Routed, id: Option<SequenceId<'_>>) -> Status {
    let id = match id {
        Some(SequenceId::Number(number)) => format!(" {}", number.cast_signed()),
        Some(SequenceId::Text(text)) => {
            format!(" '{}'", cut(&String::from_utf8_lossy(text), SHOWN))
        }
        None => String::new(),
    };
    let text = format!(
        "inference request for sequence{id} to model '{}': version {} no longer runs where the sequence \
         began, so its state is lost; begin a new sequence with the START flag",
        routed.model.name, routed.version.id
    );
    Status::new(Code::FailedPrecondition, text)
}
